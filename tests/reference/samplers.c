/* SPDX-License-Identifier: MIT */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reference.h"
#include "sampler.h"

/* The arrays that the cases point into, in elements. */
struct arrays {
        float *logits, *probs;
        int32_t *history;
        size_t n_logits, n_probs, n_history;
};

static void arrays_deinit(struct arrays *a) {
        free(a->logits);
        free(a->probs);
        free(a->history);
}

static bool arrays_init(struct arrays *a, const char *path) {
        a->logits = file_read(path, "logits.f32", &a->n_logits);
        a->probs = file_read(path, "probs.f32", &a->n_probs);
        a->history = file_read(path, "history.i32", &a->n_history);
        a->n_logits /= sizeof(float);
        a->n_probs /= sizeof(float);
        a->n_history /= sizeof(int32_t);
        return a->logits && a->probs && a->history;
}

static bool inside(int64_t offset, int64_t n, size_t size) {
        return offset >= 0 && n >= 0 && (uint64_t) offset <= size && (uint64_t) n <= size - (uint64_t) offset;
}

static struct sampler_params params_of(const json_t *c) {
        return (struct sampler_params) {
                .temperature = (float) json_float(c, "temperature", 1.0),
                .top_k = (uint32_t) json_int(c, "top_k", 0),
                .top_p = (float) json_float(c, "top_p", 1.0),
                .min_p = (float) json_float(c, "min_p", 0.0),
                .repetition_penalty = (float) json_float(c, "repetition_penalty", 1.0),
        };
}

/* Whether the case holds; `why` gets what was found, `worst` the largest error over its tolerance so far. */
static bool check(const json_t *c, const struct arrays *a, char why[static 128], double *worst) {
        int64_t vocab = json_int(c, "vocab", -1), logits = json_int(c, "logits", -1),
                probs = json_int(c, "probs", -1);
        int64_t history = json_int(c, "history", 0), n = json_int(c, "history_len", 0), kept = 0;
        struct sampler_params params = params_of(c);
        _cleanup_(freep) float *got = NULL;
        struct sampler_scratch *scratch;
        struct sampler *s;
        double error = 0.0;

        if (vocab < 1 || !inside(logits, vocab, a->n_logits) || !inside(probs, vocab, a->n_probs) ||
            !inside(history, n, a->n_history) || sampler_params_check(&params)) {
                snprintf(why, 128, "the case is broken");
                return false;
        }
        got = calloc((size_t) vocab, sizeof(*got));
        if (!got || sampler_scratch_new(&scratch, (uint32_t) vocab) || sampler_new(&s, &params, scratch))
                abort();
        sampler_distribution(s, a->logits + logits, a->history + history, (uint32_t) n, got);
        sampler_free(s);
        sampler_scratch_free(scratch);
        for (int64_t i = 0; i < vocab; i++) {
                double p = a->probs[probs + i];

                bool nearly_none = p > 0.0 && p <= 10 * FLT_MIN; /* may be cut: a float hardly tells it from none */

                kept += got[i] > 0.0f || nearly_none;
                if ((got[i] > 0.0f) != (p > 0.0) && !nearly_none)
                        error = INFINITY;
                error = fmax(error, fabs(got[i] - p) / (1e-6 + 1e-4 * p));
        }
        *worst = fmax(*worst, error);
        snprintf(why, 128, "%lld kept of %lld expected, error %.2g of the tolerance", (long long) kept,
                 (long long) json_int(c, "kept", -1), error);
        return error <= 1.0 && kept == json_int(c, "kept", -1);
}

void run_samplers(struct reference *r, const char *path, const char *name) {
        _cleanup_(arrays_deinit) struct arrays a = { 0 };
        _cleanup_(freep) char *cases = NULL;
        unsigned n = 0, good = 0;
        double worst = 0.0;
        size_t size;
        char *rest;

        cases = file_read(path, "cases.jsonl", &size);
        if (!cases || !arrays_init(&a, path)) {
                say(r, false, name, "cases.jsonl, logits.f32, probs.f32 or history.i32 cannot be read");
                return;
        }
        rest = cases;
        for (char *line = strsep(&rest, "\n"); line; line = strsep(&rest, "\n")) {
                _cleanup_(json_decrefp) json_t *c = NULL;
                char why[128] = "not JSON";
                bool ok;

                if (!*line)
                        continue;
                c = json_loads(line, 0, NULL);
                ok = c && check(c, &a, why, &worst);
                n++;
                good += ok;
                if (!ok || r->verbose)
                        printf("%s   %.100s: %s\n", ok ? "    " : "    bad", line, why);
        }
        say(r, good == n && n > 0, name, "%u of %u distributions, error %.2g of the tolerance", good, n,
            worst);
}
