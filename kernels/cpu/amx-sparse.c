/* SPDX-License-Identifier: MIT */
/* Attention to chosen keys, from all over the pages, on the matrix unit. */
#include "amx-attention.h"
#include "amx-matrix.h"
#include "amx-place.h"
#include "base/util.h"
#include "host.h"

struct sparse_source {
        struct source base;
        const struct sparse_job *job;
};

static void find_sparse(const struct source *base, uint32_t key, uint32_t end, const uint16_t **keys,
                        const uint16_t **values) {
        const struct sparse_job *job = container_of(base, const struct sparse_source, base)->job;

        (void) values;
        for (uint32_t i = key; i < end; i++)
                keys[i - key] = (const uint16_t *) sparse_key(job->op, job->keys, i);
}

static void attend_sparse(const struct sparse_job *job) {
        const struct op_sparse_attention *op = job->op;
        const float *q = (const float *) host_address(op->q) +
                         ((size_t) job->row * op->heads + job->head) * op->kv.k_dim;
        struct sparse_source source = {
                .base = {.first = job->begin, .end = job->end, .known = job->keys->count, .find = find_sparse},
                .job = job,
        };
        struct work w;

        amx_attend_init(&w, &op->kv, job->heads, job->scratch);
        w.softcap = 0.0f;
        for (uint32_t g = 0; g < w.groups; g++) {
                const float *queries[LANES];

                for (uint32_t l = 0; l < LANES; l++) {
                        queries[l] = q + (size_t) MIN(g * LANES + l, w.pairs - 1) * op->kv.k_dim;
                        w.lanes[g].first[l] = 0;
                        w.lanes[g].last[l] = (int32_t) job->end - 1;
                }
                amx_attend_bound(&w.lanes[g]);
                amx_attend_queries(&w, g, queries, op->kv.k_dim, op->scale);
        }
        amx_attend_keys(&w, &source.base);
        amx_attend_store(&w, &job->part, op->kv.v_dim);
}

void sparse_attention_amx(const struct sparse_job *job) {
        uint32_t mode = amx_attend_begin();

        attend_sparse(job);
        amx_attend_end(mode);
}
