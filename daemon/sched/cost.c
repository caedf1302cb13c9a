/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "cost.h"

enum {
        FIT_EVERY = 16,   /* observations from one fit to the next; but after each while there are few */
        FIT_SWEEPS = 400, /* of coordinate descent */
};

/* How much of what was seen lately is left after a further pass, and how strongly a coefficient holds on to its guess:
 * being off by itself counts as so much of a pass that is off by all it took. */
static const double FIT_MEMORY = 1.0 - 1.0 / 128, FIT_GUESS = 0.002;
/* How fast the speed follows, and what a single pass can say about it. */
static const double SPEED_RATE = 0.15, SPEED_STEP = 0.5;
/* Relative errors from here on count for less. */
static const double OUTLIER = 0.5;
static const double SPREAD_RATE = 0.05;

/* Guesses: a core and memory of the last ten years. */
static const double GUESS_BYTES = 10.0 /* per nsec */, GUESS_FLOPS = 200.0 /* per nsec */;

const char *cost_term_name(enum cost_term term) {
        static const char *const names[_COST_TERM_N] = {
                [COST_PASS] = "pass",
                [COST_ROW_PROMPT] = "row_prompt",
                [COST_ROW_GENERATED] = "row_generated",
                [COST_KEY_PROMPT] = "kilokey_prompt",
                [COST_KEY_GENERATED] = "kilokey_generated",
                [COST_ACTIVATION_PROMPT] = "activation_prompt",
                [COST_ACTIVATION_GENERATED] = "activation_generated",
                [COST_EXPERT] = "expert",
                [COST_LOGITS] = "logits",
        };

        return names[term];
}

/* Most weights are the routed experts', where there are any. A weight has a byte, and two operations in each row. */
static void cost_guess(const struct cost *cost, double *guess) {
        const struct cost_shape *shape = &cost->shape;
        double bytes = MAX((double) shape->weight_bytes, 1e6), all = (double) shape->experts * shape->moe_layers;
        double expert = all > 0 ? 0.9 * bytes / all : 0.0, dense = bytes - expert * all;

        guess[COST_PASS] = dense / GUESS_BYTES + 20000.0 * shape->layers;
        guess[COST_ROW_PROMPT] = guess[COST_ROW_GENERATED] = 2 * dense / GUESS_FLOPS;
        guess[COST_KEY_PROMPT] = guess[COST_KEY_GENERATED] = 1000.0 * shape->layers;
        guess[COST_ACTIVATION_PROMPT] = guess[COST_ACTIVATION_GENERATED] = 2 * expert / GUESS_FLOPS;
        guess[COST_EXPERT] = expert / GUESS_BYTES;
        guess[COST_LOGITS] = 0.2 * guess[COST_ROW_GENERATED];
}

static void cost_keep_guess(struct cost *cost) {
        for (int i = 0; i < _COST_TERM_N; i++) {
                double guess = MAX(cost->coefficients[i], 1.0);

                cost->base_matrix[i][i] = FIT_GUESS / (guess * guess);
                cost->base_vector[i] = FIT_GUESS / guess;
        }
}

/* The coefficients that are not negative and miss least, by coordinate descent from where they are: terms that come
 * together have many solutions, of which the nearest will do. */
static void cost_fit(struct cost *cost) {
        double *x = cost->coefficients;

        for (int sweep = 0; sweep < FIT_SWEEPS; sweep++)
                for (int i = 0; i < _COST_TERM_N; i++) {
                        double slope = cost->vector[i] + cost->base_vector[i], curve;

                        for (int j = 0; j < _COST_TERM_N; j++)
                                slope -= (cost->matrix[i][j] + cost->base_matrix[i][j]) * x[j];
                        curve = cost->matrix[i][i] + cost->base_matrix[i][i];
                        x[i] = MAX(x[i] + slope / curve, 0.0);
                }
}

static void cost_update_short(struct cost *cost) {
        struct cost_load nothing = {};

        cost->short_rows = cost_prompt_rows(cost, &nothing, 0, cost->shape.experts_used * 1000,
                                            cost_short_nsec(cost, &nothing), 4096);
}

void cost_init(struct cost *cost, const struct cost_shape *shape) {
        *cost = (struct cost) { .shape = *shape, .speed = 1.0 };
        for (int i = 0; i < COST_SIZES; i++)
                cost->spread[i] = 1.0;
        cost_guess(cost, cost->coefficients);
        cost_keep_guess(cost);
        cost_update_short(cost);
}

void cost_load_add(const struct cost *cost, struct cost_load *load, const struct cost_rows *rows) {
        double n = rows->rows, k = MIN(rows->cap_milli / 1000.0, (double) cost->shape.experts_used);
        double keys = n * rows->position + n * (n + 1) / 2, activations = n * k * cost->shape.moe_layers;

        load->terms[COST_PASS] = 1.0;
        load->terms[rows->prompt ? COST_ROW_PROMPT : COST_ROW_GENERATED] += n;
        load->terms[rows->prompt ? COST_KEY_PROMPT : COST_KEY_GENERATED] += keys / 1000.0;
        load->terms[rows->prompt ? COST_ACTIVATION_PROMPT : COST_ACTIVATION_GENERATED] += activations;
        load->terms[COST_LOGITS] += rows->logits;
        if (cost->shape.experts > 0)
                load->missed += n * log1p(-MIN(k / cost->shape.experts, 0.999));
}

static double load_activations(const struct cost_load *load) {
        return load->terms[COST_ACTIVATION_PROMPT] + load->terms[COST_ACTIVATION_GENERATED];
}

/* By expectation alone. */
static double load_expected(const struct cost *cost, const struct cost_load *load) {
        return (double) cost->shape.moe_layers * cost->shape.experts * -expm1(load->missed);
}

static int load_size(const struct cost *cost, const struct cost_load *load) {
        double activations = load_activations(load) / MAX(cost->shape.moe_layers, 1u);

        return activations < 1 ? 0 : MIN(ilogb(activations), COST_SIZES - 1);
}

double cost_load_experts(const struct cost *cost, const struct cost_load *load) {
        return MIN(load_expected(cost, load) * cost->spread[load_size(cost, load)], load_activations(load));
}

static double load_sum(const struct cost *cost, const struct cost_load *load, double experts) {
        double sum = cost->coefficients[COST_EXPERT] * experts;

        for (int i = 0; i < _COST_TERM_N; i++)
                sum += cost->coefficients[i] * load->terms[i];
        return sum;
}

/* What passes no sane size is a mistake that must not become a conversion without a meaning. */
static uint64_t to_nsec(double nsec) {
        return nsec > 0 ? (uint64_t) MIN(nsec, 1e15) : 0;
}

uint64_t cost_nsec(const struct cost *cost, const struct cost_load *load) {
        return to_nsec(load_sum(cost, load, cost_load_experts(cost, load)) * cost->speed);
}

uint64_t cost_share_nsec(const struct cost *cost, const struct cost_load *beside, const struct cost_rows *rows) {
        struct cost_load own = {}, all = *beside;
        double activations, experts;

        cost_load_add(cost, &own, rows);
        cost_load_add(cost, &all, rows);
        activations = load_activations(&all);
        experts = activations > 0 ? cost_load_experts(cost, &all) * load_activations(&own) / activations : 0.0;
        own.terms[COST_PASS] = 0.0;
        return to_nsec(load_sum(cost, &own, experts) * cost->speed);
}

uint32_t cost_prompt_rows(const struct cost *cost, const struct cost_load *beside, uint32_t position,
                          uint32_t cap_milli, uint64_t nsec, uint32_t max) {
        uint64_t alone = cost_nsec(cost, beside);
        uint32_t low = 1, high = MAX(max, 1u);

        while (low < high) {
                uint32_t middle = low + (high - low + 1) / 2;
                struct cost_load load = *beside;

                cost_load_add(cost, &load, &(struct cost_rows) {
                        .rows = middle, .position = position, .prompt = true, .cap_milli = cap_milli,
                });
                if (cost_nsec(cost, &load) <= nsec || cost_nsec(cost, &load) - nsec <= alone)
                        low = middle;
                else
                        high = middle - 1;
        }
        return low;
}

uint64_t cost_short_nsec(const struct cost *cost, const struct cost_load *beside) {
        double all = (double) cost->shape.moe_layers * cost->shape.experts;
        double fixed = cost->coefficients[COST_PASS] * (1.0 - beside->terms[COST_PASS]) +
                       cost->coefficients[COST_EXPERT] * MAX(all - cost_load_experts(cost, beside), 0.0);
        double left = (double) COST_SHORT_PASS_NSEC - (double) cost_nsec(cost, beside);

        return MAX(to_nsec(MIN((double) COST_SHORT_NSEC + fixed * cost->speed, left)), COST_SHORT_NSEC);
}

/* Each equation says that the sum is what the pass took, divided by that: errors count relative to the whole. */
static void equations_add(double matrix[_COST_TERM_N][_COST_TERM_N], double *vector, const double *terms, double nsec,
                          double weight) {
        for (int i = 0; i < _COST_TERM_N; i++) {
                for (int j = 0; j < _COST_TERM_N; j++)
                        matrix[i][j] += weight * terms[i] * terms[j] / (nsec * nsec);
                vector[i] += weight * terms[i] / nsec;
        }
}

static void equations_fade(struct cost *cost) {
        for (int i = 0; i < _COST_TERM_N; i++) {
                for (int j = 0; j < _COST_TERM_N; j++)
                        cost->matrix[i][j] *= FIT_MEMORY;
                cost->vector[i] *= FIT_MEMORY;
        }
}

static void cost_learn_spread(struct cost *cost, const struct cost_load *load, uint64_t experts) {
        double expected = load_expected(cost, load), *spread = &cost->spread[load_size(cost, load)];

        if (expected > 0)
                *spread += SPREAD_RATE * ((double) experts / expected - *spread);
}

/* A pass that waited for something says no more than that it was slow. */
static void cost_learn_speed(struct cost *cost, double ratio) {
        double step = MIN(MAX(ratio - 1.0, -SPEED_STEP), SPEED_STEP);

        cost->speed *= 1.0 + SPEED_RATE * step;
}

void cost_observe(struct cost *cost, const struct cost_load *load, uint64_t experts, uint64_t nsec, bool keep) {
        double terms[_COST_TERM_N], actual = MAX((double) nsec, 1.0);
        double forecast = MAX((double) cost_nsec(cost, load), 1.0);
        bool known = cost->observed >= COST_RECENT / 4;
        double off = fabs(forecast / actual - 1.0), weight = known && off > OUTLIER && !keep ? OUTLIER / off : 1.0;

        memcpy(terms, load->terms, sizeof(terms));
        terms[COST_EXPERT] = experts ? (double) experts : cost_load_experts(cost, load);
        if (experts)
                cost_learn_spread(cost, load, experts);
        cost->recent[cost->observed++ % COST_RECENT] = forecast / actual;
        equations_fade(cost);
        if (keep)
                equations_add(cost->base_matrix, cost->base_vector, terms, actual, weight);
        else
                equations_add(cost->matrix, cost->vector, terms, actual, weight);
        if (!known || cost->observed % FIT_EVERY == 0) {
                cost_fit(cost);
                cost_update_short(cost);
        }
        if (known)
                cost_learn_speed(cost, actual / forecast);
}

static int compare(const void *a, const void *b) {
        double x = *(const double *) a, y = *(const double *) b;

        return x < y ? -1 : x > y;
}

static double recent_median(const struct cost *cost, bool error) {
        size_t n = MIN(cost->observed, (uint64_t) COST_RECENT);
        double values[COST_RECENT];

        for (size_t i = 0; i < n; i++)
                values[i] = error ? fabs(cost->recent[i] - 1.0) : cost->recent[i];
        qsort(values, n, sizeof(*values), compare);
        return n > 0 ? values[n / 2] : 0.0;
}

double cost_ratio(const struct cost *cost) {
        return recent_median(cost, false);
}

double cost_error(const struct cost *cost) {
        return recent_median(cost, true);
}
