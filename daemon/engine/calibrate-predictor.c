/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "calibrate-internal.h"

/* A row's demand in a layer is the logarithm of how much larger its error is than its router's weights let expect
 * (curve_row), mean of all counts: how large its experts' outputs are beside the row, and how alike. What all rows of a
 * layer have in common is left out: whoever compares with a running threshold does not notice. */

/* Ridge regression: first the rows that are fitted to, then those that choose among a few strengths, then those that
 * nothing has seen. */
struct fit {
        const struct measurement *m;
        const atomic_bool *stop; /* NULL: nobody stops it */
        uint32_t choose, check; /* first rows of the second and the third part */
        double *demand;         /* [rows][layers] */
        double *mean;           /* [width] of the first part */
        double *gram, *factor;  /* [width][width], lower half */
        double *moment;         /* [layers][width] */
        double *weight;         /* [layers][width] a solution, */
        double *best;           /* and the best one so far */
};

static void fit_deinit(struct fit *f) {
        free(f->demand);
        free(f->mean);
        free(f->gram);
        free(f->factor);
        free(f->moment);
        free(f->weight);
        free(f->best);
}

static int fit_init(struct fit *f) {
        const struct measurement *m = f->m;
        size_t width = m->width, layers = m->layers;

        f->choose = m->rows / 5 * 3;
        f->check = m->rows / 5 * 4;
        f->demand = calloc(m->rows * layers, sizeof(double));
        f->mean = calloc(width, sizeof(double));
        f->gram = calloc(width * width, sizeof(double));
        f->factor = calloc(width * width, sizeof(double));
        f->moment = calloc(layers * width, sizeof(double));
        f->weight = calloc(layers * width, sizeof(double));
        f->best = calloc(layers * width, sizeof(double));
        return f->demand && f->mean && f->gram && f->factor && f->moment && f->weight && f->best ? 0 : -ENOMEM;
}

static void note_demand(struct fit *f, uint32_t layer) {
        const struct measurement *m = f->m;
        float expected[ROUTE_EXPERTS_MAX];
        double mean = 0.0;

        for (uint32_t t = 0; t < m->rows; t++) {
                const float *error = measurement_error(m, layer, t);
                double *ret = &f->demand[(size_t) t * m->layers + layer];

                curve_row(measurement_share(m, layer, t), m->k, m->normalized, expected);
                for (uint32_t c = 0; c + 1 < m->k; c++)
                        *ret += log(((double) error[c] + 1e-12) / ((double) expected[c] + 1e-12)) / (m->k - 1);
                mean += t < f->choose ? *ret / f->choose : 0.0;
        }
        for (uint32_t t = 0; t < m->rows; t++)
                f->demand[(size_t) t * m->layers + layer] -= mean;
}

static void note_means(struct fit *f) {
        const struct measurement *m = f->m;

        for (uint32_t t = 0; t < f->choose; t++)
                for (uint32_t i = 0; i < m->width; i++)
                        f->mean[i] += (double) m->features[(size_t) t * m->width + i] / f->choose;
}

static void centre(const struct fit *f, uint32_t row, double *ret) {
        const float *x = f->m->features + (size_t) row * f->m->width;

        for (uint32_t i = 0; i < f->m->width; i++)
                ret[i] = (double) x[i] - f->mean[i];
}

/* With thousands of features a row of this takes a while, and a row of the factor, and a layer's solution. */
static int note_moments(struct fit *f, double *x) {
        const struct measurement *m = f->m;
        size_t width = m->width;

        for (uint32_t t = 0; t < f->choose; t++) {
                if (calibrate_stopped(f->stop))
                        return -EINTR;
                centre(f, t, x);
                for (size_t i = 0; i < width; i++)
                        for (size_t j = 0; j <= i; j++)
                                f->gram[i * width + j] += x[i] * x[j];
                for (uint32_t l = 0; l < m->layers; l++) {
                        double y = f->demand[(size_t) t * m->layers + l];

                        for (size_t i = 0; i < width; i++)
                                f->moment[l * width + i] += x[i] * y;
                }
        }
        return 0;
}

static double dot(const double *a, const double *b, size_t n) {
        double sum = 0.0;

        for (size_t i = 0; i < n; i++)
                sum += a[i] * b[i];
        return sum;
}

/* factor = the Cholesky factor of gram + ridge. Row by row, so that both rows of each product are read in order. */
static int factorise(struct fit *f, double ridge) {
        size_t width = f->m->width;

        for (size_t i = 0; i < width; i++) {
                double *row = f->factor + i * width;

                if (calibrate_stopped(f->stop))
                        return -EINTR;
                for (size_t j = 0; j <= i; j++) {
                        const double *other = f->factor + j * width;
                        double left = f->gram[i * width + j] + (i == j ? ridge : 0.0) - dot(row, other, j);

                        row[j] = i == j ? sqrt(fmax(left, ridge * 1e-6)) : left / other[j];
                }
        }
        return 0;
}

static void solve(struct fit *f, uint32_t layer) {
        size_t width = f->m->width;
        double *x = f->weight + layer * width;

        memcpy(x, f->moment + layer * width, width * sizeof(*x));
        for (size_t i = 0; i < width; i++)
                x[i] = (x[i] - dot(f->factor + i * width, x, i)) / f->factor[i * width + i];
        for (size_t i = width; i-- > 0;) {
                x[i] /= f->factor[i * width + i];
                for (size_t j = 0; j < i; j++)
                        x[j] -= f->factor[i * width + j] * x[i];
        }
}

static double predict(const struct fit *f, const double *weight, uint32_t layer, const double *x) {
        return dot(weight + (size_t) layer * f->m->width, x, f->m->width);
}

static int solve_all(struct fit *f, double ridge) {
        int r = factorise(f, ridge);

        for (uint32_t l = 0; l < f->m->layers && !r; l++) {
                solve(f, l);
                r = calibrate_stopped(f->stop) ? -EINTR : 0;
        }
        return r;
}

/* How much of the demand's variance in rows from `begin` to `end` a solution explains: mean of the layers from `first`
 * on. */
static double explained(const struct fit *f, const double *weight, uint32_t first, uint32_t begin, uint32_t end,
                        double *x) {
        const struct measurement *m = f->m;
        double ret = 0.0;

        for (uint32_t l = first; l < m->layers; l++) {
                double error = 0.0, sum = 0.0, squares = 0.0;

                for (uint32_t t = begin; t < end; t++) {
                        double y = f->demand[(size_t) t * m->layers + l];

                        centre(f, t, x);
                        error += pow(predict(f, weight, l, x) - y, 2.0);
                        sum += y;
                        squares += y * y;
                }
                squares -= sum * sum / (end - begin);
                ret += squares > 0.0 ? 1.0 - error / squares : 0.0;
        }
        return ret / (m->layers - first);
}

/* Strengths are shares of the features' mean variance. */
static int choose_strength(struct fit *f, uint32_t first, double *x) {
        static const double strengths[] = { 0.001, 0.01, 0.1, 1.0 };
        size_t width = f->m->width, layers = f->m->layers;
        double trace = 0.0, best = -INFINITY;

        for (size_t i = 0; i < width; i++)
                trace += f->gram[i * width + i];
        for (size_t n = 0; n < ELEMENTS(strengths); n++) {
                double r2;
                int r = solve_all(f, strengths[n] * trace / (double) width + 1e-9);

                if (r)
                        return r;
                r2 = explained(f, f->weight, first, f->choose, f->check, x);
                if (r2 > best) {
                        best = r2;
                        memcpy(f->best, f->weight, layers * width * sizeof(double));
                }
        }
        return 0;
}

static int give(const struct fit *f, struct predictor *ret) {
        const struct measurement *m = f->m;
        _cleanup_(freep) float *weight = calloc((size_t) m->layers * m->width, sizeof(float));
        _cleanup_(freep) float *bias = calloc(m->layers, sizeof(float));

        if (!weight || !bias)
                return -ENOMEM;
        for (size_t i = 0; i < (size_t) m->layers * m->width; i++)
                weight[i] = (float) f->best[i];
        for (uint32_t l = 0; l < m->layers; l++)
                bias[l] = (float) -dot(f->best + (size_t) l * m->width, f->mean, m->width);
        *ret = (struct predictor) {
                .layer = m->predictor_layer, .width = m->width, .weight = steal_ptr(weight), .bias = steal_ptr(bias),
        };
        return 0;
}

static uint32_t half_of(const struct measurement *m) {
        return MAX(m->k / 2, 1u);
}

/* As with the same count in all rows. */
static double fixed_error(const struct measurement *m, uint32_t layer, uint32_t begin, uint32_t count,
                          const double *gains) {
        double sum = 0.0;

        for (uint32_t t = begin; t < m->rows; t++)
                sum += gains[count - 1] * (double) measurement_error(m, layer, t)[count - 1];
        return sum / (m->rows - begin);
}

/* The error of a layer with half of the experts, spent where the router or, with a demand, the predictor says. */
static int half_error(const struct fit *f, uint32_t layer, const double *gains, const double *demand,
                      struct curve_pair *pairs, double *curve, double *sum) {
        const struct measurement *m = f->m;
        int r;

        curve_pairs(m, layer, f->check, m->rows, demand, pairs);
        r = curve_errors(m, layer, f->check, m->rows, gains, pairs, curve);
        if (r)
                return r;
        *sum += curve[(half_of(m) - 1) * EXPERT_PLAN_PARTS];
        return 0;
}

static int compare_ways(const struct fit *f, const struct predictor *p, uint32_t first,
                        struct calibrate_report *report) {
        const struct measurement *m = f->m;
        uint32_t n = m->rows - f->check;
        _cleanup_(freep) struct curve_pair *pairs = calloc((size_t) n * m->k, sizeof(*pairs));
        _cleanup_(freep) double *gains = calloc(m->k, sizeof(*gains)), *demand = calloc(n, sizeof(*demand));
        _cleanup_(freep) double *curve = calloc(expert_plan_lines(m->k), sizeof(*curve));
        int r = 0;

        if (!pairs || !gains || !demand || !curve)
                return -ENOMEM;
        for (uint32_t l = 0; l < m->layers && !r; l++) {
                if (calibrate_stopped(f->stop))
                        return -EINTR;
                curve_gains(m, l, gains);
                report->fixed += fixed_error(m, l, f->check, half_of(m), gains);
                r = half_error(f, l, gains, NULL, pairs, curve, &report->routed);
                predictor_demand(p, m, l, f->check, m->rows, demand);
                if (!r)
                        r = half_error(f, l, gains, l < first ? NULL : demand, pairs, curve, &report->predicted);
        }
        return r;
}

void predictor_demand(const struct predictor *p, const struct measurement *m, uint32_t layer, uint32_t begin,
                      uint32_t end, double *ret) {
        const float *weight = p->weight + (size_t) layer * p->width;

        for (uint32_t t = begin; t < end; t++) {
                const float *x = m->features + (size_t) t * p->width;
                double sum = (double) p->bias[layer];

                for (uint32_t i = 0; i < p->width; i++)
                        sum += (double) weight[i] * (double) x[i];
                ret[t - begin] = sum;
        }
}

int predictor_fit(struct predictor *ret, uint32_t first, struct calibrate_report *report, const struct measurement *m,
                  const atomic_bool *stop) {
        _cleanup_(fit_deinit) struct fit f = { .m = m, .stop = stop };
        _cleanup_(freep) double *x = calloc(m->width, sizeof(*x));
        int r;

        r = x ? fit_init(&f) : -ENOMEM;
        if (r)
                return r;
        for (uint32_t l = 0; l < m->layers; l++)
                note_demand(&f, l);
        note_means(&f);
        r = note_moments(&f, x);
        if (!r)
                r = choose_strength(&f, first, x);
        if (r)
                return r;
        *report = (struct calibrate_report) { .predictor_r2 = explained(&f, f.best, first, f.check, m->rows, x) };
        r = give(&f, ret);
        return r ? r : compare_ways(&f, ret, first, report);
}
