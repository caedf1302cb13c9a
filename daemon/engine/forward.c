/* SPDX-License-Identifier: MIT */
#include "step.h"

/* One forward pass for every architecture: what a layer is made of decides which operations are enqueued. */

static const struct backend_ops *ops_of(const struct step *s) {
        return s->model->backend->ops;
}

static struct op_rows rows_of(const struct step *s) {
        const struct step_batch *b = &s->batch;

        return (struct op_rows) {
                .n = b->rows,
                .ids = b->device_ids,
                .positions = b->device_positions,
                .sequences = b->device_sequences,
                .page_table = s->page_table.at,
                .page_table_stride = s->page_stride,
                .position_max = b->position_max,
        };
}

/* y = norm(x), n rows of `dim` next to each other. */
static int rms_norm(struct step *s, uint32_t n, uint32_t dim, struct device_ptr x, const struct weight *w,
                    struct device_ptr y) {
        return ops_of(s)->rms_norm(s->stream, &(struct op_rms_norm) {
                .n = n, .dim = dim, .x = x, .w = w->data, .y = y, .x_stride = dim, .y_stride = dim,
                .eps = s->model->arch.params.eps,
        });
}

/* y += W x */
static int project_back(struct step *s, struct device_ptr x, const struct weight *w, struct device_ptr y) {
        return ops_of(s)->matmul(s->stream, &(struct op_matmul) {
                .n = s->batch.rows, .x = x, .x_stride = w->cols, .count = 1, .accumulate = true,
                .out[0] = { .w = *w, .y = y, .y_stride = w->rows },
        });
}

static int project_qkv(struct step *s, const struct model_layer *layer) {
        const struct weight *w = layer->weights;
        const struct step_activations *a = &s->a;

        return ops_of(s)->matmul(s->stream, &(struct op_matmul) {
                .n = s->batch.rows, .x = a->normed, .x_stride = w[ARCH_ATTN_Q].cols, .count = 3,
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
                return rms_norm(s, s->batch.rows * heads, dim, x, w, x);
        if (parts & ARCH_QK_NORM_ROW)
                return rms_norm(s, s->batch.rows, heads * dim, x, w, x);
        return 0;
}

static int rotate(struct step *s, uint32_t heads, struct device_ptr x) {
        const struct model *m = s->model;
        const struct arch_params *h = &m->arch.params;

        return ops_of(s)->rope(s->stream, &(struct op_rope) {
                .n = s->batch.rows, .heads = heads, .head_dim = h->k_dim, .dims = h->rope_dims,
                .stride = heads * h->k_dim, .pairs = m->arch.arch->pairs, .magnitude = m->arch.rope_magnitude,
                .x = x, .positions = s->batch.device_positions,
                .frequencies = ops_of(s)->buffer_address(m->frequencies),
        });
}

static int attend(struct step *s, const struct model_layer *layer) {
        const struct arch_params *h = &s->model->arch.params;
        int r;

        r = ops_of(s)->kv_store(s->stream, &(struct op_kv_store) {
                .rows = rows_of(s), .kv = layer->kv, .k = s->a.k, .v = s->a.v,
        });
        if (r)
                return r;
        return ops_of(s)->attention(s->stream, &(struct op_attention) {
                .rows = rows_of(s), .kv = layer->kv, .heads = h->heads, .scale = h->attention_scale,
                .q = s->a.q, .out = s->a.attended,
        });
}

/* x += O attention(norm(x)) */
static int attention(struct step *s, const struct model_layer *layer, uint32_t parts) {
        const struct arch_params *h = &s->model->arch.params;
        const struct weight *w = layer->weights;
        int r;

        r = rms_norm(s, s->batch.rows, h->hidden, s->a.x, &w[ARCH_ATTN_NORM], s->a.normed);
        if (!r)
                r = project_qkv(s, layer);
        if (!r)
                r = norm_heads(s, &w[ARCH_ATTN_Q_NORM], h->heads, parts, s->a.q);
        if (!r)
                r = norm_heads(s, &w[ARCH_ATTN_K_NORM], h->kv_heads, parts, s->a.k);
        if (!r)
                r = rotate(s, h->heads, s->a.q);
        if (!r)
                r = rotate(s, h->kv_heads, s->a.k);
        if (!r)
                r = attend(s, layer);
        if (!r)
                r = project_back(s, s->a.attended, &w[ARCH_ATTN_OUTPUT], s->a.x);
        return r;
}

/* x += down( act(gate h) × (up h) ), h the normed row */
static int dense(struct step *s, const struct model_layer *layer) {
        const struct weight *w = layer->weights;
        const struct step_activations *a = &s->a;
        uint32_t ffn = w[ARCH_FFN_GATE].rows;
        int r;

        r = ops_of(s)->matmul(s->stream, &(struct op_matmul) {
                .n = s->batch.rows, .x = a->normed, .x_stride = w[ARCH_FFN_GATE].cols, .count = 2,
                .out = {
                        { .w = w[ARCH_FFN_GATE], .y = a->gate, .y_stride = ffn },
                        { .w = w[ARCH_FFN_UP], .y = a->up, .y_stride = ffn },
                },
        });
        if (r)
                return r;
        r = ops_of(s)->glu(s->stream, &(struct op_glu) {
                .n = s->batch.rows, .dim = ffn, .act = s->model->arch.arch->act,
                .gate = a->gate, .up = a->up, .y = a->gate,
        });
        if (r)
                return r;
        return project_back(s, a->gate, &w[ARCH_FFN_DOWN], a->x);
}

/* The router's choice under each row's cap of this layer, counted into the rows' use. */
static int route(struct step *s, const struct model_layer *layer, uint32_t moe_layer) {
        const struct arch_params *h = &s->model->arch.params;
        const struct weight *router = &layer->weights[ARCH_FFN_ROUTER];
        const struct step_activations *a = &s->a;
        int r;

        r = ops_of(s)->matmul(s->stream, &(struct op_matmul) {
                .n = s->batch.rows, .x = a->normed, .x_stride = router->cols, .count = 1,
                .out[0] = { .w = *router, .y = a->router, .y_stride = router->rows },
        });
        if (r)
                return r;
        return ops_of(s)->route(
                s->stream,
                &(struct op_route) {
                        .n = s->batch.rows,
                        .experts = h->experts,
                        .k = h->experts_used,
                        .gate = h->gate,
                        .normalize = h->normalize,
                        .scale = h->expert_scale,
                        .logits = a->router,
                        .caps = device_offset(s->batch.device_caps,
                                              (uint64_t) moe_layer * s->batch.rows * sizeof(int32_t)),
                        .ids = a->expert_ids,
                        .weights = a->expert_weights,
                        .counts = a->expert_counts,
                        .used = s->used_memory.at,
                });
}

static int experts(struct step *s, const struct model_layer *layer, uint32_t moe_layer) {
        const struct weight *w = layer->weights;
        const struct step_activations *a = &s->a;
        int r;

        r = route(s, layer, moe_layer);
        if (r)
                return r;
        return ops_of(s)->moe(s->stream, &(struct op_moe) {
                .n = s->batch.rows, .k = s->model->arch.params.experts_used, .act = s->model->arch.arch->act,
                .gate = w[ARCH_FFN_GATE_EXPS], .up = w[ARCH_FFN_UP_EXPS], .down = w[ARCH_FFN_DOWN_EXPS],
                .x = a->normed, .y = a->x,
                .ids = a->expert_ids, .weights = a->expert_weights, .counts = a->expert_counts,
        });
}

int forward_begin(struct step *s) {
        const struct arch_params *h = &s->model->arch.params;
        int r;

        r = ops_of(s)->fill_zero(s->stream, s->used_memory.at, s->batch.rows * sizeof(uint32_t));
        if (r)
                return r;
        return ops_of(s)->embed(s->stream, &(struct op_embed) {
                .n = s->batch.rows, .table = s->model->weights[ARCH_TOKEN_EMBD], .ids = s->batch.device_ids,
                .y = s->a.x, .scale = h->embedding_scale,
        });
}

int forward_layer(struct step *s, uint32_t index) {
        const struct model_layer *layer = &s->model->layers[index];
        const struct arch_layer *made_of = &s->model->arch.layers[index];
        int r;

        r = attention(s, layer, made_of->parts);
        if (!r)
                r = rms_norm(s, s->batch.rows, s->model->arch.params.hidden, s->a.x,
                             &layer->weights[ARCH_FFN_NORM], s->a.normed);
        if (r)
                return r;
        if (made_of->parts & ARCH_MOE)
                return experts(s, layer, made_of->moe_layer);
        return dense(s, layer);
}

/* The wanted rows come to lie at the start of `normed`: the big product runs over those only. */
int forward_end(struct step *s) {
        const struct arch_params *h = &s->model->arch.params;
        const struct weight *w = s->model->weights;
        uint32_t n = s->batch.n_wanted;
        int r;

        if (n == 0)
                return 0;
        r = ops_of(s)->gather(s->stream, &(struct op_gather) {
                .n = n, .dim = h->hidden, .x = s->a.x, .index = s->batch.device_wanted, .y = s->a.normed,
        });
        if (!r)
                r = rms_norm(s, n, h->hidden, s->a.normed, &w[ARCH_OUTPUT_NORM], s->a.normed);
        if (!r)
                r = ops_of(s)->matmul(s->stream, &(struct op_matmul) {
                        .n = n, .x = s->a.normed, .x_stride = h->hidden, .count = 1,
                        .out[0] = { .w = w[ARCH_OUTPUT], .y = s->logits.at, .y_stride = h->vocab },
                });
        if (!r)
                r = ops_of(s)->download(s->stream, s->host_logits, s->logits.at,
                                        (uint64_t) n * h->vocab * sizeof(float));
        return r;
}
