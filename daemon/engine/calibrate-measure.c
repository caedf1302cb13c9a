/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "calibrate-internal.h"
#include "forward.h"
#include "kv.h"

/* Logits that are kept and compared at a time; of models with a large vocabulary only the last rows of a window have
 * some. */
#define LOGITS_MAX (UINT64_C(16) << 20)

enum { WINDOWS_MAX = 8 }; /* in a step */

/* A step over a few windows, and what is kept of it while it runs once whole and then with layers that are reduced. */
struct probe {
        struct measurement *m;
        const atomic_bool *stop; /* NULL: nobody stops it */
        struct step *step;
        struct step_part parts[WINDOWS_MAX];
        uint32_t n_parts, window, wanted; /* rows of a window, and those of them whose logits are compared */
        uint32_t first;                   /* number of the step's first row among those of the measurement */
        uint32_t *allowances;             /* [window] everything */
        float *input, *whole, *reduced;   /* [rows][width] of a layer: what comes in, and what comes out */
        float *expected;                  /* [n_parts × wanted][vocab] log-probabilities of the whole model */
        float *weights;                   /* [rows][k] */
        double *divergence;               /* [layers][k] sums */
        uint64_t compared;                /* rows of logits */
};

void measurement_deinit(struct measurement *m) {
        free(m->error);
        free(m->share);
        free(m->divergence);
        free(m->features);
        *m = (struct measurement) MEASUREMENT_NULL;
}

static uint32_t rows_of(const struct probe *p) {
        return p->n_parts * p->window;
}

static int fetch(struct probe *p, float *dst, struct device_ptr src, uint32_t width) {
        const struct backend_ops *ops = forward_ops(p->step);
        int r;

        r = ops->download(p->step->stream, dst, src, (uint64_t) rows_of(p) * width * sizeof(float));
        return r ? r : ops->stream_sync(p->step->stream);
}

static int put_rows(struct probe *p, const float *rows) {
        return forward_ops(p->step)->upload(p->step->stream, step_rows(p->step), rows,
                                            (uint64_t) rows_of(p) * p->m->width * sizeof(float));
}

/* So many experts for every row in this layer, until told otherwise. */
static int set_count(struct probe *p, uint32_t layer, uint32_t count) {
        struct step_batch *b = &p->step->batch;
        size_t at = (size_t) layer * b->rows;

        for (uint32_t t = 0; t < b->rows; t++)
                b->caps[at + t] = (int32_t) count * 1000;
        return forward_ops(p->step)->upload(p->step->stream, device_offset(b->device_caps, at * sizeof(int32_t)),
                                            b->caps + at, b->rows * sizeof(int32_t));
}

/* log(softmax) in place. */
static void to_log(float *row, uint32_t n) {
        float max = row[0];
        double sum = 0.0;

        for (uint32_t i = 1; i < n; i++)
                max = fmaxf(max, row[i]);
        for (uint32_t i = 0; i < n; i++)
                sum += (double) expf(row[i] - max);
        max += (float) log(sum);
        for (uint32_t i = 0; i < n; i++)
                row[i] -= max;
}

/* KL(expected ‖ what these logits say). */
static double divergence(const float *expected, const float *logits, uint32_t n) {
        double max = (double) logits[0], sum = 0.0, kl = 0.0;

        for (uint32_t i = 1; i < n; i++)
                max = fmax(max, (double) logits[i]);
        for (uint32_t i = 0; i < n; i++)
                sum += (double) expf(logits[i] - (float) max);
        max += log(sum);
        for (uint32_t i = 0; i < n; i++)
                kl += (double) expf(expected[i]) * ((double) expected[i] - ((double) logits[i] - max));
        return kl;
}

/* The model as it is: what its logits should be. Leaves the sequences as they were before. */
static int run_whole(struct probe *p) {
        size_t vocab = p->step->model->info.vocab, size = (size_t) p->wanted * vocab;
        int r;

        r = step_begin(p->step, p->parts, p->n_parts);
        while (!r && (r = step_advance(p->step)) == 1)
                r = 0;
        for (uint32_t i = 0; i < p->n_parts && !r; i++) {
                memcpy(p->expected + i * size, p->parts[i].logits_out, size * sizeof(float));
                sequence_truncate(p->parts[i].sequence, 0);
                r = sequence_reserve(p->parts[i].sequence, p->window);
        }
        for (uint32_t i = 0; i < p->n_parts * p->wanted && !r; i++)
                to_log(p->expected + i * vocab, (uint32_t) vocab);
        return r;
}

/* From layer `next` to the logits, of which the divergence is added. */
static int run_on(struct probe *p, uint32_t next, double *sum) {
        struct step *s = p->step;
        uint32_t vocab = s->model->info.vocab;
        const float *logits;
        int r = 0;

        for (; next < s->model->info.layers && !r; next++)
                r = forward_layer(s, next);
        if (!r)
                r = forward_end(s);
        if (!r)
                r = forward_ops(s)->stream_sync(s->stream);
        if (r)
                return r;
        logits = step_on_host(s) ? (const float *) s->logits.at.address : s->host_logits;
        for (size_t i = 0; i < (size_t) p->n_parts * p->wanted; i++)
                *sum += divergence(p->expected + i * vocab, logits + i * vocab, vocab);
        return 0;
}

static void note_errors(struct probe *p, uint32_t layer, uint32_t count) {
        uint32_t width = p->m->width;

        for (uint32_t t = 0; t < rows_of(p); t++) {
                const float *whole = p->whole + (size_t) t * width, *reduced = p->reduced + (size_t) t * width;
                double error = 0.0, size = 0.0;
                float *ret = (float *) measurement_error(p->m, layer, p->first + t);

                for (uint32_t i = 0; i < width; i++) {
                        error += (double) (whole[i] - reduced[i]) * (double) (whole[i] - reduced[i]);
                        size += (double) whole[i] * (double) whole[i];
                }
                ret[count - 1] = size > 0.0 ? (float) (error / size) : 0.0f;
        }
}

static int fall(const void *a, const void *b) {
        const float *x = a, *y = b;

        return *x < *y ? 1 : *x > *y ? -1 : 0;
}

static void note_shares(struct probe *p, uint32_t layer) {
        float scale = p->step->model->arch.params.expert_scale;
        uint32_t k = p->m->k;

        for (uint32_t t = 0; t < rows_of(p); t++) {
                float *ret = (float *) measurement_share(p->m, layer, p->first + t);

                for (uint32_t j = 0; j < k; j++)
                        ret[j] = fmaxf(p->weights[(size_t) t * k + j] / scale, 0.0f);
                qsort(ret, k, sizeof(*ret), fall);
        }
}

/* Counts whose effect on the model is measured; that of the others follows from the layer's own error. */
static bool is_measured(const struct probe *p, uint32_t count) {
        return is_power_of_two(count) && count < p->m->k;
}

static int probe_count(struct probe *p, uint32_t index, uint32_t layer, uint32_t count) {
        int r;

        r = set_count(p, layer, count);
        if (!r)
                r = put_rows(p, p->input);
        if (!r)
                r = forward_layer(p->step, index);
        if (!r)
                r = fetch(p, p->reduced, step_rows(p->step), p->m->width);
        if (r)
                return r;
        note_errors(p, layer, count);
        return is_measured(p, count) ? run_on(p, index + 1, &p->divergence[(size_t) layer * p->m->k + count - 1]) : 0;
}

/* A layer with experts, whose input is in place: whole, then with fewer. Its output is in place afterwards. What
 * further layers have left in the KV pages is overwritten when it is their turn. */
static int probe_layer(struct probe *p, uint32_t index) {
        uint32_t layer = p->step->model->arch.layers[index].moe_layer;
        int r;

        r = fetch(p, p->input, step_rows(p->step), p->m->width);
        if (!r)
                r = forward_layer(p->step, index);
        if (!r)
                r = fetch(p, p->weights, p->step->a.expert_weights, p->m->k);
        if (!r)
                r = fetch(p, p->whole, step_rows(p->step), p->m->width);
        if (r)
                return r;
        note_shares(p, layer);
        for (uint32_t count = 1; count < p->m->k && !r; count++)
                r = probe_count(p, index, layer, count);
        if (!r)
                r = set_count(p, layer, p->m->k);
        return r ? r : put_rows(p, p->whole);
}

static void note_features(struct probe *p) {
        uint32_t width = p->m->width;

        for (uint32_t t = 0; t < rows_of(p); t++) {
                const float *x = p->whole + (size_t) t * width;
                float *ret = p->m->features + (size_t) (p->first + t) * width;
                double size = 0.0;

                for (uint32_t i = 0; i < width; i++)
                        size += (double) x[i] * (double) x[i];
                for (uint32_t i = 0; i < width && size > 0.0; i++)
                        ret[i] = (float) ((double) x[i] / sqrt(size / width));
        }
}

/* Of a large model a layer's probes take seconds, a step's minutes. */
static int run_probes(struct probe *p) {
        struct step *s = p->step;
        int r;

        r = step_begin(s, p->parts, p->n_parts);
        for (uint32_t i = 0; i < s->model->info.layers && !r; i++) {
                if (calibrate_stopped(p->stop))
                        return -EINTR;
                r = s->model->arch.layers[i].parts & ARCH_MOE ? probe_layer(p, i) : forward_layer(s, i);
                if (r || !p->m->features || i != p->m->predictor_layer)
                        continue;
                r = fetch(p, p->whole, step_rows(s), p->m->width);
                if (!r)
                        note_features(p);
        }
        if (r)
                return r;
        s->layer = s->model->info.layers;
        r = step_advance(s);
        for (uint32_t i = 0; i < p->n_parts; i++)
                sequence_truncate(p->parts[i].sequence, 0);
        p->compared += (uint64_t) p->n_parts * p->wanted;
        return r;
}

static int probe_windows(struct probe *p, const int32_t *tokens) {
        int r = 0;

        for (uint32_t i = 0; i < p->n_parts && !r; i++) {
                p->parts[i].tokens = tokens + (size_t) i * p->window;
                r = sequence_reserve(p->parts[i].sequence, p->window);
        }
        if (!r)
                r = run_whole(p);
        return r ? r : run_probes(p);
}

static int probe_text(struct probe *p, const int32_t *tokens, const struct calibrate_options *options) {
        uint32_t most = p->n_parts;
        int r = 0;

        while (p->first < p->m->rows && !r) {
                p->n_parts = MIN(most, (p->m->rows - p->first) / p->window);
                r = probe_windows(p, tokens + p->first);
                p->first += rows_of(p);
                if (!r && options->progress)
                        options->progress(p->first, p->m->rows, options->userdata);
        }
        return r;
}

static void note_divergence(struct probe *p) {
        struct measurement *m = p->m;

        for (uint32_t l = 0; l < m->layers; l++)
                for (uint32_t c = 1; c <= m->k; c++) {
                        size_t i = (size_t) l * m->k + c - 1;

                        m->divergence[i] = is_measured(p, c) ? MAX(p->divergence[i], 0.0) / (double) p->compared : -1.0;
                }
}

static void probe_deinit(struct probe *p) {
        /* Before the sequences, which it may still use. */
        step_free(p->step);
        for (uint32_t i = 0; i < WINDOWS_MAX; i++)
                sequence_free(p->parts[i].sequence);
        free(p->allowances);
        free(p->input);
        free(p->whole);
        free(p->reduced);
        free(p->expected);
        free(p->weights);
        free(p->divergence);
}

static int probe_init(struct probe *p, struct model *model) {
        const struct measurement *m = p->m;
        size_t rows = rows_of(p), values = rows * m->width;
        int r = 0;

        p->allowances = calloc(p->window, sizeof(*p->allowances));
        p->input = calloc(values, sizeof(float));
        p->whole = calloc(values, sizeof(float));
        p->reduced = calloc(values, sizeof(float));
        p->weights = calloc(rows * m->k, sizeof(float));
        p->expected = calloc((size_t) p->n_parts * p->wanted * model->info.vocab, sizeof(float));
        p->divergence = calloc((size_t) m->layers * m->k, sizeof(*p->divergence));
        if (!p->allowances || !p->input || !p->whole || !p->reduced || !p->weights || !p->expected || !p->divergence)
                return -ENOMEM;
        for (uint32_t t = 0; t < p->window; t++)
                p->allowances[t] = m->layers * m->k;
        for (uint32_t i = 0; i < p->n_parts && !r; i++) {
                p->parts[i] = (struct step_part) { .allowances = p->allowances, .count = p->window, .prompt = p->window,
                                                   .logits = p->wanted };
                r = sequence_new(&p->parts[i].sequence, model);
        }
        return r ? r : step_new(&p->step, model);
}

/* The layer after an eighth of them; the layers behind it are left to predict for. */
static uint32_t choose_predictor_layer(const struct model *model) {
        return model->info.layers / 8;
}

static int measurement_init(struct measurement *m, const struct model *model, uint32_t rows, bool predictor) {
        size_t values;

        *m = (struct measurement) {
                .rows = rows, .layers = model->info.moe_layers, .k = model->info.experts_used,
                .normalized = model->arch.params.normalize || model->arch.params.gate == ROUTE_SOFTMAX_CHOSEN,
                .width = calibration_width(&model->arch), .predictor_layer = choose_predictor_layer(model),
        };
        values = (size_t) m->layers * rows * m->k;
        m->error = calloc(values, sizeof(float));
        m->share = calloc(values, sizeof(float));
        m->divergence = calloc((size_t) m->layers * m->k, sizeof(*m->divergence));
        if (predictor)
                m->features = calloc((size_t) rows * m->width, sizeof(float));
        return m->error && m->share && m->divergence && (m->features || !predictor) ? 0 : -ENOMEM;
}

int measure(struct measurement *ret, struct model *model, const int32_t *tokens, uint32_t n,
            const struct calibrate_options *options) {
        _cleanup_(measurement_deinit) struct measurement m = MEASUREMENT_NULL;
        uint32_t most = MIN(model->info.context, (uint32_t) CALIBRATE_WINDOW);
        _cleanup_(probe_deinit) struct probe p = { .m = &m, .stop = options->stop, .window = MIN(n, most) };
        uint32_t windows, share;
        int r;

        if (p.window < MIN(most, (uint32_t) CALIBRATE_TOKENS_MIN))
                return CALIBRATE_E_TEXT;
        windows = n / p.window;
        p.n_parts = MIN(windows, MIN((uint32_t) CALIBRATE_ROWS / p.window, (uint32_t) WINDOWS_MAX));
        share = (uint32_t) MIN(LOGITS_MAX / model->info.vocab / p.n_parts, (uint64_t) UINT32_MAX);
        p.wanted = MAX(1u, MIN(share, p.window / 2));
        r = measurement_init(&m, model, windows * p.window, options->predictor);
        if (!r)
                r = probe_init(&p, model);
        if (!r)
                r = probe_text(&p, tokens, options);
        if (r)
                return r;
        note_divergence(&p);
        *ret = m;
        m = (struct measurement) MEASUREMENT_NULL;
        return 0;
}
