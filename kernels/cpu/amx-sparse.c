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

static void prefetch_key(const struct sparse_job *job, uint32_t i) {
        if (i < job->end)
                prefetch((const uint16_t *) sparse_key(job->op, job->keys, i), job->op->kv.k_dim);
}

static void place_sparse(const struct source *base, const struct work *w, uint32_t key, uint32_t at, uint32_t value_at,
                         struct matrix *m) {
        enum { AHEAD = 8 };
        const struct sparse_job *job = container_of(base, const struct sparse_source, base)->job;

        for (uint32_t j = 0; j < CHUNK; j++) {
                const void *from = key + j < base->end ? sparse_key(job->op, job->keys, key + j) : NULL;

                prefetch_key(job, key + j + AHEAD);
                place_key(w, at + j, from, job->op->kv.k_dim);
                if (j % 2) {
                        place_key_values(w, value_at + j - 1, at + j - 1);
                        matrix_slot(m, m->two);
                }
        }
}

static void attend_sparse(const struct sparse_job *job) {
        const struct op_sparse_attention *op = job->op;
        const float *q = (const float *) host_address(op->q) +
                         ((size_t) job->row * op->heads + job->head) * op->kv.k_dim;
        struct sparse_source source = {
                .base = {.first = job->begin, .end = job->end, .place = place_sparse},
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
