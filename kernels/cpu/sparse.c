/* SPDX-License-Identifier: MIT */
/* Keys from all over the pages are brought to float32, INDEX_BLOCK of them at a time, and multiplied with several
 * heads at once by the variant's float kernel; or the variant does better. Blocks begin at a row's first key: its
 * bits do not depend on other rows. */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "attend.h"
#include "base/util.h"

enum { HEADS = 16 /* multiplied at once */ };

/* scores[h × INDEX_BLOCK + j] = q_h · keys_j */
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
                        .n = MIN(heads - from, (uint32_t) HEADS),
                        .x = x,
                        .y = y,
                };

                for (uint32_t h = 0; h < job.n; h++) {
                        x[h] = q + (size_t) (from + h) * dim;
                        y[h] = scores + (size_t) (from + h) * INDEX_BLOCK;
                }
                v->dot[QUANT_F32](&job);
        }
}

static uint32_t row_position(const struct op_rows *rows, uint32_t t) {
        return (uint32_t) ((const int32_t *) host_address(rows->positions))[t];
}

static uint32_t row_sequence(const struct op_rows *rows, uint32_t t) {
        return (uint32_t) ((const int32_t *) host_address(rows->sequences))[t];
}

/* Entries that row t chooses from; 0 where it takes all. */
static uint32_t index_entries(const struct op_index *op, uint32_t t) {
        uint32_t n = kv_visible(op->keys.ratio, row_position(&op->rows, t));

        return n > op->k ? n : 0;
}

/* Neighbouring rows of one sequence, [first, end). */
struct index_group {
        uint32_t first, end, entries; /* of the row that sees most */
        uint64_t jobs_before;
};

struct index_run {
        const struct op_index *op;
        const struct cpu_variant *variant;
        size_t stride, job_bytes;
        float *scores; /* [INDEX_ROWS][stride] */
        char *scratch; /* [threads][job_bytes] */
        uint32_t *groups_before; /* [threads]: whose job a thread's last one was; UINT32_MAX: none was */
        struct index_group groups[INDEX_ROWS];
        uint32_t first, rows, n_groups;
};

static void index_rows(const struct cpu_variant *v, const struct index_job *job) {
        const struct op_index *op = job->op;
        const struct quant_info *info = quant_info(op->keys.type);
        const int32_t *pages = (const int32_t *) host_address(op->rows.page_table) +
                               (size_t) row_sequence(&op->rows, job->first) * op->rows.page_table_stride;
        uint32_t dim = op->keys.k_dim, n;
        float *keys = job->scratch, *products = keys + (size_t) INDEX_BLOCK * dim;

        for (uint32_t i = job->begin; i < job->end; i += n) {
                n = MIN(job->end - i, (uint32_t) INDEX_BLOCK);
                for (uint32_t j = 0; j < n; j++)
                        info->dequantize(keys + (size_t) j * dim,
                                         (const char *) host_address(op->keys.k) +
                                                 kv_entry(op->keys.ratio, pages, i + j) * dim * info->block_bytes,
                                         dim);
                for (uint32_t r = 0; r < job->rows; r++) {
                        size_t t = job->first + r;
                        const float *weights = (const float *) host_address(op->weights) + t * op->heads;
                        float *scores = job->scores + r * job->stride + i;

                        multiply(v, keys, n, (const float *) host_address(op->q) + t * op->heads * dim, op->heads,
                                 dim, products);
                        for (uint32_t j = 0; j < n; j++) {
                                scores[j] = 0.0f;
                                for (uint32_t h = 0; h < op->heads; h++)
                                        scores[j] += weights[h] *
                                                     fmaxf(products[(size_t) h * INDEX_BLOCK + j], 0.0f);
                        }
                }
        }
}

static void index_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        const struct index_run *a = arg;
        uint32_t g = 0;

        for (uint64_t i = begin; i < end; i++) {
                struct index_job job = {
                        .op = a->op, .stride = a->stride, .scratch = a->scratch + worker * a->job_bytes,
                };

                while (g + 1 < a->n_groups && a->groups[g + 1].jobs_before <= i)
                        g++;
                job.first = a->groups[g].first;
                job.rows = a->groups[g].end - job.first;
                job.begin = (uint32_t) (i - a->groups[g].jobs_before) * INDEX_SPLIT;
                job.end = MIN(job.begin + INDEX_SPLIT, a->groups[g].entries);
                job.scores = a->scores + (job.first - a->first) * a->stride;
                job.again = a->groups_before[worker] == g;
                a->groups_before[worker] = g;
                if (a->variant->index && a->variant->can_index(a->op))
                        a->variant->index(&job);
                else
                        index_rows(a->variant, &job);
        }
}

static void choose_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        const struct index_run *a = arg;
        const struct op_index *op = a->op;

        for (uint64_t r = begin; r < end; r++) {
                uint32_t t = a->first + (uint32_t) r, n = index_entries(op, t);
                uint32_t visible = kv_visible(op->keys.ratio, row_position(&op->rows, t));
                int32_t *chosen = (int32_t *) host_address(op->chosen) + (size_t) t * op->k;

                if (n > 0)
                        (a->variant->choose ? a->variant->choose : choose_best)(chosen, a->scores + r * a->stride, n,
                                                                                op->k);
                else
                        for (uint32_t i = 0; i < op->k; i++)
                                chosen[i] = i < visible ? (int32_t) i : -1;
        }
}

/* Rows of one sequence that choose at all share each key on its way. */
static uint64_t index_divide(struct index_run *a) {
        const struct op_rows *rows = &a->op->rows;
        uint64_t jobs = 0;

        a->n_groups = 0;
        for (uint32_t t = a->first; t < a->first + a->rows; t++) {
                struct index_group *g = &a->groups[a->n_groups];
                uint32_t n = index_entries(a->op, t);

                if (n == 0)
                        continue;
                if (a->n_groups > 0 && g[-1].end == t && row_sequence(rows, g[-1].first) == row_sequence(rows, t)) {
                        jobs -= DIV_ROUND_UP((--g)->entries, (uint32_t) INDEX_SPLIT);
                        g->end = t + 1;
                        g->entries = n;
                } else {
                        *g = (struct index_group){t, t + 1, n, jobs};
                        a->n_groups++;
                }
                jobs += DIV_ROUND_UP(n, (uint32_t) INDEX_SPLIT);
        }
        return jobs;
}

int cpu_index(struct stream *s, const struct op_index *op) {
        struct cpu_backend *b = cpu_backend(s);
        struct index_run a = {.op = op, .variant = b->variant};
        size_t total = 0, scratch_at, before_at;
        int r;

        r = host_check_kv(&op->keys);
        if (r || op->rows.n == 0)
                return r;
        a.stride = ((size_t) kv_visible(op->keys.ratio, op->rows.position_max) + INDEX_BLOCK - 1) / INDEX_BLOCK *
                   INDEX_BLOCK;
        scratch_plan(&a.job_bytes, index_scratch(op), 1);
        scratch_plan(&total, MIN(op->rows.n, (uint32_t) INDEX_ROWS) * a.stride, sizeof(float));
        scratch_at = scratch_plan(&total, pool_threads(b->pool), a.job_bytes);
        before_at = scratch_plan(&total, pool_threads(b->pool), sizeof(*a.groups_before));
        a.scores = scratch_get(&b->scratch, total);
        if (!a.scores)
                return -ENOMEM;
        a.scratch = (char *) a.scores + scratch_at;
        a.groups_before = (uint32_t *) ((char *) a.scores + before_at);
        for (a.first = 0; a.first < op->rows.n; a.first += a.rows) {
                a.rows = MIN(op->rows.n - a.first, (uint32_t) INDEX_ROWS);
                memset(a.groups_before, 0xff, pool_threads(b->pool) * sizeof(*a.groups_before));
                pool_run(b->pool, index_divide(&a), 1, index_piece, &a);
                pool_run(b->pool, a.rows, 1, choose_piece, &a);
        }
        return 0;
}

struct sparse {
        struct attend base;
        const struct op_sparse_attention *op;
        uint32_t parts; /* of the heads */
};

/* The running softmax of one head over a block (arXiv 1805.02867). */
static void sparse_head(const struct cpu_variant *v, const struct op_sparse_attention *op, const float *keys,
                        uint32_t n, const float *products, float *max, float *sum, float *out) {
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
                v->add(&add, 0, op->kv.v_dim);
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

static void sparse_rows(const struct cpu_variant *v, const struct sparse_job *job) {
        const struct op_sparse_attention *op = job->op;
        const struct attention_part *part = &job->part;
        const float *q = (const float *) host_address(op->q) +
                         ((size_t) job->row * op->heads + job->head) * op->kv.k_dim;
        float *products = job->scratch, *keys = products + (size_t) INDEX_BLOCK * ATTENTION_PAIRS;

        memset(part->out, 0, (size_t) job->heads * op->kv.v_dim * sizeof(float));
        for (uint32_t h = 0; h < job->heads; h++) {
                part->max[h] = -INFINITY;
                part->sum[h] = 0.0f;
        }
        for (uint32_t i = job->begin; i < job->end; i += INDEX_BLOCK) {
                uint32_t n = MIN(job->end - i, (uint32_t) INDEX_BLOCK);

                load_keys(op, job->keys, i, n, keys);
                multiply(v, keys, n, q, job->heads, op->kv.k_dim, products);
                for (uint32_t h = 0; h < job->heads; h++)
                        sparse_head(v, op, keys, n, products + (size_t) h * INDEX_BLOCK, &part->max[h],
                                    &part->sum[h], part->out + (size_t) h * op->kv.v_dim);
        }
}

static struct attend_chain sparse_chain(const struct attend *base, uint64_t i) {
        const struct sparse *a = container_of(base, const struct sparse, base);
        uint32_t t = (uint32_t) (i / a->parts), part = i % a->parts;
        uint32_t from = (uint32_t) ((uint64_t) base->heads * part / a->parts);

        return (struct attend_chain){
                .first = t,
                .rows = 1,
                .head = from,
                .heads = (uint32_t) ((uint64_t) base->heads * (part + 1) / a->parts) - from,
                .end = DIV_ROUND_UP(sparse_keys(a->op, t).count, (uint32_t) SPARSE_SPLIT),
        };
}

static bool is_bf16(const struct kv_layer *kv) {
        return !kv->k.address || kv->type == QUANT_BF16;
}

static void sparse_part(const struct attend *base, const struct attend_chain *c, uint32_t split,
                        const struct attention_part *part, void *scratch) {
        const struct op_sparse_attention *op = base->op;
        struct sparse_keys keys = sparse_keys(op, c->first);
        struct sparse_job job = {
                .op = op,
                .keys = &keys,
                .row = c->first,
                .head = c->head,
                .heads = c->heads,
                .begin = split * SPARSE_SPLIT,
                .end = MIN((split + 1) * SPARSE_SPLIT, keys.count),
                .part = *part,
                .scratch = scratch,
        };

        if (base->variant->sparse_attention && is_bf16(&op->kv) && is_bf16(&op->entries))
                base->variant->sparse_attention(&job);
        else
                sparse_rows(base->variant, &job);
}

int cpu_sparse_attention(struct stream *s, const struct op_sparse_attention *op) {
        struct cpu_backend *b = cpu_backend(s);
        struct sparse a = {.op = op, .parts = DIV_ROUND_UP(op->heads, (uint32_t) ATTENTION_PAIRS)};
        size_t total = 0;
        int r;

        r = host_check_sparse_attention(op);
        if (r || op->rows.n == 0)
                return r;
        a.base = (struct attend){
                .op = op,
                .variant = b->variant,
                .deal = b->deals[0],
                .rows = op->rows.n,
                .heads = op->heads,
                .v_dim = op->kv.v_dim,
                .pairs = MIN(op->heads, (uint32_t) ATTENTION_PAIRS),
                .sinks = host_address(op->sinks),
                .out = host_address(op->out),
                .chains = (uint64_t) op->rows.n * a.parts,
                .chain = sparse_chain,
                .part = sparse_part,
        };
        attend_plan(&a.base, &op->kv, pool_threads(b->pool), &total);
        a.base.scratch = scratch_get(&b->scratch, total);
        if (!a.base.scratch)
                return -ENOMEM;
        attend_run(&a.base, b->pool);
        return 0;
}
