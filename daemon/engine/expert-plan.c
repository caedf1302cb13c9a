/* SPDX-License-Identifier: MIT */
#include "expert-plan.h"

#include <stdlib.h>

#include "base/util.h"

uint32_t expert_plan_milli(const struct expert_plan *plan, uint32_t cap_milli, uint32_t layer) {
        const uint16_t *low, *high;
        uint32_t line, rest;

        if (!plan || !plan->shares)
                return cap_milli;
        cap_milli = MIN(cap_milli, 1000 * plan->experts_used);
        if (cap_milli < 1000)
                return cap_milli;
        line = (cap_milli - 1000) / EXPERT_PLAN_PART_MILLI;
        rest = (cap_milli - 1000) % EXPERT_PLAN_PART_MILLI;
        low = plan->shares + (size_t) line * plan->layers;
        if (rest == 0)
                return EXPERT_PLAN_PART_MILLI * low[layer];
        /* rest/125 of the way from one line to the next, which is 125 a share's eighth: whole numbers. */
        high = low + plan->layers;
        return (EXPERT_PLAN_PART_MILLI - rest) * low[layer] + rest * high[layer];
}

void expert_plan_deal(const struct expert_plan *plan, uint32_t cap_milli, uint32_t floor_milli, uint32_t layers,
                      int32_t *ret, size_t stride) {
        int64_t cap = cap_milli, floor = MIN(floor_milli, cap_milli), lowest = cap;

        for (uint32_t l = 0; l < layers; l++) {
                ret[l * stride] = (int32_t) expert_plan_milli(plan, cap_milli, l);
                lowest = MIN(lowest, (int64_t) ret[l * stride]);
        }
        if (lowest >= floor)
                return;
        for (uint32_t l = 0; l < layers; l++) {
                int64_t above = ret[l * stride] - lowest;

                /* The lowest share becomes the floor, the mean stays the mean. */
                ret[l * stride] = (int32_t) (floor + above * (cap - floor) / (cap - lowest));
        }
}

void expert_plan_deinit(struct expert_plan *plan) {
        free(plan->shares);
        *plan = (struct expert_plan) EXPERT_PLAN_NULL;
}
