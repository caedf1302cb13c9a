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
 * the order of the rows. A quarter adds up its row alone, and whole numbers go through few instructions: VNNI adds
 * eight products of a sub-block to a dword, and what they come to is multiplied by the sub-block's scale at once. */
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

/* Sub-block j (32 values) of activation row t times w, which has 32 values of each row: in each dword eight
 * products. */
ALWAYS_INLINE __m512i dot_32(const struct dot_job *job, uint32_t t, uint32_t i, int j, const __m512i w[2]) {
        const uint8_t *x = x_bytes(job, t, i) + 32 * j;

        return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), w[0], all_quarters(load128(x))), w[1],
                                   all_quarters(load128(x + 16)));
}

/* Constant: functions that take one are inlined for it. */
struct format_q45_k {
        size_t block_bytes, q, qh; /* where in a block they begin; qh: 0 where there is none */
        int deep;                  /* dwords whose products, added up, still fit into a word */
        /* Sub-blocks 2 v and 2 v + 1 of four rows, as they lie in the same bytes. */
        void (*four)(const struct group *g, int q, size_t at, int v, __m512i ret[2][2]);
        /* Values of sub-block `sub` of all rows from the bytes that it shares with another; `top` are those at qh. */
        __m512i (*all)(__m512i bytes, __m512i top, int sub);
};

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

/* One block of 16 rows of Q4_K or Q5_K, with up to four activation rows: eight products come to at most 8 × 31 × 128,
 * so that they fit into a word. */
ALWAYS_INLINE void block_few_q45_k(const struct dot_job *job, const struct group *g, uint32_t t, int N, uint32_t i,
                                   struct format_q45_k f, __m512 acc[4]) {
        size_t at = i * f.block_bytes;
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

                        group_fetch_row(g, at, f.block_bytes, 4 * q + v);
                        f.four(g, q, at, v, w);
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

/* Sixteen rows, dword by dword: each dword of a vector is a row's, in their order. A row's sums are added up in its
 * dword alone, so that nothing is left to add up across a vector, and an activation row costs a vector little beside
 * its products: VNNI adds as many of a sub-block to a dword as fit into a word, to be multiplied by the sub-block's
 * scale. */

/* Dword k of each quarter of v[i] changes places with dword i of that quarter of v[k]. */
ALWAYS_INLINE void transpose_quarters(__m512i v[4]) {
        __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
        __m512i c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);

        v[0] = _mm512_unpacklo_epi64(a, c);
        v[1] = _mm512_unpackhi_epi64(a, c);
        v[2] = _mm512_unpacklo_epi64(b, d);
        v[3] = _mm512_unpackhi_epi64(b, d);
}

/* Dword k of the 32 bytes from `at` of all rows. */
ALWAYS_INLINE void all_rows(const struct group *g, size_t at, __m512i ret[8]) {
        __m512i v[8];

        UNROLL for (int i = 0; i < 8; i++) {
                int row = i / 4 * 8 + i % 4;

                v[i] = halves(load256(g->row[row] + at), load256(g->row[row + 4] + at));
        }
        transpose_quarters(v);
        transpose_quarters(v + 4);
        UNROLL for (int k = 0; k < 4; k++) {
                ret[k] = _mm512_shuffle_i32x4(v[k], v[k + 4], 0x88);
                ret[k + 4] = _mm512_shuffle_i32x4(v[k], v[k + 4], 0xdd);
        }
}

/* d and dmin, and the scales and mins as bytes, four to a dword (block.h: q4_k_scale_min). */
struct head_q45_k {
        __m512i words, scales[2], mins[2];
};

ALWAYS_INLINE struct head_q45_k head_q45_k(const struct group *g, size_t at) {
        const __m512i six = _mm512_set1_epi8(0x3f), four = _mm512_set1_epi8(0x0f), top = _mm512_set1_epi8(0x30);
        __m512i v[4];

        UNROLL for (int q = 0; q < 4; q++) v[q] = four_heads(g, q, at);
        transpose_quarters(v);
        return (struct head_q45_k) {
                .words = v[0],
                .scales = {_mm512_and_si512(v[1], six),
                           _mm512_ternarylogic_epi32(_mm512_and_si512(v[3], four), _mm512_srli_epi32(v[1], 2), top,
                                                     0xf8)},
                .mins = {_mm512_and_si512(v[2], six),
                         _mm512_ternarylogic_epi32(_mm512_and_si512(_mm512_srli_epi32(v[3], 4), four),
                                                   _mm512_srli_epi32(v[2], 2), top, 0xf8)},
        };
}

/* Byte j of each dword as its low word (the high one becomes 0), or as both. */
ALWAYS_INLINE __m512i low_word_of(__m512i v, int j) {
        const int b = (int) 0x80808000 | j;

        return _mm512_shuffle_epi8(v, all_quarters(_mm_setr_epi32(b, b + 4, b + 8, b + 12)));
}

ALWAYS_INLINE __m512i both_words_of(__m512i v, int j) {
        const int b = (int) 0x80008000 | j << 16 | j;

        return _mm512_shuffle_epi8(v, all_quarters(_mm_setr_epi32(b, b + 0x40004, b + 0x80008, b + 0xc000c)));
}

/* Four bytes in all dwords. */
ALWAYS_INLINE __m512i all_dwords(const void *p) {
        int32_t v;

        memcpy(&v, p, sizeof(v));
        return _mm512_set1_epi32(v);
}

/* Sub-block `sub` of 16 rows times N activation rows. */
ALWAYS_INLINE void sub_block_q45_k(const struct dot_job *job, const struct group *g, uint32_t t, int N, uint32_t i,
                                   int sub, __m512i scale, const __m512i bytes[8], const __m512i top[8],
                                   struct format_q45_k f, __m512i dot[8]) {
        UNROLL for (int from = 0; from < 8; from += f.deep) {
                __m512i sum[8];

                if (from % 4 == 0)
                        group_fetch_row(g, i * f.block_bytes, f.block_bytes, 2 * sub + from / 4);
                UNROLL for (int n = 0; n < N; n++) sum[n] = _mm512_setzero_si512();
                UNROLL for (int k = from; k < from + f.deep; k++) {
                        __m512i w = f.all(bytes[k], f.qh ? top[k] : bytes[k], sub);

                        UNROLL for (int n = 0; n < N; n++) sum[n] = _mm512_dpbusd_epi32(
                                sum[n], w, all_dwords(x_bytes(job, t + n, i) + 32 * sub + 4 * k));
                }
                UNROLL for (int n = 0; n < N; n++) dot[n] = _mm512_dpwssd_epi32(dot[n], sum[n], scale);
        }
}

/* One block of 16 rows of Q4_K or Q5_K, with five to eight activation rows. */
ALWAYS_INLINE void block_q45_k(const struct dot_job *job, const struct group *g, uint32_t t, int N, uint32_t i,
                               struct format_q45_k f, __m512 acc[8]) {
        size_t at = i * f.block_bytes;
        struct head_q45_k head = head_q45_k(g, at);
        __m512i dot[8], min[8], top[8];
        __m512 d = low_halves(head.words), dmin = high_halves(head.words);

        if (f.qh)
                all_rows(g, at + f.qh, top);
        UNROLL for (int n = 0; n < N; n++) dot[n] = min[n] = _mm512_setzero_si512();
        UNROLL for (int j = 0; j < 8; j++) {
                __m512i m = both_words_of(head.mins[j / 4], j % 4);

                UNROLL for (int n = 0; n < N; n++) min[n] = _mm512_dpwssd_epi32(
                        min[n], m, all_dwords(q8_256_sums(job->x[t + n], job->cols) + i * 16 + 2 * j));
        }
        UNROLL for (int v = 0; v < 4; v++) {
                __m512i bytes[8];

                all_rows(g, at + f.q + 32 * v, bytes);
                UNROLL for (int sub = 2 * v; sub < 2 * v + 2; sub++)
                        sub_block_q45_k(job, g, t, N, i, sub, low_word_of(head.scales[sub / 4], sub % 4), bytes, top, f,
                                        dot);
        }
        UNROLL for (int n = 0; n < N; n++) {
                __m512 dy = _mm512_set1_ps(q8_256_scales(job->x[t + n], job->cols)[i]);

                acc[n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[n]), d * dy, acc[n]);
                acc[n] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(min[n]), dmin * dy, acc[n]);
        }
}

ALWAYS_INLINE __m512i all_q4_k(__m512i bytes, __m512i top, int sub) {
        return nibbles_at(bytes, sub % 2);
}

ALWAYS_INLINE __m512i all_q5_k(__m512i bytes, __m512i top, int sub) {
        __mmask64 set = _mm512_test_epi8_mask(top, _mm512_set1_epi8((char) (1 << sub)));
        __m512i low = nibbles_at(bytes, sub % 2);

        return _mm512_mask_add_epi8(low, set, low, _mm512_set1_epi8(16));
}

ALWAYS_INLINE struct format_q45_k format_q4_k(void) {
        return (struct format_q45_k) {
                .block_bytes = sizeof(struct block_q4_k),
                .q = offsetof(struct block_q4_k, q),
                .deep = 4,
                .four = four_q4_k,
                .all = all_q4_k,
        };
}

ALWAYS_INLINE struct format_q45_k format_q5_k(void) {
        return (struct format_q45_k) {
                .block_bytes = sizeof(struct block_q5_k),
                .q = offsetof(struct block_q5_k, q),
                .qh = offsetof(struct block_q5_k, qh),
                .deep = 2,
                .four = four_q5_k,
                .all = all_q5_k,
        };
}

/* Activation rows t to t + _N - 1, more than four. */
#define MORE_Q45_K(_name, _N)                                                                                \
        static __attribute__((noinline)) void more_##_name##_##_N(const struct dot_job *job,                 \
                                                                  const struct group *g, uint32_t row,       \
                                                                  uint32_t t) {                              \
                __m512 acc[8];                                                                               \
                                                                                                             \
                UNROLL for (int n = 0; n < _N; n++) acc[n] = _mm512_setzero_ps();                            \
                for (uint32_t i = 0; i < job->cols / 256; i++)                                               \
                        block_q45_k(job, g, t, _N, i, format_##_name(), acc);                                \
                UNROLL for (int n = 0; n < _N; n++) group_store(job, g, row, t + n, acc[n]);                 \
        }

/* More than four rows are computed by functions of their own: in one with the others, gcc makes those slower. */
#define DOT_Q45_K(_name)                                                                                     \
        ALWAYS_INLINE void step_##_name(const struct dot_job *job, const struct group *g, uint32_t t, int N, \
                                        __m512 acc[4]) {                                                     \
                for (uint32_t i = 0; i < job->cols / 256; i++)                                               \
                        block_few_q45_k(job, g, t, N, i, format_##_name(), acc);                             \
        }                                                                                                    \
        MORE_Q45_K(_name, 5)                                                                                 \
        MORE_Q45_K(_name, 6)                                                                                 \
        MORE_Q45_K(_name, 7)                                                                                 \
        MORE_Q45_K(_name, 8)                                                                                 \
                                                                                                             \
        static uint32_t more_##_name(const struct dot_job *job, struct group *g, uint32_t row) {             \
                static void (*const more[])(const struct dot_job *, const struct group *, uint32_t, uint32_t) = { \
                        more_##_name##_5, more_##_name##_6, more_##_name##_7, more_##_name##_8,              \
                };                                                                                           \
                uint32_t t = 0, n;                                                                           \
                                                                                                             \
                for (; job->n - t > 4; t += n) {                                                             \
                        n = MIN(job->n - t, 8U);                                                             \
                        more[n - 5](job, g, row, t);                                                         \
                        g->ahead = NULL;                                                                     \
                }                                                                                            \
                return t;                                                                                    \
        }                                                                                                    \
        GROUP_WALK_AFTER(more_##_name, dot_##_name##_avx512, step_##_name)

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
                                __m512i w[2] = {levels_iq4(nibbles_at(bytes[k], 0)),
                                                levels_iq4(nibbles_at(bytes[k], 1))};
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
