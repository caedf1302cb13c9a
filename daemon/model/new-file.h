/* SPDX-License-Identifier: MIT */
#pragma once

/* A file that appears under its name only when it is complete and on the disk. */

#include <stdbool.h>
#include <stdio.h>

/* Lets `write` fill it; what that returns, if not 0, is the result, and no file is left. -EEXIST when there is one of
 * that name already, unless `replace`; another negative errno when it cannot be written. */
int new_file_write(const char *path, bool replace, int (*write)(FILE *out, void *userdata), void *userdata);
