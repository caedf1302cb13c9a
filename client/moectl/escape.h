/* SPDX-License-Identifier: MIT */
#pragma once

/* Text that others chose (what a program calls itself, its unit, a model's name) for a terminal: it can neither move
 * the cursor, nor change colours, nor turn the line around, nor hide. */

/* The text with everything but printable characters written as \xNN (a byte: controls, what is no UTF-8) or \uNNNN
 * (a character that is not seen or that works on others: C1 controls, directions, joiners, tags). Backslashes stay as
 * they are, since unit names have them. To be freed; NULL: no memory. */
char *escape(const char *text);
