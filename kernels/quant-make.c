/* SPDX-License-Identifier: MIT */
/* From float32 to the formats that need no search for their scales: what the `gguf` Python package
 * (quants.py) makes, bit for bit. Values are finite and fit the format (quant_info.max). */
#include <math.h>
#include <string.h>

#include "block.h"
#include "float16.h"
#include "quant-part.h"

void quantize_f32(void *dst, const float *src, size_t n) {
        memcpy(dst, src, n * sizeof(*src));
}

void quantize_f16(void *dst, const float *src, size_t n) {
        for (size_t i = 0; i < n; i++) {
                uint16_t h = f16_from_f32(src[i]);

                memcpy((char *) dst + 2 * i, &h, sizeof(h));
        }
}

void quantize_bf16(void *dst, const float *src, size_t n) {
        for (size_t i = 0; i < n; i++) {
                uint16_t h = bf16_from_f32(src[i]);

                memcpy((char *) dst + 2 * i, &h, sizeof(h));
        }
}

/* A block's largest magnitude becomes 127. roundf() rounds halves away from zero. */
static void make_q8_0(struct block_q8_0 *b, const float *src) {
        float largest = 0.0f, d, inverse;

        for (unsigned j = 0; j < 32; j++)
                largest = fmaxf(largest, fabsf(src[j]));
        d = largest / 127.0f;
        inverse = d > 0.0f ? 1.0f / d : 0.0f;
        b->d = f16_from_f32(d);
        /* Of values too small for a scale nothing is left. */
        for (unsigned j = 0; j < 32; j++)
                b->q[j] = isfinite(inverse) ? (int8_t) roundf(src[j] * inverse) : 0;
}

void quantize_q8_0(void *dst, const float *src, size_t n) {
        struct block_q8_0 *b = dst;

        for (size_t i = 0; i < n / 32; i++)
                make_q8_0(&b[i], src + i * 32);
}
