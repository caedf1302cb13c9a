/* SPDX-License-Identifier: MIT */
#pragma once

/* How the routed experts of a token are dealt to the MoE layers: for each mean budget the share of each layer, as
 * measured by `moed --calibrate`. Without a plan every layer gets the mean.
 *
 * A plan has a line for every budget of 1 expert to `experts_used`, an eighth apart, and holds shares of 1 expert to
 * `experts_used` in eighths too, so that budgets between two lines are mixed from both without rounding: shares sum to
 * the mean times the number of layers exactly, whatever the budget (P1). */

#include <stddef.h>
#include <stdint.h>

enum {
        EXPERT_PLAN_PARTS = 8, /* parts of an expert */
        EXPERT_PLAN_PART_MILLI = 1000 / EXPERT_PLAN_PARTS,
};

struct expert_plan {
        uint32_t layers;       /* MoE layers */
        uint32_t experts_used; /* by a token in a layer, unless capped */
        uint16_t *shares;      /* [expert_plan_lines()][layers], eighths of an expert; NULL: there is no plan */
};

#define EXPERT_PLAN_NULL { .shares = NULL }

static inline uint32_t expert_plan_lines(uint32_t experts_used) {
        return EXPERT_PLAN_PARTS * (experts_used - 1) + 1;
}

/* What MoE layer `layer` may use in the mean, in thousandths of an expert, when a token may use `cap_milli` in the mean
 * of all layers. A plan gives no layer less than one expert while the budget has so much, and none more than
 * `experts_used`; a budget that goes beyond is cut to that. `plan` may be NULL: then the mean is every layer's
 * share. */
uint32_t expert_plan_milli(const struct expert_plan *plan, uint32_t cap_milli, uint32_t layer);

/* What each of `layers` MoE layers may use in the mean, as expert_plan_milli(), but none less than `floor_milli` while
 * the mean is as much: layers come nearer to the mean then, by the same factor, rounded down. Writes layer l's share to
 * ret[l × stride]. */
void expert_plan_deal(const struct expert_plan *plan, uint32_t cap_milli, uint32_t floor_milli, uint32_t layers,
                      int32_t *ret, size_t stride);

void expert_plan_deinit(struct expert_plan *plan);
