/* SPDX-License-Identifier: MIT */
#pragma once

/* The folder blocks/ of the reference fixtures (its README has the formats): $MOED_FIXTURES, else
 * ../shared/fixtures beside the source tree, else the committed part of them. */

#include <limits.h>
#include <stddef.h>

/* Skips the running test when there is none. */
void fixture_blocks(char path[PATH_MAX]);

/* The whole file `folder/name``suffix`, freed by the caller; NULL when there is no such file. */
void *fixture_read(const char *folder, const char *name, const char *suffix, size_t *ret_bytes);
