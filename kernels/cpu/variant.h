/* SPDX-License-Identifier: MIT */
#pragma once

/* The functions that exist once per instruction set. Each variant computes an output in an order that depends
 * on its own row only, so that a variant's bits do not depend on how many rows a call has (promise P2);
 * between variants results differ by rounding. */

#include "ref.h"

/* y[t][row] = w[row] · x[t] (+ bias[row]), or with `accumulate` y[t][row] += scale[t] × that, for begin ≤ row < end and
 * t < n. */
struct dot_job {
        const uint8_t *w; /* row 0; row_bytes between rows */
        size_t row_bytes;
        uint32_t cols, begin, end, n;
        uint32_t rows;        /* that w has: those from `end` on may be fetched early */
        const void *const *x; /* [n] rows in the type's dot_input() form */
        const void *panels;   /* the same rows as the variant's panel_pack() makes them, 16 to a panel, or NULL */
        float *const *y;      /* [n] */
        const float *bias;    /* or NULL */
        bool accumulate;
        const float *scale;   /* [n], or NULL: 1 */
};

typedef void dot_fn(const struct dot_job *job);

/* Rows `first` to `first + rows` of the batch, all of one sequence, and the heads [head, head + heads) of
 * them, all of one kv head. */
struct attention_job {
        const struct op_attention *op;
        uint32_t first, rows, head, heads;
        float *scratch; /* attention_scratch_floats(op), aligned to 64 bytes */
};

enum { ATTENTION_ROWS = 8 /* most rows of a job */ };

/* A page of keys and one of values as float32, and for each row and head its query, running sums and two
 * scalars; every row padded to a multiple of 16. */
size_t attention_scratch_floats(const struct op_attention *op);

struct cpu_variant {
        const char *name;
        uint32_t needs; /* CPU_* bits, all of them */
        void (*dot_input)(enum dot_input input, void *dst, const float *src, uint32_t cols);
        void (*rms_norm)(const struct op_rms_norm *op, uint32_t begin, uint32_t end);
        void (*glu)(const struct op_glu *op, uint32_t begin, uint32_t end);
        void (*add)(const struct op_add *op, uint64_t begin, uint64_t end);
        void (*attention)(const struct attention_job *job);
        dot_fn *dot[_QUANT_MAX]; /* of types with a kernel of their own: cpu_variant_dot() knows them all */
        /* Where rows are wanted as panels: for jobs of at least so many rows of a type, 0: for none. All else is
         * undefined then. A panel takes panel_bytes() and is aligned to 4096 bytes. */
        uint32_t (*panel_rows)(enum quant_type type);
        size_t (*panel_bytes)(enum dot_input form, uint32_t cols);
        void (*panel_pack)(enum dot_input form, void *panel, const void *const *x, uint32_t n, uint32_t cols);
        /* The same for any type that is multiplied with 8-bit activations. */
        void (*dot_whole)(const struct dot_job *job, enum quant_type type);
};

/* Best first; the last needs nothing. Tests and the benchmark walk this same table. */
extern const struct cpu_variant *const cpu_variants[];
extern const unsigned n_cpu_variants;

extern const struct cpu_variant cpu_variant_amx, cpu_variant_avx512, cpu_variant_avx2, cpu_variant_c;

/* The best variant that these CPU bits allow, at most the one named (NULL: any). NULL: no variant has that
 * name. */
const struct cpu_variant *cpu_variant_choose(const char *name, uint32_t cpu_bits);

/* The job with the variant's kernel for a type with quant_info()->weights; one without takes float32 activations, and is
 * dequantised on the way. */
void cpu_variant_dot(const struct cpu_variant *v, enum quant_type type, const struct dot_job *job);

/* The end of every dot kernel: `v` is w[row] · x[t]. */
static inline void dot_store(const struct dot_job *job, uint32_t t, uint32_t row, float v) {
        float *y = job->y[t] + row;

        if (job->bias)
                v += job->bias[row];
        if (job->scale)
                v *= job->scale[t];
        *y = job->accumulate ? *y + v : v;
}
