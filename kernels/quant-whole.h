/* SPDX-License-Identifier: MIT */
#pragma once

/* The whole numbers that a block of a format is made of. They are what products with 8-bit activations are computed
 * from: exactly, so that every kernel comes to the same bits (ref/ref.h). `block` needs no alignment. */

#include <stdint.h>

#include "quant.h"

/* Blocks of 32: value i = d × q[i] + m, |q[i]| ≤ 128. */
struct quant_whole_32 {
        float d, m;
        int8_t q[32];
};

/* Blocks of 256: value i = d × scales[i / 16] × q[i] - dmin × mins[i / 16]; |scale × q| ≤ 4096. */
struct quant_whole_256 {
        float d, dmin;
        int8_t scales[16], mins[16];
        int8_t q[256];
};

typedef void quant_whole_32_fn(struct quant_whole_32 *dst, const void *block);
typedef void quant_whole_256_fn(struct quant_whole_256 *dst, const void *block);

quant_whole_32_fn quant_whole_q8_0, quant_whole_q4_0, quant_whole_q4_1, quant_whole_q5_0, quant_whole_q5_1,
        quant_whole_iq4_nl, quant_whole_mxfp4;
quant_whole_256_fn quant_whole_q2_k, quant_whole_q3_k, quant_whole_q4_k, quant_whole_q5_k, quant_whole_q6_k,
        quant_whole_iq4_xs;

/* A type's function, NULL where it has no blocks of that kind. */
quant_whole_32_fn *quant_whole_32(enum quant_type type);
quant_whole_256_fn *quant_whole_256(enum quant_type type);
