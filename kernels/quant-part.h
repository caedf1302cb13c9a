/* SPDX-License-Identifier: MIT */
#pragma once

/* The definitions of the formats, for the table in quant.c: each writes `n` values, n a multiple of the
 * format's block; `src` needs no alignment. Formulas: the tables of the `gguf` Python package (quants.py),
 * and for the microscaling formats the OCP's MX 1.0 specification. */

#include <stddef.h>
#include <stdint.h>

typedef void dequantize_fn(float *dst, const void *src, size_t n);
/* The other way; `dst` needs no alignment. */
typedef void quantize_fn(void *dst, const float *src, size_t n);

/* quant-legacy.c: blocks of 32, and the 4-bit floats */
dequantize_fn dequantize_q8_0, dequantize_q4_0, dequantize_q4_1, dequantize_q5_0, dequantize_q5_1,
        dequantize_iq4_nl, dequantize_mxfp4, dequantize_nvfp4;

/* quant-k.c: blocks of 256 with scaled sub-blocks, and the ternary ones */
dequantize_fn dequantize_q2_k, dequantize_q3_k, dequantize_q4_k, dequantize_q5_k, dequantize_q6_k,
        dequantize_iq4_xs, dequantize_tq1_0, dequantize_tq2_0;

/* quant-iq.c: codes of 4 or 8 values */
dequantize_fn dequantize_iq2_xxs, dequantize_iq2_xs, dequantize_iq2_s, dequantize_iq3_xxs, dequantize_iq3_s,
        dequantize_iq1_s, dequantize_iq1_m;

/* quant-make.c */
quantize_fn quantize_f32, quantize_f16, quantize_bf16, quantize_q8_0;

/* The levels of IQ4_NL and IQ4_XS; those of E2M1, doubled. */
extern const int8_t quant_levels_iq4[16], quant_levels_fp4[16];

/* quant-grid.c */
extern const uint16_t quant_grid_iq2_xxs[256], quant_grid_iq2_xs[512], quant_grid_iq2_s[1024];
extern const uint16_t quant_grid_iq3_xxs[256], quant_grid_iq3_s[512], quant_grid_iq1[2048];
