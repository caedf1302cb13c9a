/* SPDX-License-Identifier: MIT */
#pragma once

/* What the daemon tells about itself, as the replies of control verbs. */

#include "control.h"

struct offer;
struct peer;
struct server;
struct tenant;

/* Each puts its keys into the map that is open. */
void report_model(struct control_builder *reply, const struct offer *offer);
void report_peer(struct control_builder *reply, const struct peer *peer);
/* `all`: also what only root may know. */
void report_stats(struct control_builder *reply, const struct server *server, bool all);
/* The tenants in use and the rules in force; only that of `only` if it is not NULL. */
void report_budgets(struct control_builder *reply, const struct server *server, const struct tenant *only);
