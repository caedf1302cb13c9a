/* SPDX-License-Identifier: MIT */
#include "scheduler.h"

enum { DECODES_PER_PROMPT = 32 };

/* The iteration that is being formed. */
struct forming {
        struct scheduler *scheduler;
        struct sched_pick *picks;
        uint32_t n_picks, max;
        uint32_t rows_left, prompt_left;
        struct list emptied; /* principals that got all they asked for */
        struct list held;    /* principals whose prompts wait for prompt_max only */
};

void scheduler_init(struct scheduler *scheduler) {
        *scheduler = (struct scheduler) { .clock = 0 };
        list_init(&scheduler->principals);
}

void principal_init(struct principal *principal, const struct policy *policy) {
        *principal = (struct principal) { .policy = *policy };
        list_init(&principal->decodes);
        list_init(&principal->prompts);
        list_init(&principal->link);
}

void sched_stream_init(struct sched_stream *stream, struct principal *principal, uint32_t moe_layers,
                       uint32_t experts_used) {
        *stream = (struct sched_stream) {
                .principal = principal,
                .moe_layers = moe_layers,
                .experts_used = experts_used,
        };
        list_init(&stream->link);
}

/* Counters wrap after 2^64, so they are compared by their difference. What is compared lies close together: a principal
 * with work is never further behind the clock than forming_end() lets it, one that returns is brought near. */
static bool counter_before(uint64_t a, uint64_t b) {
        return (int64_t) (a - b) < 0;
}

static uint64_t principal_price(const struct principal *principal, uint32_t rows) {
        return PRINCIPAL_SCALE * rows / MAX(principal->policy.weight, 1u);
}

static void principal_lift(struct principal *principal, uint64_t clock) {
        if (counter_before(principal->counter, clock))
                principal->counter = clock;
}

/* Nobody is ahead of the clock by more than one chunk at weight 1; a counter from before the last wrap may look so. */
static void principal_return(struct principal *principal, uint64_t clock) {
        principal_lift(principal, clock);
        if (principal->counter - clock > PRINCIPAL_SCALE * SCHED_CHUNK)
                principal->counter = clock;
}

static void stream_leave(struct scheduler *scheduler, struct sched_stream *stream) {
        struct principal *principal = stream->principal;

        list_unlink(&stream->link);
        if (stream->decoding) {
                principal->n_decodes--;
                scheduler->n_decodes--;
        } else {
                principal->n_prompts--;
        }
        if (principal->n_decodes + principal->n_prompts == 0)
                list_unlink(&principal->link);
}

static void stream_join(struct scheduler *scheduler, struct sched_stream *stream) {
        struct principal *principal = stream->principal;

        if (principal->n_decodes + principal->n_prompts == 0) {
                principal_return(principal, scheduler->clock);
                list_append(&scheduler->principals, &principal->link);
        }
        if (stream->decoding) {
                list_append(&principal->decodes, &stream->link);
                principal->n_decodes++;
                scheduler->n_decodes++;
        } else {
                list_append(&principal->prompts, &stream->link);
                principal->n_prompts++;
        }
}

void sched_stream_set_pending(struct scheduler *scheduler, struct sched_stream *stream, uint32_t pending, bool decoding) {
        /* A stream that goes on as it was keeps its turn. */
        if (stream->pending > 0 && (pending == 0 || stream->decoding != decoding)) {
                stream_leave(scheduler, stream);
                stream->pending = 0;
        }
        if (stream->pending == 0 && pending > 0) {
                stream->decoding = decoding;
                stream_join(scheduler, stream);
        }
        stream->pending = pending;
}

/* Keeps the list in the order of the counters. Behind its equals: of those, the one that got there first goes first. */
static void principal_insert(struct list *principals, struct principal *principal) {
        struct list *after = principals->prev;

        while (after != principals &&
               counter_before(principal->counter, list_entry(after, struct principal, link)->counter))
                after = after->prev;
        list_append(after->next, &principal->link);
}

static void principal_begin(struct principal *principal) {
        struct sched_stream *stream;

        principal->decodes_left = principal->n_decodes;
        principal->prompts_left = principal->n_prompts;
        list_for_each(stream, &principal->decodes, link)
                stream->granted = 0;
        list_for_each(stream, &principal->prompts, link)
                stream->granted = 0;
}

static void forming_begin(struct forming *forming) {
        struct list unsorted = LIST_INIT(unsorted), *head = &forming->scheduler->principals;
        struct principal *principal, *next;

        list_init(&forming->emptied);
        list_init(&forming->held);
        list_for_each_safe(principal, next, head, link) {
                list_unlink(&principal->link);
                list_append(&unsorted, &principal->link);
        }
        list_for_each_safe(principal, next, &unsorted, link) {
                list_unlink(&principal->link);
                principal_begin(principal);
                principal_insert(head, principal);
        }
}

/* The stream whose turn it is, or NULL when the principal can use no more of this iteration. Decode rows go first, for
 * they are one row each and someone reads along; the count keeps many of them from starving the prompts beside them. */
static struct sched_stream *principal_next(const struct principal *principal, uint32_t prompt_left) {
        bool prompt = principal->prompts_left > 0 && prompt_left > 0;

        if (principal->decodes_left > 0 && !(prompt && principal->passed_over >= DECODES_PER_PROMPT))
                return list_entry(principal->decodes.next, struct sched_stream, link);
        return prompt ? list_entry(principal->prompts.next, struct sched_stream, link) : NULL;
}

/* Moves the stream behind the others of its kind, so that the head of each list is always one that can be served. */
static void stream_rotate(struct list *streams, struct sched_stream *stream) {
        list_unlink(&stream->link);
        list_append(streams, &stream->link);
}

static uint32_t grant_decode(struct sched_stream *stream) {
        struct principal *principal = stream->principal;

        stream_rotate(&principal->decodes, stream);
        principal->decodes_left--;
        if (principal->prompts_left > 0)
                principal->passed_over++;
        return 1;
}

static uint32_t grant_prompt(struct forming *forming, struct sched_stream *stream) {
        struct principal *principal = stream->principal;
        uint32_t rows = MIN(MIN(stream->pending - stream->granted, (uint32_t) SCHED_CHUNK),
                            MIN(forming->rows_left, forming->prompt_left));
        struct sched_stream *next;

        forming->prompt_left -= rows;
        principal->passed_over = 0;
        stream_rotate(&principal->prompts, stream);
        if (stream->granted + rows == stream->pending)
                principal->prompts_left--;
        while (principal->prompts_left > 0) {
                next = list_entry(principal->prompts.next, struct sched_stream, link);
                if (next == stream || next->granted < next->pending)
                        break;
                stream_rotate(&principal->prompts, next);
        }
        return rows;
}

/* Gives the stream its next row or chunk. */
static void forming_grant(struct forming *forming, struct sched_stream *stream) {
        struct principal *principal = stream->principal;
        uint32_t rows = stream->decoding ? grant_decode(stream) : grant_prompt(forming, stream);

        if (stream->granted == 0) {
                stream->slot = forming->n_picks++;
                forming->picks[stream->slot] = (struct sched_pick) { .stream = stream };
        }
        stream->granted += rows;
        forming->picks[stream->slot].rows = stream->granted;
        forming->rows_left -= rows;
        if (counter_before(forming->scheduler->clock, principal->counter))
                forming->scheduler->clock = principal->counter;
        principal->counter += principal_price(principal, rows);
}

/* Principals whose prompts had to wait for prompt_max while decode rows went by fall behind the clock, and rightly go
 * first for the next prompt rows; but not without end, or they could later claim every row for a long time. They are
 * moved up together, so that the differences among themselves stay, until the last of them is `slack` behind: what
 * one iteration costs at the default weight. */
static void held_move_up(struct forming *forming, uint64_t slack) {
        uint64_t clock = forming->scheduler->clock, behind = 0;
        struct principal *principal;

        list_for_each(principal, &forming->held, link)
                if (counter_before(principal->counter, clock))
                        behind = MAX(behind, clock - principal->counter);
        if (behind <= slack)
                return;
        list_for_each(principal, &forming->held, link)
                if (counter_before(principal->counter, clock))
                        principal->counter += MIN(clock - principal->counter, behind - slack);
}

static void list_take_back(struct list *head, struct list *from) {
        struct principal *principal, *next;

        list_for_each_safe(principal, next, from, link) {
                list_unlink(&principal->link);
                list_append(head, &principal->link);
        }
}

static void forming_end(struct forming *forming, uint32_t rows_max) {
        struct scheduler *scheduler = forming->scheduler;
        struct principal *principal;

        list_for_each(principal, &forming->emptied, link)
                principal_lift(principal, scheduler->clock);
        held_move_up(forming, PRINCIPAL_SCALE * rows_max / POLICY_WEIGHT_DEFAULT);
        list_take_back(&scheduler->principals, &forming->held);
        list_take_back(&scheduler->principals, &forming->emptied);
}

uint32_t scheduler_pick(struct scheduler *scheduler, const struct sched_limits *limits, struct sched_pick *picks,
                        uint32_t max) {
        struct forming forming = {
                .scheduler = scheduler,
                .picks = picks,
                .max = max,
                .rows_left = limits->rows_max,
                .prompt_left = scheduler->n_decodes > 0 ? MIN(limits->prompt_max, limits->rows_max) : limits->rows_max,
        };

        forming_begin(&forming);
        while (forming.rows_left > 0 && !list_empty(&scheduler->principals)) {
                struct principal *principal = list_entry(scheduler->principals.next, struct principal, link);
                struct sched_stream *stream = principal_next(principal, forming.prompt_left);

                if (stream && stream->granted == 0 && forming.n_picks == forming.max)
                        break;
                list_unlink(&principal->link);
                if (stream) {
                        forming_grant(&forming, stream);
                        principal_insert(&scheduler->principals, principal);
                } else {
                        list_append(principal->prompts_left > 0 ? &forming.held : &forming.emptied, &principal->link);
                }
        }
        forming_end(&forming, limits->rows_max);
        return forming.n_picks;
}

/* The cap becomes `limit` where that is lower; 0 is none. */
static void cap_lower(uint64_t *cap, uint64_t limit, enum cap_rule rule, enum cap_rule *ret_rule) {
        if (limit == 0 || limit >= *cap)
                return;
        *cap = limit;
        *ret_rule = rule;
}

uint32_t sched_cap_milli(const struct principal *principal, const struct policy *policy, uint32_t request_milli,
                         uint32_t experts_used, enum cap_rule *ret_rule) {
        uint64_t cap = MIN(EXPERTS_MILLI((uint64_t) experts_used), (uint64_t) UINT32_MAX);

        *ret_rule = CAP_MODEL;
        cap_lower(&cap, request_milli, CAP_REQUEST, ret_rule);
        cap_lower(&cap, policy->experts_max_milli, CAP_EXPERTS_MAX, ret_rule);
        return (uint32_t) cap;
}

/* With P = cap_milli·L, the allowance of row t is A(t) = floor((t+1)·P/1000) - floor(t·P/1000).
 * P1: the sum over rows 0 … n-1 telescopes to floor(n·P/1000) ≤ n·(cap_milli/1000)·L, and is less than one activation
 * below it, for every n.
 * To stay inside 64 bits: with P = 1000·w + f and t = 1000·q + r, floor(t·P/1000) = t·w + q·f + floor(r·f/1000), so
 * A(t) = w + floor((r+1)·f/1000) - floor(r·f/1000), also for r = 999. */
uint32_t sched_allowance(uint32_t cap_milli, uint32_t moe_layers, uint64_t row) {
        uint64_t per_row = (uint64_t) cap_milli * moe_layers;
        uint64_t whole = per_row / 1000, fraction = per_row % 1000, r = row % 1000;
        uint64_t allowance = whole + (r + 1) * fraction / 1000 - r * fraction / 1000;

        return (uint32_t) MIN(allowance, (uint64_t) UINT32_MAX);
}

void sched_settle(struct sched_stream *stream, uint32_t rows, bool prompt, uint64_t used) {
        struct principal *principal = stream->principal;

        principal->activations += used;
        if (prompt)
                principal->rows_prompt += rows;
        else
                principal->rows_generated += rows;
}
