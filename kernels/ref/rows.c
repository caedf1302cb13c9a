/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <string.h>

#include "host.h"
#include "ref.h"

void embed(const struct op_embed *op, dequantize_fn *dequantize, uint32_t begin, uint32_t end) {
        const struct quant_info *info = quant_info(op->table.type);
        const char *table = host_address(op->table.data);
        const int32_t *ids = host_address(op->ids);
        uint32_t cols = op->table.cols;

        for (uint32_t t = begin; t < end; t++) {
                float *y = (float *) host_address(op->y) + (size_t) t * cols;

                if (ids[t] < 0 || (uint32_t) ids[t] >= op->table.rows) {
                        memset(y, 0, cols * sizeof(*y));
                        continue;
                }
                dequantize(y, table + (size_t) ids[t] * quant_row_bytes(info, cols), cols);
                for (uint32_t i = 0; i < cols && op->scale != 1.0f; i++)
                        y[i] *= op->scale;
        }
}

void ref_rms_norm(const struct op_rms_norm *op, uint32_t begin, uint32_t end) {
        const float *w = host_address(op->w);

        for (uint32_t t = begin; t < end; t++) {
                const float *x = (const float *) host_address(op->x) + (size_t) t * op->x_stride;
                float *y = (float *) host_address(op->y) + (size_t) t * op->y_stride;
                float sum = 0.0f, scale;

                for (uint32_t i = 0; i < op->dim; i++)
                        sum += x[i] * x[i];
                scale = 1.0f / sqrtf(sum / (float) op->dim + op->eps);
                for (uint32_t i = 0; i < op->dim; i++)
                        y[i] = w ? w[i] * (x[i] * scale) : x[i] * scale;
        }
}

void ref_layer_norm(const struct op_layer_norm *op, uint32_t begin, uint32_t end) {
        const float *w = host_address(op->w), *b = host_address(op->b);

        for (uint32_t t = begin; t < end; t++) {
                const float *x = (const float *) host_address(op->x) + (size_t) t * op->dim;
                float *y = (float *) host_address(op->y) + (size_t) t * op->dim;
                float mean = 0.0f, variance = 0.0f, scale;

                for (uint32_t i = 0; i < op->dim; i++)
                        mean += x[i];
                mean /= (float) op->dim;
                for (uint32_t i = 0; i < op->dim; i++)
                        variance += (x[i] - mean) * (x[i] - mean);
                scale = 1.0f / sqrtf(variance / (float) op->dim + op->eps);
                for (uint32_t i = 0; i < op->dim; i++)
                        y[i] = w[i] * ((x[i] - mean) * scale) + b[i];
        }
}

static void rope_head(const struct op_rope *op, float *x, const float *cosines, const float *sines,
                      uint32_t n) {
        for (uint32_t i = 0; i < n; i++) {
                float *a = op->pairs == ROPE_ADJACENT ? x + 2 * i : x + i;
                float *b = op->pairs == ROPE_ADJACENT ? a + 1 : a + op->dims / 2;
                float u = *a, v = *b;

                *a = u * cosines[i] - v * sines[i];
                *b = u * sines[i] + v * cosines[i];
        }
}

void ref_rope(const struct op_rope *op, uint32_t begin, uint32_t end) {
        const int32_t *positions = host_address(op->positions);
        const float *frequencies = host_address(op->frequencies);
        float cosines[ROPE_PAIRS_MAX], sines[ROPE_PAIRS_MAX];

        for (uint32_t t = begin; t < end; t++) {
                float *x = (float *) host_address(op->x) + (size_t) t * op->stride + op->offset;

                int32_t position = positions[t] - (op->multiple ? positions[t] % (int32_t) op->multiple : 0);

                for (uint32_t i = 0; i < op->dims / 2; i++) {
                        float angle = (float) position * frequencies[i];

                        cosines[i] = cosf(angle) * op->magnitude;
                        sines[i] = sinf(op->inverse ? -angle : angle) * op->magnitude;
                }
                for (uint32_t h = 0; h < op->heads; h++)
                        rope_head(op, x + (size_t) h * op->head_dim, cosines, sines, op->dims / 2);
        }
}

void ref_to_f16(uint16_t *dst, const float *src, uint32_t n) {
        for (uint32_t i = 0; i < n; i++)
                dst[i] = f16_from_f32(src[i]);
}

void ref_to_bf16(uint16_t *dst, const float *src, uint32_t n) {
        for (uint32_t i = 0; i < n; i++)
                dst[i] = bf16_finite_from_f32(src[i]);
}

static void kv_write(enum quant_type type, void *base, size_t at, const float *src, uint32_t n,
                     to_half_fn *to_half) {
        if (type == QUANT_F32)
                memcpy((float *) base + at, src, n * sizeof(*src));
        else
                to_half((uint16_t *) base + at, src, n);
}

static void kv_write_value(const struct kv_layer *kv, size_t slot, const float *src, to_half_fn *to_half) {
        uint16_t some[64], *to;

        if (!kv_paired(kv)) {
                kv_write(kv->type, host_address(kv->v), slot * kv->v_dim, src, kv->v_dim, to_half);
                return;
        }
        to = (uint16_t *) host_address(kv->v) + kv_value_at(kv, slot, 0);
        for (uint32_t i = 0, n; i < kv->v_dim; i += n, to += 2 * n) {
                n = MIN(kv->v_dim - i, (uint32_t) ELEMENTS(some));
                to_half(some, src + i, n);
                for (uint32_t j = 0; j < n; j++)
                        to[2 * j] = some[j];
        }
}

/* One entry for several rows: the one that ends it writes it. */
static void kv_store_entry(const struct op_kv_store *op, to_half_fn *to_half, uint32_t t) {
        uint32_t position = ((const uint32_t *) host_address(op->rows.positions))[t];
        uint32_t sequence = ((const uint32_t *) host_address(op->rows.sequences))[t];
        const int32_t *pages = (const int32_t *) host_address(op->rows.page_table) +
                               (size_t) sequence * op->rows.page_table_stride;
        const struct kv_layer *kv = &op->kv;
        uint32_t seen = kv_visible(kv->ratio, position);

        if ((position + 1) % kv->ratio == 0)
                kv_write(kv->type, host_address(kv->k), kv_entry(kv->ratio, pages, seen - 1) * kv->k_dim,
                         (const float *) host_address(op->k) + (size_t) t * kv->k_dim, kv->k_dim, to_half);
}

void kv_store(const struct op_kv_store *op, to_half_fn *to_f16, to_half_fn *to_bf16, uint32_t begin, uint32_t end) {
        to_half_fn *to_half = op->kv.type == QUANT_BF16 ? to_bf16 : to_f16;
        const int32_t *positions = host_address(op->rows.positions),
                      *sequences = host_address(op->rows.sequences);
        const int32_t *pages = host_address(op->rows.page_table);
        const struct kv_layer *kv = &op->kv;

        for (uint32_t t = begin; t < end && kv->ratio > 0; t++)
                kv_store_entry(op, to_half, t);
        for (uint32_t t = begin; t < end && kv->ratio == 0; t++) {
                size_t entry =
                        (size_t) sequences[t] * op->rows.page_table_stride + positions[t] / KV_PAGE_TOKENS;

                for (uint32_t h = 0; h < kv->kv_heads; h++) {
                        size_t head = (size_t) t * kv->kv_heads + h;
                        size_t slot = ((size_t) pages[entry] * kv->kv_heads + h) * KV_PAGE_TOKENS +
                                      positions[t] % KV_PAGE_TOKENS;

                        kv_write(kv->type, host_address(kv->k), slot * kv->k_dim,
                                 (const float *) host_address(op->k) + head * kv->k_dim, kv->k_dim, to_half);
                        if (kv->v.address)
                                kv_write_value(kv, slot, (const float *) host_address(op->v) + head * kv->v_dim,
                                               to_half);
                }
        }
}

float ref_act(enum act_kind act, float limit, float gate, float up) {
        if (limit > 0.0f) { /* not-a-number stays one */
                gate = gate > limit ? limit : gate;
                up = up > limit ? limit : up < -limit ? -limit : up;
        }
        switch (act) {
        case ACT_SWIGLU:
                return gate / (1.0f + expf(-gate)) * up;
        case ACT_SWIGLU_OAI:
                return gate / (1.0f + expf(-1.702f * gate)) * (up + 1.0f);
        case ACT_GEGLU:
                break;
        }
        /* gelu, tanh form (arXiv 1606.08415): sqrt(2 / pi) = 0.79788… */
        return 0.5f * gate * (1.0f + tanhf(0.797884561f * (gate + 0.044715f * gate * gate * gate))) * up;
}

void ref_glu(const struct op_glu *op, uint32_t begin, uint32_t end) {
        const float *gate = host_address(op->gate), *up = host_address(op->up);
        float *y = host_address(op->y);

        for (size_t i = (size_t) begin * op->dim; i < (size_t) end * op->dim; i++)
                y[i] = ref_act(op->act, op->limit, gate[i], up[i]);
}

void ref_add(const struct op_add *op, uint64_t begin, uint64_t end) {
        const float *x = host_address(op->x);
        float *y = host_address(op->y);

        for (uint64_t i = begin; i < end; i++)
                y[i] += op->scale * x[i];
}

void ref_copy(const struct op_copy *op, uint32_t begin, uint32_t end) {
        for (size_t i = begin; i < end; i++)
                memcpy((float *) host_address(op->y) + i * op->y_stride,
                       (const float *) host_address(op->x) + i * op->x_stride, op->dim * sizeof(float));
}

void ref_gather(const struct op_gather *op, uint32_t begin, uint32_t end) {
        const float *x = host_address(op->x);
        const int32_t *index = host_address(op->index);
        float *y = host_address(op->y);

        for (uint32_t i = begin; i < end; i++)
                memcpy(y + (size_t) i * op->dim, x + (size_t) index[i] * op->dim, op->dim * sizeof(*y));
}
