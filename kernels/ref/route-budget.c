/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <string.h>

#include "base/util.h"
#include "host.h"
#include "ref.h"

static const float threshold_first = 1.0f / 64, threshold_least = 1e-6f;
/* How fast a threshold follows: of an expert too many or too few, but faster where it has seen few rows. */
static const float threshold_gain = 0.1f;

/* A row with a budget: what the router has chosen for it. */
struct choice {
        int32_t *ids;
        float *weights; /* as normalised over all of them */
        uint32_t n;
};

static int32_t value_of(struct device_ptr array, uint32_t t) {
        return array.address ? ((const int32_t *) host_address(array))[t] : 0;
}

static bool is_rider(const struct op_route *op, uint32_t t) {
        return route_has_budget(op, t) && value_of(op->budget.bases, t) > 0;
}

static bool is_normalized(const struct op_route *op) {
        return op->normalize || op->gate == ROUTE_SOFTMAX_CHOSEN;
}

static struct choice choice_of(const struct op_route *op, uint32_t t) {
        return (struct choice) {
                .ids = (int32_t *) host_address(op->ids) + (size_t) t * op->k,
                .weights = (float *) host_address(op->weights) + (size_t) t * op->k,
                .n = (uint32_t) value_of(op->counts, t),
        };
}

size_t route_place(const struct op_route *op, uint32_t t, uint32_t position) {
        const struct op_rows *rows = &op->budget.rows;
        const int32_t *pages = (const int32_t *) host_address(rows->page_table) +
                               (size_t) value_of(rows->sequences, t) * rows->page_table_stride;

        return kv_entry(0, pages, position);
}

static struct route_state *state_of(const struct op_route *op, uint32_t t, uint32_t position) {
        return (struct route_state *) host_address(op->budget.state) + route_place(op, t, position);
}

static void choice_move(struct choice *c, uint32_t from, uint32_t to) {
        int32_t id = c->ids[from];
        float weight = c->weights[from];

        for (; from > to; from--) {
                c->ids[from] = c->ids[from - 1];
                c->weights[from] = c->weights[from - 1];
        }
        c->ids[to] = id;
        c->weights[to] = weight;
}

/* By falling weight; the order of equals, and of what is no number, stays. */
static void choice_sort(struct choice *c) {
        for (uint32_t i = 1; i < c->n; i++) {
                uint32_t j = i;

                while (j > 0 && c->weights[j - 1] < c->weights[i])
                        j--;
                choice_move(c, i, j);
        }
}

/* How many experts are worth more than the threshold, one at least: up to the first that is not. */
static uint32_t choice_worth(const struct choice *c, const struct op_route *op, float threshold) {
        float total = 0.0f, sum = 0.0f, squares = 0.0f, before = INFINITY;

        for (uint32_t j = 0; j < c->n; j++)
                total += c->weights[j];
        if (!is_normalized(op))
                total = op->scale;
        for (uint32_t j = 0; j < c->n; j++) {
                float share = c->weights[j] / total, rest, error;

                sum += share;
                squares += share * share;
                rest = is_normalized(op) ? 1.0f / sum - 1.0f : 0.0f;
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

/* The least of a row's experts, whatever its balance: so much it has always. */
static uint32_t row_sure(const struct op_route *op, uint32_t t) {
        uint32_t cap = (uint32_t) MAX(value_of(op->caps, t), 0) / 1000;

        if (is_rider(op, t))
                cap = MIN(cap, (uint32_t) value_of(op->budget.bases, t));
        else if (route_has_budget(op, t) && cap < op->k)
                cap = MIN(cap, (uint32_t) MAX(value_of(op->budget.floors, t), 1));
        return MIN(cap, (uint32_t) value_of(op->counts, t));
}

/* Leaves a rider those that are loaded, behind the ones that it has anyway. */
static void ride_row(const struct op_route *op, const bool *loaded, uint32_t t) {
        struct choice c = choice_of(op, t);
        uint32_t n = row_sure(op, t);

        for (uint32_t j = n; j < c.n; j++)
                if (loaded[c.ids[j]])
                        choice_move(&c, j, n++);
        for (uint32_t j = n; j < c.n; j++) {
                c.ids[j] = -1;
                c.weights[j] = 0.0f;
        }
        ((int32_t *) host_address(op->counts))[t] = (int32_t) n;
}

static void ride_group(const struct op_route *op, int32_t group) {
        bool loaded[ROUTE_EXPERTS_MAX];

        memset(loaded, false, op->experts * sizeof(*loaded));
        for (uint32_t t = 0; t < op->n; t++) {
                struct choice c = choice_of(op, t);

                if (value_of(op->budget.groups, t) != group)
                        continue;
                if (route_has_budget(op, t))
                        choice_sort(&c);
                for (uint32_t j = 0; j < row_sure(op, t); j++)
                        loaded[c.ids[j]] = true;
        }
        for (uint32_t t = 0; t < op->n; t++)
                if (value_of(op->budget.groups, t) == group && is_rider(op, t))
                        ride_row(op, loaded, t);
}

static float clamp(float x, float least, float most) {
        return MIN(MAX(x, least), most);
}

/* The threshold as a row sees it that has a demand. */
static float row_threshold(const struct op_route *op, const struct route_state *s, uint32_t t) {
        const float *demand = host_address(op->budget.demand);

        return demand ? s->threshold * expf(-demand[(size_t) t * op->budget.demand_stride]) : s->threshold;
}

/* What the row wants; and the threshold follows. */
static uint32_t row_wants(const struct op_route *op, const struct choice *c, struct route_state *s, uint32_t t,
                          uint32_t position) {
        float cap = (float) value_of(op->caps, t) / 1000.0f, gain = MAX(threshold_gain, 2.0f / (float) (position + 1));
        uint32_t least = MIN((uint32_t) MAX(value_of(op->budget.floors, t), 1), c->n);
        uint32_t wanted = MAX(choice_worth(c, op, row_threshold(op, s, t)), least);
        float change = clamp(1.0f + gain * ((float) wanted - cap), 0.5f, 2.0f);

        s->threshold = clamp(s->threshold * change, threshold_least, 1.0f);
        return wanted;
}

/* What is left of the row's choice, by falling weight: for a rider what its group has, without one the least; for
 * others what they want. */
static uint32_t row_count(const struct op_route *op, struct choice *c, struct route_state *s, uint32_t t,
                          uint32_t position) {
        bool rides = is_rider(op, t);

        if (rides && value_of(op->budget.groups, t) > 0)
                return c->n;
        choice_sort(c);
        if (rides)
                return row_sure(op, t);
        return (uint32_t) value_of(op->caps, t) < op->k * 1000 ? row_wants(op, c, s, t, position) : c->n;
}

static uint32_t spend_row(const struct op_route *op, struct choice *c, struct route_state *s, uint32_t t,
                          uint32_t position) {
        int32_t cap = MAX(value_of(op->caps, t), 0), most = (int32_t) op->k * ROUTE_SAVED_MAX;
        uint32_t count = row_count(op, c, s, t, position);

        if (cap < (int32_t) op->k * 1000) {
                s->balance = MIN(s->balance + cap, most);
                count = MIN(count, (uint32_t) s->balance / 1000);
                s->balance -= (int32_t) count * 1000;
        }
        if (count < c->n || is_rider(op, t))
                choice_keep(op, c, count);
        return count;
}

static void settle_budget(const struct op_route *op, uint32_t t, uint32_t position) {
        struct route_state s = { .threshold = threshold_first };
        struct choice c = choice_of(op, t);

        if (position > 0)
                s = *state_of(op, t, position - 1);
        if (route_has_budget(op, t))
                ((int32_t *) host_address(op->counts))[t] = (int32_t) spend_row(op, &c, &s, t, position);
        *state_of(op, t, position) = s;
}

void route_settle(const struct op_route *op, route_fn *route) {
        uint32_t *used = host_address(op->used);
        struct route_window window;

        window.sequence = -1;
        for (uint32_t g = 1; g <= op->budget.n_groups; g++)
                ride_group(op, (int32_t) g);
        for (uint32_t t = 0; t < op->n; t++) {
                uint32_t position = (uint32_t) value_of(op->budget.rows.positions, t);
                const bool *full = NULL;

                if (op->capacity.most > 0)
                        full = route_window_enter(&window, op, t, position);
                if (full)
                        route(op, full, t, t + 1);
                settle_budget(op, t, position);
                if (op->capacity.most > 0)
                        route_window_leave(&window, op, t, position);
                if (used)
                        used[t] += (uint32_t) value_of(op->counts, t);
        }
}
