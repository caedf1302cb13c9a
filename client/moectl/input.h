/* SPDX-License-Identifier: MIT */
#pragma once

/* The text that a verb works on: its operands, or standard input. */

#include <stddef.h>

/* Joins the operands by spaces; a single "-" stands for all of standard input. *ret is malloc()ed and
 * terminated, *length does not count the terminator. 0 or a negative errno. */
int input_text(char **operands, int n, char **ret, size_t *length);
