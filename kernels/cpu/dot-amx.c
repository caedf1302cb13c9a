/* SPDX-License-Identifier: MIT */
/* AVX-512 with the matrix unit. */

#include "amx-attention.h"
#include "machine.h"
#include "panel.h"
#include "tile.h"

/* Few rows go through the vector unit at the speed of memory. Products of whole numbers come to the same bits there, so
 * that each job may choose; those of float32 do not. */
static uint32_t panel_rows(enum quant_type type) {
        if (dot_input(type) == DOT_FLOAT)
                return type == QUANT_F32 ? 0 : 1;
        if (!dot_requantised_amx(type))
                return 0;
        /* The vector unit takes eight at a time of Q4_K; of other types four, and twice is as fast still. */
        return type == QUANT_Q4_K ? 9 : 7;
}

/* All but those whose numbers are finer than bfloat16. */
static enum dot_input prompt_form(enum quant_type type) {
        if (type == QUANT_F32 || type == QUANT_F16)
                return DOT_FLOAT;
        return dot_requantised_amx(type) ? DOT_Q8_256 : DOT_BF16;
}

static void dot_prompt(const struct dot_job *job, enum quant_type type) {
        dot_fn *requantised = dot_requantised_amx(type);

        if (requantised)
                requantised(job);
        else
                dot_bfloat_amx(job, type);
}

const struct cpu_variant cpu_variant_amx = {
        .name = "amx",
        .kv_bf16 = true,
        .needs = CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI | CPU_AMX,
        ROWS_MEMBERS(avx512),
        .attention = attention_amx,
        .sparse_attention = sparse_attention_amx,
        .index = index_amx,
        .can_index = can_index_amx,
        .choose = choose_avx512,
        .blend = blend_avx512,
        .panel_rows = panel_rows,
        .panel_bytes = panel_bytes,
        .panel_pack = panel_pack,
        .pack_columns = panel_pack_columns,
        .dot_panels = dot_float_amx,
        .prompt_form = prompt_form,
        .dot_prompt = dot_prompt,
        .dot =
                {
                        [QUANT_F32] = dot_f32_avx512,
                        [QUANT_F16] = dot_f16_avx512,
                        [QUANT_BF16] = dot_bf16_avx512,
                        [QUANT_Q8_0] = dot_q8_0_amx,
                        [QUANT_Q4_0] = dot_q4_0_amx,
                        [QUANT_Q4_1] = dot_q4_1_amx,
                        [QUANT_Q5_0] = dot_q5_0_amx,
                        [QUANT_Q5_1] = dot_q5_1_amx,
                        [QUANT_IQ4_NL] = dot_iq4_nl_amx,
                        [QUANT_MXFP4] = dot_mxfp4_amx,
                        [QUANT_Q2_K] = dot_q2_k_avx2,
                        [QUANT_Q3_K] = dot_q3_k_avx2,
                        [QUANT_Q4_K] = dot_q4_k_amx,
                        [QUANT_Q5_K] = dot_q5_k_amx,
                        [QUANT_Q6_K] = dot_q6_k_amx,
                        [QUANT_IQ4_XS] = dot_iq4_xs_amx,
                },
};
