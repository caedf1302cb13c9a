/* SPDX-License-Identifier: MIT */
#pragma once

/* What streams of one uid have in common is computed once: the prefix cache of each offer (engine/prefix.h), with a
 * space for each uid, whose pages are charged to tenants. Idle pages count as free to everybody else: they are given
 * back before anybody has to wait. */

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "prefix.h"

struct offer;
struct sequence;
struct stream;
struct tenant;

/* What a tenant has in the cache of an offer. */
struct prefix_account {
        struct list link; /* in offer->accounts */
        struct tenant *tenant;
        struct prefix_owner owner;
};

/* The sequence with which a stream shall run begins with as much of its tokens as is there. */
void prefixes_begin(struct stream *stream, struct sequence *sequence);
/* It runs: what its sequence has and it never computed came from the cache. */
void prefixes_count(struct stream *stream);
/* A running stream goes on with what others have computed meanwhile. Not while it is in a forward pass. */
void prefixes_go_on(struct stream *stream);
/* Keeps what a forward pass has made whole. */
void prefixes_store(struct stream *stream);
/* The stream gives its sequence back: others may have its pages, or evict them. */
void prefixes_leave(struct stream *stream);
/* Whether another stream of its tenant is about to compute just what this one would. */
bool prefixes_behind(const struct stream *stream);

/* Gives back up to `pages` idle pages of a tenant, or of whoever holds most (NULL). Returns how many. */
uint32_t prefix_cache_evict(struct offer *offer, struct tenant *tenant, uint32_t pages);
/* Idle pages; pages in the cache. */
uint32_t prefixes_idle(const struct offer *offer);
uint32_t prefixes_pages(const struct offer *offer);
/* Gives all back. No stream of the offer may be left running. */
void prefixes_clear(struct offer *offer);
