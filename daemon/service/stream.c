/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "change.h"
#include "estimate.h"
#include "offer.h"
#include "pages.h"
#include "peer.h"
#include "prefixes.h"
#include "prompt.h"
#include "stream.h"

enum {
        SCORE_ROWS_MAX = 256,            /* of a prompt to be scored, in one iteration: as many events wait at most */
        SCORE_LOGITS_MAX = 4 * 1024 * 1024, /* numbers that all that are scored share: rows × vocabulary */
};

static struct server *stream_server(const struct stream *stream) {
        return stream->offer->server;
}

static void stream_tokenize(struct job *job) {
        struct stream *stream = container_of(job, struct stream, job);

        stream->job_result =
                prompt_tokenize(&stream->tokens, &stream->request, stream->offer->model, &stream->job_reason);
}

static int stream_init_text(struct stream *stream) {
        const struct request *request = &stream->request;
        const struct tokenizer *tokenizer = model_tokenizer(stream->offer->model);
        /* An answer in a chat begins a text; a continuation keeps the space before its first word. */
        unsigned flags = request->kind == WIRE_PROMPT_MESSAGES ? 0 : DETOKENIZE_CONTINUE;
        int r;

        r = detokenizer_init(&stream->detokenizer, tokenizer, flags);
        if (r < 0)
                return r;
        r = stop_matcher_init(&stream->stops, request->stops, request->n_stops);
        if (r < 0)
                return r;
        return sampler_new(&stream->sampler, &request->sampler, stream->offer->scratch);
}

static void stream_init(struct stream *stream, struct peer *peer, struct offer *offer, uint64_t id) {
        *stream = (struct stream) {
                .peer = peer,
                .offer = offer,
                .id = id,
                .serial = ++peer->server->serials,
                .user = user_ref(peer->user),
                .tenant = tenant_ref(peer->tenant),
                .tokens = TOKEN_LIST_NULL,
                .outbox = OUTBOX_NULL,
        };
        list_init(&stream->link);
        list_init(&stream->place);
        list_init(&stream->stalled);
        list_init(&stream->grave);
        list_init(&stream->job.link);
        trace_init(&stream->trace, stream->serial);
        sched_stream_init(&stream->sched, &peer->tenant->principal, &offer->sched);
        stream->job.run = stream_tokenize;
        stream->tenant->n_streams++;
        peer->server->n_streams++;
        offer_use(offer);
}

/* Only long prompts wait for the worker, so only their copies can pile up. */
static bool stream_needs_worker(const struct stream *stream) {
        return stream->request.kind != WIRE_PROMPT_TOKENS && stream->request.prompt_bytes > PROMPT_INLINE_MAX;
}

static int stream_charge_prompt(struct stream *stream, struct reason *reason) {
        int r;

        if (!stream_needs_worker(stream))
                return 0;
        r = user_charge(stream->user, &stream->prompt_charge, USER_ARENA, stream->request.prompt_bytes, reason);
        return r == USER_E_QUOTA ? EDQUOT : r;
}

static int stream_start(struct stream *stream) {
        struct server *server = stream_server(stream);

        list_append(&stream->peer->streams, &stream->link);
        stream->peer->n_streams++;
        server->metrics.requests++;
        stream->state = STREAM_TOKENIZING;
        if (stream_needs_worker(stream)) {
                worker_submit(&server->worker, &stream->job);
                return 0;
        }
        stream->job.run(&stream->job);
        stream_tokenized(stream);
        return 0;
}

int stream_new(struct stream **ret, struct peer *peer, uint64_t id, struct request *request, struct reason *reason) {
        struct offer *offer = server_offer(peer->server, request->model);
        struct user_charge charge = USER_CHARGE_NULL;
        struct stream *stream;
        int r;

        if (peer->server->draining)
                return reason_return(reason, ESHUTDOWN, "the daemon is stopping and takes no new request");
        if (!offer)
                return reason_return(reason, ENOENT, "there is no model with handle %u; `open` tells the handle",
                                     request->model);
        if (peer_find_stream(peer, id))
                return reason_return(reason, EEXIST, "request %llu is still running; each needs a number of its own",
                                     (unsigned long long) id);
        r = user_charge(peer->user, &charge, USER_REQUESTS, 1, reason);
        if (r != 0)
                return r == USER_E_QUOTA ? EDQUOT : r;
        stream = malloc(sizeof(*stream));
        if (!stream) {
                user_charge_deinit(&charge);
                return -ENOMEM;
        }
        stream_init(stream, peer, offer, id);
        stream->charge = charge;
        stream->flags = request->flags;
        stream->max_tokens = request->max_tokens;
        stream->experts_milli = request->experts_milli;
        stream->ride_experts = model_info(offer->model)->has_capacity ? 0 : request->ride_experts;
        stream->request = *request;
        r = stream_charge_prompt(stream, reason);
        if (r == 0)
                r = stream_init_text(stream);
        if (r == 0)
                r = stream_update_policy(stream);
        if (r != 0) {
                stream->request = (struct request) REQUEST_NULL;
                stream_free(stream);
                return r;
        }
        *request = (struct request) REQUEST_NULL;
        *ret = stream;
        return stream_start(stream);
}

/* Takes it out of the scheduler and gives its sequence back. */
static void stream_release(struct stream *stream) {
        struct offer *offer = stream->offer;

        sched_stream_set_pending(&stream_server(stream)->scheduler, &stream->sched, 0, false);
        if (stream->state == STREAM_RUNNING) {
                offer->n_running--;
                offer->n_scoring -= stream_scores(stream);
                stream->user->n_running--;
        } else if (stream->state == STREAM_WAITING) {
                offer->n_waiting--;
        }
        list_unlink(&stream->place);
        prefixes_leave(stream);
        sequence_free(stream->sequence);
        stream->sequence = NULL;
        offers_admit(offer->server);
}

void stream_free(struct stream *stream) {
        if (!stream)
                return;
        stream_release(stream);
        if (stream->peer)
                stream->peer->n_streams -= !list_empty(&stream->link);
        list_unlink(&stream->link);
        list_unlink(&stream->stalled);
        list_unlink(&stream->grave);
        stream_server(stream)->n_streams--;
        offer_unuse(stream->offer);
        stream->tenant->n_streams--;
        request_deinit(&stream->request);
        token_list_deinit(&stream->tokens);
        detokenizer_deinit(&stream->detokenizer);
        stop_matcher_deinit(&stream->stops);
        sampler_free(stream->sampler);
        free(stream->caps);
        trace_deinit(&stream->trace);
        outbox_deinit(&stream->outbox);
        user_charge_deinit(&stream->charge);
        user_charge_deinit(&stream->prompt_charge);
        user_unref(stream->user);
        tenant_unref(stream->tenant);
        free(stream);
}

static void stream_bury(struct stream *stream) {
        if (list_empty(&stream->grave))
                list_append(&stream_server(stream)->graves, &stream->grave);
}

static const char *done_name(enum wire_done how) {
        static const char *const names[] = {
                [WIRE_DONE_EOG] = "end",
                [WIRE_DONE_LENGTH] = "length",
                [WIRE_DONE_STOP] = "stop",
                [WIRE_DONE_CANCELLED] = "cancelled",
        };

        return names[how];
}

/* For `moectl explain`. Without memory for it, it is forgotten. */
static void stream_record(struct stream *stream, const char *outcome, const char *sentence) {
        struct record *record;

        stream->trace.ended = now_nsec();
        estimate_learn(stream);
        if (record_new(&record, stream, outcome, sentence) == 0)
                history_add(&stream_server(stream)->history, record);
}

void stream_abandon(struct stream *stream) {
        stream->peer->n_streams--;
        list_unlink(&stream->link);
        list_unlink(&stream->stalled);
        stream->peer = NULL;
        stream->cancelled = true;
        if (stream->state == STREAM_TOKENIZING || stream->rows_flying > 0)
                return;
        if (stream->state != STREAM_ENDED)
                stream_record(stream, done_name(WIRE_DONE_CANCELLED), NULL);
        stream_release(stream);
        stream->state = STREAM_ENDED;
        stream_bury(stream);
}

void stream_flush(struct stream *stream) {
        if (!stream->peer || stream->peer->dead)
                return;
        peer_flush(stream->peer, &stream->outbox);
        if (!outbox_empty(&stream->outbox)) {
                if (list_empty(&stream->stalled)) {
                        list_append(&stream->peer->stalled, &stream->stalled);
                        stream_server(stream)->metrics.stalls++;
                }
        } else {
                list_unlink(&stream->stalled);
                if (stream->state == STREAM_ENDED)
                        stream_bury(stream);
        }
        stream_schedule(stream);
}

/* The box could not grow: the client would miss an event, so the connection cannot go on. */
static void stream_put(struct stream *stream, int r) {
        if (r < 0 && stream->peer)
                peer_drop(stream->peer, "the daemon has no memory left for this connection's events");
}

/* The text that the end of the generation sets free: an incomplete character, what could have become a stop string. */
static void stream_put_done(struct stream *stream, enum wire_done how) {
        struct wire_completion event = {
                .request = stream->id,
                .activations = stream->activations,
                .event = WIRE_EVENT_DONE,
                .detail = (uint16_t) how,
                .token = (int32_t) stream->n_cached,
                .value = stream->n_generated,
                .cap_milli = stream_cap_milli(stream),
        };
        _cleanup_(freep) char *joined = NULL;
        const char *rest = "", *text = "";
        size_t n_rest = 0, n_text = 0, n_first;
        bool found = false;
        int r = 0;

        if (how != WIRE_DONE_STOP) {
                text = detokenizer_flush(&stream->detokenizer, &n_text);
                r = stop_matcher_feed(&stream->stops, text, n_text, &text, &n_text, &found);
                n_first = n_text;
                joined = malloc(n_text + STOP_LENGTH_MAX);
                if (r < 0 || !joined) {
                        stream_put(stream, -ENOMEM);
                        return;
                }
                if (n_first > 0)
                        memcpy(joined, text, n_first);
                if (!found)
                        stop_matcher_end(&stream->stops, &rest, &n_rest);
                if (n_rest > 0)
                        memcpy(joined + n_first, rest, n_rest);
                text = joined;
                n_text = n_first + n_rest;
        }
        stream_put(stream, outbox_put_last(&stream->outbox, WIRE_EVENT_TEXT, &event, text, n_text));
}

/* What is left of it is its last events, for as long as its client does not read them. */
static void stream_conclude(struct stream *stream) {
        stream_release(stream);
        stream->state = STREAM_ENDED;
        token_list_deinit(&stream->tokens);
        stream->tokens = (struct token_list) TOKEN_LIST_NULL;
}

static void stream_end_for(struct stream *stream, enum wire_done how, const char *sentence) {
        struct metrics *metrics = &stream_server(stream)->metrics;

        stream_record(stream, done_name(how), sentence);
        stream_conclude(stream);
        metrics->requests_done++;
        metrics->requests_cancelled += how == WIRE_DONE_CANCELLED;
        if (!stream->peer) {
                stream_bury(stream);
                return;
        }
        stream_put_done(stream, how);
        stream_flush(stream);
}

static void stream_end(struct stream *stream, enum wire_done how) {
        stream_end_for(stream, how, NULL);
}

void stream_end_full(struct stream *stream, const char *sentence) {
        stream_end_for(stream, WIRE_DONE_LENGTH, sentence);
}

void stream_fail(struct stream *stream, int error, const char *sentence) {
        stream_record(stream, "error", sentence);
        stream_conclude(stream);
        stream_server(stream)->metrics.requests_failed++;
        if (!stream->peer) {
                stream_bury(stream);
                return;
        }
        stream_put(stream, outbox_put_error(&stream->outbox, stream->id, error, sentence));
        stream_flush(stream);
}

void stream_fail_stale(struct stream *stream) {
        change_reopen(stream->offer);
        stream_fail(stream, EIO, "the model's file was written to or cut short, or cannot be read; it is opened anew");
}

void stream_cancel(struct stream *stream) {
        stream->cancelled = true;
        if (stream->state == STREAM_ENDED || stream->state == STREAM_TOKENIZING || stream->rows_flying > 0)
                return;
        stream_end(stream, WIRE_DONE_CANCELLED);
}

static int stream_check_tokens(const struct stream *stream, struct reason *reason) {
        const struct model_info *info = model_info(stream->offer->model);
        uint32_t prompt_max = stream_server(stream)->config->limits.prompt_max;

        if (stream->job_result < 0)
                return reason_return(reason, ENOMEM, "the daemon has no memory to tokenise the prompt");
        if (stream->job_result > 0)
                return reason_return(reason, stream->job_result, "%s", stream->job_reason.text);
        if (stream->tokens.n == 0)
                return reason_return(reason, EINVAL, "the prompt has no tokens");
        if (stream_scores(stream) && stream->tokens.n < 2)
                return reason_return(reason, EINVAL, "the prompt has one token, and the first of a text is not scored");
        if (prompt_max > 0 && stream->tokens.n > prompt_max)
                return reason_return(reason, EMSGSIZE,
                                     "the prompt has %zu tokens; PromptMax=%u of [Limits] in moed.conf allows no more",
                                     stream->tokens.n, prompt_max);
        if (stream_scores(stream) && stream->tokens.n == info->context)
                return 0;
        if (stream->tokens.n >= info->context)
                return reason_return(reason, EMSGSIZE,
                                     "the prompt has %zu tokens; the context of model %s is %u, and the answer needs "
                                     "room in it too",
                                     stream->tokens.n, stream->offer->name, info->context);
        return 0;
}

void stream_tokenized(struct stream *stream) {
        struct wire_completion event = { .request = stream->id, .event = WIRE_EVENT_ACCEPTED };
        struct reason reason = REASON_INIT;
        int r;

        request_deinit(&stream->request);
        user_charge_deinit(&stream->prompt_charge);
        if (stream->cancelled) {
                stream_end(stream, WIRE_DONE_CANCELLED);
                return;
        }
        r = stream_check_tokens(stream, &reason);
        if (r != 0) {
                stream_fail(stream, r, reason.text);
                return;
        }
        stream->n_prompt = (uint32_t) stream->tokens.n;
        stream->state = STREAM_WAITING;
        list_append(&stream->offer->waiting, &stream->place);
        stream->offer->n_waiting++;
        stream->offer->admit = true;
        event.value = stream->n_prompt;
        /* Its low 48 bits. */
        event.token = (int32_t) (uint32_t) stream->serial;
        event.detail = (uint16_t) (stream->serial >> 32);
        event.cap_milli = stream_cap_milli(stream);
        stream_put(stream, outbox_put(&stream->outbox, &event));
        stream_flush(stream);
}

const char *stream_state_name(const struct stream *stream) {
        switch (stream->state) {
        case STREAM_TOKENIZING:
                return "tokenizing";
        case STREAM_WAITING:
                return "waiting";
        case STREAM_RUNNING:
                return outbox_empty(&stream->outbox) ? "running" : "stalled";
        default:
                return "ended";
        }
}

uint32_t stream_cap_milli(const struct stream *stream) {
        return stream->n_caps ? stream->caps[stream->n_caps - 1].cap_milli : 0;
}

/* The first row that is not under way. */
static uint32_t stream_next_row(const struct stream *stream) {
        if (!stream->sequence)
                return stream->rows_seen;
        return MAX(stream->rows_seen, sequence_length(stream->sequence) + stream->rows_flying);
}

/* Whether rows that come later go on as those before did. */
static bool same_stretch(const struct stream_cap *a, const struct stream_cap *b) {
        return a->cap_milli == b->cap_milli && a->adaptive == b->adaptive &&
               (!a->adaptive || a->min_milli == b->min_milli);
}

int stream_update_cap(struct stream *stream) {
        const struct policy *policy = &stream->peer->policy;
        struct stream_cap now = { .row = stream_next_row(stream), .min_milli = policy->experts_min_milli,
                                  .adaptive = policy->adaptive };
        struct stream_cap *last = NULL, *grown;

        now.cap_milli = sched_cap_milli(stream->sched.principal, policy, stream->experts_milli,
                                        model_info(stream->offer->model)->experts_used, &now.rule);
        if (stream->n_caps > 0)
                last = &stream->caps[stream->n_caps - 1];
        if (last && same_stretch(last, &now))
                now.row = last->row;
        if (last && last->row == now.row) {
                *last = now;
                return 0;
        }
        grown = realloc(stream->caps, (stream->n_caps + 1) * sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        stream->caps = grown;
        stream->caps[stream->n_caps++] = now;
        return 0;
}

int stream_update_policy(struct stream *stream) {
        int r = trace_rules(&stream->trace, stream_next_row(stream), &stream->peer->rules);

        return r < 0 ? r : stream_update_cap(stream);
}

void stream_move(struct stream *stream, struct tenant *tenant) {
        struct scheduler *scheduler = &stream_server(stream)->scheduler;

        if (stream->tenant == tenant)
                return;
        sched_stream_move(scheduler, &stream->sched, &tenant->principal);
        stream->tenant->n_streams--;
        tenant_unref(stream->tenant);
        stream->tenant = tenant_ref(tenant);
        stream->tenant->n_streams++;
        if (stream->rows_flying == 0)
                stream_schedule(stream);
}

/* Rows that could run now. The last token of a prompt that is scored predicts nothing that anybody asked for. */
static uint32_t stream_rows_left(const struct stream *stream) {
        const struct offer *offer = stream->offer;
        uint32_t left = (uint32_t) stream->tokens.n - sequence_length(stream->sequence);
        uint64_t shared;

        if (!stream_scores(stream))
                return left;
        shared = SCORE_LOGITS_MAX / ((uint64_t) model_info(offer->model)->vocab * MAX(offer->n_scoring, 1u));
        return MIN(left - 1, (uint32_t) MIN(MAX(shared, UINT64_C(1)), (uint64_t) SCORE_ROWS_MAX));
}

void stream_schedule(struct stream *stream) {
        struct scheduler *scheduler = &stream_server(stream)->scheduler;
        uint32_t left;

        if (stream->rows_flying > 0)
                return;
        if (stream->state != STREAM_RUNNING || !outbox_empty(&stream->outbox) || stream->cancelled) {
                sched_stream_set_pending(scheduler, &stream->sched, 0, false);
                return;
        }
        left = stream_rows_left(stream);
        stream->sched.position = sequence_length(stream->sequence);
        stream->sched.cap_milli = stream_cap_milli(stream);
        if (prefixes_behind(stream)) {
                stream->offer->behind = true;
                left = 0;
        }
        sched_stream_set_pending(scheduler, &stream->sched, left,
                                 left == 1 && stream->n_generated > 0 && !stream_scores(stream));
}

void stream_evict(struct stream *stream) {
        struct offer *offer = stream->offer;
        struct stream *other;

        stream_server(stream)->metrics.evictions++;
        stream->trace.evictions++;
        stream_release(stream);
        stream->state = STREAM_WAITING;
        offer->n_waiting++;
        /* Oldest first: it goes before those that came later. */
        list_for_each(other, &offer->waiting, place)
                if (other->serial > stream->serial)
                        break;
        list_append(&other->place, &stream->place);
}

/* Of so many rows from `position` on, how many at their end have logits that count: of a prompt that is scored all
 * whose tokens were not told before an eviction. */
static uint32_t stream_logits(const struct stream *stream, uint32_t position, uint32_t rows) {
        uint32_t end = position + rows, told = stream->n_generated;

        if (!stream_scores(stream))
                return end == stream->tokens.n;
        return end > told ? MIN(rows, end - told) : 0;
}

void stream_describe(const struct stream *stream, uint32_t position, uint32_t rows, uint32_t *allowances,
                     struct step_budget *budgets, struct step_part *ret) {
        uint32_t moe_layers = model_info(stream->offer->model)->moe_layers, segment = 0;

        for (uint32_t i = 0; i < rows; i++) {
                const struct stream_cap *cap;
                bool adaptive;

                while (segment + 1 < stream->n_caps && stream->caps[segment + 1].row <= position + i)
                        segment++;
                cap = &stream->caps[segment];
                adaptive = cap->adaptive || stream->ride_experts > 0;
                allowances[i] = sched_allowance(cap->cap_milli, moe_layers, position + i - cap->row);
                budgets[i] = (struct step_budget) { .cap_milli = adaptive ? cap->cap_milli : STEP_BUDGET_NONE,
                                                    .min_milli = cap->min_milli };
        }
        *ret = (struct step_part) {
                .tokens = stream->tokens.ids + position,
                .allowances = allowances,
                .budgets = budgets,
                .ride_experts = stream->ride_experts,
                .count = rows,
                .prompt = position < stream->n_prompt ? MIN(rows, stream->n_prompt - position) : 0,
        };
}

void stream_part(struct stream *stream, uint32_t rows, uint32_t *allowances, struct step_budget *budgets,
                 struct step_part *ret) {
        uint32_t position = sequence_length(stream->sequence);

        /* Without memory for another stretch, the last one goes on. */
        (void) stream_update_cap(stream);
        stream_describe(stream, position, rows, allowances, budgets, ret);
        ret->sequence = stream->sequence;
        ret->logits = stream_logits(stream, position, rows);
        stream->rows_flying = rows;
}

static void stream_count(struct stream *stream, const struct step_part *part) {
        struct metrics *metrics = &stream_server(stream)->metrics;
        uint32_t position = sequence_length(stream->sequence);
        uint32_t fresh = position > stream->rows_seen ? position - stream->rows_seen : 0;
        bool prompt = position <= stream->n_prompt;

        stream->rows_seen += fresh;
        stream->activations += part->used;
        sched_settle(&stream->sched, part->count, prompt, part->used);
        stream->tenant->row_layers += (uint64_t) part->count * model_info(stream->offer->model)->moe_layers;
        metrics->activations += part->used;
        metrics->tokens_recomputed += part->count - fresh;
        stream->trace.recomputed += part->count - fresh;
        if (prompt)
                metrics->tokens_prompt += fresh;
        if (stream->peer) {
                stream->peer->activations += part->used;
                stream->peer->row_layers += (uint64_t) part->count * model_info(stream->offer->model)->moe_layers;
                stream->peer->tokens_prompt += prompt ? fresh : 0;
        }
}

/* Sends the token with the text that has become certain. Returns whether a stop string is complete. */
static bool stream_put_token(struct stream *stream, int32_t token, float logprob, uint32_t used) {
        struct wire_completion event = {
                .request = stream->id,
                .activations = stream->activations,
                .event = WIRE_EVENT_TOKEN,
                .detail = stream->ride_experts > 0 ? WIRE_TOKEN_RODE : 0,
                .token = token,
                .value = used,
                .logprob = logprob,
                .cap_milli = stream_cap_milli(stream),
        };
        const char *text;
        size_t length;
        bool found = false;
        int r;

        text = detokenizer_push(&stream->detokenizer, token, &length);
        r = stop_matcher_feed(&stream->stops, text, length, &text, &length, &found);
        if (r == 0)
                r = outbox_put_text(&stream->outbox, &event, text, length);
        stream_put(stream, r);
        return found;
}

static void stream_note_first(struct stream *stream) {
        if (stream->trace.first == 0)
                stream->trace.first = now_nsec();
}

static void stream_choose(struct stream *stream, const struct step_part *part) {
        const struct model_info *info = model_info(stream->offer->model);
        bool logprobs = stream->flags & WIRE_GENERATE_LOGPROBS, found;
        float logprob = 0.0f;
        int32_t token;

        stream_note_first(stream);
        token = sampler_choose(stream->sampler, part->logits_out, stream->tokens.ids, (uint32_t) stream->tokens.n,
                               logprobs ? &logprob : NULL);
        if (!(stream->flags & WIRE_GENERATE_IGNORE_EOG) &&
            tokenizer_is_eog(model_tokenizer(stream->offer->model), token)) {
                stream_end(stream, WIRE_DONE_EOG);
                return;
        }
        if (token_list_append(&stream->tokens, token) < 0) {
                stream_fail(stream, ENOMEM, "the daemon has no memory for another token");
                return;
        }
        stream->n_generated++;
        stream->peer->tokens_generated++;
        stream_server(stream)->metrics.tokens_generated++;
        found = stream_put_token(stream, token, logprob, part->used_rows[part->count - 1]);
        if (found)
                stream_end(stream, WIRE_DONE_STOP);
        else if (stream->n_generated == stream->max_tokens || stream->tokens.n >= info->context)
                stream_end(stream, WIRE_DONE_LENGTH);
        else
                stream_flush(stream);
}

/* Tells of each row's successor how likely it was. */
static void stream_score(struct stream *stream, const struct step_part *part) {
        uint32_t vocab = model_info(stream->offer->model)->vocab;
        uint32_t row = sequence_length(stream->sequence) - part->logits;
        const uint32_t *used = part->used_rows + part->count - part->logits;
        struct wire_completion event = {
                .request = stream->id,
                .activations = stream->activations,
                .event = WIRE_EVENT_SCORE,
                .detail = stream->ride_experts > 0 ? WIRE_TOKEN_RODE : 0,
                .cap_milli = stream_cap_milli(stream),
        };
        size_t length;
        const char *text;

        stream_note_first(stream);
        if (stream->n_generated == 0)
                detokenizer_push(&stream->detokenizer, stream->tokens.ids[0], &length);
        for (uint32_t i = 0; i < part->logits; i++) {
                event.token = stream->tokens.ids[row + i + 1];
                event.logprob = sampler_logprob(part->logits_out + (size_t) i * vocab, vocab, event.token);
                event.value = used[i];
                text = detokenizer_push(&stream->detokenizer, event.token, &length);
                stream_put(stream, outbox_put_text(&stream->outbox, &event, text, length));
        }
        stream->n_generated += part->logits;
        if (stream->n_generated + 1 == stream->tokens.n)
                stream_end(stream, WIRE_DONE_LENGTH);
        else
                stream_flush(stream);
}

/* For a progress bar; one that finds no room is not worth waiting for. */
void stream_tell_progress(struct stream *stream) {
        struct wire_completion event = {
                .request = stream->id,
                .activations = stream->activations,
                .event = WIRE_EVENT_PROGRESS,
                .token = (int32_t) stream->n_cached,
                .value = sequence_length(stream->sequence),
        };
        uint32_t room = 0;

        if (stream->n_generated > 0 || !stream->peer || stream->peer->dead || !outbox_empty(&stream->outbox))
                return;
        if (ring_space(&stream->peer->completions, &room) != 0 || room == 0)
                return;
        stream_put(stream, outbox_put(&stream->outbox, &event));
        stream_flush(stream);
}

void stream_advance(struct stream *stream, const struct step_part *part) {
        stream->rows_flying = 0;
        stream_count(stream, part);
        prefixes_store(stream);
        if (stream->cancelled || !stream->peer)
                stream_end(stream, WIRE_DONE_CANCELLED);
        else if (stream_scores(stream))
                stream_score(stream, part);
        else if (sequence_length(stream->sequence) == stream->tokens.n)
                stream_choose(stream, part);
        else
                stream_tell_progress(stream);
}

void streams_group(struct stream *const *streams, struct step_part *parts, uint32_t n) {
        uint32_t groups = 0;

        for (uint32_t i = 0; i < n; i++) {
                if (streams[i]->ride_experts == 0 || parts[i].group > 0)
                        continue;
                groups++;
                for (uint32_t j = 0; j < n; j++)
                        if (streams[j]->user == streams[i]->user)
                                parts[j].group = groups;
        }
}

void stream_given_up(struct stream *stream, uint32_t layers_done) {
        stream->rows_flying = 0;
        sched_give_up(&stream->sched, layers_done, model_info(stream->offer->model)->layers);
        if (stream->cancelled)
                stream_end(stream, WIRE_DONE_CANCELLED);
        else
                stream_schedule(stream);
        if (stream->peer)
                peer_publish(stream->peer);
}

void streams_count_pass(struct stream *const *streams, const struct step_part *parts, uint32_t n) {
        uint64_t rows = 0;

        for (uint32_t i = 0; i < n; i++)
                rows += parts[i].count;
        for (uint32_t i = 0; i < n; i++) {
                streams[i]->trace.passes++;
                streams[i]->trace.rows += parts[i].count;
                streams[i]->trace.batch_rows += rows;
        }
}

void stream_not_advanced(struct stream *stream, int error) {
        char sentence[128];

        stream->rows_flying = 0;
        sched_give_up(&stream->sched, 0, 1);
        if (error == ESTALE) {
                stream_fail_stale(stream);
                return;
        }
        snprintf(sentence, sizeof(sentence), "the model's forward pass failed: %s", strerror(error));
        stream_fail(stream, EIO, sentence);
}
