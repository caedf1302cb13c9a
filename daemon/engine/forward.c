/* SPDX-License-Identifier: MIT */
#include "forward.h"

/* One forward pass for every architecture: what a layer is made of decides which operations are enqueued. */

struct op_rows forward_rows(const struct step *s) {
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

struct op_rope forward_rope(const struct step *s, uint32_t rope, struct device_ptr x, uint32_t heads,
                            uint32_t head_dim) {
        const struct model *m = s->model;

        return (struct op_rope) {
                .n = s->batch.rows, .heads = heads, .head_dim = head_dim, .dims = m->arch.params.rope_dims,
                .stride = heads * head_dim, .pairs = m->arch.arch->pairs,
                .magnitude = m->arch.ropes[rope].magnitude, .x = x,
                .positions = s->batch.device_positions, .frequencies = model_frequencies(m, rope),
        };
}

int forward_sublayer(struct step *s, uint32_t parts, const struct weight *norm) {
        uint32_t hidden = s->model->arch.params.hidden;
        int r;

        r = forward_norm(s, s->batch.rows, hidden, s->a.x, norm, s->a.normed);
        if (r || !(parts & ARCH_HYPER))
                return r;
        return forward_ops(s)->fill_zero(s->stream, s->a.x,
                                         (uint64_t) s->batch.rows * hidden * sizeof(float));
}

int forward_norm(struct step *s, uint32_t n, uint32_t dim, struct device_ptr x, const struct weight *w,
                 struct device_ptr y) {
        return forward_norm_strided(s, n, dim, x, dim, w, y, dim);
}

int forward_norm_strided(struct step *s, uint32_t n, uint32_t dim, struct device_ptr x, uint32_t x_stride,
                         const struct weight *w, struct device_ptr y, uint32_t y_stride) {
        return forward_ops(s)->rms_norm(s->stream, &(struct op_rms_norm) {
                .n = n, .dim = dim, .x = x, .w = w ? w->data : DEVICE_NULL, .y = y, .x_stride = x_stride,
                .y_stride = y_stride, .eps = s->model->arch.params.eps,
        });
}

int forward_project(struct step *s, struct device_ptr x, const struct weight *w, struct device_ptr y) {
        return forward_ops(s)->matmul(s->stream, &(struct op_matmul) {
                .n = s->batch.rows, .x = x, .x_stride = w->cols, .prompt = s->batch.device_prompts, .count = 1,
                .out[0] = { .w = *w, .y = y, .y_stride = w->rows },
        });
}

int forward_project_back(struct step *s, struct device_ptr x, const struct weight *w, struct device_ptr y) {
        return forward_ops(s)->matmul(s->stream, &(struct op_matmul) {
                .n = s->batch.rows, .x = x, .x_stride = w->cols, .prompt = s->batch.device_prompts, .count = 1,
                .accumulate = true,
                .out[0] = { .w = *w, .y = y, .y_stride = w->rows },
        });
}

static bool is_direct(const struct step *s, const struct arch_layer *made_of) {
        return !(made_of->parts & ARCH_NORM_AFTER) && s->model->arch.params.residual_scale == 1.0f;
}

int forward_branch(struct step *s, const struct arch_layer *made_of, struct device_ptr *ret) {
        uint64_t bytes = (uint64_t) s->batch.rows * s->model->arch.params.hidden * sizeof(float);

        *ret = is_direct(s, made_of) ? s->a.x : s->a.branch;
        return is_direct(s, made_of) ? 0 : forward_ops(s)->fill_zero(s->stream, s->a.branch, bytes);
}

int forward_join(struct step *s, const struct arch_layer *made_of, const struct weight *norm) {
        const struct arch_params *h = &s->model->arch.params;
        int r = 0;

        if (is_direct(s, made_of))
                return 0;
        if (made_of->parts & ARCH_NORM_AFTER)
                r = forward_norm(s, s->batch.rows, h->hidden, s->a.branch, norm, s->a.branch);
        if (r)
                return r;
        return forward_ops(s)->add(s->stream, &(struct op_add) {
                .n = (uint64_t) s->batch.rows * h->hidden, .x = s->a.branch, .y = s->a.x,
                .scale = h->residual_scale,
        });
}

/* y += down( act(gate h) × (up h) ), h the normed row */
static int feed_forward(struct step *s, const struct weight *gate, const struct weight *up, const struct weight *down,
                        float limit, struct device_ptr y) {
        const struct step_activations *a = &s->a;
        int r;

        r = forward_ops(s)->matmul(s->stream, &(struct op_matmul) {
                .n = s->batch.rows, .x = a->normed, .x_stride = gate->cols, .prompt = s->batch.device_prompts,
                .count = 2,
                .out = {
                        { .w = *gate, .y = a->gate, .y_stride = gate->rows },
                        { .w = *up, .y = a->up, .y_stride = up->rows },
                },
        });
        if (r)
                return r;
        r = forward_ops(s)->glu(s->stream, &(struct op_glu) {
                .n = s->batch.rows, .dim = gate->rows, .act = s->model->arch.arch->act,
                .limit = limit, .gate = a->gate, .up = a->up, .y = a->gate,
        });
        if (r)
                return r;
        return forward_project_back(s, a->gate, down, y);
}

/* The router's choice under each row's cap of this layer, counted into the rows' use. */
static int route(struct step *s, const struct model_layer *layer, uint32_t moe_layer) {
        const struct arch_params *h = &s->model->arch.params;
        const struct weight *router = &layer->weights[ARCH_FFN_ROUTER];
        const struct step_activations *a = &s->a;
        int r;

        r = forward_ops(s)->matmul(s->stream, &(struct op_matmul) {
                .n = s->batch.rows, .x = a->normed, .x_stride = router->cols, .count = 1,
                .out[0] = { *router, layer->weights[ARCH_FFN_ROUTER_LOGIT_BIAS].data, a->router, router->rows },
        });
        if (r)
                return r;
        return forward_ops(s)->route(
                s->stream,
                &(struct op_route) {
                        .n = s->batch.rows,
                        .experts = h->experts,
                        .k = h->experts_used,
                        .gate = h->gate,
                        .normalize = h->normalize,
                        .scale = h->expert_scale,
                        .logits = a->router,
                        .bias = layer->weights[ARCH_FFN_ROUTER_BIAS].data,
                        .table = layer->weights[ARCH_FFN_TABLE].data,
                        .table_rows = layer->weights[ARCH_FFN_TABLE].rows,
                        .token_ids = s->batch.device_ids,
                        .groups = h->groups,
                        .groups_used = h->groups_used,
                        .caps = device_offset(s->batch.device_caps,
                                              (uint64_t) moe_layer * s->batch.rows * sizeof(int32_t)),
                        .budget = {
                                .rows = forward_rows(s),
                                .state = layer->budget,
                                .floors = s->batch.device_floors,
                                .demand = predict_demand_of(s, (uint32_t) (layer - s->model->layers), moe_layer),
                                .demand_stride = s->model->arch.moe_layers,
                                .groups = s->batch.device_groups,
                                .bases = s->batch.device_bases,
                                .n_groups = s->batch.n_groups,
                        },
                        .capacity = { h->capacity, h->capacity_window, layer->chosen },
                        .ids = a->expert_ids,
                        .weights = a->expert_weights,
                        .counts = a->expert_counts,
                        .used = device_offset(s->counts.at, model_tally_bytes(s->model)),
                        .tally = device_offset(s->counts.at, (uint64_t) moe_layer * h->experts * sizeof(uint32_t)),
                });
}

/* The shared expert times the sigmoid of its gate: a choice of one from one, which no cap touches and no
 * one counts. */
static int gated_expert(struct step *s, const struct weight *w, struct device_ptr y) {
        const struct step_activations *a = &s->a;
        int r;

        r = forward_project(s, a->normed, &w[ARCH_FFN_GATE_INP_SHEXP], a->router);
        if (!r)
                r = forward_ops(s)->route(s->stream, &(struct op_route) {
                        .n = s->batch.rows, .experts = 1, .k = 1, .gate = ROUTE_SIGMOID, .scale = 1.0f,
                        .logits = a->router, .caps = s->batch.device_ones, .ids = a->shared_ids,
                        .weights = a->shared_weights, .counts = a->shared_counts,
                });
        if (r)
                return r;
        return forward_ops(s)->moe(s->stream, &(struct op_moe) {
                .n = s->batch.rows, .k = 1, .act = s->model->arch.arch->act,
                .gate = w[ARCH_FFN_GATE_SHEXP], .up = w[ARCH_FFN_UP_SHEXP], .down = w[ARCH_FFN_DOWN_SHEXP],
                .prompt = s->batch.device_prompts, .x = a->normed, .y = y,
                .ids = a->shared_ids, .weights = a->shared_weights, .counts = a->shared_counts,
        });
}

static int experts(struct step *s, const struct model_layer *layer, const struct arch_layer *made_of,
                   struct device_ptr y) {
        const struct weight *w = layer->weights;
        const struct step_activations *a = &s->a;
        int r;

        r = route(s, layer, made_of->moe_layer);
        if (!r && made_of->parts & ARCH_SHARED)
                r = made_of->parts & ARCH_SHARED_GATE
                        ? gated_expert(s, w, y)
                        : feed_forward(s, &w[ARCH_FFN_GATE_SHEXP], &w[ARCH_FFN_UP_SHEXP], &w[ARCH_FFN_DOWN_SHEXP],
                                       made_of->shared_limit, y);
        if (r)
                return r;
        return forward_ops(s)->moe(s->stream, &(struct op_moe) {
                .n = s->batch.rows, .k = s->model->arch.params.experts_used, .act = s->model->arch.arch->act,
                .limit = made_of->limit,
                .gate = w[ARCH_FFN_GATE_EXPS], .up = w[ARCH_FFN_UP_EXPS], .down = w[ARCH_FFN_DOWN_EXPS],
                .gate_bias = w[ARCH_FFN_GATE_EXPS_BIAS].data, .up_bias = w[ARCH_FFN_UP_EXPS_BIAS].data,
                .down_bias = w[ARCH_FFN_DOWN_EXPS_BIAS].data,
                .prompt = s->batch.device_prompts, .x = a->normed, .y = y,
                .ids = a->expert_ids, .weights = a->expert_weights, .counts = a->expert_counts,
        });
}

int forward_begin(struct step *s) {
        const struct arch_params *h = &s->model->arch.params;
        int r;

        r = forward_ops(s)->fill_zero(s->stream, s->counts.at, step_counts_bytes(s));
        if (!r)
                r = forward_ops(s)->embed(s->stream, &(struct op_embed) {
                        .n = s->batch.rows, .table = s->model->weights[ARCH_TOKEN_EMBD],
                        .ids = s->batch.device_ids, .y = s->a.x, .scale = h->embedding_scale,
                });
        return r || h->streams == 0 ? r : hyper_begin(s);
}

static int attention(struct step *s, const struct model_layer *layer, const struct arch_layer *made_of) {
        if (made_of->parts & ARCH_WINDOWED)
                return attention_windowed(s, layer, made_of);
        if (made_of->parts & ARCH_MLA)
                return attention_mla(s, layer, made_of->parts);
        return attention_gqa(s, layer, made_of);
}

/* x += F(norm(x)) with the layer's experts or its dense part */
static int ffn(struct step *s, const struct model_layer *layer, const struct arch_layer *made_of) {
        const struct weight *w = layer->weights;
        struct device_ptr y;
        int r;

        r = forward_sublayer(s, made_of->parts, &w[ARCH_FFN_NORM]);
        if (!r)
                r = forward_branch(s, made_of, &y);
        if (r)
                return r;
        r = made_of->parts & ARCH_MOE
                ? experts(s, layer, made_of, y)
                : feed_forward(s, &w[ARCH_FFN_GATE], &w[ARCH_FFN_UP], &w[ARCH_FFN_DOWN], 0.0f, y);
        return r ? r : forward_join(s, made_of, &w[ARCH_FFN_NORM_AFTER]);
}

static int hyper_layer(struct step *s, const struct model_layer *layer, const struct arch_layer *made_of) {
        const struct weight *w = layer->weights;
        int r;

        r = hyper_enter(s, &w[ARCH_HYPER_ATTN], &w[ARCH_HYPER_ATTN_BASE], &w[ARCH_HYPER_ATTN_SCALE]);
        if (!r)
                r = attention(s, layer, made_of);
        if (!r)
                r = hyper_leave(s);
        if (!r)
                r = hyper_enter(s, &w[ARCH_HYPER_FFN], &w[ARCH_HYPER_FFN_BASE], &w[ARCH_HYPER_FFN_SCALE]);
        if (!r)
                r = ffn(s, layer, made_of);
        return r ? r : hyper_leave(s);
}

static int plain_layer(struct step *s, const struct model_layer *layer, const struct arch_layer *made_of) {
        int r;

        r = attention(s, layer, made_of);
        return r ? r : ffn(s, layer, made_of);
}

int forward_layer(struct step *s, uint32_t index) {
        const struct model_layer *layer = &s->model->layers[index];
        const struct arch_layer *made_of = &s->model->arch.layers[index];
        int r;

        if (made_of->parts & ARCH_HYPER)
                r = hyper_layer(s, layer, made_of);
        else
                r = plain_layer(s, layer, made_of);
        return r || !predict_is_due(s, index) ? r : predict_demand(s);
}

static int gather_wanted(struct step *s, struct device_ptr y) {
        uint32_t n = s->batch.n_wanted;

        if (s->model->arch.params.streams)
                return hyper_end(s, s->batch.device_wanted, n, y);
        return forward_ops(s)->gather(s->stream, &(struct op_gather) {
                .n = n, .dim = s->model->arch.params.hidden, .x = s->a.x, .index = s->batch.device_wanted,
                .y = y,
        });
}

/* The wanted rows come to lie at the start of `normed`: the big product runs over those only. */
int forward_end(struct step *s) {
        const struct arch_params *h = &s->model->arch.params;
        const struct weight *w = s->model->weights;
        uint32_t n = s->batch.n_wanted;
        int r;

        if (n == 0)
                return 0;
        r = gather_wanted(s, s->a.normed);
        if (!r)
                r = forward_norm(s, n, h->hidden, s->a.normed, &w[ARCH_OUTPUT_NORM], s->a.normed);
        if (!r && h->logit_scale != 1.0f)
                r = forward_ops(s)->add(s->stream, &(struct op_add) { /* normed / logit_scale */
                        .n = (uint64_t) n * h->hidden, .x = s->a.normed, .y = s->a.normed,
                        .scale = 1.0f / h->logit_scale - 1.0f,
                });
        if (!r)
                r = forward_ops(s)->matmul(s->stream, &(struct op_matmul) {
                        .n = n, .x = s->a.normed, .x_stride = h->hidden, .count = 1,
                        .out[0] = { .w = w[ARCH_OUTPUT], .y = s->logits.at, .y_stride = h->vocab },
                });
        if (!r && !step_on_host(s))
                r = forward_ops(s)->download(s->stream, s->host_logits, s->logits.at,
                                        (uint64_t) n * h->vocab * sizeof(float));
        return r;
}
