/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "tokenizer-internal.h"
#include "utf8.h"

int detokenizer_init(struct detokenizer *d, const struct tokenizer *t, unsigned flags) {
        char *buffer = malloc(t->piece_max + 4u);

        if (!buffer)
                return -ENOMEM;
        *d = (struct detokenizer) { .tokenizer = t, .buffer = buffer, .flags = flags };
        return 0;
}

void detokenizer_deinit(struct detokenizer *d) {
        free(d->buffer);
        d->buffer = NULL;
}

/* Drops what was handed out; the bytes that wait come to the start. */
static void detokenizer_settle(struct detokenizer *d) {
        memmove(d->buffer, d->buffer + d->given, d->pending);
        d->given = 0;
}

/* What a token adds to the text. */
static const char *detokenizer_text(struct detokenizer *d, int32_t id, size_t *ret_size) {
        const char *text = tokenizer_piece(d->tokenizer, id, ret_size);
        const bool control = tokenizer_is_control(d->tokenizer, id);

        if (!text || (control && !(d->flags & DETOKENIZE_SPECIAL))) {
                *ret_size = 0;
                return "";
        }
        if (control)
                return text;
        if (!d->started && d->tokenizer->drops_space && !(d->flags & DETOKENIZE_CONTINUE) && *ret_size > 0 &&
            text[0] == ' ' && id != d->tokenizer->unknown) {
                text++;
                --*ret_size;
        }
        d->started = true;
        return text;
}

const char *detokenizer_push(struct detokenizer *d, int32_t id, size_t *ret_size) {
        const char *text;
        size_t size;

        detokenizer_settle(d);
        text = detokenizer_text(d, id, &size);
        memcpy(d->buffer + d->pending, text, size);
        size += d->pending;
        d->pending = utf8_pending(d->buffer, size);
        d->given = *ret_size = size - d->pending;
        return d->buffer;
}

const char *detokenizer_flush(struct detokenizer *d, size_t *ret_size) {
        detokenizer_settle(d);
        d->given = *ret_size = d->pending;
        d->pending = 0;
        return d->buffer;
}

int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, unsigned flags, char **ret,
                     size_t *ret_size) {
        struct detokenizer d = { .tokenizer = t, .flags = flags };
        _cleanup_(freep) char *out = NULL;
        size_t total = 0, size;

        for (size_t i = 0; i < n; i++)
                if (tokenizer_piece(t, ids[i], &size) && __builtin_add_overflow(total, size, &total))
                        return -EOVERFLOW;
        out = malloc(MAX(total, (size_t) 1));
        if (!out)
                return -ENOMEM;
        total = 0;
        for (size_t i = 0; i < n; i++) {
                const char *text = detokenizer_text(&d, ids[i], &size);

                memcpy(out + total, text, size);
                total += size;
        }
        *ret = steal_ptr(out);
        *ret_size = total;
        return 0;
}
