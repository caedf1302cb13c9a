/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "scheduler.h"
#include "test.h"

enum { STREAMS_MAX = 96, LOADS_MAX = 10 };

enum { ROW_NSEC = 1000 };

/* One for which every row costs the same. */
static struct sched_model *flat_model(void) {
        static struct sched_model model;
        struct cost_shape shape = { .layers = 8, .moe_layers = 8, .experts = 4, .experts_used = 4 };

        sched_model_init(&model, &shape, 0);
        for (int i = 0; i < _COST_TERM_N; i++)
                model.cost.coefficients[i] = i == COST_ROW_PROMPT || i == COST_ROW_GENERATED ? ROW_NSEC : 0.0;
        model.cost.short_rows = model.ride_rows = 100000;
        return &model;
}

/* A principal with streams that never end, for tests of shares. Each test is a process of its own. */
struct load {
        struct principal principal;
        struct sched_stream streams[STREAMS_MAX];
        uint64_t rows;
};

static struct load *load_new(uint32_t weight) {
        static struct load loads[LOADS_MAX];
        static unsigned n_loads;
        struct load *load = &loads[n_loads++];
        struct policy policy = { .weight = weight };

        assert_se(n_loads <= LOADS_MAX);
        principal_init(&load->principal, &policy);
        for (int i = 0; i < STREAMS_MAX; i++)
                sched_stream_init(&load->streams[i], &load->principal, flat_model());
        return load;
}

static void load_run(struct scheduler *s, struct load *load, int from, int to, uint32_t pending, bool decoding) {
        for (int i = from; i < to; i++)
                sched_stream_set_pending(s, &load->streams[i], pending, decoding);
}

/* One iteration; what each load got is added to its rows. Returns the rows in all. */
static uint32_t iterate(struct scheduler *s, uint32_t rows_max, uint32_t prompt_max) {
        struct sched_limits limits = { .rows_max = rows_max, .prompt_max = prompt_max };
        struct sched_pick picks[512];
        uint32_t n, rows = 0;

        assert_se(rows_max <= 512);
        n = scheduler_pick(s, &limits, picks, rows_max);
        for (uint32_t i = 0; i < n; i++) {
                assert_se(picks[i].rows > 0 && picks[i].rows <= picks[i].stream->pending);
                for (uint32_t j = 0; j < i; j++)
                        assert_se(picks[i].stream != picks[j].stream);
                container_of(picks[i].stream->principal, struct load, principal)->rows += picks[i].rows;
                rows += picks[i].rows;
        }
        assert_se(rows <= rows_max);
        return rows;
}

static uint64_t apart(uint64_t a, uint64_t b) {
        return a > b ? a - b : b - a;
}

TEST(equal_weights_get_equal_rows_at_any_time) {
        struct load *a = load_new(100), *b = load_new(100);
        struct scheduler s;

        scheduler_init(&s);
        load_run(&s, a, 0, 8, 1, true);
        load_run(&s, b, 0, 8, 1, true);
        for (int i = 0; i < 10000; i++) {
                assert_se(iterate(&s, 7, 4) == 7);
                assert_se(apart(a->rows, b->rows) <= 1);
        }
}

TEST(weights_one_to_three_share_one_to_three) {
        struct load *a = load_new(100), *b = load_new(300);
        struct scheduler s;

        scheduler_init(&s);
        load_run(&s, a, 0, 16, 1, true);
        load_run(&s, b, 0, 16, 1, true);
        for (int i = 1; i <= 10000; i++) {
                iterate(&s, 8, 4);
                assert_se(apart(a->rows * 3, b->rows) <= 4);
        }
        assert_se(a->rows == 20000 && b->rows == 60000);
}

TEST(odd_weights_share_within_two_percent_for_decodes_and_prompts) {
        static const uint32_t weights[] = { 1, 7, 100, 333, 10000 };

        for (int decoding = 0; decoding < 2; decoding++) {
                struct load *loads[ELEMENTS(weights)];
                uint64_t total = 0, sum = 0;
                struct scheduler s;

                scheduler_init(&s);
                for (size_t i = 0; i < ELEMENTS(weights); i++) {
                        loads[i] = load_new(weights[i]);
                        load_run(&s, loads[i], 0, STREAMS_MAX, decoding ? 1 : 100000, decoding);
                        total += weights[i];
                }
                for (int i = 0; i < 200000; i++)
                        sum += iterate(&s, 64, 32);
                for (size_t i = 0; i < ELEMENTS(weights); i++) {
                        double share = (double) loads[i]->rows / (double) sum;
                        double due = (double) weights[i] / (double) total;

                        assert_se(share > due * 0.98 && share < due * 1.02);
                }
        }
}

TEST(eight_principals_have_a_jain_index_of_at_least_099) {
        struct load *loads[8];
        double sum = 0, squares = 0;
        struct scheduler s;

        scheduler_init(&s);
        for (int i = 0; i < 8; i++) {
                loads[i] = load_new(100);
                load_run(&s, loads[i], 0, 2 + 5 * i, 1, true);       /* from 2 streams to 37 */
                load_run(&s, loads[i], 60, 60 + 8 - i, 100000, false); /* and 8 prompts to 1 */
        }
        for (int i = 0; i < 2000; i++)
                assert_se(iterate(&s, 16, 8) == 16);
        for (int i = 0; i < 8; i++) {
                sum += (double) loads[i]->rows;
                squares += (double) loads[i]->rows * (double) loads[i]->rows;
        }
        assert_se(sum * sum / (8 * squares) >= 0.99);
}

TEST(many_streams_gain_nothing_over_one) {
        struct load *flood = load_new(100), *one = load_new(100);
        struct scheduler s;

        scheduler_init(&s);
        load_run(&s, flood, 0, 16, 1, true);
        load_run(&s, one, 0, 1, 1, true);
        for (int i = 1; i <= 1000; i++) {
                /* Its share of 8 rows would be 4; it asks for 1 and has it in every iteration. */
                assert_se(iterate(&s, 8, 4) == 8);
                assert_se(one->rows == (uint64_t) i);
        }
}

TEST(a_new_prompt_is_begun_in_the_next_iteration_beside_a_flood) {
        struct load *flood = load_new(100), *one = load_new(100);
        struct scheduler s;

        scheduler_init(&s);
        load_run(&s, flood, 0, 16, 100000, false);
        for (int i = 0; i < 1000; i++)
                iterate(&s, 64, 32);
        load_run(&s, one, 0, 1, 20, false);
        iterate(&s, 64, 32);
        assert_se(one->rows == 20);
}

TEST(idleness_is_not_saved_up) {
        struct load *busy = load_new(100), *idle = load_new(100);
        uint64_t before;
        struct scheduler s;

        scheduler_init(&s);
        load_run(&s, busy, 0, 16, 1, true);
        load_run(&s, idle, 0, 16, 1, true);
        for (int i = 0; i < 100; i++)
                iterate(&s, 8, 4);
        load_run(&s, idle, 0, 16, 0, true);
        for (int i = 0; i < 100000; i++)
                iterate(&s, 8, 4);
        load_run(&s, idle, 0, 16, 1, true);
        before = busy->rows;
        idle->rows = 0;
        for (int i = 0; i < 1000; i++) {
                iterate(&s, 8, 4);
                assert_se(apart(idle->rows, busy->rows - before) <= 2);
        }
}

TEST(asking_for_less_is_not_saved_up_either) {
        struct load *busy = load_new(100), *modest = load_new(100);
        uint64_t before;
        struct scheduler s;

        scheduler_init(&s);
        load_run(&s, busy, 0, 16, 1, true);
        load_run(&s, modest, 0, 1, 1, true);
        for (int i = 0; i < 100000; i++)
                iterate(&s, 8, 4);
        load_run(&s, modest, 1, 16, 1, true);
        before = busy->rows;
        modest->rows = 0;
        for (int i = 0; i < 1000; i++) {
                iterate(&s, 8, 4);
                assert_se(apart(modest->rows, busy->rows - before) <= 2);
        }
}

TEST(prompts_held_back_by_their_limit_claim_at_most_an_iteration_later) {
        struct load *decodes = load_new(100), *prompts = load_new(100);
        uint64_t before;
        struct scheduler s;

        scheduler_init(&s);
        load_run(&s, decodes, 0, 64, 1, true);
        load_run(&s, prompts, 0, 1, 1000000000, false);
        for (int i = 0; i < 100000; i++) {
                iterate(&s, 64, 4);
                assert_se(prompts->rows == 4u * (unsigned) (i + 1));
        }
        load_run(&s, prompts, 1, 64, 1, true);
        before = decodes->rows;
        prompts->rows = 0;
        for (int i = 0; i < 100; i++) {
                iterate(&s, 64, 4);
                assert_se(apart(prompts->rows, decodes->rows - before) <= 64 + 2);
        }
}

TEST(prompts_held_back_by_their_limit_share_it_by_weight) {
        struct load *decodes = load_new(100), *a = load_new(100), *b = load_new(300);
        struct scheduler s;

        scheduler_init(&s);
        load_run(&s, decodes, 0, 90, 1, true);
        load_run(&s, decodes, 90, 92, 1000000000, false);
        load_run(&s, a, 0, 1, 1000000000, false);
        load_run(&s, b, 0, 1, 1000000000, false);
        for (int i = 0; i < 10000; i++)
                iterate(&s, 256, 64);
        assert_se(apart(a->rows * 3, b->rows) < b->rows / 50);
        assert_se(decodes->rows == UINT64_C(90) * 10000); /* who has more than its share gets no prompt rows */
}

TEST(decodes_that_fill_every_iteration_do_not_starve_prompts) {
        struct load *flood = load_new(100), *other = load_new(100);
        struct scheduler s;

        scheduler_init(&s);
        load_run(&s, flood, 0, 64, 1, true);
        load_run(&s, other, 0, 1, 4000, false);
        for (int i = 0; i < 1000; i++)
                iterate(&s, 8, 4);
        assert_se(other->rows == 4000); /* half of each iteration is its due, and prompt_max lets it have that */
}

TEST(own_prompts_progress_beside_own_decodes) {
        struct load *flood = load_new(100);
        uint64_t prompt_rows = 0;
        struct scheduler s;

        scheduler_init(&s);
        load_run(&s, flood, 0, 64, 1, true);
        load_run(&s, flood, 64, 66, 1000000, false);
        for (int i = 0; i < 1000; i++) {
                iterate(&s, 8, 8);
                prompt_rows += flood->streams[64].granted + flood->streams[65].granted;
        }
        assert_se(flood->rows == 8000);
        assert_se(prompt_rows >= 8000 / (32 + 8) && prompt_rows <= 4000);
}

TEST(prompt_rows_stay_under_their_limit_only_while_anyone_decodes) {
        struct load *a = load_new(100), *b = load_new(100);
        struct scheduler s;

        scheduler_init(&s);
        load_run(&s, a, 0, 1, 1000, false);
        assert_se(iterate(&s, 256, 32) == 256);
        load_run(&s, b, 0, 1, 1, true);
        assert_se(iterate(&s, 256, 32) == 33);
        load_run(&s, b, 0, 1, 0, true);
        assert_se(iterate(&s, 256, 32) == 256);
}

TEST(long_prompts_are_shared_in_chunks) {
        struct load *a = load_new(100), *b = load_new(100);
        struct scheduler s;

        scheduler_init(&s);
        load_run(&s, a, 0, 1, 100000, false);
        load_run(&s, b, 0, 2, 100000, false);
        assert_se(iterate(&s, 64, 64) == 64);
        assert_se(a->streams[0].granted == 32);
        assert_se(b->streams[0].granted == 16 && b->streams[1].granted == 16);
}

TEST(streams_of_one_principal_take_turns) {
        struct load *a = load_new(100);
        uint32_t turns[10] = { 0 };
        struct sched_limits limits = { .rows_max = 3, .prompt_max = 3 };
        struct sched_pick picks[3];
        struct scheduler s;

        scheduler_init(&s);
        load_run(&s, a, 0, 10, 1, true);
        for (int i = 0; i < 10; i++) {
                assert_se(scheduler_pick(&s, &limits, picks, 3) == 3);
                for (int j = 0; j < 3; j++)
                        turns[picks[j].stream - a->streams]++;
        }
        for (int i = 0; i < 10; i++)
                assert_se(turns[i] == 3);
}

TEST(no_more_picks_than_there_is_room_for) {
        struct load *a = load_new(100);
        struct sched_limits limits = { .rows_max = 8, .prompt_max = 8 };
        struct sched_pick picks[2] = { { .rows = 0 }, { .rows = 77 } };
        struct scheduler s;

        scheduler_init(&s);
        assert_se(scheduler_pick(&s, &limits, picks, 1) == 0);
        load_run(&s, a, 0, 10, 1, true);
        assert_se(scheduler_pick(&s, &limits, picks, 1) == 1);
        assert_se(picks[0].rows == 1 && picks[1].rows == 77);
        assert_se(scheduler_pick(&s, &limits, picks, 0) == 0);
}

TEST(shares_hold_where_the_counters_wrap) {
        struct load *a = load_new(1), *b = load_new(3), *late = load_new(1);
        struct scheduler s;

        scheduler_init(&s);
        s.clock = UINT64_MAX - PRINCIPAL_SCALE * 100 * ROW_NSEC;
        load_run(&s, a, 0, 8, 1, true);
        load_run(&s, b, 0, 8, 1, true);
        for (int i = 0; i < 1000; i++) {
                iterate(&s, 4, 4);
                assert_se(apart(a->rows * 3, b->rows) <= 4);
        }
        assert_se(s.clock < PRINCIPAL_SCALE * 2000 * ROW_NSEC);
        /* Its counter lies 2^63 away, where "before" and "behind" cannot be told apart. */
        late->principal.counter = s.clock + (UINT64_C(1) << 63) - PRINCIPAL_SCALE * ROW_NSEC;
        load_run(&s, late, 0, 8, 1, true);
        late->rows = a->rows = b->rows = 0;
        for (int i = 0; i < 1000; i++)
                iterate(&s, 5, 4);
        assert_se(apart(late->rows, 1000) < 20 && apart(b->rows, 3000) < 20);
}

static void assert_cap(struct policy policy, uint32_t request_milli, uint32_t experts_used, uint32_t cap_milli,
                       enum cap_rule rule) {
        struct principal principal;
        enum cap_rule found;

        principal_init(&principal, &policy);
        assert_se(sched_cap_milli(&principal, &policy, request_milli, experts_used, &found) == cap_milli);
        assert_se(found == rule);
}

TEST(the_lowest_cap_holds_and_the_rule_that_made_it_is_named) {
        struct policy open = POLICY_DEFAULT, tight = { .experts_max_milli = 2500, .weight = 100 };

        assert_cap(open, 0, 8, 8000, CAP_MODEL);
        assert_cap(open, 3000, 8, 3000, CAP_REQUEST);
        assert_cap(open, 9000, 8, 8000, CAP_MODEL);
        assert_cap(tight, 0, 8, 2500, CAP_EXPERTS_MAX);
        assert_cap(tight, 2501, 8, 2500, CAP_EXPERTS_MAX);
        assert_cap(tight, 2500, 8, 2500, CAP_REQUEST);
        assert_cap(tight, 2499, 8, 2499, CAP_REQUEST);
        assert_cap(tight, 0, 2, 2000, CAP_MODEL);
        assert_cap(open, 0, 0, 0, CAP_MODEL);
        assert_cap(open, 0, UINT32_MAX, UINT32_MAX, CAP_MODEL);
}

TEST(allowances_sum_to_the_cap_and_never_pass_it) {
        static const struct {
                uint32_t cap_milli, layers;
        } cases[] = { { 1, 1 },       { 999, 1 },    { 1000, 48 },  { 2500, 8 },      { 3333, 61 },
                      { 8000, 94 },   { 7, 3 },      { 1001, 999 }, { 123456, 7 },    { 0, 8 } };

        for (size_t i = 0; i < ELEMENTS(cases); i++) {
                uint64_t sum = 0, per_row = (uint64_t) cases[i].cap_milli * cases[i].layers;

                for (uint64_t row = 0; row < 3000000; row++) {
                        uint32_t allowance = sched_allowance(cases[i].cap_milli, cases[i].layers, row);

                        sum += allowance;
                        assert_se(allowance <= per_row / 1000 + 1);
                        assert_se(sum == (row + 1) * per_row / 1000);
                }
        }
}

TEST(allowances_hold_at_the_edges_of_their_types) {
        /* floor((2^64-1)·1.5 · 1): the last row before the position wraps. */
        assert_se(sched_allowance(1500, 1, UINT64_MAX - 1) + sched_allowance(1500, 1, UINT64_MAX) == 3);
        assert_se(sched_allowance(UINT32_MAX, UINT32_MAX, 0) == UINT32_MAX);
        assert_se(sched_allowance(1000, UINT32_MAX, UINT64_MAX) == UINT32_MAX);
        assert_se(sched_allowance(UINT32_MAX, 1000, 12345) == UINT32_MAX);
}

TEST(settling_books_rows_and_activations) {
        struct load *a = load_new(100);
        struct sched_stream *stream = &a->streams[0];

        sched_settle(stream, 5, true, 160);
        sched_settle(stream, 1, false, 32);
        assert_se(a->principal.activations == 192);
        assert_se(a->principal.rows_prompt == 5 && a->principal.rows_generated == 1);
}

/* Iterations, each of which uses what it may, from `now` on; the rows of the load. */
static uint64_t spend(struct scheduler *s, struct load *load, int n, uint64_t now) {
        struct sched_stream *stream = &load->streams[0];
        uint64_t before = load->rows;

        for (int i = 0; i < n; i++) {
                s->now = now;
                load_run(s, load, 0, 1, 1, true);
                if (iterate(s, 8, 8) > 0)
                        sched_settle(stream, 1, false, (uint64_t) stream->cap_milli * 8 / 1000);
        }
        return load->rows - before;
}

static struct load *limited(uint64_t rate, enum policy_on_empty on_empty) {
        struct load *load = load_new(100);

        load->principal.policy.activation_rate = rate;
        load->principal.policy.on_empty = on_empty;
        load->streams[0].cap_milli = 4000;
        return load;
}

TEST(what_is_used_while_there_is_no_limit_is_no_debt_when_there_is_one_again) {
        struct load *load = limited(320, POLICY_ON_EMPTY_WAIT);
        struct scheduler s;

        scheduler_init(&s);
        assert_se(spend(&s, load, 100, 1) == 10);
        load->principal.policy.activation_rate = 0;
        assert_se(spend(&s, load, 100000, 2) == 100000);
        load->principal.policy.activation_rate = 320;
        assert_se(spend(&s, load, 100, NSEC_PER_SEC) == 10);
}

TEST(who_waits_owes_all_and_whose_experts_are_lowered_a_bucket_at_the_most) {
        struct load *waits = limited(10, POLICY_ON_EMPTY_WAIT), *lowered = limited(320, POLICY_ON_EMPTY_DEGRADE);
        struct scheduler s;

        /* A row is more than its bucket holds: the next one is 3.2 s later all the same. */
        scheduler_init(&s);
        assert_se(spend(&s, waits, 10, 1) == 1 && waits->principal.bucket.level == 10 - 32);
        assert_se(spend(&s, waits, 10, 1 + 22 * NSEC_PER_SEC / 10) == 0);
        assert_se(spend(&s, waits, 10, 1 + 23 * NSEC_PER_SEC / 10) == 1);
        load_run(&s, waits, 0, 1, 0, true);
        assert_se(spend(&s, lowered, 1000, 1) == 1000 && lowered->principal.bucket.level == -320);
}

TEST(rows_that_are_given_up_use_what_their_layers_did_and_who_takes_them_over_pays) {
        struct load *from = limited(3200, POLICY_ON_EMPTY_WAIT), *to = limited(3200, POLICY_ON_EMPTY_WAIT);
        struct sched_stream *stream = &from->streams[0];
        struct scheduler s;

        scheduler_init(&s);
        load_run(&s, to, 0, 1, 1, false);
        load_run(&s, from, 0, 1, 50, false);
        assert_se(iterate(&s, 64, 64) == 51 && from->principal.bucket.level == 1600);
        sched_give_up(stream, 2, 8);
        assert_se(from->principal.bucket.level == 3200 - 400);
        sched_give_up(stream, 8, 8);
        assert_se(from->principal.bucket.level == 3200 - 400);
        load_run(&s, to, 0, 1, 0, false);
        assert_se(iterate(&s, 64, 64) == 50);
        sched_stream_move(&s, stream, &to->principal);
        sched_settle(stream, 50, true, 1000);
        assert_se(from->principal.bucket.level == 2800 && to->principal.bucket.level == 3200 - 32 - 1000);
}
