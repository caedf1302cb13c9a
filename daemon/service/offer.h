/* SPDX-License-Identifier: MIT */
#pragma once

/* The models on offer. */

#include "base/reason.h"
#include "server.h"

/* Opens a model of the configuration and appends it to server->offers. SERVER_E_MODEL, negative errno. */
int offer_new(struct server *server, const struct config_model *model, struct reason *reason);
/* No stream may be left. */
void offer_free(struct offer *offer);
