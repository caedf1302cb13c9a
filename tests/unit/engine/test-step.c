/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "allowance.h"
#include "base/util.h"
#include "kv.h"
#include "mapped.h"
#include "test.h"
#include "tiny.h"

enum { ALL = TINY_LAYERS * TINY_EXPERTS_USED };

/* A tiny model on the reference backend, and a step of it. */
struct engine {
        struct backend *backend;
        struct model *model;
        struct step *step;
};

static struct engine engine_open_of(const struct tiny *tiny, uint32_t pages, uint32_t rows_max) {
        struct engine e;

        assert_se(backend_ref_new(&e.backend) == 0);
        e.model = tiny_open(tiny, e.backend, pages, rows_max);
        assert_se(step_new(&e.step, e.model) == 0);
        return e;
}

static struct engine engine_open(uint32_t pages, uint32_t rows_max) {
        return engine_open_of(&(struct tiny) { 0 }, pages, rows_max);
}

static void engine_close(struct engine *e) {
        assert_se(model_kv_pages_free(e->model) == model_info(e->model)->kv_pages);
        step_free(e->step);
        model_free(e->model);
        e->backend->ops->free(e->backend);
}

static struct sequence *sequence(struct engine *e, uint32_t room) {
        struct sequence *s;

        assert_se(sequence_new(&s, e->model) == 0);
        assert_se(sequence_reserve(s, room) == 0);
        return s;
}

static const int32_t tokens[64] = { 1, 2, 3, 5, 8, 13, 21, 34, 7, 0, 39, 4, 4, 4, 4, 9 };

static const uint32_t *allow(uint32_t n) {
        static uint32_t allowances[64];

        for (unsigned i = 0; i < 64; i++)
                allowances[i] = n;
        return allowances;
}

TEST(caps_of_a_token_sum_to_its_allowance) {
        for (uint32_t layers = 1; layers < 20; layers++)
                for (uint32_t a = 0; a <= layers * 8; a++) {
                        uint32_t sum = 0;

                        for (uint32_t l = 0; l < layers; l++) {
                                uint32_t cap = allowance_cap(a, l, layers, 8);

                                assert_se(cap == a / layers || cap == a / layers + 1);
                                sum += cap;
                        }
                        assert_se(sum == a);
                }
        assert_se(allowance_cap(UINT32_MAX, 0, 1024, 8) == 8 &&
                  allowance_cap(UINT32_MAX, 1023, 1024, 8) == 8);
}

TEST(pages_are_taken_all_or_none_and_come_back) {
        struct kv_pages p = KV_PAGES_NULL;
        uint32_t a[4], b[4];

        assert_se(kv_pages_init(&p, 4) == 0);
        assert_se(kv_pages_take(&p, 3, a) && p.n_free == 1);
        assert_se(a[0] == 0 && a[1] == 1 && a[2] == 2);
        assert_se(!kv_pages_take(&p, 2, b) && p.n_free == 1);
        assert_se(kv_pages_take(&p, 1, b) && b[0] == 3 && p.n_free == 0);
        assert_se(!kv_pages_take(&p, 1, b) && kv_pages_take(&p, 0, b));
        kv_pages_release(&p, 3, a);
        assert_se(p.n_free == 3 && kv_pages_take(&p, 1, b) && b[0] == 0);
        kv_pages_deinit(&p);
}

TEST(reserving_takes_whole_pages_and_truncating_gives_them_back) {
        struct engine e = engine_open(3, 4);
        struct sequence *a = sequence(&e, 1), *b;

        assert_se(sequence_pages(a) == 1 && model_kv_pages_free(e.model) == 2);
        assert_se(sequence_reserve(a, KV_PAGE_TOKENS) == 0 && sequence_pages(a) == 1);
        assert_se(sequence_reserve(a, KV_PAGE_TOKENS + 1) == 0 && sequence_pages(a) == 2);
        assert_se(sequence_new(&b, e.model) == 0);
        assert_se(sequence_reserve(b, KV_PAGE_TOKENS + 1) == ENGINE_E_PAGES);
        assert_se(sequence_pages(b) == 0 && model_kv_pages_free(e.model) == 1);
        sequence_truncate(a, 0);
        assert_se(sequence_pages(a) == 0 && model_kv_pages_free(e.model) == 3);
        assert_se(sequence_reserve(b, 3 * KV_PAGE_TOKENS) == 0 && model_kv_pages_free(e.model) == 0);
        assert_se(sequence_reserve(a, 1) == ENGINE_E_PAGES);
        sequence_free(b);
        assert_se(model_kv_pages_free(e.model) == 3);
        sequence_free(a);
        engine_close(&e);
}

TEST(room_is_counted_from_the_end_of_the_sequence) {
        struct engine e = engine_open(4, 32);
        struct sequence *s = sequence(&e, KV_PAGE_TOKENS);
        struct step_part part = { .sequence = s, .tokens = tokens, .allowances = allow(1), .count = 30 };

        assert_se(step_run(e.step, &part, 1) == 0);
        assert_se(sequence_reserve(s, 2) == 0 && sequence_pages(s) == 1);
        assert_se(sequence_reserve(s, 3) == 0 && sequence_pages(s) == 2);
        assert_se(sequence_reserve(s, 3 * KV_PAGE_TOKENS + 2) == 0 && sequence_pages(s) == 4);
        assert_se(sequence_reserve(s, 3 * KV_PAGE_TOKENS + 3) == ENGINE_E_CONTEXT);
        part.count = 31;
        assert_se(step_run(e.step, &part, 1) == 0 && sequence_length(s) == 61);
        /* Of what was reserved only whole pages beyond the text come back. */
        sequence_truncate(s, 61);
        assert_se(sequence_length(s) == 61 && sequence_pages(s) == 2);
        sequence_free(s);
        engine_close(&e);
}

TEST(the_context_shrinks_to_the_arena_and_is_not_passed) {
        struct engine e = engine_open(2, 4), wide = engine_open(100, 4);
        struct sequence *s = sequence(&e, 1);

        assert_se(model_info(wide.model)->context == TINY_CONTEXT);
        assert_se(model_info(e.model)->context == 2 * KV_PAGE_TOKENS);
        assert_se(sequence_reserve(s, 2 * KV_PAGE_TOKENS + 1) == ENGINE_E_CONTEXT);
        assert_se(sequence_reserve(s, UINT32_MAX) == ENGINE_E_CONTEXT);
        assert_se(sequence_pages(s) == 1);
        sequence_free(s);
        engine_close(&e);
        engine_close(&wide);
}

/* Every refusal leaves sequences and step as they were: the same step can begin right after. */
TEST(what_a_step_refuses_changes_nothing) {
        struct engine e = engine_open(8, 8);
        struct sequence *a = sequence(&e, 8), *b = sequence(&e, 8);
        static const int32_t high[] = { 1, TINY_VOCAB }, negative[] = { -1 };
        struct step_part good = { .sequence = a, .tokens = tokens, .allowances = allow(ALL), .count = 3 };
        struct step_part parts[2] = { good, good };

        parts[1].sequence = b;
        parts[1].tokens = high;
        parts[1].count = 2;
        assert_se(step_begin(e.step, parts, 2) == ENGINE_E_TOKEN);
        parts[1].tokens = negative;
        parts[1].count = 1;
        assert_se(step_begin(e.step, parts, 2) == ENGINE_E_TOKEN);
        parts[1].tokens = tokens;
        parts[1].count = 6;
        assert_se(step_begin(e.step, parts, 2) == ENGINE_E_ROWS);
        parts[1].count = UINT32_MAX;
        assert_se(step_begin(e.step, parts, 2) == ENGINE_E_CONTEXT);
        parts[1].count = KV_PAGE_TOKENS + 1;
        assert_se(step_begin(e.step, parts, 2) == ENGINE_E_PAGES);
        parts[1].count = 0;
        assert_se(step_begin(e.step, parts, 2) == -EINVAL);
        parts[1] = good;
        assert_se(step_begin(e.step, parts, 2) == -EINVAL);
        parts[1].allowances = NULL;
        assert_se(step_begin(e.step, parts, 2) == -EINVAL);
        assert_se(step_begin(e.step, parts, 0) == -EINVAL);
        assert_se(step_advance(e.step) == -EINVAL);
        assert_se(sequence_length(a) == 0 && sequence_length(b) == 0);

        assert_se(step_begin(e.step, parts, 1) == 0);
        assert_se(step_begin(e.step, parts, 1) == -EINVAL);
        for (unsigned l = 0; l < TINY_LAYERS; l++)
                assert_se(step_advance(e.step) == 1 && sequence_length(a) == 0);
        assert_se(step_advance(e.step) == 0);
        assert_se(sequence_length(a) == 3 && sequence_length(b) == 0 && !parts[0].logits_out);
        sequence_free(a);
        sequence_free(b);
        engine_close(&e);
}

TEST(a_step_freed_half_way_leaves_its_sequences) {
        struct engine e = engine_open(8, 8);
        struct sequence *a = sequence(&e, 8);
        struct step_part part = {
                .sequence = a, .tokens = tokens, .allowances = allow(ALL), .count = 3, .logits = 1,
        };

        assert_se(step_begin(e.step, &part, 1) == 0);
        assert_se(step_advance(e.step) == 1);
        step_free(e.step);
        assert_se(step_new(&e.step, e.model) == 0);
        assert_se(sequence_length(a) == 0);
        assert_se(step_run(e.step, &part, 1) == 0 && sequence_length(a) == 3);
        sequence_free(a);
        engine_close(&e);
}

/* What an observer saw of each row and MoE layer. */
struct seen {
        uint32_t layers, rows;
        int32_t counts[TINY_LAYERS][64], ids[TINY_LAYERS][64][TINY_EXPERTS_USED];
        uint64_t uses[TINY_LAYERS * TINY_EXPERTS];
};

static void see(const struct step_view *view, void *context) {
        struct seen *seen = context;

        assert_se(view->layer == seen->layers && view->k == TINY_EXPERTS_USED);
        seen->rows = view->rows;
        for (uint32_t i = 0; i < view->rows; i++) {
                int32_t count = view->expert_counts[i];

                seen->counts[seen->layers][i] = count;
                for (int32_t j = 0; j < TINY_EXPERTS_USED; j++) {
                        int32_t id = view->expert_ids[i * TINY_EXPERTS_USED + (uint32_t) j];
                        float weight = view->expert_weights[i * TINY_EXPERTS_USED + (uint32_t) j];

                        seen->ids[seen->layers][i][j] = id;
                        assert_se(j < count ? id >= 0 && id < TINY_EXPERTS && weight > 0.0f
                                            : id == -1 && weight == 0.0f);
                        if (j < count)
                                seen->uses[seen->layers * TINY_EXPERTS + (uint32_t) id]++;
                }
        }
        seen->layers++;
}

/* P1: no row evaluates more than its allowance says, in any layer, and the account is what was evaluated. */
TEST(a_step_that_is_given_up_leaves_its_sequences_and_the_steps_beside_it) {
        struct engine e = engine_open(3, 4);
        struct sequence *a = sequence(&e, 8), *b = sequence(&e, 8);
        struct step_part short_part = { .sequence = a, .tokens = tokens, .allowances = allow(ALL), .count = 4 };
        struct step_part long_part = { .sequence = b, .tokens = tokens, .allowances = allow(ALL), .count = 8 };
        struct step *larger;

        assert_se(step_new_beside(&larger, e.step, 8) == 0);
        step_give_up(larger);
        assert_se(step_begin(e.step, &long_part, 1) == ENGINE_E_ROWS);
        assert_se(step_begin(larger, &long_part, 1) == 0 && step_advance(larger) == 1);
        assert_se(step_begin(e.step, &long_part, 1) == -EINVAL); /* its sequence is in the other */
        assert_se(step_begin(e.step, &short_part, 1) == 0 && step_advance(e.step) == 1);
        step_give_up(larger);
        assert_se(sequence_length(b) == 0 && step_advance(larger) == -EINVAL);
        while (step_advance(e.step) > 0)
                continue;
        assert_se(sequence_length(a) == 4);
        assert_se(step_begin(larger, &long_part, 1) == 0);
        step_free(e.step); /* in any order */
        e.step = larger;
        while (step_advance(larger) > 0)
                continue;
        assert_se(sequence_length(b) == 8);
        sequence_free(a);
        sequence_free(b);
        engine_close(&e);
}

TEST(each_row_uses_what_its_allowance_gives_and_no_more) {
        struct engine e = engine_open(8, 32);
        struct sequence *a = sequence(&e, 16), *b = sequence(&e, 16);
        static const uint32_t of_a[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1000, UINT32_MAX }, of_b[] = { 5, 0 };
        struct step_part parts[2] = {
                {
                        .sequence = a, .tokens = tokens, .allowances = of_a, .count = ELEMENTS(of_a),
                        .logits = 1,
                },
                {
                        .sequence = b, .tokens = tokens, .allowances = of_b, .count = ELEMENTS(of_b),
                        .logits = 1,
                },
        };
        struct seen seen = { 0 };
        struct step_observer observer = { .layer = see, .context = &seen };
        uint64_t used = 0;

        assert_se(step_observe(e.step, &observer) == 0);
        assert_se(step_run(e.step, parts, 2) == 0);
        assert_se(seen.layers == TINY_LAYERS && seen.rows == ELEMENTS(of_a) + ELEMENTS(of_b));
        for (uint32_t i = 0; i < seen.rows; i++) {
                uint32_t allowance = i < ELEMENTS(of_a) ? of_a[i] : of_b[i - ELEMENTS(of_a)], sum = 0;

                for (uint32_t l = 0; l < TINY_LAYERS; l++) {
                        assert_se(seen.counts[l][i] ==
                                  (int32_t) allowance_cap(allowance, l, TINY_LAYERS, TINY_EXPERTS_USED));
                        sum += (uint32_t) seen.counts[l][i];
                }
                assert_se(sum == MIN(allowance, (uint32_t) ALL));
                used += sum;
        }
        assert_se(parts[0].used + parts[1].used == used);
        assert_se(parts[0].used == 45 + 3 * ALL && parts[1].used == 5);
        for (uint32_t i = 0; i < ELEMENTS(of_a); i++)
                assert_se(parts[0].used_rows[i] == MIN(of_a[i], (uint32_t) ALL));
        assert_se(parts[1].used_rows[0] == 5 && parts[1].used_rows[1] == 0);
        for (unsigned i = 0; i < 2; i++)
                for (unsigned j = 0; j < TINY_VOCAB; j++)
                        assert_se(isfinite(parts[i].logits_out[j]));
        sequence_free(a);
        sequence_free(b);
        engine_close(&e);
}

static void check_uses(const struct engine *e, const struct seen *seen, uint64_t times) {
        for (uint32_t l = 0; l < TINY_LAYERS; l++)
                for (uint32_t i = 0; i < TINY_EXPERTS; i++)
                        assert_se(model_expert_uses(e->model, l)[i] == times * seen->uses[l * TINY_EXPERTS + i]);
}

TEST(what_experts_are_used_is_counted_by_layer_and_kept_while_the_model_sleeps) {
        struct engine e = engine_open(8, 32);
        struct sequence *s = sequence(&e, 32);
        struct step_part part = { .sequence = s, .tokens = tokens, .allowances = allow(5), .count = 7 };
        struct seen seen = { 0 }, last = { 0 };
        struct step_observer observer = { .layer = see, .context = &seen };
        uint64_t distinct = 0;

        assert_se(step_observe(e.step, &observer) == 0);
        assert_se(step_run(e.step, &part, 1) == 0);
        for (uint32_t i = 0; i < ELEMENTS(seen.uses); i++)
                distinct += seen.uses[i] > 0;
        assert_se(step_experts_read(e.step) == distinct && distinct > ALL && distinct < 7 * 5);
        check_uses(&e, &seen, 1);
        sequence_truncate(s, 0);
        assert_se(sequence_reserve(s, 32) == 0 && step_observe(e.step, NULL) == 0);
        assert_se(step_run(e.step, &part, 1) == 0);
        check_uses(&e, &seen, 2);

        /* One row shares with nobody: the experts read are those it used. */
        part.count = 1;
        observer.context = &last;
        assert_se(step_observe(e.step, &observer) == 0);
        assert_se(step_run(e.step, &part, 1) == 0 && step_experts_read(e.step) == 5 && part.used == 5);
        for (uint32_t i = 0; i < ELEMENTS(seen.uses); i++)
                seen.uses[i] = 2 * seen.uses[i] + last.uses[i];
        step_free(e.step);
        e.step = NULL;
        sequence_free(s);
        model_sleep(e.model);
        assert_se(model_wake(e.model) == 0);
        check_uses(&e, &seen, 1);
        engine_close(&e);
}

static const struct step_budget *budget(uint32_t milli) {
        static struct step_budget budgets[64];

        for (unsigned i = 0; i < 64; i++)
                budgets[i] = (struct step_budget) { .cap_milli = milli, .min_milli = 1000 };
        return budgets;
}

/* P1: whatever the router wants, the rows so far never use more than their caps, in any layer. */
TEST(a_budget_is_spent_unevenly_and_never_passed) {
        struct engine e = engine_open(8, 64);
        struct seen seen;
        struct step_observer observer = { .layer = see, .context = &seen };

        assert_se(step_observe(e.step, &observer) == 0);
        for (uint32_t milli = 0; milli <= 3500; milli += 250) {
                struct sequence *s = sequence(&e, 64);
                struct step_part part = {
                        .sequence = s, .tokens = tokens, .allowances = allow(0), .budgets = budget(milli),
                        .count = 64,
                };
                uint64_t sums[TINY_LAYERS] = { 0 }, used = 0;
                bool uneven = false;

                seen = (struct seen) { 0 };
                assert_se(step_run(e.step, &part, 1) == 0);
                for (uint32_t l = 0; l < TINY_LAYERS; l++)
                        for (uint32_t i = 0; i < 64; i++) {
                                sums[l] += (uint64_t) seen.counts[l][i];
                                used += (uint64_t) seen.counts[l][i];
                                assert_se(1000 * sums[l] <= (uint64_t) MIN(milli, 3000u) * (i + 1));
                                assert_se(seen.counts[l][i] >= (milli >= 1000));
                                uneven |= seen.counts[l][i] != (int32_t) milli / 1000;
                        }
                assert_se(part.used == used && (milli < 3000 || used == 64 * ALL));
                assert_se(uneven || milli != 2000);
                sequence_free(s);
        }
        engine_close(&e);
}

/* Whether an expert of some window has all that it may serve. */
static bool check_capacity(const struct seen *seen, uint32_t window, uint32_t most) {
        bool full = false;

        for (uint32_t l = 0; l < TINY_LAYERS; l++)
                for (uint32_t from = 0; from < 64; from += window) {
                        uint32_t uses[TINY_EXPERTS] = { 0 };

                        for (uint32_t i = from; i < MIN(from + window, 64u); i++)
                                for (int32_t j = 0; j < seen->counts[l][i]; j++)
                                        full |= ++uses[seen->ids[l][i][j]] == most;
                        for (uint32_t x = 0; x < TINY_EXPERTS; x++)
                                assert_se(uses[x] <= most);
                }
        return full;
}

TEST(no_expert_serves_more_of_a_window_than_its_capacity) {
        const struct tiny tiny = { .capacity_factor = 1.2f, .capacity_window = 20 }; /* 12 of 20 */
        struct engine e = engine_open_of(&tiny, 8, 64);
        struct seen seen;
        struct step_observer observer = { .layer = see, .context = &seen };

        assert_se(model_info(e.model)->has_capacity && step_observe(e.step, &observer) == 0);
        for (uint32_t milli = 1500; milli <= 4500; milli += 1500) {
                struct sequence *s = sequence(&e, 64);
                struct step_part part = {
                        .sequence = s, .tokens = tokens, .allowances = allow(ALL),
                        .budgets = milli > 3000 ? NULL : budget(milli), .count = 64,
                };

                seen = (struct seen) { 0 };
                assert_se(step_run(e.step, &part, 1) == 0);
                assert_se(check_capacity(&seen, 20, 12));
                assert_se(1000 * part.used <= (uint64_t) MIN(milli, 3000u) * TINY_LAYERS * 64);
                sequence_free(s);
        }
        engine_close(&e);
}

TEST(where_experts_have_a_capacity_nobody_rides) {
        struct engine e = engine_open_of(&(struct tiny) { .capacity_factor = 1.0f, .capacity_window = 20 }, 8, 8);
        struct sequence *s = sequence(&e, 8);
        struct step_part part = {
                .sequence = s, .tokens = tokens, .allowances = allow(ALL), .budgets = budget(2000), .ride_experts = 1,
                .group = 1, .count = 8,
        };

        assert_se(step_begin(e.step, &part, 1) == -EINVAL);
        part.ride_experts = 0;
        assert_se(step_run(e.step, &part, 1) == 0);
        sequence_free(s);
        engine_close(&e);
}

/* The first rides with two experts on the second, which has all three. */
TEST(rows_ride_on_experts_of_their_group_and_on_no_others) {
        struct engine e = engine_open(8, 64);
        struct seen seen = { 0 };
        struct step_observer observer = { .layer = see, .context = &seen };
        struct sequence *a = sequence(&e, 40), *b = sequence(&e, 40);
        struct step_part parts[2] = {
                { .sequence = a, .tokens = tokens, .allowances = allow(0), .budgets = budget(3000), .ride_experts = 1,
                  .count = 20 },
                { .sequence = b, .tokens = tokens + 7, .allowances = allow(ALL), .count = 20 },
        };
        uint64_t used[3];

        assert_se(step_observe(e.step, &observer) == 0);
        for (uint32_t i = 0; i < 3; i++) {
                seen = (struct seen) { 0 };
                parts[0].group = i > 0;
                parts[1].group = i > 1;
                assert_se(step_run(e.step, parts, 2) == 0 && parts[1].used == 20 * ALL);
                used[i] = parts[0].used;
                for (uint32_t l = 0; l < TINY_LAYERS; l++)
                        for (uint32_t r = 0; r < 20; r++)
                                assert_se(i > 0 || seen.counts[l][r] == 1);
                sequence_truncate(a, 0);
                sequence_truncate(b, 0);
                assert_se(sequence_reserve(a, 20) == 0 && sequence_reserve(b, 20) == 0);
        }
        /* No group is none to ride on; rows of the same sequence are; those of another add to them. */
        assert_se(used[0] == 20 * TINY_LAYERS && used[1] > used[0] && used[2] > used[1]);
        parts[0].group = 3;
        assert_se(step_begin(e.step, parts, 2) == -EINVAL);
        sequence_free(a);
        sequence_free(b);
        engine_close(&e);
}

static void copy_logits(float *dst, const struct step_part *part) {
        memcpy(dst, part->logits_out, TINY_VOCAB * sizeof(*dst));
}

TEST(another_allowance_gives_another_answer_and_the_same_the_same) {
        struct engine e = engine_open(8, 8);
        float logits[3][TINY_VOCAB];

        for (unsigned i = 0; i < 3; i++) {
                struct sequence *s = sequence(&e, 8);
                struct step_part part = {
                        .sequence = s,
                        .tokens = tokens,
                        .allowances = allow(i == 1 ? 3 : ALL),
                        .count = 5,
                        .logits = 1,
                };

                assert_se(step_run(e.step, &part, 1) == 0);
                copy_logits(logits[i], &part);
                sequence_free(s);
        }
        assert_se(memcmp(logits[0], logits[1], sizeof(logits[0])) != 0);
        assert_se(memcmp(logits[0], logits[2], sizeof(logits[0])) == 0);
        engine_close(&e);
}

/* Of two parts, the last four rows of one and none but the last of the other; then all rows in one go. */
TEST(logits_of_several_rows_are_those_that_each_has_alone) {
        struct engine e = engine_open(8, 32);
        struct sequence *a = sequence(&e, 16), *b = sequence(&e, 16);
        struct step_part parts[2] = {
                { .sequence = a, .tokens = tokens, .allowances = allow(ALL), .count = 7, .logits = 4 },
                { .sequence = b, .tokens = tokens + 3, .allowances = allow(ALL), .count = 2, .logits = 1 },
        };
        float together[4][TINY_VOCAB], other[TINY_VOCAB];

        assert_se(step_run(e.step, parts, 2) == 0);
        memcpy(together, parts[0].logits_out, sizeof(together));
        copy_logits(other, &parts[1]);
        sequence_truncate(a, 0);
        sequence_truncate(b, 0);
        assert_se(sequence_reserve(a, 7) == 0 && sequence_reserve(b, 2) == 0);
        for (uint32_t i = 0; i < 7; i++) {
                struct step_part part = {
                        .sequence = a, .tokens = tokens + i, .allowances = allow(ALL), .count = 1, .logits = 1,
                };

                assert_se(step_run(e.step, &part, 1) == 0);
                assert_se(i < 3 || memcmp(together[i - 3], part.logits_out, sizeof(together[0])) == 0);
        }
        parts[1].logits = 2;
        assert_se(step_run(e.step, &parts[1], 1) == 0);
        assert_se(memcmp(other, parts[1].logits_out + TINY_VOCAB, sizeof(other)) == 0);
        parts[0].count = 1;
        parts[0].logits = 2;
        assert_se(sequence_reserve(a, 1) == 0 && step_begin(e.step, parts, 1) == -EINVAL);
        sequence_free(a);
        sequence_free(b);
        engine_close(&e);
}

static void check_truncated(const struct tiny *tiny) {
        struct engine e = engine_open_of(tiny, 8, 64);
        struct sequence *a = sequence(&e, 64), *b = sequence(&e, 64);
        struct step_part part = {
                .sequence = a, .tokens = tokens, .allowances = allow(0), .budgets = budget(1500),
                .count = 40,
        };
        float logits[2][TINY_VOCAB];

        assert_se(step_run(e.step, &part, 1) == 0);
        sequence_truncate(a, 5);
        assert_se(sequence_length(a) == 5 && sequence_pages(a) == 1);
        part = (struct step_part) {
                .sequence = a, .tokens = tokens + 5, .allowances = allow(0), .budgets = budget(1500),
                .count = 3, .logits = 1,
        };
        assert_se(step_run(e.step, &part, 1) == 0);
        copy_logits(logits[0], &part);
        part = (struct step_part) {
                .sequence = b, .tokens = tokens, .allowances = allow(0), .budgets = budget(1500),
                .count = 8, .logits = 1,
        };
        assert_se(step_run(e.step, &part, 1) == 0);
        copy_logits(logits[1], &part);
        assert_se(memcmp(logits[0], logits[1], sizeof(logits[0])) == 0);
        sequence_free(a);
        sequence_free(b);
        engine_close(&e);
}

TEST(a_truncated_sequence_goes_on_as_if_the_rest_had_not_been) {
        check_truncated(&(struct tiny) { 0 });
        check_truncated(&(struct tiny) { .capacity_factor = 0.2f, .capacity_window = 24 });
}

/* A backend whose device is lost at the nth operation. */
static unsigned fuse;
static struct backend_ops failing;
static int (*true_moe)(struct stream *s, const struct op_moe *op);

static int failing_moe(struct stream *s, const struct op_moe *op) {
        return fuse-- == 0 ? -EIO : true_moe(s, op);
}

TEST(a_lost_device_leaves_the_sequences_as_they_were) {
        struct engine e = engine_open(8, 8);
        const struct backend_ops *ops = e.backend->ops;
        struct sequence *a = sequence(&e, 8);
        struct step_part part = {
                .sequence = a, .tokens = tokens, .allowances = allow(ALL), .count = 3, .logits = 1,
        };

        failing = *ops;
        true_moe = ops->moe;
        failing.moe = failing_moe;
        e.backend->ops = &failing;
        fuse = 1;
        assert_se(step_run(e.step, &part, 1) == -EIO);
        assert_se(sequence_length(a) == 0 && sequence_pages(a) == 1);
        for (uint32_t i = 0; i < TINY_EXPERTS; i++)
                assert_se(model_expert_uses(e.model, 0)[i] == 0);
        e.backend->ops = ops;
        assert_se(step_run(e.step, &part, 1) == 0 && sequence_length(a) == 3);
        sequence_free(a);
        engine_close(&e);
}

TEST(a_file_that_is_cut_short_ends_the_step) {
        struct engine e = engine_open(8, 8);
        struct sequence *s = sequence(&e, 8);
        struct step_part part = { .sequence = s, .tokens = tokens, .count = 4, .logits = 1, .allowances = allow(ALL) };
        const char *path = model_info(e.model)->file;

        assert_se(mapped_survive() == 0);
        assert_se(model_file_intact(model_file(e.model)));
        assert_se(step_begin(e.step, &part, 1) == 0 && step_advance(e.step) == 1);
        assert_se(truncate(path, 4096) == 0 && !model_file_lost(model_file(e.model)));
        for (int i = 1; i < TINY_LAYERS; i++)
                assert_se(step_advance(e.step) == 1);
        assert_se(step_advance(e.step) == -ESTALE && sequence_length(s) == 0);
        assert_se(model_file_lost(model_file(e.model)) && !model_file_intact(model_file(e.model)));
        assert_se(model_file_changed(model_file(e.model), path));
        assert_se(step_begin(e.step, &part, 1) == -ESTALE);
        sequence_free(s);
        engine_close(&e);
}
