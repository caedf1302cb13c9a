/* SPDX-License-Identifier: MIT */
#pragma once

/* What the files of the scheduler share. */

#include "base/util.h"
#include "scheduler.h"

/* Counters wrap after 2^64, so they are compared by their difference. What is compared lies close together: a principal
 * with work is never further behind the clock than forming_end() lets it, one that returns is brought near. */
static inline bool counter_before(uint64_t a, uint64_t b) {
        return (int64_t) (a - b) < 0;
}

/* So much service, in units of this principal's counter. */
uint64_t principal_price(const struct principal *principal, uint64_t nsec);
void principal_charge(struct principal *principal, uint64_t nsec);
/* Takes back what it was charged too much. */
void principal_refund(struct principal *principal, uint64_t nsec);
/* Whether it has had less than the other; NULL: than nobody, so that it has. */
static inline bool principal_behind(const struct principal *principal, const struct principal *other) {
        return !other || counter_before(principal->counter, other->counter);
}

/* Whether it has had more than the other by so much that its rows in a short pass would be at the other's cost. */
bool principal_is_ahead(const struct scheduler *scheduler, const struct principal *principal,
                        const struct principal *other);
/* Not less than the credit behind the clock. */
void principal_lift(const struct scheduler *scheduler, struct principal *principal);
/* Looks at its bucket: whether that lets it begin a row; if not, the scheduler will look again when it does. */
bool principal_may_run(struct scheduler *scheduler, struct principal *principal);
/* Of so many rows of the stream, how many its bucket lets it have, at least 1; the latter takes them out of it. */
uint32_t principal_affords(const struct sched_stream *stream, uint32_t rows);
uint32_t principal_reserve(struct sched_stream *stream, uint32_t rows);

/* Around a change of what work it has: before there is some, after there is less. */
void principal_join(struct scheduler *scheduler, struct principal *principal);
void principal_part(struct principal *principal);
/* Takes out a stream that is runnable. */
void stream_leave(struct scheduler *scheduler, struct sched_stream *stream);

/* Rows of prompts up to which short passes are for them. */
uint32_t model_short_rows(const struct sched_model *model);
/* `rows` next rows of the stream, as the cost model wants them. */
struct cost_rows stream_rows(const struct sched_stream *stream, uint32_t rows);
/* Whether its next tokens may come later than those of a pass that begins at `then`. */
bool tokens_can_wait(const struct scheduler *scheduler, const struct principal *principal, uint64_t then);
/* The one whose rows a further long pass of the principal would have first; NULL: none can or need begin. */
struct sched_stream *pass_lead(const struct principal *principal);
/* Whether a prompt is for short passes, as things are. `lead` is the principal's pass_lead(). */
bool stream_rides(const struct sched_stream *stream, const struct sched_stream *lead);
