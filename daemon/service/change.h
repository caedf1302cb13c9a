/* SPDX-License-Identifier: MIT */
#pragma once

/* Models that come, are replaced and go while the daemon runs. The configuration is read and the files of a change are
 * opened by the loader's thread; then all of it is put in force in one turn of the loop, or, when anything is refused,
 * nothing. Changes are made in the order in which they were asked for. */

#include <stdbool.h>
#include <stdint.h>

#include "base/reason.h"

struct offer;
struct peer;
struct server;

/* Loads a model, in the place of the one with that name if there is one. The reply to message `id` of `peer` (may be
 * NULL: then only the log is told) is sent when it is done. A positive errno with a reason, or negative errno: it was not
 * begun, and no reply comes. */
int change_load(struct server *server, struct peer *peer, uint64_t id, const char *name, const char *file,
                bool is_default, struct reason *reason);
/* Reads the configuration anew; the same, but that `peer` may be NULL: then the log and the service manager are
 * told. */
int change_reload(struct server *server, struct peer *peer, uint64_t id, struct reason *reason);
/* Loads a model whose file is no longer intact from where it was, unless that is being done. If that fails, it stays as
 * it is. The log is told. */
void change_reopen(struct offer *offer);
/* The peer is gone: what it asked for is done all the same. */
void changes_forget(struct server *server, const struct peer *peer);
/* The loader has stopped: frees what was not made. */
void changes_free(struct server *server);
