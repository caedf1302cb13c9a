/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "engine.h"
#include "fixture-model.h"
#include "reference.h"

/* A model file with what is expected of it, ready to run. Of the expectations those are checked whose files
 * are there. */
struct run {
        struct reference *r;
        const char *path;     /* of the folder */
        char name[128];       /* for the lines */
        struct model *model;
        struct step *step;
        double sigma;         /* spread of the logits */
        bool rounded;         /* activations are rounded to 8 bits: its formats' tolerances are wider */
        bool as_prompt;       /* tokens are fed as those of prompts, which more formats are rounded for */
        uint32_t n_prompts, generated, layers, hidden, width; /* width: of a row between layers */
        uint32_t lengths[64];
        int32_t *prompts;     /* all, one after the other */
        unsigned checked;
};

static void run_deinit(struct run *u) {
        step_free(u->step);
        model_free(u->model);
        free(u->prompts);
}

static void said(struct run *u, bool ok, const char *what, const char *format, ...) _printf_(4, 5);
static void said(struct run *u, bool ok, const char *what, const char *format, ...) {
        char name[192], detail[256];
        va_list args;

        u->checked++;
        snprintf(name, sizeof(name), "%s %s", u->name, what);
        va_start(args, format);
        vsnprintf(detail, sizeof(detail), format, args);
        va_end(args);
        say(u->r, ok, name, "%s", detail);
}

static bool is_there(const struct run *u, const char *file) {
        char path[4096];

        snprintf(path, sizeof(path), "%s/%s", u->path, file);
        return access(path, F_OK) == 0;
}

/* Feeds tokens to a sequence, in steps of at most `chunk`; the logits after the last one, [vocab], or
 * NULL. */
static const float *feed(struct run *u, struct sequence *q, const int32_t *tokens, uint32_t n,
                         uint32_t chunk) {
        uint32_t allowances[512];
        struct step_part part = { .sequence = q, .allowances = allowances, .logits = 1 };

        for (size_t i = 0; i < ELEMENTS(allowances); i++)
                allowances[i] = UINT32_MAX;
        if (sequence_reserve(q, n))
                return NULL;
        for (uint32_t at = 0; at < n; at += part.count) {
                int r;

                part.tokens = tokens + at;
                part.count = MIN(n - at, chunk);
                part.prompt = u->as_prompt ? part.count : 0;
                r = step_begin(u->step, &part, 1);
                if (r)
                        return NULL;
                while ((r = step_advance(u->step)) > 0)
                        ;
                if (r)
                        return NULL;
        }
        return part.logits_out;
}

/* Most squared error over squared value (NMSE) where activations are rounded. Where a router's choice is close,
 * rounding as coarse as that of prompts tips it, and the rows behind it differ by what an expert comes to, more than
 * all the others together. Few rows may. */
static const double tolerance = 8e-3, tolerance_tipped = 5e-2;

static size_t tipped_most(const struct run *u, size_t rows) {
        return u->rounded && u->r->backend->flags & BACKEND_PROMPTS ? MAX(rows / 8, (size_t) 1) : 0;
}

/* Largest error, squared error and squared value; how many rows there were, how many of them beyond the tolerance. */
struct difference {
        double max, error, value;
        size_t rows, beyond;
};

static void compare_row(struct difference *d, const float *got, const float *expected, size_t n) {
        double sum = 0.0, value = 0.0;

        for (size_t i = 0; i < n; i++) {
                double error = fabs((double) got[i] - expected[i]);

                /* A NaN must not pass as no error. */
                d->max = error <= d->max ? d->max : isnan(error) ? INFINITY : error;
                sum += error * error;
                value += (double) expected[i] * expected[i];
        }
        d->error += sum;
        d->value += value;
        d->rows++;
        d->beyond += !(sum <= tolerance * value);
}

static void say_rounded(struct run *u, const char *what, const struct difference *d) {
        bool tipped = d->beyond <= tipped_most(u, d->rows) && d->error <= tolerance_tipped * d->value;

        said(u, d->error <= tolerance * d->value || tipped, what,
             "%zu rows, NMSE %.2g (tolerance %.0e), of %zu rows more", d->rows, d->error / d->value, tolerance,
             d->beyond);
}

static void say_logits(struct run *u, const char *what, const struct difference *d) {
        if (u->rounded)
                say_rounded(u, what, d);
        else
                said(u, d->max <= 1e-3 * u->sigma, what, "%zu rows of logits, error %.2g sigma (tolerance 1e-3)",
                     d->rows, d->max / u->sigma);
}

static void check_last(struct run *u, const char *what) {
        uint32_t vocab = model_info(u->model)->vocab;
        _cleanup_(freep) float *expected =
                file_read_exactly(u->path, "logits_last.f32", (size_t) u->n_prompts * vocab * sizeof(float));
        const int32_t *prompt = u->prompts;
        struct difference d = { 0 };

        for (uint32_t i = 0; expected && i < u->n_prompts; prompt += u->lengths[i++]) {
                _cleanup_(sequence_freep) struct sequence *q = NULL;
                const float *logits;

                if (sequence_new(&q, u->model))
                        abort();
                logits = feed(u, q, prompt, u->lengths[i], u->r->chunk);
                if (!logits) {
                        said(u, false, what, "the forward pass failed");
                        return;
                }
                compare_row(&d, logits, expected + (size_t) i * vocab, vocab);
        }
        if (expected)
                say_logits(u, what, &d);
        else
                said(u, false, what, "logits_last.f32 cannot be read, or has another size");
}

/* Every position of the second prompt, a token at a time. */
static void check_positions(struct run *u) {
        uint32_t vocab = model_info(u->model)->vocab, n = u->n_prompts > 1 ? u->lengths[1] : 0;
        _cleanup_(sequence_freep) struct sequence *q = NULL;
        _cleanup_(freep) float *expected = NULL;
        struct difference d = { 0 };
        char file[80], what[64];

        snprintf(what, sizeof(what), "logits_%u", n);
        snprintf(file, sizeof(file), "%s.f32", what);
        if (!is_there(u, file))
                return;
        expected = file_read_exactly(u->path, file, (size_t) n * vocab * sizeof(float));
        if (!expected || sequence_new(&q, u->model)) {
                said(u, false, what, "%s cannot be read, or has another size", file);
                return;
        }
        for (uint32_t i = 0; i < n; i++) {
                const float *logits = feed(u, q, u->prompts + u->lengths[0] + i, 1, 1);

                if (!logits) {
                        said(u, false, what, "the forward pass failed");
                        return;
                }
                compare_row(&d, logits, expected + (size_t) i * vocab, vocab);
        }
        say_logits(u, what, &d);
}

static int32_t best_of(const float *logits, uint32_t n) {
        int32_t best = 0;

        for (uint32_t i = 1; i < n; i++)
                if (logits[i] > logits[best])
                        best = (int32_t) i;
        return best;
}

/* How many ids of one continuation are as expected; `compared` gets how many had to be. */
static bool continue_prompt(struct run *u, const int32_t *prompt, uint32_t length, const int32_t *expected,
                            const float *margins, uint32_t *compared) {
        _cleanup_(sequence_freep) struct sequence *q = NULL;
        const float *logits;

        if (sequence_new(&q, u->model))
                abort();
        logits = feed(u, q, prompt, length, u->r->chunk);
        for (uint32_t i = 0; i < u->generated; i++) {
                int32_t id;

                /* From here on rounding may choose another, and everything after it differs. */
                if (u->rounded && margins[i] < 0.15 * u->sigma)
                        return true;
                if (!logits)
                        return false;
                id = best_of(logits, model_info(u->model)->vocab);
                if (id != expected[i])
                        return false;
                *compared += 1;
                if (i + 1 < u->generated)
                        logits = feed(u, q, &id, 1, 1);
        }
        return true;
}

static void check_greedy(struct run *u) {
        size_t n = (size_t) u->n_prompts * u->generated;
        _cleanup_(freep) int32_t *expected = file_read_exactly(u->path, "greedy.i32", n * sizeof(int32_t));
        _cleanup_(freep) float *margins = file_read_exactly(u->path, "greedy_margin.f32", n * sizeof(float));
        const int32_t *prompt = u->prompts;
        uint32_t compared = 0, tipped = 0;

        if (!expected || !margins) {
                said(u, false, "greedy",
                     "greedy.i32 or greedy_margin.f32 cannot be read, or has another size");
                return;
        }
        for (uint32_t i = 0; i < u->n_prompts; prompt += u->lengths[i++])
                tipped += !continue_prompt(u, prompt, u->lengths[i], expected + (size_t) i * u->generated,
                                           margins + (size_t) i * u->generated, &compared);
        said(u, tipped <= tipped_most(u, u->n_prompts), "greedy",
             "%u of %zu ids equal%s, %u of %u continuations differ", compared, n,
             u->rounded ? ", compared while the margin allows" : "", tipped, u->n_prompts);
}

/* What the layers did with the first prompt. */
struct trace {
        uint32_t rows, hidden, width, k; /* width: of a row between layers */
        float *outputs, *embedding; /* [layers][rows][hidden], [rows][hidden] */
        int32_t *ids;               /* [moe layers][rows][k] */
        float *weights;
        uint32_t moe_layers;
        size_t memory;              /* routers' room, in values */
};

static void trace_deinit(struct trace *t) {
        free(t->outputs);
        free(t->embedding);
        free(t->ids);
        free(t->weights);
}

static void trace_layer(const struct step_view *view, void *context) {
        struct trace *t = context;
        size_t size = (size_t) t->rows * t->width, chosen = (size_t) t->rows * view->k;

        if (view->hidden != t->width)
                return;
        /* Several streams begin as the same. */
        for (size_t i = 0; view->layer == 0 && i < t->rows; i++)
                memcpy(t->embedding + i * t->hidden, view->input + i * t->width, t->hidden * sizeof(float));
        memcpy(t->outputs + view->layer * size, view->output, size * sizeof(float));
        if (view->k == 0)
                return;
        memcpy(t->ids + t->moe_layers * chosen, view->expert_ids, chosen * sizeof(int32_t));
        memcpy(t->weights + t->moe_layers * chosen, view->expert_weights, chosen * sizeof(float));
        t->moe_layers++;
}

/* Largest error of a row over its own root mean square. */
static double row_error(const float *got, const float *expected, size_t rows, size_t width) {
        double worst = 0.0;

        for (size_t i = 0; i < rows; i++) {
                struct difference d = { 0 };

                compare_row(&d, got + i * width, expected + i * width, width);
                worst = fmax(worst, d.max / sqrt(d.value / (double) width));
        }
        return worst;
}

static void check_rows(struct run *u, const char *what, const float *got, size_t rows, size_t width) {
        size_t n = rows * width;
        _cleanup_(freep) float *expected = NULL;
        struct difference d = { 0 };
        char file[64];
        double error;

        snprintf(file, sizeof(file), "%s.f32", what);
        if (!is_there(u, file))
                return;
        expected = file_read_exactly(u->path, file, n * sizeof(float));
        if (!expected) {
                said(u, false, what, "%s has another size", file);
                return;
        }
        error = row_error(got, expected, rows, width);
        for (size_t i = 0; i < rows; i++)
                compare_row(&d, got + i * width, expected + i * width, width);
        if (u->rounded)
                say_rounded(u, what, &d);
        else
                said(u, error <= 1e-3, what,
                     "%zu rows, error %.2g of a row's root mean square (tolerance 1e-3)", rows, error);
}

/* The engine lists a row's experts as it chose them, which a bias on the scores may have had a say in. */
static void sort_by_weight(const struct trace *t, size_t row) {
        int32_t *ids = t->ids + row * t->k;
        float *weights = t->weights + row * t->k;

        for (uint32_t i = 1; i < t->k; i++)
                for (uint32_t j = i; j > 0 && weights[j] > weights[j - 1]; j--) {
                        int32_t id = ids[j];
                        float weight = weights[j];

                        ids[j] = ids[j - 1];
                        weights[j] = weights[j - 1];
                        ids[j - 1] = id;
                        weights[j - 1] = weight;
                }
}

static void check_router(struct run *u, const struct trace *t) {
        size_t n = (size_t) t->moe_layers * t->rows * t->k, equal = 0;
        _cleanup_(freep) int32_t *ids = NULL;
        _cleanup_(freep) float *weights = NULL;
        struct difference d = { 0 };
        char file[2][64];

        snprintf(file[0], sizeof(file[0]), "router_ids_%u.i32", t->rows);
        snprintf(file[1], sizeof(file[1]), "router_w_%u.f32", t->rows);
        if (!is_there(u, file[0]) && !is_there(u, file[1]))
                return;
        ids = file_read_exactly(u->path, file[0], n * sizeof(int32_t));
        weights = file_read_exactly(u->path, file[1], n * sizeof(float));
        if (!ids || !weights) {
                said(u, false, "router", "%s or %s cannot be read, or has another size", file[0], file[1]);
                return;
        }
        for (size_t i = 0; i < n / MAX(t->k, 1u); i++)
                sort_by_weight(t, i);
        for (size_t i = 0; i < n; i++)
                equal += ids[i] == t->ids[i];
        compare_row(&d, t->weights, weights, n);
        said(u, equal == n && d.max <= 1e-4, "router",
             "%zu of %zu choices equal, weights' error %.2g (tolerance 1e-4)", equal, n, d.max);
}

static void check_layers(struct run *u) {
        const struct model_info *info = model_info(u->model);
        size_t rows = u->lengths[0], choices = (size_t) info->moe_layers * rows * info->experts_used;
        _cleanup_(trace_deinit) struct trace t = {
                .rows = (uint32_t) rows, .hidden = u->hidden, .width = u->width, .k = info->experts_used};
        struct step_observer observer = { .layer = trace_layer, .context = &t };
        _cleanup_(sequence_freep) struct sequence *q = NULL;
        char what[64];
        bool ok;

        t.embedding = calloc(rows * u->hidden, sizeof(float));
        t.outputs = calloc(info->layers * rows * u->width, sizeof(float));
        t.ids = calloc(choices + 1, sizeof(int32_t));
        t.weights = calloc(choices + 1, sizeof(float));
        if (!t.embedding || !t.outputs || !t.ids || !t.weights || sequence_new(&q, u->model) ||
            step_observe(u->step, &observer))
                abort();
        ok = feed(u, q, u->prompts, (uint32_t) rows, (uint32_t) rows);
        step_observe(u->step, NULL);
        if (!ok) {
                said(u, false, "layers", "the forward pass failed");
                return;
        }
        snprintf(what, sizeof(what), "embed_%zu", rows);
        check_rows(u, what, t.embedding, rows, u->hidden);
        snprintf(what, sizeof(what), "layers_%zu", rows);
        check_rows(u, what, t.outputs, info->layers * rows, u->width);
        /* With rounded activations two experts of nearly the same score may change places. */
        if (info->moe_layers > 0 && !u->rounded)
                check_router(u, &t);
}

/* What the indexers chose for the third prompt: [indexers][rows][k], kept in `chosen`. */
struct choices {
        uint32_t indexers, k;
        int32_t *chosen; /* room for all layers */
        size_t room;
};

static void choices_layer(const struct step_view *view, void *context) {
        struct choices *c = context;
        size_t n = (size_t) view->rows * view->chosen_k;

        if (n == 0 || n > c->room)
                return;
        memcpy(c->chosen + c->indexers * n, view->chosen, n * sizeof(int32_t));
        c->room -= n;
        c->k = view->chosen_k;
        c->indexers++;
}

static void compare_choices(struct run *u, const struct choices *c, uint32_t rows, const char *what) {
        size_t n = (size_t) c->indexers * rows * c->k, equal = 0;
        _cleanup_(freep) int32_t *expected = NULL;
        char file[64];

        snprintf(file, sizeof(file), "%.40s.i32", what);
        expected = file_read_exactly(u->path, file, n * sizeof(int32_t));
        if (n == 0 || !expected) {
                said(u, false, what, "%u indexers chose; %s cannot be read, or has another size", c->indexers,
                     file);
                return;
        }
        for (size_t i = 0; i < n; i++)
                equal += expected[i] == c->chosen[i];
        said(u, equal == n, what, "%zu of %zu choices equal", equal, n);
}

static void check_indexers(struct run *u) {
        uint32_t n = u->n_prompts > 2 ? u->lengths[2] : 0;
        _cleanup_(sequence_freep) struct sequence *q = NULL;
        _cleanup_(freep) int32_t *room = NULL;
        struct choices c = { .room = (size_t) u->layers * n * 256 };
        struct step_observer observer = { .layer = choices_layer, .context = &c };
        char what[64], file[80];

        snprintf(what, sizeof(what), "indexer_%u", n);
        snprintf(file, sizeof(file), "%s.i32", what);
        if (!is_there(u, file) || u->rounded)
                return;
        c.chosen = room = calloc(c.room, sizeof(int32_t));
        if (!room || sequence_new(&q, u->model) || step_observe(u->step, &observer))
                abort();
        if (!feed(u, q, u->prompts + u->lengths[0] + u->lengths[1], n, n))
                said(u, false, what, "the forward pass failed");
        else
                compare_choices(u, &c, n, what);
        step_observe(u->step, NULL);
}

static bool read_expectations(struct run *u) {
        _cleanup_(json_decrefp) json_t *expect = file_json(u->path, "expect.json");
        json_t *lengths = json_object_get(expect, "prompt_lengths"), *layers = NULL;
        size_t total = 0;

        u->sigma = json_float(expect, "logits_std", 0.0);
        u->generated = (uint32_t) json_int(expect, "generated", 0);
        u->hidden = (uint32_t) json_int(expect, "hidden", 0);
        u->layers = (uint32_t) json_int(expect, "layers", 0);
        layers = json_object_get(expect, "layers_7");
        u->width = json_array_size(layers) == 3 ? (uint32_t) json_integer_value(json_array_get(layers, 2))
                                                : u->hidden;
        u->n_prompts = (uint32_t) json_array_size(lengths);
        if (!(u->sigma > 0.0) || u->n_prompts == 0 || u->n_prompts > ELEMENTS(u->lengths) || u->hidden == 0)
                return false;
        for (uint32_t i = 0; i < u->n_prompts; i++) {
                u->lengths[i] = (uint32_t) json_integer_value(json_array_get(lengths, i));
                total += u->lengths[i];
        }
        u->prompts = file_read_exactly(u->path, "prompts.i32", total * sizeof(int32_t));
        return u->prompts != NULL;
}

static void run_file(struct reference *r, const char *path, const char *name, const char *file) {
        _cleanup_(run_deinit) struct run u = { .r = r, .path = path };
        struct model_options options = { .kv_bytes = 64 << 20, .rows_max = 512 };
        struct reason reason = REASON_INIT;
        char full[4096];
        int error;

        snprintf(u.name, sizeof(u.name), "%s%s%s", name, strcmp(file, "model.gguf") ? "/" : "",
                 strcmp(file, "model.gguf") ? file : "");
        snprintf(full, sizeof(full), "%s/%s", path, file);
        switch (fixture_model_check(full, &u.rounded, &reason)) {
        case FIXTURE_MODEL_UNSUPPORTED:
                say_skip(r, u.name, "%s", reason.text);
                return;
        case FIXTURE_MODEL_BROKEN:
                say(r, false, u.name, "%s", reason.text);
                return;
        }
        options.kv_type = u.rounded ? r->backend->kv_type : QUANT_F32;
        error = model_open(&u.model, r->backend, full, &options, &reason);
        if (error || step_new(&u.step, u.model)) {
                say(r, false, u.name, "%s", error > 0 ? reason.text : strerror(-error));
                return;
        }
        if (!read_expectations(&u) || u.layers != model_info(u.model)->layers) {
                say(r, false, u.name, "expect.json or prompts.i32 cannot be read, or does not fit the model");
                return;
        }
        u.as_prompt = u.rounded;
        if (is_there(&u, "logits_last.f32"))
                check_last(&u, "logits_last");
        check_positions(&u);
        if (is_there(&u, "greedy.i32"))
                check_greedy(&u);
        check_layers(&u);
        check_indexers(&u);
        if (is_there(&u, "logits_last.f32") && !u.rounded) {
                u.as_prompt = u.rounded = true;
                check_last(&u, "logits_last as a prompt's");
        }
        if (u.checked == 0)
                say(r, false, u.name, "the folder expects nothing of it");
}

static int is_model(const struct dirent *entry) {
        const char *dot = strrchr(entry->d_name, '.');

        return dot && strcmp(dot, ".gguf") == 0;
}

void run_model(struct reference *r, const char *path, const char *name) {
        struct dirent **entries;
        int n = scandir(path, &entries, is_model, alphasort);

        if (n <= 0)
                say(r, false, name, "no .gguf file in the folder");
        for (int i = 0; i < n; i++) {
                run_file(r, path, name, entries[i]->d_name);
                free(entries[i]);
        }
        if (n >= 0)
                free(entries);
}
