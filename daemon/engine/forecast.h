/* SPDX-License-Identifier: MIT */
#pragma once

/* What a model will cost on the cpu backend, before it is served: the model is opened and steps are run on it
 * by the very functions that do so later, over a backend that only counts (backend_plan_new()). So a forecast
 * follows every change of the engine by itself. */

#include "engine.h"

enum { FORECAST_LONG_STEPS_MAX = 8 };

struct model_forecast {
        uint64_t file_bytes;    /* mapped; resident as far as it was read: in the long run, all of it */
        uint64_t tables;        /* on the heap: the file's index, the vocabulary, the lists of pages */
        uint64_t kv_token;      /* of a token's keys and values, over all layers */
        uint64_t step;          /* activations of all steps, the logits of one row, what its sampler works in */
        uint64_t scratch;       /* the most that an operation needs beside them */
        uint64_t token_weights; /* bytes of weights read for a token that is computed alone */
        uint32_t context, rows; /* what it was made for */
        uint32_t long_rows;     /* of each larger step; 0: there are none */
};

struct forecast_options {
        struct model_options model;
        uint32_t threads;    /* 0: as the cpu backend chooses */
        uint32_t rows;       /* of the largest step, at most model.rows_max */
        uint32_t long_steps; /* larger ones beside it, at most FORECAST_LONG_STEPS_MAX, */
        uint32_t long_rows;  /* of so many rows, or of a half, a quarter … of that, */
        uint64_t long_bytes; /* such that `step` and `scratch` stay within this; or else none */
};

/* Forecasts for the file at `path`. 0, ENGINE_E_MODEL with a reason, negative errno. `tables` is told by the
 * C library's allocator: other threads must not allocate meanwhile. */
int model_forecast(struct model_forecast *ret, const char *path, const struct forecast_options *options,
                   struct reason *reason);
/* The same of a file that is open already; `tables` lacks what that took. */
int model_file_forecast(struct model_forecast *ret, struct model_file *file, const struct forecast_options *options);
