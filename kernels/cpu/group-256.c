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

/* Four rows side by side, each in a quarter: q, q + 4, q + 8 and q + 12, so that the sums of all sixteen come to lie in
 * the order of the rows. A quarter adds up its row alone, and whole numbers go through few instructions: VNNI adds eight
 * products of a sub-block to a dword, and what they come to is multiplied by the sub-block's scale at once. */
ALWAYS_INLINE __m512i four_heads(const struct group *g, int q, size_t at) {
        return quarters(load128(g->row[q] + at), load128(g->row[q + 4] + at), load128(g->row[q + 8] + at),
                        load128(g->row[q + 12] + at));
}

/* The 32 bytes from `at` of each of the four rows. */
ALWAYS_INLINE void four_rows(const struct group *g, int q, size_t at, __m512i ret[2]) {
        __m512i a = halves(load256(g->row[q] + at), load256(g->row[q + 4] + at));
        __m512i b = halves(load256(g->row[q + 8] + at), load256(g->row[q + 12] + at));

        ret[0] = _mm512_shuffle_i32x4(a, b, 0x88);
        ret[1] = _mm512_shuffle_i32x4(a, b, 0xdd);
}

ALWAYS_INLINE __m512i nibbles_at(__m512i bytes, int shift) {
        return _mm512_and_si512(shift ? _mm512_srli_epi16(bytes, 4) : bytes, _mm512_set1_epi8(15));
}

/* Sub-block j (32 values) of activation row t times w, which has 32 values of each row: in each dword eight products. */
ALWAYS_INLINE __m512i dot_32(const struct dot_job *job, uint32_t t, uint32_t i, int j, const __m512i w[2]) {
        const uint8_t *x = x_bytes(job, t, i) + 32 * j;

        return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), w[0], all_quarters(load128(x))), w[1],
                                   all_quarters(load128(x + 16)));
}

/* Sub-blocks 2 v and 2 v + 1 of Q4_K, as they lie in the same bytes. */
ALWAYS_INLINE void four_q4_k(const struct group *g, int q, size_t at, int v, __m512i ret[2][2]) {
        __m512i bytes[2];

        four_rows(g, q, at + offsetof(struct block_q4_k, q) + 32 * v, bytes);
        UNROLL for (int k = 0; k < 4; k++) ret[k / 2][k % 2] = nibbles_at(bytes[k % 2], k / 2);
}

ALWAYS_INLINE void four_q5_k(const struct group *g, int q, size_t at, int v, __m512i ret[2][2]) {
        __m512i bytes[2], top[2];

        four_rows(g, q, at + offsetof(struct block_q5_k, q) + 32 * v, bytes);
        four_rows(g, q, at + offsetof(struct block_q5_k, qh), top);
        UNROLL for (int k = 0; k < 4; k++) {
                __mmask64 set = _mm512_test_epi8_mask(top[k % 2], _mm512_set1_epi8((char) (1 << (2 * v + k / 2))));
                __m512i low = nibbles_at(bytes[k % 2], k / 2);

                ret[k / 2][k % 2] = _mm512_mask_add_epi8(low, set, low, _mm512_set1_epi8(16));
        }
}

typedef void four_fn(const struct group *g, int q, size_t at, int v, __m512i ret[2][2]);

/* One block of 16 rows of Q4_K or Q5_K: eight products come to at most 8 × 31 × 128, so that they fit into a word. */
ALWAYS_INLINE void block_q45_k(const struct dot_job *job, const struct group *g, uint32_t t, int N, uint32_t i,
                               size_t block_bytes, four_fn *values, __m512 acc[4]) {
        size_t at = i * block_bytes;
        __m512i dot[4][4], min[4][4], head[4], sums[4], words;
        __m512 d, dmin;

        UNROLL for (int n = 0; n < N; n++) sums[n] = sums_32(job->x[t + n], job->cols, i);
        UNROLL for (int q = 0; q < 4; q++) {
                __m512i scales, mins;

                head[q] = four_heads(g, q, at);
                scales = q4_k_scales(head[q]);
                mins = _mm512_shuffle_epi8(scales, q4_k_min_words());
                UNROLL for (int n = 0; n < N; n++) {
                        min[n][q] = _mm512_madd_epi16(mins, sums[n]);
                        dot[n][q] = _mm512_setzero_si512();
                }
                UNROLL for (int v = 0; v < 4; v++) {
                        __m512i w[2][2];

                        group_fetch_row(g, at, block_bytes, 4 * q + v);
                        values(g, q, at, v, w);
                        UNROLL for (int k = 0; k < 2; k++) {
                                __m512i scale = _mm512_shuffle_epi8(scales, q4_k_scale_dwords(2 * v + k));

                                UNROLL for (int n = 0; n < N; n++) dot[n][q] = _mm512_dpwssd_epi32(
                                        dot[n][q], dot_32(job, t + n, i, 2 * v + k, w[k]), scale);
                        }
                }
        }
        words = _mm512_unpacklo_epi64(_mm512_unpacklo_epi32(head[0], head[1]),
                                      _mm512_unpacklo_epi32(head[2], head[3]));
        d = low_halves(words);
        dmin = high_halves(words);
        UNROLL for (int n = 0; n < N; n++) {
                __m512 dy = _mm512_set1_ps(q8_256_scales(job->x[t + n], job->cols)[i]);

                acc[n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(quarter_sums(dot[n])), d * dy, acc[n]);
                acc[n] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(quarter_sums(min[n])), dmin * dy, acc[n]);
        }
}

#define DOT_Q45_K(_name)                                                                                     \
        ALWAYS_INLINE void step_##_name(const struct dot_job *job, const struct group *g, uint32_t t, int N, \
                                        __m512 acc[4]) {                                                     \
                for (uint32_t i = 0; i < job->cols / 256; i++)                                               \
                        block_q45_k(job, g, t, N, i, sizeof(struct block_##_name), four_##_name, acc);     \
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

typedef void row_256_fn(const struct dot_job *job, const uint8_t *block, uint32_t t, int N, uint32_t i, __m512i dot[4]);

/* One block of 16 rows of a format without mins. */
ALWAYS_INLINE void block_256(const struct dot_job *job, const struct group *g, uint32_t t, int N, uint32_t i,
                             size_t block_bytes, row_256_fn *row, __m512 d, __m512 acc[4]) {
        size_t at = i * block_bytes;
        __m512i part[4][4];

        UNROLL for (int q = 0; q < 4; q++) {
                __m512i dot[4][4], rows[4][4];

                UNROLL for (int l = 0; l < 4; l++) {
                        group_fetch_row(g, at, block_bytes, 4 * q + l);
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

/* Levels are unsigned here; -127 × scale × Σ y makes up for it. */
ALWAYS_INLINE void block_iq4_xs(const struct dot_job *job, const struct group *g, uint32_t t, int N, uint32_t i,
                                __m512 acc[4]) {
        const size_t at = i * sizeof(struct block_iq4_xs);
        __m512i dot[4][4], offset[4][4], head[4], sums[4], words;
        __m512 d;

        UNROLL for (int n = 0; n < N; n++) sums[n] = sums_32(job->x[t + n], job->cols, i);
        UNROLL for (int q = 0; q < 4; q++) {
                __m512i scales;

                head[q] = four_heads(g, q, at);
                scales = iq4_xs_scales(head[q]);
                UNROLL for (int n = 0; n < N; n++) {
                        offset[n][q] = _mm512_madd_epi16(scales, sums[n]);
                        dot[n][q] = _mm512_setzero_si512();
                }
                UNROLL for (int v = 0; v < 4; v++) {
                        __m512i bytes[2];

                        group_fetch_row(g, at, sizeof(struct block_iq4_xs), 4 * q + v);
                        four_rows(g, q, at + offsetof(struct block_iq4_xs, q) + 32 * v, bytes);
                        UNROLL for (int k = 0; k < 2; k++) {
                                __m512i w[2] = {levels_iq4(nibbles_at(bytes[k], 0)), levels_iq4(nibbles_at(bytes[k], 1))};
                                __m512i scale = iq4_xs_scale_dwords(scales, 2 * v + k);

                                UNROLL for (int n = 0; n < N; n++) dot[n][q] = _mm512_add_epi32(
                                        dot[n][q],
                                        _mm512_mullo_epi32(dot_32(job, t + n, i, 2 * v + k, w), scale));
                        }
                }
        }
        words = _mm512_unpacklo_epi64(_mm512_unpacklo_epi32(head[0], head[1]),
                                      _mm512_unpacklo_epi32(head[2], head[3]));
        d = low_halves(words);
        UNROLL for (int n = 0; n < N; n++) {
                __m512 dy = _mm512_set1_ps(q8_256_scales(job->x[t + n], job->cols)[i]);
                __m512i too_much = _mm512_mullo_epi32(quarter_sums(offset[n]), _mm512_set1_epi32(127));

                acc[n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(quarter_sums(dot[n]), too_much)), d * dy,
                                         acc[n]);
        }
}

ALWAYS_INLINE void step_iq4_xs(const struct dot_job *job, const struct group *g, uint32_t t, int N, __m512 acc[4]) {
        for (uint32_t i = 0; i < job->cols / 256; i++)
                block_iq4_xs(job, g, t, N, i, acc);
}

GROUP_WALK(dot_q6_k_avx512, step_q6_k)
GROUP_WALK(dot_iq4_xs_avx512, step_iq4_xs)
