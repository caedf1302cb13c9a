/* SPDX-License-Identifier: MIT */
/* Compiled once per instruction set: products of quantised weights with 8-bit activations, by the dot products of
 * ARMv8.2 (sdot), and by the matrix products of ARMv8.6 (smmla) on top for pairs of activation rows.
 *
 * Four weight rows go side by side. A block's integers are exact in whatever order they are added; the blocks of a row
 * are added as float32 in rising order with one rounding each, as the definition does (ref_dot). So a result has the
 * same bits in every tile, and with either instruction. */

#include <arm_neon.h>

#include "base/util.h"
#include "block.h"
#include "machine.h"
#include "quant-whole.h"
#include "unroll.h"
#include "variant.h"

enum {
        QUAD = 4,   /* weight rows */
#if defined(__ARM_FEATURE_MATMUL_INT8)
        TILE = 4, /* most activation rows whose sums stay in registers */
#else
        TILE = 2,
#endif
        SLICE = 64, /* activation rows that stay in the cache while all weight rows pass */
};

/* Up to three of the rows may be missing: the last one stands in for them, and what comes out is not stored. */
struct quad {
        const uint8_t *row[QUAD];
        uint32_t first, there;
};

static struct quad quad_at(const struct dot_job *job, uint32_t row) {
        struct quad q = {.first = row, .there = MIN(job->end - row, (uint32_t) QUAD)};

        for (uint32_t r = 0; r < QUAD; r++)
                q.row[r] = job->w + (row + MIN(r, q.there - 1)) * job->row_bytes;
        return q;
}

/* Products of the quad's rows with those of a tile, not yet added up: acc[n][r]. A matrix product instead has
 * rows 2 h and 2 h + 1 with activation rows n and n + 1 in acc[n][h], n even. */
typedef int32x4_t products[TILE][QUAD];

#if defined(__ARM_FEATURE_MATMUL_INT8)

#define NEON_NAME(_name) _name##_i8mm

ALWAYS_INLINE bool in_pairs(int N) {
        return N % 2 == 0;
}

/* The halves of two vectors side by side: what a matrix product takes of two rows. */
ALWAYS_INLINE int8x16_t both(int8x16_t a, int8x16_t b, int half) {
        int64x2_t x = vreinterpretq_s64_s8(a), y = vreinterpretq_s64_s8(b);

        return vreinterpretq_s8_s64(half ? vzip2q_s64(x, y) : vzip1q_s64(x, y));
}

ALWAYS_INLINE void add_pairs(products acc, int h, int8x16_t q[2][2], int from, int V, int32x4_t scale,
                             const int8_t *const x[TILE], int N) {
        int32x4_t scales = h ? vzip2q_s32(scale, scale) : vzip1q_s32(scale, scale);

        UNROLL for (int n = 0; n < N; n += 2) {
                int32x4_t dot = vdupq_n_s32(0);

                UNROLL for (int k = 0; k < 2 * V; k++) {
                        int v = from + k / 2;
                        int8x16_t a = vld1q_s8(x[n] + 16 * v), b = vld1q_s8(x[n + 1] + 16 * v);

                        dot = vmmlaq_s32(dot, both(q[0][v], q[1][v], k % 2), both(a, b, k % 2));
                }
                acc[n][h] += dot * scales;
        }
}

/* The sums for activation row n, a lane for each weight row. */
ALWAYS_INLINE int32x4_t collect_pairs(products acc, int n) {
        return n % 2 ? vuzp2q_s32(acc[n - 1][0], acc[n - 1][1]) : vuzp1q_s32(acc[n][0], acc[n][1]);
}

#else

#define NEON_NAME(_name) _name##_neon

ALWAYS_INLINE bool in_pairs(int N) {
        return false;
}

ALWAYS_INLINE void add_pairs(products acc, int h, int8x16_t q[2][2], int from, int V, int32x4_t scale,
                             const int8_t *const x[TILE], int N) {
}

ALWAYS_INLINE int32x4_t collect_pairs(products acc, int n) {
        return vdupq_n_s32(0);
}

#endif

/* scale[r] × (vectors `from` to `from + V - 1` of row r) · (the same of x[n]), for all n and the rows r of half h of
 * the quad, whose 32 values q are. */
ALWAYS_INLINE void add_products(products acc, int h, int8x16_t q[2][2], int from, int V, int32x4_t scale,
                                const int8_t *const x[TILE], int N) {
        if (in_pairs(N)) {
                add_pairs(acc, h, q, from, V, scale, x, N);
                return;
        }
        UNROLL for (int r = 0; r < 2; r++) UNROLL for (int n = 0; n < N; n++) {
                int32x4_t dot = vdupq_n_s32(0);

                UNROLL for (int v = from; v < from + V; v++) dot = vdotq_s32(dot, q[r][v], vld1q_s8(x[n] + 16 * v));
                acc[n][2 * h + r] += dot * scale[2 * h + r];
        }
}

ALWAYS_INLINE int32x4_t collect(products acc, int n, int N) {
        if (in_pairs(N))
                return collect_pairs(acc, n);
        return vpaddq_s32(vpaddq_s32(acc[n][0], acc[n][1]), vpaddq_s32(acc[n][2], acc[n][3]));
}

#define ZERO(_acc, _N)                                                                                       \
        UNROLL for (int _n = 0; _n < (_N); _n++) UNROLL for (int _r = 0; _r < QUAD; _r++)(_acc)[_n][_r] =    \
                vdupq_n_s32(0)

/* _tile(…, t, N) for all activation rows, N of them from each t on; N is a constant. */
#define TILES(_from, _to, _tile, ...)                                                                        \
        do {                                                                                                 \
                uint32_t _t = (_from);                                                                       \
                                                                                                             \
                for (; TILE > 2 && _t + TILE <= (_to); _t += TILE)                                           \
                        _tile(__VA_ARGS__, _t, TILE);                                                        \
                for (; _t + 2 <= (_to); _t += 2)                                                             \
                        _tile(__VA_ARGS__, _t, 2);                                                           \
                if (_t < (_to))                                                                              \
                        _tile(__VA_ARGS__, _t, 1);                                                           \
        } while (0)

ALWAYS_INLINE void store(const struct dot_job *job, const struct quad *rows, uint32_t t, float32x4_t sum) {
        float y[QUAD];

        vst1q_f32(y, sum);
        for (uint32_t r = 0; r < rows->there; r++)
                dot_store(job, t, rows->first + r, y[r]);
}

/* A type's kernel: `_step(job, rows, i, t, N, sum)` adds block i of the rows' products with activation rows t to
 * t + N - 1 to sum[N]. */
#define DOT_NEON(_name, _step, _values)                                                                      \
        ALWAYS_INLINE void _step##_tile(const struct dot_job *job, const struct quad *rows, uint32_t t, int N) { \
                float32x4_t sum[TILE];                                                                       \
                                                                                                             \
                UNROLL for (int n = 0; n < N; n++) sum[n] = vdupq_n_f32(0.0f);                               \
                for (uint32_t i = 0; i < job->cols / (_values); i++)                                         \
                        _step(job, rows, i, t, N, sum);                                                      \
                UNROLL for (int n = 0; n < N; n++) store(job, rows, t + (uint32_t) n, sum[n]);               \
        }                                                                                                    \
                                                                                                             \
        static void _name(const struct dot_job *job) {                                                       \
                for (uint32_t from = 0; from < job->n; from += SLICE) {                                      \
                        uint32_t to = MIN(from + SLICE, job->n);                                             \
                                                                                                             \
                        for (uint32_t row = job->begin; row < job->end; row += QUAD) {                       \
                                struct quad rows = quad_at(job, row);                                        \
                                                                                                             \
                                TILES(from, to, _step##_tile, job, &rows);                                   \
                        }                                                                                    \
                }                                                                                            \
        }

/* Four half-precision numbers. */
ALWAYS_INLINE float32x4_t halves(uint16x4_t h) {
        return vcvt_f32_f16(vreinterpret_f16_u16(h));
}

/* --- Blocks of 32 ------------------------------------------------------------------------------------------ */

/* Block i of all rows, as whole numbers and the scales that go with them, times activation rows. */
ALWAYS_INLINE void multiply_32(const struct dot_job *job, int8x16_t q[QUAD][2], float32x4_t d, uint32_t i, uint32_t t,
                               int N, float32x4_t *sum) {
        const int8_t *x[TILE];
        products acc;

        ZERO(acc, N);
        UNROLL for (int n = 0; n < N; n++) x[n] = (const int8_t *) job->x[t + (uint32_t) n] + (size_t) i * 32;
        UNROLL for (int h = 0; h < 2; h++) add_products(acc, h, q + 2 * h, 0, 2, vdupq_n_s32(1), x, N);
        UNROLL for (int n = 0; n < N; n++) {
                float dy = q8_32_scales(job->x[t + (uint32_t) n], job->cols)[i];

                sum[n] = vfmaq_f32(sum[n], vcvtq_f32_s32(collect(acc, n, N)), vmulq_n_f32(d, dy));
        }
}

ALWAYS_INLINE void step_q8_0(const struct dot_job *job, const struct quad *rows, uint32_t i, uint32_t t, int N,
                             float32x4_t *sum) {
        const struct block_q8_0 *b[QUAD];
        int8x16_t q[QUAD][2];

        UNROLL for (int r = 0; r < QUAD; r++) {
                b[r] = (const struct block_q8_0 *) rows->row[r] + i;
                q[r][0] = vld1q_s8(b[r]->q);
                q[r][1] = vld1q_s8(b[r]->q + 16);
        }
        multiply_32(job, q, halves((uint16x4_t){b[0]->d, b[1]->d, b[2]->d, b[3]->d}), i, t, N, sum);
}

DOT_NEON(dot_q8_0, step_q8_0, 32)

/* --- Blocks of 256 ----------------------------------------------------------------------------------------- */

/* What goes with the values of a block, a lane for each row. A scale is that of 16 or 32 values. */
struct lanes {
        float32x4_t d, dmin;
        int32x4_t scale[16], min[16];
};

/* Values 32 g to 32 g + 31 of a block. */
typedef void values_fn(int8x16_t q[2], const void *block, int g);

/* Sixteen bytes of each row as words: word k of row r in lane r of w[k]. */
ALWAYS_INLINE void transpose(uint32x4_t w[4], const void *a, const void *b, const void *c, const void *d) {
        uint32x4_t ab[2], cd[2], r[QUAD] = {
                vreinterpretq_u32_u8(vld1q_u8(a)), vreinterpretq_u32_u8(vld1q_u8(b)),
                vreinterpretq_u32_u8(vld1q_u8(c)), vreinterpretq_u32_u8(vld1q_u8(d)),
        };

        ab[0] = vzip1q_u32(r[0], r[1]);
        ab[1] = vzip2q_u32(r[0], r[1]);
        cd[0] = vzip1q_u32(r[2], r[3]);
        cd[1] = vzip2q_u32(r[2], r[3]);
        UNROLL for (int k = 0; k < 2; k++) {
                uint64x2_t x = vreinterpretq_u64_u32(ab[k]), y = vreinterpretq_u64_u32(cd[k]);

                w[2 * k] = vreinterpretq_u32_u64(vzip1q_u64(x, y));
                w[2 * k + 1] = vreinterpretq_u32_u64(vzip2q_u64(x, y));
        }
}

/* The four signed bytes of each word. */
ALWAYS_INLINE void spread(int32x4_t dst[4], uint32x4_t w) {
        int32x4_t s = vreinterpretq_s32_u32(w);

        dst[0] = vshrq_n_s32(vshlq_n_s32(s, 24), 24);
        dst[1] = vshrq_n_s32(vshlq_n_s32(s, 16), 24);
        dst[2] = vshrq_n_s32(vshlq_n_s32(s, 8), 24);
        dst[3] = vshrq_n_s32(s, 24);
}

/* `per`: how many values share a scale. Without mins. */
ALWAYS_INLINE void multiply_256(const struct dot_job *job, const struct lanes *l, const void *const block[QUAD],
                                values_fn *values, int per, uint32_t i, uint32_t t, int N, float32x4_t *sum) {
        const int8_t *x[TILE];
        products acc;

        ZERO(acc, N);
        UNROLL for (int n = 0; n < N; n++) x[n] = (const int8_t *) job->x[t + (uint32_t) n] + (size_t) i * 256;
        UNROLL for (int g = 0; g < 8; g++) {
                UNROLL for (int h = 0; h < 2; h++) {
                        int8x16_t q[2][2];

                        values(q[0], block[2 * h], g);
                        values(q[1], block[2 * h + 1], g);
                        UNROLL for (int s = 0; s < 32 / per; s++)
                                add_products(acc, h, q, s, per / 16, l->scale[g * 32 / per + s], x, N);
                }
                UNROLL for (int n = 0; n < N; n++) x[n] += 32;
        }
        UNROLL for (int n = 0; n < N; n++) {
                float dy = q8_256_scales(job->x[t + (uint32_t) n], job->cols)[i];

                sum[n] = vfmaq_f32(sum[n], vcvtq_f32_s32(collect(acc, n, N)), vmulq_n_f32(l->d, dy));
        }
}

/* The mins times the sums of as many of the activations, for activation row t. */
ALWAYS_INLINE float32x4_t subtract_mins(const struct dot_job *job, const struct lanes *l, int per, uint32_t i,
                                        uint32_t t, float32x4_t sum) {
        const int16_t *sums = q8_256_sums(job->x[t], job->cols) + i * 16;
        float32x4_t d = vmulq_n_f32(l->dmin, q8_256_scales(job->x[t], job->cols)[i]);
        int32x4_t dot = vdupq_n_s32(0);

        UNROLL for (int k = 0; k < 2; k++) {
                int16x8_t s = vld1q_s16(sums + 8 * k);

                if (per == 32) {
                        int32x4_t pairs = vpaddlq_s16(s);

                        UNROLL for (int j = 0; j < 4; j++) dot += l->min[4 * k + j] * pairs[j];
                } else {
                        UNROLL for (int j = 0; j < 8; j++) dot += l->min[8 * k + j] * (int32_t) s[j];
                }
        }
        return vfmsq_f32(sum, vcvtq_f32_s32(dot), d);
}

/* A Q4_K block begins with d, dmin and twelve bytes of scales and mins (block.h: q4_k_scale_min). */
ALWAYS_INLINE void q4_k_lanes(struct lanes *l, const void *const block[QUAD]) {
        const uint32x4_t six = vdupq_n_u32(0x3f3f3f3f), low = vdupq_n_u32(0x0f0f0f0f), top = vdupq_n_u32(0x30303030);
        uint32x4_t w[4];

        transpose(w, block[0], block[1], block[2], block[3]);
        l->d = halves(vmovn_u32(w[0]));
        l->dmin = halves(vshrn_n_u32(w[0], 16));
        spread(l->scale, w[1] & six);
        spread(l->scale + 4, (w[3] & low) | (vshrq_n_u32(w[1], 2) & top));
        spread(l->min, w[2] & six);
        spread(l->min + 4, (vshrq_n_u32(w[3], 4) & low) | (vshrq_n_u32(w[2], 2) & top));
}

ALWAYS_INLINE void q4_k_values(int8x16_t q[2], const void *block, int g) {
        const struct block_q4_k *b = block;

        UNROLL for (int v = 0; v < 2; v++) {
                uint8x16_t bytes = vld1q_u8(b->q + g / 2 * 32 + 16 * v);

                q[v] = vreinterpretq_s8_u8(g % 2 ? vshrq_n_u8(bytes, 4) : bytes & vdupq_n_u8(15));
        }
}

ALWAYS_INLINE void step_q4_k(const struct dot_job *job, const struct quad *rows, uint32_t i, uint32_t t, int N,
                             float32x4_t *sum) {
        const void *b[QUAD];
        struct lanes l;

        UNROLL for (int r = 0; r < QUAD; r++) b[r] = (const struct block_q4_k *) rows->row[r] + i;
        q4_k_lanes(&l, b);
        multiply_256(job, &l, b, q4_k_values, 32, i, t, N, sum);
        UNROLL for (int n = 0; n < N; n++) sum[n] = subtract_mins(job, &l, 32, i, t + (uint32_t) n, sum[n]);
}

DOT_NEON(dot_q4_k, step_q4_k, 256)

/* As block.h: q6_k_unpack, minus 32. */
ALWAYS_INLINE void q6_k_values(int8x16_t q[2], const void *block, int g) {
        const struct block_q6_k *b = block;

        UNROLL for (int v = 0; v < 2; v++) {
                uint8x16_t low = vld1q_u8(b->ql + g / 4 * 64 + g % 2 * 32 + 16 * v);
                uint8x16_t high = vld1q_u8(b->qh + g / 4 * 32 + 16 * v);

                low = g % 4 < 2 ? low & vdupq_n_u8(15) : vshrq_n_u8(low, 4);
                high = g % 4 == 0   ? vshlq_n_u8(high, 4)
                       : g % 4 == 1 ? vshlq_n_u8(high, 2)
                       : g % 4 == 2 ? high
                                    : vshrq_n_u8(high, 2);
                q[v] = vreinterpretq_s8_u8(low | (high & vdupq_n_u8(0x30))) - vdupq_n_s8(32);
        }
}

ALWAYS_INLINE void step_q6_k(const struct dot_job *job, const struct quad *rows, uint32_t i, uint32_t t, int N,
                             float32x4_t *sum) {
        const struct block_q6_k *b[QUAD];
        struct lanes l;
        uint32x4_t w[4];

        UNROLL for (int r = 0; r < QUAD; r++) b[r] = (const struct block_q6_k *) rows->row[r] + i;
        transpose(w, b[0]->scales, b[1]->scales, b[2]->scales, b[3]->scales);
        UNROLL for (int k = 0; k < 4; k++) spread(l.scale + 4 * k, w[k]);
        l.d = halves((uint16x4_t){b[0]->d, b[1]->d, b[2]->d, b[3]->d});
        multiply_256(job, &l, (const void *[]){b[0], b[1], b[2], b[3]}, q6_k_values, 16, i, t, N, sum);
}

DOT_NEON(dot_q6_k, step_q6_k, 256)

/* --- Any type: each block unpacked first, for all activation rows of a slice ---------------------------------- */

ALWAYS_INLINE void whole_tile_32(const struct dot_job *job, const struct quant_whole_32 w[QUAD], uint32_t i,
                                 float32x4_t *sum, uint32_t from, uint32_t t, int N) {
        float32x4_t d = {w[0].d, w[1].d, w[2].d, w[3].d}, m = {w[0].m, w[1].m, w[2].m, w[3].m};
        int8x16_t q[QUAD][2];

        UNROLL for (int r = 0; r < QUAD; r++) UNROLL for (int v = 0; v < 2; v++) q[r][v] = vld1q_s8(w[r].q + 16 * v);
        multiply_32(job, q, d, i, t, N, sum + (t - from));
        UNROLL for (int n = 0; n < N; n++) {
                const void *x = job->x[t + (uint32_t) n];
                float all = q8_32_sums(x, job->cols)[i];

                sum[t - from + (uint32_t) n] = vfmaq_n_f32(sum[t - from + (uint32_t) n],
                                                           vmulq_n_f32(m, q8_32_scales(x, job->cols)[i]), all);
        }
}

ALWAYS_INLINE void whole_values(int8x16_t q[2], const void *block, int g) {
        const struct quant_whole_256 *w = block;

        q[0] = vld1q_s8(w->q + 32 * g);
        q[1] = vld1q_s8(w->q + 32 * g + 16);
}

static void whole_lanes(struct lanes *l, const struct quant_whole_256 w[QUAD]) {
        uint32x4_t scales[4], mins[4];

        transpose(scales, w[0].scales, w[1].scales, w[2].scales, w[3].scales);
        transpose(mins, w[0].mins, w[1].mins, w[2].mins, w[3].mins);
        for (int k = 0; k < 4; k++) {
                spread(l->scale + 4 * k, scales[k]);
                spread(l->min + 4 * k, mins[k]);
        }
        l->d = (float32x4_t){w[0].d, w[1].d, w[2].d, w[3].d};
        l->dmin = (float32x4_t){w[0].dmin, w[1].dmin, w[2].dmin, w[3].dmin};
}

ALWAYS_INLINE void whole_tile_256(const struct dot_job *job, const struct quant_whole_256 w[QUAD],
                                  const struct lanes *l, uint32_t i, float32x4_t *sum, uint32_t from, uint32_t t,
                                  int N) {
        const void *b[QUAD] = {&w[0], &w[1], &w[2], &w[3]};

        sum += t - from;
        multiply_256(job, l, b, whole_values, 16, i, t, N, sum);
        UNROLL for (int n = 0; n < N; n++) sum[n] = subtract_mins(job, l, 16, i, t + (uint32_t) n, sum[n]);
}

static void whole_rows_32(const struct dot_job *job, enum quant_type type, const struct quad *rows, uint32_t from,
                          uint32_t to, float32x4_t *sum) {
        size_t bytes = quant_info(type)->block_bytes;
        struct quant_whole_32 w[QUAD];

        for (uint32_t i = 0; i < job->cols / 32; i++) {
                for (int r = 0; r < QUAD; r++)
                        quant_whole_32(type)(&w[r], rows->row[r] + i * bytes);
                TILES(from, to, whole_tile_32, job, w, i, sum, from);
        }
}

static void whole_rows_256(const struct dot_job *job, enum quant_type type, const struct quad *rows, uint32_t from,
                           uint32_t to, float32x4_t *sum) {
        size_t bytes = quant_info(type)->block_bytes;
        struct quant_whole_256 w[QUAD];
        struct lanes l;

        for (uint32_t i = 0; i < job->cols / 256; i++) {
                for (int r = 0; r < QUAD; r++)
                        quant_whole_256(type)(&w[r], rows->row[r] + i * bytes);
                whole_lanes(&l, w);
                TILES(from, to, whole_tile_256, job, w, &l, i, sum, from);
        }
}

static void dot_whole(const struct dot_job *job, enum quant_type type) {
        for (uint32_t from = 0; from < job->n; from += SLICE)
                for (uint32_t row = job->begin; row < job->end; row += QUAD) {
                        struct quad rows = quad_at(job, row);
                        uint32_t to = MIN(from + SLICE, job->n);
                        float32x4_t sum[SLICE] = {0};

                        if (dot_input(type) == DOT_Q8_32)
                                whole_rows_32(job, type, &rows, from, to, sum);
                        else
                                whole_rows_256(job, type, &rows, from, to, sum);
                        for (uint32_t t = from; t < to; t++)
                                store(job, &rows, t, sum[t - from]);
                }
}

const struct cpu_variant NEON_NAME(cpu_variant) = {
#if defined(__ARM_FEATURE_MATMUL_INT8)
        .name = "i8mm",
        .needs = CPU_DOTPROD | CPU_I8MM,
#else
        .name = "neon",
        .needs = CPU_DOTPROD,
#endif
        ROWS_MEMBERS_C,
        .dot_whole = dot_whole,
        .dot =
                {
                        DOT_MEMBERS_C,
                        [QUANT_Q8_0] = dot_q8_0,
                        [QUANT_Q4_K] = dot_q4_k,
                        [QUANT_Q6_K] = dot_q6_k,
                },
};
