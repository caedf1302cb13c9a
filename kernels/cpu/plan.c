/* SPDX-License-Identifier: MIT */
/* The cpu backend's twin that computes nothing: buffers are numbers, and of an operation only the scratch is
 * laid out, by the operation's own function, which then finds none and returns. */
#include <errno.h>
#include <stdlib.h>

#include "base/util.h"
#include "cpu.h"
#include "machine.h"

struct plan {
        struct cpu_backend cpu;
        struct backend_cost cost;
};

struct buffer {
        struct plan *plan;
        uint64_t size;
        bool imported;
};

static struct plan *plan_of(struct backend *b) {
        return container_of(b, struct plan, cpu.base);
}

static int plan_buffer(struct backend *b, uint64_t size, bool imported, struct buffer **ret) {
        struct backend_cost *cost = &plan_of(b)->cost;
        struct buffer *buffer = malloc(sizeof(*buffer));

        if (!buffer)
                return -ENOMEM;
        *buffer = (struct buffer){.plan = plan_of(b), .size = size, .imported = imported};
        *(imported ? &cost->imported : &cost->memory) += size;
        *ret = buffer;
        return 0;
}

static int plan_buffer_new(struct backend *b, uint64_t size, bool dense, struct buffer **ret) {
        return plan_buffer(b, size, false, ret);
}

static int plan_buffer_import(struct backend *b, const void *host, uint64_t size, struct buffer **ret) {
        return plan_buffer(b, size, true, ret);
}

static void plan_buffer_free(struct buffer *buffer) {
        if (!buffer)
                return;
        *(buffer->imported ? &buffer->plan->cost.imported : &buffer->plan->cost.memory) -= buffer->size;
        free(buffer);
}

/* Never followed; not null, which would mean that a part is absent. */
static struct device_ptr plan_buffer_address(struct buffer *buffer) {
        return (struct device_ptr){UINT64_C(1) << 32};
}

static int plan_upload(struct stream *s, struct device_ptr dst, const void *src, uint64_t size) {
        return 0;
}

static int plan_download(struct stream *s, void *dst, struct device_ptr src, uint64_t size) {
        return 0;
}

static int plan_fill_zero(struct stream *s, struct device_ptr dst, uint64_t size) {
        return 0;
}

/* What an operation of the cpu backend returned without scratch: it asked for some, and has been noted, or
 * cannot run. */
static int planned(int r) {
        return r == -ENOMEM ? 0 : r;
}

static void read_weight(struct stream *s, const struct weight *w, uint64_t matrices) {
        struct plan *p = plan_of(s->backend);

        p->cost.weights += quant_row_bytes(quant_info(w->type), w->cols) * w->rows * matrices;
}

static void read_kv(struct stream *s, const struct kv_layer *kv, uint64_t entries) {
        uint64_t values = kv->k_dim + (kv->v.address ? kv->v_dim : 0);

        plan_of(s->backend)->cost.kv +=
                entries * kv->kv_heads * values * quant_row_bytes(quant_info(kv->type), 1);
}

static int plan_embed(struct stream *s, const struct op_embed *op) {
        struct weight row = op->table;
        int r = host_check_embed(op);

        row.rows = 1;
        if (r == 0)
                read_weight(s, &row, op->n);
        return r;
}

static int plan_matmul(struct stream *s, const struct op_matmul *op) {
        int r = planned(cpu_matmul(s, op));

        for (uint32_t i = 0; r == 0 && op->n > 0 && i < op->count; i++)
                read_weight(s, &op->out[i].w, 1);
        return r;
}

static int plan_head_matmul(struct stream *s, const struct op_head_matmul *op) {
        int r = planned(cpu_head_matmul(s, op));

        if (r == 0 && op->n > 0)
                read_weight(s, &op->w, op->w.stack);
        return r;
}

/* The more rows, the more experts; that any two rows choose the same one is not foreseen. */
static int plan_moe(struct stream *s, const struct op_moe *op) {
        uint64_t experts = MIN((uint64_t) op->n * op->k, (uint64_t) op->gate.stack);
        int r = planned(cpu_moe(s, op));

        if (r)
                return r;
        read_weight(s, &op->gate, experts);
        read_weight(s, &op->up, experts);
        read_weight(s, &op->down, experts);
        return 0;
}

static int plan_attention(struct stream *s, const struct op_attention *op) {
        int r = planned(cpu_attention(s, op));

        if (r == 0)
                read_kv(s, &op->kv, (uint64_t) op->rows.position_max + 1);
        return r;
}

static int plan_index(struct stream *s, const struct op_index *op) {
        int r = planned(cpu_index(s, op));

        if (r == 0)
                read_kv(s, &op->keys, kv_visible(op->keys.ratio, op->rows.position_max));
        return r;
}

static int plan_sparse_attention(struct stream *s, const struct op_sparse_attention *op) {
        uint32_t position = op->rows.position_max, seen = kv_visible(op->entries.ratio, position);
        int r = planned(cpu_sparse_attention(s, op));

        if (r)
                return r;
        if (op->window > 0)
                read_kv(s, &op->kv, MIN((uint64_t) op->window, (uint64_t) position + 1));
        if (op->entries.k.address)
                read_kv(s, &op->entries, op->chosen.address ? MIN(op->chosen_max, seen) : seen);
        return 0;
}

/* Operations that need no scratch and read little but activations. */
#define PLAN_NOTHING(_name, _op)                                                                             \
        static int plan_##_name(struct stream *s, const struct _op *op) {                                    \
                return 0;                                                                                    \
        }

PLAN_NOTHING(rms_norm, op_rms_norm)
PLAN_NOTHING(layer_norm, op_layer_norm)
PLAN_NOTHING(copy, op_copy)
PLAN_NOTHING(rope, op_rope)
PLAN_NOTHING(kv_store, op_kv_store)
PLAN_NOTHING(compress, op_compress)
PLAN_NOTHING(hyper_mix, op_hyper)
PLAN_NOTHING(hyper_in, op_hyper)
PLAN_NOTHING(hyper_out, op_hyper)
PLAN_NOTHING(glu, op_glu)
PLAN_NOTHING(add, op_add)
PLAN_NOTHING(gather, op_gather)
PLAN_NOTHING(route, op_route)

static void plan_free(struct backend *b) {
        struct plan *p = plan_of(b);

        pool_free(p->cpu.pool);
        free(p);
}

static const struct backend_ops plan_ops = {
        .name = "plan",
        .free = plan_free,
        .buffer_new = plan_buffer_new,
        .buffer_import = plan_buffer_import,
        .buffer_free = plan_buffer_free,
        .buffer_address = plan_buffer_address,
        .stream_new = host_stream_new,
        .stream_free = host_stream_free,
        .stream_sync = host_stream_sync,
        .upload = plan_upload,
        .download = plan_download,
        .fill_zero = plan_fill_zero,
        .embed = plan_embed,
        .rms_norm = plan_rms_norm,
        .layer_norm = plan_layer_norm,
        .matmul = plan_matmul,
        .head_matmul = plan_head_matmul,
        .copy = plan_copy,
        .rope = plan_rope,
        .kv_store = plan_kv_store,
        .attention = plan_attention,
        .index = plan_index,
        .sparse_attention = plan_sparse_attention,
        .compress = plan_compress,
        .hyper_mix = plan_hyper_mix,
        .hyper_in = plan_hyper_in,
        .hyper_out = plan_hyper_out,
        .glu = plan_glu,
        .add = plan_add,
        .gather = plan_gather,
        .route = plan_route,
        .moe = plan_moe,
};

int backend_plan_new(struct backend **ret, uint32_t threads) {
        struct plan *p = calloc(1, sizeof(*p));
        int r;

        if (!p)
                return -ENOMEM;
        p->cpu.base = (struct backend){.ops = &plan_ops, .flags = BACKEND_HOST_MEMORY};
        p->cpu.variant = cpu_variant_choose(NULL, machine_cpu_bits());
        p->cpu.base.kv_type = cpu_kv_type(p->cpu.variant);
        p->cpu.scratch.planned = true;
        r = pool_new(&p->cpu.pool, threads ? threads : machine_threads());
        if (r) {
                free(p);
                return r;
        }
        *ret = &p->cpu.base;
        return 0;
}

struct backend_cost backend_plan_cost(struct backend *b) {
        struct backend_cost cost = plan_of(b)->cost;

        cost.scratch = plan_of(b)->cpu.scratch.size;
        return cost;
}
