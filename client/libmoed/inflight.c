/* SPDX-License-Identifier: MIT */
#include "inflight.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "utf8-check.h"

void text_deinit(struct text *text) {
        free(text->data);
        *text = (struct text) {};
}

int text_append(struct text *text, const void *data, size_t length) {
        size_t size = MAX(text->size, (size_t) 64);
        char *grown;

        if (length == 0)
                return 0;
        while (size - text->length < length)
                size *= 2;
        if (size != text->size) {
                grown = realloc(text->data, size);
                if (!grown)
                        return -ENOMEM;
                text->data = grown;
                text->size = size;
        }
        memcpy(text->data + text->length, data, length);
        text->length += length;
        return 0;
}

static void stream_free(struct stream *stream) {
        if (!stream)
                return;
        text_deinit(&stream->text);
        text_deinit(&stream->reason);
        free(stream);
}

void stream_table_deinit(struct stream_table *table) {
        for (size_t i = 0; i < table->size; i++)
                stream_free(table->places[i]);
        free(table->places);
        *table = STREAM_TABLE_INIT;
}

/* Numbers that differ modulo the size differ modulo twice the size: moving never collides. */
static int stream_table_grow(struct stream_table *table) {
        size_t size = MAX(table->size * 2, (size_t) 8);
        struct stream **places;

        if (table->used < table->size / 2)
                return 0;
        places = calloc(size, sizeof(*places));
        if (!places)
                return -ENOMEM;
        for (size_t i = 0; i < table->size; i++)
                if (table->places[i])
                        places[table->places[i]->request & (size - 1)] = table->places[i];
        free(table->places);
        table->places = places;
        table->size = size;
        return 0;
}

int stream_table_add(struct stream_table *table, struct stream **ret) {
        struct stream *stream;
        int r;

        r = stream_table_grow(table);
        if (r < 0)
                return r;
        stream = calloc(1, sizeof(*stream));
        if (!stream)
                return -ENOMEM;
        while (table->places[table->next & (table->size - 1)])
                table->next++;
        stream->request = table->next++;
        table->places[stream->request & (table->size - 1)] = stream;
        table->used++;
        *ret = stream;
        return 0;
}

struct stream *stream_table_find(const struct stream_table *table, uint64_t request) {
        struct stream *stream = table->size > 0 ? table->places[request & (table->size - 1)] : NULL;

        return stream && stream->request == request ? stream : NULL;
}

void stream_table_remove(struct stream_table *table, struct stream *stream) {
        table->places[stream->request & (table->size - 1)] = NULL;
        table->used--;
        stream_free(stream);
}

static int stream_hold(struct text *text, const struct wire_completion *c) {
        if (c->text_length > WIRE_TEXT_MAX || text->length > STREAM_TEXT_MAX)
                return -EPROTO;
        return text_append(text, c->text, c->text_length);
}

/* Moves what is held to `out`, but for `keep` bytes at its end. */
static int stream_release(struct text *held, size_t keep, struct moed_event *event, struct text *out) {
        size_t n = held->length - keep;
        int r;

        r = text_append(out, held->data, n);
        if (r < 0)
                return r;
        if (keep > 0)
                memmove(held->data, held->data + n, keep);
        held->length = keep;
        event->text = out->data ? out->data : "";
        event->text_length = out->length;
        return 0;
}

static int stream_feed_token(struct stream *stream, const struct wire_completion *c, struct moed_event *event,
                             struct text *out) {
        int r;

        r = stream_hold(&stream->text, c);
        if (r < 0)
                return r;
        event->type = c->event == WIRE_EVENT_SCORE ? MOED_EVENT_SCORE : MOED_EVENT_TOKEN;
        event->flags = c->detail & WIRE_TOKEN_RODE ? MOED_EVENT_RODE : 0;
        event->token = c->token;
        event->logprob = c->logprob;
        event->activations = c->value;
        return stream_release(&stream->text, utf8_open_tail(stream->text.data, stream->text.length), event,
                              out);
}

static int stream_feed_done(struct stream *stream, const struct wire_completion *c, struct moed_event *event,
                            struct text *out) {
        int r;

        if (c->detail < WIRE_DONE_EOG || c->detail > WIRE_DONE_CANCELLED)
                return -EPROTO;
        r = stream_hold(&stream->text, c);
        if (r < 0)
                return r;
        event->type = MOED_EVENT_DONE;
        event->done = (enum moed_done) c->detail;
        event->value = c->value;
        event->cached = (uint32_t) c->token;
        return stream_release(&stream->text, 0, event, out);
}

static int stream_feed_error(struct stream *stream, const struct wire_completion *c, struct moed_event *event,
                             struct text *out) {
        int r;

        if (c->detail == 0 || c->detail > 4095)
                return -EPROTO;
        r = stream_hold(&stream->reason, c);
        if (r < 0)
                return r;
        event->type = MOED_EVENT_ERROR;
        event->error = -(int) c->detail;
        return stream_release(&stream->reason, 0, event, out);
}

static int stream_hold_more(struct text *text, const struct wire_completion *c) {
        int r = stream_hold(text, c);

        return r < 0 ? r : STREAM_E_MORE;
}

int stream_feed(struct stream *stream, const struct wire_completion *c, struct moed_event *event,
                struct text *out) {
        out->length = 0;
        if (c->event == WIRE_EVENT_ACCEPTED)
                stream->number = (uint32_t) c->token | (uint64_t) c->detail << 32;
        *event = (struct moed_event) {
                .request = c->request,
                .number = stream->number,
                .text = "",
                .activations_total = c->activations,
                .cap = c->cap_milli / 1000.0,
        };
        switch (c->event) {
        case WIRE_EVENT_ACCEPTED:
                event->type = MOED_EVENT_ACCEPTED;
                event->value = c->value;
                return 0;
        case WIRE_EVENT_PROGRESS:
                event->type = MOED_EVENT_PROGRESS;
                event->value = c->value;
                event->cached = (uint32_t) c->token;
                return 0;
        case WIRE_EVENT_TOKEN:
        case WIRE_EVENT_SCORE:
                return stream_feed_token(stream, c, event, out);
        case WIRE_EVENT_TEXT:
                return stream_hold_more(&stream->text, c);
        case WIRE_EVENT_REASON:
                return stream_hold_more(&stream->reason, c);
        case WIRE_EVENT_DONE:
                return stream_feed_done(stream, c, event, out);
        case WIRE_EVENT_ERROR:
                return stream_feed_error(stream, c, event, out);
        default:
                return -EPROTO;
        }
}

int stream_feed_more(struct stream *stream, const struct wire_completion *c, struct moed_event *event,
                     struct text *out) {
        int r;

        r = stream_hold(&stream->text, c);
        if (r < 0)
                return r;
        return stream_release(&stream->text, utf8_open_tail(stream->text.data, stream->text.length), event,
                              out);
}
