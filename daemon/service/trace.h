/* SPDX-License-Identifier: MIT */
#pragma once

/* What is noted of a request beside its tokens, so that `moectl explain` can tell why it got what it got. */

#include <stddef.h>
#include <stdint.h>

#include "policy.h"
#include "scheduler.h"

enum { TRACE_REASONS = CAP_LATENCY + 1 };

/* The rules behind each cap_rule, in words, for the rows from `row` on. */
struct trace_rules {
        uint32_t row;
        char *texts[TRACE_REASONS]; /* NULL: no rule of a policy */
};

struct trace {
        uint64_t number;          /* the daemon's, from 1; what people call the request by */
        uint64_t begun, started, first, ended; /* nsec: submitted, first had KV pages, sent something, over; 0: not
                                                * yet */
        uint64_t passes, rows;    /* forward passes that it was in, its rows in them */
        uint64_t batch_rows;      /* and everybody's */
        uint32_t recomputed, evictions; /* rows computed once more, after its pages were taken so many times */
        struct trace_rules *rules;
        size_t n_rules;
};
#define TRACE_NULL { .rules = NULL }

/* Puts the rules of a policy into words. -ENOMEM: *ret is empty. */
int trace_rules_init(struct trace_rules *ret, const struct policy_match *match);
void trace_rules_deinit(struct trace_rules *rules);

void trace_init(struct trace *trace, uint64_t number);
void trace_deinit(struct trace *trace);
/* *ret is TRACE_NULL on failure. -ENOMEM. */
int trace_copy(struct trace *ret, const struct trace *from);
/* From `row` on these hold. -ENOMEM: what was noted before is all there is. */
int trace_rules(struct trace *trace, uint32_t row, const struct trace_rules *rules);
/* The rule of a stretch of rows that begins at `row`, or NULL: then the model or the request itself set its cap. */
const char *trace_find(const struct trace *trace, uint32_t row, enum cap_rule rule);
/* "model", "request", or the policy's key. */
const char *trace_rule_name(enum cap_rule rule);
