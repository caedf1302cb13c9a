/* SPDX-License-Identifier: MIT */
#pragma once

/* What the daemon tells about itself, as the replies of control verbs. */

#include "control.h"

struct offer;
struct peer;
struct policy_principal;
struct server;
struct tenant;
struct user;

/* Each puts its keys into the map that is open. */
void report_model(struct control_builder *reply, const struct offer *offer);
/* The connections with their requests; only those of `only` if it is not NULL. */
void report_peers(struct control_builder *reply, const struct server *server, const struct user *only);
/* `all`: also what only administrators may know. */
void report_stats(struct control_builder *reply, const struct server *server, bool all);
/* How often each expert of its layers from `from` on was used, of as many layers as fit. As secret as text (P7): for
 * root alone. */
void report_experts(struct control_builder *reply, const struct offer *offer, uint32_t from);
/* What each model's passes are forecast to cost, and how true that was. */
void report_cost(struct control_builder *reply, const struct server *server);
/* The tenants in use and the rules in force: of `one` principal in detail, if it is not NULL; and without the rules
 * only what concerns `only`, if that is not NULL. */
void report_budgets(struct control_builder *reply, const struct server *server, const struct policy_principal *one,
                    const struct tenant *only);
