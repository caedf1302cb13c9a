/* SPDX-License-Identifier: MIT */
#include "machine.h"
#include "tile.h"

const struct cpu_variant cpu_variant_avx512 = {
        .name = "avx512",
        .needs = CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI,
        ROWS_MEMBERS(avx512),
        .attention = attention_avx512,
        .choose = choose_avx512,
        .blend = blend_avx512,
        .dot =
                {
                        [QUANT_F32] = dot_f32_avx512,
                        [QUANT_F16] = dot_f16_avx512,
                        [QUANT_BF16] = dot_bf16_avx512,
                        [QUANT_Q8_0] = dot_q8_0_lanes_avx512,
                        [QUANT_Q4_0] = dot_q4_0_lanes_avx512,
                        [QUANT_Q4_1] = dot_q4_1_lanes_avx512,
                        [QUANT_Q5_0] = dot_q5_0_lanes_avx512,
                        [QUANT_Q5_1] = dot_q5_1_lanes_avx512,
                        [QUANT_IQ4_NL] = dot_iq4_nl_lanes_avx512,
                        [QUANT_MXFP4] = dot_mxfp4_lanes_avx512,
                        [QUANT_Q2_K] = dot_q2_k_lanes_avx512,
                        [QUANT_Q3_K] = dot_q3_k_lanes_avx512,
                        [QUANT_Q4_K] = dot_q4_k_avx512,
                        [QUANT_Q5_K] = dot_q5_k_avx512,
                        [QUANT_Q6_K] = dot_q6_k_lanes_avx512,
                        [QUANT_IQ4_XS] = dot_iq4_xs_lanes_avx512,
                },
};
