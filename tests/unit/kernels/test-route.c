/* SPDX-License-Identifier: MIT */
/* The router's choice on every backend, and what backends refuse. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "device.h"
#include "base/cleanup.h"
#include "sample.h"
#include "test.h"
#include "trial.h"
#include "variant.h"

struct choice {
        int32_t ids[8], count;
        uint32_t used;
        float weights[8];
};

/* One row. */
static struct choice choose(struct device *d, struct op_route op, const float *logits, const float *bias,
                            int32_t cap) {
        uint32_t used = 5;
        struct choice c;

        op.n = 1;
        op.logits = device_put(d, logits, op.experts * sizeof(*logits));
        op.bias = bias ? device_put(d, bias, op.experts * sizeof(*bias)) : DEVICE_NULL;
        cap *= 1000;
        op.caps = device_put(d, &cap, sizeof(cap));
        op.ids = device_put(d, NULL, sizeof(c.ids));
        op.weights = device_put(d, NULL, sizeof(c.weights));
        op.counts = device_put(d, NULL, sizeof(c.count));
        op.used = device_put(d, &used, sizeof(used));
        assert_se(d->ops->route(d->stream, &op) == 0);
        device_get(d, c.ids, op.ids, op.k * sizeof(*c.ids));
        device_get(d, c.weights, op.weights, op.k * sizeof(*c.weights));
        device_get(d, &c.count, op.counts, sizeof(c.count));
        device_get(d, &c.used, op.used, sizeof(c.used));
        device_clear(d);
        return c;
}

static bool near(float a, double b) {
        return fabs(a - b) < 1e-6;
}

/* Runs a check on the ref backend and on every variant of the cpu backend. */
static void everywhere(void (*check)(struct device *d)) {
        struct device d;

        device_init(&d, sample_backend_ref());
        check(&d);
        device_deinit(&d);
        for (unsigned v = 0; v < n_cpu_variants; v++) {
                struct backend *b = sample_backend(cpu_variants[v]->name, 2);

                if (!b)
                        continue;
                device_init(&d, b);
                check(&d);
                device_deinit(&d);
        }
}

static void check_softmax(struct device *d) {
        static const float logits[] = {0.0f, 2.0f, 1.0f, 2.0f};
        double sum = 1.0 + 2.0 * exp(2.0) + exp(1.0);
        struct op_route op = {.experts = 4, .k = 3, .gate = ROUTE_SOFTMAX, .scale = 1.0f};
        struct choice c = choose(d, op, logits, NULL, 3);

        assert_se(c.ids[0] == 1 && c.ids[1] == 3 && c.ids[2] == 2 && c.count == 3 && c.used == 8);
        assert_se(near(c.weights[0], exp(2.0) / sum) && near(c.weights[2], exp(1.0) / sum));
        op.normalize = true;
        op.scale = 2.0f;
        c = choose(d, op, logits, NULL, 2);
        assert_se(c.count == 2 && c.used == 7 && near(c.weights[0], 1.0) && near(c.weights[1], 1.0));
        assert_se(c.ids[2] == -1 && c.weights[2] == 0.0f);
        op.gate = ROUTE_SOFTMAX_CHOSEN;
        op.normalize = false;
        op.scale = 1.0f;
        c = choose(d, op, logits, NULL, 3);
        assert_se(near(c.weights[2], exp(1.0) / (2.0 * exp(2.0) + exp(1.0))));
}

TEST(softmax_routing_breaks_ties_to_the_lower_number) {
        everywhere(check_softmax);
}

static void check_caps(struct device *d) {
        static const float logits[] = {0.1f, 0.4f, 0.3f, 0.2f};
        static const int32_t order[] = {1, 2, 3, 0};
        struct op_route op = {.experts = 4, .k = 4, .gate = ROUTE_SOFTMAX, .normalize = true, .scale = 1.0f};

        for (int32_t cap = -2; cap <= 6; cap++) {
                int32_t expected = cap < 0 ? 0 : cap > 4 ? 4 : cap;
                struct choice c = choose(d, op, logits, NULL, cap);
                float sum = 0.0f;

                assert_se(c.count == expected && c.used == 5 + (uint32_t) expected);
                for (int32_t j = 0; j < 4; j++) {
                        assert_se(j < expected ? c.ids[j] == order[j] : c.ids[j] == -1);
                        sum += c.weights[j];
                }
                assert_se(near(sum, expected ? 1.0 : 0.0));
        }
}

TEST(a_cap_is_never_exceeded_and_the_kept_weights_are_normalised) {
        everywhere(check_caps);
}

static void check_bias(struct device *d) {
        static const float logits[] = {3.0f, 2.0f, 1.0f}, bias[] = {0.0f, 0.0f, 5.0f};
        struct op_route op = {.experts = 3, .k = 2, .gate = ROUTE_SIGMOID, .scale = 1.0f};
        struct choice c = choose(d, op, logits, bias, 2);

        assert_se(c.ids[0] == 2 && c.ids[1] == 0 && near(c.weights[0], 1.0 / (1.0 + exp(-1.0))));
        op.gate = ROUTE_SQRT_SOFTPLUS;
        c = choose(d, op, logits, NULL, 1);
        assert_se(c.ids[0] == 0 && near(c.weights[0], sqrt(log1p(exp(3.0)))));
}

TEST(a_bias_decides_but_does_not_weigh) {
        everywhere(check_bias);
}

static void check_groups(struct device *d) {
        /* The best expert is in group 0, the best pair in group 1. */
        static const float logits[] = {4.0f, -9.0f, 2.0f, 1.9f, 0.0f, 0.1f};
        struct op_route op = {
                .experts = 6, .k = 2, .gate = ROUTE_SIGMOID, .scale = 1.0f, .groups = 3, .groups_used = 1};
        struct choice c = choose(d, op, logits, NULL, 2);

        assert_se(c.ids[0] == 2 && c.ids[1] == 3);
        op.gate = ROUTE_SOFTMAX;
        c = choose(d, op, logits, NULL, 2);
        assert_se(c.ids[0] == 0 && c.ids[1] == 1);
        op.groups_used = 2;
        c = choose(d, op, logits, NULL, 2);
        assert_se(c.ids[0] == 0 && c.ids[1] == 2);
}

TEST(groups_score_by_their_best_or_their_two_best) {
        everywhere(check_groups);
}

static void check_table(struct device *d) {
        static const float logits[] = {4.0f, -9.0f, 2.0f, 1.9f, 0.0f, 0.1f},
                           bias[] = {0.0f, 9.0f, 0.0f, 0.0f, 0.0f, 0.0f};
        static const int32_t table[3][3] = {{3, 5, 2}, {4, 4, 1}, {-1, 6, 0}};
        struct op_route op = {.experts = 6, .k = 3, .gate = ROUTE_SQRT_SOFTPLUS, .normalize = true, .scale = 1.5f};
        struct choice c;

        for (int32_t id = 0; id < 4; id++) {
                static const int32_t expected[4][3] = {{2, 3, 5}, {4, 1, -1}, {0, -1, -1}, {-1, -1, -1}};
                static const int32_t counts[4] = {3, 2, 1, 0};

                op.table = device_put(d, table, sizeof(table));
                op.table_rows = 3;
                op.token_ids = device_put(d, &id, sizeof(id));
                c = choose(d, op, logits, NULL, 3);
                assert_se(memcmp(c.ids, expected[id], sizeof(expected[id])) == 0);
                assert_se(c.count == counts[id] && c.used == 5 + (uint32_t) counts[id]);
                assert_se(near(c.weights[0] + c.weights[1] + c.weights[2], counts[id] ? 1.5 : 0.0));
        }
        op.table = device_put(d, table, sizeof(table));
        op.token_ids = device_put(d, NULL, sizeof(int32_t));
        c = choose(d, op, logits, bias, 2);
        assert_se(c.count == 2 && c.ids[0] == 2 && c.ids[1] == 3);
}

TEST(a_table_leaves_only_its_experts_and_the_cap_the_best_of_them) {
        everywhere(check_table);
}

static void check_not_finite(struct device *d) {
        static const enum route_gate gates[] = {ROUTE_SOFTMAX, ROUTE_SIGMOID, ROUTE_SQRT_SOFTPLUS,
                                                ROUTE_SOFTMAX_CHOSEN};
        static const float some[] = {NAN, 1.0f, INFINITY, 0.5f, -INFINITY},
                           none[] = {NAN, NAN, NAN, NAN, NAN};

        for (unsigned i = 0; i < ELEMENTS(gates); i++) {
                struct op_route op = {
                        .experts = 5, .k = 4, .gate = gates[i], .normalize = true, .scale = 1.0f};
                struct choice c = choose(d, op, some, NULL, 4);

                assert_se(c.ids[0] == 1 && c.ids[1] == 3 && c.ids[2] == 0 && c.ids[3] == 2);
                assert_se(near(c.weights[0] + c.weights[1], 1.0) && c.weights[2] == 0.0f &&
                          c.weights[3] == 0.0f);
                c = choose(d, op, none, NULL, 2);
                assert_se(c.ids[0] == 0 && c.ids[1] == 1 && c.weights[0] == 0.0f);
        }
}

TEST(scores_that_are_not_finite_come_last_and_weigh_nothing) {
        everywhere(check_not_finite);
}

/* Chosen once more, the tally is twice what the rows' experts come to; who keeps none loses nothing by it. */
static void check_tally(struct device *d, const struct op_route *op) {
        size_t pairs = (size_t) op->n * op->k;
        uint32_t *tally = calloc(op->experts, sizeof(*tally)), *expected = calloc(op->experts, sizeof(*expected));
        int32_t *ids = calloc(pairs, sizeof(*ids));
        struct op_route uncounted = *op;

        assert_se(tally && expected && ids);
        uncounted.tally = DEVICE_NULL;
        assert_se(d->ops->route(d->stream, op) == 0 && d->ops->route(d->stream, &uncounted) == 0);
        device_get(d, ids, op->ids, pairs * sizeof(*ids));
        device_get(d, tally, op->tally, op->experts * sizeof(*tally));
        for (size_t i = 0; i < pairs; i++)
                if (ids[i] >= 0)
                        expected[ids[i]] += 2;
        assert_se(memcmp(tally, expected, op->experts * sizeof(*tally)) == 0);
        free(ids);
        free(expected);
        free(tally);
}

/* dim experts, heads of them chosen; option: bits 0 and 1 the gate, 2 a bias, 3 groups, 4 a table, 5 the
 * weights are the result, else the experts and how many */
static float *try_route(struct device *d, const struct trial *t, size_t *ret_width) {
        struct sample s = {t->dim + t->heads};
        size_t n = t->n, experts = t->dim, k = t->heads;
        float *logits = sample_floats(&s, n * experts);
        int32_t *caps = malloc(n * sizeof(*caps)), *token_ids = malloc(n * sizeof(*token_ids)),
                *table = malloc(5 * k * sizeof(*table));
        struct op_route op = {
                .n = t->count,
                .experts = (uint32_t) experts,
                .k = (uint32_t) k,
                .gate = t->option & 3,
                .normalize = t->dim % 2,
                .scale = 1.5f,
                .bias = t->option & 4 ? trial_floats(d, &s, experts) : DEVICE_NULL,
                .groups = t->option & 8 ? 4 : 0,
                .groups_used = t->option & 8 ? 3 : 0,
                .table_rows = 5,
        };

        assert_se(caps && token_ids && table);
        /* Many equal ones, zeros of both signs, and some that are no numbers. */
        for (size_t i = 0; i < n * experts; i++)
                logits[i] = i % 97 == 0   ? (i % 2 ? NAN : -INFINITY)
                            : i % 13 == 0 ? logits[i] * 30.0f
                                          : rintf(logits[i] * 8.0f) / 4.0f * (i % 2 ? 1.0f : -1.0f);
        for (size_t i = 0; i < n; i++) {
                caps[i] = (int32_t) (sample_u32(&s) % (k * 1000 + 2000));
                token_ids[i] = (int32_t) (sample_u32(&s) % 6);
        }
        for (size_t i = 0; i < 5 * k; i++)
                table[i] = (int32_t) (sample_u32(&s) % (experts + 1));
        op.logits = trial_row(device_take(d, logits, n * experts * sizeof(float)), t->from, experts);
        op.caps = trial_row(device_take(d, caps, n * sizeof(*caps)), t->from, 1);
        op.token_ids = trial_row(device_take(d, token_ids, n * sizeof(*token_ids)), t->from, 1);
        op.table = device_take(d, table, 5 * k * sizeof(*table));
        if (!(t->option & 16))
                op.table = DEVICE_NULL;
        op.ids = device_put(d, NULL, n * (k + 1) * sizeof(int32_t));
        op.counts = device_offset(op.ids, n * k * sizeof(int32_t));
        op.weights = device_put(d, NULL, n * k * sizeof(float));
        op.tally = device_put(d, NULL, experts * sizeof(uint32_t));
        assert_se(d->ops->route(d->stream, &op) == 0);
        check_tally(d, &op);
        return trial_result(d, t->option & 32 ? op.weights : op.ids, t->count, k, ret_width);
}

/* The experts are whole numbers read as floats: the same ones, or one of them is far off. */
static void check_choices(uint32_t experts, uint32_t k) {
        for (uint32_t option = 0; option < 64; option++) {
                struct trial t = {.n = 7, .dim = experts, .heads = k, .option = option};

                if (option & 8 && (experts % 4 != 0 || k > experts / 4 * 3))
                        continue;
                trial_check(try_route, t, option & 32 ? 1e-5 : 0.0);
        }
}

TEST(choices_agree_over_gates_biases_groups_and_tables) {
        check_choices(1, 1);
        check_choices(5, 3);
        check_choices(8, 8);
        check_choices(64, 8);
        check_choices(160, 6);
        check_choices(300, 21);
        check_choices(ROUTE_EXPERTS_MAX, 40);
}

static void check_refusals(struct device *d) {
        const struct op_route route = {.n = 1, .experts = 8, .k = 2, .gate = ROUTE_SOFTMAX};
        struct op_route r;
        struct op_matmul m = {.count = 1,
                              .out[0].w = {.type = QUANT_Q4_K, .rows = 1, .cols = 512, .stack = 1}};
        struct op_attention a = {.heads = 6,
                                 .kv = {.type = QUANT_F16, .kv_heads = 4, .k_dim = 8, .v_dim = 8}};
        struct op_rope rope = {.dims = 2 * ROPE_PAIRS_MAX + 2};
        struct op_embed e = {.table = {.type = QUANT_I32, .rows = 1, .cols = 32, .stack = 1}};
        struct op_moe moe = {.gate = m.out[0].w, .up = m.out[0].w, .down = m.out[0].w};

        assert_se(d->ops->matmul(d->stream, &m) == 0);
        m.out[0].w.cols = 511;
        assert_se(d->ops->matmul(d->stream, &m) == -EOPNOTSUPP);
        m.out[0].w = (struct weight){.type = QUANT_I32, .rows = 1, .cols = 512, .stack = 1};
        assert_se(d->ops->matmul(d->stream, &m) == -EOPNOTSUPP);
        m.count = 0;
        assert_se(d->ops->matmul(d->stream, &m) == -EOPNOTSUPP);
        assert_se(d->ops->embed(d->stream, &e) == -EOPNOTSUPP);
        assert_se(d->ops->moe(d->stream, &moe) == -EOPNOTSUPP); /* down must turn gate's shape around */
        assert_se(d->ops->attention(d->stream, &a) == -EOPNOTSUPP);
        a.heads = 8;
        assert_se(d->ops->attention(d->stream, &a) == 0);
        a.kv.type = QUANT_Q8_0;
        assert_se(d->ops->attention(d->stream, &a) == -EOPNOTSUPP);
        assert_se(d->ops->rope(d->stream, &rope) == -EOPNOTSUPP);
        r = route;
        r.k = 9;
        assert_se(d->ops->route(d->stream, &r) == -EOPNOTSUPP);
        r = route;
        r.experts = ROUTE_EXPERTS_MAX + 1;
        assert_se(d->ops->route(d->stream, &r) == -EOPNOTSUPP);
        r = route;
        r.groups = 3;
        r.groups_used = 1;
        assert_se(d->ops->route(d->stream, &r) == -EOPNOTSUPP); /* 8 experts in 3 groups */
        r.groups = 8;
        assert_se(d->ops->route(d->stream, &r) == -EOPNOTSUPP); /* 2 experts out of a group of one */
        r = route;
        r.capacity.most = 1;
        r.capacity.window = 4;
        assert_se(d->ops->route(d->stream, &r) == -EOPNOTSUPP); /* no sequences */
}

TEST(shapes_that_cannot_be_computed_are_refused) {
        everywhere(check_refusals);
}

static void check_memory(struct device *d) {
        struct buffer *buffer = NULL;

        assert_se(d->ops->buffer_new(d->backend, UINT64_MAX, true, &buffer) == -ENOMEM && !buffer);
        assert_se(d->ops->buffer_new(d->backend, UINT64_MAX / 2 + 1, true, &buffer) == -ENOMEM && !buffer);
        assert_se(d->ops->buffer_new(d->backend, 0, true, &buffer) == 0);
        d->ops->buffer_free(buffer);
        d->ops->buffer_free(NULL);
        d->ops->stream_free(NULL);
}

TEST(memory_that_is_not_there_is_an_error_and_nothing_else) {
        everywhere(check_memory);
}

TEST(the_instruction_set_can_be_forced_and_must_be_known) {
        struct backend *b = NULL;

        setenv("MOED_ISA", "c", 1);
        assert_se(backend_cpu_new(&b, NULL) == 0);
        assert_se(strncmp(backend_cpu_describe(b), "c, ", 3) == 0);
        backend_freep(&b);
        b = NULL;
        setenv("MOED_ISA", "mmx", 1);
        assert_se(backend_cpu_new(&b, &(struct backend_cpu_options){.isa = "c"}) == -EINVAL && !b);
        setenv("MOED_ISA", "", 1);
        assert_se(backend_cpu_new(&b, &(struct backend_cpu_options){.isa = "c", .threads = 3}) == 0);
        assert_se(strcmp(backend_cpu_describe(b), "c, 3 threads") == 0);
        backend_freep(&b);
        for (unsigned v = 0; v < n_cpu_variants; v++)
                assert_se(cpu_variant_choose(cpu_variants[v]->name, 0) == &cpu_variant_c);
}
