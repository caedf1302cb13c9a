/* SPDX-License-Identifier: MIT */
#pragma once

/* Block formats of GGUF tensors: a row of `cols` values is cols / block_values blocks of block_bytes bytes, one
 * after the other. The enum values are the type numbers of the file format (GGUF specification, "ggml_type"). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum quant_type {
        QUANT_F32 = 0,
        QUANT_F16 = 1,
        QUANT_Q4_0 = 2,
        QUANT_Q4_1 = 3,
        QUANT_Q5_0 = 6,
        QUANT_Q5_1 = 7,
        QUANT_Q8_0 = 8,
        QUANT_Q2_K = 10,
        QUANT_Q3_K = 11,
        QUANT_Q4_K = 12,
        QUANT_Q5_K = 13,
        QUANT_Q6_K = 14,
        QUANT_IQ2_XXS = 16,
        QUANT_IQ2_XS = 17,
        QUANT_IQ3_XXS = 18,
        QUANT_IQ1_S = 19,
        QUANT_IQ4_NL = 20,
        QUANT_IQ3_S = 21,
        QUANT_IQ2_S = 22,
        QUANT_IQ4_XS = 23,
        QUANT_I32 = 26,
        QUANT_IQ1_M = 29,
        QUANT_BF16 = 30,
        QUANT_TQ1_0 = 34,
        QUANT_TQ2_0 = 35,
        QUANT_MXFP4 = 39,
        QUANT_NVFP4 = 40,
        _QUANT_MAX = 41,
};

/* Writes `n` values, n a multiple of the format's block; `src` needs no alignment. */
typedef void dequantize_fn(float *dst, const void *src, size_t n);

struct quant_info {
        const char *name;      /* as users know it: "Q4_K" */
        uint32_t block_values; /* values per block; 1 for plain types */
        uint32_t block_bytes;
        bool weights;          /* usable as a matrix: it has a dot product (I32 has none) */
        dequantize_fn *dequantize; /* the definition of the format */
        /* The other way, rounding to nearest, of finite values of at most `max`; NULL: this build cannot make the
         * format. `dst` needs no alignment. */
        void (*quantize)(void *dst, const float *src, size_t n);
        float max; /* magnitude; where there is quantize() */
};

/* The row of the table for a type number from a file, or NULL when this build does not know it. */
const struct quant_info *quant_info(uint32_t type);

/* Bytes of a row of `cols` values; `cols` must be a multiple of the block. */
static inline size_t quant_row_bytes(const struct quant_info *info, uint64_t cols) {
        return cols / info->block_values * info->block_bytes;
}
