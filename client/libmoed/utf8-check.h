/* SPDX-License-Identifier: MIT */
#pragma once

/* UTF-8 as RFC 3629 has it: no surrogates, no overlong forms, nothing above U+10FFFF. */

#include <stdbool.h>
#include <stddef.h>

/* Looks at the sequence at `s` (`n` bytes, at least one). True: it is one whole character of *length bytes.
 * False: its first *length bytes belong together and are not a character: one U+FFFD stands for them (Unicode
 * 15, 3.9, maximal subparts). */
bool utf8_next(const char *s, size_t n, size_t *length);

/* How many bytes at the end of `s` begin a character that further bytes could complete: 0 to 3. */
size_t utf8_open_tail(const char *s, size_t n);
