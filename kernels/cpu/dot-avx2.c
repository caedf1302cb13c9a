/* SPDX-License-Identifier: MIT */
/* Dot products of quantised weights with 8-bit activations on AVX2 (lanes-dot.h), four activation rows at a time.
 * Integer sums are exact, and the blocks of a row are added as float32 in rising order with one rounding each: results
 * have the bits of the definition (ref_dot). */

#define LANE_MANY 4
#include "lanes-dot.h"
#include "machine.h"

/* The mins' part of a block of 256. */
ALWAYS_INLINE __m256i sum_mins(const struct lanes *lanes, int half, const int16_t *sums, struct format f) {
        const __m256i parts = _mm256_castsi128_si256(sums_of_parts(sums));
        __m256i less = _mm256_setzero_si256();

        UNROLL for (int j = 0; j < LANE_PARTS; j++) {
                const __m256i two = f.p.scale == 32 ? _mm256_permutevar8x32_epi32(parts, _mm256_set1_epi32(j))
                                                    : four_at(sums, j);

                if (2 * j * f.p.scale < LANE_COLS)
                        less = _mm256_add_epi32(less, _mm256_madd_epi16(lanes->mins[j][half], two));
        }
        return less;
}

/* Adds a block's products with activation row n to the sum; of blocks of 32 those of number i. */
ALWAYS_INLINE __m256 add_block(__m256 sum, const struct lanes *lanes, int half, __m256i dot, const struct inputs *x,
                               int n, uint32_t i, struct format f) {
        const __m256 d = _mm256_set1_ps(x->d[n][i]);
        __m256i less = f.mins ? sum_mins(lanes, half, x->sums[n], f) : _mm256_set1_epi32(f.zero * x->sums[n][i]);

        if (f.mins == WHOLE_MINS || f.zero)
                dot = _mm256_sub_epi32(dot, less);
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), lanes->d[i][half] * d, sum);
        if (f.mins == OWN_MINS)
                sum = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(less), lanes->m[0][half] * d, sum);
        if (f.m)
                sum = _mm256_fmadd_ps(_mm256_set1_ps(x->sums[n][i]), lanes->m[i][half] * d, sum);
        return sum;
}

ALWAYS_INLINE void multiply(const struct lanes *lanes, const struct inputs *x, uint32_t parts, const char *ahead,
                            float (*sums)[LANE_ROWS], int N, struct format f) {
        const int fours = (int) f.p.scale / 4, every = (int) (f.p.cols / f.p.scale);
        const __m256i (*q)[HALVES] = lanes->q;
        __m256i dot[4][HALVES];
        const uint8_t *y[4];

        UNROLL for (int n = 0; n < N; n++) y[n] = x->q[n];
        for (int i = 0; i < (int) (parts * 32 / f.p.scale); i++, q += fours) {
                __m256i some[4][HALVES];

                if (ahead)
                        fetch_lines(ahead + FETCH_LINES * 64 * i, FETCH_LINES);
                if (i % every == 0)
                        UNROLL for (int n = 0; n < N; n++) dot[n][0] = dot[n][1] = _mm256_setzero_si256();
                UNROLL for (int k = 0; k < fours; k++) UNROLL for (int n = 0; n < N; n++) {
                        const __m256i four = four_at(y[n], k);

                        UNROLL for (int h = 0; h < HALVES; h++)
                                add_products(&dot[n][h], &some[n][h], q[k][h], four, k,
                                             scale_at(&lanes->scales[i][h], 0, f.p), f.p);
                }
                UNROLL for (int n = 0; n < N; n++) y[n] += f.p.scale;
                if (i % every < every - 1)
                        continue;
                UNROLL for (int n = 0; n < N; n++) UNROLL for (int h = 0; h < HALVES; h++) {
                        float *sum = sums[n] + h * LANES;

                        _mm256_store_ps(sum, add_block(_mm256_load_ps(sum), lanes, h, dot[n][h], x, n,
                                                       (uint32_t) (i / every), f));
                }
        }
}

/* Unpacks columns and multiplies them on the way. */
ALWAYS_INLINE void multiply_few(struct lanes *lanes, const struct columns *c, const struct inputs *x,
                                float (*sums)[LANE_ROWS], struct format f) {
        const int pieces = (int) (c->parts * 32 / f.piece), every = (int) (f.p.cols / f.piece);

        for (int half = 0; half < HALVES; half++) {
                struct lanes_half h = half_at(lanes, c, half);

                EACH_OF_FEW(n, f.p) h.x[n] = x->q[n];
                if (f.head)
                        f.head(&h, f.p);
                for (int i = 0; i < pieces; i++) {
                        if (i % every == 0)
                                EACH_OF_FEW(n, f.p) h.dot[n] = _mm256_setzero_si256();
                        unpack_piece(&h, i, f);
                        if (i % every < every - 1)
                                continue;
                        EACH_OF_FEW(n, f.p) {
                                float *sum = sums[n] + half * LANES;

                                _mm256_store_ps(sum, add_block(_mm256_load_ps(sum), lanes, half, h.dot[n], x, n,
                                                               (uint32_t) (i / every), f));
                        }
                }
                fetch_rest(&h, f);
        }
}

/* With the n activation rows from t on, which are all; few of them on the way. */
ALWAYS_INLINE void few_rows(const struct dot_job *job, const struct columns *c, uint32_t t, struct work *k, int N,
                            struct format f) {
        const struct inputs x = inputs_at(job, c->col, t, N, f);

        f.p.at_once = N;
        multiply_few(&k->lanes, c, &x, k->sums, f);
}

ALWAYS_INLINE void dot_columns(const struct dot_job *job, const struct columns *c, uint32_t t, uint32_t n,
                               struct work *k, struct format f) {
        switch (n) {
        case 1:
                few_rows(job, c, t, k, 1, f);
                return;
        case 2:
                few_rows(job, c, t, k, 2, f);
                return;
        case 3:
                few_rows(job, c, t, k, 3, f);
                return;
        case 4:
                few_rows(job, c, t, k, 4, f);
                return;
        }
        columns_unpacked(job, c, t, n, k, f);
}

/* A matrix that has fewer than sixteen rows is computed by the definition. */
ALWAYS_INLINE void dot_format(const struct dot_job *job, enum quant_type type, struct format f) {
        if (job->end < LANE_ROWS)
                dot_c(job, type);
        else
                dot_lanes(job, f);
}

#define DOT(_name, _type)                                                                                    \
        void dot_##_name##_avx2(const struct dot_job *job) {                                                 \
                dot_format(job, _type, format_##_name());                                                    \
        }

DOT(q8_0, QUANT_Q8_0)
DOT(q4_0, QUANT_Q4_0)
DOT(q4_1, QUANT_Q4_1)
DOT(q5_0, QUANT_Q5_0)
DOT(q5_1, QUANT_Q5_1)
DOT(iq4_nl, QUANT_IQ4_NL)
DOT(mxfp4, QUANT_MXFP4)
DOT(q2_k, QUANT_Q2_K)
DOT(q3_k, QUANT_Q3_K)
DOT(q4_k, QUANT_Q4_K)
DOT(q5_k, QUANT_Q5_K)
DOT(iq4_xs, QUANT_IQ4_XS)

void dot_q6_k_avx2(const struct dot_job *job) {
        if (job->n <= LANE_FEW)
                dot_q6_k_few_avx2(job);
        else
                dot_format(job, QUANT_Q6_K, format_q6_k());
}

const struct cpu_variant cpu_variant_avx2 = {
        .name = "avx2",
        .needs = CPU_AVX2,
        ROWS_MEMBERS(avx2),
        .attention = attention_avx2,
        .blend = blend_avx2,
        .dot =
                {
                        [QUANT_F32] = dot_f32_avx2,
                        [QUANT_F16] = dot_f16_avx2,
                        [QUANT_BF16] = dot_bf16_avx2,
                        [QUANT_Q8_0] = dot_q8_0_avx2,
                        [QUANT_Q4_0] = dot_q4_0_avx2,
                        [QUANT_Q4_1] = dot_q4_1_avx2,
                        [QUANT_Q5_0] = dot_q5_0_avx2,
                        [QUANT_Q5_1] = dot_q5_1_avx2,
                        [QUANT_IQ4_NL] = dot_iq4_nl_avx2,
                        [QUANT_MXFP4] = dot_mxfp4_avx2,
                        [QUANT_Q2_K] = dot_q2_k_avx2,
                        [QUANT_Q3_K] = dot_q3_k_avx2,
                        [QUANT_Q4_K] = dot_q4_k_avx2,
                        [QUANT_Q5_K] = dot_q5_k_avx2,
                        [QUANT_Q6_K] = dot_q6_k_avx2,
                        [QUANT_IQ4_XS] = dot_iq4_xs_avx2,
                },
};
