/* SPDX-License-Identifier: MIT */
#pragma once

/* What the daemon counted of a model's experts: of each layer that has some, the rows that used each. */

#include "cli.h"

struct expert_uses {
        char *model;
        uint32_t layers, experts, used; /* used: by a row, at most */
        uint64_t *counts;               /* [layers][experts] */
};

/* Of the model of that name. 0 or an exit code; *ret, all zeros before, is to be freed either way. */
int expert_uses_ask(struct expert_uses *ret, struct moed *m, const char *model);
void expert_uses_deinit(struct expert_uses *uses);
