/* SPDX-License-Identifier: MIT */
#pragma once

/* What `moectl stats` shows beside the counters. Each asks the daemon and prints: 0 or an exit code. */

#include "cli.h"

/* How much each expert of a model (NULL: the default) was used: a row a layer, or with a `layer` a row an expert. */
int stats_experts(struct moed *m, const struct cli *cli, const char *model, const uint32_t *layer);

/* What passes of each model cost. */
int stats_cost(struct moed *m, const struct cli *cli);

/* All counters as Prometheus reads them; those of `experts`, if wanted, of all models. */
int stats_prometheus(struct moed *m, bool experts);
