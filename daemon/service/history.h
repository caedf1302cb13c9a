/* SPDX-License-Identifier: MIT */
#pragma once

/* The requests that ended last. One thread. */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "trace.h"

enum {
        HISTORY_MAX = 1024,
        HISTORY_STRETCHES_MAX = 64, /* kept of one request; of more, the first and the last ones */
};

struct stream;
struct stream_cap;

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
};

/* A record of the stream as it is now. -ENOMEM. */
int record_new(struct record **ret, const struct stream *stream, const char *outcome, const char *sentence);
/* Takes NULL. */
void record_free(struct record *record);
void record_freep(struct record **record);

struct history {
        struct record *records[HISTORY_MAX];
        uint64_t n; /* ever; the newest is records[(n - 1) % HISTORY_MAX] */
};

void history_deinit(struct history *history);
/* Takes the record, and forgets the oldest. */
void history_add(struct history *history, struct record *record);
/* The newest is number 0; NULL behind the oldest. */
const struct record *history_at(const struct history *history, size_t i);
