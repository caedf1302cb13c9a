/* SPDX-License-Identifier: MIT */
#pragma once

/* Who may hold the KV pages of a model when they don't suffice for all. A stream begins when its whole prompt fits; of
 * those that wait, the next is one of the tenant that uses the fewest pages. A running stream that needs a page when
 * none is free takes it from the youngest stream of the tenant that uses the most, of those that no forward pass holds;
 * that one waits and is computed again later; so nothing ever fails for want of pages in the middle. Before anything is
 * taken from anybody, what no stream uses is taken from the prefix cache (prefixes.h). */

#include <stdbool.h>
#include <stdint.h>

struct offer;
struct stream;
struct tenant;

/* Gives pages to waiting streams as far as there are any. */
void pages_admit(struct offer *offer);
/* Reserves room for the next row of a running stream, at another's cost if need be. False: the stream itself was put
 * back to wait. */
bool pages_extend(struct stream *stream);
/* Writes into each tenant (tenant->pages) how many pages of this model count for it: what its running streams alone
 * have, and what is charged to it in the prefix cache; each page counts once. Of the pages, pages_idle are in use by
 * nobody. */
void pages_count(struct offer *offer);
/* Of a tenant's running streams the youngest that no forward pass holds, so that it can be put back. NULL: all are. */
struct stream *pages_youngest(const struct offer *offer, const struct tenant *tenant);
