/* SPDX-License-Identifier: MIT */
/* Attention of DeepSeek V4: one key per token that is also the value, a window of them, and beside it
 * entries that each compress several tokens: few tokens with an overlap, chosen by an indexer (CSA), or many
 * (HCA). Since values are rotated as keys, what comes out is turned back by the row's own position. */
#include "forward.h"

static uint32_t head_dim(const struct step *s) {
        return s->model->arch.params.k_dim;
}

/* The last dims of each head. */
static struct op_rope rope_of(const struct step *s, const struct arch_layer *made_of, struct device_ptr x,
                              uint32_t heads, uint32_t dim) {
        struct op_rope op = forward_rope(s, made_of->rope, x, heads, dim);

        op.offset = dim - op.dims;
        return op;
}

static int rotate(struct step *s, const struct arch_layer *made_of, struct device_ptr x, uint32_t heads,
                  uint32_t dim) {
        struct op_rope op = rope_of(s, made_of, x, heads, dim);

        return forward_ops(s)->rope(s->stream, &op);
}

static int project_query(struct step *s, const struct model_layer *layer, const struct arch_layer *made_of) {
        const struct arch_params *h = &s->model->arch.params;
        const struct weight *w = layer->weights;
        int r;

        r = forward_project(s, s->a.normed, &w[ARCH_ATTN_Q_A], s->a.q_low);
        if (!r)
                r = forward_norm(s, s->batch.rows, h->q_lora, s->a.q_low, &w[ARCH_ATTN_Q_A_NORM], s->a.q_low);
        if (!r)
                r = forward_project(s, s->a.q_low, &w[ARCH_ATTN_Q_B], s->a.q);
        if (!r)
                r = forward_norm(s, s->batch.rows * h->heads, head_dim(s), s->a.q, NULL, s->a.q);
        return r ? r : rotate(s, made_of, s->a.q, h->heads, head_dim(s));
}

static int store_key(struct step *s, const struct model_layer *layer, const struct arch_layer *made_of) {
        const struct weight *w = layer->weights;
        int r;

        r = forward_project(s, s->a.normed, &w[ARCH_ATTN_KV], s->a.k);
        if (!r)
                r = forward_norm(s, s->batch.rows, head_dim(s), s->a.k, &w[ARCH_ATTN_KV_A_NORM], s->a.k);
        if (!r)
                r = rotate(s, made_of, s->a.k, 1, head_dim(s));
        if (r)
                return r;
        return forward_ops(s)->kv_store(s->stream, &(struct op_kv_store) {
                .rows = forward_rows(s), .kv = layer->kv, .k = s->a.k,
        });
}

/* One of the compressors of a layer: the attention's, or its indexer's. */
struct compressor {
        const struct weight *v, *gate, *bias, *norm;
        const struct kv_layer *entries;
        struct device_ptr state;
};

/* An entry is turned by the position of its first token. */
static int store_entries(struct step *s, const struct arch_layer *made_of, const struct compressor *c) {
        uint32_t dim = c->entries->k_dim, ratio = c->entries->ratio;
        struct op_rope rope = rope_of(s, made_of, s->a.entry, 1, dim);
        int r;

        rope.multiple = ratio;
        r = forward_project(s, s->a.normed, c->v, s->a.compress_v);
        if (!r)
                r = forward_project(s, s->a.normed, c->gate, s->a.compress_gate);
        if (!r)
                r = forward_ops(s)->compress(s->stream, &(struct op_compress) {
                        .rows = forward_rows(s), .ratio = ratio, .dim = dim,
                        .overlap = made_of->parts & ARCH_CSA, .v = s->a.compress_v,
                        .g = s->a.compress_gate, .bias = c->bias->data, .state = c->state, .y = s->a.entry,
                });
        if (!r)
                r = forward_norm(s, s->batch.rows, dim, s->a.entry, c->norm, s->a.entry);
        if (!r)
                r = forward_ops(s)->rope(s->stream, &rope);
        if (r)
                return r;
        return forward_ops(s)->kv_store(s->stream, &(struct op_kv_store) {
                .rows = forward_rows(s), .kv = *c->entries, .k = s->a.entry,
        });
}

/* The factors on the scores are the same for all entries: they change no choice. */
static int choose(struct step *s, const struct model_layer *layer, const struct arch_layer *made_of) {
        const struct arch_params *h = &s->model->arch.params;
        const struct weight *w = layer->weights;
        struct compressor c = {
                .v = &w[ARCH_INDEX_V], .gate = &w[ARCH_INDEX_GATE], .bias = &w[ARCH_INDEX_BIAS],
                .norm = &w[ARCH_INDEX_NORM], .entries = &layer->index, .state = layer->index_state,
        };
        int r;

        r = store_entries(s, made_of, &c);
        if (!r)
                r = forward_project(s, s->a.q_low, &w[ARCH_INDEX_Q], s->a.index_q);
        if (!r)
                r = rotate(s, made_of, s->a.index_q, h->index_heads, h->index_dim);
        if (!r)
                r = forward_project(s, s->a.normed, &w[ARCH_INDEX_WEIGHTS], s->a.index_weights);
        if (r)
                return r;
        return forward_ops(s)->index(s->stream, &(struct op_index) {
                .rows = forward_rows(s), .keys = layer->index, .heads = h->index_heads, .k = h->index_k,
                .q = s->a.index_q, .weights = s->a.index_weights, .chosen = s->a.chosen,
        });
}

static int compress(struct step *s, const struct model_layer *layer, const struct arch_layer *made_of) {
        const struct weight *w = layer->weights;
        struct compressor c = {
                .v = &w[ARCH_COMPRESS_V], .gate = &w[ARCH_COMPRESS_GATE], .bias = &w[ARCH_COMPRESS_BIAS],
                .norm = &w[ARCH_COMPRESS_NORM], .entries = &layer->entries, .state = layer->state,
        };
        int r = 0;

        if (made_of->parts & (ARCH_CSA | ARCH_HCA))
                r = store_entries(s, made_of, &c);
        if (!r && made_of->parts & ARCH_CSA)
                r = choose(s, layer, made_of);
        return r;
}

static int attend(struct step *s, const struct model_layer *layer, const struct arch_layer *made_of) {
        const struct arch_params *h = &s->model->arch.params;
        struct op_rope back = rope_of(s, made_of, s->a.attended, h->heads, head_dim(s));
        int r;

        r = forward_ops(s)->sparse_attention(s->stream, &(struct op_sparse_attention) {
                .rows = forward_rows(s), .kv = layer->kv, .entries = layer->entries, .heads = h->heads,
                .window = h->window, .scale = h->attention_scale,
                .chosen = made_of->parts & ARCH_CSA ? s->a.chosen : DEVICE_NULL, .chosen_max = h->index_k,
                .sinks = layer->weights[ARCH_ATTN_SINKS].data, .q = s->a.q, .out = s->a.attended,
        });
        if (r)
                return r;
        back.inverse = true;
        return forward_ops(s)->rope(s->stream, &back);
}

/* Heads in groups of neighbours, each with a matrix to a lower rank; then one for all. */
static int project_out(struct step *s, const struct model_layer *layer) {
        const struct arch_params *h = &s->model->arch.params;
        struct weight low = layer->weights[ARCH_ATTN_OUTPUT_A];
        int r;

        low.rows = h->out_lora;
        low.stack = h->out_groups;
        r = forward_ops(s)->head_matmul(s->stream, &(struct op_head_matmul) {
                .n = s->batch.rows, .w = low, .head_rows = h->out_lora, .prompt = s->batch.device_prompts,
                .x = s->a.attended, .x_stride = h->heads * h->v_dim, .x_head_stride = low.cols,
                .y = s->a.out_low, .y_stride = h->out_groups * h->out_lora, .y_head_stride = h->out_lora,
        });
        return r ? r : forward_project_back(s, s->a.out_low, &layer->weights[ARCH_ATTN_OUTPUT_B], s->a.x);
}

int attention_windowed(struct step *s, const struct model_layer *layer, const struct arch_layer *made_of) {
        int r;

        r = forward_sublayer(s, made_of->parts, &layer->weights[ARCH_ATTN_NORM]);
        if (!r)
                r = project_query(s, layer, made_of);
        if (!r)
                r = store_key(s, layer, made_of);
        if (!r)
                r = compress(s, layer, made_of);
        if (!r)
                r = attend(s, layer, made_of);
        return r ? r : project_out(s, layer);
}
