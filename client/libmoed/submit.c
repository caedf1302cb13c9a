/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/util.h"
#include "connection.h"

/* A request as it will lie in the arena. */
struct submission {
        struct wire_generate head;
        const struct moed_request *q;
        uint64_t bytes; /* head, stops and prompt */
};

static int request_check(struct moed *m, const struct moed_request *q) {
        static const struct moed_request none = MOED_REQUEST_INIT;
        const char *bytes = (const char *) q;

        if (q->size < sizeof(none))
                return reason_return(&m->reason, -EINVAL,
                                     "struct moed_request: size is not what MOED_REQUEST_INIT makes it");
        for (size_t i = sizeof(none); i < q->size; i++)
                if (bytes[i] != 0)
                        return reason_return(&m->reason, -EINVAL,
                                             "struct moed_request has a field that this version "
                                             "of libmoed does not know");
        for (size_t i = 0; i < ELEMENTS(q->reserved); i++)
                if (q->reserved[i] != 0 || q->reserved0 != 0)
                        return reason_return(&m->reason, -EINVAL,
                                             "struct moed_request: reserved must be zero");
        if ((q->flags & ~(uint32_t) _WIRE_GENERATE_FLAGS) != 0)
                return reason_return(&m->reason, -EINVAL, "struct moed_request: unknown flag");
        if (!(q->flags & MOED_RIDE) != (q->ride_experts == 0))
                return reason_return(&m->reason, -EINVAL,
                                     "struct moed_request: MOED_RIDE and ride_experts need each other");
        if (!!q->prompt + !!q->tokens + !!q->messages != 1)
                return reason_return(&m->reason, -EINVAL,
                                     "exactly one of prompt, tokens and messages is needed");
        if (!(q->experts >= 0) || q->experts > UINT32_MAX / 1000.0)
                return reason_return(&m->reason, -EINVAL,
                                     "experts: a number from 0 (the budget's own) up is needed");
        return 0;
}

/* Never rounded up: a cap is not exceeded. What is not 0 does not become 0, which would mean no cap. */
static uint32_t experts_milli(double experts) {
        double milli = floor(experts * 1000.0 + 1e-6);

        return experts > 0 ? MAX((uint32_t) milli, UINT32_C(1)) : 0;
}

static size_t message_length(const struct moed_message *message) {
        return message->length > 0 ? message->length : message->text ? strlen(message->text) : 0;
}

static size_t prompt_length(const struct moed_request *q) {
        return q->prompt_length > 0 ? q->prompt_length : strlen(q->prompt);
}

/* Kind and bytes of the prompt. False: the sum does not fit. */
static bool measure_prompt(const struct moed_request *q, uint32_t *kind, uint64_t *bytes) {
        *bytes = 0;
        if (q->prompt) {
                *kind = WIRE_PROMPT_TEXT;
                *bytes = prompt_length(q);
        } else if (q->tokens) {
                *kind = WIRE_PROMPT_TOKENS;
                return mul_u64(q->n_tokens, sizeof(int32_t), bytes);
        } else {
                *kind = WIRE_PROMPT_MESSAGES;
                for (size_t i = 0; i < q->n_messages; i++)
                        if (!add_u64(*bytes, sizeof(struct wire_message), bytes) ||
                            !add_u64(*bytes, message_length(&q->messages[i]), bytes))
                                return false;
        }
        return true;
}

static int submission_init(struct moed *m, struct submission *ret, const struct moed_request *q) {
        uint64_t stops = 0, prompt = 0;
        uint32_t kind = 0;

        for (size_t i = 0; i < q->n_stops; i++)
                if (!add_u64(stops, sizeof(struct wire_stop) + strlen(q->stops[i]), &stops))
                        return -E2BIG;
        if (!measure_prompt(q, &kind, &prompt) || prompt > m->layout.arena_size ||
            stops > m->layout.arena_size || sizeof(ret->head) + stops + prompt > m->layout.arena_size)
                return reason_return(&m->reason, -E2BIG,
                                     "the prompt does not fit the %llu bytes of this connection's arena; "
                                     "ask for more in moed_options.arena",
                                     (unsigned long long) m->layout.arena_size);
        ret->q = q;
        ret->bytes = sizeof(ret->head) + stops + prompt;
        ret->head = (struct wire_generate) {
                .size = sizeof(ret->head),
                .model = q->model,
                .flags = q->flags,
                .prompt_kind = kind,
                .prompt_bytes = (uint32_t) prompt,
                .stop_count = (uint32_t) q->n_stops,
                .stop_bytes = (uint32_t) stops,
                .max_tokens = q->max_tokens,
                .experts_milli = experts_milli(q->experts),
                .temperature = q->temperature,
                .top_k = q->top_k,
                .top_p = q->top_p,
                .min_p = q->min_p,
                .repetition_penalty = q->repetition_penalty,
                .presence_penalty = q->presence_penalty,
                .frequency_penalty = q->frequency_penalty,
                .penalty_window = q->penalty_window,
                .ride_experts = q->ride_experts,
                .seed = q->seed,
        };
        return 0;
}

static uint8_t *put(uint8_t *to, const void *data, size_t size) {
        if (size > 0)
                memcpy(to, data, size);
        return to + size;
}

static void submission_write(const struct submission *s, uint8_t *to) {
        const struct moed_request *q = s->q;

        to = put(to, &s->head, sizeof(s->head));
        for (size_t i = 0; i < q->n_stops; i++) {
                struct wire_stop stop = { .length = (uint32_t) strlen(q->stops[i]) };

                to = put(to, &stop, sizeof(stop));
                to = put(to, q->stops[i], stop.length);
        }
        if (q->prompt)
                put(to, q->prompt, s->head.prompt_bytes);
        else if (q->tokens)
                put(to, q->tokens, s->head.prompt_bytes);
        for (size_t i = 0; q->messages && i < q->n_messages; i++) {
                struct wire_message message = {
                        .role = q->messages[i].role,
                        .length = (uint32_t) message_length(&q->messages[i]),
                };

                to = put(to, &message, sizeof(message));
                to = put(to, q->messages[i].text, message.length);
        }
}

static int publish(struct moed *m, const struct wire_submission *slot) {
        int r;

        r = ring_put(&m->submissions, slot);
        if (r == RING_E_FULL)
                return reason_return(&m->reason, -EAGAIN, "the ring of %u submissions is full",
                                     m->layout.entries);
        if (r)
                return connection_fail(m, -EPROTO, "the daemon's index of the submission ring is impossible");
        ring_publish(&m->submissions);
        r = notify_ring_bell(&m->ringer);
        return r < 0 ? connection_fail(m, r, "cannot wake the daemon: %s", strerror(-r)) : 0;
}

static int submission_send(struct moed *m, const struct submission *s, struct stream *stream) {
        int r;

        r = arena_take(&m->arena, s->bytes, &stream->offset);
        if (r == ARENA_E_FULL)
                return reason_return(&m->reason, -EAGAIN,
                                     "the arena is full of prompts that the daemon has not read yet");
        if (r)
                return reason_return(&m->reason, r < 0 ? r : -E2BIG,
                                     "the prompt does not fit this connection's arena");
        stream->in_arena = true;
        submission_write(s, wire_arena(&m->layout, m->client_mapping.address) + stream->offset);
        r = publish(m, &(struct wire_submission) {
                .op = WIRE_OP_GENERATE,
                .request = stream->request,
                .offset = stream->offset,
                .length = s->bytes,
        });
        if (r < 0)
                arena_give(&m->arena, stream->offset);
        return r;
}

int moed_submit(struct moed *m, const struct moed_request *q, uint64_t *request) {
        struct submission s;
        struct stream *stream;
        int r;

        if (m->failed < 0)
                return m->failed;
        r = request_check(m, q);
        if (r < 0)
                return r;
        r = submission_init(m, &s, q);
        if (r < 0)
                return r;
        r = stream_table_add(&m->streams, &stream);
        if (r < 0)
                return reason_return(&m->reason, r, "out of memory");
        r = submission_send(m, &s, stream);
        if (r < 0) {
                stream_table_remove(&m->streams, stream);
                return r;
        }
        *request = stream->request;
        return 0;
}

int moed_cancel(struct moed *m, uint64_t request) {
        if (m->failed < 0)
                return m->failed;
        if (!stream_table_find(&m->streams, request))
                return 0;
        return publish(m, &(struct wire_submission) { .op = WIRE_OP_CANCEL, .request = request });
}
