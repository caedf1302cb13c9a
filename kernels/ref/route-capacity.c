/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "base/util.h"
#include "host.h"
#include "ref.h"

static uint16_t *chosen_at(const struct op_route *op, uint32_t t, uint32_t position) {
        return (uint16_t *) host_address(op->capacity.chosen) + route_place(op, t, position) * op->k;
}

/* Positions that a sequence has skipped hold anything. */
static void count_position(struct route_window *w, const struct op_route *op, const uint16_t *chosen) {
        for (uint32_t j = 0; j < op->k; j++)
                if (chosen[j] < op->experts)
                        w->uses[chosen[j]]++;
}

/* A lot less than the row's attention to the same positions. */
static void count_window(struct route_window *w, const struct op_route *op, uint32_t t, uint32_t first, uint32_t end) {
        memset(w->uses, 0, op->experts * sizeof(*w->uses));
        for (uint32_t p = first; p < end; p++)
                count_position(w, op, chosen_at(op, t, p));
}

const bool *route_window_enter(struct route_window *w, const struct op_route *op, uint32_t t, uint32_t position) {
        const int32_t *ids = (const int32_t *) host_address(op->ids) + (size_t) t * op->k;
        int32_t sequence = ((const int32_t *) host_address(op->budget.rows.sequences))[t];
        uint32_t first = position - position % op->capacity.window;
        bool overflows = false;

        if (sequence != w->sequence || position != w->next || position == first)
                count_window(w, op, t, first, position);
        for (uint32_t j = 0; j < op->k && ids[j] >= 0; j++)
                overflows |= w->uses[ids[j]] >= op->capacity.most;
        for (uint32_t e = 0; e < op->experts && overflows; e++)
                w->full[e] = w->uses[e] >= op->capacity.most;
        return overflows ? w->full : NULL;
}

void route_window_leave(struct route_window *w, const struct op_route *op, uint32_t t, uint32_t position) {
        const int32_t *ids = (const int32_t *) host_address(op->ids) + (size_t) t * op->k;
        uint16_t *chosen = chosen_at(op, t, position);

        for (uint32_t j = 0; j < op->k; j++)
                chosen[j] = ids[j] < 0 ? ROUTE_NONE : (uint16_t) ids[j];
        count_position(w, op, chosen);
        w->sequence = ((const int32_t *) host_address(op->budget.rows.sequences))[t];
        w->next = position + 1;
}
