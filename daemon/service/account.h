/* SPDX-License-Identifier: MIT */
#pragma once

/* What holds for a tenant as a whole, and for each of its clients. These may be in different groups, and in a unit even
 * be different users, so that each by itself would give the tenant another Weight=. What it has follows from all of
 * them together, whoever came first or last; what a request may use follows from its own client
 * (policy_key_is_shared()). */

#include <stdbool.h>

#include "policy.h"

struct peer;
struct tenant;

/* Books the peer, and its streams, on the tenant that is its by the rules of now. account_update() comes next. -ENOMEM:
 * it stays where it was. */
int account_enter(struct peer *peer);
/* The peer ends; account_update() comes next, if anybody is left. */
void account_leave(struct peer *peer);
/* Gives a tenant, its peers and their streams the policy that is theirs. A tenant without peers keeps what it had.
 * -ENOMEM: some of its streams go on as before. */
int account_update(struct tenant *tenant);

/* What holds for the tenant as a whole, and which rules say so; false: it has no peer that could tell. */
bool account_match(const struct tenant *tenant, struct policy_match *ret);
/* What holds for a peer and its requests. */
void account_match_peer(const struct peer *peer, struct policy_match *ret);
