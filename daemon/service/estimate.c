/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>

#include "base/util.h"
#include "estimate.h"
#include "offer.h"
#include "prefixes.h"
#include "queue.h"
#include "stream.h"

enum { ESTIMATE_MAX = 1024 }; /* that wait for one model: what is behind them is too far off */

/* An estimate is told in steps: what is left of others' prompts and answers is theirs to know. */
#define STEP_NSEC (NSEC_PER_SEC / 10)

static const double SHARE_RATE = 1.0 / 8;

/* Tokens that it may still generate. */
static double answer_most(const struct stream *stream) {
        double room = (double) model_info(stream->offer->model)->context - (double) stream->tokens.n;
        double limit = (double) stream->max_tokens - (double) stream->n_generated;

        return stream_scores(stream) ? 0.0 : MAX(stream->max_tokens ? MIN(limit, room) : room, 0.0);
}

/* Those with a limit of their own mean it, more or less; those without end when all is said. */
static double *answer_share(const struct stream *stream) {
        return &stream->tenant->answer_share[stream->max_tokens > 0];
}

/* INFINITY: nobody knows. */
static double answer_left(const struct stream *stream) {
        double most = answer_most(stream), share = *answer_share(stream);

        if (most == 0.0)
                return 0.0;
        if (share == 0.0)
                return stream->max_tokens > 0 ? most : INFINITY;
        return most * share;
}

void estimate_learn(const struct stream *stream) {
        double *share = answer_share(stream), now;

        if (stream_scores(stream) || stream->n_generated == 0)
                return;
        now = stream->n_generated / (stream->n_generated + answer_most(stream));
        *share = *share == 0.0 ? now : *share + SHARE_RATE * (now - *share);
}

static double prompt_nsec(const struct stream *stream, const struct cost_load *beside) {
        uint32_t done = stream->sequence ? sequence_length(stream->sequence) : 0;

        if (stream->tokens.n <= (size_t) done + 1)
                return 0.0;
        return queue_prompt_nsec(&stream->offer->sched.cost, beside, &(struct cost_rows) {
                .rows = (uint32_t) stream->tokens.n - done, .position = done, .prompt = true,
                .cap_milli = stream_cap_milli(stream), .logits = 1,
        });
}

/* A pass in which everybody who runs generates. */
static struct cost_load whole_pass(const struct offer *offer) {
        struct cost_load load = {};
        struct stream *stream;

        list_for_each(stream, &offer->running, place)
                if (!stream_scores(stream))
                        cost_load_add(&offer->sched.cost, &load, &(struct cost_rows) {
                                .rows = 1, .position = sequence_length(stream->sequence),
                                .cap_milli = stream_cap_milli(stream), .logits = 1,
                        });
        return load;
}

/* Models take turns: a row more for one comes with a row more for all. */
static double all_passes_nsec(const struct server *server) {
        struct offer *offer;
        double sum = 0.0;

        list_for_each(offer, &server->offers, link) {
                struct cost_load load = whole_pass(offer);

                sum += (double) cost_nsec(&offer->sched.cost, &load);
        }
        return sum;
}

static void describe(struct queue_entry *ret, const struct stream *stream, const struct cost_load *beside,
                     double pass) {
        *ret = (struct queue_entry) {
                .owner = &stream->user->n_played,
                .pages = stream->sequence ? sequence_pages(stream->sequence)
                                          : (uint32_t) DIV_ROUND_UP(stream->tokens.n, (size_t) KV_PAGE_TOKENS),
                .prompt_nsec = prompt_nsec(stream, beside),
                .answer_nsec = answer_left(stream) * pass,
        };
}

static void tell(struct stream *stream, const struct queue_entry *entry) {
        stream->begins = entry->begins_nsec < 1e18 ? DIV_ROUND_UP((uint64_t) entry->begins_nsec, STEP_NSEC) * STEP_NSEC
                                                   : UINT64_MAX;
}

static void estimate_offer(struct offer *offer, double pass) {
        const uint32_t n = offer->n_running + MIN(offer->n_waiting, (uint32_t) ESTIMATE_MAX);
        const struct queue_room room = {
                .pages_free = model_kv_pages_free(offer->model) + prefixes_idle(offer),
                .owner_max = offer->server->config->limits.streams_max,
        };
        const struct cost_load beside = whole_pass(offer);
        _cleanup_(freep) struct queue_entry *entries = calloc(n, sizeof(*entries));
        struct stream *stream;
        uint32_t i = 0;

        if (!entries)
                return;
        list_for_each(stream, &offer->running, place)
                describe(&entries[i++], stream, &beside, pass);
        list_for_each(stream, &offer->waiting, place)
                if (i < n)
                        describe(&entries[i++], stream, &beside, pass);
        queue_play(entries, offer->n_running, n, &room);
        i = offer->n_running;
        list_for_each(stream, &offer->waiting, place)
                if (i < n)
                        tell(stream, &entries[i++]);
}

/* Of a model that is asleep nothing is known until it is there. */
void estimate_waiting(const struct server *server) {
        double pass = all_passes_nsec(server);
        struct stream *stream;
        struct offer *offer;

        list_for_each(offer, &server->offers, link) {
                uint32_t position = 0;

                list_for_each(stream, &offer->waiting, place) {
                        stream->position = ++position;
                        stream->begins = UINT64_MAX;
                }
                if (offer->n_waiting > 0 && offer->state == OFFER_READY)
                        estimate_offer(offer, pass);
        }
}
