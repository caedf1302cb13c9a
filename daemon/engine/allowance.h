/* SPDX-License-Identifier: MIT */
#pragma once

/* How a token's allowance of routed experts is spread over the MoE layers. */

#include <stdint.h>

#include "base/util.h"

/* The cap in MoE layer `layer` of `layers`, for an allowance of `allowance` experts over all of them: the
 * whole part of the line from 0 to `allowance`, so that the caps sum to it exactly; never more than `k`. */
static inline uint32_t allowance_cap(uint32_t allowance, uint32_t layer, uint32_t layers, uint32_t k) {
        uint64_t a = allowance;

        return (uint32_t) MIN((layer + 1) * a / layers - layer * a / layers, (uint64_t) k);
}
