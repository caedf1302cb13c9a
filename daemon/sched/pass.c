/* SPDX-License-Identifier: MIT */
#include "sched-internal.h"

/* Every so many layers of its own passes are of the oldest; the others are of the one that will be done first. */
enum { TURNS_FOR_OLDEST = 2 };

void sched_pass_init(struct sched_pass *pass, struct sched_model *model) {
        *pass = (struct sched_pass) { .model = model };
        list_append(&model->idle_passes, &pass->link);
}

void sched_pass_deinit(struct sched_pass *pass) {
        list_unlink(&pass->link);
}

uint32_t model_short_rows(const struct sched_model *model) {
        uint32_t rows = model->n_decodes > 0 ? MAX(model->ride_rows, 1u) : model->cost.short_rows;

        return model->short_rows_max ? MIN(rows, model->short_rows_max) : rows;
}

static uint64_t pass_left_nsec(const struct sched_pass *pass) {
        return pass->layers_left * pass->layer_nsec;
}

static uint64_t prompt_nsec(const struct sched_stream *stream) {
        struct cost_rows rows = stream_rows(stream, stream->pending);
        struct cost_load load = {};

        cost_load_add(&stream->model->cost, &load, &rows);
        return cost_nsec(&stream->model->cost, &load);
}

static bool prompt_is_long(const struct sched_stream *stream) {
        return stream->pending > model_short_rows(stream->model);
}

/* All that the principal has for this model. */
static uint64_t prompts_pending(const struct principal *principal, const struct sched_model *model) {
        const struct sched_stream *stream;
        uint64_t rows = 0;

        list_for_each(stream, &principal->prompts, link)
                if (stream->model == model)
                        rows += stream->pending;
        return rows;
}

static struct sched_stream *lead_first(const struct principal *principal) {
        struct sched_stream *stream;

        list_for_each(stream, &principal->prompts, link)
                if (prompt_is_long(stream) && !list_empty(&stream->model->idle_passes))
                        return stream;
        stream = list_entry(principal->prompts.next, struct sched_stream, link);
        if (list_empty(&stream->model->idle_passes))
                return NULL;
        return prompts_pending(principal, stream->model) > model_short_rows(stream->model) ? stream : NULL;
}

/* A prompt that takes far less than what is under way need not wait for that. The last idle pass is left to those that
 * have none. */
static struct sched_stream *lead_further(const struct principal *principal) {
        struct sched_stream *stream, *least = NULL;
        struct sched_pass *pass;
        uint64_t left = 0;

        list_for_each(stream, &principal->prompts, link) {
                const struct list *idle = &stream->model->idle_passes;

                if (prompt_is_long(stream) && idle->next != idle->prev && (!least || stream->pending < least->pending))
                        least = stream;
        }
        list_for_each(pass, &principal->passes, link)
                left += pass_left_nsec(pass);
        return least && prompt_nsec(least) < left / 2 ? least : NULL;
}

struct sched_stream *pass_lead(const struct principal *principal) {
        if (principal->n_prompts == 0 || principal->n_passes >= SCHED_PASSES_PER_PRINCIPAL)
                return NULL;
        return principal->n_passes == 0 ? lead_first(principal) : lead_further(principal);
}

static bool principal_passes_in(const struct principal *principal, const struct sched_model *model) {
        const struct sched_pass *pass;

        list_for_each(pass, &principal->passes, link)
                if (pass->model == model)
                        return true;
        return false;
}

bool stream_rides(const struct sched_stream *stream, const struct sched_stream *lead) {
        const struct principal *principal = stream->principal;
        const struct sched_model *model = stream->model;

        if (lead && lead->model == model && principal->n_passes == 0)
                return false;
        if (!prompt_is_long(stream))
                return true;
        return list_empty(&model->idle_passes) && !principal_passes_in(principal, model);
}

static bool prompts_ride(const struct principal *principal, const struct sched_stream *lead) {
        const struct sched_stream *stream;

        list_for_each(stream, &principal->prompts, link)
                if (stream_rides(stream, lead))
                        return true;
        return false;
}

static struct sched_pass *pass_choose(struct principal *principal) {
        struct sched_pass *pass, *choice = list_entry(principal->passes.next, struct sched_pass, link);

        if (++principal->turn % TURNS_FOR_OLDEST == 0)
                return choice;
        list_for_each(pass, &principal->passes, link)
                if (pass_left_nsec(pass) < pass_left_nsec(choice))
                        choice = pass;
        return choice;
}

/* Of those that are not idle, or else of those that are, the one with the lowest counter. */
static struct principal *principal_lowest(struct scheduler *scheduler) {
        struct principal *principal, *lowest = NULL;

        list_for_each(principal, &scheduler->principals, link) {
                bool idle = principal->policy.class == POLICY_CLASS_IDLE;

                if (principal->n_passes == 0 && !principal_may_run(scheduler, principal))
                        continue;
                if (!lowest || (!idle && lowest->policy.class == POLICY_CLASS_IDLE) ||
                    (idle == (lowest->policy.class == POLICY_CLASS_IDLE) &&
                     counter_before(principal->counter, lowest->counter)))
                        lowest = principal;
        }
        return lowest;
}

/* Those of POLICY_CLASS_IDLE do not count: nobody is to notice them. */
static bool several_ask(const struct scheduler *scheduler) {
        const struct principal *principal;
        uint32_t n = 0;

        list_for_each(principal, &scheduler->principals, link)
                n += principal->policy.class != POLICY_CLASS_IDLE;
        return n > 1;
}

static uint64_t tokens_gap(const struct scheduler *scheduler, const struct principal *principal) {
        bool own = principal->n_passes + principal->n_prompts > 0;
        uint64_t most = own && scheduler->now < scheduler->shared_until ? SCHED_GAP_SHARED_NSEC : SCHED_GAP_NSEC;

        return MIN(most, SCHED_GAP_PASSES * principal->decoded_nsec);
}

/* A target is for the time when they are there. */
bool tokens_can_wait(const struct scheduler *scheduler, const struct principal *principal, uint64_t then) {
        uint64_t target = principal->policy.latency_target_nsec;

        if (target > 0)
                return then + principal->decoded_nsec <= principal->decoded_at + target;
        return then <= principal->decoded_at + principal->decoded_nsec + tokens_gap(scheduler, principal);
}

/* Whether somebody's next token would come later than it should if another layer of this principal's went before. One
 * that is ahead by far has no such claim: prompts must not starve either. */
static bool tokens_are_due(struct scheduler *scheduler, const struct principal *turn, uint64_t layer_nsec) {
        struct principal *principal;
        uint64_t then = scheduler->now + layer_nsec;

        list_for_each(principal, &scheduler->principals, link) {
                if (principal->n_decodes == 0 || tokens_can_wait(scheduler, principal, then))
                        continue;
                if (principal != turn && principal->policy.class > turn->policy.class)
                        continue;
                if (!principal_is_ahead(scheduler, principal, turn) && principal_may_run(scheduler, principal))
                        return true;
        }
        return false;
}

enum sched_turn scheduler_turn(struct scheduler *scheduler, struct sched_pass **ret_pass) {
        struct principal *principal;
        struct sched_stream *lead;
        struct sched_pass *pass;
        bool free;

        scheduler->wake_at = UINT64_MAX;
        if (several_ask(scheduler))
                scheduler->shared_until = scheduler->now + SCHED_LATELY_NSEC;
        principal = principal_lowest(scheduler);
        if (!principal)
                return SCHED_TURN_NONE;
        if (counter_before(scheduler->clock, principal->counter))
                scheduler->clock = principal->counter;
        free = principal_may_run(scheduler, principal);
        lead = free ? pass_lead(principal) : NULL;
        if (!lead && principal->n_passes == 0)
                return SCHED_TURN_SHORT;
        if (!principal->turn_long && free && prompts_ride(principal, lead))
                return SCHED_TURN_SHORT;
        pass = lead ? list_entry(lead->model->idle_passes.next, struct sched_pass, link) : pass_choose(principal);
        if (tokens_are_due(scheduler, principal, pass->principal ? pass->layer_nsec : SCHED_LAYER_NSEC))
                return SCHED_TURN_SHORT;
        principal->turn_long = false;
        if (lead) {
                pass->principal = principal;
                *ret_pass = pass;
                return SCHED_TURN_BEGIN;
        }
        *ret_pass = pass;
        return SCHED_TURN_LAYER;
}

/* How long one of its layers may take: until whoever comes can begin, and until the next token of those that were
 * promised one in time. */
static uint64_t pass_layer_max(const struct scheduler *scheduler, const struct principal *own) {
        const struct principal *principal;
        uint64_t max = SCHED_LAYER_ALONE_NSEC, target;

        list_for_each(principal, &scheduler->principals, link) {
                if (principal->policy.class == POLICY_CLASS_IDLE && principal != own)
                        continue;
                if (principal != own)
                        max = MIN(max, SCHED_LAYER_NSEC);
                target = principal->n_decodes > 0 ? principal->policy.latency_target_nsec : 0;
                if (target > 0)
                        max = MIN(max, MAX(target, 2 * principal->decoded_nsec) - principal->decoded_nsec);
        }
        return max;
}

/* As many rows as layers may take time for, or a quarter more: what is left of the prompts would read all experts once
 * more for a few rows. For the same reason passes that are needed anyway get equal parts. */
static uint32_t pass_rows_max(const struct scheduler *scheduler, const struct sched_pass *pass,
                              const struct sched_stream *lead) {
        uint64_t layers = MAX(pass->model->cost.shape.layers, 1u), pending;
        struct cost_load nothing = {};
        uint32_t rows = cost_prompt_rows(&pass->model->cost, &nothing, lead->position, lead->cap_milli,
                                         layers * pass_layer_max(scheduler, pass->principal),
                                         pass->model->long_rows_max);

        rows = MAX(rows, model_short_rows(pass->model));
        rows = MIN(rows + rows / 4, MAX(pass->model->long_rows_max, 1u));
        pending = prompts_pending(pass->principal, pass->model);
        return (uint32_t) DIV_ROUND_UP(pending, DIV_ROUND_UP(pending, rows));
}

static void pass_take(struct scheduler *scheduler, struct sched_pass *pass, struct sched_stream *stream, uint32_t rows,
                      struct sched_pick *ret) {
        struct cost_rows load;

        stream->granted = 0;
        load = stream_rows(stream, rows);
        cost_load_add(&pass->model->cost, &pass->load, &load);
        stream_leave(scheduler, stream);
        stream->pending = 0;
        *ret = (struct sched_pick) { .stream = stream, .rows = rows };
}

uint32_t scheduler_pick_long(struct scheduler *scheduler, struct sched_pass *pass, struct sched_pick *picks,
                             uint32_t max) {
        struct principal *principal = pass->principal;
        struct sched_stream *lead = pass_lead(principal), *stream, *next;
        bool first = principal->n_passes == 0;
        uint32_t left = pass_rows_max(scheduler, pass, lead), n = 0, rows;

        list_unlink(&pass->link);
        list_append(&principal->passes, &pass->link);
        principal->n_passes++;
        pass->load = (struct cost_load) {};
        rows = principal_reserve(lead, MIN(left, lead->pending));
        pass_take(scheduler, pass, lead, rows, &picks[n++]);
        left -= rows;
        list_for_each_safe(stream, next, &principal->prompts, link) {
                if (!first || left == 0 || n == max || !principal_may_run(scheduler, principal))
                        break;
                if (stream->model != pass->model)
                        continue;
                rows = principal_reserve(stream, MIN(left, stream->pending));
                pass_take(scheduler, pass, stream, rows, &picks[n++]);
                left -= rows;
        }
        pass->layers_left = MAX(pass->model->cost.shape.layers, 1u);
        pass->layer_nsec = cost_nsec(&pass->model->cost, &pass->load) / pass->layers_left;
        return n;
}

void sched_pass_layer(struct scheduler *scheduler, struct sched_pass *pass) {
        if (pass->layers_left == 0)
                return;
        pass->layers_left--;
        principal_charge(pass->principal, pass->layer_nsec);
}

void sched_pass_end(struct scheduler *scheduler, struct sched_pass *pass) {
        struct principal *principal = pass->principal;

        list_unlink(&pass->link);
        list_append(&pass->model->idle_passes, &pass->link);
        pass->principal = NULL;
        principal->n_passes--;
        principal_part(principal);
}
