/* SPDX-License-Identifier: MIT */
#pragma once

/* The parts of a calibration: calibrate-measure.c runs the model, the others only compute. */

#include "calibrate.h"

/* What was seen of every row (token) of the text in every MoE layer, k being the experts that a token uses. */
struct measurement {
        uint32_t rows, layers, k, width;
        float *error; /* [layers][rows][k] of the layer's output with 1 to k experts, squared, relative; 0 with k */
        float *share; /* [layers][rows][k] what each expert weighs, falling; */
        bool normalized; /* those of a row sum to 1, also when it has fewer */
        double *divergence; /* [layers][k] the model's, with 1 to k experts in this layer; negative: not measured */
        uint32_t predictor_layer;
        float *features;    /* [rows][width] what comes out of that layer, normed; NULL: not wanted */
};

/* `stop` as in struct calibrate_options: then -EINTR is returned. */
static inline bool calibrate_stopped(const atomic_bool *stop) {
        return stop && atomic_load(stop);
}

#define MEASUREMENT_NULL { .rows = 0 }

void measurement_deinit(struct measurement *m);

static inline const float *measurement_error(const struct measurement *m, uint32_t layer, uint32_t row) {
        return m->error + ((size_t) layer * m->rows + row) * m->k;
}

static inline const float *measurement_share(const struct measurement *m, uint32_t layer, uint32_t row) {
        return m->share + ((size_t) layer * m->rows + row) * m->k;
}

/* calibrate-measure.c */
int measure(struct measurement *ret, struct model *model, const int32_t *tokens, uint32_t n,
            const struct calibrate_options *options);

/* calibrate-curve.c: factors [k] from a layer's own error with 1 to k experts to the model's. */
void curve_gains(const struct measurement *m, uint32_t layer, double *ret);
/* A row's second, third … kth expert, and what it is worth: [(end - begin) × (k - 1)] of the rows from `begin` on. */
struct curve_pair {
        float value;
        uint32_t row;
};
/* The layer's mean error for every line of a plan, when pairs are spent in falling order of their value: [lines]. Pairs
 * of one row must fall. Sorts them. -ENOMEM. */
int curve_errors(const struct measurement *m, uint32_t layer, uint32_t begin, uint32_t end, const double *gains,
                 struct curve_pair *pairs, double *ret);
/* The error of a row with 1 to k experts if their outputs are of one size and have nothing in common, but for that
 * size. */
void curve_row(const float *share, uint32_t k, bool normalized, float *ret);
/* The values of pairs as op_route sees them, with a budget: by how much each lessens that error, where a row stops it
 * takes none of those behind either; times exp(demand) of the row, [end - begin], if not NULL. */
void curve_pairs(const struct measurement *m, uint32_t layer, uint32_t begin, uint32_t end, const double *demand,
                 struct curve_pair *ret);

/* calibrate-plan.c: the shares [lines][layers] of least total error for every line, of errors [lines][layers]. */
int plan_solve(uint16_t *ret, const float *error, uint32_t layers, uint32_t experts_used);

/* calibrate-predictor.c: fits it for the layers from `first` on; what it reports is of rows that it has not seen. What
 * it gives is the caller's, also on failure. With thousands of features that takes minutes. -ENOMEM, -EINTR: told to
 * stop. */
int predictor_fit(struct predictor *ret, uint32_t first, struct calibrate_report *report, const struct measurement *m,
                  const atomic_bool *stop);
/* What it says of rows, [end - begin]. */
void predictor_demand(const struct predictor *p, const struct measurement *m, uint32_t layer, uint32_t begin,
                      uint32_t end, double *ret);
