/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <string.h>

#include "base/util.h"
#include "float16.h"
#include "quant-whole.h"
#include "ref.h"

enum dot_input dot_input(enum quant_type type) {
        return quant_whole_32(type) ? DOT_Q8_32 : quant_whole_256(type) ? DOT_Q8_256 : DOT_FLOAT;
}

size_t dot_input_bytes(enum dot_input input, uint32_t cols) {
        size_t bytes;

        if (input == DOT_Q8_32)
                bytes = cols + cols / 32 * (sizeof(float) + sizeof(int16_t));
        else if (input == DOT_Q8_256)
                bytes = cols + DIV_ROUND_UP(cols, 256U) * sizeof(float) + cols / 16 * sizeof(int16_t);
        else
                bytes = cols * sizeof(float);
        return (bytes + 63) & ~(size_t) 63;
}

/* Returns the scale. */
static float quantize(int8_t *q, const float *x, unsigned n) {
        float largest = 0.0f, inverse;

        for (unsigned i = 0; i < n; i++)
                largest = fmaxf(largest, fabsf(x[i]));
        if (!(largest >= ZERO_BELOW)) {
                memset(q, 0, n);
                return 0.0f;
        }
        inverse = 127.0f / largest;
        for (unsigned i = 0; i < n; i++) {
                float v = rintf(x[i] * inverse);

                q[i] = v >= -127.0f && v <= 127.0f ? (int8_t) v : 0; /* outside: not a number */
        }
        return largest / 127.0f;
}

static int16_t sum(const int8_t *q, unsigned n) {
        int16_t s = 0;

        for (unsigned i = 0; i < n; i++)
                s += q[i];
        return s;
}

void ref_dot_input(enum dot_input input, void *dst, const float *src, uint32_t cols) {
        uint32_t block = input == DOT_Q8_32 ? 32 : 256, summed = input == DOT_Q8_32 ? 32 : 16;
        int8_t *q = dst;
        float *d = (float *) ((char *) dst + cols);
        int16_t *sums = (int16_t *) (d + DIV_ROUND_UP(cols, block));

        if (input == DOT_FLOAT) {
                memcpy(dst, src, cols * sizeof(float));
                return;
        }
        for (uint32_t i = 0; i * block < cols; i++)
                d[i] = quantize(q + i * block, src + i * block, MIN(cols - i * block, block));
        for (uint32_t i = 0; i < cols / summed; i++)
                sums[i] = sum(q + i * summed, summed);
}

static float dot_f32(const void *w, const float *x, uint32_t cols) {
        float sum = 0.0f;

        for (uint32_t i = 0; i < cols; i++) {
                float v;

                memcpy(&v, (const char *) w + i * sizeof(v), sizeof(v));
                sum += v * x[i];
        }
        return sum;
}

static float dot_16(const void *w, const float *x, uint32_t cols, float (*convert)(uint16_t)) {
        float sum = 0.0f;

        for (uint32_t i = 0; i < cols; i++) {
                uint16_t v;

                memcpy(&v, (const char *) w + i * sizeof(v), sizeof(v));
                sum += convert(v) * x[i];
        }
        return sum;
}

static float dot_whole_32(quant_whole_32_fn *whole, size_t block_bytes, const void *w, const int8_t *x,
                          uint32_t cols) {
        const float *d = q8_32_scales(x, cols);
        struct quant_whole_32 b;
        float sum = 0.0f;

        for (uint32_t i = 0; i < cols / 32; i++, x += 32) {
                int32_t dot = 0, all = 0;

                whole(&b, (const char *) w + i * block_bytes);
                for (unsigned j = 0; j < 32; j++) {
                        dot += b.q[j] * x[j];
                        all += x[j];
                }
                sum = fmaf((float) dot, b.d * d[i], sum);
                sum = fmaf((float) all, b.m * d[i], sum);
        }
        return sum;
}

static float dot_whole_256(quant_whole_256_fn *whole, size_t block_bytes, const void *w, const int8_t *x,
                           uint32_t cols) {
        const float *d = q8_256_scales(x, cols);
        const int16_t *sums = q8_256_sums(x, cols);
        struct quant_whole_256 b;
        float sum = 0.0f;

        for (uint32_t i = 0; i < cols / 256; i++, sums += 16, x += 256) {
                int32_t dot = 0, mins = 0;

                whole(&b, (const char *) w + i * block_bytes);
                for (unsigned j = 0; j < 256; j++)
                        dot += b.scales[j / 16] * b.q[j] * x[j];
                for (unsigned j = 0; j < 16; j++)
                        mins += b.mins[j] * sums[j];
                sum = fmaf((float) dot, b.d * d[i], sum);
                sum = fmaf((float) -mins, b.dmin * d[i], sum);
        }
        return sum;
}

/* Any type: dequantised on the way. */
static float dot_any(enum quant_type type, const void *w, const float *x, uint32_t cols) {
        const struct quant_info *info = quant_info(type);
        float values[256], sum = 0.0f;

        for (uint32_t i = 0; i < cols; i += ELEMENTS(values)) {
                uint32_t n = MIN(cols - i, (uint32_t) ELEMENTS(values));

                info->dequantize(values, (const char *) w + quant_row_bytes(info, i), n);
                for (uint32_t j = 0; j < n; j++)
                        sum += values[j] * x[i + j];
        }
        return sum;
}

float ref_dot(enum quant_type type, const void *w, const void *x, uint32_t cols) {
        size_t block_bytes = quant_info(type)->block_bytes;

        if (quant_whole_32(type))
                return dot_whole_32(quant_whole_32(type), block_bytes, w, x, cols);
        if (quant_whole_256(type))
                return dot_whole_256(quant_whole_256(type), block_bytes, w, x, cols);
        switch (type) {
        case QUANT_F16:
                return dot_16(w, x, cols, f16_to_f32);
        case QUANT_BF16:
                return dot_16(w, x, cols, bf16_to_f32);
        case QUANT_F32:
                return dot_f32(w, x, cols);
        default:
                return dot_any(type, w, x, cols);
        }
}
