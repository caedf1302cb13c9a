/* SPDX-License-Identifier: MIT */
/* DeepSeek sparse attention (DeepSeek V3.2): a small scorer, the lightning indexer, with keys of its own
 * chooses which positions a row attends to. A row that sees no more than it may choose takes the same way,
 * so that its bits do not depend on the batch. */
#include "forward.h"

/* The first dims of each head. */
static int rotate(struct step *s, struct device_ptr x, uint32_t heads) {
        struct op_rope op = forward_rope(s, ARCH_ROPE_MAIN, x, heads, s->model->arch.params.index_dim);

        op.pairs = s->model->arch.arch->index_pairs;
        return forward_ops(s)->rope(s->stream, &op);
}

static int project(struct step *s, const struct model_layer *layer) {
        const struct arch_params *h = &s->model->arch.params;
        const struct weight *w = layer->weights;
        int r;

        r = forward_project(s, s->a.q_low, &w[ARCH_INDEX_Q], s->a.index_q);
        if (!r)
                r = forward_project(s, s->a.normed, &w[ARCH_INDEX_K], s->a.index_k);
        if (!r)
                r = forward_project(s, s->a.normed, &w[ARCH_INDEX_WEIGHTS], s->a.index_weights);
        if (!r)
                r = forward_ops(s)->layer_norm(s->stream, &(struct op_layer_norm) {
                        .n = s->batch.rows, .dim = h->index_dim, .x = s->a.index_k, .y = s->a.index_k,
                        .w = w[ARCH_INDEX_K_NORM].data, .b = w[ARCH_INDEX_K_NORM_BIAS].data, .eps = 1e-6f,
                });
        if (!r)
                r = rotate(s, s->a.index_q, h->index_heads);
        if (!r)
                r = rotate(s, s->a.index_k, 1);
        return r;
}

/* The factors on the scores, 1/√heads and 1/√dim, are positive and the same for all: they change no
 * choice. */
static int choose(struct step *s, const struct model_layer *layer) {
        const struct arch_params *h = &s->model->arch.params;
        int r;

        r = project(s, layer);
        if (!r)
                r = forward_ops(s)->kv_store(s->stream, &(struct op_kv_store) {
                        .rows = forward_rows(s), .kv = layer->index, .k = s->a.index_k,
                });
        if (r)
                return r;
        return forward_ops(s)->index(s->stream, &(struct op_index) {
                .rows = forward_rows(s), .keys = layer->index, .heads = h->index_heads, .k = h->index_k,
                .q = s->a.index_q, .weights = s->a.index_weights, .chosen = s->a.chosen,
        });
}

int attention_dsa(struct step *s, const struct model_layer *layer, uint32_t parts) {
        const struct arch_params *h = &s->model->arch.params;
        int r = 0;

        if (parts & ARCH_INDEXER)
                r = choose(s, layer);
        if (r)
                return r;
        return forward_ops(s)->sparse_attention(s->stream, &(struct op_sparse_attention) {
                .rows = forward_rows(s), .kv = layer->kv, .entries = layer->kv, .heads = h->heads,
                .scale = h->attention_scale, .chosen = s->a.chosen, .chosen_max = h->index_k,
                .q = s->a.q, .out = s->a.attended,
        });
}
