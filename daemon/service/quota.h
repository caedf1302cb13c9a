/* SPDX-License-Identifier: MIT */
#pragma once

/* KvMax= and QueueMax= of a principal: what it may hold of the memory for keys and values, over all models, and how
 * many of its requests may wait. Who is inside its quota never gets an error: what finds no room in it waits, or pauses
 * and is computed again. An error gets only who asks for what the quota can never hold, or comes when the queue is
 * full; and a generation that fills the quota by itself ends there, as it would at the end of the context. */

#include <stdbool.h>
#include <stdint.h>

struct offer;
struct server;
struct stream;
struct tenant;

/* Sets each tenant's kv_bytes, what its streams hold now, and kv_idle, what is left of others in the prefix cache;
 * tenant->pages is `offer`'s afterwards (pages.h), or anything for NULL. */
void quota_count(const struct server *server, struct offer *offer);
/* Whether a stream of `offer` waits to which a quota applies: only then quota_kv_fits() needs quota_count(). */
bool quota_applies(const struct offer *offer);
/* Whether a waiting stream may begin: there is room for its tokens, and a page more for each that runs already. */
bool quota_kv_fits(const struct stream *stream);
/* Before a running stream gets another page. False: it was put back to wait, or has ended. */
bool quota_kv_extend(struct stream *stream);
/* What a tenant has in the prefix cache counts as well, but gives way to what its streams use: gives back what is too
 * much by now. */
void quota_trim(const struct server *server, struct tenant *tenant);
/* After all that can begin have begun: refuses what may not wait, the youngest first, and what could never begin. */
void quota_refuse(struct offer *offer);
