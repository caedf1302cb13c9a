/* SPDX-License-Identifier: MIT */

/* Forecasts of who begins when: by hand, and against a machine that is played pass by pass. */

#include <math.h>
#include <stdlib.h>

#include "base/util.h"
#include "cost.h"
#include "queue.h"
#include "test.h"

static uint32_t alice, bob;
static const struct queue_room wide = { .pages_free = 1000, .owner_max = 2 };

static struct queue_entry entry(uint32_t *owner, uint32_t pages, double prompt, double answer) {
        return (struct queue_entry) { .owner = owner, .pages = pages, .prompt_nsec = prompt, .answer_nsec = answer };
}

TEST(places_become_free_as_answers_end) {
        struct queue_entry e[] = { entry(&alice, 1, 0, 10), entry(&alice, 1, 0, 30), entry(&alice, 1, 1, 15),
                                   entry(&alice, 1, 2, 20), entry(&alice, 1, 3, 20) };

        queue_play(e, 2, 5, &wide);
        /* The third takes the first one's place, the fourth the third's. */
        assert_se(e[2].begins_nsec == 10 && e[3].begins_nsec == 25 + 1 && e[4].begins_nsec == 30 + 1 + 2);
}

TEST(prompts_that_are_under_way_hold_all_up) {
        struct queue_entry e[] = { entry(&alice, 1, 5, 10), entry(&alice, 1, 7, 30), entry(&alice, 1, 0, 1) };

        queue_play(e, 2, 3, &wide);
        assert_se(e[2].begins_nsec == 10 + 5 + 7);
}

TEST(pages_become_free_as_answers_end) {
        struct queue_entry e[] = { entry(&alice, 4, 0, 10), entry(&bob, 6, 0, 20), entry(&alice, 5, 0, 5),
                                   entry(&bob, 1, 0, 5), entry(&bob, 9, 0, 5) };
        const struct queue_room room = { .pages_free = 3, .owner_max = 100 };

        queue_play(e, 2, 5, &room);
        /* 3 free and 4 given back hold 5, and one for each that runs. */
        assert_se(e[2].begins_nsec == 10);
        /* The page that is left is for those that run: it begins when the third has ended. */
        assert_se(e[3].begins_nsec == 15);
        assert_se(e[4].begins_nsec == 20);
}

TEST(a_full_owner_keeps_nobody_else_from_beginning) {
        struct queue_entry e[] = { entry(&alice, 1, 0, 100), entry(&alice, 1, 0, 100), entry(&bob, 1, 0, 5),
                                   entry(&alice, 1, 0, 5), entry(&bob, 1, 0, 5) };

        queue_play(e, 3, 5, &wide);
        assert_se(e[3].begins_nsec == 100 && e[4].begins_nsec == 0);
}

TEST(behind_an_answer_of_unknown_length_nothing_is_told) {
        struct queue_entry e[] = { entry(&alice, 1, 0, 10), entry(&alice, 1, 0, INFINITY),
                                   entry(&alice, 1, 0, INFINITY), entry(&alice, 1, 0, 5), entry(&bob, 1, 0, 5) };
        struct queue_entry alone = entry(&alice, 2000, 0, 1);

        queue_play(e, 2, 5, &wide);
        assert_se(e[2].begins_nsec == 10 && isinf(e[3].begins_nsec) && e[4].begins_nsec == 0);
        queue_play(&alone, 0, 1, &wide);
        assert_se(isinf(alone.begins_nsec));
}

enum {
        REQUESTS = 400, OWNERS = 3, PLACES = 6, PAGES = 120, PAGE_TOKENS = 32,
        FORECASTS = 20000,
};

struct request {
        uint32_t *owner;
        uint32_t prompt, answer; /* tokens */
        uint32_t done;           /* rows */
        bool waits, runs;
        double begun;
};

struct forecast {
        const struct request *request;
        double at, begins;
};

/* Everybody comes at once, or now and then. */
struct machine {
        struct cost cost;
        struct request requests[REQUESTS];
        struct forecast forecasts[FORECASTS];
        size_t n_forecasts;
        uint64_t random;
        double clock;
};

static uint32_t random_below(struct machine *m, uint32_t below) {
        m->random ^= m->random << 13;
        m->random ^= m->random >> 7;
        m->random ^= m->random << 17;
        return (uint32_t) ((m->random >> 32) % below);
}

static struct machine *machine_new(void) {
        static uint32_t owners[OWNERS];
        struct machine *m = calloc(1, sizeof(*m));

        assert_se(m);
        m->random = 1;
        cost_init(&m->cost, &(struct cost_shape) { .layers = 16, .moe_layers = 16, .experts = 64, .experts_used = 8,
                                                   .weight_bytes = 4000000000 });
        for (int i = 0; i < REQUESTS; i++)
                m->requests[i] = (struct request) {
                        .owner = &owners[random_below(m, OWNERS)],
                        .prompt = 1 + random_below(m, random_below(m, 4) ? 60 : 800),
                        .answer = 1 + random_below(m, random_below(m, 3) ? 60 : 300),
                };
        return m;
}

static uint32_t pages_of(const struct request *r) {
        return DIV_ROUND_UP(MAX(r->prompt, r->done), (uint32_t) PAGE_TOKENS);
}

static uint32_t count_running(const struct machine *m, const uint32_t *owner, uint32_t *pages) {
        uint32_t n = 0;

        *pages = 0;
        for (int i = 0; i < REQUESTS; i++)
                if (m->requests[i].runs) {
                        *pages += pages_of(&m->requests[i]);
                        n += !owner || m->requests[i].owner == owner;
                }
        return n;
}

static void machine_admit(struct machine *m) {
        for (int i = 0; i < REQUESTS; i++) {
                struct request *r = &m->requests[i];
                uint32_t pages, running = count_running(m, NULL, &pages);

                if (!r->waits || count_running(m, r->owner, &pages) >= PLACES)
                        continue;
                if (pages + pages_of(r) + running > PAGES)
                        return;
                r->waits = false;
                r->runs = true;
                r->begun = m->clock;
        }
}

static struct cost_load whole_pass(const struct machine *m) {
        struct cost_load load = {};

        for (int i = 0; i < REQUESTS; i++)
                if (m->requests[i].runs)
                        cost_load_add(&m->cost, &load, &(struct cost_rows) {
                                .rows = 1, .position = m->requests[i].done, .cap_milli = 8000, .logits = 1 });
        return load;
}

static struct cost_rows prompt_rows(const struct request *r) {
        return (struct cost_rows) {
                .rows = r->prompt - MIN(r->done, r->prompt), .position = r->done, .prompt = true, .cap_milli = 8000,
                .logits = 1,
        };
}

static struct queue_entry describe(const struct machine *m, const struct request *r, const struct cost_load *beside) {
        struct cost_rows rows = prompt_rows(r);

        return (struct queue_entry) {
                .owner = r->owner, .pages = pages_of(r),
                .prompt_nsec = queue_prompt_nsec(&m->cost, beside, &rows),
                .answer_nsec = (double) cost_nsec(&m->cost, beside) * MIN(r->answer, r->prompt + r->answer - r->done),
        };
}

/* Notes what is told to all that wait. */
static void machine_forecast(struct machine *m) {
        static struct queue_entry entries[REQUESTS];
        static const struct request *who[REQUESTS];
        const struct cost_load beside = whole_pass(m);
        uint32_t n_running = 0, n = 0, pages;

        for (int i = 0; i < REQUESTS; i++)
                if (m->requests[i].runs)
                        entries[n_running++] = describe(m, &m->requests[i], &beside);
        n = n_running;
        for (int i = 0; i < REQUESTS; i++)
                if (m->requests[i].waits) {
                        who[n] = &m->requests[i];
                        entries[n++] = describe(m, &m->requests[i], &beside);
                }
        count_running(m, NULL, &pages);
        queue_play(entries, n_running, n,
                   &(struct queue_room) { .pages_free = MAX(PAGES - (int) pages, 0), .owner_max = PLACES });
        for (uint32_t i = n_running; i < n && m->n_forecasts < FORECASTS; i++)
                m->forecasts[m->n_forecasts++] = (struct forecast) { who[i], m->clock, entries[i].begins_nsec };
}

/* A long prompt goes by itself; else every answer has a row, and short prompts go along. */
static void machine_pass(struct machine *m) {
        struct cost_load load = {};
        struct request *alone = NULL;

        for (int i = 0; i < REQUESTS && !alone; i++)
                if (m->requests[i].runs && prompt_rows(&m->requests[i]).rows > m->cost.short_rows)
                        alone = &m->requests[i];
        for (int i = 0; i < REQUESTS; i++) {
                struct request *r = &m->requests[i];
                struct cost_rows rows = prompt_rows(r);

                if (!r->runs || (alone && r != alone))
                        continue;
                if (rows.rows == 0)
                        rows = (struct cost_rows) { .rows = 1, .position = r->done, .cap_milli = 8000, .logits = 1 };
                cost_load_add(&m->cost, &load, &rows);
                r->done += rows.rows;
                r->runs = r->done < r->prompt + r->answer;
        }
        m->clock += (double) cost_nsec(&m->cost, &load);
}

static int compare(const void *a, const void *b) {
        double x = *(const double *) a, y = *(const double *) b;

        return x < y ? -1 : x > y;
}

/* Of the forecasts that were for more than a few passes: how far off they were. */
static size_t errors(const struct machine *m, double *ret) {
        size_t n = 0;

        for (size_t i = 0; i < m->n_forecasts; i++) {
                const struct forecast *f = &m->forecasts[i];
                double truth = f->request->begun - f->at;

                if (truth > 1e9)
                        ret[n++] = fabs(f->begins / truth - 1.0);
        }
        qsort(ret, n, sizeof(*ret), compare);
        return n;
}

TEST(forecasts_come_true_on_a_machine_that_costs_what_is_said) {
        static double off[FORECASTS];
        struct machine *m = machine_new();
        uint32_t come = 0, pages;
        size_t n;

        for (int pass = 0; come < REQUESTS || count_running(m, NULL, &pages) > 0; pass++) {
                /* A burst, and another one while some of the first still wait. */
                for (; come < REQUESTS && come < (pass < 300 ? 40u : 80u + (uint32_t) (pass - 300) / 10); come++)
                        m->requests[come].waits = true;
                machine_admit(m);
                if (pass % 20 == 0)
                        machine_forecast(m);
                machine_pass(m);
        }
        n = errors(m, off);
        printf("%zu forecasts of more than a second: off by %.1f %% in the median, %.1f %% at the 90th percentile\n", n,
               100 * off[n / 2], 100 * off[n * 9 / 10]);
        assert_se(n > 500 && off[n / 2] < 0.12 && off[n * 9 / 10] < 0.5);
        free(m);
}
