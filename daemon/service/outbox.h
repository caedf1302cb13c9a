/* SPDX-License-Identifier: MIT */
#pragma once

/* Events on their way into a completion ring. Normally each goes straight through; when the ring is full they wait
 * here, and whoever makes them stops making more until the box is empty again. So it never holds more than the events
 * of one token, of one refusal, or of the rows that one iteration scored. One thread. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ring.h"
#include "wire.h"

struct outbox {
        struct wire_completion *items;
        uint32_t n_items, allocated;
        uint32_t first; /* items before it are gone */
};
#define OUTBOX_NULL { .items = NULL }

void outbox_deinit(struct outbox *outbox);
static inline bool outbox_empty(const struct outbox *outbox) {
        return outbox->first == outbox->n_items;
}

/* Copies the event. -ENOMEM. */
int outbox_put(struct outbox *outbox, const struct wire_completion *event);
/* Puts `event` with a text of any length, UTF-8 characters whole: what does not fit follows in WIRE_EVENT_TEXT.
 * -ENOMEM. */
int outbox_put_text(struct outbox *outbox, const struct wire_completion *event, const char *text, size_t length);
/* The same for the last event of a request: what does not fit goes ahead of it, in events of kind `before`. -ENOMEM. */
int outbox_put_last(struct outbox *outbox, enum wire_event before, const struct wire_completion *event,
                    const char *text, size_t length);
/* The sentence, then an ERROR that ends `request`. -ENOMEM. */
int outbox_put_error(struct outbox *outbox, uint64_t request, int error, const char *sentence);

/* Moves what fits into the ring (not yet published). Returns 0 or RING_E_BROKEN; empty or not, see outbox_empty(). */
int outbox_flush(struct outbox *outbox, struct ring_writer *ring);
