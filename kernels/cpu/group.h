/* SPDX-License-Identifier: MIT */
#pragma once

/* Sixteen weight rows side by side, a lane of a vector each: what the integer kernels of AVX-512 have in common. A
 * block's integers are added up exactly, whatever the order; the blocks of a row are added as float32 in rising order
 * with one rounding each, as the definition does (ref_dot). So a result has the same bits in every kernel. */

#include "base/util.h"
#include "float16.h"
#include "simd.h"
#include "variant.h"

enum { GROUP_ROWS = 16 };

/* Fifteen of the rows may be missing: their pointers repeat the last one's, and what comes out for them is not stored. */
struct group {
        const uint8_t *row[GROUP_ROWS];
        __mmask16 there;
        const char *ahead; /* the next group's rows, to be fetched while these are computed, or NULL */
};

ALWAYS_INLINE struct group group_at(const struct dot_job *job, uint32_t row) {
        uint32_t rows = MIN(job->end - row, (uint32_t) GROUP_ROWS);
        struct group g = {.there = (__mmask16) ((1U << rows) - 1)};

        for (uint32_t i = 0; i < GROUP_ROWS; i++)
                g.row[i] = job->w + (row + MIN(i, rows - 1)) * job->row_bytes;
        if (row + 2 * GROUP_ROWS <= job->end)
                g.ahead = (const char *) g.row[0] + GROUP_ROWS * job->row_bytes;
        return g;
}

/* Fetches what the next group has where this one's `bytes` from `offset` in each row are: in rising addresses, for
 * which memory is fastest, though the rows are then read side by side. */
ALWAYS_INLINE void group_fetch(const struct group *g, size_t offset, size_t bytes) {
        if (g->ahead)
                for (size_t i = 0; i < GROUP_ROWS * bytes; i += 64)
                        _mm_prefetch(g->ahead + GROUP_ROWS * offset + i, _MM_HINT_T0);
}

/* The end of a row's product with activation row t: 16 outputs from `row` on. */
ALWAYS_INLINE void group_store(const struct dot_job *job, const struct group *g, uint32_t row, uint32_t t, __m512 v) {
        float *y = job->y[t] + row;

        if (job->bias)
                v = v + _mm512_maskz_loadu_ps(g->there, job->bias + row);
        if (job->accumulate)
                v = _mm512_maskz_loadu_ps(g->there, y) + v;
        _mm512_mask_storeu_ps(y, g->there, v);
}

/* In each quarter (of 128 bits) the sums of that quarter of v[0], v[1], v[2], v[3]. */
ALWAYS_INLINE __m512i quarter_sums(const __m512i v[4]) {
        __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
        __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));

        return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* Quarter i: the sum of the quarters of v[i]. */
ALWAYS_INLINE __m512i join_quarters(const __m512i v[4]) {
        __m512i a = _mm512_add_epi32(_mm512_shuffle_i32x4(v[0], v[1], 0x88), _mm512_shuffle_i32x4(v[0], v[1], 0xdd));
        __m512i b = _mm512_add_epi32(_mm512_shuffle_i32x4(v[2], v[3], 0x88), _mm512_shuffle_i32x4(v[2], v[3], 0xdd));

        return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

ALWAYS_INLINE __m512i load512(const void *p) {
        return _mm512_loadu_si512(p);
}

ALWAYS_INLINE __m256i load256(const void *p) {
        return _mm256_loadu_si256(p);
}

/* Sixteen bytes in each quarter. */
ALWAYS_INLINE __m512i load_quarters(const void *a, const void *b, const void *c, const void *d) {
        __m512i v = _mm512_castsi128_si512(_mm_loadu_si128(a));

        v = _mm512_inserti32x4(v, _mm_loadu_si128(b), 1);
        v = _mm512_inserti32x4(v, _mm_loadu_si128(c), 2);
        return _mm512_inserti32x4(v, _mm_loadu_si128(d), 3);
}
