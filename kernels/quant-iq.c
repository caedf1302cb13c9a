/* SPDX-License-Identifier: MIT */
#include <stdbool.h>

#include "block.h"
#include "float16.h"
#include "quant-part.h"

/* Levels per code's 2 or 3 bits. */
static const float levels_iq2[4] = {8, 25, 43}, levels_iq1[4] = {-1, 0, 1};
static const float levels_iq3_xxs[8] = {4, 12, 20, 28, 36, 44, 52, 62},
                   levels_iq3_s[8] = {1, 3, 5, 7, 9, 11, 13, 15};

/* Eight signs from seven bits: the number of negative ones is even. */
static uint8_t even_signs(unsigned bits) {
        bits &= 127;
        return (uint8_t) (bits | (unsigned) __builtin_parity(bits) << 7);
}

static float *put_2(float *dst, unsigned code, uint8_t signs, float d) {
        for (unsigned j = 0; j < 8; j++) {
                float v = d * levels_iq2[code >> 2 * j & 3];

                *dst++ = signs >> j & 1 ? -v : v;
        }
        return dst;
}

/* Two codes of four values. */
static float *put_3(float *dst, const float levels[8], unsigned first, unsigned second, uint8_t signs,
                    float d) {
        unsigned codes = first | second << 12;

        for (unsigned j = 0; j < 8; j++) {
                float v = d * levels[codes >> 3 * j & 7];

                *dst++ = signs >> j & 1 ? -v : v;
        }
        return dst;
}

static float *put_1(float *dst, unsigned code, bool minus, float d) {
        for (unsigned j = 0; j < 8; j++)
                *dst++ = d * (levels_iq1[quant_grid_iq1[code] >> 2 * j & 3] + (minus ? -0.125f : 0.125f));
        return dst;
}

static float scale_iq2(uint16_t d, unsigned scale) {
        return f16_to_f32(d) * (0.5f + (float) scale) * 0.25f;
}

void dequantize_iq2_xxs(float *dst, const void *src, size_t n) {
        const struct block_iq2_xxs *b = src;

        for (size_t i = 0; i < n / 256; i++, b++)
                for (unsigned j = 0; j < 8; j++) {
                        uint32_t codes = b->q[2 * j], rest = b->q[2 * j + 1];
                        float d = scale_iq2(b->d, rest >> 28);

                        for (unsigned l = 0; l < 4; l++)
                                dst = put_2(dst, quant_grid_iq2_xxs[codes >> 8 * l & 255],
                                            even_signs(rest >> 7 * l), d);
                }
}

void dequantize_iq2_xs(float *dst, const void *src, size_t n) {
        const struct block_iq2_xs *b = src;

        for (size_t i = 0; i < n / 256; i++, b++)
                for (unsigned j = 0; j < 32; j++) {
                        float d = scale_iq2(b->d, b->scales[j / 4] >> j / 2 % 2 * 4 & 15);

                        dst = put_2(dst, quant_grid_iq2_xs[b->q[j] & 511], even_signs(b->q[j] >> 9), d);
                }
}

void dequantize_iq2_s(float *dst, const void *src, size_t n) {
        const struct block_iq2_s *b = src;

        for (size_t i = 0; i < n / 256; i++, b++)
                for (unsigned j = 0; j < 32; j++) {
                        float d = scale_iq2(b->d, b->scales[j / 4] >> j / 2 % 2 * 4 & 15);
                        unsigned code = b->q[j] | (b->qh[j / 4] >> j % 4 * 2 & 3) << 8;

                        dst = put_2(dst, quant_grid_iq2_s[code], b->signs[j], d);
                }
}

void dequantize_iq3_xxs(float *dst, const void *src, size_t n) {
        const struct block_iq3_xxs *b = src;

        for (size_t i = 0; i < n / 256; i++, b++)
                for (unsigned j = 0; j < 32; j++) {
                        uint32_t rest = b->signs[j / 4];
                        float d = f16_to_f32(b->d) * (0.5f + (float) (rest >> 28)) * 0.5f;

                        dst = put_3(dst, levels_iq3_xxs, quant_grid_iq3_xxs[b->q[2 * j]],
                                    quant_grid_iq3_xxs[b->q[2 * j + 1]], even_signs(rest >> j % 4 * 7), d);
                }
}

void dequantize_iq3_s(float *dst, const void *src, size_t n) {
        const struct block_iq3_s *b = src;

        for (size_t i = 0; i < n / 256; i++, b++)
                for (unsigned j = 0; j < 32; j++) {
                        unsigned scale = b->scales[j / 8] >> j / 4 % 2 * 4 & 15,
                                 high = b->qh[j / 4] >> j % 4 * 2;

                        dst = put_3(dst, levels_iq3_s, quant_grid_iq3_s[b->q[2 * j] | (high & 1) << 8],
                                    quant_grid_iq3_s[b->q[2 * j + 1] | (high >> 1 & 1) << 8], b->signs[j],
                                    f16_to_f32(b->d) * (float) (1 + 2 * scale));
                }
}

void dequantize_iq1_s(float *dst, const void *src, size_t n) {
        const struct block_iq1_s *b = src;

        for (size_t i = 0; i < n / 256; i++, b++)
                for (unsigned j = 0; j < 32; j++) {
                        unsigned rest = b->qh[j / 4];
                        float d = f16_to_f32(b->d) * (float) (2 * (rest >> 12 & 7) + 1);

                        dst = put_1(dst, b->q[j] | (rest >> j % 4 * 3 & 7) << 8, rest >> 15, d);
                }
}

void dequantize_iq1_m(float *dst, const void *src, size_t n) {
        const struct block_iq1_m *b = src;

        for (size_t i = 0; i < n / 256; i++, b++) {
                unsigned bits = 0;

                for (unsigned j = 0; j < 4; j++)
                        bits |= (unsigned) (b->scales[j] >> 12) << 4 * j;
                for (unsigned j = 0; j < 32; j++) {
                        unsigned rest = b->qh[j / 2] >> j % 2 * 4,
                                 scale = b->scales[j / 8] >> j / 2 % 4 * 3 & 7;

                        dst = put_1(dst, b->q[j] | (rest & 7) << 8, rest & 8,
                                    f16_to_f32((uint16_t) bits) * (float) (2 * scale + 1));
                }
        }
}
