/* SPDX-License-Identifier: MIT */
/* How sequences spend budgets of experts in op_route and keep to experts' capacity, on every backend. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "device.h"
#include "sample.h"
#include "test.h"
#include "variant.h"

enum {
        ROWS = 300, /* of each sequence */
        SEQUENCES = 2,
        EXPERTS = 24,
        K = 6,
        PAGES = (ROWS + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS,
};

/* What a sequence is fed, and what its rows got. */
struct text {
        float logits[ROWS][EXPERTS];
        int32_t caps[ROWS], floors[ROWS];
        float demand[ROWS]; /* where the spender has any */
        int32_t group, base; /* 0: rides on nobody */
        int32_t ids[ROWS][K], counts[ROWS];
        float weights[ROWS][K];
};

static void text_init(struct text *t, struct sample *s, int32_t cap, int32_t floor) {
        for (int i = 0; i < ROWS; i++) {
                /* Routers are now sure, now not. */
                float spread = 1.0f + 7.0f * fabsf(sample_float(s));

                for (int e = 0; e < EXPERTS; e++)
                        t->logits[i][e] = spread * sample_float(s);
                t->caps[i] = cap;
                t->floors[i] = floor;
        }
        t->group = t->base = 0;
}

/* Something to spend budgets with: the state of both sequences, whose pages take turns. */
struct spender {
        struct device d;
        struct op_route op;
        struct buffer *state, *chosen;
        bool demand;
        int32_t pages[SEQUENCES][PAGES];
};

static void spender_init(struct spender *s, struct backend *b, const struct op_route *shape) {
        *s = (struct spender) { .op = *shape };
        device_init(&s->d, b);
        s->op.experts = EXPERTS;
        s->op.k = K;
        assert_se(s->d.ops->buffer_new(b, SEQUENCES * PAGES * KV_PAGE_TOKENS * sizeof(struct route_state), false,
                                       &s->state) == 0);
        assert_se(s->d.ops->buffer_new(b, SEQUENCES * PAGES * KV_PAGE_TOKENS * K * sizeof(uint16_t), false,
                                       &s->chosen) == 0);
        for (int i = 0; i < SEQUENCES * PAGES; i++)
                s->pages[i % SEQUENCES][i / SEQUENCES] = i;
}

static void spender_deinit(struct spender *s) {
        s->d.ops->buffer_free(s->state);
        s->d.ops->buffer_free(s->chosen);
        device_deinit(&s->d);
}

/* The rows of one call. */
struct call {
        uint32_t n;
        float logits[SEQUENCES * ROWS][EXPERTS], demand[SEQUENCES * ROWS];
        int32_t caps[SEQUENCES * ROWS], floors[SEQUENCES * ROWS], positions[SEQUENCES * ROWS],
                sequences[SEQUENCES * ROWS];
        int32_t groups[SEQUENCES * ROWS], bases[SEQUENCES * ROWS];
        int32_t ids[SEQUENCES * ROWS][K], counts[SEQUENCES * ROWS];
        float weights[SEQUENCES * ROWS][K];
};

static void call_add(struct call *c, const struct text *t, int32_t sequence, uint32_t from, uint32_t to) {
        for (uint32_t i = from; i < to; i++, c->n++) {
                memcpy(c->logits[c->n], t->logits[i], sizeof(t->logits[i]));
                c->caps[c->n] = t->caps[i];
                c->floors[c->n] = t->floors[i];
                c->demand[c->n] = t->demand[i];
                c->groups[c->n] = t->group;
                c->bases[c->n] = t->base;
                c->positions[c->n] = (int32_t) i;
                c->sequences[c->n] = sequence;
        }
}

static uint32_t call_take(const struct call *c, struct text *t, uint32_t at, uint32_t from, uint32_t to) {
        for (uint32_t i = from; i < to; i++, at++) {
                memcpy(t->ids[i], c->ids[at], sizeof(t->ids[i]));
                memcpy(t->weights[i], c->weights[at], sizeof(t->weights[i]));
                t->counts[i] = c->counts[at];
        }
        return at;
}

static void spender_call(struct spender *s, struct call *c) {
        struct device *d = &s->d;
        struct op_route op = s->op;
        uint32_t *used = calloc(c->n, sizeof(*used));

        assert_se(used);
        op.n = c->n;
        op.logits = device_put(d, c->logits, c->n * sizeof(c->logits[0]));
        op.caps = device_put(d, c->caps, c->n * sizeof(c->caps[0]));
        op.budget = (struct op_route_budget) {
                .rows = {
                        .n = c->n,
                        .positions = device_put(d, c->positions, c->n * sizeof(c->positions[0])),
                        .sequences = device_put(d, c->sequences, c->n * sizeof(c->sequences[0])),
                        .page_table = device_put(d, s->pages, sizeof(s->pages)),
                        .page_table_stride = PAGES,
                },
                .state = d->ops->buffer_address(s->state),
                .floors = device_put(d, c->floors, c->n * sizeof(c->floors[0])),
                .demand = s->demand ? device_put(d, c->demand, c->n * sizeof(c->demand[0])) : DEVICE_NULL,
                .demand_stride = 1,
                .groups = device_put(d, c->groups, c->n * sizeof(c->groups[0])),
                .bases = device_put(d, c->bases, c->n * sizeof(c->bases[0])),
                .n_groups = SEQUENCES,
        };
        op.capacity.chosen = d->ops->buffer_address(s->chosen);
        op.ids = device_put(d, NULL, c->n * sizeof(c->ids[0]));
        op.weights = device_put(d, NULL, c->n * sizeof(c->weights[0]));
        op.counts = device_put(d, NULL, c->n * sizeof(c->counts[0]));
        op.used = device_put(d, NULL, c->n * sizeof(*used));
        assert_se(d->ops->route(d->stream, &op) == 0);
        device_get(d, c->ids, op.ids, c->n * sizeof(c->ids[0]));
        device_get(d, c->weights, op.weights, c->n * sizeof(c->weights[0]));
        device_get(d, c->counts, op.counts, c->n * sizeof(c->counts[0]));
        device_get(d, used, op.used, c->n * sizeof(*used));
        for (uint32_t i = 0; i < c->n; i++)
                assert_se(used[i] == (uint32_t) c->counts[i]);
        free(used);
        device_clear(d);
}

/* Feeds both texts, so many rows of each at a time. */
static void spend(struct spender *s, struct text texts[SEQUENCES], uint32_t chunk) {
        struct call *c = malloc(sizeof(*c));

        assert_se(c);
        for (uint32_t from = 0; from < ROWS; from += chunk) {
                uint32_t to = MIN(from + chunk, (uint32_t) ROWS), at = 0;

                c->n = 0;
                for (int i = 0; i < SEQUENCES; i++)
                        call_add(c, &texts[i], i, from, to);
                spender_call(s, c);
                for (int i = 0; i < SEQUENCES; i++)
                        at = call_take(c, &texts[i], at, from, to);
        }
        free(c);
}

/* Runs a check on the ref backend and on every variant of the cpu backend. */
static void everywhere(const struct op_route *shape, void (*check)(struct spender *s)) {
        struct spender s;

        spender_init(&s, sample_backend_ref(), shape);
        check(&s);
        spender_deinit(&s);
        for (unsigned v = 0; v < n_cpu_variants; v++) {
                struct backend *b = sample_backend(cpu_variants[v]->name, 2);

                if (!b)
                        continue;
                spender_init(&s, b, shape);
                check(&s);
                spender_deinit(&s);
        }
}

static const struct op_route softmax = { .gate = ROUTE_SOFTMAX, .normalize = true, .scale = 1.0f };

static uint64_t total(const int32_t *values, uint32_t n) {
        uint64_t sum = 0;

        for (uint32_t i = 0; i < n; i++)
                sum += (uint64_t) values[i];
        return sum;
}

static void check_exact(struct spender *s) {
        static struct text texts[SEQUENCES];

        for (int32_t cap = 0; cap <= K * 1000; cap += 375) {
                struct sample random = { (uint64_t) cap + 1 };

                for (int i = 0; i < SEQUENCES; i++)
                        text_init(&texts[i], &random, cap, 1);
                spend(s, texts, 64);
                for (int i = 0; i < SEQUENCES; i++)
                        for (uint32_t n = 1; n <= ROWS; n++) {
                                assert_se(1000 * total(texts[i].counts, n) <= total(texts[i].caps, n));
                                assert_se(texts[i].counts[n - 1] <= K);
                                assert_se(cap < 1000 || texts[i].counts[n - 1] >= 1);
                        }
                /* And it is spent: but for what is saved in the end, at most. */
                assert_se(1000 * total(texts[0].counts, ROWS) + K * ROUTE_SAVED_MAX >= total(texts[0].caps, ROWS));
        }
}

TEST(no_row_s_sum_passes_that_of_the_caps_and_all_is_spent) {
        everywhere(&softmax, check_exact);
}

static void check_floors(struct spender *s) {
        static struct text texts[SEQUENCES];
        struct sample random = { 3 };

        text_init(&texts[0], &random, 3250, 3);
        text_init(&texts[1], &random, 2000, 9);
        spend(s, texts, ROWS);
        for (uint32_t i = 0; i < ROWS; i++)
                assert_se(texts[0].counts[i] >= 3 && texts[1].counts[i] == 2);
}

TEST(no_row_gets_less_than_its_floor_while_the_cap_has_so_much) {
        everywhere(&softmax, check_floors);
}

static void texts_vary(struct text texts[SEQUENCES]) {
        struct sample random = { 11 };

        for (int i = 0; i < SEQUENCES; i++) {
                text_init(&texts[i], &random, 2500, 1);
                for (uint32_t r = 0; r < ROWS; r++) {
                        texts[i].caps[r] = (int32_t) (sample_u32(&random) % (K * 1000 + 1500));
                        texts[i].floors[r] = (int32_t) (sample_u32(&random) % 4) - 1;
                }
        }
        for (uint32_t r = 0; r < ROWS; r += 17) {
                texts[0].logits[r][r % EXPERTS] = NAN;
                texts[1].logits[r][r % EXPERTS] = INFINITY;
        }
}

static void check_chunks(struct spender *s) {
        static const uint32_t chunks[] = { 1, 7, KV_PAGE_TOKENS, 100 };
        static struct text whole[SEQUENCES], cut[SEQUENCES];

        texts_vary(whole);
        spend(s, whole, ROWS);
        for (unsigned c = 0; c < ELEMENTS(chunks); c++) {
                texts_vary(cut);
                spend(s, cut, chunks[c]);
                for (int i = 0; i < SEQUENCES; i++) {
                        assert_se(memcmp(cut[i].ids, whole[i].ids, sizeof(whole[i].ids)) == 0);
                        assert_se(memcmp(cut[i].counts, whole[i].counts, sizeof(whole[i].counts)) == 0);
                        assert_se(memcmp(cut[i].weights, whole[i].weights, sizeof(whole[i].weights)) == 0);
                }
        }
        /* The last half again, as after an eviction that kept pages. */
        texts_vary(cut);
        for (uint32_t from = ROWS / 2; from < ROWS; from++) {
                static struct call one;

                one.n = 0;
                call_add(&one, &cut[1], 1, from, from + 1);
                spender_call(s, &one);
                call_take(&one, &cut[1], 0, from, from + 1);
                assert_se(memcmp(cut[1].ids[from], whole[1].ids[from], sizeof(whole[1].ids[0])) == 0);
                assert_se(memcmp(cut[1].weights[from], whole[1].weights[from], sizeof(whole[1].weights[0])) == 0);
        }
}

TEST(choices_do_not_depend_on_chunks_and_neighbours) {
        everywhere(&softmax, check_chunks);
}

static void check_worth(struct spender *s) {
        static struct text texts[SEQUENCES];
        struct sample random = { 5 };
        uint64_t sure = 0, unsure = 0;

        text_init(&texts[0], &random, 2000, 1);
        text_init(&texts[1], &random, 2000, 1);
        for (uint32_t r = 0; r < ROWS; r++)
                for (uint32_t e = 0; e < EXPERTS; e++)
                        texts[0].logits[r][e] = (r % 3 == 0 ? 0.1f : 30.0f) * sample_float(&random);
        spend(s, texts, ROWS);
        for (uint32_t r = ROWS / 2; r < ROWS; r++)
                *(r % 3 == 0 ? &unsure : &sure) += (uint64_t) texts[0].counts[r];
        assert_se(unsure * 2 > 2 * sure); /* there are two that are sure for each that is not */
}

TEST(rows_whose_router_is_unsure_get_what_others_leave) {
        everywhere(&softmax, check_worth);
}

static void check_saved(struct spender *s) {
        static struct text texts[SEQUENCES];
        struct sample random = { 7 };
        uint64_t late = 0;

        text_init(&texts[0], &random, 2000, 1);
        text_init(&texts[1], &random, 2000, 1);
        for (uint32_t r = 0; r < ROWS; r++)
                for (uint32_t e = 0; e < EXPERTS; e++)
                        texts[0].logits[r][e] = r < ROWS - 40 ? (e == r % EXPERTS ? 40.0f : 0.0f) : 0.0f;
        spend(s, texts, ROWS);
        for (uint32_t r = ROWS - 40; r < ROWS; r++)
                late += (uint64_t) texts[0].counts[r];
        assert_se(1000 * late <= 40 * 2000 + K * ROUTE_SAVED_MAX);
        assert_se(1000 * late > 40 * 2000 + K * ROUTE_SAVED_MAX * 3 / 4);
}

TEST(savings_have_a_bound) {
        everywhere(&softmax, check_saved);
}

static void check_without(struct spender *s) {
        static struct text some[SEQUENCES], all[SEQUENCES];
        struct sample random = { 9 };

        for (int i = 0; i < SEQUENCES; i++)
                text_init(&some[i], &random, 2250, 1);
        memcpy(all, some, sizeof(all));
        spend(s, all, ROWS);
        /* Rows without a budget, and with all that they can use, between those with one. */
        for (uint32_t r = 0; r < 100; r++) {
                some[0].floors[r] = -1;
                some[0].caps[r] = (int32_t) r * 100;
                some[1].caps[r] = r % 2 ? K * 1000 : INT32_MAX;
        }
        spend(s, some, ROWS);
        for (uint32_t r = 0; r < 100; r++) {
                assert_se(some[0].counts[r] == MIN((int32_t) r / 10, (int32_t) K));
                assert_se(some[1].counts[r] == K);
        }
        for (uint32_t n = 101; n <= ROWS; n++)
                assert_se(1000 * (total(some[0].counts, n) - total(some[0].counts, 100)) <= 2250 * (n - 100));
}

TEST(rows_without_a_budget_have_their_cap_and_leave_the_balance) {
        everywhere(&softmax, check_without);
}

static void check_weights(struct spender *s) {
        static struct text texts[SEQUENCES];
        struct sample random = { 13 };
        bool normalized = s->op.normalize || s->op.gate == ROUTE_SOFTMAX_CHOSEN;

        text_init(&texts[0], &random, 2000, 1);
        text_init(&texts[1], &random, 2000, 1);
        spend(s, texts, ROWS);
        for (uint32_t r = 0; r < ROWS; r++) {
                float sum = 0.0f;

                for (int32_t j = 0; j < K; j++) {
                        assert_se(j < texts[0].counts[r] ? texts[0].ids[r][j] >= 0 && texts[0].weights[r][j] > 0.0f
                                                         : texts[0].ids[r][j] == -1 && texts[0].weights[r][j] == 0.0f);
                        assert_se(j == 0 || texts[0].weights[r][j] <= texts[0].weights[r][j - 1]);
                        sum += texts[0].weights[r][j];
                }
                assert_se(!normalized || fabsf(sum - s->op.scale) < 1e-5f);
        }
}

TEST(of_the_best_those_are_kept_that_weigh_most) {
        static float bias[EXPERTS];

        for (int e = 0; e < EXPERTS; e++)
                bias[e] = (float) (e * 5 % 7) / 7.0f;
        for (enum route_gate gate = ROUTE_SOFTMAX; gate <= ROUTE_SOFTMAX_CHOSEN; gate++)
                for (int normalize = 0; normalize < 2; normalize++) {
                        struct op_route shape = { .gate = gate, .normalize = normalize, .scale = 2.5f };

                        if (gate != ROUTE_SOFTMAX_CHOSEN)
                                shape.bias = (struct device_ptr) { (uintptr_t) bias };
                        everywhere(&shape, check_weights);
                }
}

static void check_demand(struct spender *s) {
        static struct text texts[SEQUENCES];
        struct sample random = { 17 };
        uint64_t low = 0, high = 0;

        for (int i = 0; i < SEQUENCES; i++)
                text_init(&texts[i], &random, 2500, 1);
        for (uint32_t r = 0; r < ROWS; r++)
                texts[0].demand[r] = texts[1].demand[r] = r % 2 ? 3.0f : -3.0f;
        s->demand = true;
        spend(s, texts, 50);
        for (uint32_t r = ROWS / 2; r < ROWS; r++)
                *(r % 2 ? &high : &low) += (uint64_t) texts[0].counts[r];
        assert_se(high > 2 * low);
        for (uint32_t n = 1; n <= ROWS; n++)
                assert_se(1000 * total(texts[0].counts, n) <= 2500 * n);
        assert_se(1000 * total(texts[0].counts, ROWS) + K * ROUTE_SAVED_MAX >= 2500 * ROWS);
}

TEST(rows_with_a_higher_demand_get_more) {
        everywhere(&softmax, check_demand);
}

static bool is_chosen(const struct text *t, uint32_t row, uint32_t n, int32_t expert) {
        for (uint32_t j = 0; j < n; j++)
                if (t->ids[row][j] == expert)
                        return true;
        return false;
}

/* The first takes 2 and rides on the second, which has 3 always. */
static void check_riders(struct spender *s) {
        static struct text alone[SEQUENCES], together[SEQUENCES], apart[SEQUENCES];
        struct sample random = { 19 };
        uint64_t riders = 0;

        text_init(&alone[0], &random, 3500, 1);
        text_init(&alone[1], &random, 3000, 3);
        memcpy(together, alone, sizeof(alone));
        together[0].base = 2;
        together[0].group = together[1].group = 1;
        memcpy(apart, together, sizeof(together));
        apart[1].group = 2;
        spend(s, alone, 1);
        spend(s, together, 1);
        spend(s, apart, 1);
        for (uint32_t r = 0; r < ROWS; r++) {
                assert_se(memcmp(together[1].ids[r], alone[1].ids[r], sizeof(alone[1].ids[r])) == 0);
                assert_se(memcmp(together[1].weights[r], alone[1].weights[r], sizeof(alone[1].weights[r])) == 0);
                assert_se(apart[0].counts[r] == 2 && together[0].counts[r] >= 2);
                assert_se(memcmp(apart[0].ids[r], together[0].ids[r], 2 * sizeof(int32_t)) == 0);
                for (int32_t j = 2; j < together[0].counts[r]; j++) {
                        assert_se(is_chosen(&together[1], r, 3, together[0].ids[r][j]));
                        riders++;
                }
                assert_se(1000 * total(together[0].counts, r + 1) <= 3500 * (r + 1));
        }
        assert_se(riders > ROWS / 8);
}

TEST(riders_take_what_their_group_has_anyway_and_disturb_nobody) {
        everywhere(&softmax, check_riders);
}

/* Capacities of windows that end within pages: with room for most, too little for all, and of a single row each. */
static const struct op_route_capacity capacities[] = { { 18, 60 }, { 5, 50 }, { 1, 7 } };

static void everywhere_with_capacity(struct op_route shape, void (*check)(struct spender *s)) {
        for (unsigned i = 0; i < ELEMENTS(capacities); i++) {
                shape.capacity = capacities[i];
                everywhere(&shape, check);
        }
}

/* The best that is not out. */
static int32_t best_of(const float *scores, const bool *out, int32_t n) {
        int32_t best = -1;

        for (int32_t i = 0; i < n; i++)
                if (!out[i] && (best < 0 || scores[i] > scores[best]))
                        best = i;
        return best;
}

static void limit_groups(bool *out, const float *logits, uint32_t groups, uint32_t used) {
        uint32_t size = EXPERTS / groups;
        bool taken[EXPERTS] = { false };
        float scores[EXPERTS];

        for (uint32_t e = 0; e < EXPERTS; e++)
                scores[e / size] = e % size == 0 ? logits[e] : fmaxf(scores[e / size], logits[e]);
        while (used-- > 0)
                taken[best_of(scores, taken, (int32_t) groups)] = true;
        for (uint32_t e = 0; e < EXPERTS; e++)
                out[e] = !taken[e / size];
}

/* That the row has the best that were not full. */
static void check_row(const struct op_route *op, const struct text *t, uint32_t row, uint32_t uses[EXPERTS]) {
        bool out[EXPERTS] = { false };
        int32_t n = 0;

        if (op->groups > 0)
                limit_groups(out, t->logits[row], op->groups, op->groups_used);
        for (uint32_t e = 0; e < EXPERTS; e++)
                out[e] |= uses[e] == op->capacity.most;
        for (int32_t e; n < t->caps[row] / 1000 && (e = best_of(t->logits[row], out, EXPERTS)) >= 0; n++) {
                assert_se(t->ids[row][n] == e);
                out[e] = true;
                uses[e]++;
        }
        assert_se(t->counts[row] == n);
        for (; n < K; n++)
                assert_se(t->ids[row][n] == -1 && t->weights[row][n] == 0.0f);
}

static void check_next_best(struct spender *s) {
        static struct text texts[SEQUENCES];
        struct sample random = { 23 };

        for (int i = 0; i < SEQUENCES; i++) {
                text_init(&texts[i], &random, 0, -1);
                for (uint32_t r = 0; r < ROWS; r++)
                        texts[i].caps[r] = (int32_t) (sample_u32(&random) % (K + 1)) * 1000;
        }
        spend(s, texts, 13);
        for (int i = 0; i < SEQUENCES; i++) {
                uint32_t uses[EXPERTS];

                for (uint32_t r = 0; r < ROWS; r++) {
                        if (r % s->op.capacity.window == 0)
                                memset(uses, 0, sizeof(uses));
                        check_row(&s->op, &texts[i], r, uses);
                }
        }
}

TEST(a_row_that_finds_experts_full_has_the_next_best) {
        struct op_route grouped = softmax;

        grouped.groups = 4;
        grouped.groups_used = 2;
        everywhere_with_capacity(softmax, check_next_best);
        everywhere_with_capacity(grouped, check_next_best);
}

/* Experts that a row's budget leaves are none of its uses. */
static void check_capacity(struct spender *s) {
        static struct text texts[SEQUENCES];
        uint32_t uses[EXPERTS];
        bool full[EXPERTS];

        texts_vary(texts);
        spend(s, texts, 100);
        for (uint32_t r = 0; r < ROWS; r++) {
                if (r % s->op.capacity.window == 0)
                        memset(uses, 0, sizeof(uses));
                for (uint32_t e = 0; e < EXPERTS; e++)
                        full[e] = uses[e] == s->op.capacity.most || !isfinite(texts[0].logits[r][e]);
                assert_se(texts[0].counts[r] == 0 || texts[0].ids[r][0] == best_of(texts[0].logits[r], full, EXPERTS));
                for (int32_t j = 0; j < texts[0].counts[r]; j++)
                        assert_se(++uses[texts[0].ids[r][j]] <= s->op.capacity.most);
        }
        check_chunks(s);
}

TEST(rows_with_budgets_fill_experts_by_what_they_use_whatever_the_chunks) {
        everywhere_with_capacity(softmax, check_capacity);
}
