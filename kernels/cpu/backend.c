/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/util.h"
#include "cpu.h"
#include "machine.h"

/* The alignment is what panels want (panel.h). */
enum { SCRATCH_ALIGN = 4096 };

size_t scratch_plan(size_t *total, size_t count, size_t bytes) {
        size_t at = *total, size;

        if (__builtin_mul_overflow(count, bytes, &size) || __builtin_add_overflow(at, size, total) ||
            __builtin_add_overflow(*total, SCRATCH_ALIGN - 1, total)) {
                *total = SIZE_MAX;
                return at;
        }
        *total &= ~(size_t) (SCRATCH_ALIGN - 1);
        return at;
}

void *scratch_get(struct scratch *s, size_t total) {
        size_t align = total < HOST_HUGE_PAGE / 4 ? SCRATCH_ALIGN : HOST_HUGE_PAGE;
        void *data;

        if (s->planned)
                s->size = MAX(s->size, total);
        if (total <= s->size)
                return s->data;
        if (total > SIZE_MAX / 2)
                return NULL;
        total = (total + align - 1) & ~(align - 1);
        data = aligned_alloc(align, total);
        if (!data)
                return NULL;
        /* Tiles are read line by line from many places: on small pages their addresses cost more than their
         * products. */
        host_prefer_huge_pages(data, total);
        free(s->data);
        *s = (struct scratch){.data = data, .size = total};
        return data;
}

uint32_t cpu_row_unit(const struct cpu_backend *b, uint64_t rows_total, uint64_t row_work) {
        const uint64_t piece = 128 * 1024, tile = 32;
        uint64_t threads = pool_threads(b->pool), unit = piece / MAX(row_work, UINT64_C(1));

        if (threads > 1)
                unit = MIN(unit, DIV_ROUND_UP(rows_total, threads * 8));
        unit = DIV_ROUND_UP(MAX(unit, UINT64_C(1)), tile) * tile;
        return (uint32_t) MIN(unit, MAX(rows_total, UINT64_C(1)));
}

uint64_t cpu_grain(const struct cpu_backend *b, uint64_t n, uint64_t item_nsec) {
        const uint64_t worth_nsec = 4000;
        uint64_t total;

        if (mul_u64(n, item_nsec, &total) && total < 2 * worth_nsec)
                return n;
        return MAX(MIN(n / (pool_threads(b->pool) * 4), worth_nsec * 16 / MAX(item_nsec, UINT64_C(1))),
                   UINT64_C(1));
}

#define EMBED(_op, _begin, _end)                                                                             \
        embed((_op), cpu_variant_dequantize(a->variant, (_op)->table.type), (_begin), (_end))
#define KV_STORE(_op, _begin, _end) kv_store((_op), a->variant->to_f16, a->variant->to_bf16, (_begin), (_end))
#define COMPRESS(_op, _begin, _end) compress((_op), a->variant->channels_add, (_begin), (_end))
#define ROUTE(_op, _begin, _end) a->variant->route((_op), NULL, (_begin), (_end))

ROWS_OP(op_embed, EMBED)
ROWS_OP(op_kv_store, KV_STORE)
ROWS_OP(op_compress, COMPRESS)
ROWS_OP(op_rms_norm, a->variant->rms_norm)
ROWS_OP(op_rope, a->variant->rope)
ROWS_OP(op_glu, a->variant->glu)
ROWS_OP(op_add, a->variant->add)
ROWS_OP(op_gather, ref_gather)
ROWS_OP(op_copy, ref_copy)
ROWS_OP(op_layer_norm, a->variant->layer_norm)
ROWS_OP(op_route, ROUTE)

static int cpu_embed(struct stream *s, const struct op_embed *op) {
        int r = host_check_embed(op);

        if (r == 0)
                op_embed_run(s, op, op->n, op->table.cols / 8);
        return r;
}

static int cpu_rms_norm(struct stream *s, const struct op_rms_norm *op) {
        op_rms_norm_run(s, op, op->n, op->dim / 8);
        return 0;
}

static int cpu_rope(struct stream *s, const struct op_rope *op) {
        if (op->dims / 2 > ROPE_PAIRS_MAX)
                return -EOPNOTSUPP;
        op_rope_run(s, op, op->n, op->dims / 4 + (uint64_t) op->heads * op->dims / 10);
        return 0;
}

static int cpu_kv_store(struct stream *s, const struct op_kv_store *op) {
        int r = host_check_kv(&op->kv);

        if (r == 0)
                op_kv_store_run(s, op, op->rows.n,
                                (uint64_t) op->kv.kv_heads * (op->kv.k_dim + op->kv.v_dim) / 8);
        return r;
}

static int cpu_glu(struct stream *s, const struct op_glu *op) {
        op_glu_run(s, op, op->n, op->dim / 2);
        return 0;
}

static int cpu_add(struct stream *s, const struct op_add *op) {
        op_add_run(s, op, op->n, 1);
        return 0;
}

static int cpu_gather(struct stream *s, const struct op_gather *op) {
        op_gather_run(s, op, op->n, op->dim / 8);
        return 0;
}

static int cpu_layer_norm(struct stream *s, const struct op_layer_norm *op) {
        op_layer_norm_run(s, op, op->n, op->dim / 6);
        return 0;
}

static int cpu_compress(struct stream *s, const struct op_compress *op) {
        if (op->ratio == 0)
                return -EOPNOTSUPP;
        op_compress_run(s, op, op->dim, (uint64_t) op->rows.n * (op->overlap ? 2 : 1));
        return 0;
}

static int cpu_copy(struct stream *s, const struct op_copy *op) {
        op_copy_run(s, op, op->n, op->dim / 8);
        return 0;
}

static int cpu_route(struct stream *s, const struct op_route *op) {
        int r = host_check_route(op);

        if (r)
                return r;
        op_route_run(s, op, op->n, (uint64_t) op->experts * 2 + op->k * 40);
        if (route_is_settled(op))
                route_settle(op, cpu_backend(s)->variant->route);
        host_tally(op);
        return 0;
}

static void cpu_free(struct backend *base) {
        struct cpu_backend *b = container_of(base, struct cpu_backend, base);

        for (unsigned i = 0; i < CPU_DEALS; i++)
                deal_free(b->deals[i]);
        pool_free(b->pool);
        free(b->scratch.data);
        free(b);
}

static const struct backend_ops cpu_ops = {
        .name = "cpu",
        .free = cpu_free,
        HOST_MEMORY_OPS,
        .embed = cpu_embed,
        .rms_norm = cpu_rms_norm,
        .layer_norm = cpu_layer_norm,
        .matmul = cpu_matmul,
        .head_matmul = cpu_head_matmul,
        .copy = cpu_copy,
        .rope = cpu_rope,
        .kv_store = cpu_kv_store,
        .attention = cpu_attention,
        .index = cpu_index,
        .sparse_attention = cpu_sparse_attention,
        .compress = cpu_compress,
        .hyper_mix = cpu_hyper_mix,
        .hyper_in = cpu_hyper_in,
        .hyper_out = cpu_hyper_out,
        .glu = cpu_glu,
        .add = cpu_add,
        .gather = cpu_gather,
        .route = cpu_route,
        .moe = cpu_moe,
};

static const struct cpu_variant *choose_variant(const char *isa) {
        const char *instead = getenv("MOED_ISA");

        return cpu_variant_choose(instead && *instead ? instead : isa, machine_cpu_bits());
}

enum quant_type backend_cpu_kv_type(void) {
        const struct cpu_variant *variant = choose_variant(NULL);

        return variant ? cpu_kv_type(variant) : QUANT_F16;
}

int backend_cpu_new(struct backend **ret, const struct backend_cpu_options *options) {
        const struct cpu_variant *variant = choose_variant(options ? options->isa : NULL);
        struct cpu_backend *b;
        int r;

        if (!variant)
                return -EINVAL;
        b = calloc(1, sizeof(*b));
        if (!b)
                return -ENOMEM;
        b->base = (struct backend){
                .ops = &cpu_ops, .flags = BACKEND_HOST_MEMORY, .kv_type = cpu_kv_type(variant),
        };
        if (variant->prompt_form)
                b->base.flags |= BACKEND_PROMPTS;
        b->variant = variant;
        machine_spread_memory();
        r = pool_new(&b->pool, options && options->threads ? options->threads : machine_threads());
        for (unsigned i = 0; r == 0 && i < CPU_DEALS; i++)
                r = deal_new(&b->deals[i], pool_threads(b->pool));
        if (r) {
                cpu_free(&b->base);
                return r;
        }
        snprintf(b->description, sizeof(b->description), "%s, %u threads", variant->name,
                 pool_threads(b->pool));
        *ret = &b->base;
        return 0;
}

const char *backend_cpu_describe(struct backend *b) {
        return container_of(b, struct cpu_backend, base)->description;
}
