/* SPDX-License-Identifier: MIT */
#pragma once

#include <stddef.h>

struct peer;

/* Handles one control packet and sends its reply. A packet that is not understood gets an error; a peer that does not
 * read its replies, or sends something that is no message, is dropped. */
void verbs_handle(struct peer *peer, const void *data, size_t size);
