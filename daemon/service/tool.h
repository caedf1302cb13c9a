/* SPDX-License-Identifier: MIT */
#pragma once

/* What the commands of moed that make a file have in common: they end when told to, and say what went wrong. */

#include <stdatomic.h>

#include "base/reason.h"

/* True soon after SIGINT or SIGTERM, once tool_catch_signals() has been called. */
extern atomic_bool tool_stop;

void tool_catch_signals(void);

/* Tells on standard error why something about `path` failed, a negative errno or the refusal in `reason`, and returns
 * the exit status. */
int tool_failed(const char *path, int error, const struct reason *reason);
