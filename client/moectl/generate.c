/* SPDX-License-Identifier: MIT */
#include "generate.h"

#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "cli.h"
#include "progress.h"

enum {
        WAIT_MSEC = 200,          /* a signal just before the sleep is seen this late */
        SCORES_PER_PROGRESS = 64, /* they come in bursts */
};

void sampling_deinit(struct sampling *sampling) {
        free(sampling->stops.items);
}

void sampling_apply(const struct sampling *sampling, struct moed_request *q) {
        q->stops = sampling->stops.items;
        q->n_stops = sampling->stops.n;
        q->max_tokens = sampling->max_tokens;
        q->experts = sampling->experts;
        q->ride_experts = sampling->piggyback;
        q->flags |= sampling->piggyback > 0 ? MOED_RIDE : 0;
        q->temperature = sampling->temperature;
        q->top_k = sampling->top_k;
        q->top_p = sampling->top_p;
        q->min_p = sampling->min_p;
        q->repetition_penalty = sampling->repeat_penalty;
        q->presence_penalty = sampling->presence_penalty;
        q->frequency_penalty = sampling->frequency_penalty;
        q->penalty_window = sampling->penalty_window;
        q->seed = sampling->seed;
}

void generation_deinit(struct generation *g) {
        free(g->text);
        free(g->tokens);
}

double generation_tokens_per_second(const struct generation *g) {
        if (g->n_tokens < 2 || g->last <= g->first)
                return 0;
        return (double) (g->n_tokens - 1) * (double) NSEC_PER_SEC / (double) (g->last - g->first);
}

double generation_ttft_msec(const struct generation *g) {
        return g->first > 0 ? (double) (g->first - g->start) / (double) NSEC_PER_MSEC : 0;
}

const char *generation_finish(const struct generation *g) {
        switch (g->done) {
        case MOED_DONE_EOG:
                return "end";
        case MOED_DONE_LENGTH:
                return "length";
        case MOED_DONE_STOP:
                return "stop";
        case MOED_DONE_CANCELLED:
                return "cancelled";
        default:
                return "error";
        }
}

/* Room for `need` elements in an array that doubles. */
static int grow(void *array, size_t *size, size_t need, size_t element) {
        size_t n = MAX(*size, (size_t) 64);
        void *grown;

        if (need <= *size)
                return 0;
        while (n < need)
                n *= 2;
        grown = reallocarray(*(void **) array, n, element);
        if (!grown)
                return -ENOMEM;
        *(void **) array = grown;
        *size = n;
        return 0;
}

static int keep_text(struct generation *g, const struct moed_event *event) {
        int r;

        if (event->text_length == 0)
                return 0;
        r = grow(&g->text, &g->text_size, g->text_length + event->text_length, 1);
        if (r < 0)
                return r;
        memcpy(g->text + g->text_length, event->text, event->text_length);
        g->text_length += event->text_length;
        return 0;
}

static int keep_token(struct generation *g, const struct moed_event *event) {
        int r;

        r = grow(&g->tokens, &g->tokens_size, g->n_tokens + 1, sizeof(*g->tokens));
        if (r < 0)
                return r;
        g->tokens[g->n_tokens++] = (struct generation_token) {
                .id = event->token,
                .activations = event->activations,
                .logprob = event->logprob,
        };
        g->last = now_nsec();
        if (g->first == 0)
                g->first = g->last;
        g->cap = event->cap;
        return 0;
}

static int take_event(struct generation *g, const struct moed_event *event, bool print,
                      struct progress *progress) {
        int r = 0;

        g->activations = event->activations_total;
        g->number = event->number;
        switch (event->type) {
        case MOED_EVENT_ACCEPTED:
                g->prompt_tokens = event->value;
                progress_start(progress, event->value);
                return 0;
        case MOED_EVENT_PROGRESS:
                progress_show(progress, event->value);
                return 0;
        case MOED_EVENT_TOKEN:
                g->n_rode += event->flags & MOED_EVENT_RODE;
                r = keep_token(g, event);
                break;
        case MOED_EVENT_SCORE:
                if (g->n_tokens % SCORES_PER_PROGRESS == 0)
                        progress_show(progress, (uint32_t) g->n_tokens);
                r = keep_token(g, event);
                return r < 0 ? r : keep_text(g, event);
        case MOED_EVENT_DONE:
                g->done = event->done;
                g->cached_tokens = event->cached;
                break;
        case MOED_EVENT_ERROR:
                progress_clear(progress);
                return event->error;
        }
        progress_clear(progress);
        if (r == 0)
                r = keep_text(g, event);
        if (r == 0 && print && event->text_length > 0 &&
            (fwrite(event->text, 1, event->text_length, stdout) < event->text_length || fflush(stdout) != 0)) {
                g->unwritable = true;
                r = -EIO;
        }
        return r;
}

/* What a signal does: the first cancels, the second no longer waits for the daemon's answer. */
static int heed_interrupt(struct moed *m, uint64_t request, int *seen) {
        int count = interrupt_count();

        if (count == *seen)
                return 0;
        if (count > 1)
                return -EINTR;
        *seen = count;
        return moed_cancel(m, request);
}

int generate(struct moed *m, const struct moed_request *q, bool print, struct generation *g) {
        struct progress progress = PROGRESS_INIT;
        struct moed_event event;
        uint64_t request;
        int r, seen = 0;

        g->start = now_nsec();
        r = moed_submit(m, q, &request);
        while (r == 0 && g->done == 0) {
                r = heed_interrupt(m, request, &seen);
                if (r < 0)
                        break;
                r = moed_wait(m, &event, WAIT_MSEC);
                if (r == -EINTR)
                        r = 0;
                else if (r > 0 && event.request == request)
                        r = take_event(g, &event, print, &progress);
                else if (r > 0)
                        r = 0;
        }
        progress_clear(&progress);
        /* The next request on this connection should not find the rest of this one. */
        if (g->unwritable)
                moed_cancel(m, request);
        return r;
}
