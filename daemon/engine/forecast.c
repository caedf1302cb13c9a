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

/* A step of `rows` rows that end at `end`, of a prompt or not, of which the last wants logits, all experts allowed. */
static int run(struct step *step, struct model *m, uint32_t end, uint32_t rows, bool prompt) {
        _cleanup_(sequence_freep) struct sequence *sequence = NULL;
        _cleanup_(freep) uint32_t *allowances = calloc(rows, sizeof(*allowances));
        _cleanup_(freep) int32_t *tokens = calloc(rows, sizeof(*tokens));
        struct step_part part = {
                .tokens = tokens, .allowances = allowances, .count = rows, .prompt = prompt ? rows : 0,
                .logits = true,
        };
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

/* What there is when all steps have run: the small one first, then the larger ones. */
static int forecast_run(struct model_forecast *ret, struct model *m, struct backend *b, struct step **steps,
                        uint32_t larger) {
        int r;

        r = step_new(&steps[0], m);
        if (!r)
                r = run(steps[0], m, 1, 1, false);
        if (r)
                return r;
        ret->token_weights = backend_plan_cost(b).weights;
        r = run(steps[0], m, ret->context, ret->rows, false);
        if (!r)
                r = run(steps[0], m, ret->context, ret->rows, true);
        for (uint32_t i = 1; i <= larger && ret->long_rows > 0 && !r; i++) {
                r = step_new_beside(&steps[i], steps[0], ret->long_rows);
                if (!r)
                        r = run(steps[i], m, ret->context, ret->long_rows, true);
        }
        return r;
}

static int forecast_steps(struct model_forecast *ret, struct model *m, struct backend *b, uint32_t larger) {
        _cleanup_(sampler_scratch_freep) struct sampler_scratch *sampler = NULL;
        struct step *steps[1 + FORECAST_LONG_STEPS_MAX] = {};
        uint64_t before = heap_used(), opened = backend_plan_cost(b).memory;
        int r;

        r = sampler_scratch_new(&sampler, m->info.vocab);
        if (!r)
                r = forecast_run(ret, m, b, steps, MIN(larger, (uint32_t) FORECAST_LONG_STEPS_MAX));
        ret->step = backend_plan_cost(b).memory - opened + heap_used() - before;
        ret->scratch = backend_plan_cost(b).scratch;
        for (size_t i = ELEMENTS(steps); i-- > 0;)
                step_free(steps[i]);
        return r;
}

static int forecast_rows(struct model_forecast *ret, struct model_file *file, const struct forecast_options *options,
                         uint32_t long_rows) {
        _cleanup_(backend_freep) struct backend *b = NULL;
        _cleanup_(model_freep) struct model *m = NULL;
        struct model_options with = options->model;
        struct reason reason = REASON_INIT;
        uint64_t before = heap_used();
        int r;

        with.rows_max = MAX(MIN(options->rows, with.rows_max), 1u);
        r = backend_plan_new(&b, options->threads);
        if (!r)
                r = model_new(&m, b, file, &with, &reason);
        if (r)
                return r;
        *ret = (struct model_forecast) {
                .file_bytes = m->info.file_bytes,
                .tables = heap_used() - before + m->arch.params.rope_dims / 2 * sizeof(float),
                .kv_token = m->info.kv_bytes_per_token,
                .context = m->info.context,
                .rows = MIN(with.rows_max, m->info.context),
                .long_rows = MIN(long_rows, m->info.context),
        };
        return forecast_steps(ret, m, b, options->long_steps);
}

int model_file_forecast(struct model_forecast *ret, struct model_file *file, const struct forecast_options *options) {
        uint32_t rows = options->long_steps > 0 ? options->long_rows : 0;
        struct model_forecast f;
        int r;

        for (;;) {
                r = forecast_rows(&f, file, options, rows);
                if (r)
                        return r;
                if (rows == 0 || (f.long_rows > f.rows && f.step + f.scratch <= options->long_bytes))
                        break;
                rows = rows / 2 > options->model.rows_max ? rows / 2 : 0;
        }
        *ret = f;
        return 0;
}

int model_forecast(struct model_forecast *ret, const char *path, const struct forecast_options *options,
                   struct reason *reason) {
        _cleanup_(model_file_unrefp) struct model_file *file = NULL;
        uint64_t before = heap_used(), opened;
        int r;

        r = model_file_open(&file, path, reason);
        if (r)
                return r;
        opened = heap_used() - before;
        r = model_file_forecast(ret, file, options);
        if (!r)
                ret->tables += opened;
        return r;
}
