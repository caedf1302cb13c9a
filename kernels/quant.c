/* SPDX-License-Identifier: MIT */
#include <float.h>
#include <string.h>

#include "block.h"
#include "float16.h"
#include "quant-part.h"
#include "quant.h"

static uint16_t load_u16(const void *src, size_t i) {
        uint16_t v;

        memcpy(&v, (const char *) src + 2 * i, sizeof(v));
        return v;
}

static void dequantize_f32(float *dst, const void *src, size_t n) {
        memcpy(dst, src, n * sizeof(*dst));
}

static void dequantize_f16(float *dst, const void *src, size_t n) {
        for (size_t i = 0; i < n; i++)
                dst[i] = f16_to_f32(load_u16(src, i));
}

static void dequantize_bf16(float *dst, const void *src, size_t n) {
        for (size_t i = 0; i < n; i++)
                dst[i] = bf16_to_f32(load_u16(src, i));
}

static const struct quant_info table[_QUANT_MAX] = {
        [QUANT_F32] = {"F32", 1, 4, true, dequantize_f32, quantize_f32, FLT_MAX},
        [QUANT_F16] = {"F16", 1, 2, true, dequantize_f16, quantize_f16, 65504.0f},
        [QUANT_BF16] = {"BF16", 1, 2, true, dequantize_bf16, quantize_bf16, 0x1.fep127f},
        [QUANT_Q8_0] = {"Q8_0", 32, sizeof(struct block_q8_0), true, dequantize_q8_0, quantize_q8_0, 127.0f * 65504.0f},
        [QUANT_Q4_0] = {"Q4_0", 32, sizeof(struct block_q4_0), true, dequantize_q4_0},
        [QUANT_Q4_1] = {"Q4_1", 32, sizeof(struct block_q4_1), true, dequantize_q4_1},
        [QUANT_Q5_0] = {"Q5_0", 32, sizeof(struct block_q5_0), true, dequantize_q5_0},
        [QUANT_Q5_1] = {"Q5_1", 32, sizeof(struct block_q5_1), true, dequantize_q5_1},
        [QUANT_Q2_K] = {"Q2_K", 256, sizeof(struct block_q2_k), true, dequantize_q2_k},
        [QUANT_Q3_K] = {"Q3_K", 256, sizeof(struct block_q3_k), true, dequantize_q3_k},
        [QUANT_Q4_K] = {"Q4_K", 256, sizeof(struct block_q4_k), true, dequantize_q4_k},
        [QUANT_Q5_K] = {"Q5_K", 256, sizeof(struct block_q5_k), true, dequantize_q5_k},
        [QUANT_Q6_K] = {"Q6_K", 256, sizeof(struct block_q6_k), true, dequantize_q6_k},
        [QUANT_IQ2_XXS] = {"IQ2_XXS", 256, sizeof(struct block_iq2_xxs), true, dequantize_iq2_xxs},
        [QUANT_IQ2_XS] = {"IQ2_XS", 256, sizeof(struct block_iq2_xs), true, dequantize_iq2_xs},
        [QUANT_IQ2_S] = {"IQ2_S", 256, sizeof(struct block_iq2_s), true, dequantize_iq2_s},
        [QUANT_IQ3_XXS] = {"IQ3_XXS", 256, sizeof(struct block_iq3_xxs), true, dequantize_iq3_xxs},
        [QUANT_IQ3_S] = {"IQ3_S", 256, sizeof(struct block_iq3_s), true, dequantize_iq3_s},
        [QUANT_IQ1_S] = {"IQ1_S", 256, sizeof(struct block_iq1_s), true, dequantize_iq1_s},
        [QUANT_IQ1_M] = {"IQ1_M", 256, sizeof(struct block_iq1_m), true, dequantize_iq1_m},
        [QUANT_IQ4_NL] = {"IQ4_NL", 32, sizeof(struct block_iq4_nl), true, dequantize_iq4_nl},
        [QUANT_IQ4_XS] = {"IQ4_XS", 256, sizeof(struct block_iq4_xs), true, dequantize_iq4_xs},
        [QUANT_TQ1_0] = {"TQ1_0", 256, sizeof(struct block_tq1_0), true, dequantize_tq1_0},
        [QUANT_TQ2_0] = {"TQ2_0", 256, sizeof(struct block_tq2_0), true, dequantize_tq2_0},
        [QUANT_MXFP4] = {"MXFP4", 32, sizeof(struct block_mxfp4), true, dequantize_mxfp4},
        [QUANT_NVFP4] = {"NVFP4", 64, sizeof(struct block_nvfp4), true, dequantize_nvfp4},
        [QUANT_I32] = {"I32", 1, 4, false, NULL},
};

const struct quant_info *quant_info(uint32_t type) {
        return type < _QUANT_MAX && table[type].name ? &table[type] : NULL;
}
