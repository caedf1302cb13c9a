/* SPDX-License-Identifier: MIT */
#pragma once

/* An operation tried through backend.h: each variant of the cpu backend against the ref backend, and against
 * itself with other thread counts and with each row alone. */

#include "device.h"
#include "sample.h"
#include "variant.h"

/* A trial makes inputs for `n` rows, the same for the same numbers, and runs rows [from, from + count) of
 * them. */
struct trial {
        uint32_t n, from, count;
        uint32_t dim, heads, option;
        enum quant_type type;
};

/* Runs it and returns count × *ret_width values, freed by the caller. */
typedef float *trial_fn(struct device *d, const struct trial *trial, size_t *ret_width);

/* Random values and weights on the device. */
struct device_ptr trial_floats(struct device *d, struct sample *s, size_t n);
struct weight trial_weight(struct device *d, struct sample *s, enum quant_type type, uint32_t stack,
                           uint32_t rows, uint32_t cols);
/* Row `row` of rows of `width` four-byte values. */
struct device_ptr trial_row(struct device_ptr p, uint32_t row, size_t width);
/* Which rows are of a prompt: two of three. */
struct device_ptr trial_prompts(struct device *d, const struct trial *t);
/* What a trial returns. */
float *trial_result(struct device *d, struct device_ptr p, size_t rows, size_t width, size_t *ret_width);

/* Three sequences whose pages lie mixed in one arena; the first third of the rows are prompt rows of sequence
 * 1, then sequences 0 and 2 take turns of one row each, far into their context. */
enum { TRIAL_PAGES = 24, TRIAL_STRIDE = 8 };

void trial_rows(struct device *d, const struct trial *t, struct op_rows *rows);

/* Results of cpu and ref are to differ by no more than `tolerance` of their root mean square; what the cpu
 * backend makes with other numbers of threads, or of a row alone, by no bit. */
void trial_check(trial_fn *fn, struct trial trial, double tolerance);
/* The same of one variant. */
void trial_check_variant(const struct cpu_variant *v, trial_fn *fn, struct trial trial, double tolerance);
/* Every variant, within what its attention promises: the matrix unit's, of BF16 keys and values, is of bfloat16. */
void trial_check_attention(trial_fn *fn, struct trial trial);
/* A type of keys and values for trial number i; most often the one that the matrix unit takes. */
enum quant_type trial_kv_type(uint32_t i);
