/* SPDX-License-Identifier: MIT */
#include "kv.h"

#include <errno.h>
#include <stdlib.h>

int kv_pages_init(struct kv_pages *p, uint32_t n) {
        uint32_t *free_pages = calloc(n, sizeof(*free_pages));
        uint32_t *refs = calloc(n, sizeof(*refs));

        if (!free_pages || !refs) {
                free(free_pages);
                free(refs);
                return -ENOMEM;
        }
        /* The lowest numbers on top: a lightly used arena stays dense. */
        for (uint32_t i = 0; i < n; i++)
                free_pages[i] = n - 1 - i;
        *p = (struct kv_pages) { .n = n, .n_free = n, .free = free_pages, .refs = refs };
        return 0;
}

void kv_pages_deinit(struct kv_pages *p) {
        free(p->free);
        free(p->refs);
        *p = (struct kv_pages) KV_PAGES_NULL;
}

bool kv_pages_take(struct kv_pages *p, uint32_t count, uint32_t *ret) {
        if (count > p->n_free)
                return false;
        for (uint32_t i = 0; i < count; i++) {
                ret[i] = p->free[--p->n_free];
                p->refs[ret[i]] = 1;
        }
        return true;
}

void kv_pages_share(struct kv_pages *p, uint32_t page) {
        p->refs[page]++;
}

bool kv_pages_shared(const struct kv_pages *p, uint32_t page) {
        return p->refs[page] > 1;
}

void kv_pages_release(struct kv_pages *p, uint32_t count, const uint32_t *pages) {
        /* From the last: the next to take them gets them in the same order. */
        for (uint32_t i = count; i-- > 0;)
                if (--p->refs[pages[i]] == 0)
                        p->free[p->n_free++] = pages[i];
}
