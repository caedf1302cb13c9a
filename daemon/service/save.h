/* SPDX-License-Identifier: MIT */
#pragma once

/* `moectl budget set --save`: the saved budgets go to their file, off the loop's thread, for a disk may take its time.
 * They are in force already; what follows is written after it, so that the file ends as the latest change left them. */

#include <stdint.h>

#include "base/reason.h"

struct peer;
struct server;

/* Whether there is a place for them. A positive errno with a reason. */
int save_check(const struct server *server, struct reason *reason);
/* Begins to write what is saved now. The reply to message `id` of `peer` comes when it is on the disk, or could not be.
 * On failure, negative errno, no reply comes. */
int save_budgets(struct server *server, struct peer *peer, uint64_t id);
/* The peer is gone: what it asked for is saved all the same. */
void saves_forget(struct server *server, const struct peer *peer);
