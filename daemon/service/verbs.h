/* SPDX-License-Identifier: MIT */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct control_builder;
struct peer;
struct reason;

/* Handles one control packet and sends its reply. A packet that is not understood gets an error; a peer that does not
 * read its replies, or sends something that is no message, is dropped. */
void verbs_handle(struct peer *peer, const void *data, size_t size);
/* The reply of a verb that was not done at once: with `error` (positive errno) and the reason, or 0 and what was
 * built. */
void verbs_reply(struct peer *peer, uint64_t id, struct control_builder *reply, int error, struct reason *reason);
