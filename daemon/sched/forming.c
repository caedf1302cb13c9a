/* SPDX-License-Identifier: MIT */
#include "sched-internal.h"

enum {
        DECODES_PER_PROMPT = 32,
        ALONE_TIMES = 4, /* so much longer may the prompts of a short pass take while nobody decodes */
};

/* The short pass that is being formed. */
struct forming {
        struct scheduler *scheduler;
        struct sched_pick *picks;
        uint32_t n_picks, max;
        uint32_t rows_left, prompt_left;
        uint64_t nsec;        /* what its rows cost, each by itself */
        uint64_t top;         /* the highest counter that was served */
        bool idle;            /* it is of those of POLICY_CLASS_IDLE, for there is nobody else */
        struct list emptied;  /* principals that got all they asked for */
        struct list held;     /* principals whose prompts wait for their limit only */
        struct list waiting;  /* principals that have work for long passes only */
        struct list excluded; /* principals that may have nothing now */
};

/* Keeps the list in the order of the counters. Behind its equals: of those, the one that got there first goes first. */
static void principal_insert(struct list *principals, struct principal *principal) {
        struct list *after = principals->prev;

        while (after != principals &&
               counter_before(principal->counter, list_entry(after, struct principal, link)->counter))
                after = after->prev;
        list_append(after->next, &principal->link);
}

static void model_begin(struct sched_model *model) {
        if (model->formed)
                model->beside = model->load;
        model->prompt_left = model->n_decodes > 0 ? model_short_rows(model) : ALONE_TIMES * model_short_rows(model);
        model->load = model->decoding = (struct cost_load) {};
        model->formed = false;
}

/* Counts what it has for a short pass. Prompts that are not are marked as if they had had their rows. */
static void principal_begin(struct principal *principal) {
        struct sched_stream *stream, *lead = pass_lead(principal);

        principal->formed_nsec = 0;
        principal->begins = lead;
        principal->decodes_left = principal->n_decodes;
        principal->prompts_left = 0;
        list_for_each(stream, &principal->decodes, link) {
                stream->granted = 0;
                model_begin(stream->model);
        }
        list_for_each(stream, &principal->prompts, link) {
                bool rides = stream_rides(stream, lead);

                stream->rides = rides;
                stream->granted = 0;
                model_begin(stream->model);
                principal->prompts_left += rides;
        }
}

/* Whether somebody could have rows who is not of POLICY_CLASS_IDLE. */
static bool anyone_matters(struct scheduler *scheduler) {
        struct principal *principal;

        list_for_each(principal, &scheduler->principals, link)
                if (principal->policy.class != POLICY_CLASS_IDLE &&
                    (principal->n_passes > 0 || principal_may_run(scheduler, principal)))
                        return true;
        return false;
}

static struct list *forming_place(struct forming *forming, struct principal *principal) {
        if ((principal->policy.class == POLICY_CLASS_IDLE) != forming->idle ||
            !principal_may_run(forming->scheduler, principal))
                return &forming->excluded;
        return principal->decodes_left + principal->prompts_left > 0 ? NULL : &forming->waiting;
}

static void forming_begin(struct forming *forming) {
        struct list unsorted = LIST_INIT(unsorted), *head = &forming->scheduler->principals, *place;
        struct principal *principal, *next;

        list_init(&forming->emptied);
        list_init(&forming->held);
        list_init(&forming->waiting);
        list_init(&forming->excluded);
        forming->idle = !anyone_matters(forming->scheduler);
        list_for_each_safe(principal, next, head, link) {
                list_unlink(&principal->link);
                list_append(&unsorted, &principal->link);
        }
        list_for_each_safe(principal, next, &unsorted, link) {
                list_unlink(&principal->link);
                principal_begin(principal);
                place = forming_place(forming, principal);
                if (place)
                        list_append(place, &principal->link);
                else
                        principal_insert(head, principal);
        }
}

/* What the prompts of a pass may take that is to take `alone` without them: those who were promised their next token in
 * time get it then. */
static uint64_t forming_ride_nsec(const struct scheduler *scheduler, uint64_t alone) {
        const struct principal *principal;
        uint64_t nsec = COST_SHORT_NSEC, target;

        list_for_each(principal, &scheduler->principals, link) {
                target = principal->n_decodes > 0 ? principal->policy.latency_target_nsec : 0;
                if (target > 0)
                        nsec = MIN(nsec, MAX(target, alone) - alone);
        }
        return nsec;
}

static bool prompt_has_rows(const struct sched_stream *stream) {
        return stream->rides && stream->granted < stream->pending && stream->model->prompt_left > 0;
}

/* The stream whose turn it is, or NULL when the principal can use no more of this pass. Decode rows go first, for
 * they are one row each and someone reads along; the count keeps many of them from starving the prompts beside them. */
static struct sched_stream *principal_next(struct forming *forming, struct principal *principal) {
        bool prompt = principal->prompts_left > 0 && forming->prompt_left > 0;
        struct sched_stream *stream;

        if (!principal_may_run(forming->scheduler, principal))
                return NULL;
        if (principal->decodes_left > 0 && !(prompt && principal->passed_over >= DECODES_PER_PROMPT))
                return list_entry(principal->decodes.next, struct sched_stream, link);
        if (!prompt)
                return NULL;
        list_for_each(stream, &principal->prompts, link)
                if (prompt_has_rows(stream))
                        return stream;
        return NULL;
}

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
        return principal_reserve(stream, 1);
}

static uint32_t grant_prompt(struct forming *forming, struct sched_stream *stream) {
        struct principal *principal = stream->principal;
        uint32_t rows = MIN(MIN(stream->pending - stream->granted, (uint32_t) SCHED_CHUNK),
                            MIN(MIN(forming->rows_left, forming->prompt_left), stream->model->prompt_left));

        rows = principal_reserve(stream, rows);
        forming->prompt_left -= rows;
        stream->model->prompt_left -= rows;
        principal->passed_over = 0;
        principal->turn_long = true;
        stream_rotate(&principal->prompts, stream);
        if (stream->granted + rows == stream->pending)
                principal->prompts_left--;
        return rows;
}

static void forming_pick(struct forming *forming, struct sched_stream *stream, uint32_t rows) {
        if (stream->granted == 0) {
                stream->slot = forming->n_picks++;
                forming->picks[stream->slot] = (struct sched_pick) { .stream = stream };
        }
        stream->granted += rows;
        forming->picks[stream->slot].rows = stream->granted;
        forming->rows_left -= rows;
}

/* Gives the stream its next row or chunk. All rows are priced beside what the latest pass of the model was like: the
 * first of a pass would pay for experts that those after it use as well. */
static void forming_grant(struct forming *forming, struct sched_stream *stream) {
        struct principal *principal = stream->principal;
        struct sched_model *model = stream->model;
        uint32_t n = stream->decoding ? grant_decode(stream) : grant_prompt(forming, stream);
        struct cost_rows rows = stream_rows(stream, n);
        uint64_t nsec = cost_share_nsec(&model->cost, &model->beside, &rows);

        cost_load_add(&model->cost, &model->load, &rows);
        if (stream->decoding)
                cost_load_add(&model->cost, &model->decoding, &rows);
        model->formed = true;
        forming_pick(forming, stream, n);
        if (counter_before(forming->top, principal->counter))
                forming->top = principal->counter;
        principal->formed_nsec += nsec;
        forming->nsec += nsec;
        principal_charge(principal, nsec);
}

/* Principals whose prompts had to wait for their limit while decode rows went by fall behind, and rightly go
 * first for the next prompt rows; but not without end, or they could later claim every row for a long time. They are
 * moved up together, so that the differences among themselves stay, until the last of them is `slack` behind: what
 * one pass costs at the default weight. */
static void held_move_up(struct forming *forming, uint64_t slack) {
        uint64_t behind = 0;
        struct principal *principal;

        list_for_each(principal, &forming->held, link)
                if (counter_before(principal->counter, forming->top))
                        behind = MAX(behind, forming->top - principal->counter);
        if (behind <= slack)
                return;
        list_for_each(principal, &forming->held, link)
                if (counter_before(principal->counter, forming->top))
                        principal->counter += MIN(forming->top - principal->counter, behind - slack);
}

static void model_formed(const struct forming *forming, struct sched_model *model) {
        uint64_t alone = cost_nsec(&model->cost, &model->decoding);

        if (model->formed)
                return;
        model->formed = true;
        model->ride_rows = cost_prompt_rows(&model->cost, &model->decoding, 0, model->cost.shape.experts_used * 1000,
                                            forming_ride_nsec(forming->scheduler, alone), UINT16_MAX);
}

/* What the pass will take, over all models that have rows in it. */
static uint64_t forming_forecast(const struct forming *forming) {
        uint64_t nsec = 0;

        for (uint32_t i = 0; i < forming->n_picks; i++) {
                struct sched_model *model = forming->picks[i].stream->model;

                nsec += model->formed ? cost_nsec(&model->cost, &model->load) : 0;
                model->formed = false;
        }
        return nsec;
}

/* Together all pay what the pass will take, each in proportion to what its rows were priced at while it was not known what
 * else there would be. */
static void forming_settle(struct forming *forming, uint64_t forecast) {
        double scale = forming->nsec > 0 ? (double) forecast / (double) forming->nsec : 1.0;

        forming->top = forming->scheduler->clock;
        for (uint32_t i = 0; i < forming->n_picks; i++) {
                struct principal *principal = forming->picks[i].stream->principal;
                uint64_t paid = principal->formed_nsec, due = (uint64_t) (scale * (double) paid);

                if (due > paid)
                        principal_charge(principal, due - paid);
                else
                        principal_refund(principal, paid - due);
                principal->formed_nsec = 0;
                if (counter_before(forming->top, principal->counter))
                        forming->top = principal->counter;
        }
}

/* Tokens of the principal follow each other as passes do; a layer of somebody's prompt may come in between. */
static void principal_decoded(struct principal *principal, uint64_t now, uint64_t forecast) {
        if (principal->n_decodes == 0 || principal->decodes_left == principal->n_decodes)
                return;
        latency_update(&principal->latency, forecast, principal->policy.latency_target_nsec, now - principal->decoded_at);
        principal->decoded_at = now;
}

static uint64_t longest_layer(const struct list *principals) {
        const struct principal *principal;
        const struct sched_pass *pass;
        uint64_t nsec = 0;

        list_for_each(principal, principals, link)
                list_for_each(pass, &principal->passes, link)
                        nsec = MAX(nsec, pass->layer_nsec);
        return nsec;
}

static void list_take_back(struct list *head, struct list *from) {
        struct principal *principal, *next;

        list_for_each_safe(principal, next, from, link) {
                list_unlink(&principal->link);
                list_append(head, &principal->link);
        }
}

static void lowest_counter(const struct list *principals, const struct principal **lowest) {
        const struct principal *principal;

        list_for_each(principal, principals, link)
                if (!*lowest || counter_before(principal->counter, (*lowest)->counter))
                        *lowest = principal;
}

/* Lifts those that got all they asked for to the lowest of those that did not; if there are none, nobody is owed
 * anything, and all are made equal. */
static void forming_lift(struct forming *forming) {
        struct scheduler *scheduler = forming->scheduler;
        const struct principal *lowest = NULL;
        struct principal *principal;
        uint64_t clock;

        lowest_counter(&scheduler->principals, &lowest);
        lowest_counter(&forming->held, &lowest);
        lowest_counter(&forming->waiting, &lowest);
        clock = lowest ? lowest->counter : forming->top;
        if (counter_before(scheduler->clock, clock))
                scheduler->clock = clock;
        list_for_each(principal, &forming->emptied, link)
                principal_lift(scheduler, principal);
}

static void forming_end(struct forming *forming) {
        struct scheduler *scheduler = forming->scheduler;
        struct principal *principal;
        uint64_t forecast = forming_forecast(forming), layer;

        forming_settle(forming, forecast);
        held_move_up(forming, PRINCIPAL_SCALE * forecast / POLICY_WEIGHT_DEFAULT);
        forming_lift(forming);
        list_take_back(&scheduler->principals, &forming->held);
        list_take_back(&scheduler->principals, &forming->emptied);
        list_take_back(&scheduler->principals, &forming->waiting);
        list_take_back(&scheduler->principals, &forming->excluded);
        scheduler->short_nsec = forecast;
        layer = longest_layer(&scheduler->principals);
        list_for_each(principal, &scheduler->principals, link)
                principal_decoded(principal, scheduler->now, forecast + layer);
        for (uint32_t i = 0; i < forming->n_picks; i++)
                model_formed(forming, forming->picks[i].stream->model);
}

/* Where a principal goes that can use no more of this pass. */
static struct list *forming_leaves(struct forming *forming, const struct principal *principal) {
        if (principal->decodes_left + principal->prompts_left > 0)
                return principal->prompts_left > 0 ? &forming->held : &forming->excluded;
        return principal->begins || principal->n_passes > 0 ? &forming->waiting : &forming->emptied;
}

uint32_t scheduler_pick(struct scheduler *scheduler, const struct sched_limits *limits, struct sched_pick *picks,
                        uint32_t max) {
        struct forming forming = {
                .scheduler = scheduler,
                .picks = picks,
                .max = max,
                .rows_left = limits->rows_max,
                .prompt_left = scheduler->n_decodes > 0 ? MIN(limits->prompt_max, limits->rows_max) : limits->rows_max,
                .top = scheduler->clock,
        };

        forming_begin(&forming);
        while (forming.rows_left > 0 && !list_empty(&scheduler->principals)) {
                struct principal *principal = list_entry(scheduler->principals.next, struct principal, link);
                struct sched_stream *stream = principal_next(&forming, principal);

                if (stream && stream->granted == 0 && forming.n_picks == forming.max)
                        break;
                list_unlink(&principal->link);
                if (stream) {
                        forming_grant(&forming, stream);
                        principal_insert(&scheduler->principals, principal);
                } else {
                        list_append(forming_leaves(&forming, principal), &principal->link);
                }
        }
        forming_end(&forming);
        return forming.n_picks;
}
