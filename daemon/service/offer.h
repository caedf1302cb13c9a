/* SPDX-License-Identifier: MIT */
#pragma once

/* The models on offer. */

#include "base/reason.h"
#include "server.h"

/* The part of opening a model that may be done on any thread; `reason` names the model. SERVER_E_MODEL. */
int offer_open_file(struct model_file **ret, const struct config_model *model, struct reason *reason);
/* Makes an offer of an opened file, which nobody finds yet. If another offer has the same file open, that one's mapping
 * serves both. SERVER_E_MODEL, negative errno. */
int offer_new(struct offer **ret, struct server *server, const struct config_model *model, struct model_file *file,
              struct reason *reason);
/* Of one that was not installed, or is retired and has no users. Takes NULL. */
void offer_free(struct offer *offer);
/* Puts it into the server's list, in the place of the one with its name, which is retired. */
void offer_install(struct offer *offer, bool is_default);
/* Nobody finds it any more; it ends what it has. */
void offer_retire(struct offer *offer);
/* Moves it to where the default stands. */
void offer_set_default(struct offer *offer);

/* A stream begins or ends to refer to it. */
void offer_use(struct offer *offer);
void offer_unuse(struct offer *offer);
/* One that is idle begins to load; its streams wait until it is ready. */
void offer_wake(struct offer *offer);

/* Something ended, or a rule has changed: streams that wait may have a chance now, also those of another model, because
 * a quota is over all of them. */
void offers_admit(struct server *server);
/* The configuration has changed, or the offers: each gets what the one says about the other. */
void offers_configure(struct server *server);
/* Frees retired offers without users. Not while a forward pass runs. */
void offers_reap(struct server *server);
/* Puts to rest what was unused for long enough. Returns in how many nanoseconds the next one will have been;
 * UINT64_MAX: none. Not while a forward pass runs. */
uint64_t offers_rest(struct server *server, uint64_t now);
/* "ready", "idle", "loading"; "stale": its file is not intact. */
const char *offer_state_name(const struct offer *offer);
