/* SPDX-License-Identifier: MIT */
/* Keys from all over the pages are brought to float32, BLOCK of them at a time, and multiplied with several
 * heads at once by the variant's float kernel. Blocks begin at a row's first key: its bits do not depend on
 * other rows. */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/util.h"
#include "cpu.h"

enum {
        BLOCK = 32, /* keys */
        HEADS = 16, /* of one job of sparse attention */
};

/* scores[h × BLOCK + j] = q_h · keys_j */
static void multiply(const struct cpu_variant *v, const float *keys, uint32_t n, const float *q,
                     uint32_t heads, uint32_t dim, float *scores) {
        for (uint32_t from = 0; from < heads; from += HEADS) {
                const void *x[HEADS];
                float *y[HEADS];
                struct dot_job job = {
                        .w = (const uint8_t *) keys,
                        .row_bytes = dim * sizeof(float),
                        .cols = dim,
                        .end = n,
                        .rows = n,
                        .n = MIN(heads - from, (uint32_t) HEADS),
                        .x = x,
                        .y = y,
                };

                for (uint32_t h = 0; h < job.n; h++) {
                        x[h] = q + (size_t) (from + h) * dim;
                        y[h] = scores + (size_t) (from + h) * BLOCK;
                }
                v->dot[QUANT_F32](&job);
        }
}

struct index_run {
        const struct op_index *op;
        const struct cpu_variant *variant;
        char *scratch; /* [threads][worker_bytes] */
        size_t worker_bytes, keys_at, products_at;
};

/* scores[i] of the entries [from, from + n). */
static void index_block(const struct index_run *a, uint32_t t, const int32_t *pages, uint32_t from,
                        uint32_t n, float *scores, float *keys, float *products) {
        const struct op_index *op = a->op;
        const struct quant_info *info = quant_info(op->keys.type);
        const float *weights = (const float *) host_address(op->weights) + (size_t) t * op->heads;
        uint32_t dim = op->keys.k_dim;

        for (uint32_t j = 0; j < n; j++)
                info->dequantize(keys + (size_t) j * dim,
                                 (const char *) host_address(op->keys.k) +
                                         kv_entry(op->keys.ratio, pages, from + j) * dim * info->block_bytes,
                                 dim);
        multiply(a->variant, keys, n, (const float *) host_address(op->q) + (size_t) t * op->heads * dim,
                 op->heads, dim, products);
        for (uint32_t j = 0; j < n; j++) {
                float sum = 0.0f;

                for (uint32_t h = 0; h < op->heads; h++)
                        sum += weights[h] * fmaxf(products[(size_t) h * BLOCK + j], 0.0f);
                scores[from + j] = sum;
        }
}

static void index_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        const struct index_run *a = arg;
        const struct op_index *op = a->op;
        char *scratch = a->scratch + worker * a->worker_bytes;
        float *scores = (float *) scratch;

        for (uint64_t t = begin; t < end; t++) {
                uint32_t n =
                        kv_visible(op->keys.ratio, ((const int32_t *) host_address(op->rows.positions))[t]);
                const int32_t *pages = (const int32_t *) host_address(op->rows.page_table) +
                                       (size_t) ((const int32_t *) host_address(op->rows.sequences))[t] *
                                               op->rows.page_table_stride;
                int32_t *chosen = (int32_t *) host_address(op->chosen) + t * op->k;

                for (uint32_t i = 0; n <= op->k && i < op->k; i++)
                        chosen[i] = i < n ? (int32_t) i : -1;
                if (n <= op->k)
                        continue;
                for (uint32_t i = 0; i < n; i += BLOCK)
                        index_block(a, (uint32_t) t, pages, i, MIN(n - i, (uint32_t) BLOCK), scores,
                                    (float *) (scratch + a->keys_at), (float *) (scratch + a->products_at));
                choose_best(chosen, scores, n, op->k);
        }
}

int cpu_index(struct stream *s, const struct op_index *op) {
        struct cpu_backend *b = cpu_backend(s);
        struct index_run a = {.op = op, .variant = b->variant};
        size_t total = 0;
        int r;

        r = host_check_kv(&op->keys);
        if (r || op->rows.n == 0)
                return r;
        scratch_plan(&a.worker_bytes, kv_visible(op->keys.ratio, op->rows.position_max), sizeof(float));
        a.keys_at = scratch_plan(&a.worker_bytes, (size_t) BLOCK * op->keys.k_dim, sizeof(float));
        a.products_at = scratch_plan(&a.worker_bytes, (size_t) BLOCK * op->heads, sizeof(float));
        scratch_plan(&total, pool_threads(b->pool), a.worker_bytes);
        a.scratch = scratch_get(&b->scratch, total);
        if (!a.scratch)
                return -ENOMEM;
        pool_run(b->pool, op->rows.n, 1, index_piece, &a);
        return 0;
}

struct sparse_run {
        const struct op_sparse_attention *op;
        const struct cpu_variant *variant;
        char *scratch; /* [threads][worker_bytes] */
        size_t worker_bytes, scores_at;
        uint32_t groups; /* jobs of a row */
};

/* The running softmax of one head over a block (arXiv 1805.02867). */
static void sparse_head(const struct sparse_run *a, const float *keys, uint32_t n, const float *products,
                        float *max, float *sum, float *out) {
        const struct op_sparse_attention *op = a->op;
        float before = *max, correction;

        for (uint32_t j = 0; j < n; j++)
                *max = fmaxf(*max, op->scale * products[j]);
        correction = expf(before - *max);
        *sum *= correction;
        for (uint32_t i = 0; i < op->kv.v_dim; i++)
                out[i] *= correction;
        for (uint32_t j = 0; j < n; j++) {
                struct op_add add = {
                        .x = host_device_ptr(keys + (size_t) j * op->kv.k_dim),
                        .y = host_device_ptr(out),
                        .scale = expf(op->scale * products[j] - *max),
                };

                *sum += add.scale;
                a->variant->add(&add, 0, op->kv.v_dim);
        }
}

static void load_keys(const struct op_sparse_attention *op, const struct sparse_keys *list, uint32_t from,
                      uint32_t n, float *keys) {
        for (uint32_t j = 0; j < n; j++) {
                enum quant_type type = from + j < list->recent ? op->kv.type : op->entries.type;

                quant_info(type)->dequantize(keys + (size_t) j * op->kv.k_dim, sparse_key(op, list, from + j),
                                             op->kv.k_dim);
        }
}

static void sparse_one(const struct sparse_run *a, uint32_t t, uint32_t head, char *scratch) {
        const struct op_sparse_attention *op = a->op;
        const float *sinks = host_address(op->sinks);
        uint32_t heads = MIN(op->heads - head, (uint32_t) HEADS);
        const float *q = (const float *) host_address(op->q) + ((size_t) t * op->heads + head) * op->kv.k_dim;
        float *out = (float *) host_address(op->out) + ((size_t) t * op->heads + head) * op->kv.v_dim;
        float *keys = (float *) scratch, *products = (float *) (scratch + a->scores_at), max[HEADS],
              sum[HEADS];
        struct sparse_keys list = sparse_keys(op, t);

        memset(out, 0, (size_t) heads * op->kv.v_dim * sizeof(*out));
        for (uint32_t h = 0; h < heads; h++) {
                max[h] = sinks ? sinks[head + h] : -INFINITY;
                sum[h] = sinks ? 1.0f : 0.0f;
        }
        for (uint32_t i = 0; i < list.count; i += BLOCK) {
                uint32_t n = MIN(list.count - i, (uint32_t) BLOCK);

                load_keys(op, &list, i, n, keys);
                multiply(a->variant, keys, n, q, heads, op->kv.k_dim, products);
                for (uint32_t h = 0; h < heads; h++)
                        sparse_head(a, keys, n, products + h * BLOCK, &max[h], &sum[h],
                                    out + (size_t) h * op->kv.v_dim);
        }
        for (uint32_t h = 0; h < heads; h++)
                for (uint32_t i = 0; i < op->kv.v_dim && sum[h] > 0.0f; i++)
                        out[(size_t) h * op->kv.v_dim + i] /= sum[h];
}

static void sparse_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        const struct sparse_run *a = arg;

        for (uint64_t item = begin; item < end; item++)
                sparse_one(a, (uint32_t) (item / a->groups), (uint32_t) (item % a->groups) * HEADS,
                           a->scratch + worker * a->worker_bytes);
}

int cpu_sparse_attention(struct stream *s, const struct op_sparse_attention *op) {
        struct cpu_backend *b = cpu_backend(s);
        struct sparse_run a = {
                .op = op, .variant = b->variant, .groups = DIV_ROUND_UP(op->heads, (uint32_t) HEADS)};
        size_t total = 0;
        int r;

        r = host_check_sparse_attention(op);
        if (r || op->rows.n == 0)
                return r;
        scratch_plan(&a.worker_bytes, (size_t) BLOCK * op->kv.k_dim, sizeof(float));
        a.scores_at = scratch_plan(&a.worker_bytes, (size_t) BLOCK * HEADS, sizeof(float));
        scratch_plan(&total, pool_threads(b->pool), a.worker_bytes);
        a.scratch = scratch_get(&b->scratch, total);
        if (!a.scratch)
                return -ENOMEM;
        pool_run(b->pool, (uint64_t) op->rows.n * a.groups, 1, sparse_piece, &a);
        return 0;
}
