/* SPDX-License-Identifier: MIT */
/* The operations beside the matrix products, in every variant on one thread: nanoseconds a row, and the share
 * of the speed at which memcpy() moves as many bytes as the operation reads and writes. A figure is the best
 * of many short runs, so that neighbours disturb it little. Usage: bench-rows [NAME...], parts of names. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "cpu.h"
#include "machine.h"

enum {
        ROWS = 64,
        RUNS = 40,
        HEADS = 16,
        HEAD_DIM = 128,
        DIM = HEADS * HEAD_DIM,
        STREAMS = 4,
        PAGES = 8,
        FLOATS = ROWS * (STREAMS + 1) *
                 DIM, /* of each array: the largest operation reads and writes twice that */
};

/* What operations work on: values between -1 and 1, and positions of one sequence. */
struct arrays {
        float *x, *y, *z, *mix, *frequencies;
        int32_t *positions, *sequences, *pages, *caps, *budgets, *ids;
        char *kv;
};

struct row_case {
        const char *name;
        uint32_t floats; /* read and written in a row */
        int (*run)(const struct backend_ops *ops, struct stream *s, const struct arrays *a);
};

#define AT host_device_ptr

static struct op_rows rows_of(const struct arrays *a) {
        return (struct op_rows){
                .n = ROWS,
                .positions = AT(a->positions),
                .sequences = AT(a->sequences),
                .page_table = AT(a->pages),
                .page_table_stride = PAGES,
                .position_max = ROWS - 1,
        };
}

static int run_rms_norm(const struct backend_ops *ops, struct stream *s, const struct arrays *a) {
        return ops->rms_norm(s, &(struct op_rms_norm){.n = ROWS,
                                                      .dim = DIM,
                                                      .x = AT(a->x),
                                                      .w = AT(a->z),
                                                      .y = AT(a->y),
                                                      .x_stride = DIM,
                                                      .y_stride = DIM,
                                                      .eps = 1e-5f});
}

static int run_head_norm(const struct backend_ops *ops, struct stream *s, const struct arrays *a) {
        return ops->rms_norm(s, &(struct op_rms_norm){.n = ROWS * HEADS,
                                                      .dim = HEAD_DIM,
                                                      .x = AT(a->x),
                                                      .w = AT(a->z),
                                                      .y = AT(a->y),
                                                      .x_stride = HEAD_DIM,
                                                      .y_stride = HEAD_DIM,
                                                      .eps = 1e-5f});
}

static int run_layer_norm(const struct backend_ops *ops, struct stream *s, const struct arrays *a) {
        return ops->layer_norm(s, &(struct op_layer_norm){.n = ROWS,
                                                          .dim = DIM,
                                                          .x = AT(a->x),
                                                          .w = AT(a->z),
                                                          .b = AT(a->z),
                                                          .y = AT(a->y),
                                                          .eps = 1e-5f});
}

static int run_rope(const struct backend_ops *ops, struct stream *s, const struct arrays *a,
                    enum rope_pairs pairs) {
        return ops->rope(s, &(struct op_rope){.n = ROWS,
                                              .heads = HEADS,
                                              .head_dim = HEAD_DIM,
                                              .dims = HEAD_DIM,
                                              .stride = DIM,
                                              .pairs = pairs,
                                              .magnitude = 1.0f,
                                              .x = AT(a->y),
                                              .positions = AT(a->positions),
                                              .frequencies = AT(a->frequencies)});
}

static int run_rope_halves(const struct backend_ops *ops, struct stream *s, const struct arrays *a) {
        return run_rope(ops, s, a, ROPE_HALVES);
}

static int run_rope_adjacent(const struct backend_ops *ops, struct stream *s, const struct arrays *a) {
        return run_rope(ops, s, a, ROPE_ADJACENT);
}

static int run_kv_store(const struct backend_ops *ops, struct stream *s, const struct arrays *a) {
        return ops->kv_store(s, &(struct op_kv_store){.rows = rows_of(a),
                                                      .kv = {.k = AT(a->kv),
                                                             .v = AT(a->kv + FLOATS),
                                                             .type = QUANT_F16,
                                                             .kv_heads = HEADS,
                                                             .k_dim = HEAD_DIM,
                                                             .v_dim = HEAD_DIM},
                                                      .k = AT(a->x),
                                                      .v = AT(a->z)});
}

static int run_glu(const struct backend_ops *ops, struct stream *s, const struct arrays *a) {
        return ops->glu(
                s, &(struct op_glu){.n = ROWS, .dim = DIM, .gate = AT(a->x), .up = AT(a->z), .y = AT(a->y)});
}

static int run_add(const struct backend_ops *ops, struct stream *s, const struct arrays *a) {
        return ops->add(s, &(struct op_add){.n = ROWS * DIM, .x = AT(a->x), .y = AT(a->y), .scale = 1e-9f});
}

static int run_route(const struct backend_ops *ops, struct stream *s, const struct arrays *a,
                     struct op_route op) {
        op.n = ROWS;
        op.normalize = true;
        op.scale = 1.0f;
        op.logits = AT(a->x);
        op.caps = op.budget.state.address ? op.caps : AT(a->caps);
        op.ids = AT(a->ids);
        op.weights = AT(a->y);
        op.counts = AT(a->ids + FLOATS / 2);
        return ops->route(s, &op);
}

static int run_route_64(const struct backend_ops *ops, struct stream *s, const struct arrays *a) {
        return run_route(ops, s, a, (struct op_route){.experts = 64, .k = 8, .gate = ROUTE_SOFTMAX});
}

static int run_route_budget(const struct backend_ops *ops, struct stream *s, const struct arrays *a) {
        return run_route(ops, s, a, (struct op_route){
                .experts = 64, .k = 8, .gate = ROUTE_SOFTMAX, .caps = AT(a->budgets),
                .budget = {.rows = rows_of(a), .state = AT(a->kv), .floors = AT(a->sequences)},
        });
}

static int run_route_256(const struct backend_ops *ops, struct stream *s, const struct arrays *a) {
        return run_route(ops, s, a,
                         (struct op_route){.experts = 256,
                                           .k = 8,
                                           .gate = ROUTE_SIGMOID,
                                           .bias = AT(a->z),
                                           .groups = 8,
                                           .groups_used = 4});
}

static int run_hyper(int (*op)(struct stream *s, const struct op_hyper *op), struct stream *s,
                     const struct arrays *a) {
        return op(s, &(struct op_hyper){.n = ROWS,
                                        .streams = STREAMS,
                                        .dim = DIM,
                                        .mix = AT(a->mix),
                                        .x = AT(a->z),
                                        .y = AT(a->y)});
}

static int run_hyper_in(const struct backend_ops *ops, struct stream *s, const struct arrays *a) {
        return run_hyper(ops->hyper_in, s, a);
}

static int run_hyper_out(const struct backend_ops *ops, struct stream *s, const struct arrays *a) {
        return run_hyper(ops->hyper_out, s, a);
}

static int run_compress(const struct backend_ops *ops, struct stream *s, const struct arrays *a) {
        return ops->compress(s, &(struct op_compress){.rows = rows_of(a),
                                                      .ratio = 4,
                                                      .dim = 512,
                                                      .overlap = true,
                                                      .v = AT(a->x),
                                                      .g = AT(a->x),
                                                      .bias = AT(a->x),
                                                      .state = AT(a->kv),
                                                      .y = AT(a->y)});
}

static const struct row_case cases[] = {
        {"rms_norm 2048", 2 * DIM, run_rms_norm},
        {"rms_norm 16 x 128", 2 * DIM, run_head_norm},
        {"layer_norm 2048", 2 * DIM, run_layer_norm},
        {"rope 16 x 128, halves", 2 * DIM, run_rope_halves},
        {"rope 16 x 128, adjacent", 2 * DIM, run_rope_adjacent},
        {"kv_store 16 x (128 + 128)", 3 * DIM, run_kv_store},
        {"glu 2048", 3 * DIM, run_glu},
        {"add 2048", 3 * DIM, run_add},
        {"route 8 of 64", 64, run_route_64},
        {"route 8 of 64, budgets", 64, run_route_budget},
        {"route 8 of 256 in groups", 256, run_route_256},
        {"hyper_in 4 x 2048", 5 * DIM, run_hyper_in},
        {"hyper_out 4 x 2048", 9 * DIM, run_hyper_out},
        {"compress 2 x 512", 2 * 512 * 8, run_compress},
};

static void *allocate(size_t bytes) {
        void *p = aligned_alloc(64, (bytes + 63) & ~(size_t) 63);

        if (!p) {
                fprintf(stderr, "bench-rows: no memory for %zu bytes\n", bytes);
                exit(EXIT_FAILURE);
        }
        return memset(p, 0, bytes);
}

static float *floats(void) {
        float *v = allocate(FLOATS * sizeof(*v));

        for (uint32_t i = 0; i < FLOATS; i++)
                v[i] = (float) (i * UINT32_C(2654435761) >> 8) * 0x1p-23f - 1.0f;
        return v;
}

static void arrays_init(struct arrays *a) {
        *a = (struct arrays){
                .x = floats(), .y = floats(), .z = floats(), .mix = floats(), .frequencies = floats()};
        a->positions = allocate(ROWS * sizeof(int32_t));
        a->sequences = allocate(ROWS * sizeof(int32_t));
        a->pages = allocate(PAGES * sizeof(int32_t));
        a->caps = allocate(ROWS * sizeof(int32_t));
        a->budgets = allocate(ROWS * sizeof(int32_t));
        a->ids = allocate(FLOATS * sizeof(int32_t));
        a->kv = allocate(FLOATS * sizeof(float));
        for (int i = 0; i < ROWS; i++) {
                a->positions[i] = i;
                a->caps[i] = 8000;
                a->budgets[i] = 4500;
        }
        for (int i = 0; i < PAGES; i++)
                a->pages[i] = i;
        /* Streams that are mixed over and over neither vanish nor overflow. */
        for (int i = 0; i < FLOATS; i++)
                a->mix[i] = 1.0f / STREAMS;
}

/* The best time of a row of a case, in nanoseconds; of memcpy() with ops NULL. */
static double best_nsec(const struct row_case *c, const struct backend_ops *ops, struct stream *s,
                        const struct arrays *a) {
        uint64_t best = UINT64_MAX;

        for (int i = 0; i < RUNS; i++) {
                uint64_t begin = now_nsec();

                if (!ops)
                        memcpy(a->y, a->x, (size_t) ROWS * c->floats / 2 * sizeof(float));
                else if (c->run(ops, s, a))
                        return 0.0;
                best = MIN(best, now_nsec() - begin);
        }
        return (double) best / ROWS;
}

static bool wanted(const char *name, int argc, char **argv) {
        for (int i = 1; i < argc; i++)
                if (strstr(name, argv[i]))
                        return true;
        return argc < 2;
}

int main(int argc, char **argv) {
        struct arrays a;

        unsetenv("MOED_ISA");
        arrays_init(&a);
        printf("%-8s %-26s %10s %8s\n", "variant", "what", "ns a row", "of copy");
        for (unsigned v = 0; v < n_cpu_variants; v++) {
                struct backend_cpu_options options = {.threads = 1, .isa = cpu_variants[v]->name};
                struct backend *b;
                struct stream *s;

                if ((cpu_variants[v]->needs & machine_cpu_bits()) != cpu_variants[v]->needs)
                        continue;
                if (backend_cpu_new(&b, &options) || b->ops->stream_new(b, &s))
                        return EXIT_FAILURE;
                for (unsigned i = 0; i < ELEMENTS(cases); i++) {
                        double nsec, copy;

                        if (!wanted(cases[i].name, argc, argv))
                                continue;
                        copy = best_nsec(&cases[i], NULL, s, &a);
                        nsec = best_nsec(&cases[i], b->ops, s, &a);
                        printf("%-8s %-26s %10.1f %7.0f%%\n", options.isa, cases[i].name, nsec,
                               100.0 * copy / nsec);
                }
                b->ops->stream_free(s);
                backend_freep(&b);
        }
        return EXIT_SUCCESS;
}
