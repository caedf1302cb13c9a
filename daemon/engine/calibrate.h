/* SPDX-License-Identifier: MIT */
#pragma once

/* Measures how much each MoE layer of a model suffers from fewer experts, and solves for the plan that makes best use
 * of each budget (the problem of Alloc-MoE, arXiv 2604.08133).
 *
 * A text goes through the model in windows. Layer by layer the pass is interrupted: the layer is run with 1 to k of its
 * experts, which gives each token's error in what comes out of it, relative to its size; and from some of those counts
 * the pass is run on to its end, all other layers whole, which gives the divergence KL(whole ‖ reduced) of the model's
 * next-token distribution. Their ratio turns a layer's own error into the model's, so that layers can be compared.
 *
 * The error of a layer at a mean share b is that of spending b as the engine will do it (op_route): a pair of token and
 * expert counts before another when it is worth more by the router's word, and the predictor's if there is one. What
 * several layers do is taken as the sum of what each does alone; it is minimised for every budget by dynamic
 * programming over eighths of an expert.
 *
 * Returns 0, a negative errno (-EINTR: told to stop), or CALIBRATE_E_TEXT. */

#include <stdatomic.h>

#include "calibration.h"
#include "engine.h"

enum {
        _CALIBRATE_E_SUCCESS,
        CALIBRATE_E_TEXT, /* too little of it */
};

enum {
        CALIBRATE_WINDOW = 256, /* tokens of a window, if the model's context is not shorter */
        CALIBRATE_ROWS = 512,   /* what the model must take in one step, and have KV pages for */
        CALIBRATE_TOKENS_MIN = 64,
};

struct calibrate_options {
        bool predictor;
        const atomic_bool *stop; /* NULL: nobody stops it */
        void (*progress)(uint32_t tokens, uint32_t of, void *userdata); /* NULL: nobody looks */
        void *userdata;
};

/* What was found about the predictor, on a part of the text that it was not fitted to. */
struct calibrate_report {
        double predictor_r2; /* share of the demand's variance that it explains, mean of the layers that it serves */
        /* Sum of the layers' errors with half of the experts: the same number in every layer and token; where the
         * router says; where the predictor says, too. NAN without one. */
        double fixed, routed, predicted;
};

/* Fills `ret`, whose content becomes the caller's. The model has MoE layers, and nobody else uses it meanwhile. */
int calibrate(struct calibration *ret, struct calibrate_report *ret_report, struct model *model, const int32_t *tokens,
              uint32_t n, const struct calibrate_options *options);
