/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "attend.h"
#include "base/util.h"

/* One attention operation in chains: neighbouring rows of one sequence, and the heads of one kv head or, where
 * these are too few for the threads, some of them. */
struct attention {
        struct attend base;
        const struct op_attention *op;
        uint32_t n_blocks, parts; /* of a kv head's heads */
        uint32_t *first;          /* [n_blocks + 1] first row of each block */
};

static uint32_t row_position(const struct op_attention *op, uint32_t t) {
        return (uint32_t) ((const int32_t *) host_address(op->rows.positions))[t];
}

static struct attend_chain attention_chain(const struct attend *base, uint64_t i) {
        const struct attention *a = container_of(base, const struct attention, base);
        const struct op_attention *op = a->op;
        uint32_t group = op->heads / op->kv.kv_heads, part = i % a->parts;
        uint32_t kv_head = i / a->parts % op->kv.kv_heads, block = (uint32_t) (i / a->parts / op->kv.kv_heads);
        uint32_t from = (uint32_t) ((uint64_t) group * part / a->parts);
        uint32_t to = (uint32_t) ((uint64_t) group * (part + 1) / a->parts);
        uint32_t first = a->first[block], end = a->first[block + 1], position = row_position(op, first);

        return (struct attend_chain){
                .first = first,
                .rows = end - first,
                .head = kv_head * group + from,
                .heads = to - from,
                .begin = attention_first(op, position) / ATTENTION_SPLIT,
                .end = row_position(op, end - 1) / ATTENTION_SPLIT + 1,
        };
}

static void attention_part(const struct attend *base, const struct attend_chain *c, uint32_t split,
                           const struct attention_part *part, void *scratch) {
        struct attention_job job = {
                .op = base->op,
                .first = c->first,
                .rows = c->rows,
                .head = c->head,
                .heads = c->heads,
                .begin = split * ATTENTION_SPLIT,
                .end = (split + 1) * ATTENTION_SPLIT,
                .part = *part,
                .scratch = scratch,
        };

        base->variant->attention(&job);
}

/* Fewer rows a block where that gives every thread something to do. */
static uint32_t block_rows(const struct op_attention *op, unsigned threads) {
        uint64_t share = (uint64_t) op->rows.n * op->kv.kv_heads / (threads * 2);
        uint32_t most = MAX(ATTENTION_PAIRS / (op->heads / op->kv.kv_heads), 1U);

        return (uint32_t) MIN(MAX(share, UINT64_C(1)), (uint64_t) most);
}

static void attention_divide(struct attention *a, unsigned threads) {
        const int32_t *sequences = host_address(a->op->rows.sequences);
        uint32_t most = block_rows(a->op, threads), group = a->op->heads / a->op->kv.kv_heads;
        uint64_t chains, splits = 0;

        for (uint32_t t = 0; t < a->op->rows.n; t++)
                if (t == 0 || sequences[t] != sequences[t - 1] || t - a->first[a->n_blocks - 1] == most)
                        a->first[a->n_blocks++] = t;
        a->first[a->n_blocks] = a->op->rows.n;
        chains = (uint64_t) a->n_blocks * a->op->kv.kv_heads;
        a->parts = 1;
        for (uint64_t i = 0; i < chains && splits < threads; i++) {
                struct attend_chain c = attention_chain(&a->base, i);

                splits += c.end - c.begin;
        }
        /* All parts read the same pages: no more of them than threads that would stand idle. */
        if (splits < threads)
                a->parts = (uint32_t) MIN(DIV_ROUND_UP(threads, splits), group);
        a->parts = MAX(a->parts, DIV_ROUND_UP(group, (uint32_t) ATTENTION_PAIRS));
        a->base.chains = chains * a->parts;
}

struct whole_rows {
        const struct op_attention *op;
};

static void whole_rows_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        const struct whole_rows *w = arg;

        ref_attention(w->op, begin, end);
}

int cpu_attention(struct stream *s, const struct op_attention *op) {
        struct cpu_backend *b = cpu_backend(s);
        unsigned threads = pool_threads(b->pool);
        struct attention a = {.op = op};
        size_t total = 0, first_at;
        int r;

        r = host_check_attention(op);
        if (r || op->rows.n == 0)
                return r;
        a.base = (struct attend){
                .op = op,
                .variant = b->variant,
                .deal = b->deals[0],
                .rows = op->rows.n,
                .heads = op->heads,
                .v_dim = op->kv.v_dim,
                .pairs = (uint32_t) MIN((uint64_t) op->rows.n * (op->heads / op->kv.kv_heads),
                                        (uint64_t) ATTENTION_PAIRS),
                .sinks = host_address(op->sinks),
                .out = host_address(op->out),
                .chain = attention_chain,
                .part = attention_part,
        };
        attend_plan(&a.base, &op->kv, threads, &total);
        first_at = scratch_plan(&total, op->rows.n + (size_t) 1, sizeof(*a.first));
        a.base.scratch = scratch_get(&b->scratch, total);
        if (!a.base.scratch)
                return -ENOMEM;
        if (!b->variant->attention) {
                pool_run(b->pool, (uint64_t) op->rows.n * op->heads, 1, whole_rows_piece,
                         &(struct whole_rows){op});
                return 0;
        }
        a.first = (uint32_t *) (a.base.scratch + first_at);
        attention_divide(&a, threads);
        attend_run(&a.base, b->pool);
        return 0;
}
