/* SPDX-License-Identifier: MIT */
#include "sched-internal.h"

/* Nothing that is charged in one go is worth more. */
#define CHARGE_MAX (100 * NSEC_PER_SEC)

void scheduler_init(struct scheduler *scheduler) {
        *scheduler = (struct scheduler) { .wake_at = UINT64_MAX };
        list_init(&scheduler->principals);
}

void principal_init(struct principal *principal, const struct policy *policy) {
        *principal = (struct principal) { .policy = *policy, .bucket = { .share = SHARE_FULL } };
        latency_init(&principal->latency);
        list_init(&principal->decodes);
        list_init(&principal->prompts);
        list_init(&principal->passes);
        list_init(&principal->link);
}

void sched_model_init(struct sched_model *model, const struct cost_shape *shape, uint32_t long_rows_max) {
        *model = (struct sched_model) { .long_rows_max = long_rows_max };
        cost_init(&model->cost, shape);
        model->ride_rows = model->cost.short_rows;
        list_init(&model->idle_passes);
}

void sched_stream_init(struct sched_stream *stream, struct principal *principal, struct sched_model *model) {
        *stream = (struct sched_stream) { .principal = principal, .model = model };
        list_init(&stream->link);
}

uint64_t principal_price(const struct principal *principal, uint64_t nsec) {
        uint64_t price = principal->policy.class == POLICY_CLASS_BATCH ? SCHED_BATCH_PRICE : 1;

        return MIN(nsec, CHARGE_MAX) * PRINCIPAL_SCALE * price / MAX(principal->policy.weight, 1u);
}

void principal_charge(struct principal *principal, uint64_t nsec) {
        principal->counter += principal_price(principal, nsec);
        principal->served_nsec += nsec;
}

void principal_refund(struct principal *principal, uint64_t nsec) {
        principal->counter -= principal_price(principal, nsec);
        principal->served_nsec -= nsec;
}

bool principal_is_ahead(const struct scheduler *scheduler, const struct principal *principal,
                        const struct principal *other) {
        uint64_t slack = principal_price(principal, scheduler->credit_nsec + SCHED_LAYER_NSEC);

        return !counter_before(principal->counter, other->counter + slack);
}

void principal_lift(const struct scheduler *scheduler, struct principal *principal) {
        uint64_t least = scheduler->clock;

        if (principal->policy.class == POLICY_CLASS_INTERACTIVE)
                least -= principal_price(principal, scheduler->credit_nsec);
        if (counter_before(principal->counter, least))
                principal->counter = least;
}

/* Nobody is ahead of the clock by more than what is charged in one go; a counter from before the last wrap may look
 * so. */
static void principal_return(const struct scheduler *scheduler, struct principal *principal) {
        principal_lift(scheduler, principal);
        if ((int64_t) (principal->counter - scheduler->clock) > (int64_t) (2 * principal_price(principal, CHARGE_MAX)))
                principal->counter = scheduler->clock;
}

bool principal_may_run(struct scheduler *scheduler, struct principal *principal) {
        const struct policy *policy = &principal->policy;
        uint64_t ready;

        if (policy->activation_rate == 0)
                return true;
        bucket_share(&principal->bucket, policy->activation_rate, policy->activation_burst, scheduler->now);
        if (policy->on_empty != POLICY_ON_EMPTY_WAIT)
                return true;
        ready = bucket_ready_at(&principal->bucket, policy->activation_rate, policy->activation_burst, 1,
                                scheduler->now);
        if (ready > scheduler->now)
                scheduler->wake_at = MIN(scheduler->wake_at, ready);
        return ready <= scheduler->now;
}

/* Activations of a row at its cap. */
static uint64_t stream_row(const struct sched_stream *stream) {
        return (uint64_t) stream->cap_milli * stream->model->cost.shape.moe_layers / 1000;
}

uint32_t principal_affords(const struct sched_stream *stream, uint32_t rows) {
        const struct principal *principal = stream->principal;
        uint64_t row = stream_row(stream), left = (uint64_t) MAX(principal->bucket.level, INT64_C(0));

        if (principal->policy.activation_rate == 0 || principal->policy.on_empty != POLICY_ON_EMPTY_WAIT || row == 0)
                return rows;
        return (uint32_t) MIN((uint64_t) rows, MAX(left / row, UINT64_C(1)));
}

uint32_t principal_reserve(struct sched_stream *stream, uint32_t rows) {
        struct bucket *bucket = &stream->principal->bucket;
        const struct policy *policy = &stream->principal->policy;
        int64_t level = bucket->level;

        if (policy->activation_rate == 0)
                return rows;
        rows = principal_affords(stream, rows);
        bucket_take(bucket, policy->activation_rate, policy->activation_burst, rows * stream_row(stream));
        stream->reserved += (uint64_t) (level - bucket->level);
        return rows;
}

/* Replaces what was reserved for rows by what they used. Who waits when the bucket is empty owes all of it; whose
 * experts are only lowered may use more than the rate gives, and is let off what is beyond a whole bucket. */
static void principal_settle(struct principal *principal, uint64_t reserved, uint64_t used) {
        const struct policy *policy = &principal->policy;
        struct bucket *bucket = &principal->bucket;

        if (policy->activation_rate == 0) {
                *bucket = (struct bucket) { .share = SHARE_FULL };
                return;
        }
        bucket->level += (int64_t) reserved;
        if (policy->on_empty == POLICY_ON_EMPTY_WAIT)
                bucket->level -= (int64_t) used;
        else
                bucket_take(bucket, policy->activation_rate, policy->activation_burst, used);
}

static bool principal_has_work(const struct principal *principal) {
        return principal->n_decodes + principal->n_prompts + principal->n_passes > 0;
}

void principal_join(struct scheduler *scheduler, struct principal *principal) {
        if (principal_has_work(principal))
                return;
        principal_return(scheduler, principal);
        list_append(&scheduler->principals, &principal->link);
}

void principal_part(struct principal *principal) {
        if (!principal_has_work(principal))
                list_unlink(&principal->link);
}

void stream_leave(struct scheduler *scheduler, struct sched_stream *stream) {
        struct principal *principal = stream->principal;

        list_unlink(&stream->link);
        if (stream->decoding) {
                principal->n_decodes--;
                stream->model->n_decodes--;
                scheduler->n_decodes--;
        } else {
                principal->n_prompts--;
        }
        principal_part(principal);
}

static void stream_join(struct scheduler *scheduler, struct sched_stream *stream) {
        struct principal *principal = stream->principal;

        principal_join(scheduler, principal);
        if (stream->decoding) {
                list_append(&principal->decodes, &stream->link);
                principal->n_decodes++;
                stream->model->n_decodes++;
                scheduler->n_decodes++;
        } else {
                list_append(&principal->prompts, &stream->link);
                principal->n_prompts++;
        }
}

void sched_stream_set_pending(struct scheduler *scheduler, struct sched_stream *stream, uint32_t pending,
                              bool decoding) {
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

struct cost_rows stream_rows(const struct sched_stream *stream, uint32_t rows) {
        return (struct cost_rows) {
                .rows = rows,
                .position = stream->position + stream->granted,
                .prompt = !stream->decoding,
                .cap_milli = stream->cap_milli,
                .logits = stream->decoding,
        };
}

/* The cap becomes `limit` where that is lower; 0 is none. */
static void cap_lower(uint64_t *cap, uint64_t limit, enum cap_rule rule, enum cap_rule *ret_rule) {
        if (limit == 0 || limit >= *cap)
                return;
        *cap = limit;
        *ret_rule = rule;
}

/* What is left of the way from `least` to `most`. */
static uint64_t squeeze(uint64_t most, uint64_t least, uint32_t share) {
        return most <= least ? most : least + (most - least) * share / SHARE_FULL;
}

uint32_t sched_cap_milli(const struct principal *principal, const struct policy *policy, uint32_t request_milli,
                         uint32_t experts_used, enum cap_rule *ret_rule) {
        uint64_t cap = MIN(EXPERTS_MILLI((uint64_t) experts_used), (uint64_t) UINT32_MAX), most;

        *ret_rule = CAP_MODEL;
        cap_lower(&cap, request_milli, CAP_REQUEST, ret_rule);
        cap_lower(&cap, policy->experts_max_milli, CAP_EXPERTS_MAX, ret_rule);
        most = policy->experts_max_milli ? policy->experts_max_milli : EXPERTS_MILLI((uint64_t) experts_used);
        if (policy->activation_rate > 0)
                cap_lower(&cap, squeeze(most, policy->experts_min_milli, principal->bucket.share), CAP_BUCKET,
                          ret_rule);
        cap_lower(&cap, squeeze(most, policy->experts_min_milli, principal->latency.share), CAP_LATENCY, ret_rule);
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
        principal_settle(principal, stream->reserved, used);
        stream->reserved = 0;
        if (prompt)
                principal->rows_prompt += rows;
        else
                principal->rows_generated += rows;
}

void sched_give_up(struct sched_stream *stream, uint32_t layers_done, uint32_t layers) {
        uint64_t layer = stream->reserved / MAX(layers, 1u);

        principal_settle(stream->principal, stream->reserved, layer * MIN(layers_done, layers));
        stream->reserved = 0;
}

void sched_stream_move(struct scheduler *scheduler, struct sched_stream *stream, struct principal *principal) {
        sched_stream_set_pending(scheduler, stream, 0, false);
        sched_give_up(stream, 0, 1);
        stream->principal = principal;
}
