/* SPDX-License-Identifier: MIT */
#pragma once

/* What was measured of a model (calibrate.h) and lies beside its file: MODEL.gguf, MODEL.calibration.gguf. It is a GGUF
 * file itself, hostile input like any other:
 *
 *   calibration.version            1
 *   calibration.model              gguf_fingerprint() of the model
 *   calibration.moe_layers, calibration.experts_used
 *   calibration.tokens             of the text that it was measured on
 *   plan      I16 [moe_layers, lines]   the shares of struct expert_plan
 *   error     F32 [moe_layers, lines]   what a layer alone with that share adds to the model's error (calibrate.h)
 * and with a predictor
 *   calibration.predictor.layer    what comes out of this layer, normed, is its input
 *   predictor.weight  F32 [width, moe_layers], predictor.bias  F32 [moe_layers]
 *
 * Returns 0, a negative errno, or CALIBRATION_E_REFUSED. */

#include <stdbool.h>

#include "arch.h"
#include "expert-plan.h"
#include "gguf.h"

enum {
        _CALIBRATION_E_SUCCESS,
        CALIBRATION_E_REFUSED, /* it is broken, or of another model; the reason says so */
};

enum { CALIBRATION_TYPE_SHARES = 25 }; /* I16, by the format's number; no kernel computes with it */

/* Tells from what a token is after the first layers how much its experts matter in a later one, beyond what the router
 * there says: by the factor e^demand, demand = weight · normed + bias. */
struct predictor {
        uint32_t layer;
        uint32_t width;  /* values of a row between layers */
        float *weight;   /* [moe_layers][width]; NULL: there is none */
        float *bias;     /* [moe_layers] */
};

struct calibration {
        struct expert_plan plan;
        float *error; /* [lines][moe_layers] */
        struct predictor predictor;
        uint32_t tokens;
};

#define CALIBRATION_NULL { .plan = EXPERT_PLAN_NULL }

void calibration_deinit(struct calibration *c);

/* Values of a row between the layers of a model. */
uint32_t calibration_width(const struct arch_model *arch);

/* Where the calibration of the model file `path` lies; NULL when memory is out. The caller's. */
char *calibration_path(const char *path);

/* Reads what `g` says, copied and checked against the model whose fingerprint and shape these are. */
int calibration_read(struct calibration *ret, const struct gguf *g, uint64_t fingerprint, const struct arch_model *arch,
                     struct reason *reason);

/* Writes it as a file (new-file.h). */
int calibration_write(const struct calibration *c, uint64_t fingerprint, const char *path, bool replace);
