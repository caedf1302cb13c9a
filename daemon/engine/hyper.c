/* SPDX-License-Identifier: MIT */
/* Hyper-connections (DeepSeek V4; arXiv 2409.19606): between sublayers a row is several streams. What a
 * sublayer gets is a mix of them, what it gives is spread over them; the weights of both come from the
 * streams themselves. */
#include "forward.h"

static uint32_t width_of(const struct step *s) {
        return s->model->arch.params.streams * s->model->arch.params.hidden;
}

static struct op_hyper hyper_of(const struct step *s, uint32_t n) {
        const struct arch_params *h = &s->model->arch.params;

        return (struct op_hyper) {
                .n = n, .streams = h->streams, .dim = h->hidden, .iterations = h->sinkhorn,
                .epsilon = h->hyper_eps, .mix = s->a.mix, .x = s->a.streams, .y = s->a.x,
        };
}

/* z = W streams / rms(streams) */
static int project(struct step *s, uint32_t n, struct device_ptr streams, struct device_ptr normed,
                   const struct weight *w) {
        int r;

        r = forward_norm(s, n, width_of(s), streams, NULL, normed);
        if (r)
                return r;
        return forward_ops(s)->matmul(s->stream, &(struct op_matmul) {
                .n = n, .x = normed, .x_stride = width_of(s), .count = 1,
                .out[0] = { .w = *w, .y = s->a.mix, .y_stride = w->rows },
        });
}

int hyper_begin(struct step *s) {
        const struct arch_params *h = &s->model->arch.params;
        int r = 0;

        for (uint32_t i = 0; i < h->streams && !r; i++)
                r = forward_ops(s)->copy(s->stream, &(struct op_copy) {
                        .n = s->batch.rows, .dim = h->hidden, .x = s->a.x, .x_stride = h->hidden,
                        .y = device_offset(s->a.streams, (uint64_t) i * h->hidden * sizeof(float)),
                        .y_stride = width_of(s),
                });
        return r;
}

int hyper_enter(struct step *s, const struct weight *w, const struct weight *base,
                const struct weight *scale) {
        struct op_hyper op = hyper_of(s, s->batch.rows);
        int r;

        op.base = base->data;
        op.scale = scale->data;
        r = project(s, s->batch.rows, s->a.streams, s->a.streams_normed, w);
        if (!r)
                r = forward_ops(s)->hyper_mix(s->stream, &op);
        return r ? r : forward_ops(s)->hyper_in(s->stream, &op);
}

int hyper_leave(struct step *s) {
        struct op_hyper op = hyper_of(s, s->batch.rows);

        return forward_ops(s)->hyper_out(s->stream, &op);
}

/* The wanted rows go to the place of the normed streams; the streams' own is free then. */
int hyper_end(struct step *s, struct device_ptr index, uint32_t n, struct device_ptr y) {
        const struct weight *w = s->model->weights;
        struct op_hyper op = hyper_of(s, n);
        int r;

        op.base = w[ARCH_HYPER_HEAD_BASE].data;
        op.scale = w[ARCH_HYPER_HEAD_SCALE].data;
        op.head = true;
        op.x = s->a.streams_normed;
        op.y = y;
        r = forward_ops(s)->gather(s->stream, &(struct op_gather) {
                .n = n, .dim = width_of(s), .x = s->a.streams, .index = index, .y = s->a.streams_normed,
        });
        if (!r)
                r = project(s, n, s->a.streams_normed, s->a.streams, &w[ARCH_HYPER_HEAD]);
        if (!r)
                r = forward_ops(s)->hyper_mix(s->stream, &op);
        return r ? r : forward_ops(s)->hyper_in(s->stream, &op);
}
