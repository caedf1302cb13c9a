/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "trace.h"

/* _POLICY_KEY_N: none. */
static const enum policy_key rule_keys[TRACE_REASONS] = {
        [CAP_MODEL] = _POLICY_KEY_N,
        [CAP_REQUEST] = _POLICY_KEY_N,
        [CAP_EXPERTS_MAX] = POLICY_KEY_EXPERTS_MAX,
        [CAP_BUCKET] = POLICY_KEY_ACTIVATION_RATE,
        [CAP_LATENCY] = POLICY_KEY_LATENCY_TARGET,
};

void trace_init(struct trace *trace, uint64_t number) {
        *trace = (struct trace) { .number = number, .begun = now_nsec() };
}

void trace_rules_deinit(struct trace_rules *rules) {
        for (size_t i = 0; i < TRACE_REASONS; i++)
                free(rules->texts[i]);
        *rules = (struct trace_rules) {};
}

void trace_deinit(struct trace *trace) {
        for (size_t i = 0; i < trace->n_rules; i++)
                trace_rules_deinit(&trace->rules[i]);
        free(trace->rules);
        *trace = (struct trace) TRACE_NULL;
}

static int rules_copy(struct trace_rules *ret, uint32_t row, const struct trace_rules *from) {
        *ret = (struct trace_rules) { .row = row };
        for (size_t i = 0; i < TRACE_REASONS; i++) {
                ret->texts[i] = from->texts[i] ? strdup(from->texts[i]) : NULL;
                if (from->texts[i] && !ret->texts[i]) {
                        trace_rules_deinit(ret);
                        return -ENOMEM;
                }
        }
        return 0;
}

int trace_copy(struct trace *ret, const struct trace *from) {
        struct trace_rules *rules = calloc(from->n_rules + 1, sizeof(*rules));

        *ret = (struct trace) TRACE_NULL;
        if (!rules)
                return -ENOMEM;
        *ret = *from;
        ret->rules = rules;
        for (ret->n_rules = 0; ret->n_rules < from->n_rules; ret->n_rules++)
                if (rules_copy(&rules[ret->n_rules], from->rules[ret->n_rules].row, &from->rules[ret->n_rules]) < 0) {
                        trace_deinit(ret);
                        return -ENOMEM;
                }
        return 0;
}

int trace_rules_init(struct trace_rules *ret, const struct policy_match *match) {
        struct trace_rules words = { .row = 0 };
        struct reason reasons[TRACE_REASONS];

        for (size_t i = 0; i < TRACE_REASONS; i++)
                if (rule_keys[i] != _POLICY_KEY_N) {
                        policy_match_explain(match, rule_keys[i], &reasons[i]);
                        words.texts[i] = reasons[i].text;
                }
        return rules_copy(ret, 0, &words);
}

static bool rules_equal(const struct trace_rules *a, const struct trace_rules *b) {
        for (size_t i = 0; i < TRACE_REASONS; i++)
                if (a->texts[i] && strcmp(a->texts[i], b->texts[i]) != 0)
                        return false;
        return true;
}

int trace_rules(struct trace *trace, uint32_t row, const struct trace_rules *rules) {
        struct trace_rules *grown;

        if (trace->n_rules > 0 && rules_equal(&trace->rules[trace->n_rules - 1], rules))
                return 0;
        grown = realloc(trace->rules, (trace->n_rules + 1) * sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        trace->rules = grown;
        if (rules_copy(&trace->rules[trace->n_rules], row, rules) < 0)
                return -ENOMEM;
        trace->n_rules++;
        return 0;
}

const char *trace_find(const struct trace *trace, uint32_t row, enum cap_rule rule) {
        for (size_t i = trace->n_rules; i > 0; i--)
                if (trace->rules[i - 1].row <= row)
                        return trace->rules[i - 1].texts[rule];
        return NULL;
}

const char *trace_rule_name(enum cap_rule rule) {
        return rule == CAP_MODEL ? "model" : rule == CAP_REQUEST ? "request" : policy_key_name(rule_keys[rule]);
}
