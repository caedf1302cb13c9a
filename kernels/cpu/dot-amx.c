/* SPDX-License-Identifier: MIT */
/* AVX-512 with the matrix unit. */

#include "amx-attention.h"
#include "amx.h"
#include "machine.h"
#include "tile.h"

const struct cpu_variant cpu_variant_amx = {
        .name = "amx",
        .needs = CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI | CPU_AMX,
        .dot_input = dot_input_avx2,
        ROWS_MEMBERS(avx512),
        .attention = attention_amx,
        .sparse_attention = sparse_attention_amx,
        .index = index_amx,
        .choose = choose_avx512,
        .blend = blend_avx512,
        .dot =
                {
                        [QUANT_F32] = dot_f32_avx512,
                        [QUANT_F16] = dot_f16_avx512,
                        [QUANT_BF16] = dot_bf16_avx512,
                        [QUANT_Q8_0] = dot_q8_0_avx512,
                        [QUANT_Q4_0] = dot_q4_0_avx512,
                        [QUANT_Q4_K] = dot_q4_k_avx512,
                        [QUANT_Q6_K] = dot_q6_k_avx512,
                },
};
