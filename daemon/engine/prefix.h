/* SPDX-License-Identifier: MIT */
#pragma once

/* KV pages that have been computed, kept to be found again: a tree for each space, in which a page hangs below the page
 * that comes before it in the text. A sequence goes down the tree with a cursor; what it follows it shares, what it
 * computes beyond it may store. A stored page is never written again.
 *
 * The key of a page is all that its bits depend on, but for the pages before it (daemon/README.md says why this is
 * all), and is compared whole. Spaces share nothing. A page that no cursor has passed is idle, and may be evicted; it
 * is charged to one owner, that of the latest sequence that came to it while no other had it. */

#include <stdint.h>

#include "base/list.h"
#include "engine.h"

struct prefix_cache;
struct prefix_node;

struct prefix_key {
        struct prefix_row {
                int32_t token;
                uint32_t experts; /* the cap of its budget, or its allowance */
                uint32_t how;     /* which of both, the budget's floor, and whether in the arithmetic of prompts */
        } rows[KV_PAGE_TOKENS];
};

/* Who pays for pages: embedded in its owner, which must live as long as it has any. */
struct prefix_owner {
        uint32_t pages;     /* charged to it */
        uint32_t idle;      /* of them */
        struct list oldest; /* the idle ones, the longest unused first */
};

struct prefix_cursor {
        struct prefix_node *at; /* the last page of the sequence that is in the tree; NULL: not entered */
        uint32_t pages;         /* how many that are from the beginning of the text */
};

#define PREFIX_CURSOR_NULL { .at = NULL }

enum {
        _PREFIX_E_SUCCESS,
        PREFIX_E_ABSENT, /* no such page is there */
};

/* The key of a page for whose KV_PAGE_TOKENS rows a step would have been given this part; its sequence is not looked
 * at. */
void prefix_key_init(struct prefix_key *key, const struct prefix_cache *cache, const struct step_part *part);

/* Of one model. -ENOMEM. */
int prefix_cache_new(struct prefix_cache **ret, struct model *model);
/* No cursor may be left. Takes NULL. */
void prefix_cache_free(struct prefix_cache *cache);
/* Evicts all; no cursor may be left. */
void prefix_cache_clear(struct prefix_cache *cache);
/* Pages in it; those of them that are idle. */
uint32_t prefix_cache_pages(const struct prefix_cache *cache);
uint32_t prefix_cache_idle(const struct prefix_cache *cache);

void prefix_owner_init(struct prefix_owner *owner);

/* Begins at the top of a space, which comes into being if need be. -ENOMEM. */
int prefix_enter(struct prefix_cursor *cursor, struct prefix_cache *cache, uint64_t space);
/* What the cursor has passed may become idle. Takes one that has not entered. */
void prefix_leave(struct prefix_cursor *cursor);
/* Goes on to the next page if it is there, and lets the sequence, which must have all pages that the cursor has passed
 * and no whole page more, go on with it. PREFIX_E_ABSENT, -ENOMEM. */
int prefix_follow(struct prefix_cursor *cursor, const struct prefix_key *key, struct sequence *sequence,
                  struct prefix_owner *owner);
/* Stores the sequence's next page after those that the cursor has passed, all of whose rows must have been computed,
 * and goes on to it. One that is there already takes the place of the sequence's own. -ENOMEM: nothing has changed. */
int prefix_store(struct prefix_cursor *cursor, const struct prefix_key *key, struct sequence *sequence,
                 struct prefix_owner *owner);
/* Gives back up to `pages` idle pages, those that the owner has not used for longest, and what hangs below them.
 * Returns how many. */
uint32_t prefix_evict(struct prefix_owner *owner, uint32_t pages);
