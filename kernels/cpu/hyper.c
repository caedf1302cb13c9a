/* SPDX-License-Identifier: MIT */
#include "base/util.h"
#include "cpu.h"

struct hyper {
        const struct op_hyper *op;
        void (*function)(const struct op_hyper *op, uint32_t begin, uint32_t end);
};

static void hyper_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        const struct hyper *a = arg;

        a->function(a->op, (uint32_t) begin, (uint32_t) end);
}

static int hyper_run(struct stream *s, struct hyper a, uint64_t row_nsec) {
        struct cpu_backend *b = cpu_backend(s);
        int r = host_check_hyper(a.op);

        if (r == 0)
                pool_run(b->pool, a.op->n, cpu_grain(b, a.op->n, row_nsec), hyper_piece, &a);
        return r;
}

int cpu_hyper_mix(struct stream *s, const struct op_hyper *op) {
        return hyper_run(s, (struct hyper){op, ref_hyper_mix},
                         (uint64_t) op->streams * op->streams * (20 + 3 * op->iterations));
}

int cpu_hyper_in(struct stream *s, const struct op_hyper *op) {
        return hyper_run(s, (struct hyper){op, cpu_backend(s)->variant->hyper_in},
                         (uint64_t) op->streams * op->dim / 6);
}

int cpu_hyper_out(struct stream *s, const struct op_hyper *op) {
        return hyper_run(s, (struct hyper){op, cpu_backend(s)->variant->hyper_out},
                         (uint64_t) op->streams * op->streams * op->dim / 20);
}
