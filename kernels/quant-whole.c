/* SPDX-License-Identifier: MIT */
#include "quant-whole.h"

quant_whole_32_fn *quant_whole_32(enum quant_type type) {
        static quant_whole_32_fn *const table[_QUANT_MAX] = {
                [QUANT_Q8_0] = quant_whole_q8_0,     [QUANT_Q4_0] = quant_whole_q4_0,
                [QUANT_Q4_1] = quant_whole_q4_1,     [QUANT_Q5_0] = quant_whole_q5_0,
                [QUANT_Q5_1] = quant_whole_q5_1,     [QUANT_IQ4_NL] = quant_whole_iq4_nl,
                [QUANT_MXFP4] = quant_whole_mxfp4,
        };

        return table[type];
}

quant_whole_256_fn *quant_whole_256(enum quant_type type) {
        static quant_whole_256_fn *const table[_QUANT_MAX] = {
                [QUANT_Q2_K] = quant_whole_q2_k,     [QUANT_Q3_K] = quant_whole_q3_k,
                [QUANT_Q4_K] = quant_whole_q4_k,     [QUANT_Q5_K] = quant_whole_q5_k,
                [QUANT_Q6_K] = quant_whole_q6_k,     [QUANT_IQ4_XS] = quant_whole_iq4_xs,
        };

        return table[type];
}
