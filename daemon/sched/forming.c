/* SPDX-License-Identifier: MIT */
#include "sched-internal.h"

enum {
        DECODES_PER_PROMPT = 32,
        ALONE_TIMES = 2, /* so much longer may the prompts of a short pass take while nobody decodes */
};

/* The short pass that is being formed. */
struct forming {
        struct scheduler *scheduler;
        struct sched_pick *picks;
        uint32_t n_picks, max;
        uint32_t rows_left, prompt_left;
        uint64_t nsec;        /* what its rows cost, each by itself */
        uint64_t forecast;    /* what it will take, over all models that have rows in it */
        uint64_t target;      /* between the tokens of those who decode, the lowest that was promised; UINT64_MAX:
                               * none */
        uint64_t layer;       /* the longest of the long passes in flight */
        uint64_t top;         /* the highest counter that was served */
        const struct principal *owed; /* the one with the lowest counter whose work is for long passes; NULL: none has
                                       * such */
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

/* Its own prompts are under way, and tokens beside them come at their pace: in a pass between, few rows would read
 * experts that the next one reads again. Who has a LatencyTarget= gets all it can. */
static bool principal_is_early(const struct forming *forming, const struct principal *principal) {
        uint64_t then = forming->scheduler->now + MAX(forming->layer, SCHED_LAYER_NSEC);

        return (principal->n_passes > 0 || principal->begins) && principal->policy.latency_target_nsec == 0 &&
               tokens_can_wait(forming->scheduler, principal, then);
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

/* Whether the principal is of those among whom time is shared out now. */
static bool principal_counts(const struct forming *forming, const struct principal *principal) {
        return (principal->policy.class == POLICY_CLASS_IDLE) == forming->idle;
}

static struct list *forming_place(struct forming *forming, struct principal *principal) {
        if (!principal_counts(forming, principal) || !principal_may_run(forming->scheduler, principal) ||
            (forming->owed && principal_is_ahead(forming->scheduler, principal, forming->owed)))
                return &forming->excluded;
        return principal->decodes_left + principal->prompts_left > 0 ? NULL : &forming->waiting;
}

/* One whose long passes wait; new ones, if it may begin them. While it has not had its share, rows of those who have
 * would take the time for that. */
static void forming_owe(struct forming *forming, struct principal *principal) {
        bool long_work = principal->n_passes > 0 ||
                         (principal->begins && principal_may_run(forming->scheduler, principal));

        if (long_work && principal_counts(forming, principal) && principal_behind(principal, forming->owed))
                forming->owed = principal;
}

/* What bounds the pass. */
static void forming_look(struct forming *forming) {
        struct principal *principal;
        struct sched_pass *pass;

        forming->target = UINT64_MAX;
        list_for_each(principal, &forming->scheduler->principals, link) {
                if (principal->n_decodes > 0 && principal->policy.latency_target_nsec > 0)
                        forming->target = MIN(forming->target, principal->policy.latency_target_nsec);
                list_for_each(pass, &principal->passes, link)
                        forming->layer = MAX(forming->layer, pass->layer_nsec);
        }
}

static void forming_begin(struct forming *forming) {
        struct list unsorted = LIST_INIT(unsorted), *head = &forming->scheduler->principals, *place;
        struct principal *principal, *next;

        list_init(&forming->emptied);
        list_init(&forming->held);
        list_init(&forming->waiting);
        list_init(&forming->excluded);
        forming->idle = !anyone_matters(forming->scheduler);
        forming_look(forming);
        list_for_each_safe(principal, next, head, link) {
                list_unlink(&principal->link);
                list_append(&unsorted, &principal->link);
                principal_begin(principal);
                forming_owe(forming, principal);
        }
        list_for_each_safe(principal, next, &unsorted, link) {
                list_unlink(&principal->link);
                principal->early = principal_is_early(forming, principal);
                if (principal->early)
                        principal->decodes_left = 0;
                place = forming_place(forming, principal);
                if (place)
                        list_append(place, &principal->link);
                else
                        principal_insert(head, principal);
        }
}

/* `nsec`, or what further rows may take of a pass that is to take `alone` without them: those who were promised their
 * next token in time get it then. */
static uint64_t forming_ride_nsec(const struct forming *forming, uint64_t alone, uint64_t nsec) {
        return MIN(nsec, MAX(forming->target, alone) - alone);
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

/* All rows are priced beside what the latest pass of the model was like: the first of a pass would pay for experts that
 * those after it use as well. */
static void forming_add(struct forming *forming, struct sched_stream *stream, uint32_t n) {
        struct principal *principal = stream->principal;
        struct sched_model *model = stream->model;
        struct cost_rows rows = stream_rows(stream, n);
        uint64_t nsec = cost_share_nsec(&model->cost, &model->beside, &rows);

        forming->forecast -= cost_nsec(&model->cost, &model->load);
        cost_load_add(&model->cost, &model->load, &rows);
        forming->forecast += cost_nsec(&model->cost, &model->load);
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

/* Gives the stream its next row or chunk. */
static void forming_grant(struct forming *forming, struct sched_stream *stream) {
        forming_add(forming, stream, stream->decoding ? grant_decode(stream) : grant_prompt(forming, stream));
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
        uint64_t nsec = cost_short_nsec(&model->cost, &model->decoding);

        model->formed = true;
        model->ride_rows = cost_prompt_rows(&model->cost, &model->decoding, 0, model->cost.shape.experts_used * 1000,
                                            forming_ride_nsec(forming, alone, nsec), UINT16_MAX);
}

static void models_formed(const struct forming *forming) {
        for (uint32_t i = 0; i < forming->n_picks; i++)
                forming->picks[i].stream->model->formed = false;
        for (uint32_t i = 0; i < forming->n_picks; i++)
                if (!forming->picks[i].stream->model->formed)
                        model_formed(forming, forming->picks[i].stream->model);
}

/* Together all pay what the pass will take, each in proportion to what its rows were priced at while it was not known
 * what else there would be. */
static void forming_settle(struct forming *forming) {
        double scale = forming->nsec > 0 ? (double) forming->forecast / (double) forming->nsec : 1.0;

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
static void principal_decoded(const struct forming *forming, struct principal *principal) {
        uint64_t now = forming->scheduler->now;

        if (principal->early || principal->n_decodes == 0 || principal->decodes_left == principal->n_decodes)
                return;
        latency_update(&principal->latency, forming->forecast + forming->layer, principal->policy.latency_target_nsec,
                       now - principal->decoded_at);
        principal->decoded_at = now;
        principal->decoded_nsec = forming->forecast;
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
                if (principal_behind(principal, *lowest))
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

        forming_settle(forming);
        held_move_up(forming, PRINCIPAL_SCALE * forming->forecast / POLICY_WEIGHT_DEFAULT);
        forming_lift(forming);
        list_take_back(&scheduler->principals, &forming->held);
        list_take_back(&scheduler->principals, &forming->emptied);
        list_take_back(&scheduler->principals, &forming->waiting);
        list_take_back(&scheduler->principals, &forming->excluded);
        list_for_each(principal, &scheduler->principals, link)
                principal_decoded(forming, principal);
        models_formed(forming);
}

/* Where a principal goes that can use no more of this pass. */
static struct list *forming_leaves(struct forming *forming, const struct principal *principal) {
        if (principal->decodes_left + principal->prompts_left > 0)
                return principal->prompts_left > 0 ? &forming->held : &forming->excluded;
        return principal->begins || principal->n_passes > 0 ? &forming->waiting : &forming->emptied;
}

/* Rows by the counters, as long as there is room. */
static void forming_fair(struct forming *forming) {
        struct list *principals = &forming->scheduler->principals;

        while (forming->rows_left > 0 && !list_empty(principals)) {
                struct principal *principal = list_entry(principals->next, struct principal, link);
                struct sched_stream *stream = principal_next(forming, principal);

                if (stream && stream->granted == 0 && forming->n_picks == forming->max)
                        break;
                list_unlink(&principal->link);
                if (stream) {
                        forming_grant(forming, stream);
                        principal_insert(principals, principal);
                } else {
                        list_append(forming_leaves(forming, principal), &principal->link);
                }
        }
}

static bool forming_has_prompts(const struct forming *forming) {
        for (uint32_t i = 0; i < forming->n_picks; i++)
                if (!forming->picks[i].stream->decoding)
                        return true;
        return false;
}

static void recall_early(struct forming *forming, struct list *from) {
        struct principal *principal, *next;

        list_for_each_safe(principal, next, from, link) {
                if (!principal->early)
                        continue;
                principal->early = false;
                principal->decodes_left = principal->n_decodes;
                list_unlink(&principal->link);
                principal_insert(&forming->scheduler->principals, principal);
        }
}

/* Those who generate and were left out add next to nothing where all experts are read. */
static void forming_recall(struct forming *forming) {
        recall_early(forming, &forming->waiting);
        recall_early(forming, &forming->held);
        forming_fair(forming);
}

/* A prompt for long passes that may have rows of this one; beside a prompt, for which all experts are read. */
static struct sched_stream *principal_filler(struct forming *forming, const struct principal *principal) {
        struct sched_stream *stream;

        list_for_each(stream, &principal->prompts, link)
                if (!stream->rides && stream->granted == 0 && stream->model->load.terms[COST_ROW_PROMPT] > 0)
                        return stream;
        return NULL;
}

/* Of the one that is owed most. */
static struct sched_stream *forming_filler(struct forming *forming) {
        struct principal *principal;
        struct sched_stream *stream, *choice = NULL;

        list_for_each(principal, &forming->waiting, link) {
                if (choice && !counter_before(principal->counter, choice->principal->counter))
                        continue;
                stream = principal_may_run(forming->scheduler, principal) ? principal_filler(forming, principal) : NULL;
                choice = stream ? stream : choice;
        }
        return choice;
}

/* Its rows that the pass can take along until it takes `until`; 0 if they are hardly worth a place. */
static uint32_t filler_rows(const struct forming *forming, const struct sched_stream *stream, uint64_t until) {
        const struct sched_model *model = stream->model;
        uint32_t max = MIN(MIN(forming->rows_left, forming->prompt_left), stream->pending), rows;

        if (model->short_rows_max)
                max = MIN(max, model->short_rows_max);
        if (until <= forming->forecast || max < SCHED_CHUNK)
                return 0;
        rows = cost_prompt_rows(&model->cost, &model->load, stream->position, stream->cap_milli,
                                until - forming->forecast, max);
        return rows < SCHED_CHUNK ? 0 : rows;
}

/* Where prompts are in the pass that cannot wait, experts are read for few rows: rows of long ones come along, which
 * then have less to do by themselves. Not while prompts for short passes wait for their limit. */
static void forming_fill(struct forming *forming) {
        uint64_t alone = forming->forecast, until;

        until = alone + forming_ride_nsec(forming, alone, alone * SCHED_FILL_PERCENT / 100);
        while (list_empty(&forming->held) && forming->n_picks < forming->max) {
                struct sched_stream *stream = forming_filler(forming);
                uint32_t rows = stream ? filler_rows(forming, stream, until) : 0;

                if (rows == 0)
                        break;
                rows = principal_reserve(stream, rows);
                forming->prompt_left -= rows;
                forming_add(forming, stream, rows);
        }
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
        forming_fair(&forming);
        if (forming.n_picks == 0 || forming_has_prompts(&forming))
                forming_recall(&forming);
        forming_fill(&forming);
        forming_end(&forming);
        return forming.n_picks;
}
