/* SPDX-License-Identifier: MIT */
#pragma once

/* Half precision (IEEE 754 binary16) and bfloat16 in portable C: exact to single precision, round to nearest
 * even from it. Not-a-number stays one. */

#include <stdint.h>
#include <string.h>

static inline float float_from_bits(uint32_t bits) {
        float f;

        memcpy(&f, &bits, sizeof(f));
        return f;
}

static inline uint32_t float_bits(float f) {
        uint32_t bits;

        memcpy(&bits, &f, sizeof(bits));
        return bits;
}

static inline float f16_to_f32(uint16_t h) {
        uint32_t sign = (uint32_t) (h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023;

        if (exponent == 31)
                return float_from_bits(sign | 0x7f800000 | mantissa << 13);
        if (exponent == 0) {
                /* A multiple of 2^-24; the product is exact, and keeps the sign of zero. */
                float f = (float) mantissa * 0x1p-24f;

                return float_from_bits(sign | float_bits(f));
        }
        return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

static inline uint16_t f16_from_f32(float f) {
        uint32_t bits = float_bits(f), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;

        if (magnitude > 0x7f800000)
                return sign | 0x7e00 | (magnitude >> 13 & 1023);
        if (magnitude >= 0x477ff000) /* from 65520 on it rounds to infinity */
                return sign | 0x7c00;
        if (magnitude < 0x38800000) {
                /* Below 2^-14: adding 0.5 leaves the multiple of 2^-24, rounded to even, in the low bits. */
                return sign | (float_bits(float_from_bits(magnitude) + 0.5f) - 0x3f000000);
        }
        return sign | (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
}

static inline uint16_t bf16_from_f32(float f) {
        uint32_t bits = float_bits(f);

        if ((bits & 0x7fffffff) > 0x7f800000)
                return (uint16_t) (bits >> 16 | 64);
        return (uint16_t) ((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* What is not finite becomes the largest finite number of its sign. */
static inline uint16_t bf16_finite_from_f32(float f) {
        uint32_t bits = float_bits(f), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;

        magnitude = (magnitude + 0x7fff + (magnitude >> 16 & 1)) >> 16;
        return (uint16_t) (sign | (magnitude < 0x7f80 ? magnitude : 0x7f7f));
}

static inline float bf16_to_f32(uint16_t h) {
        return float_from_bits((uint32_t) h << 16);
}
