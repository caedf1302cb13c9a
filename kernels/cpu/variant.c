/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "base/util.h"
#include "host.h"
#include "machine.h"
#include "variant.h"

void dot_c(const struct dot_job *job, enum quant_type type) {
        for (uint32_t row = job->begin; row < job->end; row++)
                for (uint32_t t = 0; t < job->n; t++)
                        dot_store(job, t, row,
                                  ref_dot(type, job->w + row * job->row_bytes, job->x[t], job->cols));
}

#define DOT_C(_name, _type)                                                                                  \
        void dot_##_name##_c(const struct dot_job *job) {                                                    \
                dot_c(job, _type);                                                                           \
        }

DOT_C(f32, QUANT_F32)
DOT_C(f16, QUANT_F16)
DOT_C(bf16, QUANT_BF16)

void mix_c(const struct mix_job *job) {
        for (uint32_t t = 0; t < job->n; t++)
                for (uint32_t r = 0; r < job->rows; r++)
                        for (uint32_t c = 0; c < job->cols; c++)
                                job->y[t * job->y_stride + c] +=
                                        job->x[t * job->x_stride + r] * job->w[(size_t) r * job->cols + c];
}

void blend_c(float *y, float a, const float *x, float b, uint32_t n) {
        for (uint32_t i = 0; i < n; i++)
                y[i] = a * y[i] + b * x[i];
}

/* The definition of the results. */
const struct cpu_variant cpu_variant_c = {
        .name = "c",
        ROWS_MEMBERS_C,
        .dot_whole = dot_c,
        .dot = {DOT_MEMBERS_C},
};

const struct cpu_variant *const cpu_variants[] = {
#if defined(__x86_64__)
        &cpu_variant_amx,
        &cpu_variant_avx512,
        &cpu_variant_avx2,
#elif defined(__aarch64__)
        &cpu_variant_i8mm,
        &cpu_variant_neon,
#endif
        &cpu_variant_c,
};
const unsigned n_cpu_variants = ELEMENTS(cpu_variants);

const struct cpu_variant *cpu_variant_choose(const char *name, uint32_t cpu_bits) {
        unsigned i = 0;

        while (name && i < n_cpu_variants && strcmp(cpu_variants[i]->name, name) != 0)
                i++;
        for (; i < n_cpu_variants; i++)
                if ((cpu_variants[i]->needs & cpu_bits) == cpu_variants[i]->needs)
                        return cpu_variants[i];
        return NULL;
}

static size_t pad32(size_t n) {
        return (n + 31) & ~(size_t) 31;
}

size_t attention_scratch(const struct kv_layer *kv, uint32_t pairs) {
        size_t k = pad32(kv->k_dim), v = pad32(kv->v_dim), lanes = pad32(pairs);
        size_t keys = MAX((k + v) * ATTENTION_BLOCK * sizeof(float), (size_t) ATTENTION_STAGE);

        return keys + (lanes * (k + v + 5) + 96 * ATTENTION_BLOCK) * sizeof(float);
}

/* A block of keys, products of the heads with it, queries and weights. */
size_t index_scratch(const struct op_index *op) {
        size_t k = pad32(op->keys.k_dim), heads = pad32(op->heads);

        return (INDEX_BLOCK * (k + heads) + heads * (k + 1) * INDEX_ROWS + 32 * ATTENTION_BLOCK) * sizeof(float);
}
