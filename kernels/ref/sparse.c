/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <string.h>

#include "base/util.h"
#include "host.h"
#include "ref.h"

size_t kv_entry(uint32_t ratio, const int32_t *pages, uint32_t i) {
        uint32_t last = ratio ? (i + 1) * ratio - 1 : i;
        size_t page = (size_t) pages[last / KV_PAGE_TOKENS];

        return page * kv_page_entries(ratio) +
               last % KV_PAGE_TOKENS / MAX(MIN(ratio, (uint32_t) KV_PAGE_TOKENS), 1U);
}

static const int32_t *row_pages(const struct op_rows *rows, uint32_t t) {
        return (const int32_t *) host_address(rows->page_table) +
               (size_t) ((const int32_t *) host_address(rows->sequences))[t] * rows->page_table_stride;
}

static const char *plane_key(const struct kv_layer *kv, const int32_t *pages, uint32_t i) {
        return (const char *) host_address(kv->k) +
               kv_entry(kv->ratio, pages, i) * kv->k_dim * quant_info(kv->type)->block_bytes;
}

static float dot(enum quant_type type, const float *q, const char *key, uint32_t n) {
        float sum = 0.0f;

        for (uint32_t i = 0; i < n; i++)
                sum += q[i] * kv_value(type, key, i);
        return sum;
}

/* Rises with the score; -0 is 0. */
static uint32_t rank_of(float score) {
        uint32_t bits;

        if (isnan(score))
                return 0;
        score += 0.0f;
        memcpy(&bits, &score, sizeof(bits));
        return bits >> 31 ? ~bits : bits | 1u << 31;
}

void choose_best(int32_t *chosen, const float *scores, uint32_t n, uint32_t k) {
        uint32_t threshold = 0, wanted = k, m = 0;

        /* The k-th best rank, a byte after the other; `wanted`: how many of the ranks that begin so. */
        for (int shift = 24; shift >= 0; shift -= 8) {
                uint32_t counts[256] = {0}, byte = 255;

                for (uint32_t i = 0; i < n; i++) {
                        uint32_t rank = rank_of(scores[i]);

                        if (shift == 24 || rank >> (shift + 8) == threshold >> (shift + 8))
                                counts[rank >> shift & 255]++;
                }
                for (; byte > 0 && counts[byte] < wanted; byte--)
                        wanted -= counts[byte];
                threshold |= byte << shift;
        }
        for (uint32_t i = 0; i < n; i++) {
                uint32_t rank = rank_of(scores[i]);

                if (rank < threshold || (rank == threshold && wanted == 0))
                        continue;
                wanted -= rank == threshold;
                chosen[m++] = (int32_t) i;
        }
}

static float index_score(const struct op_index *op, const float *q, const float *weights, const char *key) {
        float score = 0.0f;

        for (uint32_t h = 0; h < op->heads; h++)
                score +=
                        weights[h] *
                        fmaxf(dot(op->keys.type, q + (size_t) h * op->keys.k_dim, key, op->keys.k_dim), 0.0f);
        return score;
}

void ref_index(const struct op_index *op, float *scores, uint32_t begin, uint32_t end) {
        for (uint32_t t = begin; t < end; t++) {
                uint32_t n =
                        kv_visible(op->keys.ratio, ((const int32_t *) host_address(op->rows.positions))[t]);
                const float *q =
                        (const float *) host_address(op->q) + (size_t) t * op->heads * op->keys.k_dim;
                const float *weights = (const float *) host_address(op->weights) + (size_t) t * op->heads;
                int32_t *chosen = (int32_t *) host_address(op->chosen) + (size_t) t * op->k;

                for (uint32_t i = 0; n <= op->k && i < op->k; i++)
                        chosen[i] = i < n ? (int32_t) i : -1;
                if (n <= op->k)
                        continue;
                for (uint32_t i = 0; i < n; i++)
                        scores[i] =
                                index_score(op, q, weights, plane_key(&op->keys, row_pages(&op->rows, t), i));
                choose_best(chosen, scores, n, op->k);
        }
}

struct sparse_keys sparse_keys(const struct op_sparse_attention *op, uint32_t t) {
        uint32_t position = ((const int32_t *) host_address(op->rows.positions))[t];
        struct sparse_keys keys = {.pages = row_pages(&op->rows, t)};

        keys.recent = MIN(op->window, position + 1);
        keys.first = position + 1 - keys.recent;
        keys.count = keys.recent;
        if (op->chosen.address) {
                uint32_t n = 0;

                keys.chosen = (const int32_t *) host_address(op->chosen) + (size_t) t * op->chosen_max;
                while (n < op->chosen_max && keys.chosen[n] >= 0)
                        n++;
                keys.count += n;
        } else if (op->entries.k.address) {
                keys.count += kv_visible(op->entries.ratio, position);
        }
        return keys;
}

const char *sparse_key(const struct op_sparse_attention *op, const struct sparse_keys *keys, uint32_t i) {
        if (i < keys->recent)
                return plane_key(&op->kv, keys->pages, keys->first + i);
        i -= keys->recent;
        return plane_key(&op->entries, keys->pages, keys->chosen ? (uint32_t) keys->chosen[i] : i);
}

static void attend(const struct op_sparse_attention *op, uint32_t t, uint32_t h) {
        const float *sinks = host_address(op->sinks);
        const float *q = (const float *) host_address(op->q) + ((size_t) t * op->heads + h) * op->kv.k_dim;
        float *out = (float *) host_address(op->out) + ((size_t) t * op->heads + h) * op->kv.v_dim;
        struct sparse_keys keys = sparse_keys(op, t);
        float max = sinks ? sinks[h] : -INFINITY, sum = sinks ? 1.0f : 0.0f;

        memset(out, 0, op->kv.v_dim * sizeof(*out));
        for (uint32_t i = 0; i < keys.count; i++) {
                enum quant_type type = i < keys.recent ? op->kv.type : op->entries.type;
                const char *key = sparse_key(op, &keys, i);
                float s = op->scale * dot(type, q, key, op->kv.k_dim), before = max, correction, p;

                max = fmaxf(max, s);
                correction = expf(before - max);
                p = expf(s - max);
                sum = sum * correction + p;
                for (uint32_t j = 0; j < op->kv.v_dim; j++)
                        out[j] = out[j] * correction + p * kv_value(type, key, j);
        }
        for (uint32_t j = 0; j < op->kv.v_dim && sum > 0.0f; j++)
                out[j] /= sum;
}

void ref_sparse_attention(const struct op_sparse_attention *op, uint64_t begin, uint64_t end) {
        for (uint64_t i = begin; i < end; i++)
                attend(op, i / op->heads, i % op->heads);
}
