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

static void attention_c(const struct attention_job *job) {
        for (uint32_t t = job->first; t < job->first + job->rows; t++) {
                uint64_t item = (uint64_t) t * job->op->heads + job->head;

                ref_attention(job->op, item, item + job->heads);
        }
}

/* The definition of the results. */
const struct cpu_variant cpu_variant_c = {
        .name = "c",
        .dot_input = ref_dot_input,
        .rms_norm = ref_rms_norm,
        .glu = ref_glu,
        .add = ref_add,
        .attention = attention_c,
        .dot_whole = dot_c,
        .dot =
                {
                        [QUANT_F32] = dot_f32_c,
                        [QUANT_F16] = dot_f16_c,
                        [QUANT_BF16] = dot_bf16_c,
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

static size_t pad16(size_t n) {
        return (n + 15) & ~(size_t) 15;
}

size_t attention_scratch_floats(const struct op_attention *op) {
        size_t k = pad16(op->kv.k_dim), v = pad16(op->kv.v_dim);
        size_t pairs = (size_t) ATTENTION_ROWS * (op->heads / op->kv.kv_heads);

        return KV_PAGE_TOKENS * (k + v) + pairs * (k + v) + pad16(2 * pairs);
}
