/* SPDX-License-Identifier: MIT */
#pragma once

/* The client's side of its running generations, and how completions of 28 bytes of text become events.
 *
 * A completion is the daemon's word, not truth: what it says is checked here, and a daemon that breaks the
 * protocol costs the connection (-EPROTO), nothing else. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moed.h"
#include "wire.h"

struct text {
        char *data;
        size_t length, size;
};

void text_deinit(struct text *text);
/* 0 or -ENOMEM. */
int text_append(struct text *text, const void *data, size_t length);

struct stream {
        uint64_t request;
        uint64_t number;    /* what the daemon calls it; 0: it has not said so yet */
        uint64_t offset;    /* of its prompt in the arena */
        bool in_arena;      /* the daemon has not said yet that it is done with that */
        struct text text;   /* came, and was not given to the program yet */
        struct text reason; /* the sentence that an ERROR will end */
};

enum { STREAM_TEXT_MAX = 64 * 1024 }; /* text held for one event; an honest daemon stays far below */

/* Running streams by request number. Numbers count up; one whose place (number modulo size) is taken is
 * skipped, so a look-up is one comparison. */
struct stream_table {
        struct stream **places;
        size_t size, used; /* size: zero or a power of two, at least twice `used` */
        uint64_t next;     /* number to try next */
};
#define STREAM_TABLE_INIT ((struct stream_table) { .next = 1 })

void stream_table_deinit(struct stream_table *table);
/* Makes a stream with a number of its own. 0 or -ENOMEM. */
int stream_table_add(struct stream_table *table, struct stream **ret);
/* NULL: no such request. */
struct stream *stream_table_find(const struct stream_table *table, uint64_t request);
void stream_table_remove(struct stream_table *table, struct stream *stream);

enum {
        _STREAM_E_SUCCESS,
        STREAM_E_MORE, /* nothing to tell yet */
};

/* Takes a completion of this stream other than TOKEN's continuation. 0: `*event` and the text in `out` are
 * for the program; STREAM_E_MORE; -EPROTO; -ENOMEM. `out` is overwritten. */
int stream_feed(struct stream *stream, const struct wire_completion *c, struct moed_event *event,
                struct text *out);
/* A further piece of a TOKEN that was just fed, before its event goes to the program: moves text to `out` as
 * stream_feed() does. The event's text is set anew. */
int stream_feed_more(struct stream *stream, const struct wire_completion *c, struct moed_event *event,
                     struct text *out);
