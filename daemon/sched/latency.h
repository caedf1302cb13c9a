/* SPDX-License-Identifier: MIT */
#pragma once

/* Lowers the experts of a principal while its tokens would come later than its LatencyTarget=, and gives them back. It
 * acts on forecasts, which follow the cap at once, not on what was measured, which comes late and with noise: so it can
 * be quick without swinging. */

#include <stdint.h>

struct latency {
        double wanted;  /* share of the way from ExpertsMin= to the cap, in thousandths; */
        uint32_t share; /* the one that holds: in steps, see share_settle() */
};

void latency_init(struct latency *latency);
/* The next tokens of the principal will take `forecast` after the ones before; it wants `target`, 0: no matter.
 * `elapsed` is the time since the last call. */
void latency_update(struct latency *latency, uint64_t forecast, uint64_t target, uint64_t elapsed);
