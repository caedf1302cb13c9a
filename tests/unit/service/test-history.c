/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "history.h"
#include "test.h"

static struct policy_match match_of(struct policy_book *book, uint32_t uid) {
        struct policy_identity identity = { .uid = uid };
        struct policy_match match;

        policy_book_lookup(book, &identity, &match);
        return match;
}

static struct trace_rules rules_of(struct policy_book *book) {
        struct policy_match match = match_of(book, 1000);
        struct trace_rules rules;

        assert_se(trace_rules_init(&rules, &match) == 0);
        return rules;
}

static void set_experts(struct policy_book *book, uint32_t experts_milli) {
        struct policy_principal alice = { .kind = POLICY_KIND_UID, .id = 1000 };
        struct policy policy = { .experts_max_milli = experts_milli };

        assert_se(policy_book_set(book, &alice, "uid:alice", 1u << POLICY_KEY_EXPERTS_MAX, &policy, false, NULL) == 0);
}

static void note(struct trace *trace, uint32_t row, struct policy_book *book) {
        struct trace_rules rules = rules_of(book);

        assert_se(trace_rules(trace, row, &rules) == 0);
        trace_rules_deinit(&rules);
}

TEST(the_rule_that_held_when_a_stretch_began_is_told_after_it_has_changed) {
        struct policy_book book = POLICY_BOOK_NULL;
        struct trace trace, copy;

        trace_init(&trace, 7);
        assert_se(trace.number == 7 && trace.begun > 0 && !trace_find(&trace, 0, CAP_EXPERTS_MAX));
        note(&trace, 0, &book);
        set_experts(&book, 2500);
        note(&trace, 10, &book);
        note(&trace, 12, &book); /* nothing new */
        set_experts(&book, 1000);
        note(&trace, 20, &book);
        assert_se(trace.n_rules == 3);
        assert_se(trace_copy(&copy, &trace) == 0);
        trace_deinit(&trace);

        assert_se(strcmp(trace_find(&copy, 0, CAP_EXPERTS_MAX), "ExpertsMax=infinity, the default") == 0);
        assert_se(strcmp(trace_find(&copy, 9, CAP_BUCKET), "ActivationRate=infinity, the default") == 0);
        for (uint32_t row = 10; row < 20; row += 9)
                assert_se(strcmp(trace_find(&copy, row, CAP_EXPERTS_MAX),
                                 "ExpertsMax=2.500 of uid:alice (moectl budget set)") == 0);
        assert_se(strcmp(trace_find(&copy, 20, CAP_EXPERTS_MAX), "ExpertsMax=1 of uid:alice (moectl budget set)") == 0);
        assert_se(strcmp(trace_find(&copy, 4000, CAP_LATENCY), "LatencyTarget=infinity, the default") == 0);
        assert_se(!trace_find(&copy, 10, CAP_MODEL) && !trace_find(&copy, 10, CAP_REQUEST));
        trace_deinit(&copy);
        policy_book_deinit(&book);
}

TEST(rules_are_called_by_the_key_that_people_set) {
        assert_se(strcmp(trace_rule_name(CAP_MODEL), "model") == 0 &&
                  strcmp(trace_rule_name(CAP_REQUEST), "request") == 0);
        assert_se(strcmp(trace_rule_name(CAP_EXPERTS_MAX), "ExpertsMax") == 0);
        assert_se(strcmp(trace_rule_name(CAP_BUCKET), "ActivationRate") == 0);
        assert_se(strcmp(trace_rule_name(CAP_LATENCY), "LatencyTarget") == 0);
}

static void add(struct history *history, uid_t uid, uint64_t number) {
        struct record *record = calloc(1, sizeof(*record));

        assert_se(record);
        record->uid = uid;
        record->trace.number = number;
        history_add(history, record);
}

static struct history *make(void) {
        struct history *history = malloc(sizeof(*history));

        assert_se(history);
        history_init(history);
        return history;
}

static void dispose(struct history *history) {
        history_deinit(history);
        free(history);
}

/* How many of a user's are kept; they are those from number `first` on, the newest first. */
static uint32_t kept(const struct history *history, uid_t uid, uint64_t first) {
        const struct record *record;
        uint64_t before = UINT64_MAX;
        uint32_t n = 0;

        list_for_each(record, &history->records, link)
                if (record->uid == uid) {
                        assert_se(record->trace.number < before && record->trace.number >= first);
                        before = record->trace.number;
                        n++;
                }
        return n;
}

TEST(the_history_keeps_the_latest_and_only_those) {
        struct history *history = make();

        for (uint32_t i = 1; i <= HISTORY_MAX + 3; i++)
                add(history, 5, i);
        assert_se(kept(history, 5, 4) == HISTORY_MAX && history->n == HISTORY_MAX);
        dispose(history);
}

TEST(many_requests_of_one_user_push_out_none_of_another_s_few) {
        struct history *history = make();
        uint64_t number = 0;

        for (int i = 0; i < 10; i++)
                add(history, 5, ++number);
        for (int i = 0; i < 5 * HISTORY_MAX; i++)
                add(history, 6, ++number);
        assert_se(kept(history, 5, 1) == 10 && kept(history, 6, number - HISTORY_MAX + 11) == HISTORY_MAX - 10);
        dispose(history);
}

TEST(users_with_many_requests_share_the_history_evenly) {
        struct history *history = make();
        uint64_t number = 0;

        for (int i = 0; i < HISTORY_MAX; i++)
                add(history, 0, ++number);
        for (int i = 0; i < 3 * HISTORY_MAX; i++)
                add(history, i % 3 + 1, ++number);
        for (uid_t uid = 0; uid < 4; uid++)
                assert_se(kept(history, uid, 1) == HISTORY_MAX / 4);
        dispose(history);
}

TEST(with_more_users_than_places_the_oldest_is_forgotten) {
        struct history *history = make();

        for (uint32_t i = 0; i < 3 * HISTORY_MAX; i++)
                add(history, i, i);
        assert_se(history->n == HISTORY_MAX);
        for (uint32_t i = 0; i < 3 * HISTORY_MAX; i++)
                assert_se(kept(history, i, i) == (i >= 2 * HISTORY_MAX));
        dispose(history);
}
