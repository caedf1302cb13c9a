/* SPDX-License-Identifier: MIT */
#pragma once

/* Pieces of the forward pass that its files share. All enqueue operations over every row of the batch on the
 * step's stream; 0 or a negative errno. */

#include "step.h"

static inline const struct backend_ops *forward_ops(const struct step *s) {
        return s->model->backend->ops;
}

/* The rows of the batch, as operations want them. */
struct op_rows forward_rows(const struct step *s);

/* y = norm(x), n rows of `dim` next to each other, or strides in floats apart. No weight when w is NULL. */
int forward_norm(struct step *s, uint32_t n, uint32_t dim, struct device_ptr x, const struct weight *w,
                 struct device_ptr y);
int forward_norm_strided(struct step *s, uint32_t n, uint32_t dim, struct device_ptr x, uint32_t x_stride,
                         const struct weight *w, struct device_ptr y, uint32_t y_stride);

/* y = W x, y += W x, of every row. */
int forward_project(struct step *s, struct device_ptr x, const struct weight *w, struct device_ptr y);
int forward_project_back(struct step *s, struct device_ptr x, const struct weight *w, struct device_ptr y);

/* The start of a sublayer: normed = norm(x). With hyper-connections its result is no change of x: x
 * becomes zero. */
int forward_sublayer(struct step *s, uint32_t parts, const struct weight *norm);

/* Hyper-connections: the streams from the embedding x; x from the streams, and the streams from x and
 * themselves, around a sublayer; y from the streams of n rows, at the end of the pass. */
int hyper_begin(struct step *s);
int hyper_enter(struct step *s, const struct weight *w, const struct weight *base,
                const struct weight *scale);
int hyper_leave(struct step *s);
int hyper_end(struct step *s, struct device_ptr index, uint32_t n, struct device_ptr y);

/* The operation that turns the first rope_dims values of each head of x by the rows' positions. */
struct op_rope forward_rope(const struct step *s, uint32_t rope, struct device_ptr x, uint32_t heads,
                            uint32_t head_dim);

/* Where a block of a layer adds its result: the stream itself, or zeroed memory beside it where the result
 * is normed or scaled first. forward_join() then brings it to the stream; `norm` counts with
 * ARCH_NORM_AFTER. */
int forward_branch(struct step *s, const struct arch_layer *made_of, struct device_ptr *ret);
int forward_join(struct step *s, const struct arch_layer *made_of, const struct weight *norm);

/* x += O attention(norm(x)), of each kind; `parts` are the layer's. */
int attention_windowed(struct step *s, const struct model_layer *layer, const struct arch_layer *made_of);
int attention_gqa(struct step *s, const struct model_layer *layer, const struct arch_layer *made_of);
int attention_mla(struct step *s, const struct model_layer *layer, uint32_t parts);

/* The part of MLA after its queries and its key: attention over the positions that the indexer of this
 * layer, or the last one, chose. Reads q, q_low, k and normed, writes attended. */
int attention_dsa(struct step *s, const struct model_layer *layer, uint32_t parts);

/* Whether this is the layer after which the model's predictor (calibration.h) looks at the rows; what it says of them
 * for every MoE layer; and where that is, [rows] floats moe_layers apart: null in the layers before, and without a
 * predictor. */
bool predict_is_due(const struct step *s, uint32_t layer);
int predict_demand(struct step *s);
struct device_ptr predict_demand_of(const struct step *s, uint32_t layer, uint32_t moe_layer);
