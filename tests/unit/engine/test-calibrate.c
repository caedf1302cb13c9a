/* SPDX-License-Identifier: MIT */
#include "calibrate-internal.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>

#include "base/util.h"
#include "engine.h"
#include "kv.h"
#include "test.h"
#include "tiny.h"

static uint32_t seed = 1;

/* Between 0 and 1. */
static double next(void) {
        seed = seed * 1664525u + 1013904223u;
        return (double) (seed >> 8) / (double) (1 << 24);
}

static double total(const float *error, const uint16_t *shares, uint32_t layers) {
        double sum = 0.0;

        for (uint32_t l = 0; l < layers; l++)
                sum += (double) error[(shares[l] - 8) * layers + l];
        return sum;
}

TEST(plans_are_the_best_there_are) {
        enum { L = 3, LINES = 9 };
        float error[LINES * L];
        uint16_t plan[LINES * L];

        for (int round = 0; round < 50; round++) {
                double best[LINES];

                for (int i = 0; i < LINES; i++)
                        best[i] = INFINITY;
                for (size_t i = 0; i < ELEMENTS(error); i++)
                        error[i] = (float) next(); /* of no order at all */
                for (uint16_t a = 8; a <= 16; a++)
                        for (uint16_t b = 8; b <= 16; b++)
                                for (uint16_t c = 8; c <= 16; c++)
                                        if ((a + b + c) % L == 0) {
                                                int line = (a + b + c) / L - 8;

                                                best[line] = MIN(best[line], total(error, (uint16_t[]) { a, b, c }, L));
                                        }
                assert_se(plan_solve(plan, error, L, 2) == 0);
                for (int i = 0; i < LINES; i++) {
                        const uint16_t *line = plan + i * L;

                        assert_se(line[0] + line[1] + line[2] == L * (8 + i));
                        assert_se(fabs(total(error, line, L) - best[i]) < 1e-6);
                }
        }
}

TEST(a_model_of_one_layer_or_of_one_expert_has_a_plan) {
        uint16_t plan[17];
        float error[17] = { 0.0f };

        assert_se(plan_solve(plan, error, 1, 3) == 0);
        for (uint16_t i = 0; i < 17; i++)
                assert_se(plan[i] == 8 + i);
        assert_se(plan_solve(plan, error, 5, 1) == 0);
        for (int l = 0; l < 5; l++)
                assert_se(plan[l] == 8);
}

/* Two rows, three experts each: the first row's router is sure, the second's is not. */
static float two_errors[] = { 0.5f, 0.25f, 0.0f, 4.0f, 1.0f, 0.0f };
static float two_shares[] = { 0.875f, 0.0625f, 0.0625f, 0.5f, 0.25f, 0.25f };
static double two_divergence[] = { 9.0, 10.0, -1.0 };
static const struct measurement two = {
        .rows = 2, .layers = 1, .k = 3, .error = two_errors, .share = two_shares, .divergence = two_divergence,
};

TEST(a_layers_own_error_is_scaled_to_the_models) {
        double gains[5], divergence[] = { 4.0, -1.0, -1.0, 0.5, -1.0 };
        float error[] = { 1.0f, 0.75f, 0.5f, 0.25f, 0.0f };
        const struct measurement m = { .rows = 1, .layers = 1, .k = 5, .error = error, .divergence = divergence };

        curve_gains(&two, 0, gains);
        assert_se(gains[0] == 9.0 / 2.25 && gains[1] == 10.0 / 0.625);
        curve_gains(&m, 0, gains);
        assert_se(gains[0] == 4.0 && gains[3] == 2.0 && gains[4] == 2.0);
        assert_se(fabs(gains[1] - 4.0 * pow(0.5, 1.0 / 3.0)) < 1e-9 && gains[2] < gains[1] && gains[2] > 2.0);
        /* A layer that makes no difference, and one whose experts do nothing at all. */
        divergence[0] = divergence[3] = 0.0;
        curve_gains(&m, 0, gains);
        for (int i = 0; i < 5; i++)
                assert_se(gains[i] == 0.0);
        memset(error, 0, sizeof(error));
        divergence[0] = 1.0;
        curve_gains(&m, 0, gains);
        for (int i = 0; i < 5; i++)
                assert_se(gains[i] == 0.0);
}

TEST(what_the_router_says_is_an_error_of_unrelated_experts) {
        float errors[3];

        curve_row((float[]) { 0.5f, 0.25f, 0.25f }, 3, true, errors);
        assert_se(errors[0] == 0.25f + 0.125f && errors[2] == 0.0f);
        assert_se(fabsf(errors[1] - (0.3125f / 9.0f + 0.0625f)) < 1e-6f);
        curve_row((float[]) { 0.5f, 0.25f, 0.25f }, 3, false, errors);
        assert_se(errors[0] == 0.125f && errors[1] == 0.0625f && errors[2] == 0.0f);
}

TEST(errors_fall_pair_by_pair_where_the_router_says) {
        const double gains[] = { 1.0, 1.0, 1.0 };
        struct curve_pair pairs[4];
        double curve[17];

        curve_pairs(&two, 0, 0, 2, NULL, pairs);
        assert_se(curve_errors(&two, 0, 0, 2, gains, pairs, curve) == 0);
        assert_se(curve[0] == 4.5 / 2);
        assert_se(curve[4] == 1.5 / 2);  /* one pair: the unsure row's second expert */
        assert_se(curve[8] == 0.5 / 2);  /* two: its third */
        assert_se(curve[12] == 0.25 / 2 && curve[16] == 0.0);
        for (int i = 1; i < 17; i++)
                assert_se(curve[i] <= curve[i - 1]);
}

/* Every expert weighs the same; what a row's are worth beyond that is e^demand. */
static void fill_layer(struct measurement *m, uint32_t layer, const double *demand) {
        for (uint32_t t = 0; t < m->rows; t++) {
                size_t at = ((size_t) layer * m->rows + t) * m->k;

                for (uint32_t j = 0; j < m->k; j++)
                        m->share[at + j] = 1.0f / (float) m->k;
                curve_row(m->share + at, m->k, true, m->error + at);
                for (uint32_t j = 0; j < m->k; j++)
                        m->error[at + j] *= (float) exp(demand[t]);
        }
}

/* Two layers, four experts a row; features of no order at all. */
static struct measurement measurement_new(uint32_t rows, uint32_t width) {
        struct measurement m = { .rows = rows, .layers = 2, .k = 4, .width = width, .normalized = true };

        m.features = calloc((size_t) rows * width, sizeof(float));
        m.error = calloc((size_t) m.layers * rows * m.k, sizeof(float));
        m.share = calloc((size_t) m.layers * rows * m.k, sizeof(float));
        m.divergence = calloc((size_t) m.layers * m.k, sizeof(double));
        assert_se(m.features && m.error && m.share && m.divergence);
        for (size_t i = 0; i < (size_t) rows * width; i++)
                m.features[i] = (float) (next() - 0.5);
        for (uint32_t i = 0; i < m.layers * m.k; i++)
                m.divergence[i] = i % m.k == 0 ? 1.0 : -1.0;
        return m;
}

TEST(a_predictor_finds_what_is_in_the_rows) {
        enum { ROWS = 500, WIDTH = 12 };
        struct measurement m = measurement_new(ROWS, WIDTH);
        double said[ROWS], mean = 0.0, demand[2][ROWS];
        struct calibrate_report report;
        struct predictor p;

        for (uint32_t t = 0; t < ROWS; t++) {
                demand[0][t] = next();
                demand[1][t] = 3.0 * (double) m.features[t * WIDTH + 3] - 2.0 * (double) m.features[t * WIDTH] +
                               0.05 * next();
        }
        fill_layer(&m, 0, demand[0]);
        fill_layer(&m, 1, demand[1]);
        assert_se(predictor_fit(&p, 1, &report, &m, NULL) == 0);
        assert_se(p.width == WIDTH && report.predictor_r2 > 0.98 && report.predictor_r2 < 1.0);
        /* Where the router says nothing, the predictor saves. */
        assert_se(report.predicted < 0.9 * report.routed && report.routed <= report.fixed * 1.01);
        assert_se(fabs((double) p.weight[WIDTH + 3] - 3.0) < 0.05 && fabs((double) p.weight[WIDTH] + 2.0) < 0.05);
        assert_se(fabs((double) p.weight[WIDTH + 1]) < 0.05);
        predictor_demand(&p, &m, 1, 0, ROWS, said);
        for (uint32_t t = 0; t < ROWS; t++)
                mean += said[t] / ROWS;
        assert_se(fabs(mean) < 0.1);
        free(p.weight);
        free(p.bias);
        measurement_deinit(&m);
}

static atomic_bool stop_fit;

static void on_alarm(int number) {
        atomic_store(&stop_fit, true);
}

/* So wide that it takes seconds: first the sums over rows, then one factor after the other. */
TEST(a_fit_can_be_stopped_halfway) {
        static const int msec[] = { 0, 1, 20, 300 };
        struct measurement m = measurement_new(100, 2000);
        const double demand[100] = { 0.5, 0.25 };

        fill_layer(&m, 0, demand);
        fill_layer(&m, 1, demand);
        signal(SIGALRM, on_alarm);
        for (size_t i = 0; i < ELEMENTS(msec); i++) {
                const struct itimerval timer = { .it_value.tv_usec = msec[i] * 1000 };
                struct predictor p = { .weight = NULL };
                struct calibrate_report report;

                atomic_store(&stop_fit, msec[i] == 0);
                setitimer(ITIMER_REAL, &timer, NULL);
                assert_se(predictor_fit(&p, 1, &report, &m, &stop_fit) == -EINTR && !p.weight);
        }
        measurement_deinit(&m);
}

enum { TOKENS = 80, WANTED = TOKENS / 2, ALL = TINY_LAYERS * TINY_EXPERTS_USED };

struct engine {
        struct backend *backend;
        struct model *model;
};

static struct engine engine_open(void) {
        struct engine e;

        assert_se(backend_ref_new(&e.backend) == 0);
        e.model = tiny_open(&(struct tiny) { 0 }, e.backend, CALIBRATE_ROWS / KV_PAGE_TOKENS, CALIBRATE_ROWS);
        return e;
}

static void engine_close(struct engine *e) {
        assert_se(model_kv_pages_free(e->model) == model_info(e->model)->kv_pages);
        model_free(e->model);
        e->backend->ops->free(e->backend);
}

static const int32_t *text(void) {
        static int32_t tokens[1024];

        for (uint32_t i = 0; i < ELEMENTS(tokens); i++)
                tokens[i] = (int32_t) (i * i * 7 + i / 3) % TINY_VOCAB;
        return tokens;
}

struct seen {
        float output[TOKENS * 32];
};

static void see(const struct step_view *view, void *context) {
        struct seen *seen = context;

        if (view->layer == 0)
                memcpy(seen->output, view->output, sizeof(seen->output));
}

/* What a plain step over the text comes to, with that allowance for each row. */
static void run(struct engine *e, uint32_t allowance, struct seen *seen, float *logits) {
        const struct step_observer observer = { .layer = see, .context = seen };
        uint32_t allowances[TOKENS];
        struct sequence *sequence;
        struct step_part part = { .tokens = text(), .allowances = allowances, .count = TOKENS, .prompt = TOKENS,
                                  .logits = WANTED };
        struct step *step;

        for (int i = 0; i < TOKENS; i++)
                allowances[i] = allowance;
        assert_se(sequence_new(&sequence, e->model) == 0 && sequence_reserve(sequence, TOKENS) == 0);
        assert_se(step_new(&step, e->model) == 0 && step_observe(step, &observer) == 0);
        part.sequence = sequence;
        assert_se(step_run(step, &part, 1) == 0);
        memcpy(logits, part.logits_out, sizeof(float) * WANTED * TINY_VOCAB);
        step_free(step);
        sequence_free(sequence);
}

static double log_sum(const float *x) {
        double sum = 0.0;

        for (int i = 0; i < TINY_VOCAB; i++)
                sum += exp((double) x[i]);
        return log(sum);
}

static double divergence(const float *whole, const float *reduced) {
        double kl = 0.0;

        for (int t = 0; t < WANTED; t++, whole += TINY_VOCAB, reduced += TINY_VOCAB)
                for (int i = 0; i < TINY_VOCAB; i++) {
                        double p = (double) whole[i] - log_sum(whole), q = (double) reduced[i] - log_sum(reduced);

                        kl += exp(p) * (p - q) / WANTED;
                }
        return kl;
}

static bool close_to(double a, double b) {
        return fabs(a - b) <= 1e-3 * fabs(b) + 1e-9;
}

/* An allowance of all but one expert takes that from the first layer alone. */
TEST(what_is_measured_is_what_a_reduced_model_does) {
        static float whole_logits[WANTED * TINY_VOCAB], reduced_logits[WANTED * TINY_VOCAB];
        static struct seen whole, reduced;
        struct engine e = engine_open();
        struct measurement m;

        run(&e, ALL, &whole, whole_logits);
        run(&e, ALL - 1, &reduced, reduced_logits);
        assert_se(measure(&m, e.model, text(), TOKENS, &(struct calibrate_options) { .predictor = true }) == 0);
        assert_se(m.rows == TOKENS && m.layers == TINY_LAYERS && m.k == TINY_EXPERTS_USED);
        for (uint32_t t = 0; t < TOKENS; t++) {
                double error = 0.0, size = 0.0;

                for (uint32_t i = t * 32; i < t * 32 + 32; i++) {
                        error += pow((double) whole.output[i] - (double) reduced.output[i], 2.0);
                        size += pow((double) whole.output[i], 2.0);
                }
                assert_se(close_to((double) measurement_error(&m, 0, t)[TINY_EXPERTS_USED - 2], error / size));
                /* What the predictor sees is the first layer's output, of the size one. */
                assert_se(close_to((double) m.features[t * 32] * sqrt(size / 32), (double) whole.output[t * 32]));
        }
        assert_se(divergence(whole_logits, reduced_logits) > 1e-6);
        assert_se(close_to(m.divergence[TINY_EXPERTS_USED - 2], divergence(whole_logits, reduced_logits)));
        measurement_deinit(&m);
        engine_close(&e);
}

TEST(every_layer_and_count_is_measured_over_all_windows) {
        struct engine e = engine_open();
        struct measurement m;

        /* Three whole windows, two of them in one step, and a rest that is left out. */
        assert_se(measure(&m, e.model, text(), 3 * 256 + 5, &(struct calibrate_options) { .predictor = false }) == 0);
        assert_se(m.rows == 3 * 256 && !m.features);
        for (uint32_t l = 0; l < m.layers; l++) {
                const double *d = m.divergence + l * m.k;

                assert_se(d[0] > d[1] && d[1] > 0.0 && d[2] < 0.0);
                for (uint32_t t = 0; t < m.rows; t++) {
                        const float *error = measurement_error(&m, l, t), *share = measurement_share(&m, l, t);

                        assert_se(error[0] > 0.0f && error[1] > 0.0f && error[2] == 0.0f);
                        assert_se(share[0] >= share[1] && share[1] >= share[2] && share[2] > 0.0f);
                        assert_se(fabsf(share[0] + share[1] + share[2] - 1.0f) < 1e-5f);
                }
        }
        measurement_deinit(&m);
        engine_close(&e);
}

TEST(a_calibration_keeps_budgets_and_says_what_they_cost) {
        struct engine e = engine_open();
        struct calibrate_report report;
        struct calibration c;

        assert_se(calibrate(&c, &report, e.model, text(), 512, &(struct calibrate_options) { .predictor = true }) == 0);
        assert_se(c.tokens == 512 && c.predictor.weight && c.predictor.layer == 0);
        for (uint32_t cap = 1000; cap <= 3000; cap += 125) {
                uint32_t sum = 0;

                for (uint32_t l = 0; l < TINY_LAYERS; l++)
                        sum += expert_plan_milli(&c.plan, cap, l);
                assert_se(sum == cap * TINY_LAYERS);
        }
        for (uint32_t i = 0; i < expert_plan_lines(TINY_EXPERTS_USED); i++) {
                const float *even = c.error + i * TINY_LAYERS;

                assert_se(total(c.error, c.plan.shares + i * TINY_LAYERS, TINY_LAYERS) <=
                          (double) even[0] + (double) even[1] + (double) even[2] + 1e-9);
        }
        assert_se(isfinite(report.predictor_r2) && report.routed >= 0.0);
        calibration_deinit(&c);
        engine_close(&e);
}

static void stop_at_once(uint32_t tokens, uint32_t of, void *userdata) {
        atomic_bool *stop = userdata;

        assert_se(tokens == 512 && of == 1024);
        atomic_store(stop, true);
}

TEST(too_little_text_is_refused_and_a_long_one_can_be_stopped) {
        struct engine e = engine_open();
        struct calibrate_report report;
        struct calibration c;
        atomic_bool stop = false;
        struct calibrate_options options = { .stop = &stop, .progress = stop_at_once, .userdata = &stop };

        assert_se(calibrate(&c, &report, e.model, text(), CALIBRATE_TOKENS_MIN - 1, &options) == CALIBRATE_E_TEXT);
        assert_se(calibrate(&c, &report, e.model, text(), 0, &options) == CALIBRATE_E_TEXT);
        assert_se(calibrate(&c, &report, e.model, text(), 1024, &options) == -EINTR);
        engine_close(&e);
}
