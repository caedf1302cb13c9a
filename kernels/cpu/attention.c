/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "base/util.h"
#include "cpu.h"

/* One attention operation, cut into jobs: up to ATTENTION_ROWS neighbouring rows of one sequence, and the
 * heads of one kv head or, where these jobs are too few for the threads, some of them. */
struct attention {
        const struct op_attention *op;
        const struct cpu_variant *variant;
        uint32_t n_blocks, split; /* jobs that share a kv head and rows */
        uint32_t *first;          /* [n_blocks + 1] first row of each block */
        float *scratch;           /* [threads][scratch_floats] */
        size_t scratch_floats;
};

static void attention_one(struct attention *a, uint64_t item, unsigned worker) {
        const struct op_attention *op = a->op;
        uint32_t group = op->heads / op->kv.kv_heads, part = item % a->split;
        uint32_t kv_head = item / a->split % op->kv.kv_heads, block = item / a->split / op->kv.kv_heads;
        uint32_t from = (uint32_t) ((uint64_t) group * part / a->split);
        uint32_t to = (uint32_t) ((uint64_t) group * (part + 1) / a->split);
        struct attention_job job = {
                .op = op,
                .first = a->first[block],
                .rows = a->first[block + 1] - a->first[block],
                .head = kv_head * group + from,
                .heads = to - from,
                .scratch = a->scratch + worker * a->scratch_floats,
        };

        a->variant->attention(&job);
}

static void attention_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        for (uint64_t item = begin; item < end; item++)
                attention_one(arg, item, worker);
}

/* Fewer rows a block where that gives every thread something to do. */
static uint32_t block_rows(const struct op_attention *op, unsigned threads) {
        uint64_t share = (uint64_t) op->rows.n * op->kv.kv_heads / (threads * 2);

        return (uint32_t) MIN(MAX(share, UINT64_C(1)), (uint64_t) ATTENTION_ROWS);
}

static void attention_divide(struct attention *a, unsigned threads) {
        const int32_t *sequences = host_address(a->op->rows.sequences);
        uint32_t most = block_rows(a->op, threads), group = a->op->heads / a->op->kv.kv_heads;
        uint64_t jobs;

        for (uint32_t t = 0; t < a->op->rows.n; t++)
                if (t == 0 || sequences[t] != sequences[t - 1] || t - a->first[a->n_blocks - 1] == most)
                        a->first[a->n_blocks++] = t;
        a->first[a->n_blocks] = a->op->rows.n;
        jobs = (uint64_t) a->n_blocks * a->op->kv.kv_heads;
        /* Every job of a split reads the same pages: no more of them than threads that would stand idle. */
        a->split = jobs >= threads ? 1 : (uint32_t) MIN(DIV_ROUND_UP(threads, jobs), group);
}

int cpu_attention(struct stream *s, const struct op_attention *op) {
        struct cpu_backend *b = cpu_backend(s);
        unsigned threads = pool_threads(b->pool);
        struct attention a = {.op = op, .variant = b->variant};
        size_t total = 0, first_at, scratch_at;
        uint64_t items, item_nsec;
        char *data;
        int r;

        r = host_check_attention(op);
        if (r || op->rows.n == 0)
                return r;
        a.scratch_floats = attention_scratch_floats(op);
        first_at = scratch_plan(&total, op->rows.n + (size_t) 1, sizeof(*a.first));
        scratch_at = scratch_plan(&total, threads, a.scratch_floats * sizeof(float));
        data = scratch_get(&b->scratch, total);
        if (!data)
                return -ENOMEM;
        a.first = (uint32_t *) (data + first_at);
        a.scratch = (float *) (data + scratch_at);
        attention_divide(&a, threads);
        items = (uint64_t) a.n_blocks * op->kv.kv_heads * a.split;
        item_nsec = (uint64_t) (op->rows.position_max + 1) * (op->kv.k_dim + op->kv.v_dim) / 16;
        pool_run(b->pool, items, items * item_nsec < 8000 ? items : 1, attention_piece, &a);
        return 0;
}
