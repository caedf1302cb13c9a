/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "model.h"

int sequence_new(struct sequence **ret, struct model *model) {
        struct sequence *s = malloc(sizeof(*s));

        if (!s)
                return -ENOMEM;
        *s = (struct sequence) { .model = model };
        *ret = s;
        return 0;
}

void sequence_free(struct sequence *s) {
        if (!s)
                return;
        kv_pages_release(&s->model->pages, s->n_pages, s->pages);
        free(s->pages);
        free(s);
}

void sequence_freep(struct sequence **s) {
        sequence_free(*s);
}

uint32_t sequence_length(const struct sequence *s) {
        return s->length;
}

uint32_t sequence_pages(const struct sequence *s) {
        return s->n_pages;
}

static int make_slots(struct sequence *s, uint32_t n) {
        uint32_t *pages;

        if (n <= s->n_slots)
                return 0;
        n = MAX(n, s->n_slots * 2);
        pages = reallocarray(s->pages, n, sizeof(*pages));
        if (!pages)
                return -ENOMEM;
        s->pages = pages;
        s->n_slots = n;
        return 0;
}

int sequence_reserve(struct sequence *s, uint32_t tokens) {
        uint32_t needed;
        int r;

        if (tokens > s->model->info.context - s->length)
                return ENGINE_E_CONTEXT;
        needed = DIV_ROUND_UP(s->length + tokens, (uint32_t) KV_PAGE_TOKENS);
        if (needed <= s->n_pages)
                return 0;
        r = make_slots(s, needed);
        if (r)
                return r;
        if (!kv_pages_take(&s->model->pages, needed - s->n_pages, s->pages + s->n_pages))
                return ENGINE_E_PAGES;
        s->n_pages = needed;
        return 0;
}

int sequence_skip(struct sequence *s, uint32_t tokens) {
        int r;

        r = sequence_reserve(s, tokens);
        if (!r)
                s->length += tokens;
        return r;
}

void sequence_replace(struct sequence *s, uint32_t index, uint32_t page) {
        kv_pages_share(&s->model->pages, page);
        kv_pages_release(&s->model->pages, 1, &s->pages[index]);
        s->pages[index] = page;
}

int sequence_follow(struct sequence *s, uint32_t page) {
        uint32_t at = s->length / KV_PAGE_TOKENS;
        int r;

        if (s->running || at >= s->model->info.context / KV_PAGE_TOKENS)
                return -EINVAL;
        if (at < s->n_pages) {
                sequence_replace(s, at, page);
        } else {
                r = make_slots(s, at + 1);
                if (r)
                        return r;
                kv_pages_share(&s->model->pages, page);
                s->pages[s->n_pages++] = page;
        }
        s->length = (at + 1) * KV_PAGE_TOKENS;
        return 0;
}

/* Whether the page that has token number `at` may not be written to any more. */
static bool is_sealed(const struct sequence *s, uint32_t at) {
        return s->model->whole_pages || kv_pages_shared(&s->model->pages, s->pages[at / KV_PAGE_TOKENS]);
}

void sequence_truncate(struct sequence *s, uint32_t length) {
        uint32_t keep;

        if (length < s->length && is_sealed(s, length))
                length -= length % KV_PAGE_TOKENS;
        s->length = MIN(s->length, length);
        keep = DIV_ROUND_UP(s->length, (uint32_t) KV_PAGE_TOKENS);
        if (keep >= s->n_pages)
                return;
        kv_pages_release(&s->model->pages, s->n_pages - keep, s->pages + keep);
        s->n_pages = keep;
}
