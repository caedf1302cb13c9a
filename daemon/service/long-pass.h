/* SPDX-License-Identifier: MIT */
#pragma once

/* Forward passes over many rows of prompts that are interrupted at every layer: the loop computes one layer, looks
 * after everybody, and asks the scheduler what is next. A stream in such a pass has rows_flying; it is neither evicted
 * nor freed until the pass has landed, and is only marked when it is cancelled or its client goes. When all of a pass's
 * are marked, the pass is given up. */

#include <stdbool.h>
#include <stdint.h>

#include "scheduler.h"

struct offer;
struct server;

enum {
        LONG_PASSES = 4,        /* of a model at a time; who finds none has its prompts in short passes */
        LONG_PASS_STREAMS = 64, /* of one */
};

/* Working memory that all passes of a model may take together. */
#define LONG_PASS_BYTES (UINT64_C(300) << 20)

/* Makes the passes of an offer whose model is open, of `rows_max` rows each; none when that is 0. -ENOMEM. */
int long_passes_new(struct offer *offer, uint32_t rows_max);
/* Frees their memory; none may be under way. The next one takes it anew. */
void long_passes_rest(struct offer *offer);
/* None may be under way. */
void long_passes_free(struct offer *offer);

/* Does what the scheduler said: begins the pass if it is to begin, and computes its next layer. */
void long_pass_run(struct server *server, struct sched_pass *pass, bool begin);
/* Gives up all that are under way: the daemon ends. */
void long_passes_give_up(struct server *server);
