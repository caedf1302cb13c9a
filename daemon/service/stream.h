/* SPDX-License-Identifier: MIT */
#pragma once

/* One generation, from the submission to the last event. */

#include "outbox.h"
#include "prefix.h"
#include "request.h"
#include "sampler.h"
#include "scheduler.h"
#include "server.h"
#include "stop.h"
#include "tokenizer.h"
#include "trace.h"
#include "user.h"
#include "worker.h"

struct peer;

enum stream_state {
        STREAM_TOKENIZING, /* the worker has it */
        STREAM_WAITING,    /* for KV pages or a place among its user's running ones */
        STREAM_RUNNING,    /* has a sequence */
        STREAM_ENDED,      /* only events are left, or nothing */
};

/* The cap of the rows from `row` on, and how they spend it: evenly, where the first `row` of a stretch counts as its
 * row 0, so that each keeps its promise by itself; or as the router sees use. Kept, because a row that is computed
 * again gets what it got the first time. */
struct stream_cap {
        uint32_t row, cap_milli, min_milli;
        bool adaptive;
        enum cap_rule rule; /* what made it so */
};

struct stream {
        struct peer *peer;   /* NULL: it is gone */
        struct list link;    /* in peer->streams */
        struct list place;   /* in offer->running or offer->waiting */
        struct list stalled; /* in peer->stalled */
        struct list grave;   /* in server->graves: freed when nothing can refer to it any more */
        enum stream_state state;
        struct offer *offer;
        struct tenant *tenant;
        struct user *user;
        struct user_charge charge, prompt_charge;
        struct sched_stream sched;
        uint64_t id;     /* the client's */
        uint64_t serial; /* by age: what ps shows */
        uint32_t position; /* in the queue, from 1; and */
        uint64_t begins; /* in how many nsec, UINT64_MAX: not known; of one that waits, as of estimate_waiting() */
        uint32_t flags;  /* WIRE_GENERATE_* */
        uint32_t max_tokens, experts_milli;
        uint32_t ride_experts; /* not 0: it rides on the experts of its user's other requests (struct step_part) */

        struct request request; /* until it is tokenised */
        struct job job;
        int job_result;
        struct reason job_reason;

        struct token_list tokens; /* prompt, then what was generated */
        uint32_t n_prompt;
        uint32_t n_generated; /* or, of the prompt, scored: what the client has been told */
        struct sequence *sequence;
        struct prefix_cursor prefix; /* of the sequence, in the offer's cache */
        struct sampler *sampler;
        struct detokenizer detokenizer;
        struct stop_matcher stops;
        struct stream_cap *caps;
        uint32_t n_caps;
        uint32_t rows_seen;     /* rows that it has had at least once */
        uint32_t n_cached;      /* of them, those that it did not compute but found in the prefix cache */
        uint32_t rows_flying;   /* in the running forward pass */
        bool cancelled;         /* to be ended when the forward pass is over */
        uint64_t activations;
        struct outbox outbox;
        struct trace trace;
};

/* Makes a stream of a checked request, which it takes over, and begins to tokenise it. On failure returns a positive
 * errno for the client, with a reason, or negative errno; the request is the caller's then. */
int stream_new(struct stream **ret, struct peer *peer, uint64_t id, struct request *request, struct reason *reason);
/* Only server_reap() and server_deinit() do this: whoever ends a stream puts it into server->graves. Takes NULL. */
void stream_free(struct stream *stream);
/* The peer is gone: ends the stream now, or when the worker or the forward pass that has it is done. */
void stream_abandon(struct stream *stream);
/* The worker is done with it. */
void stream_tokenized(struct stream *stream);

/* Ends it early, now or when its forward pass is over. */
void stream_cancel(struct stream *stream);
/* Ends it with an error event; not while it is in a forward pass. */
void stream_fail(struct stream *stream, int error, const char *sentence);
/* The same, because its model's file is not what was opened; the file is opened anew. */
void stream_fail_stale(struct stream *stream);

/* Ends it as if its context were full, for a reason that `moectl explain` tells; not while it is in a forward pass. */
void stream_end_full(struct stream *stream, const char *sentence);

/* The cap that holds for its rows from now on: of its peer's policy, the request and the model. -ENOMEM. */
int stream_update_cap(struct stream *stream);
/* The policy of its peer is new. -ENOMEM. */
int stream_update_policy(struct stream *stream);
/* Books it on another tenant from now on. */
void stream_move(struct stream *stream, struct tenant *tenant);

/* Whether it tells how likely its prompt is, and generates nothing. */
static inline bool stream_scores(const struct stream *stream) {
        return stream->flags & WIRE_GENERATE_SCORE;
}

/* Tells the scheduler what could run: nothing while events wait for room. */
void stream_schedule(struct stream *stream);
/* Takes its KV back; it waits for pages and is then computed again. Not while it is in a forward pass. */
void stream_evict(struct stream *stream);

/* Writes all that the bits of `rows` rows from `position` on depend on, as a part without a sequence; `allowances` and
 * `budgets` have room for them. */
void stream_describe(const struct stream *stream, uint32_t position, uint32_t rows, uint32_t *allowances,
                     struct step_budget *budgets, struct step_part *ret);
/* Writes the part of the next forward pass that is `rows` rows of this stream, which get the cap that holds now;
 * `allowances` and `budgets` have room for them. */
void stream_part(struct stream *stream, uint32_t rows, uint32_t *allowances, struct step_budget *budgets,
                 struct step_part *ret);
/* Takes the results of a forward pass: counts, chooses a token, sends it. Does not yet make room for the next row: that
 * may take pages from streams whose results have not been taken. */
void stream_advance(struct stream *stream, const struct step_part *part);
/* Gives the parts whose streams ride, and those that they may ride on, the same group: those of one user. */
void streams_group(struct stream *const *streams, struct step_part *parts, uint32_t n);
/* Tells the client how much of its prompt is there. */
void stream_tell_progress(struct stream *stream);
/* Notes how many rows the forward pass has that these parts are of. */
void streams_count_pass(struct stream *const *streams, const struct step_part *parts, uint32_t n);
/* The forward pass was given up after so many of its layers: ends the stream if it was cancelled meanwhile, or else
 * puts it back to where it was before. */
void stream_given_up(struct stream *stream, uint32_t layers_done);
/* The forward pass failed; nothing was computed. */
void stream_not_advanced(struct stream *stream, int error);

/* Sends what waits. When all is out the stream goes on, or is buried if it has ended. */
void stream_flush(struct stream *stream);
/* "tokenizing", "waiting", "running", "stalled" (its client does not read), "ended". */
const char *stream_state_name(const struct stream *stream);
/* The cap that its next row has, mean experts per token and layer × 1000. */
uint32_t stream_cap_milli(const struct stream *stream);
