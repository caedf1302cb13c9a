/* SPDX-License-Identifier: MIT */
#pragma once

/* Who owns which page of the KV arena. A page is KV_PAGE_TOKENS tokens of one sequence over all layers; pages
 * are numbers here, their memory is the model's. Pages are counted references, so that sequences can come to
 * share the pages of a common beginning. Not thread-safe. */

#include <stdbool.h>
#include <stdint.h>

struct kv_pages {
        uint32_t n, n_free;
        uint32_t *free; /* [n] a stack of free pages: its first n_free entries */
        uint32_t *refs; /* [n] 0 when free */
};

#define KV_PAGES_NULL { .n = 0 }

/* All pages free. 0 or -ENOMEM. */
int kv_pages_init(struct kv_pages *p, uint32_t n);
void kv_pages_deinit(struct kv_pages *p);

/* Takes `count` pages, one reference each, or none at all: false when fewer are free. */
bool kv_pages_take(struct kv_pages *p, uint32_t count, uint32_t *ret);
/* One more reference of a page that somebody has. */
void kv_pages_share(struct kv_pages *p, uint32_t page);
/* Whether more than one refers to it: then nobody may write to it. */
bool kv_pages_shared(const struct kv_pages *p, uint32_t page);
/* Gives up one reference of each; pages without any are free again. */
void kv_pages_release(struct kv_pages *p, uint32_t count, const uint32_t *pages);
