/* SPDX-License-Identifier: MIT */
#include "block.h"
#include "float16.h"
#include "quant-part.h"

const int8_t quant_levels_iq4[16] = {
        -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
};

const int8_t quant_levels_fp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

void dequantize_q8_0(float *dst, const void *src, size_t n) {
        const struct block_q8_0 *b = src;

        for (size_t i = 0; i < n / 32; i++, b++) {
                float d = f16_to_f32(b->d);

                for (unsigned j = 0; j < 32; j++)
                        *dst++ = (float) b->q[j] * d;
        }
}

void dequantize_q4_0(float *dst, const void *src, size_t n) {
        const struct block_q4_0 *b = src;

        for (size_t i = 0; i < n / 32; i++, b++, dst += 32) {
                float d = f16_to_f32(b->d);

                for (unsigned j = 0; j < 16; j++) {
                        dst[j] = (float) ((b->q[j] & 15) - 8) * d;
                        dst[j + 16] = (float) ((b->q[j] >> 4) - 8) * d;
                }
        }
}

void dequantize_q4_1(float *dst, const void *src, size_t n) {
        const struct block_q4_1 *b = src;

        for (size_t i = 0; i < n / 32; i++, b++, dst += 32) {
                float d = f16_to_f32(b->d), m = f16_to_f32(b->m);

                for (unsigned j = 0; j < 16; j++) {
                        dst[j] = d * (float) (b->q[j] & 15) + m;
                        dst[j + 16] = d * (float) (b->q[j] >> 4) + m;
                }
        }
}

/* Five bits of value j, 0 to 31. */
static unsigned five_bits(const uint8_t q[16], uint32_t high, unsigned j) {
        return (q[j % 16] >> j / 16 * 4 & 15) | (high >> j & 1) << 4;
}

void dequantize_q5_0(float *dst, const void *src, size_t n) {
        const struct block_q5_0 *b = src;

        for (size_t i = 0; i < n / 32; i++, b++) {
                float d = f16_to_f32(b->d);

                for (unsigned j = 0; j < 32; j++)
                        *dst++ = d * (float) ((int) five_bits(b->q, b->qh, j) - 16);
        }
}

void dequantize_q5_1(float *dst, const void *src, size_t n) {
        const struct block_q5_1 *b = src;

        for (size_t i = 0; i < n / 32; i++, b++) {
                float d = f16_to_f32(b->d), m = f16_to_f32(b->m);

                for (unsigned j = 0; j < 32; j++)
                        *dst++ = d * (float) five_bits(b->q, b->qh, j) + m;
        }
}

/* `n` values from n / 2 bytes: the low nibbles are the first half. */
static void from_levels(float *dst, const uint8_t *q, unsigned n, const int8_t levels[16], float d) {
        for (unsigned j = 0; j < n / 2; j++) {
                dst[j] = d * (float) levels[q[j] & 15];
                dst[j + n / 2] = d * (float) levels[q[j] >> 4];
        }
}

void dequantize_iq4_nl(float *dst, const void *src, size_t n) {
        const struct block_iq4_nl *b = src;

        for (size_t i = 0; i < n / 32; i++, b++, dst += 32)
                from_levels(dst, b->q, 32, quant_levels_iq4, f16_to_f32(b->d));
}

void dequantize_mxfp4(float *dst, const void *src, size_t n) {
        const struct block_mxfp4 *b = src;

        for (size_t i = 0; i < n / 32; i++, b++, dst += 32)
                from_levels(dst, b->q, 32, quant_levels_fp4, half_e8m0(b->e));
}

/* Half of an unsigned E4M3; its not-a-number counts as 0. */
static float half_e4m3(uint8_t v) {
        unsigned exponent = v >> 3 & 15, mantissa = v & 7;

        if (v == 0x7f)
                return 0.0f;
        if (exponent == 0)
                return (float) mantissa * 0x1p-10f;
        return float_from_bits((exponent + 119) << 23 | mantissa << 20);
}

void dequantize_nvfp4(float *dst, const void *src, size_t n) {
        const struct block_nvfp4 *b = src;

        for (size_t i = 0; i < n / 64; i++, b++)
                for (unsigned j = 0; j < 4; j++, dst += 16)
                        from_levels(dst, b->q + 8 * j, 16, quant_levels_fp4, half_e4m3(b->d[j]));
}
