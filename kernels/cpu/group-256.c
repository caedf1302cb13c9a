/* SPDX-License-Identifier: MIT */
/* Blocks of 256 weights with scaled sub-blocks, sixteen rows side by side (group.h), on AVX-512 with VNNI. */

#include "group-256.h"
#include "tile.h"

ALWAYS_INLINE const uint8_t *x_bytes(const struct dot_job *job, uint32_t t, uint32_t i) {
        return (const uint8_t *) job->x[t] + (size_t) i * 256;
}

/* The sums of each 32 values as eight words. */
ALWAYS_INLINE __m512i sums_32(const void *x, uint32_t cols, uint32_t i) {
        __m256i pairs = _mm256_madd_epi16(load256(q8_256_sums(x, cols) + i * 16), _mm256_set1_epi16(1));

        return all_quarters(_mm256_cvtepi32_epi16(pairs));
}

/* One block of 16 rows of Q4_K or Q5_K. Four rows' scales are unpacked at once; so that they come to lie in the order of
 * the rows these are q, q + 4, q + 8 and q + 12. */
ALWAYS_INLINE void block_q45_k(const struct dot_job *job, const struct group *g, uint32_t t, int N, uint32_t i,
                               size_t block_bytes, __m512i (*values)(const uint8_t *block, int v), __m512 acc[4]) {
        size_t at = i * block_bytes;
        __m512i part[4][4], min[4][4], head[4], sums[4], words;
        __m512 d, dmin;

        UNROLL for (int n = 0; n < N; n++) sums[n] = sums_32(job->x[t + n], job->cols, i);
        UNROLL for (int q = 0; q < 4; q++) {
                __m512i dot[4][4], scales, mins;

                group_fetch(g, at, block_bytes, q, 4);
                head[q] = quarters(load128(g->row[q] + at), load128(g->row[q + 4] + at), load128(g->row[q + 8] + at),
                                   load128(g->row[q + 12] + at));
                scales = q4_k_scales(head[q]);
                mins = _mm512_shuffle_epi8(scales, q4_k_min_words());
                UNROLL for (int n = 0; n < N; n++) min[n][q] = _mm512_madd_epi16(mins, sums[n]);
                UNROLL for (int l = 0; l < 4; l++) {
                        __m512i row_scales = spread_quarter(scales, l);

                        UNROLL for (int n = 0; n < N; n++) dot[n][l] = _mm512_setzero_si512();
                        UNROLL for (int v = 0; v < 4; v++) {
                                __m512i w = values(g->row[q + 4 * l] + at, v);
                                __m512i scale = _mm512_shuffle_epi8(row_scales, q4_k_scale_words(v));

                                UNROLL for (int n = 0; n < N; n++) dot[n][l] = _mm512_dpwssd_epi32(
                                        dot[n][l],
                                        _mm512_maddubs_epi16(w, load512(x_bytes(job, t + n, i) + 64 * v)), scale);
                        }
                }
                UNROLL for (int n = 0; n < N; n++) part[n][q] = quarter_sums(dot[n]);
        }
        words = _mm512_unpacklo_epi64(_mm512_unpacklo_epi32(head[0], head[1]),
                                      _mm512_unpacklo_epi32(head[2], head[3]));
        d = low_halves(words);
        dmin = high_halves(words);
        UNROLL for (int n = 0; n < N; n++) {
                __m512i low = pair_sums(part[n][0], part[n][1]), high = pair_sums(part[n][2], part[n][3]);
                __m512 dy = _mm512_set1_ps(q8_256_scales(job->x[t + n], job->cols)[i]);

                acc[n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(transpose_quarters(pair_sums(low, high))), d * dy, acc[n]);
                acc[n] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(quarter_sums(min[n])), dmin * dy, acc[n]);
        }
}

#define DOT_Q45_K(_name)                                                                                     \
        ALWAYS_INLINE void step_##_name(const struct dot_job *job, const struct group *g, uint32_t t, int N, \
                                        __m512 acc[4]) {                                                     \
                for (uint32_t i = 0; i < job->cols / 256; i++)                                               \
                        block_q45_k(job, g, t, N, i, sizeof(struct block_##_name), values_##_name, acc);     \
        }                                                                                                    \
        GROUP_WALK(dot_##_name##_avx512, step_##_name)

DOT_Q45_K(q4_k)
DOT_Q45_K(q5_k)

/* One block of one row of Q6_K: the values are unsigned here; -32 × scale × Σ y makes up for it. */
ALWAYS_INLINE void row_q6_k(const struct dot_job *job, const uint8_t *block, uint32_t t, int N, uint32_t i,
                            __m512i dot[4]) {
        __m256i scales = scales_q6_k(block), offset = _mm256_mullo_epi16(scales, _mm256_set1_epi16(-32));

        UNROLL for (int n = 0; n < N; n++) dot[n] = _mm512_zextsi256_si512(
                _mm256_madd_epi16(offset, load256(q8_256_sums(job->x[t + n], job->cols) + i * 16)));
        UNROLL for (int v = 0; v < 4; v++) {
                __m512i w = values_q6_k(block, v), scale = spread_scales(scales, v);

                UNROLL for (int n = 0; n < N; n++) dot[n] = _mm512_dpwssd_epi32(
                        dot[n], _mm512_maddubs_epi16(w, load512(x_bytes(job, t + n, i) + 64 * v)), scale);
        }
}

/* Magnitudes as the unsigned side of the product, the signs given to the activations: two products of 127 × 127 fit
 * into 16 bits. */
ALWAYS_INLINE void row_iq4_xs(const struct dot_job *job, const uint8_t *block, uint32_t t, int N, uint32_t i,
                              __m512i dot[4]) {
        const __m512i magnitudes =
                all_quarters(_mm_setr_epi8(127, 104, 83, 65, 49, 35, 22, 10, 1, 13, 25, 38, 53, 69, 89, 113));
        __m256i scales = scales_iq4_xs(block);

        UNROLL for (int n = 0; n < N; n++) dot[n] = _mm512_setzero_si512();
        UNROLL for (int v = 0; v < 4; v++) {
                __m512i codes = codes_iq4_xs(block, v), w = _mm512_shuffle_epi8(magnitudes, codes);
                __m512i scale = spread_scales(scales, v);
                __mmask64 negative = _mm512_testn_epi8_mask(codes, _mm512_set1_epi8(8));

                UNROLL for (int n = 0; n < N; n++) {
                        __m512i y = load512(x_bytes(job, t + n, i) + 64 * v);

                        y = _mm512_mask_sub_epi8(y, negative, _mm512_setzero_si512(), y);
                        dot[n] = _mm512_dpwssd_epi32(dot[n], _mm512_maddubs_epi16(w, y), scale);
                }
        }
}

typedef void row_256_fn(const struct dot_job *job, const uint8_t *block, uint32_t t, int N, uint32_t i, __m512i dot[4]);

/* One block of 16 rows of a format without mins. */
ALWAYS_INLINE void block_256(const struct dot_job *job, const struct group *g, uint32_t t, int N, uint32_t i,
                             size_t block_bytes, row_256_fn *row, __m512 d, __m512 acc[4]) {
        size_t at = i * block_bytes;
        __m512i part[4][4];

        UNROLL for (int q = 0; q < 4; q++) {
                __m512i dot[4][4], rows[4][4];

                group_fetch(g, at, block_bytes, q, 4);
                UNROLL for (int l = 0; l < 4; l++) {
                        row(job, g->row[4 * q + l] + at, t, N, i, rows[l]);
                        UNROLL for (int n = 0; n < N; n++) dot[n][l] = rows[l][n];
                }
                UNROLL for (int n = 0; n < N; n++) part[n][q] = quarter_sums(dot[n]);
        }
        UNROLL for (int n = 0; n < N; n++) {
                __m512i low = pair_sums(part[n][0], part[n][1]), high = pair_sums(part[n][2], part[n][3]);
                __m512 dy = _mm512_set1_ps(q8_256_scales(job->x[t + n], job->cols)[i]);

                acc[n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(pair_sums(low, high)), d * dy, acc[n]);
        }
}

ALWAYS_INLINE void step_q6_k(const struct dot_job *job, const struct group *g, uint32_t t, int N, __m512 acc[4]) {
        const size_t bytes = sizeof(struct block_q6_k);

        /* d is the last thing in a block. */
        for (uint32_t i = 0; i < job->cols / 256; i++)
                block_256(job, g, t, N, i, bytes, row_q6_k, high_halves(group_words(g, (i + 1) * bytes - 4)), acc);
}

ALWAYS_INLINE void step_iq4_xs(const struct dot_job *job, const struct group *g, uint32_t t, int N, __m512 acc[4]) {
        const size_t bytes = sizeof(struct block_iq4_xs);

        for (uint32_t i = 0; i < job->cols / 256; i++)
                block_256(job, g, t, N, i, bytes, row_iq4_xs, low_halves(group_words(g, i * bytes)), acc);
}

GROUP_WALK(dot_q6_k_avx512, step_q6_k)
GROUP_WALK(dot_iq4_xs_avx512, step_iq4_xs)
