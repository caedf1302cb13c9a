/* SPDX-License-Identifier: MIT */
#pragma once

/* The matrix unit: eight tiles of up to 16 rows of up to 64 bytes (Intel SDM volume 1, chapter 18). The
 * instructions are written out because the intrinsics of gcc 12 do not say that they read and write memory.
 * A thread may use tiles between amx_begin() and amx_end(); tile numbers are literals. */

#include <stdint.h>

#include "simd.h"

enum { AMX_ROWS = 16, AMX_ROW_BYTES = 64, AMX_TILE_BYTES = AMX_ROWS * AMX_ROW_BYTES };

struct amx_config {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
};

_Static_assert(sizeof(struct amx_config) == 64, "struct amx_config");

/* Eight tiles, all of them as large as they can be. */
#define AMX_WHOLE_TILES                                                                                      \
        {                                                                                                    \
                .palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},                                 \
                .rows = {16, 16, 16, 16, 16, 16, 16, 16},                                                    \
        }

ALWAYS_INLINE void amx_begin(const struct amx_config *c) {
        __asm__ volatile("ldtilecfg %0" : : "m"(*c));
}

/* Also keeps the tiles out of what a change of threads has to save. */
ALWAYS_INLINE void amx_end(void) {
        __asm__ volatile("tilerelease");
}

#define AMX_ZERO(_tile) __asm__ volatile("tilezero %%tmm" #_tile ::)
/* Rows `_stride` bytes apart, from a constant number of bytes after `_from`. */
#define AMX_LOAD_AS(_load, _tile, _from, _offset, _stride)                                                   \
        __asm__ volatile(_load " %c2(%0,%1,1), %%tmm" #_tile                                                 \
                         :                                                                                   \
                         : "r"((const void *) (_from)), "r"((uint64_t) (_stride)), "i"(_offset)              \
                         : "memory")
#define AMX_LOAD_AT(_tile, _from, _offset, _stride) AMX_LOAD_AS("tileloadd", _tile, _from, _offset, _stride)
/* Of what is not loaded again soon, and need not stay in the first cache. */
#define AMX_LOAD_ONCE_AT(_tile, _from, _offset, _stride) AMX_LOAD_AS("tileloaddt1", _tile, _from, _offset, _stride)
/* The matrix unit takes its instructions in order: right behind a tile's last products a store makes it wait for them.
 * So where others follow at once, a tile is stored when it begins anew. */
#define AMX_STORE_AT(_tile, _to, _offset, _stride)                                                           \
        __asm__ volatile("tilestored %%tmm" #_tile ", %c2(%0,%1,1)"                                          \
                         :                                                                                   \
                         : "r"((void *) (_to)), "r"((uint64_t) (_stride)), "i"(_offset)                      \
                         : "memory")
#define AMX_LOAD(_tile, _from, _stride) AMX_LOAD_AT(_tile, _from, 0, _stride)
#define AMX_LOAD_ONCE(_tile, _from, _stride) AMX_LOAD_ONCE_AT(_tile, _from, 0, _stride)
#define AMX_STORE(_tile, _to, _stride) AMX_STORE_AT(_tile, _to, 0, _stride)
/* c[m][n] += Σ_k a[m][k] × b[k / 4][n][k % 4]: int32, of unsigned × signed or signed × signed bytes. */
#define AMX_DOT_U8_S8(_c, _a, _b) __asm__ volatile("tdpbusd %%tmm" #_b ", %%tmm" #_a ", %%tmm" #_c ::)
#define AMX_DOT_S8_S8(_c, _a, _b) __asm__ volatile("tdpbssd %%tmm" #_b ", %%tmm" #_a ", %%tmm" #_c ::)
/* c[m][n] += Σ_k a[m][k] × b[k / 2][n][k % 2]: float32, of bfloat16; subnormal numbers count as zero. */
#define AMX_DOT_BF16(_c, _a, _b) __asm__ volatile("tdpbf16ps %%tmm" #_b ", %%tmm" #_a ", %%tmm" #_c ::)

/* A constant that is loaded, aligned to 64 bytes: compilers would make many of them from a general register, each time,
 * in the one port that is left to floating-point numbers and shuffles beside the matrix unit's products. */
ALWAYS_INLINE __m512i constant_at(const void *from) {
        __m512i v;

        __asm__("vmovdqa64 %1, %0" : "=v"(v) : "m"(*(const __m512i *) from));
        return v;
}

/* The bfloat16 numbers of two vectors, those of the first in the low half. */
ALWAYS_INLINE __m512i to_bf16(__m512 low, __m512 high) {
        return (__m512i) _mm512_cvtne2ps_pbh(high, low);
}
