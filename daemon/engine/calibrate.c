/* SPDX-License-Identifier: MIT */
#include "calibrate.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "calibrate-internal.h"
#include "model.h"

/* How the engine will spend what a layer gets: where its router says, or also its predictor. */
struct way {
        const struct measurement *m;
        const struct predictor *predictor;
        uint32_t first; /* the first layer that it serves */
        struct curve_pair *pairs;
        double *gains, *curve, *demand;
};

static int layer_curve(const struct way *w, uint32_t layer) {
        const struct measurement *m = w->m;
        bool predicted = w->predictor->weight && layer >= w->first;

        if (predicted)
                predictor_demand(w->predictor, m, layer, 0, m->rows, w->demand);
        curve_gains(m, layer, w->gains);
        curve_pairs(m, layer, 0, m->rows, predicted ? w->demand : NULL, w->pairs);
        return curve_errors(m, layer, 0, m->rows, w->gains, w->pairs, w->curve);
}

static int make_errors(float *ret, const struct measurement *m, const struct predictor *predictor, uint32_t first,
                       const atomic_bool *stop) {
        uint32_t lines = expert_plan_lines(m->k);
        _cleanup_(freep) struct curve_pair *pairs = calloc((size_t) m->rows * m->k, sizeof(*pairs));
        _cleanup_(freep) double *gains = calloc(m->k, sizeof(*gains)), *curve = calloc(lines, sizeof(*curve));
        _cleanup_(freep) double *demand = calloc(m->rows, sizeof(*demand));
        const struct way way = { m, predictor, first, pairs, gains, curve, demand };
        int r = 0;

        if (!pairs || !gains || !curve || !demand)
                return -ENOMEM;
        for (uint32_t l = 0; l < m->layers && !r; l++) {
                if (calibrate_stopped(stop))
                        return -EINTR;
                r = layer_curve(&way, l);
                for (uint32_t i = 0; i < lines; i++)
                        ret[(size_t) i * m->layers + l] = (float) curve[i];
        }
        return r;
}

static int make_plan(struct calibration *c, const struct measurement *m, uint32_t first, const atomic_bool *stop) {
        size_t n = (size_t) expert_plan_lines(m->k) * m->layers;
        int r;

        c->tokens = m->rows;
        c->plan = (struct expert_plan) { .layers = m->layers, .experts_used = m->k };
        c->plan.shares = calloc(n, sizeof(*c->plan.shares));
        c->error = calloc(n, sizeof(*c->error));
        if (!c->plan.shares || !c->error)
                return -ENOMEM;
        r = make_errors(c->error, m, &c->predictor, first, stop);
        return r ? r : plan_solve(c->plan.shares, c->error, m->layers, m->k);
}

/* The first MoE layer that the predictor serves. */
static uint32_t first_served(const struct model *model, uint32_t layer) {
        for (uint32_t i = layer + 1; i < model->info.layers; i++)
                if (model->arch.layers[i].parts & ARCH_MOE)
                        return model->arch.layers[i].moe_layer;
        return model->info.moe_layers;
}

int calibrate(struct calibration *ret, struct calibrate_report *ret_report, struct model *model, const int32_t *tokens,
              uint32_t n, const struct calibrate_options *options) {
        _cleanup_(measurement_deinit) struct measurement m = MEASUREMENT_NULL;
        _cleanup_(calibration_deinit) struct calibration c = CALIBRATION_NULL;
        struct calibrate_report report = { .predictor_r2 = NAN, .fixed = NAN, .routed = NAN, .predicted = NAN };
        uint32_t first;
        int r;

        r = measure(&m, model, tokens, n, options);
        first = first_served(model, m.predictor_layer);
        if (!r && options->predictor && first < m.layers)
                r = predictor_fit(&c.predictor, first, &report, &m, options->stop);
        if (!r)
                r = make_plan(&c, &m, first, options->stop);
        if (r)
                return r;
        *ret = c;
        *ret_report = report;
        c = (struct calibration) CALIBRATION_NULL;
        return 0;
}
