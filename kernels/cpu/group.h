/* SPDX-License-Identifier: MIT */
#pragma once

/* Sixteen weight rows side by side, each a lane of a vector: what the integer kernels of AVX-512 have in common.
 * A block's integers are exact in whatever order they are added; the blocks of a row are added as float32 in
 * rising order with one rounding each, as the definition does (ref_dot). So a result has the same bits in every
 * kernel, and a row may be computed by whichever is fastest for the company that it happens to have. */

#include "base/util.h"
#include "simd.h"
#include "variant.h"

enum { GROUP_ROWS = 16 };

/* Up to fifteen of the rows may be missing: the last one stands in for them, and what comes out is not stored. */
struct group {
        const uint8_t *row[GROUP_ROWS];
        size_t row_bytes;
        __m512i offset;    /* of each row from the first, in bytes */
        __mmask16 there;
        const char *ahead; /* the next group's rows, to be fetched while these are computed, or NULL */
};

/* Where the rows lie that will be read when `rows` rows from `row` on have been; NULL: not known. */
ALWAYS_INLINE const char *rows_ahead(const struct dot_job *job, uint32_t row, uint32_t rows) {
        if (row + rows + GROUP_ROWS <= job->end)
                return (const char *) job->w + (row + rows) * job->row_bytes;
        /* The job's last rows: on with what comes after it. */
        row = row + rows < job->end ? 0 : row + rows - job->end;
        return row + GROUP_ROWS <= job->next_rows ? (const char *) job->next + row * job->row_bytes : NULL;
}

/* `together`: rows that are computed before those ahead are. */
ALWAYS_INLINE struct group group_at(const struct dot_job *job, uint32_t row, uint32_t together) {
        const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        uint32_t rows = MIN(job->end - row, (uint32_t) GROUP_ROWS);
        struct group g = {.row_bytes = job->row_bytes, .there = (__mmask16) ((1U << rows) - 1)};

        for (uint32_t i = 0; i < GROUP_ROWS; i++)
                g.row[i] = job->w + (row + MIN(i, rows - 1)) * job->row_bytes;
        g.offset = _mm512_mullo_epi32(_mm512_min_epi32(lanes, _mm512_set1_epi32((int) rows - 1)),
                                      _mm512_set1_epi32((int) job->row_bytes));
        g.ahead = rows_ahead(job, row, together);
        return g;
}

/* Fetches what of the next group lies where this one has the `bytes` from `at` in each row, `part` of `parts` of it, to
 * the second cache: by rising addresses, for which memory is fastest, though the rows are then read side by side. (The
 * first cache can wait for fewer lines at a time than memory has on the way.) */
ALWAYS_INLINE void group_fetch(const struct group *g, size_t at, size_t bytes, unsigned part, unsigned parts) {
        size_t begin = GROUP_ROWS * bytes * part / parts, end = GROUP_ROWS * bytes * (part + 1) / parts;

        if (g->ahead)
                for (size_t i = (begin + 63) / 64 * 64; i < end; i += 64)
                        _mm_prefetch(g->ahead + GROUP_ROWS * at + i, _MM_HINT_T1);
}

/* The same as one part of sixteen; and to the first cache what follows these bytes in row `part`. A load that misses
 * there queues up behind all that is on its way from memory, and what has come in cannot be computed meanwhile: there
 * is no room for more instructions. Fetches leave that room at once. */
ALWAYS_INLINE void group_fetch_row(const struct group *g, size_t at, size_t bytes, unsigned part) {
        const char *next = g->ahead ? g->ahead + part * g->row_bytes : NULL;

        group_fetch(g, at, bytes, part, GROUP_ROWS);
        if (at + 2 * bytes <= g->row_bytes)
                next = (const char *) g->row[part] + at + bytes;
        if (next)
                for (size_t i = 0; i < bytes; i += 64)
                        _mm_prefetch(next + i, _MM_HINT_T0);
}

/* Four bytes from `at` of each row. */
ALWAYS_INLINE __m512i group_words(const struct group *g, size_t at) {
        return _mm512_i32gather_epi32(g->offset, g->row[0] + at, 1);
}

/* The half-precision number in the low 16 bits of each lane, and that in the high ones. */
ALWAYS_INLINE __m512 low_halves(__m512i v) {
        return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v));
}

ALWAYS_INLINE __m512 high_halves(__m512i v) {
        return low_halves(_mm512_srli_epi32(v, 16));
}

/* The end of the rows' products with activation row t: 16 outputs from `row` on. */
ALWAYS_INLINE void group_store(const struct dot_job *job, const struct group *g, uint32_t row, uint32_t t, __m512 v) {
        float *y = job->y[t] + row;

        if (job->bias)
                v = v + _mm512_maskz_loadu_ps(g->there, job->bias + row);
        if (job->scale)
                v = v * _mm512_set1_ps(job->scale[t]);
        if (job->accumulate)
                v = _mm512_maskz_loadu_ps(g->there, y) + v;
        _mm512_mask_storeu_ps(y, g->there, v);
}

static inline uint32_t group_none_before(const struct dot_job *job, struct group *g, uint32_t row) {
        return 0;
}

/* All groups of a job with all its activation rows, at most four at a time: `_step(job, group, t, N, acc)` adds
 * up 16 rows' products with activation rows t to t + N - 1 in acc[N] and is inlined for constant N. `_before(job,
 * group, row)` returns how many of the first activation rows it has computed for all that. */
#define GROUP_WALK(_name, _step) GROUP_WALK_AFTER(group_none_before, _name, _step)
#define GROUP_WALK_AFTER(_before, _name, _step)                                                              \
        ALWAYS_INLINE void _step##_rows(const struct dot_job *job, struct group *g, uint32_t row,            \
                                        uint32_t t, int N) {                                                 \
                __m512 acc[4];                                                                               \
                                                                                                             \
                UNROLL for (int n = 0; n < N; n++) acc[n] = _mm512_setzero_ps();                             \
                _step(job, g, t, N, acc);                                                                    \
                UNROLL for (int n = 0; n < N; n++) group_store(job, g, row, t + n, acc[n]);                  \
                g->ahead = NULL;                                                                             \
        }                                                                                                    \
                                                                                                             \
        void _name(const struct dot_job *job) {                                                              \
                for (uint32_t row = job->begin; row < job->end; row += GROUP_ROWS) {                         \
                        struct group g = group_at(job, row, GROUP_ROWS);                                     \
                        uint32_t t = _before(job, &g, row);                                                  \
                                                                                                             \
                        for (; t + 4 <= job->n; t += 4)                                                      \
                                _step##_rows(job, &g, row, t, 4);                                            \
                        if (job->n - t == 3)                                                                 \
                                _step##_rows(job, &g, row, t, 3);                                            \
                        else if (job->n - t == 2)                                                            \
                                _step##_rows(job, &g, row, t, 2);                                            \
                        else if (job->n - t == 1)                                                            \
                                _step##_rows(job, &g, row, t, 1);                                            \
                }                                                                                            \
        }

ALWAYS_INLINE __m512i load512(const void *p) {
        return _mm512_loadu_si512(p);
}

ALWAYS_INLINE __m256i load256(const void *p) {
        return _mm256_loadu_si256(p);
}

ALWAYS_INLINE __m128i load128(const void *p) {
        return _mm_loadu_si128(p);
}

/* Different 16 bytes, or the same, in each quarter. */
ALWAYS_INLINE __m512i quarters(__m128i a, __m128i b, __m128i c, __m128i d) {
        __m512i v = _mm512_inserti32x4(_mm512_castsi128_si512(a), b, 1);

        return _mm512_inserti32x4(_mm512_inserti32x4(v, c, 2), d, 3);
}

ALWAYS_INLINE __m512i all_quarters(__m128i v) {
        return _mm512_broadcast_i32x4(v);
}

/* Quarter `l` of v in each quarter. (clang wants to see the number that is in the instruction.) */
ALWAYS_INLINE __m512i spread_quarter(__m512i v, int l) {
        switch (l) {
        case 0:
                return _mm512_shuffle_i32x4(v, v, 0x00);
        case 1:
                return _mm512_shuffle_i32x4(v, v, 0x55);
        case 2:
                return _mm512_shuffle_i32x4(v, v, 0xaa);
        default:
                return _mm512_shuffle_i32x4(v, v, 0xff);
        }
}

ALWAYS_INLINE __m512i halves(__m256i low, __m256i high) {
        return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* In each quarter the sums of that quarter of v[0], v[1], v[2] and v[3]. */
ALWAYS_INLINE __m512i quarter_sums(const __m512i v[4]) {
        __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
        __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));

        return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* The sums of quarters 0 and 1 of a in quarter 0, of its 2 and 3 in 1, and of those of b in 2 and 3. */
ALWAYS_INLINE __m512i pair_sums(__m512i a, __m512i b) {
        return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

/* quant_levels_iq4 by code, plus 127. */
ALWAYS_INLINE __m512i levels_iq4(__m512i codes) {
        return _mm512_shuffle_epi8(all_quarters(_mm_setr_epi8(0, 23, 44, 62, 78, 92, 105, 117, (char) 128, (char) 140,
                                                              (char) 152, (char) 165, (char) 180, (char) 196,
                                                              (char) 216, (char) 240)),
                                   codes);
}
