/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <string.h>

#include "base/util.h"
#include "host.h"
#include "ref.h"

static float score(const struct op_attention *op, const float *q, size_t key) {
        float s = 0.0f;

        for (uint32_t i = 0; i < op->kv.k_dim; i++)
                s += q[i] * kv_value(op->kv.type, host_address(op->kv.k), key + i);
        s *= op->scale;
        return op->softcap > 0.0f ? op->softcap * tanhf(s / op->softcap) : s;
}

struct softmax {
        float max, sum;
};

/* One page of keys: `first` to `last` of it count. The running softmax (arXiv 1805.02867) is rescaled once a
 * page. */
static void attend_page(const struct op_attention *op, struct softmax *state, const float *q, float *out,
                        size_t page_slot, unsigned first, unsigned last) {
        const struct kv_layer *kv = &op->kv;
        float scores[KV_PAGE_TOKENS], max = state->max, correction;

        for (unsigned j = first; j <= last; j++) {
                scores[j] = score(op, q, (page_slot + j) * kv->k_dim);
                max = fmaxf(max, scores[j]);
        }
        correction = expf(state->max - max);
        state->sum *= correction;
        for (uint32_t i = 0; i < kv->v_dim; i++)
                out[i] *= correction;
        for (unsigned j = first; j <= last; j++) {
                float p = expf(scores[j] - max);

                state->sum += p;
                for (uint32_t i = 0; i < kv->v_dim; i++)
                        out[i] += p * kv_value(kv->type, host_address(kv_values(kv)),
                                               kv_value_at(kv, page_slot + j, i));
        }
        state->max = max;
}

static void attend(const struct op_attention *op, uint32_t t, uint32_t h) {
        const struct kv_layer *kv = &op->kv;
        const float *sinks = host_address(op->sinks);
        const float *q = (const float *) host_address(op->q) + ((size_t) t * op->heads + h) * kv->k_dim;
        float *out = (float *) host_address(op->out) + ((size_t) t * op->heads + h) * kv->v_dim;
        uint32_t position = ((const int32_t *) host_address(op->rows.positions))[t];
        uint32_t sequence = ((const int32_t *) host_address(op->rows.sequences))[t];
        const int32_t *pages = (const int32_t *) host_address(op->rows.page_table) +
                               (size_t) sequence * op->rows.page_table_stride;
        uint32_t first = op->window && position >= op->window ? position - op->window + 1 : 0;
        uint32_t kv_head = h / (op->heads / kv->kv_heads);
        /* A sink is a key without a value, seen first. */
        struct softmax state = {.max = sinks ? sinks[h] : -INFINITY, .sum = sinks ? 1.0f : 0.0f};

        memset(out, 0, kv->v_dim * sizeof(*out));
        for (uint32_t page = first / KV_PAGE_TOKENS; page <= position / KV_PAGE_TOKENS; page++) {
                uint32_t base = page * KV_PAGE_TOKENS;
                size_t slot = ((size_t) pages[page] * kv->kv_heads + kv_head) * KV_PAGE_TOKENS;

                attend_page(op, &state, q, out, slot, MAX(first, base) - base,
                            MIN(position - base, KV_PAGE_TOKENS - 1U));
        }
        for (uint32_t i = 0; i < kv->v_dim; i++)
                out[i] /= state.sum;
}

void ref_attention(const struct op_attention *op, uint64_t begin, uint64_t end) {
        for (uint64_t i = begin; i < end; i++)
                attend(op, i / op->heads, i % op->heads);
}
