/* SPDX-License-Identifier: MIT */
#include <math.h>

#include "base/util.h"
#include "host.h"
#include "ref.h"

static const float threshold_first = 1.0f / 64, threshold_least = 1e-6f;
/* How fast a threshold follows: of an expert too many or too few, but faster where it has seen few rows. */
static const float threshold_gain = 1.0f / 10;

/* A row with a budget: what the router has chosen for it. */
struct choice {
        int32_t *ids;
        float *weights; /* as normalised over all of them */
        uint32_t n;
};

static bool is_normalized(const struct op_route *op) {
        return op->normalize || op->gate == ROUTE_SOFTMAX_CHOSEN;
}

static struct route_state *state_of(const struct op_rows *rows, struct device_ptr state, uint32_t t,
                                    uint32_t position) {
        const int32_t *pages = (const int32_t *) host_address(rows->page_table) +
                               (size_t) ((const int32_t *) host_address(rows->sequences))[t] *
                                       rows->page_table_stride;
        size_t page = (size_t) pages[position / KV_PAGE_TOKENS];

        return (struct route_state *) host_address(state) + page * KV_PAGE_TOKENS + position % KV_PAGE_TOKENS;
}

/* By falling weight; the order of equals, and of what is no number, stays. */
static void choice_sort(struct choice *c) {
        for (uint32_t i = 1; i < c->n; i++) {
                int32_t id = c->ids[i];
                float weight = c->weights[i];
                uint32_t j = i;

                for (; j > 0 && c->weights[j - 1] < weight; j--) {
                        c->ids[j] = c->ids[j - 1];
                        c->weights[j] = c->weights[j - 1];
                }
                c->ids[j] = id;
                c->weights[j] = weight;
        }
}

/* How many experts are worth more than the threshold, one at least: up to the first that is not. Shares are of `total`. */
static uint32_t choice_worth(const struct choice *c, bool normalized, float total, float threshold) {
        float sum = 0.0f, squares = 0.0f, before = INFINITY;

        for (uint32_t j = 0; j < c->n; j++) {
                float share = c->weights[j] / total, rest, error;

                sum += share;
                squares += share * share;
                rest = normalized ? 1.0f / sum - 1.0f : 0.0f;
                error = squares * rest * rest - squares; /* but for what all of them have in common */
                if (j > 0 && !(before - error > threshold))
                        return j;
                before = error;
        }
        return c->n;
}

static void choice_keep(const struct op_route *op, struct choice *c, uint32_t count) {
        float sum = 0.0f, factor = 1.0f;

        for (uint32_t j = 0; j < count; j++)
                sum += c->weights[j];
        if (is_normalized(op) && sum > 0.0f)
                factor = op->scale / sum;
        for (uint32_t j = 0; j < c->n; j++) {
                c->ids[j] = j < count ? c->ids[j] : -1;
                c->weights[j] = j < count ? c->weights[j] * factor : 0.0f;
        }
}

/* Takes what the row gets out of the balance and moves the threshold. */
static uint32_t state_spend(struct route_state *s, int32_t cap, uint32_t wanted, uint32_t position) {
        float gain = MAX(threshold_gain, 2.0f / (float) (position + 1));
        float change = 1.0f + gain * ((float) wanted - (float) cap / 1000.0f);
        uint32_t count = MIN(wanted, (uint32_t) s->balance / 1000);

        s->balance -= (int32_t) count * 1000;
        s->threshold = MIN(MAX(s->threshold * MIN(MAX(change, 0.5f), 2.0f), threshold_least), 1.0f);
        return count;
}

/* The threshold as a row sees it that has a demand. */
static float row_threshold(const struct op_route *op, const struct route_state *s, uint32_t t) {
        const float *demand = host_address(op->budget.demand);

        return demand ? s->threshold * expf(-demand[(size_t) t * op->budget.demand_stride]) : s->threshold;
}

static uint32_t spend_row(const struct op_route *op, struct choice *c, struct route_state *s, uint32_t t,
                          uint32_t position) {
        int32_t cap = MAX(((const int32_t *) host_address(op->caps))[t], 0), most = (int32_t) op->k * ROUTE_SAVED_MAX;
        int32_t floor = ((const int32_t *) host_address(op->budget.floors))[t];
        float total = 0.0f;
        uint32_t wanted, count;

        if (cap >= (int32_t) op->k * 1000)
                return c->n;
        s->balance = MIN(s->balance + cap, most);
        choice_sort(c);
        for (uint32_t j = 0; j < c->n; j++)
                total += c->weights[j];
        wanted = choice_worth(c, is_normalized(op), is_normalized(op) ? total : op->scale, row_threshold(op, s, t));
        wanted = MAX(wanted, MIN((uint32_t) floor, c->n));
        count = state_spend(s, cap, wanted, position);
        if (count < c->n)
                choice_keep(op, c, count);
        return count;
}

void route_spend(const struct op_route *op) {
        const int32_t *positions = host_address(op->budget.rows.positions);
        int32_t *counts = host_address(op->counts);
        uint32_t *used = host_address(op->used);

        for (uint32_t t = 0; t < op->n; t++) {
                uint32_t position = (uint32_t) positions[t];
                struct route_state s = { .threshold = threshold_first };
                struct choice c = {
                        .ids = (int32_t *) host_address(op->ids) + (size_t) t * op->k,
                        .weights = (float *) host_address(op->weights) + (size_t) t * op->k,
                        .n = (uint32_t) counts[t],
                };

                if (position > 0)
                        s = *state_of(&op->budget.rows, op->budget.state, t, position - 1);
                if (route_has_budget(op, t)) {
                        counts[t] = (int32_t) spend_row(op, &c, &s, t, position);
                        if (used)
                                used[t] += (uint32_t) counts[t];
                }
                *state_of(&op->budget.rows, op->budget.state, t, position) = s;
        }
}
