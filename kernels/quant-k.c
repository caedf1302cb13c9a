/* SPDX-License-Identifier: MIT */
#include "block.h"
#include "float16.h"
#include "quant-part.h"

/* Two bits of value j of 256. */
static unsigned two_bits(const uint8_t q[64], unsigned j) {
        return q[j / 128 * 32 + j % 32] >> j / 32 % 4 * 2 & 3;
}

void dequantize_q2_k(float *dst, const void *src, size_t n) {
        const struct block_q2_k *b = src;

        for (size_t i = 0; i < n / 256; i++, b++) {
                float d = f16_to_f32(b->d), dmin = f16_to_f32(b->dmin);

                for (unsigned j = 0; j < 256; j++) {
                        uint8_t scale = b->scales[j / 16];

                        *dst++ = d * (float) (scale & 15) * (float) two_bits(b->q, j) -
                                 dmin * (float) (scale >> 4);
                }
        }
}

/* Scale of sub-block j: low nibbles in bytes 0-7, first those of 0-7; two high bits in bytes 8-11. */
static int q3_k_scale(const uint8_t s[12], unsigned j) {
        return ((s[j % 8] >> j / 8 * 4 & 15) | (s[8 + j % 4] >> j / 4 * 2 & 3) << 4) - 32;
}

void dequantize_q3_k(float *dst, const void *src, size_t n) {
        const struct block_q3_k *b = src;

        for (size_t i = 0; i < n / 256; i++, b++) {
                float d = f16_to_f32(b->d);

                for (unsigned j = 0; j < 256; j++) {
                        int q = (int) two_bits(b->q, j) - (b->qh[j % 32] >> j / 32 & 1 ? 0 : 4);

                        *dst++ = d * (float) q3_k_scale(b->scales, j / 16) * (float) q;
                }
        }
}

void dequantize_q4_k(float *dst, const void *src, size_t n) {
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

void dequantize_q6_k(float *dst, const void *src, size_t n) {
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

void dequantize_q5_k(float *dst, const void *src, size_t n) {
        const struct block_q5_k *b = src;

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
                                *dst++ = a * (float) ((q[l] >> 4 * (j & 1) & 15) | (b->qh[l] >> j & 1) << 4) -
                                         c;
                }
        }
}

void dequantize_iq4_xs(float *dst, const void *src, size_t n) {
        const struct block_iq4_xs *b = src;

        for (size_t i = 0; i < n / 256; i++, b++)
                for (unsigned j = 0; j < 8; j++) {
                        int low = b->scales_low[j / 2] >> j % 2 * 4 & 15, high = b->scales_high >> 2 * j & 3;
                        float d = f16_to_f32(b->d) * (float) ((low | high << 4) - 32);

                        for (unsigned l = 0; l < 32; l++)
                                *dst++ = d *
                                         (float) quant_levels_iq4[b->q[16 * j + l % 16] >> l / 16 * 4 & 15];
                }
}

/* Digit `k` of a byte that holds a fraction of 256 in base 3, the first digit highest: 0 to 2. */
static int digit(uint8_t q, unsigned k) {
        static const uint8_t powers[] = {1, 3, 9, 27, 81};

        return (uint8_t) (q * powers[k]) * 3 >> 8;
}

void dequantize_tq1_0(float *dst, const void *src, size_t n) {
        const struct block_tq1_0 *b = src;

        for (size_t i = 0; i < n / 256; i++, b++) {
                float d = f16_to_f32(b->d);

                for (unsigned j = 0; j < 160; j++)
                        *dst++ = d * (float) (digit(b->q[j % 32], j / 32) - 1);
                for (unsigned j = 0; j < 80; j++)
                        *dst++ = d * (float) (digit(b->q[32 + j % 16], j / 16) - 1);
                for (unsigned j = 0; j < 16; j++)
                        *dst++ = d * (float) (digit(b->qh[j % 4], j / 4) - 1);
        }
}

void dequantize_tq2_0(float *dst, const void *src, size_t n) {
        const struct block_tq2_0 *b = src;

        for (size_t i = 0; i < n / 256; i++, b++)
                for (unsigned j = 0; j < 256; j++)
                        *dst++ = f16_to_f32(b->d) * (float) ((int) two_bits(b->q, j) - 1);
}
