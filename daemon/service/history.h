/* SPDX-License-Identifier: MIT */
#pragma once

/* The requests that ended last. All users share the room: while it is full, whoever has most of it loses the oldest of
 * his, so that nobody's many requests push out another's few. One thread. */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"
#include "trace.h"

enum {
        HISTORY_MAX = 1024,
        HISTORY_STRETCHES_MAX = 64, /* kept of one request; of more, the first and the last ones */
};

struct stream;
struct stream_cap;

struct history_owner {
        uid_t uid;
        uint32_t n; /* records; 0: the place is free */
};

/* A request, apart from the objects that made it. */
struct record {
        uid_t uid;
        char *principal, *model, *name; /* name: what the client calls itself */
        uint32_t asked_milli;           /* 0: no cap of its own */
        uint32_t moe_layers;
        uint32_t n_prompt, n_generated;
        uint64_t activations;
        struct trace trace;
        struct stream_cap *stretches;
        uint32_t n_stretches, n_omitted; /* omitted: between the first and the last half of them */
        const char *outcome;             /* "running", "waiting", "end", "length", "stop", "cancelled", "error" */
        char *sentence;                  /* why it was an error, or ended early; else NULL */
        struct list link;                /* in history.records */
        struct history_owner *owner;     /* while it is there */
};

/* A record of the stream as it is now. -ENOMEM. */
int record_new(struct record **ret, const struct stream *stream, const char *outcome, const char *sentence);
/* Takes NULL. */
void record_free(struct record *record);
void record_freep(struct record **record);

struct history {
        struct list records; /* the newest first */
        uint32_t n;
        struct history_owner owners[HISTORY_MAX + 1]; /* of them; the last one is for who comes while all are others' */
};

void history_init(struct history *history);
void history_deinit(struct history *history);
/* Takes the record; beyond HISTORY_MAX one is forgotten. */
void history_add(struct history *history, struct record *record);
