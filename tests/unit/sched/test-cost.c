/* SPDX-License-Identifier: MIT */

/* The cost model against machines whose times are known: one that is a sum of terms as the model has it, and one that
 * is not, since reading and computing overlap there. */

#include <math.h>
#include <string.h>

#include "cost.h"
#include "test.h"
#include "base/util.h"

enum { LAYERS = 16, EXPERTS = 64, USED = 8 };

static const struct cost_shape shape = {
        .layers = LAYERS, .moe_layers = LAYERS, .experts = EXPERTS, .experts_used = USED, .weight_bytes = 4000000000,
};

struct machine {
        uint64_t random;
        double speed, noise;
        bool overlap;    /* reading costs only what computing leaves */
        double skew;     /* distinct experts, of what would be expected */
};

static double uniform(struct machine *m) {
        m->random ^= m->random << 13;
        m->random ^= m->random >> 7;
        m->random ^= m->random << 17;
        return (double) (m->random >> 11) / (double) (UINT64_C(1) << 53);
}

static double machine_experts(const struct machine *m, const struct cost_load *load) {
        return m->skew * LAYERS * EXPERTS * -expm1(load->missed);
}

static double machine_nsec(struct machine *m, const struct cost_load *load) {
        const double *t = load->terms;
        double read = 30e6 + 55e3 * machine_experts(m, load);
        double compute = 1.2e6 * t[COST_ROW_PROMPT] + 2.1e6 * t[COST_ROW_GENERATED] + 40e3 * t[COST_KEY_PROMPT] +
                         150e3 * t[COST_KEY_GENERATED] + 4e3 * t[COST_ACTIVATION_PROMPT] +
                         9e3 * t[COST_ACTIVATION_GENERATED] + 0.5e6 * t[COST_LOGITS];
        double sum = m->overlap ? MAX(read, compute) + 0.3 * MIN(read, compute) : read + compute;

        return sum * m->speed * (1.0 + m->noise * (uniform(m) - 0.5));
}

/* A pass as they come: generated rows of texts of some length, and sometimes a piece of a prompt. */
static struct cost_load random_load(const struct cost *cost, struct machine *m) {
        struct cost_load load = {};
        int decodes = (int) (uniform(m) * 17), kind = (int) (uniform(m) * 4);

        for (int i = 0; i < decodes; i++)
                cost_load_add(cost, &load, &(struct cost_rows) {
                        .rows = 1, .position = (uint32_t) (uniform(m) * 4000), .cap_milli = uniform(m) < 0.3 ? 4000 : 8000,
                        .logits = 1,
                });
        if (kind == 0 || decodes == 0)
                cost_load_add(cost, &load, &(struct cost_rows) {
                        .rows = 1 + (uint32_t) (exp(uniform(m) * 7.6)), .position = (uint32_t) (uniform(m) * 4000),
                        .prompt = true, .cap_milli = 8000,
                });
        return load;
}

static void observe(struct cost *cost, struct machine *m, int n) {
        for (int i = 0; i < n; i++) {
                struct cost_load load = random_load(cost, m);

                cost_observe(cost, &load, (uint64_t) machine_experts(m, &load), (uint64_t) machine_nsec(m, &load),
                             false);
        }
}

TEST(forecasts_are_within_ten_percent_of_what_passes_take) {
        for (int overlap = 0; overlap < 2; overlap++) {
                struct machine m = { .random = 99, .speed = 1.0, .noise = 0.1, .overlap = overlap, .skew = 0.8 };
                struct cost cost;

                cost_init(&cost, &shape);
                observe(&cost, &m, 1500);
                printf("%s: off by %.1f %%, forecast / actual %.3f\n", overlap ? "overlapping" : "a sum",
                       100 * cost_error(&cost), cost_ratio(&cost));
                assert_se(cost_error(&cost) < (overlap ? 0.10 : 0.05));
                assert_se(fabs(cost_ratio(&cost) - 1.0) < 0.06);
                for (int i = 0; i < _COST_TERM_N; i++)
                        assert_se(cost.coefficients[i] >= 0);
        }
}

TEST(a_few_passes_are_enough_to_begin_with) {
        struct machine m = { .random = 5, .speed = 1.0, .noise = 0.05, .skew = 1.0 };
        struct cost cost;

        cost_init(&cost, &shape);
        observe(&cost, &m, 40);
        observe(&cost, &m, COST_RECENT);
        assert_se(cost_error(&cost) < 0.12);
}

TEST(a_machine_that_becomes_half_as_fast_is_followed_within_some_passes) {
        struct machine m = { .random = 7, .speed = 1.0, .noise = 0.1, .skew = 1.0 };
        struct cost cost;

        cost_init(&cost, &shape);
        observe(&cost, &m, 1000);
        m.speed = 2.0;
        observe(&cost, &m, 40);
        observe(&cost, &m, COST_RECENT);
        assert_se(cost_error(&cost) < 0.12);
        m.speed = 1.0;
        observe(&cost, &m, 40);
        observe(&cost, &m, COST_RECENT);
        assert_se(cost_error(&cost) < 0.12);
}

TEST(passes_that_waited_for_a_disk_do_not_spoil_it) {
        struct machine m = { .random = 3, .speed = 1.0, .noise = 0.1, .skew = 1.0 };
        struct cost cost;

        cost_init(&cost, &shape);
        observe(&cost, &m, 300);
        for (int i = 0; i < 400; i++) {
                m.speed = i % 8 == 0 ? 6.0 : 1.0;
                observe(&cost, &m, 1);
        }
        m.speed = 1.0;
        assert_se(cost_error(&cost) < 0.12);
}

TEST(what_was_measured_for_good_is_not_forgotten_over_passes_of_one_kind) {
        struct machine m = { .random = 11, .speed = 1.0, .skew = 1.0 };
        struct cost_load prompt = {}, one = {};
        struct cost cost;
        double forecast;

        cost_init(&cost, &shape);
        for (int i = 0; i < 60; i++) {
                struct cost_load load = random_load(&cost, &m);

                cost_observe(&cost, &load, 0, (uint64_t) machine_nsec(&m, &load), true);
        }
        cost_load_add(&cost, &one, &(struct cost_rows) { .rows = 1, .position = 100, .cap_milli = 8000, .logits = 1 });
        for (int i = 0; i < 20000; i++)
                cost_observe(&cost, &one, 0, (uint64_t) machine_nsec(&m, &one), false);
        cost_load_add(&cost, &prompt, &(struct cost_rows) { .rows = 512, .prompt = true, .cap_milli = 8000 });
        forecast = (double) cost_nsec(&cost, &prompt);
        assert_se(fabs(forecast / machine_nsec(&m, &prompt) - 1.0) < 0.2);
}

TEST(fewer_experts_and_fewer_rows_never_cost_more) {
        struct machine m = { .random = 17, .speed = 1.0, .noise = 0.2, .overlap = true, .skew = 0.7 };
        struct cost cost;

        cost_init(&cost, &shape);
        observe(&cost, &m, 500);
        for (uint32_t rows = 1; rows < 600; rows++) {
                struct cost_load few = {}, many = {}, more = {};

                cost_load_add(&cost, &few, &(struct cost_rows) { .rows = rows, .prompt = true, .cap_milli = 2000 });
                cost_load_add(&cost, &many, &(struct cost_rows) { .rows = rows, .prompt = true, .cap_milli = 8000 });
                cost_load_add(&cost, &more, &(struct cost_rows) { .rows = rows * 2, .prompt = true, .cap_milli = 8000 });
                assert_se(cost_nsec(&cost, &few) <= cost_nsec(&cost, &many));
                assert_se(cost_nsec(&cost, &many) <= cost_nsec(&cost, &more));
        }
}

TEST(expected_experts_keep_their_limits) {
        struct cost cost;
        struct cost_load one = {}, all = {};

        cost_init(&cost, &shape);
        cost_load_add(&cost, &one, &(struct cost_rows) { .rows = 1, .cap_milli = 8000 });
        assert_se(fabs(cost_load_experts(&cost, &one) - LAYERS * USED) < 1e-6);
        cost_load_add(&cost, &all, &(struct cost_rows) { .rows = 4096, .prompt = true, .cap_milli = 8000 });
        assert_se(fabs(cost_load_experts(&cost, &all) - LAYERS * EXPERTS) < 1e-6);
        cost_load_add(&cost, &all, &(struct cost_rows) { .rows = 1, .cap_milli = UINT32_MAX });
        assert_se(cost_load_experts(&cost, &all) <= LAYERS * EXPERTS + 1e-6);
}

TEST(a_dense_model_has_a_price_as_well) {
        struct cost_shape dense = { .layers = 4, .weight_bytes = 1000000 };
        struct cost_load load = {};
        struct cost cost;

        cost_init(&cost, &dense);
        cost_load_add(&cost, &load, &(struct cost_rows) { .rows = 3, .logits = 1 });
        assert_se(cost_nsec(&cost, &load) > 0 && cost_load_experts(&cost, &load) == 0);
        cost_observe(&cost, &load, 0, 0, false);
        cost_observe(&cost, &load, 0, UINT64_MAX, false);
        assert_se(isfinite(cost_ratio(&cost)) && isfinite((double) cost_nsec(&cost, &load)));
}

TEST(rows_for_a_time_are_as_many_as_fit) {
        struct cost cost;
        struct cost_load load = {};
        uint32_t rows;

        cost_init(&cost, &shape);
        rows = cost_prompt_rows(&cost, &(struct cost_load) {}, 100, 8000, 2000000000, 2048);
        assert_se(rows > 1 && rows < 2048);
        cost_load_add(&cost, &load, &(struct cost_rows) { .rows = rows, .position = 100, .prompt = true, .cap_milli = 8000 });
        assert_se(cost_nsec(&cost, &load) <= 2000000000);
        cost_load_add(&cost, &load, &(struct cost_rows) { .rows = 1, .position = 100 + rows, .prompt = true, .cap_milli = 8000 });
        assert_se(cost_nsec(&cost, &load) > 2000000000);
        assert_se(cost_prompt_rows(&cost, &(struct cost_load) {}, 0, 8000, 0, 2048) == 1);
        assert_se(cost_prompt_rows(&cost, &(struct cost_load) {}, 0, 8000, UINT64_MAX, 2048) == 2048);
}

/* Its own pass, and one beside those that generate: reading is not held against it, as long as the pass stays short. */
TEST(a_short_prompt_is_one_whose_rows_are_few) {
        struct machine machine = { .random = 8, .speed = 1.0, .noise = 0.02, .skew = 1.0 };
        struct cost_load none = {}, all = {}, some = {}, much = {};
        struct cost cost;

        cost_init(&cost, &shape);
        observe(&cost, &machine, 300);
        cost_load_add(&cost, &some, &(struct cost_rows) { .rows = 4, .cap_milli = 8000, .logits = 4 });
        cost_load_add(&cost, &all, &(struct cost_rows) { .rows = 100, .prompt = true, .cap_milli = 8000 });
        cost_load_add(&cost, &much, &(struct cost_rows) { .rows = 2000, .prompt = true, .cap_milli = 8000 });
        assert_se(cost_short_nsec(&cost, &some) > cost_short_nsec(&cost, &all));
        assert_se(cost_short_nsec(&cost, &all) - COST_SHORT_NSEC < NSEC_PER_MSEC);
        assert_se(cost_short_nsec(&cost, &much) == COST_SHORT_NSEC);
        assert_se(cost_short_nsec(&cost, &none) > cost_short_nsec(&cost, &some));
        cost.speed = 100; /* reading takes longer than anybody may wait for */
        assert_se(cost_short_nsec(&cost, &none) == COST_SHORT_PASS_NSEC);
        assert_se(cost_short_nsec(&cost, &some) == COST_SHORT_NSEC);
}
