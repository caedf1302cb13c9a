/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "host.h"
#include "ref.h"

static void ref_free(struct backend *b) {
        free(b);
}

static int op_embed(struct stream *s, const struct op_embed *op) {
        int r = host_check_embed(op);

        if (r == 0)
                embed(op, quant_info(op->table.type)->dequantize, 0, op->n);
        return r;
}

static int op_rms_norm(struct stream *s, const struct op_rms_norm *op) {
        ref_rms_norm(op, 0, op->n);
        return 0;
}

static int op_layer_norm(struct stream *s, const struct op_layer_norm *op) {
        ref_layer_norm(op, 0, op->n);
        return 0;
}

static void matmul_row(const struct op_matmul *op, const struct op_matmul_out *out, uint32_t t,
                       const void *x) {
        const struct weight *w = &out->w;
        size_t row_bytes = quant_row_bytes(quant_info(w->type), w->cols);
        float *y = (float *) host_address(out->y) + (size_t) t * out->y_stride;
        const float *bias = host_address(out->bias);

        for (uint32_t i = 0; i < w->rows; i++) {
                float v = ref_dot(w->type, (const char *) host_address(w->data) + i * row_bytes, x, w->cols);

                if (bias)
                        v += bias[i];
                y[i] = op->accumulate ? y[i] + v : v;
        }
}

static int op_matmul(struct stream *s, const struct op_matmul *op) {
        _cleanup_(freep) void *input = NULL;
        int r = host_check_matmul(op);

        if (r)
                return r;
        input = aligned_alloc(64, dot_input_bytes(DOT_FLOAT, op->out[0].w.cols));
        if (!input)
                return -ENOMEM;
        for (uint32_t i = 0; i < op->count; i++)
                for (uint32_t t = 0; t < op->n; t++) {
                        const float *x = (const float *) host_address(op->x) + (size_t) t * op->x_stride;

                        ref_dot_input(dot_input(op->out[i].w.type), input, x, op->out[i].w.cols);
                        matmul_row(op, &op->out[i], t, input);
                }
        return 0;
}

static int op_head_matmul(struct stream *s, const struct op_head_matmul *op) {
        _cleanup_(freep) void *scratch = NULL;
        int r = host_check_head_matmul(op);

        if (r)
                return r;
        scratch = aligned_alloc(64, head_matmul_scratch(op));
        if (!scratch)
                return -ENOMEM;
        ref_head_matmul(op, scratch, 0, (uint64_t) op->n * op->w.stack);
        return 0;
}

static int op_copy(struct stream *s, const struct op_copy *op) {
        ref_copy(op, 0, op->n);
        return 0;
}

static int op_rope(struct stream *s, const struct op_rope *op) {
        if (op->dims / 2 > ROPE_PAIRS_MAX)
                return -EOPNOTSUPP;
        ref_rope(op, 0, op->n);
        return 0;
}

static int op_kv_store(struct stream *s, const struct op_kv_store *op) {
        int r = host_check_kv(&op->kv);

        if (r == 0)
                kv_store(op, ref_to_f16, ref_to_bf16, 0, op->rows.n);
        return r;
}

static int op_attention(struct stream *s, const struct op_attention *op) {
        int r = host_check_attention(op);

        if (r == 0)
                ref_attention(op, 0, (uint64_t) op->rows.n * op->heads);
        return r;
}

static int op_index(struct stream *s, const struct op_index *op) {
        _cleanup_(freep) float *scores = NULL;
        int r = host_check_kv(&op->keys);

        if (r)
                return r;
        scores = malloc(((size_t) op->rows.position_max + 1) * sizeof(*scores));
        if (!scores)
                return -ENOMEM;
        ref_index(op, scores, 0, op->rows.n);
        return 0;
}

static int op_sparse_attention(struct stream *s, const struct op_sparse_attention *op) {
        int r = host_check_sparse_attention(op);

        if (r == 0)
                ref_sparse_attention(op, 0, (uint64_t) op->rows.n * op->heads);
        return r;
}

static int op_compress(struct stream *s, const struct op_compress *op) {
        if (op->ratio == 0)
                return -EOPNOTSUPP;
        compress(op, ref_channels_add, 0, op->dim);
        return 0;
}

static int op_hyper_mix(struct stream *s, const struct op_hyper *op) {
        int r = host_check_hyper(op);

        if (r == 0)
                ref_hyper_mix(op, 0, op->n);
        return r;
}

static int op_hyper_in(struct stream *s, const struct op_hyper *op) {
        int r = host_check_hyper(op);

        if (r == 0)
                ref_hyper_in(op, 0, op->n);
        return r;
}

static int op_hyper_out(struct stream *s, const struct op_hyper *op) {
        int r = host_check_hyper(op);

        if (r == 0)
                ref_hyper_out(op, 0, op->n);
        return r;
}

static int op_glu(struct stream *s, const struct op_glu *op) {
        ref_glu(op, 0, op->n);
        return 0;
}

static int op_add(struct stream *s, const struct op_add *op) {
        ref_add(op, 0, op->n);
        return 0;
}

static int op_gather(struct stream *s, const struct op_gather *op) {
        ref_gather(op, 0, op->n);
        return 0;
}

static int op_route(struct stream *s, const struct op_route *op) {
        int r = host_check_route(op);

        if (r)
                return r;
        ref_route(op, NULL, 0, op->n);
        if (route_is_settled(op))
                route_settle(op, ref_route);
        host_tally(op);
        return 0;
}

/* Scratch of one (row, expert) pair. */
struct moe_scratch {
        void *x, *hidden_input;
        float *hidden;
};

static void moe_scratch_deinit(struct moe_scratch *m) {
        free(m->x);
        free(m->hidden_input);
        free(m->hidden);
}

static int moe_scratch_init(struct moe_scratch *m, const struct op_moe *op) {
        m->x = aligned_alloc(64, dot_input_bytes(DOT_FLOAT, op->gate.cols));
        m->hidden_input = aligned_alloc(64, dot_input_bytes(DOT_FLOAT, op->down.cols));
        m->hidden = malloc(op->down.cols * sizeof(float));
        return m->x && m->hidden_input && m->hidden ? 0 : -ENOMEM;
}

static float moe_dot(const struct weight *w, struct device_ptr bias, uint32_t expert, uint32_t row,
                     const void *x) {
        size_t row_bytes = quant_row_bytes(quant_info(w->type), w->cols), at = (size_t) expert * w->rows + row;
        float v = ref_dot(w->type, (const char *) host_address(w->data) + at * row_bytes, x, w->cols);

        return bias.address ? v + ((const float *) host_address(bias))[at] : v;
}

static void moe_expert(const struct op_moe *op, struct moe_scratch *m, const float *x, float *y,
                       uint32_t expert, float weight) {
        ref_dot_input(dot_input(op->gate.type), m->x, x, op->gate.cols);
        for (uint32_t i = 0; i < op->gate.rows; i++)
                m->hidden[i] = moe_dot(&op->gate, op->gate_bias, expert, i, m->x);
        ref_dot_input(dot_input(op->up.type), m->x, x, op->up.cols);
        for (uint32_t i = 0; i < op->up.rows; i++)
                m->hidden[i] = ref_act(op->act, op->limit, m->hidden[i],
                                       moe_dot(&op->up, op->up_bias, expert, i, m->x));
        ref_dot_input(dot_input(op->down.type), m->hidden_input, m->hidden, op->down.cols);
        for (uint32_t i = 0; i < op->down.rows; i++)
                y[i] += weight * moe_dot(&op->down, op->down_bias, expert, i, m->hidden_input);
}

static int op_moe(struct stream *s, const struct op_moe *op) {
        _cleanup_(moe_scratch_deinit) struct moe_scratch m = {0};
        const int32_t *ids = host_address(op->ids), *counts = host_address(op->counts);
        const float *weights = host_address(op->weights);
        int r;

        r = host_check_moe(op);
        if (r == 0)
                r = moe_scratch_init(&m, op);
        if (r)
                return r;
        for (uint32_t t = 0; t < op->n; t++)
                for (int32_t e = 0; e < (int32_t) op->gate.stack; e++)
                        for (uint32_t j = 0; j < op->k && (int32_t) j < counts[t]; j++) {
                                size_t slot = (size_t) t * op->k + j, dim = op->gate.cols;

                                if (ids[slot] == e)
                                        moe_expert(op, &m, (const float *) host_address(op->x) + t * dim,
                                                   (float *) host_address(op->y) + t * dim, e, weights[slot]);
                        }
        return 0;
}

static const struct backend_ops ref_ops = {
        .name = "ref",
        .free = ref_free,
        HOST_MEMORY_OPS,
        .embed = op_embed,
        .rms_norm = op_rms_norm,
        .layer_norm = op_layer_norm,
        .matmul = op_matmul,
        .head_matmul = op_head_matmul,
        .copy = op_copy,
        .rope = op_rope,
        .kv_store = op_kv_store,
        .attention = op_attention,
        .index = op_index,
        .sparse_attention = op_sparse_attention,
        .compress = op_compress,
        .hyper_mix = op_hyper_mix,
        .hyper_in = op_hyper_in,
        .hyper_out = op_hyper_out,
        .glu = op_glu,
        .add = op_add,
        .gather = op_gather,
        .route = op_route,
        .moe = op_moe,
};

int backend_ref_new(struct backend **ret) {
        struct backend *b = malloc(sizeof(*b));

        if (!b)
                return -ENOMEM;
        *b = (struct backend){.ops = &ref_ops, .flags = BACKEND_HOST_MEMORY, .kv_type = QUANT_F16};
        *ret = b;
        return 0;
}
