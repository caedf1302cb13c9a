/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "block.h"
#include "float16.h"
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

static void dequantize_q8_0(float *dst, const void *src, size_t n) {
        const struct block_q8_0 *b = src;

        for (size_t i = 0; i < n / 32; i++, b++) {
                float d = f16_to_f32(b->d);

                for (unsigned j = 0; j < 32; j++)
                        *dst++ = (float) b->q[j] * d;
        }
}

static void dequantize_q4_0(float *dst, const void *src, size_t n) {
        const struct block_q4_0 *b = src;

        for (size_t i = 0; i < n / 32; i++, b++, dst += 32) {
                float d = f16_to_f32(b->d);

                for (unsigned j = 0; j < 16; j++) {
                        dst[j] = (float) ((b->q[j] & 15) - 8) * d;
                        dst[j + 16] = (float) ((b->q[j] >> 4) - 8) * d;
                }
        }
}

static void dequantize_q4_k(float *dst, const void *src, size_t n) {
        const struct block_q4_k *b = src;

        for (size_t i = 0; i < n / 256; i++, b++) {
                float d = f16_to_f32(b->d), dmin = f16_to_f32(b->dmin);

                for (unsigned j = 0; j < 8; j++) {
                        const uint8_t *q = b->q + j / 2 * 32;
                        uint8_t scale, min;
                        float a, c;

                        q4_k_scale_min(b->scales, j, &scale, &min);
                        a = d * scale;
                        c = dmin * min;
                        for (unsigned l = 0; l < 32; l++)
                                *dst++ = a * (float) (q[l] >> 4 * (j & 1) & 15) - c;
                }
        }
}

static void dequantize_q6_k(float *dst, const void *src, size_t n) {
        const struct block_q6_k *b = src;
        uint8_t q[128];

        for (size_t i = 0; i < n / 256; i++, b++) {
                float d = f16_to_f32(b->d);

                for (unsigned half = 0; half < 2; half++) {
                        q6_k_unpack(q, b, half);
                        for (unsigned l = 0; l < 128; l++)
                                *dst++ = d * b->scales[half * 8 + l / 16] * (float) (q[l] - 32);
                }
        }
}

static const struct quant_info table[_QUANT_MAX] = {
        [QUANT_F32] = {"F32", 1, 4, true, dequantize_f32},
        [QUANT_F16] = {"F16", 1, 2, true, dequantize_f16},
        [QUANT_BF16] = {"BF16", 1, 2, true, dequantize_bf16},
        [QUANT_Q8_0] = {"Q8_0", 32, sizeof(struct block_q8_0), true, dequantize_q8_0},
        [QUANT_Q4_0] = {"Q4_0", 32, sizeof(struct block_q4_0), true, dequantize_q4_0},
        [QUANT_Q4_K] = {"Q4_K", 256, sizeof(struct block_q4_k), true, dequantize_q4_k},
        [QUANT_Q6_K] = {"Q6_K", 256, sizeof(struct block_q6_k), true, dequantize_q6_k},
        [QUANT_I32] = {"I32", 1, 4, false, NULL},
};

const struct quant_info *quant_info(uint32_t type) {
        return type < _QUANT_MAX && table[type].name ? &table[type] : NULL;
}
