/* SPDX-License-Identifier: MIT */
/* Compiled once per instruction set (simd.h). A row's angles are computed once for all of its heads. */
#include <math.h>

#include "base/util.h"
#include "host.h"
#include "simd.h"
#include "tile.h"

/* The sine and cosine of an angle of at most this, within 2e-7. */
static const float ANGLE_MAX = 0x1p20f;

/* x = n pi / 2 + r. Up to ANGLE_MAX the first difference is exact: both sides are multiples of 2^-23 (or x is
 * small), and nearly equal. The second part of pi / 2 leaves an error of n × 2^-49. Polynomials for |r| ≤ pi
 * / 4: Cephes, sinf.c. */
ALWAYS_INLINE void sincos_of(vf x, vf *ret_sin, vf *ret_cos) {
        vf n = vf_round(x * vf_set(0x1.45f306p-1f));
        vf r = vf_fma(n, vf_set(0x1.777a5cp-25f), vf_fma(n, vf_set(-0x1.921fb6p+0f), x)), z = r * r;
        vf s = vf_fma(vf_fma(vf_set(-1.9515295891e-4f), z, vf_set(8.3321608736e-3f)), z,
                      vf_set(-1.6666654611e-1f));
        vf c = vf_fma(vf_fma(vf_set(2.443315711809948e-5f), z, vf_set(-1.388731625493765e-3f)), z,
                      vf_set(4.166664568298827e-2f));
        vi quadrant = vf_to_int(n);

        s = vf_fma(s * z, r, r);
        c = vf_fma(c * z, z, vf_fma(z, vf_set(-0.5f), vf_set(1.0f)));
        *ret_sin = vf_negate_by(quadrant, vf_by_parity(quadrant, c, s));
        /* The cosine is the sine a quadrant further. */
        *ret_cos = vf_negate_by(vf_to_int(n + vf_set(1.0f)), vf_by_parity(quadrant, s, c));
}

/* Of a row's pairs; with room for a whole vector past the last. */
struct turn {
        float cosines[ROPE_PAIRS_MAX + VF_LANES], sines[ROPE_PAIRS_MAX + VF_LANES];
};

/* Angles that no model needs, but a file may ask for. */
static void turn_far(struct turn *turn, const float *frequencies, float position, uint32_t pairs) {
        for (uint32_t i = 0; i < pairs; i++) {
                turn->cosines[i] = cosf(position * frequencies[i]);
                turn->sines[i] = sinf(position * frequencies[i]);
        }
}

static void turn_init(struct turn *turn, const struct op_rope *op, int32_t position) {
        const float *frequencies = host_address(op->frequencies);
        uint32_t pairs = op->dims / 2;
        vf largest = vf_zero(), to_cos = vf_set(op->magnitude),
           to_sin = vf_set(op->inverse ? -op->magnitude : op->magnitude);

        if (op->multiple)
                position -= position % (int32_t) op->multiple;
        for (uint32_t i = 0; i < pairs; i += VF_LANES) {
                vf angle = vf_set((float) position) *
                           vf_load_part(frequencies + i, MIN(pairs - i, (uint32_t) VF_LANES), vf_zero());
                vf s, c;

                largest = vf_max(vf_abs(angle), largest);
                sincos_of(angle, &s, &c);
                vf_store(turn->cosines + i, c);
                vf_store(turn->sines + i, s);
        }
        if (vf_largest(largest) > ANGLE_MAX)
                turn_far(turn, frequencies, (float) position, pairs);
        for (uint32_t i = 0; i < pairs; i += VF_LANES) {
                vf_store(turn->cosines + i, vf_load(turn->cosines + i) * to_cos);
                vf_store(turn->sines + i, vf_load(turn->sines + i) * to_sin);
        }
}

ALWAYS_INLINE void halves_part(float *x, const struct turn *turn, uint32_t pairs, uint32_t i, uint32_t n) {
        vf c = vf_load(turn->cosines + i), s = vf_load(turn->sines + i);
        vf u = vf_load_part(x + i, n, vf_zero()), v = vf_load_part(x + pairs + i, n, vf_zero());

        vf_store_part(x + i, vf_fma(u, c, vf_zero() - v * s), n);
        vf_store_part(x + pairs + i, vf_fma(u, s, v * c), n);
}

/* The same for neighbours: every cosine twice, every sine twice with opposite signs. */
struct turn_pairs {
        float cosines[2 * ROPE_PAIRS_MAX], sines[2 * ROPE_PAIRS_MAX];
};

static void turn_pairs_init(struct turn_pairs *pairs, const struct turn *turn, uint32_t n) {
        for (uint32_t i = 0; i < n; i++) {
                pairs->cosines[2 * i] = pairs->cosines[2 * i + 1] = turn->cosines[i];
                pairs->sines[2 * i] = -turn->sines[i];
                pairs->sines[2 * i + 1] = turn->sines[i];
        }
}

ALWAYS_INLINE void adjacent_part(float *x, const struct turn_pairs *pairs, uint32_t i, uint32_t n) {
        vf c = vf_load_part(pairs->cosines + i, n, vf_zero()),
           s = vf_load_part(pairs->sines + i, n, vf_zero());
        vf v = vf_load_part(x + i, n, vf_zero());

        vf_store_part(x + i, vf_fma(v, c, vf_swap_pairs(v) * s), n);
}

void SIMD_NAME(rope)(const struct op_rope *op, uint32_t begin, uint32_t end) {
        const int32_t *positions = host_address(op->positions);
        struct turn turn;
        struct turn_pairs pairs;

        for (uint32_t t = begin; t < end; t++) {
                float *x = (float *) host_address(op->x) + (size_t) t * op->stride + op->offset;

                turn_init(&turn, op, positions[t]);
                if (op->pairs == ROPE_ADJACENT)
                        turn_pairs_init(&pairs, &turn, op->dims / 2);
                for (uint32_t h = 0; h < op->heads; h++, x += op->head_dim)
                        if (op->pairs == ROPE_ADJACENT)
                                VF_PARTS(op->dims & ~1U, adjacent_part, x, &pairs);
                        else
                                VF_PARTS(op->dims / 2, halves_part, x, &turn, op->dims / 2);
        }
}
