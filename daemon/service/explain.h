/* SPDX-License-Identifier: MIT */
#pragma once

/* Why requests got what they got, as the replies of control verbs. */

#include <stdbool.h>
#include <stdint.h>

#include "control.h"

struct peer;

/* The requests that `peer` may know of, as "requests": those that have not ended, then those that have, the latest
 * first; at most `limit`. */
void explain_list(struct control_builder *reply, const struct peer *peer, uint64_t limit);
/* All about one of them. False: there is none of this number, or `peer` may not know of it. -ENOMEM. */
int explain_request(struct control_builder *reply, const struct peer *peer, uint64_t number, bool *ret_found);
