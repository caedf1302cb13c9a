/* SPDX-License-Identifier: MIT */
#pragma once

/* Who gets which rows of the next iteration, and how many experts each row may use. Pure: no system call, no clock, no
 * knowledge of sockets or tensors, so a test plays an hour of load in seconds. One thread.
 *
 * Fairness is by virtual token counters (arXiv 2401.00588): each principal has a counter of the service it got,
 * divided by its weight; rows go to the backlogged principal with the lowest counter. A principal that comes back from
 * idleness is lifted to the lowest counter of those that are backlogged, so that idleness is not saved up. All that has
 * work gets rows while there is room (work-conserving). */

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

/* The unit of an expert cap: thousandths of an expert per token and MoE layer. */
#define EXPERTS_MILLI(n) ((n) * 1000)

struct policy {
        uint32_t experts_max_milli; /* mean routed experts per token and layer; 0: no limit but the model's */
        uint32_t weight;            /* 1 to 10000; default 100 */
};

#define POLICY_DEFAULT { .experts_max_milli = 0, .weight = 100 }

struct scheduler {
        struct list principals; /* with at least one stream */
        uint64_t clock;         /* counter of the latest principal served, for lifting */
};

/* An accounting identity: a unit, a uid, a gid or the default. Embedded in the service's own object. */
struct principal {
        struct policy policy;
        uint64_t counter;     /* service received, in rows × PRINCIPAL_SCALE / weight */
        uint64_t activations; /* routed experts evaluated, ever */
        uint64_t rows_prompt, rows_generated;
        struct list streams;  /* with work */
        struct list link;     /* in scheduler.principals while it has streams with work */
};

/* One running generation, embedded in the service's own object. Its rows are used in order: `pending` prompt rows, then
 * one row per generated token. */
struct sched_stream {
        struct principal *principal;
        uint32_t pending;          /* rows that could run now: prompt left, or 1 for a decode step; 0: not runnable */
        bool decoding;
        uint32_t cap_milli;        /* effective: the lowest of policy, request and model */
        uint32_t moe_layers, experts_used; /* of its model */
        uint64_t rows_done;        /* rows accounted so far: the budget's running position */
        struct list link;          /* in principal->streams while runnable */
};

struct sched_limits {
        uint32_t rows_max;   /* rows of one iteration */
        uint32_t prompt_max; /* of them, at most so many of prompts while anyone decodes */
};

/* One stream's share of the iteration. */
struct sched_pick {
        struct sched_stream *stream;
        uint32_t rows;
};

void scheduler_init(struct scheduler *scheduler);
void principal_init(struct principal *principal, const struct policy *policy);

/* Makes the stream known with `pending` rows of work, or changes how much work it has (0 takes it out). */
void sched_stream_set_pending(struct scheduler *scheduler, struct sched_stream *stream, uint32_t pending, bool decoding);

/* Forms the next iteration: decode rows first, then prompt chunks, both in the order of the counters. Writes at most
 * `max` picks, returns how many. Streams picked stay known; their principals are charged at once. */
uint32_t scheduler_pick(struct scheduler *scheduler, const struct sched_limits *limits, struct sched_pick *picks,
                        uint32_t max);

/* The effective cap: lowest of the policy's, the request's (0: none) and the model's experts_used. */
uint32_t sched_cap_milli(const struct policy *policy, uint32_t request_milli, uint32_t experts_used);

/* Allowance of the stream's row number `row` (from 0): floor((row+1)·c·L) - floor(row·c·L), with c the cap in experts and
 * L the MoE layers, so that the sum over the first n rows never passes c·L·n (promise P1), and fractions even out. */
uint32_t sched_allowance(uint32_t cap_milli, uint32_t moe_layers, uint64_t row);

/* Books what an iteration used: `rows` of the stream's rows, `used` activations. */
void sched_settle(struct sched_stream *stream, uint32_t rows, bool prompt, uint64_t used);
