/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "history.h"
#include "offer.h"
#include "peer.h"
#include "stream.h"

void record_free(struct record *record) {
        if (!record)
                return;
        trace_deinit(&record->trace);
        free(record->principal);
        free(record->model);
        free(record->name);
        free(record->stretches);
        free(record->sentence);
        free(record);
}

void record_freep(struct record **record) {
        record_free(*record);
}

static int record_copy_stretches(struct record *record, const struct stream *stream) {
        const uint32_t half = HISTORY_STRETCHES_MAX / 2;
        uint32_t n = MIN(stream->n_caps, (uint32_t) HISTORY_STRETCHES_MAX), first = stream->n_caps > n ? half : n;

        record->stretches = calloc(n + 1, sizeof(*record->stretches));
        if (!record->stretches)
                return -ENOMEM;
        for (uint32_t i = 0; i < n; i++)
                record->stretches[i] = stream->caps[i < first ? i : stream->n_caps - n + i];
        record->n_stretches = n;
        record->n_omitted = stream->n_caps - n;
        return 0;
}

int record_new(struct record **ret, const struct stream *stream, const char *outcome, const char *sentence) {
        _cleanup_(record_freep) struct record *record = malloc(sizeof(*record));

        if (!record)
                return -ENOMEM;
        *record = (struct record) {
                .uid = stream->user->uid,
                .principal = strdup(stream->tenant->name),
                .model = strdup(stream->offer->name),
                .name = strdup(stream->peer ? stream->peer->name : ""),
                .asked_milli = stream->experts_milli,
                .moe_layers = model_info(stream->offer->model)->moe_layers,
                .n_prompt = stream->n_prompt,
                .n_generated = stream->n_generated,
                .activations = stream->activations,
                .trace = TRACE_NULL,
                .outcome = outcome,
                .sentence = sentence ? strdup(sentence) : NULL,
        };
        if (!record->principal || !record->model || !record->name || (sentence && !record->sentence) ||
            record_copy_stretches(record, stream) < 0 || trace_copy(&record->trace, &stream->trace) < 0)
                return -ENOMEM;
        *ret = steal_ptr(record);
        return 0;
}

void history_init(struct history *history) {
        *history = (struct history) { .n = 0 };
        list_init(&history->records);
}

void history_deinit(struct history *history) {
        struct record *record, *next;

        list_for_each_safe(record, next, &history->records, link)
                record_free(record);
}

static struct history_owner *history_owner(struct history *history, uid_t uid) {
        struct history_owner *free = NULL;

        for (size_t i = 0; i < ELEMENTS(history->owners); i++) {
                struct history_owner *owner = &history->owners[i];

                if (owner->n > 0 && owner->uid == uid)
                        return owner;
                if (owner->n == 0 && !free)
                        free = owner;
        }
        free->uid = uid;
        return free;
}

static uint32_t most_of_one(const struct history *history) {
        uint32_t most = 0;

        for (size_t i = 0; i < ELEMENTS(history->owners); i++)
                most = MAX(most, history->owners[i].n);
        return most;
}

/* Of all who have most, the oldest. */
static void history_forget(struct history *history) {
        struct record *record = list_entry(history->records.prev, struct record, link);
        uint32_t most = most_of_one(history);

        while (record->owner->n < most)
                record = list_entry(record->link.prev, struct record, link);
        list_unlink(&record->link);
        record->owner->n--;
        history->n--;
        record_free(record);
}

void history_add(struct history *history, struct record *record) {
        record->owner = history_owner(history, record->uid);
        record->owner->n++;
        history->n++;
        list_append(history->records.next, &record->link);
        if (history->n > HISTORY_MAX)
                history_forget(history);
}
