/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdbool.h>

/* `moed --convert TYPE IN OUT`: an exit status, after a sentence on standard error when it is not EX_OK.
 * Ctrl-C and SIGTERM end it and leave nothing behind. */
int convert_main(const char *type, const char *in, const char *out, bool force);
