/* SPDX-License-Identifier: MIT */
#pragma once

/* Who gets which rows of the next iteration, and how many experts each row may use. Pure: no system call, no clock, no
 * knowledge of sockets or tensors, so a test plays an hour of load in seconds. One thread.
 *
 * Fairness is by virtual token counters (arXiv 2401.00588): each principal has a counter of the service it got,
 * divided by its weight; a row goes to the backlogged principal with the lowest counter. Prompt and decode rows count
 * alike. A principal that comes back from idleness, or had all it asked for in an iteration, is lifted to the counter
 * of the latest principal served, so that what was not asked for is not saved up. All that has work gets rows while
 * there is room (work-conserving). */

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

/* The unit of an expert cap: thousandths of an expert per token and MoE layer. */
#define EXPERTS_MILLI(n) ((n) * 1000)

enum { POLICY_WEIGHT_DEFAULT = 100 };

enum policy_class { POLICY_CLASS_INTERACTIVE, POLICY_CLASS_BATCH, POLICY_CLASS_IDLE };
enum policy_on_empty { POLICY_ON_EMPTY_DEGRADE, POLICY_ON_EMPTY_WAIT };

struct policy {
        uint32_t experts_max_milli;  /* mean routed experts per token and layer; 0: no limit but the model's */
        uint32_t experts_min_milli;  /* floor while the allowance shrinks */
        uint32_t weight;             /* 1 to 10000 */
        uint64_t activation_rate;    /* activations per second; 0: no bucket */
        uint64_t activation_burst;   /* activations that the bucket holds; 0: one second's */
        enum policy_on_empty on_empty;
        uint64_t latency_target_nsec;/* between tokens; 0: none */
        enum policy_class class;
        uint64_t kv_max;             /* bytes of KV pages; 0: no limit */
        uint32_t queue_max;          /* waiting requests; 0: no limit but the user's */
        uint64_t session_max;        /* bytes of sessions on disk; 0: no limit */
        bool adaptive;               /* spend the allowance where the router says it counts */
};

#define POLICY_DEFAULT { .experts_min_milli = EXPERTS_MILLI(1), .weight = POLICY_WEIGHT_DEFAULT, .adaptive = true }

/* What made a cap what it is. */
enum cap_rule { CAP_MODEL, CAP_REQUEST, CAP_EXPERTS_MAX, CAP_BUCKET, CAP_LATENCY };

struct scheduler {
        struct list principals; /* with at least one runnable stream */
        uint64_t clock;         /* highest counter at which anyone was served, for lifting */
        uint32_t n_decodes;     /* runnable streams that decode */
};

/* An accounting identity: a unit, a uid, a gid or the default. Embedded in the service's own object. Not to be freed
 * while it has runnable streams. */
struct principal {
        struct policy policy;      /* the weight may be changed at any time */
        uint64_t counter;          /* service received, in rows × PRINCIPAL_SCALE / weight; wraps, compared by difference */
        uint64_t activations;      /* routed experts evaluated, ever */
        uint64_t rows_prompt, rows_generated;
        struct list decodes, prompts; /* runnable streams, the next one to be served first */
        uint32_t n_decodes, n_prompts;
        uint32_t decodes_left, prompts_left; /* of them without their rows in the iteration being formed */
        uint32_t passed_over;      /* decode rows given since a prompt that waits last got some */
        struct list link;          /* in scheduler.principals while it has runnable streams */
};

/* Counter units of one row at weight 1. Weights up to 10000 divide it with an error below 3 parts in a million. */
#define PRINCIPAL_SCALE (UINT64_C(1) << 32)

/* Rows of a prompt that are given in one go, if it has so many and the iteration has room: fewer would read the weights
 * for too little work, more would make neighbours' prompts wait. */
enum { SCHED_CHUNK = 16 };

/* One running generation, embedded in the service's own object. Its rows are used in order: `pending` prompt rows, then
 * one row per generated token. */
struct sched_stream {
        struct principal *principal;
        uint32_t pending;          /* rows that could run now: prompt left, or 1 for a decode step; 0: not runnable */
        bool decoding;
        uint32_t moe_layers, experts_used; /* of its model */
        uint32_t granted, slot;    /* rows, and place among the picks, in the iteration being formed */
        struct list link;          /* in one of the principal's lists while runnable */
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
void sched_stream_init(struct sched_stream *stream, struct principal *principal, uint32_t moe_layers,
                       uint32_t experts_used);

/* Makes the stream known with `pending` rows of work, or changes how much work it has (0 takes it out; so before it is
 * freed). */
void sched_stream_set_pending(struct scheduler *scheduler, struct sched_stream *stream, uint32_t pending, bool decoding);

/* Forms the next iteration. Every row, or chunk of a prompt, goes to the principal with the lowest counter (the one that
 * has waited longest, if equal); within it to its decoding streams in turn, then to its prompts in turn, but to a prompt
 * after every 32 decode rows if one waits. Writes at most `max` picks, a stream each, and returns how many; with room
 * for rows_max picks all rows are used that can be. Decode picks have one row. Streams picked stay as they are until
 * sched_stream_set_pending(); their principals are charged at once. rows_max and prompt_max are at least 1. */
uint32_t scheduler_pick(struct scheduler *scheduler, const struct sched_limits *limits, struct sched_pick *picks,
                        uint32_t max);

/* The cap that holds now: the lowest of the model's experts_used, the request's (0: none) and what `policy` allows. That is
 * the client's own: of two clients of one principal, groups may tell other rules. *ret_rule is the first of them that is
 * so low. */
uint32_t sched_cap_milli(const struct principal *principal, const struct policy *policy, uint32_t request_milli,
                         uint32_t experts_used, enum cap_rule *ret_rule);

/* Allowance of the row number `row` (from 0) since the cap was set: floor((row+1)·c·L) - floor(row·c·L), with c the cap in
 * experts and L the MoE layers, so that the sum over the first n rows never passes c·L·n (promise P1), and fractions even
 * out. */
uint32_t sched_allowance(uint32_t cap_milli, uint32_t moe_layers, uint64_t row);

/* Books what an iteration used: `rows` of the stream's rows, `used` activations. */
void sched_settle(struct sched_stream *stream, uint32_t rows, bool prompt, uint64_t used);
