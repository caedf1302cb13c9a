/* SPDX-License-Identifier: MIT */
#include "base/util.h"
#include "forward.h"

/* The predictor of a model's calibration: what every row is after one of the first layers tells how much its experts
 * will matter in the layers behind. */

static const struct predictor *predictor_of(const struct model *m) {
        return &m->file->calibration.predictor;
}

int model_place_predictor(struct model *m) {
        const struct predictor *p = predictor_of(m);
        const struct backend_ops *ops = m->backend->ops;
        uint64_t weight = (uint64_t) m->arch.moe_layers * p->width * sizeof(float);
        uint64_t bias = m->arch.moe_layers * sizeof(float);
        struct device_ptr at;
        struct stream *stream;
        int r;

        if (!p->weight)
                return 0;
        r = ops->buffer_new(m->backend, weight + bias, true, &m->predictor);
        if (!r)
                r = ops->stream_new(m->backend, &stream);
        if (r)
                return r;
        at = ops->buffer_address(m->predictor);
        r = ops->upload(stream, at, p->weight, weight);
        if (!r)
                r = ops->upload(stream, device_offset(at, weight), p->bias, bias);
        if (!r)
                r = ops->stream_sync(stream);
        ops->stream_free(stream);
        return r;
}

bool predict_is_due(const struct step *s, uint32_t layer) {
        return s->model->predictor && layer == predictor_of(s->model)->layer;
}

int predict_demand(struct step *s) {
        const struct predictor *p = predictor_of(s->model);
        struct device_ptr at = forward_ops(s)->buffer_address(s->model->predictor);
        struct device_ptr normed = s->model->arch.params.streams ? s->a.streams_normed : s->a.normed;
        uint32_t layers = s->model->arch.moe_layers;
        int r;

        r = forward_norm(s, s->batch.rows, p->width, step_rows(s), NULL, normed);
        if (r)
                return r;
        return forward_ops(s)->matmul(s->stream, &(struct op_matmul) {
                .n = s->batch.rows, .x = normed, .x_stride = p->width, .count = 1,
                .out[0] = {
                        .w = { .data = at, .type = QUANT_F32, .cols = p->width, .rows = layers, .stack = 1 },
                        .bias = device_offset(at, (uint64_t) layers * p->width * sizeof(float)),
                        .y = s->a.demand, .y_stride = layers,
                },
        });
}

struct device_ptr predict_demand_of(const struct step *s, uint32_t layer, uint32_t moe_layer) {
        if (!s->model->predictor || layer <= predictor_of(s->model)->layer)
                return DEVICE_NULL;
        return device_offset(s->a.demand, moe_layer * sizeof(float));
}
