/* SPDX-License-Identifier: MIT */
#include "forecast.h"

#include <errno.h>
#include <malloc.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "model.h"
#include "sampler.h"

static uint64_t heap_used(void) {
        struct mallinfo2 info = mallinfo2();

        return info.uordblks + info.hblkhd;
}

/* A step of `rows` rows that end at `end`, of which the last wants logits, all experts allowed. */
static int run(struct step *step, struct model *m, uint32_t end, uint32_t rows) {
        _cleanup_(sequence_freep) struct sequence *sequence = NULL;
        _cleanup_(freep) uint32_t *allowances = calloc(rows, sizeof(*allowances));
        _cleanup_(freep) int32_t *tokens = calloc(rows, sizeof(*tokens));
        struct step_part part = {.tokens = tokens, .allowances = allowances, .count = rows, .prompt = rows, .logits = true};
        int r;

        if (!allowances || !tokens)
                return -ENOMEM;
        for (uint32_t i = 0; i < rows; i++)
                allowances[i] = m->info.moe_layers * m->info.experts_used;
        r = sequence_new(&sequence, m);
        if (!r)
                r = sequence_reserve(sequence, end);
        if (r)
                return r;
        sequence->length = end - rows;
        part.sequence = sequence;
        r = step_begin(step, &part, 1);
        while (!r && (r = step_advance(step)) == 1)
                r = 0;
        return r;
}

static int forecast_steps(struct model_forecast *ret, struct model *m, struct backend *b, uint64_t opened) {
        _cleanup_(sampler_scratch_freep) struct sampler_scratch *sampler = NULL;
        _cleanup_(step_freep) struct step *step = NULL;
        uint64_t before = heap_used();
        int r;

        r = sampler_scratch_new(&sampler, m->info.vocab);
        if (!r)
                r = step_new(&step, m);
        if (!r)
                r = run(step, m, 1, 1);
        if (r)
                return r;
        ret->token_weights = backend_plan_cost(b).weights;
        r = run(step, m, ret->context, ret->rows);
        if (r)
                return r;
        ret->step = backend_plan_cost(b).memory - opened + heap_used() - before;
        ret->scratch = backend_plan_cost(b).scratch;
        return 0;
}

static int forecast_model(struct model_forecast *ret, struct backend *b, const char *path,
                          const struct forecast_options *options, struct reason *reason) {
        struct model_options with = options->model;
        _cleanup_(model_freep) struct model *m = NULL;
        uint64_t before = heap_used();
        int r;

        with.rows_max = MAX(MIN(options->rows, with.rows_max), 1u);
        r = model_open(&m, b, path, &with, reason);
        if (r)
                return r;
        ret->context = m->info.context;
        ret->rows = MIN(with.rows_max, m->info.context);
        ret->file_bytes = m->info.file_bytes;
        ret->kv_token = m->info.kv_bytes_per_token;
        ret->tables = heap_used() - before + m->arch.params.rope_dims / 2 * sizeof(float);
        return forecast_steps(ret, m, b, backend_plan_cost(b).memory);
}

int model_forecast(struct model_forecast *ret, const char *path, const struct forecast_options *options,
                   struct reason *reason) {
        _cleanup_(backend_freep) struct backend *b = NULL;
        struct model_forecast forecast = {};
        int r;

        r = backend_plan_new(&b, options->threads);
        if (!r)
                r = forecast_model(&forecast, b, path, options, reason);
        if (!r)
                *ret = forecast;
        return r;
}
