/* SPDX-License-Identifier: MIT */
/* Matrix products and expert products of every variant and type, as shares of what the machine can do: read
 * bandwidth (few rows) and the rate of the multiply-add instruction (many rows), measured in the same run.
 * Every round runs all cases once; a case's figure is the median of its rounds. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "cases.h"
#include "cpu.h"
#include "limits.h"
#include "machine.h"

enum { ROUNDS_MAX = 15, COLS = 2048, HIDDEN = 1024, EXPERTS = 64, CHOSEN = 8, LIMITS = 4 };

static const enum quant_type types[] = {QUANT_F32,  QUANT_F16,  QUANT_BF16,  QUANT_Q8_0, QUANT_MXFP4, QUANT_IQ4_XS,
                                        QUANT_Q4_0, QUANT_Q4_K, QUANT_Q6_K};
static const uint32_t row_counts[] = {1, 2, 4, 8, 16, 64, 256, 512};

struct bench_case {
        const struct cpu_variant *variant;
        struct backend *backend;
        struct stream *stream;
        enum quant_type type;
        uint32_t n;
        bool moe;
        double seconds[ROUNDS_MAX], bytes, products;
};

struct bench {
        unsigned rounds, threads;
        uint64_t weight_bytes; /* of `weights`: larger than the caches */
        char *weights;
        float *x, *y;
        int32_t *ids, *counts;
        float *expert_weights;
        struct bench_case *cases;
        unsigned n_cases;
        double read_one[ROUNDS_MAX], read_all[ROUNDS_MAX];
        double int8[LIMITS][ROUNDS_MAX], f32[LIMITS][ROUNDS_MAX]; /* per variant */
};

static void *allocate(size_t bytes) {
        void *p = aligned_alloc(64, (bytes + 63) & ~(size_t) 63);

        if (!p) {
                fprintf(stderr, "bench-kernels: no memory for %zu bytes\n", bytes);
                exit(EXIT_FAILURE);
        }
        return p;
}

static void run_matmul(struct bench *bench, struct bench_case *c) {
        size_t row_bytes = quant_row_bytes(quant_info(c->type), COLS);
        uint64_t rows = bench->weight_bytes / row_bytes;
        struct op_matmul op = {.n = c->n, .x = host_device_ptr(bench->x), .x_stride = COLS, .count = 1};

        /* Many rows: fewer outputs, still far more than a cache holds. */
        if (c->n > 16)
                rows = MIN(rows, UINT64_C(4096));
        if (!c->variant->needs)
                rows = MAX(rows / 32, UINT64_C(64));
        op.out[0] = (struct op_matmul_out){
                .w = {host_device_ptr(bench->weights), c->type, (uint32_t) rows, COLS, 1},
                .y = host_device_ptr(bench->y),
                .y_stride = c->n > 16 ? 4096 : 0, /* few rows: the results are not looked at */
        };
        c->bytes = (double) (rows * row_bytes);
        c->products = (double) rows * COLS * c->n;
        c->backend->ops->matmul(c->stream, &op);
}

static void run_moe(struct bench *bench, struct bench_case *c) {
        size_t expert_bytes = quant_row_bytes(quant_info(c->type), (uint64_t) COLS * HIDDEN);
        struct op_moe op = {
                .n = c->n,
                .k = CHOSEN,
                .gate = {host_device_ptr(bench->weights), c->type, HIDDEN, COLS, EXPERTS},
                .up = {host_device_ptr(bench->weights + EXPERTS * expert_bytes), c->type, HIDDEN, COLS,
                       EXPERTS},
                .down = {host_device_ptr(bench->weights + 2 * EXPERTS * expert_bytes), c->type, COLS, HIDDEN,
                         EXPERTS},
                .x = host_device_ptr(bench->x),
                .y = host_device_ptr(bench->y),
                .ids = host_device_ptr(bench->ids),
                .weights = host_device_ptr(bench->expert_weights),
                .counts = host_device_ptr(bench->counts),
        };
        bool seen[EXPERTS] = {false};
        unsigned distinct = 0;

        for (uint32_t i = 0; i < c->n * CHOSEN; i++) {
                distinct += !seen[bench->ids[i]];
                seen[bench->ids[i]] = true;
        }
        c->bytes = 3.0 * (double) expert_bytes * distinct;
        c->products = 3.0 * COLS * HIDDEN * CHOSEN * c->n;
        c->backend->ops->moe(c->stream, &op);
}

/* Each row's experts are distinct, and new in every round, so that no round finds them in a cache. */
static void choose_experts(struct bench *bench, unsigned round) {
        for (uint32_t t = 0; t < row_counts[ELEMENTS(row_counts) - 1]; t++) {
                uint32_t step = 1 + 2 * ((t * 7 + round) % (EXPERTS / 2)), at = t * 29 + round * 8;

                bench->counts[t] = CHOSEN;
                for (uint32_t j = 0; j < CHOSEN; j++) {
                        bench->ids[t * CHOSEN + j] = (int32_t) ((at + j * step) % EXPERTS);
                        bench->expert_weights[t * CHOSEN + j] = 1.0f / CHOSEN;
                }
        }
}

static void bench_init(struct bench *b, bool quick) {
        uint32_t most = row_counts[ELEMENTS(row_counts) - 1];

        b->weight_bytes = quick ? UINT64_C(256) << 20 : UINT64_C(1) << 30;
        b->weights = allocate(b->weight_bytes);
        b->x = allocate((size_t) most * COLS * sizeof(float));
        b->y = allocate(MAX((size_t) most * 4096, (size_t) b->weight_bytes / 1024) * sizeof(float));
        b->ids = allocate(most * CHOSEN * sizeof(int32_t));
        b->counts = allocate(most * sizeof(int32_t));
        b->expert_weights = allocate(most * CHOSEN * sizeof(float));
        b->threads = machine_threads();
        /* Small numbers in every format: 0x11 bytes. */
        memset(b->weights, 0x11, b->weight_bytes);
        for (size_t i = 0; i < (size_t) most * COLS; i++)
                b->x[i] = (float) (i % 17) - 8.0f;
}

static void bench_add_cases(struct bench *b, const char *isa, const char *type, bool quick) {
        b->cases = calloc(n_cpu_variants * ELEMENTS(types) * ELEMENTS(row_counts) * 2, sizeof(*b->cases));
        for (unsigned v = 0; v < n_cpu_variants; v++) {
                struct backend_cpu_options options = {.isa = cpu_variants[v]->name};
                struct bench_case c = {.variant = cpu_variants[v]};

                if ((isa && strcmp(isa, options.isa) != 0) ||
                    (cpu_variants[v]->needs & machine_cpu_bits()) != cpu_variants[v]->needs)
                        continue;
                if (backend_cpu_new(&c.backend, &options) || c.backend->ops->stream_new(c.backend, &c.stream))
                        exit(EXIT_FAILURE);
                for (unsigned i = 0; i < ELEMENTS(types); i++)
                        for (unsigned n = 0; n < ELEMENTS(row_counts); n++) {
                                c.type = types[i];
                                c.n = row_counts[n];
                                if ((type && strcasecmp(type, quant_info(c.type)->name) != 0) ||
                                    (!c.variant->needs && c.n > 4) || (quick && n % 2 == 1))
                                        continue;
                                for (c.moe = false;; c.moe = true) {
                                        size_t needed = 3 * EXPERTS *
                                                        quant_row_bytes(quant_info(c.type), COLS * HIDDEN);

                                        if (!c.moe || (needed <= b->weight_bytes && c.variant->needs))
                                                b->cases[b->n_cases++] = c;
                                        if (c.moe)
                                                break;
                                }
                        }
        }
}

static void bench_round(struct bench *b, struct pool *one, struct pool *all, unsigned round) {
        choose_experts(b, round);
        b->read_one[round] = limit_read(one, b->weights, b->weight_bytes);
        b->read_all[round] = limit_read(all, b->weights, b->weight_bytes);
        for (unsigned v = 0; v < n_cpu_variants && v < LIMITS; v++) {
                bool here = (cpu_variants[v]->needs & machine_cpu_bits()) == cpu_variants[v]->needs;

                b->int8[v][round] = here ? limit_int8(all, cpu_variants[v]->name) : 0.0;
                b->f32[v][round] = here ? limit_f32(all, cpu_variants[v]->name) : 0.0;
        }
        for (unsigned i = 0; i < b->n_cases; i++) {
                struct bench_case *c = &b->cases[i];
                uint64_t begin = now_nsec();

                if (c->moe)
                        run_moe(b, c);
                else
                        run_matmul(b, c);
                c->seconds[round] = (double) (now_nsec() - begin) / 1e9;
        }
}

static void print_case(const struct bench *b, const struct bench_case *c) {
        double spread, seconds = cases_median(c->seconds, b->rounds, &spread), limit = 0.0;

        for (unsigned v = 0; v < n_cpu_variants && v < LIMITS; v++)
                if (cpu_variants[v] == c->variant)
                        limit = cases_median(dot_input(c->type) == DOT_FLOAT ? b->f32[v] : b->int8[v],
                                             b->rounds, NULL);
        printf("%-7s %-6s %-5s %4u %9.2f %6.0f%% %9.1f %6.1f%% %6.0f%%\n", c->variant->name,
               c->moe ? "moe" : "matmul", quant_info(c->type)->name, c->n, c->bytes / seconds / 1e9,
               100.0 * c->bytes / seconds / cases_median(b->read_all, b->rounds, NULL),
               c->products / seconds / 1e9, limit > 0.0 ? 100.0 * c->products / seconds / limit : 0.0,
               100.0 * spread);
}

static void print_limits(const struct bench *b) {
        double spread, value = cases_median(b->read_one, b->rounds, &spread);

        printf("read, 1 thread   %8.2f GB/s  spread %.0f%%\n", value / 1e9, 100.0 * spread);
        value = cases_median(b->read_all, b->rounds, &spread);
        printf("read, %u threads  %8.2f GB/s  spread %.0f%%\n", b->threads, value / 1e9, 100.0 * spread);
        for (unsigned v = 0; v < n_cpu_variants && v < LIMITS; v++) {
                value = cases_median(b->int8[v], b->rounds, &spread);
                if (value > 0.0)
                        printf("%-7s %u threads: int8 %.0f G multiply-adds/s (spread %.0f%%), float32 %.0f\n",
                               cpu_variants[v]->name, b->threads, value / 1e9, 100.0 * spread,
                               cases_median(b->f32[v], b->rounds, NULL) / 1e9);
        }
}

static void usage(void) {
        puts("usage: bench-kernels [--quick] [--rounds N] [--isa NAME] [--type NAME]\n"
             "  --quick      256 MiB of weights instead of 1 GiB, every second row count, 3 rounds instead "
             "of 5\n"
             "  --rounds N   at most 15\n"
             "  --isa NAME   only this variant (avx512, avx2, c)\n"
             "  --type NAME  only this type of weights (Q4_K, …)\n"
             "Columns: bytes of weights per second and their share of the read bandwidth of all threads; "
             "billions of\n"
             "multiply-adds per second and their share of the instruction's rate; (slowest - fastest) / "
             "median.");
}

int main(int argc, char **argv) {
        static const struct option options[] = {
                {"quick", no_argument, NULL, 'q'},     {"rounds", required_argument, NULL, 'r'},
                {"isa", required_argument, NULL, 'i'}, {"type", required_argument, NULL, 't'},
                {"help", no_argument, NULL, 'h'},      {0},
        };
        const char *isa = NULL, *type = NULL;
        struct bench b = {0};
        struct pool *one, *all;
        bool quick = false;
        int c;

        while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1)
                switch (c) {
                case 'q':
                        quick = true;
                        break;
                case 'r':
                        b.rounds = (unsigned) atoi(optarg);
                        break;
                case 'i':
                        isa = optarg;
                        break;
                case 't':
                        type = optarg;
                        break;
                default:
                        usage();
                        return c == 'h' ? EXIT_SUCCESS : EXIT_FAILURE;
                }
        unsetenv("MOED_ISA");
        if (b.rounds == 0 || b.rounds > ROUNDS_MAX)
                b.rounds = quick ? 3 : 5;
        bench_init(&b, quick);
        bench_add_cases(&b, isa, type, quick);
        if (pool_new(&one, 1) || pool_new(&all, b.threads))
                return EXIT_FAILURE;
        for (unsigned round = 0; round < b.rounds; round++)
                bench_round(&b, one, all, round);
        print_limits(&b);
        printf("%-7s %-6s %-5s %4s %9s %7s %9s %7s %7s\n", "variant", "what", "type", "rows", "GB/s",
               "of read", "G mul/s", "of rate", "spread");
        for (unsigned i = 0; i < b.n_cases; i++)
                print_case(&b, &b.cases[i]);
        return EXIT_SUCCESS;
}
