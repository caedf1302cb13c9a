/* SPDX-License-Identifier: MIT */
#pragma once

/* UTF-8 as Unicode defines it: no overlong forms, no surrogates, nothing above U+10FFFF. Pure functions. */

#include <stddef.h>
#include <stdint.h>

/* The character at the start of `s`: its length 1 … 4, or 0 when the `n` bytes begin with none. */
unsigned utf8_decode(const char *s, size_t n, uint32_t *ret);

/* Writes a code point (not checked) and returns its length 1 … 4. */
unsigned utf8_encode(uint32_t code, char out[4]);

/* Length of the longest prefix that is valid. */
size_t utf8_valid(const char *s, size_t n);

/* Length of the longest prefix in which no character begins: bytes that are not UTF-8. */
size_t utf8_invalid(const char *s, size_t n);

/* How many bytes at the end, 0 … 3, are the beginning of a character that more bytes could complete. */
unsigned utf8_pending(const char *s, size_t n);
