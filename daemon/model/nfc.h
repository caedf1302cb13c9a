/* SPDX-License-Identifier: MIT */
#pragma once

/* Unicode normalisation form C (UAX 15), in time linear in the text however many marks are piled on one
 * letter. */

#include <stdbool.h>
#include <stddef.h>

/* False when the text surely is in that form already; cheap. */
bool nfc_needed(const char *text, size_t n);

/* `text` must be valid UTF-8. The result is the caller's to free. 0 or -ENOMEM. */
int nfc(const char *text, size_t n, char **ret, size_t *ret_n);
