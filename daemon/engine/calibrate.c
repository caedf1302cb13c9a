/* SPDX-License-Identifier: MIT */
#include "calibrate.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "calibrate-internal.h"
#include "model.h"

static int layer_curve(const struct measurement *m, uint32_t layer, struct curve_pair *pairs, double *gains, double *curve) {
        curve_gains(m, layer, gains);
        curve_pairs_routed(m, layer, 0, m->rows, pairs);
        return curve_errors(m, layer, 0, m->rows, gains, pairs, curve);
}

static int make_errors(float *ret, const struct measurement *m) {
        uint32_t lines = expert_plan_lines(m->k);
        _cleanup_(freep) struct curve_pair *pairs = calloc((size_t) m->rows * m->k, sizeof(*pairs));
        _cleanup_(freep) double *gains = calloc(m->k, sizeof(*gains)), *curve = calloc(lines, sizeof(*curve));
        int r = 0;

        if (!pairs || !gains || !curve)
                return -ENOMEM;
        for (uint32_t l = 0; l < m->layers && !r; l++) {
                r = layer_curve(m, l, pairs, gains, curve);
                for (uint32_t i = 0; i < lines; i++)
                        ret[(size_t) i * m->layers + l] = (float) curve[i];
        }
        return r;
}

static int make_plan(struct calibration *c, const struct measurement *m) {
        size_t n = (size_t) expert_plan_lines(m->k) * m->layers;
        int r;

        c->tokens = m->rows;
        c->plan = (struct expert_plan) { .layers = m->layers, .experts_used = m->k };
        c->plan.shares = calloc(n, sizeof(*c->plan.shares));
        c->error = calloc(n, sizeof(*c->error));
        if (!c->plan.shares || !c->error)
                return -ENOMEM;
        r = make_errors(c->error, m);
        return r ? r : plan_solve(c->plan.shares, c->error, m->layers, m->k);
}

/* The first MoE layer that the predictor serves. */
static uint32_t first_served(const struct model *model, uint32_t layer) {
        for (uint32_t i = layer + 1; i < model->info.layers; i++)
                if (model->arch.layers[i].parts & ARCH_MOE)
                        return model->arch.layers[i].moe_layer;
        return model->info.moe_layers;
}

static int make_predictor(struct calibration *c, struct calibrate_report *report, const struct measurement *m,
                          const struct model *model) {
        uint32_t first = first_served(model, m->predictor_layer);

        return first == m->layers ? 0 : predictor_fit(&c->predictor, first, report, m);
}

int calibrate(struct calibration *ret, struct calibrate_report *ret_report, struct model *model, const int32_t *tokens,
              uint32_t n, const struct calibrate_options *options) {
        _cleanup_(measurement_deinit) struct measurement m = MEASUREMENT_NULL;
        _cleanup_(calibration_deinit) struct calibration c = CALIBRATION_NULL;
        struct calibrate_report report = { .predictor_r2 = NAN, .fixed = NAN, .routed = NAN, .predicted = NAN };
        int r;

        r = measure(&m, model, tokens, n, options);
        if (!r)
                r = make_plan(&c, &m);
        if (!r && options->predictor)
                r = make_predictor(&c, &report, &m, model);
        if (r)
                return r;
        *ret = c;
        *ret_report = report;
        c = (struct calibration) CALIBRATION_NULL;
        return 0;
}
