/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "outbox.h"

void outbox_deinit(struct outbox *outbox) {
        free(outbox->items);
        *outbox = (struct outbox) OUTBOX_NULL;
}

int outbox_put(struct outbox *outbox, const struct wire_completion *event) {
        struct wire_completion *grown;
        uint32_t n;

        if (outbox->n_items == outbox->allocated) {
                n = outbox->allocated ? 2 * outbox->allocated : 8;
                grown = realloc(outbox->items, n * sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                outbox->items = grown;
                outbox->allocated = n;
        }
        outbox->items[outbox->n_items++] = *event;
        return 0;
}

/* The longest beginning of a text that fits into one event without cutting a UTF-8 character. Bytes that are not
 * UTF-8 are cut anywhere. */
static size_t piece_length(const char *text, size_t length) {
        size_t n = WIRE_TEXT_MAX;

        if (length <= WIRE_TEXT_MAX)
                return length;
        while (n > WIRE_TEXT_MAX - 4 && ((uint8_t) text[n] & 0xc0) == 0x80)
                n--;
        return ((uint8_t) text[n] & 0xc0) == 0x80 ? WIRE_TEXT_MAX : n;
}

static int outbox_put_piece(struct outbox *outbox, const struct wire_completion *event, const char *text,
                            size_t length) {
        struct wire_completion piece = *event;

        memset(piece.text, 0, sizeof(piece.text));
        memcpy(piece.text, text, length);
        piece.text_length = (uint8_t) length;
        return outbox_put(outbox, &piece);
}

int outbox_put_text(struct outbox *outbox, const struct wire_completion *event, const char *text, size_t length) {
        struct wire_completion more = {
                .request = event->request, .activations = event->activations, .event = WIRE_EVENT_TEXT
        };
        size_t n = piece_length(text, length);
        int r;

        r = outbox_put_piece(outbox, event, text, n);
        while (r == 0 && n < length) {
                text += n;
                length -= n;
                n = piece_length(text, length);
                r = outbox_put_piece(outbox, &more, text, n);
        }
        return r;
}

int outbox_put_last(struct outbox *outbox, enum wire_event before, const struct wire_completion *event,
                    const char *text, size_t length) {
        struct wire_completion more = {
                .request = event->request, .activations = event->activations, .event = (uint8_t) before
        };
        size_t n = piece_length(text, length);
        int r = 0;

        for (; r == 0 && n < length; n = piece_length(text, length)) {
                r = outbox_put_piece(outbox, &more, text, n);
                text += n;
                length -= n;
        }
        return r < 0 ? r : outbox_put_piece(outbox, event, text, length);
}

int outbox_put_error(struct outbox *outbox, uint64_t request, int error, const char *sentence) {
        struct wire_completion event = {
                .request = request, .event = WIRE_EVENT_ERROR, .detail = (uint16_t) error
        };

        return outbox_put_last(outbox, WIRE_EVENT_REASON, &event, sentence, strlen(sentence));
}

int outbox_flush(struct outbox *outbox, struct ring_writer *ring) {
        int r = 0;

        while (!outbox_empty(outbox)) {
                r = ring_put(ring, &outbox->items[outbox->first]);
                if (r != 0)
                        break;
                outbox->first++;
        }
        if (outbox_empty(outbox))
                outbox->first = outbox->n_items = 0;
        return r == RING_E_BROKEN ? r : 0;
}
