/* SPDX-License-Identifier: MIT */
/* Dense attention on the matrix unit: keys and values lie in pages. */
#include "amx-attention.h"
#include "amx-matrix.h"
#include "amx-place.h"
#include "base/util.h"
#include "host.h"
#include "tile.h"

struct pages {
        const struct kv_layer *kv;
        const int32_t *pages;
        uint32_t kv_head;
};

static size_t page_slot(const struct pages *p, uint32_t page) {
        return ((size_t) p->pages[page] * p->kv->kv_heads + p->kv_head) * KV_PAGE_TOKENS;
}

struct dense_source {
        struct source base;
        struct pages pages;
};

static void find_dense(const struct source *base, uint32_t key, uint32_t end, const uint16_t **keys,
                       const uint16_t **values) {
        const struct pages *p = &container_of(base, const struct dense_source, base)->pages;

        for (uint32_t i = key; i < end; i++) {
                size_t slot = page_slot(p, i / KV_PAGE_TOKENS) + i % KV_PAGE_TOKENS;

                keys[i - key] = (const uint16_t *) host_address(p->kv->k) + slot * p->kv->k_dim;
                if (p->kv->v.address)
                        values[i - key] = (const uint16_t *) host_address(p->kv->v) + slot * p->kv->v_dim;
        }
}

static void place_rows(struct work *w, const struct attention_job *job) {
        const struct op_attention *op = job->op;
        const int32_t *positions = host_address(op->rows.positions);
        const float *q = host_address(op->q);

        w->softcap = op->softcap;
        for (uint32_t g = 0; g < w->groups; g++) {
                const float *queries[LANES];

                /* Spare lanes do as the last pair does. */
                for (uint32_t l = 0; l < LANES; l++) {
                        uint32_t pair = MIN(g * LANES + l, w->pairs - 1), row = job->first + pair / job->heads;
                        size_t head = job->head + pair % job->heads;

                        queries[l] = q + (row * op->heads + head) * op->kv.k_dim;
                        w->lanes[g].first[l] = (int32_t) attention_first(op, (uint32_t) positions[row]);
                        w->lanes[g].last[l] = positions[row];
                }
                amx_attend_bound(&w->lanes[g]);
                amx_attend_queries(w, g, queries, op->kv.k_dim, op->scale);
        }
}

static void attend_split(const struct attention_job *job) {
        const struct op_attention *op = job->op;
        const int32_t *positions = host_address(op->rows.positions);
        struct dense_source source = {
                .base = {
                        .first = MAX(attention_first(op, positions[job->first]), job->begin),
                        .end = MIN((uint32_t) positions[job->first + job->rows - 1] + 1, job->end),
                        .known = (uint32_t) positions[job->first + job->rows - 1] + 1,
                        .direct = op->kv.k_dim % CHUNK == 0 && op->kv.v_dim % CHUNK == 0,
                        .find = find_dense,
                },
                .pages = {
                        .kv = &op->kv,
                        .pages = (const int32_t *) host_address(op->rows.page_table) +
                                 (size_t) ((const int32_t *) host_address(op->rows.sequences))[job->first] *
                                         op->rows.page_table_stride,
                        .kv_head = job->head / (op->heads / op->kv.kv_heads),
                },
        };
        struct work w;

        amx_attend_init(&w, &op->kv, job->rows * job->heads, job->scratch);
        place_rows(&w, job);
        amx_attend_keys(&w, &source.base);
        amx_attend_store(&w, &job->part, op->kv.v_dim);
}

void attention_amx(const struct attention_job *job) {
        uint32_t mode;

        if (job->op->kv.type != QUANT_BF16) {
                attention_avx512(job);
                return;
        }
        mode = amx_attend_begin();
        attend_split(job);
        amx_attend_end(mode);
}
