/* SPDX-License-Identifier: MIT */
/* Multi-head latent attention (arXiv 2405.04434, section 2.1) in its absorbed form, for prompts and single
 * tokens alike: with k = [K l | k_rope] and v = V l of a latent l, q·k = (Kᵀ q_nope)·l + q_rope·k_rope, and
 * Σ p v = V Σ p l. All heads share one key, the latent and k_rope, whose first part is the value; nothing
 * else is kept of a token. */
#include "forward.h"

static uint32_t query_dim(const struct arch_params *h) {
        return h->qk_nope + h->rope_dims;
}

/* q_heads: [heads][nope | rope] */
static int project_query(struct step *s, const struct model_layer *layer, uint32_t parts) {
        const struct arch_params *h = &s->model->arch.params;
        const struct weight *w = layer->weights;
        int r;

        if (parts & ARCH_MLA_Q)
                return forward_project(s, s->a.normed, &w[ARCH_ATTN_Q], s->a.q_heads);
        r = forward_project(s, s->a.normed, &w[ARCH_ATTN_Q_A], s->a.q_low);
        if (!r)
                r = forward_norm(s, s->batch.rows, h->q_lora, s->a.q_low, &w[ARCH_ATTN_Q_A_NORM], s->a.q_low);
        if (!r)
                r = forward_project(s, s->a.q_low, &w[ARCH_ATTN_Q_B], s->a.q_heads);
        return r;
}

/* k: [latent | rope] */
static int project_latent(struct step *s, const struct model_layer *layer) {
        const struct arch_params *h = &s->model->arch.params;
        const struct weight *w = layer->weights;
        int r;

        r = forward_project(s, s->a.normed, &w[ARCH_ATTN_KV_A], s->a.k);
        if (!r)
                r = forward_norm_strided(s, s->batch.rows, h->kv_lora, s->a.k, h->k_dim,
                                         &w[ARCH_ATTN_KV_A_NORM], s->a.k, h->k_dim);
        return r;
}

/* The last dims of each head. */
static int rotate(struct step *s, struct device_ptr x, uint32_t heads, uint32_t head_dim) {
        struct op_rope op = forward_rope(s, ARCH_ROPE_MAIN, x, heads, head_dim);

        op.offset = head_dim - op.dims;
        return forward_ops(s)->rope(s->stream, &op);
}

/* q: [heads][Kᵀ q_nope | q_rope] */
static int absorb_query(struct step *s, const struct model_layer *layer, uint32_t parts) {
        const struct arch_params *h = &s->model->arch.params;
        struct op_head_matmul op = {
                .n = s->batch.rows, .w = layer->weights[ARCH_ATTN_K_B], .head_rows = h->kv_lora,
                .prompt = s->batch.device_prompts,
                .x = s->a.q_heads, .x_stride = h->heads * query_dim(h), .x_head_stride = query_dim(h),
                .y = s->a.q, .y_stride = h->heads * h->k_dim, .y_head_stride = h->k_dim,
        };
        int r;

        if (parts & ARCH_MLA_WHOLE) {
                op.w = layer->weights[ARCH_ATTN_KV_B];
                op.w.rows = h->qk_nope;
                op.w.stack = h->heads;
                op.head_rows = h->qk_nope + h->mla_v;
                op.transposed = true;
        }
        r = forward_ops(s)->head_matmul(s->stream, &op);
        if (r)
                return r;
        return forward_ops(s)->copy(s->stream, &(struct op_copy) {
                .n = s->batch.rows * h->heads, .dim = h->rope_dims,
                .x = device_offset(s->a.q_heads, h->qk_nope * sizeof(float)), .x_stride = query_dim(h),
                .y = device_offset(s->a.q, h->kv_lora * sizeof(float)), .y_stride = h->k_dim,
        });
}

/* q_heads: [heads][V latent] */
static int expand_values(struct step *s, const struct model_layer *layer, uint32_t parts) {
        const struct arch_params *h = &s->model->arch.params;
        struct op_head_matmul op = {
                .n = s->batch.rows, .w = layer->weights[ARCH_ATTN_V_B], .head_rows = h->mla_v,
                .prompt = s->batch.device_prompts,
                .x = s->a.attended, .x_stride = h->heads * h->v_dim, .x_head_stride = h->v_dim,
                .y = s->a.q_heads, .y_stride = h->heads * h->mla_v, .y_head_stride = h->mla_v,
        };

        if (parts & ARCH_MLA_WHOLE) {
                const struct weight *w = &layer->weights[ARCH_ATTN_KV_B];
                size_t row_bytes = quant_row_bytes(quant_info(w->type), w->cols);

                op.w = *w;
                op.w.data = device_offset(w->data, h->qk_nope * row_bytes);
                op.w.rows = h->mla_v;
                op.w.stack = h->heads;
                op.head_rows = h->qk_nope + h->mla_v;
        }
        return forward_ops(s)->head_matmul(s->stream, &op);
}

static int attend(struct step *s, const struct model_layer *layer, uint32_t parts) {
        const struct arch_params *h = &s->model->arch.params;
        int r;

        r = forward_ops(s)->kv_store(s->stream, &(struct op_kv_store) {
                .rows = forward_rows(s), .kv = layer->kv, .k = s->a.k,
        });
        if (r)
                return r;
        if (parts & ARCH_DSA)
                return attention_dsa(s, layer, parts);
        return forward_ops(s)->attention(s->stream, &(struct op_attention) {
                .rows = forward_rows(s), .kv = layer->kv, .heads = h->heads, .scale = h->attention_scale,
                .q = s->a.q, .out = s->a.attended,
        });
}

int attention_mla(struct step *s, const struct model_layer *layer, uint32_t parts) {
        const struct arch_params *h = &s->model->arch.params;
        const struct weight *w = layer->weights;
        int r;

        r = forward_norm(s, s->batch.rows, h->hidden, s->a.x, &w[ARCH_ATTN_NORM], s->a.normed);
        if (!r)
                r = project_query(s, layer, parts);
        if (!r)
                r = project_latent(s, layer);
        if (!r)
                r = rotate(s, s->a.q_heads, h->heads, query_dim(h));
        if (!r)
                r = rotate(s, s->a.k, 1, h->k_dim);
        if (!r)
                r = absorb_query(s, layer, parts);
        if (!r)
                r = attend(s, layer, parts);
        if (!r)
                r = expand_values(s, layer, parts);
        if (!r)
                r = forward_project_back(s, s->a.q_heads, &w[ARCH_ATTN_OUTPUT], s->a.x);
        return r;
}
