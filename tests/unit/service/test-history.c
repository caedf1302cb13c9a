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
        assert_se(strcmp(trace_find(&copy, 10, CAP_EXPERTS_MAX), "ExpertsMax=2.500 of uid:alice (moectl budget set)") == 0);
        assert_se(strcmp(trace_find(&copy, 19, CAP_EXPERTS_MAX), "ExpertsMax=2.500 of uid:alice (moectl budget set)") == 0);
        assert_se(strcmp(trace_find(&copy, 20, CAP_EXPERTS_MAX), "ExpertsMax=1 of uid:alice (moectl budget set)") == 0);
        assert_se(strcmp(trace_find(&copy, 4000, CAP_LATENCY), "LatencyTarget=infinity, the default") == 0);
        assert_se(!trace_find(&copy, 10, CAP_MODEL) && !trace_find(&copy, 10, CAP_REQUEST));
        trace_deinit(&copy);
        policy_book_deinit(&book);
}

TEST(rules_are_called_by_the_key_that_people_set) {
        assert_se(strcmp(trace_rule_name(CAP_MODEL), "model") == 0 && strcmp(trace_rule_name(CAP_REQUEST), "request") == 0);
        assert_se(strcmp(trace_rule_name(CAP_EXPERTS_MAX), "ExpertsMax") == 0);
        assert_se(strcmp(trace_rule_name(CAP_BUCKET), "ActivationRate") == 0);
        assert_se(strcmp(trace_rule_name(CAP_LATENCY), "LatencyTarget") == 0);
}

TEST(the_history_keeps_the_latest_and_only_those) {
        struct history *history = calloc(1, sizeof(*history));

        assert_se(history && !history_at(history, 0));
        for (uint32_t i = 1; i <= HISTORY_MAX + 3; i++) {
                struct record *record = calloc(1, sizeof(*record));

                assert_se(record);
                record->trace.number = i;
                history_add(history, record);
                assert_se(history_at(history, 0)->trace.number == i);
        }
        assert_se(history_at(history, 1)->trace.number == HISTORY_MAX + 2);
        assert_se(history_at(history, HISTORY_MAX - 1)->trace.number == 4);
        assert_se(!history_at(history, HISTORY_MAX));
        history_deinit(history);
        free(history);
}
