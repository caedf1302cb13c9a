/* SPDX-License-Identifier: MIT */
#pragma once

/* Why something was refused, in one sentence for a person: what, where, what to do about it. It travels
 * beside an error code, never instead of one; whoever asked may pass NULL and lose only the words. */

#include "base/cleanup.h"

struct reason {
        char text[240];
};

#define REASON_INIT { .text = "" }

/* Sets the sentence, cut to fit. `reason` may be NULL. Control characters that came from a peer or a file
 * are replaced by '?', so that a message cannot forge a second one on a terminal or in a log. */
void reason_set(struct reason *reason, const char *format, ...) _printf_(2, 3);

/* As reason_set(), and returns `error`, so that a refusal is one statement. */
#define reason_return(reason, error, ...) (reason_set((reason), __VA_ARGS__), (error))
