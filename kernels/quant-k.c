/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "block.h"
#include "float16.h"
#include "quant-part.h"
#include "quant-whole.h"

/* Two bits of value j of 256. */
static unsigned two_bits(const uint8_t q[64], unsigned j) {
        return q[j / 128 * 32 + j % 32] >> j / 32 % 4 * 2 & 3;
}

void quant_whole_q2_k(struct quant_whole_256 *w, const void *block) {
        const struct block_q2_k *b = block;

        w->d = f16_to_f32(b->d);
        w->dmin = f16_to_f32(b->dmin);
        for (unsigned j = 0; j < 16; j++) {
                w->scales[j] = (int8_t) (b->scales[j] & 15);
                w->mins[j] = (int8_t) (b->scales[j] >> 4);
        }
        for (unsigned j = 0; j < 256; j++)
                w->q[j] = (int8_t) two_bits(b->q, j);
}

/* Scale of sub-block j: low nibbles in bytes 0-7, first those of 0-7; two high bits in bytes 8-11. */
static int q3_k_scale(const uint8_t s[12], unsigned j) {
        return ((s[j % 8] >> j / 8 * 4 & 15) | (s[8 + j % 4] >> j / 4 * 2 & 3) << 4) - 32;
}

void quant_whole_q3_k(struct quant_whole_256 *w, const void *block) {
        const struct block_q3_k *b = block;

        *w = (struct quant_whole_256){.d = f16_to_f32(b->d)};
        for (unsigned j = 0; j < 16; j++)
                w->scales[j] = (int8_t) q3_k_scale(b->scales, j);
        for (unsigned j = 0; j < 256; j++)
                w->q[j] = (int8_t) ((int) two_bits(b->q, j) - (b->qh[j % 32] >> j / 32 & 1 ? 0 : 4));
}

static void q4_k_scales(struct quant_whole_256 *w, const uint8_t scales[12]) {
        for (unsigned j = 0; j < 8; j++) {
                uint8_t scale, min;

                q4_k_scale_min(scales, j, &scale, &min);
                w->scales[2 * j] = w->scales[2 * j + 1] = (int8_t) scale;
                w->mins[2 * j] = w->mins[2 * j + 1] = (int8_t) min;
        }
}

void quant_whole_q4_k(struct quant_whole_256 *w, const void *block) {
        const struct block_q4_k *b = block;

        w->d = f16_to_f32(b->d);
        w->dmin = f16_to_f32(b->dmin);
        q4_k_scales(w, b->scales);
        for (unsigned j = 0; j < 256; j++)
                w->q[j] = (int8_t) (b->q[j / 64 * 32 + j % 32] >> j / 32 % 2 * 4 & 15);
}

void quant_whole_q5_k(struct quant_whole_256 *w, const void *block) {
        const struct block_q5_k *b = block;

        w->d = f16_to_f32(b->d);
        w->dmin = f16_to_f32(b->dmin);
        q4_k_scales(w, b->scales);
        for (unsigned j = 0; j < 256; j++)
                w->q[j] = (int8_t) ((b->q[j / 64 * 32 + j % 32] >> j / 32 % 2 * 4 & 15) |
                                    (b->qh[j % 32] >> j / 32 & 1) << 4);
}

void quant_whole_q6_k(struct quant_whole_256 *w, const void *block) {
        const struct block_q6_k *b = block;

        *w = (struct quant_whole_256){.d = f16_to_f32(b->d)};
        memcpy(w->scales, b->scales, sizeof(w->scales));
        for (unsigned half = 0; half < 2; half++) {
                uint8_t q[128];

                q6_k_unpack(q, b, half);
                for (unsigned l = 0; l < 128; l++)
                        w->q[half * 128 + l] = (int8_t) (q[l] - 32);
        }
}

void quant_whole_iq4_xs(struct quant_whole_256 *w, const void *block) {
        const struct block_iq4_xs *b = block;

        *w = (struct quant_whole_256){.d = f16_to_f32(b->d)};
        for (unsigned j = 0; j < 16; j++) {
                int low = b->scales_low[j / 4] >> j / 2 % 2 * 4 & 15, high = b->scales_high >> j / 2 * 2 & 3;

                w->scales[j] = (int8_t) ((low | high << 4) - 32);
        }
        for (unsigned j = 0; j < 256; j++)
                w->q[j] = quant_levels_iq4[b->q[j / 32 * 16 + j % 16] >> j / 16 % 2 * 4 & 15];
}

#define DEQUANTIZE_256(_name)                                                                                \
        void dequantize_##_name(float *dst, const void *src, size_t n) {                                     \
                const struct block_##_name *b = src;                                                         \
                struct quant_whole_256 w;                                                                    \
                                                                                                             \
                for (size_t i = 0; i < n / 256; i++) {                                                       \
                        quant_whole_##_name(&w, &b[i]);                                                      \
                        for (unsigned j = 0; j < 256; j++)                                                   \
                                *dst++ = w.d * (float) w.scales[j / 16] * (float) w.q[j] -                   \
                                         w.dmin * (float) w.mins[j / 16];                                    \
                }                                                                                            \
        }

DEQUANTIZE_256(q2_k)
DEQUANTIZE_256(q3_k)
DEQUANTIZE_256(q4_k)
DEQUANTIZE_256(q5_k)
DEQUANTIZE_256(q6_k)
DEQUANTIZE_256(iq4_xs)

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
