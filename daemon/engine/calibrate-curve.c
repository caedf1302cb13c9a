/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "calibrate-internal.h"

static double mean_error(const struct measurement *m, uint32_t layer, uint32_t count) {
        double sum = 0.0;

        for (uint32_t t = 0; t < m->rows; t++)
                sum += (double) measurement_error(m, layer, t)[count - 1];
        return sum / m->rows;
}

/* Between two counts that were measured the factor is that of a straight line of its logarithm; outside it stays. */
void curve_gains(const struct measurement *m, uint32_t layer, double *ret) {
        const double *divergence = m->divergence + (size_t) layer * m->k;
        uint32_t last = 0;

        for (uint32_t c = 1; c <= m->k; c++) {
                double error = mean_error(m, layer, c);

                ret[c - 1] = last > 0 ? ret[last - 1] : 0.0;
                if (c == m->k || divergence[c - 1] < 0.0 || error <= 0.0)
                        continue;
                ret[c - 1] = divergence[c - 1] / error;
                for (uint32_t i = last + 1; i < c; i++) {
                        double way = last > 0 ? (double) (i - last) / (double) (c - last) : 1.0;
                        double from = last > 0 ? ret[last - 1] : ret[c - 1];

                        ret[i - 1] = from > 0.0 && ret[c - 1] > 0.0 ? from * pow(ret[c - 1] / from, way)
                                                                   : from + way * (ret[c - 1] - from);
                }
                last = c;
        }
}

void curve_row(const float *share, uint32_t k, bool normalized, float *ret) {
        float sum = 0.0f, squares = 0.0f, all = 0.0f;

        for (uint32_t j = 0; j < k; j++)
                all += share[j] * share[j];
        for (uint32_t j = 0; j < k; j++) {
                float rest;

                sum += share[j];
                squares += share[j] * share[j];
                rest = normalized && sum > 0.0f ? 1.0f / sum - 1.0f : 0.0f;
                ret[j] = squares * rest * rest + all - squares;
        }
}

void curve_pairs(const struct measurement *m, uint32_t layer, uint32_t begin, uint32_t end, const double *demand,
                 struct curve_pair *ret) {
        float errors[ROUTE_EXPERTS_MAX];

        for (uint32_t t = begin; t < end; t++) {
                double factor = demand ? exp(demand[t - begin]) : 1.0, least = INFINITY;

                curve_row(measurement_share(m, layer, t), m->k, m->normalized, errors);
                for (uint32_t j = 1; j < m->k; j++) {
                        least = fmin(least, (double) (errors[j - 1] - errors[j]));
                        *ret++ = (struct curve_pair) { .value = (float) (least * factor), .row = t };
                }
        }
}

static int pair_compare(const void *a, const void *b) {
        const struct curve_pair *x = a, *y = b;

        if (x->value != y->value)
                return x->value > y->value ? -1 : 1;
        return x->row < y->row ? -1 : x->row > y->row;
}

/* What a row's next expert takes away from the sum. */
static double gained(const struct measurement *m, uint32_t layer, uint32_t row, uint32_t count, const double *gains) {
        const float *error = measurement_error(m, layer, row);

        return gains[count - 1] * (double) error[count - 1] - gains[count] * (double) error[count];
}

int curve_errors(const struct measurement *m, uint32_t layer, uint32_t begin, uint32_t end, const double *gains,
                 struct curve_pair *pairs, double *ret) {
        uint32_t rows = end - begin, lines = expert_plan_lines(m->k), line = 0;
        _cleanup_(freep) uint32_t *counts = calloc(rows, sizeof(*counts));
        size_t n = (size_t) rows * (m->k - 1);
        double sum = 0.0;

        if (!counts)
                return -ENOMEM;
        qsort(pairs, n, sizeof(*pairs), pair_compare);
        for (uint32_t t = begin; t < end; t++)
                sum += gains[0] * (double) measurement_error(m, layer, t)[0];
        for (size_t i = 0; i <= n; i++) {
                for (; line < lines && (size_t) line * rows <= i * EXPERT_PLAN_PARTS; line++)
                        ret[line] = MAX(sum, 0.0) / rows;
                if (i < n)
                        sum -= gained(m, layer, pairs[i].row, ++counts[pairs[i].row - begin], gains);
        }
        return 0;
}
