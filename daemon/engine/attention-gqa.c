/* SPDX-License-Identifier: MIT */
#include "forward.h"

static int project_qkv(struct step *s, const struct model_layer *layer) {
        const struct weight *w = layer->weights;
        const struct step_activations *a = &s->a;

        return forward_ops(s)->matmul(s->stream, &(struct op_matmul) {
                .n = s->batch.rows, .x = a->normed, .x_stride = w[ARCH_ATTN_Q].cols,
                .prompt = s->batch.device_prompts, .count = 3,
                .out = {
                        { w[ARCH_ATTN_Q], w[ARCH_ATTN_Q_BIAS].data, a->q, w[ARCH_ATTN_Q].rows },
                        { w[ARCH_ATTN_K], w[ARCH_ATTN_K_BIAS].data, a->k, w[ARCH_ATTN_K].rows },
                        { w[ARCH_ATTN_V], w[ARCH_ATTN_V_BIAS].data, a->v, w[ARCH_ATTN_V].rows },
                },
        });
}

static int norm_heads(struct step *s, const struct weight *w, uint32_t heads, uint32_t parts,
                      struct device_ptr x) {
        uint32_t dim = s->model->arch.params.k_dim;

        if (parts & ARCH_QK_NORM_HEAD)
                return forward_norm(s, s->batch.rows * heads, dim, x, w, x);
        if (parts & ARCH_QK_NORM_ROW)
                return forward_norm(s, s->batch.rows, heads * dim, x, w, x);
        return 0;
}

static int rotate(struct step *s, const struct arch_layer *made_of, uint32_t heads, struct device_ptr x) {
        struct op_rope op = forward_rope(s, made_of->rope, x, heads, s->model->arch.params.k_dim);

        return forward_ops(s)->rope(s->stream, &op);
}

static int attend(struct step *s, const struct model_layer *layer, const struct arch_layer *made_of) {
        const struct arch_params *h = &s->model->arch.params;
        int r;

        r = forward_ops(s)->kv_store(s->stream, &(struct op_kv_store) {
                .rows = forward_rows(s), .kv = layer->kv, .k = s->a.k, .v = s->a.v,
        });
        if (r)
                return r;
        return forward_ops(s)->attention(s->stream, &(struct op_attention) {
                .rows = forward_rows(s), .kv = layer->kv, .heads = h->heads, .scale = h->attention_scale,
                .window = made_of->window, .sinks = layer->weights[ARCH_ATTN_SINKS].data,
                .q = s->a.q, .out = s->a.attended,
        });
}

static int project_output(struct step *s, const struct model_layer *layer, const struct arch_layer *made_of) {
        const struct weight *w = &layer->weights[ARCH_ATTN_OUTPUT];
        struct device_ptr y;
        int r;

        r = forward_branch(s, made_of, &y);
        if (!r)
                r = forward_ops(s)->matmul(s->stream, &(struct op_matmul) {
                        .n = s->batch.rows, .x = s->a.attended, .x_stride = w->cols,
                        .prompt = s->batch.device_prompts, .count = 1, .accumulate = true,
                        .out[0] = { *w, layer->weights[ARCH_ATTN_OUTPUT_BIAS].data, y, w->rows },
                });
        if (!r)
                r = forward_join(s, made_of, &layer->weights[ARCH_ATTN_NORM_AFTER]);
        return r;
}

int attention_gqa(struct step *s, const struct model_layer *layer, const struct arch_layer *made_of) {
        const struct arch_params *h = &s->model->arch.params;
        const struct weight *w = layer->weights;
        int r;

        r = forward_norm(s, s->batch.rows, h->hidden, s->a.x, &w[ARCH_ATTN_NORM], s->a.normed);
        if (!r)
                r = project_qkv(s, layer);
        if (!r)
                r = norm_heads(s, &w[ARCH_ATTN_Q_NORM], h->heads, made_of->parts, s->a.q);
        if (!r)
                r = norm_heads(s, &w[ARCH_ATTN_K_NORM], h->kv_heads, made_of->parts, s->a.k);
        if (!r)
                r = rotate(s, made_of, h->heads, s->a.q);
        if (!r)
                r = rotate(s, made_of, h->kv_heads, s->a.k);
        if (!r)
                r = attend(s, layer, made_of);
        if (!r)
                r = project_output(s, layer, made_of);
        return r;
}
