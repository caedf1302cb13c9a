/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "base/util.h"
#include "host.h"
#include "machine.h"
#include "variant.h"

static void dot_c(const struct dot_job *job, enum quant_type type) {
        for (uint32_t row = job->begin; row < job->end; row++)
                for (uint32_t t = 0; t < job->n; t++)
                        dot_store(job, t, row,
                                  ref_dot(type, job->w + row * job->row_bytes, job->x[t], job->cols));
}

#define DOT_C(_name, _type)                                                                                  \
        static void dot_##_name##_c(const struct dot_job *job) {                                             \
                dot_c(job, _type);                                                                           \
        }

DOT_C(f32, QUANT_F32)
DOT_C(f16, QUANT_F16)
DOT_C(bf16, QUANT_BF16)
DOT_C(q8_0, QUANT_Q8_0)
DOT_C(q4_0, QUANT_Q4_0)
DOT_C(q4_k, QUANT_Q4_K)
DOT_C(q6_k, QUANT_Q6_K)

static void blend_c(float *y, float a, const float *x, float b, uint32_t n) {
        for (uint32_t i = 0; i < n; i++)
                y[i] = a * y[i] + b * x[i];
}

/* The definition of the results. */
const struct cpu_variant cpu_variant_c = {
        .name = "c",
        .dot_input = ref_dot_input,
        .rms_norm = ref_rms_norm,
        .glu = ref_glu,
        .add = ref_add,
        .blend = blend_c,
        .dot =
                {
                        [QUANT_F32] = dot_f32_c,
                        [QUANT_F16] = dot_f16_c,
                        [QUANT_BF16] = dot_bf16_c,
                        [QUANT_Q8_0] = dot_q8_0_c,
                        [QUANT_Q4_0] = dot_q4_0_c,
                        [QUANT_Q4_K] = dot_q4_k_c,
                        [QUANT_Q6_K] = dot_q6_k_c,
                },
};

const struct cpu_variant *const cpu_variants[] = {
#if defined(__x86_64__)
        &cpu_variant_amx,
        &cpu_variant_avx512,
        &cpu_variant_avx2,
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
