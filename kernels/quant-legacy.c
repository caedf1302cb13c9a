/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "block.h"
#include "float16.h"
#include "quant-part.h"
#include "quant-whole.h"

const int8_t quant_levels_iq4[16] = {
        -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
};

/* E2M1, doubled. */
const int8_t quant_levels_fp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

void quant_whole_q8_0(struct quant_whole_32 *w, const void *block) {
        const struct block_q8_0 *b = block;

        w->d = f16_to_f32(b->d);
        w->m = 0.0f;
        memcpy(w->q, b->q, sizeof(w->q));
}

static uint8_t nibble(const uint8_t q[16], unsigned j) {
        return q[j % 16] >> j / 16 * 4 & 15;
}

void quant_whole_q4_0(struct quant_whole_32 *w, const void *block) {
        const struct block_q4_0 *b = block;

        w->d = f16_to_f32(b->d);
        w->m = 0.0f;
        for (unsigned j = 0; j < 32; j++)
                w->q[j] = (int8_t) (nibble(b->q, j) - 8);
}

void quant_whole_q4_1(struct quant_whole_32 *w, const void *block) {
        const struct block_q4_1 *b = block;

        w->d = f16_to_f32(b->d);
        w->m = f16_to_f32(b->m);
        for (unsigned j = 0; j < 32; j++)
                w->q[j] = (int8_t) nibble(b->q, j);
}

void quant_whole_q5_0(struct quant_whole_32 *w, const void *block) {
        const struct block_q5_0 *b = block;

        w->d = f16_to_f32(b->d);
        w->m = 0.0f;
        for (unsigned j = 0; j < 32; j++)
                w->q[j] = (int8_t) ((nibble(b->q, j) | (b->qh >> j & 1) << 4) - 16);
}

void quant_whole_q5_1(struct quant_whole_32 *w, const void *block) {
        const struct block_q5_1 *b = block;

        w->d = f16_to_f32(b->d);
        w->m = f16_to_f32(b->m);
        for (unsigned j = 0; j < 32; j++)
                w->q[j] = (int8_t) (nibble(b->q, j) | (b->qh >> j & 1) << 4);
}

void quant_whole_iq4_nl(struct quant_whole_32 *w, const void *block) {
        const struct block_iq4_nl *b = block;

        w->d = f16_to_f32(b->d);
        w->m = 0.0f;
        for (unsigned j = 0; j < 32; j++)
                w->q[j] = quant_levels_iq4[nibble(b->q, j)];
}

/* Half of 2^(e - 127): the levels are doubled. */
static float half_e8m0(uint8_t e) {
        return float_from_bits(e < 2 ? UINT32_C(0x200000) << e : (uint32_t) (e - 1) << 23);
}

void quant_whole_mxfp4(struct quant_whole_32 *w, const void *block) {
        const struct block_mxfp4 *b = block;

        w->d = half_e8m0(b->e);
        w->m = 0.0f;
        for (unsigned j = 0; j < 32; j++)
                w->q[j] = quant_levels_fp4[nibble(b->q, j)];
}

/* Without adding an m of 0, which would take the sign from a zero. */
#define DEQUANTIZE_32(_name, _value)                                                                         \
        void dequantize_##_name(float *dst, const void *src, size_t n) {                                     \
                const struct block_##_name *b = src;                                                         \
                struct quant_whole_32 w;                                                                     \
                                                                                                             \
                for (size_t i = 0; i < n / 32; i++) {                                                        \
                        quant_whole_##_name(&w, &b[i]);                                                      \
                        for (unsigned j = 0; j < 32; j++)                                                    \
                                *dst++ = (_value);                                                           \
                }                                                                                            \
        }

DEQUANTIZE_32(q8_0, w.d * (float) w.q[j])
DEQUANTIZE_32(q4_0, w.d * (float) w.q[j])
DEQUANTIZE_32(q5_0, w.d * (float) w.q[j])
DEQUANTIZE_32(iq4_nl, w.d * (float) w.q[j])
DEQUANTIZE_32(mxfp4, w.d * (float) w.q[j])
DEQUANTIZE_32(q4_1, w.d * (float) w.q[j] + w.m)
DEQUANTIZE_32(q5_1, w.d * (float) w.q[j] + w.m)

/* `n` values from n / 2 bytes: the low nibbles are the first half. */
static void from_levels(float *dst, const uint8_t *q, unsigned n, const int8_t levels[16], float d) {
        for (unsigned j = 0; j < n / 2; j++) {
                dst[j] = d * (float) levels[q[j] & 15];
                dst[j + n / 2] = d * (float) levels[q[j] >> 4];
        }
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
