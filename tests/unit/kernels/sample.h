/* SPDX-License-Identifier: MIT */
#pragma once

/* Reproducible inputs, and the cpu backends to try them on. */

#include "backend.h"

struct sample {
        uint64_t state;
};

uint32_t sample_u32(struct sample *s);
/* Uniform in [-1, 1). */
float sample_float(struct sample *s);
/* `n` such numbers, freed by the caller. */
float *sample_floats(struct sample *s, size_t n);
/* `n` values of random blocks with sane scales, every bit pattern of the quants; freed by the caller. */
void *sample_weights(struct sample *s, enum quant_type type, size_t n);

/* The weight types, ended by _QUANT_MAX. */
extern const enum quant_type sample_types[];

/* The cpu backend with exactly this variant; NULL when the machine lacks its instructions. */
struct backend *sample_backend(const char *isa, unsigned threads);
struct backend *sample_backend_ref(void);

/* Largest difference relative to the root mean square of `expected`; infinite when only one of two is finite.
 */
double sample_difference(const float *got, const float *expected, size_t n);
