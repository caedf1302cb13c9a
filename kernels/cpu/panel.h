/* SPDX-License-Identifier: MIT */
#pragma once

/* Activations for the matrix unit: panels of sixteen rows, a block of the form after the other, in each four (or two)
 * neighbouring values of a row, then those of the next row. Rows that are missing are zero. */

#include "amx.h"
#include "ref.h"

enum { PANEL_ROWS = 16 };

struct panel_32 {
        int8_t q[8][PANEL_ROWS][4];
        float d[PANEL_ROWS];
        float sums[PANEL_ROWS]; /* of the 32 values of q */
};

struct panel_256 {
        int8_t q[64][PANEL_ROWS][4];
        float d[PANEL_ROWS];
        int16_t sums[4][PANEL_ROWS][2]; /* of each 32 values of q */
};

/* 32 values (at the end maybe fewer, then zeros) as the sum of two numbers of bfloat16. */
struct panel_float {
        uint16_t high[16][PANEL_ROWS][2], low[16][PANEL_ROWS][2];
};

size_t panel_bytes(enum dot_input form, uint32_t cols);
/* Makes a panel of the n ≤ 16 rows x in the form; `panel` is aligned to 64 bytes. */
void panel_pack(enum dot_input form, void *panel, const void *const *x, uint32_t n, uint32_t cols);

/* Dword j of v[i] changes places with dword i of v[j]. */
ALWAYS_INLINE void transpose_dwords(__m512i v[16]) {
        __m512i a[16];

        UNROLL for (int i = 0; i < 16; i += 2) {
                a[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
                a[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
        }
        /* Quarters: v[i + k] gets dword k, 4 + k, … of the rows i to i + 3. */
        UNROLL for (int i = 0; i < 16; i += 4) {
                v[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
                v[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
                v[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
                v[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
        }
        UNROLL for (int i = 0; i < 4; i++) {
                a[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
                a[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
                a[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
                a[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
        }
        UNROLL for (int i = 0; i < 4; i++) {
                v[i] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88);
                v[i + 8] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd);
                v[i + 4] = _mm512_shuffle_i32x4(a[i + 4], a[i + 12], 0x88);
                v[i + 12] = _mm512_shuffle_i32x4(a[i + 4], a[i + 12], 0xdd);
        }
}
