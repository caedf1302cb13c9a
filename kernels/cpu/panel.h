/* SPDX-License-Identifier: MIT */
#pragma once

/* Activations for the matrix unit: panels of sixteen rows. Of the 8-bit forms a panel has the values of all blocks, in
 * each four neighbouring values of a row, then those of the next row; and after them, for each block, what it is scaled
 * with. Rows that are missing are zero, and so is what a last block lacks.
 *
 * The processor holds back a load that shares the low 12 bits of its address with a store before it that still waits
 * for its data, as the stores of tiles do for long. So values lie at addresses from which it follows with which stores
 * they can collide: panels are aligned to pages. */

#include "amx.h"
#include "base/util.h"
#include "ref.h"

enum { PANEL_ROWS = 16, PANEL_ALIGN = 4096 };

typedef int8_t panel_fours[PANEL_ROWS][4];

struct panel_32 {
        float d[PANEL_ROWS];
        float sums[PANEL_ROWS]; /* of the 32 values of q */
};

struct panel_256 {
        float d[PANEL_ROWS];
        int16_t sums[4][PANEL_ROWS][2]; /* of each 32 values of q */
};

enum { PANEL_HALF = PANEL_ROWS / 2 };

/* 32 values (at the end maybe fewer, then zeros) as the sum of two numbers of bfloat16: a tile for each half of the
 * rows, so that few rows need one, with two neighbouring values of a row, then those of the next row; first the larger
 * numbers of all eight rows, then the smaller ones. The second half is left out where no row is in it. */
struct panel_float {
        uint16_t halves[2][16][PANEL_ROWS][2];
};

/* 32 values rounded to one number, likewise, of all rows. */
typedef uint16_t panel_bf16[16][PANEL_ROWS][2];

/* Where the scales of a panel's blocks begin. */
static inline const void *panel_scales(enum dot_input form, const void *panel, uint32_t cols) {
        size_t block = form == DOT_Q8_256 ? 256 : 32;

        return (const char *) panel + DIV_ROUND_UP(cols, block) * block * PANEL_ROWS;
}

/* A multiple of PANEL_ALIGN. */
size_t panel_bytes(enum dot_input form, uint32_t cols);
/* Makes a panel of the n ≤ 16 rows x in the form; `panel` is aligned to PANEL_ALIGN. */
void panel_pack(enum dot_input form, void *panel, const void *const *x, uint32_t n, uint32_t cols);
/* cpu_variant.pack_columns: */
void panel_pack_columns(void *panel, const float *x, uint32_t at, uint32_t n, uint32_t cols);

ALWAYS_INLINE __m512 from_bf16(__m256i v) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
}

/* 32 numbers as the sum of two of bfloat16. */
ALWAYS_INLINE void split(__m512 a, __m512 b, __m512i *high, __m512i *low) {
        *high = to_bf16(a, b);
        *low = to_bf16(a - from_bf16(_mm512_castsi512_si256(*high)),
                       b - from_bf16(_mm512_extracti64x4_epi64(*high, 1)));
}

ALWAYS_INLINE void split_bf16(const float *values, uint16_t high[32], uint16_t low[32]) {
        __m512i h, l;

        split(_mm512_loadu_ps(values), _mm512_loadu_ps(values + 16), &h, &l);
        _mm512_storeu_si512(high, h);
        _mm512_storeu_si512(low, l);
}
