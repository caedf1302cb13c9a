/* SPDX-License-Identifier: MIT */
/* The dot kernels of every variant that this machine can run. */
#include <math.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "block.h"
#include "fixture.h"
#include "float16.h"
#include "machine.h"
#include "sample.h"
#include "test.h"
#include "variant.h"

enum { ROWS_MAX = 33 };

/* Activation rows in a weight type's form, and where the results go. */
struct batch {
        uint32_t n, cols, outputs;
        float *values; /* [n][cols] */
        char *inputs;
        const void *x[ROWS_MAX];
        void *panels;
        float *results, *y[ROWS_MAX];
};

static bool takes_panels(const struct cpu_variant *v, enum quant_type type) {
        return v->panel_rows && v->panel_rows(type) > 0;
}

/* Float32 products are only ever computed in one way, which may be by panels. */
static bool needs_panels(const struct cpu_variant *v, enum quant_type type) {
        return takes_panels(v, type) && v->panel_rows(type) == 1;
}

static void *pack(const struct cpu_variant *v, enum dot_input form, const void *const *x, uint32_t n, uint32_t cols) {
        size_t bytes = v->panel_bytes(form, cols);
        char *panels = aligned_alloc(4096, DIV_ROUND_UP(n, 16U) * bytes);

        assert_se(panels);
        for (uint32_t t = 0; t < n; t += 16)
                v->panel_pack(form, panels + t / 16 * bytes, x + t, MIN(n - t, 16U), cols);
        return panels;
}

static void batch_init(struct batch *b, const struct cpu_variant *v, enum quant_type type, uint32_t n,
                       uint32_t cols, uint32_t outputs, float *values, bool panels) {
        size_t bytes = dot_input_bytes(dot_input(type), cols);

        *b = (struct batch){.n = n, .cols = cols, .outputs = outputs, .values = values};
        b->inputs = aligned_alloc(64, n * bytes);
        b->results = calloc(n * outputs, sizeof(float));
        assert_se(b->inputs && b->results);
        for (uint32_t t = 0; t < n; t++) {
                v->dot_input(dot_input(type), b->inputs + t * bytes, values + (size_t) t * cols, cols);
                b->x[t] = b->inputs + t * bytes;
                b->y[t] = b->results + (size_t) t * outputs;
        }
        if (panels)
                b->panels = pack(v, dot_input(type), b->x, n, cols);
}

static void batch_deinit(struct batch *b) {
        free(b->values);
        free(b->inputs);
        free(b->panels);
        free(b->results);
}

static struct dot_job batch_job(const struct batch *b, enum quant_type type, const void *weights) {
        return (struct dot_job){
                .w = weights,
                .row_bytes = quant_row_bytes(quant_info(type), b->cols),
                .cols = b->cols,
                .end = b->outputs,
                .n = b->n,
                .x = b->x,
                .panels = b->panels,
                .y = b->y,
        };
}

static double norm(const float *v, size_t n) {
        double sum = 0.0;

        for (size_t i = 0; i < n; i++)
                sum += (double) v[i] * v[i];
        return sqrt(sum);
}

static bool runs_here(const struct cpu_variant *v) {
        return (v->needs & machine_cpu_bits()) == v->needs;
}

/* All results against the definition, and each row against the same row alone. */
static void check_job(const struct cpu_variant *v, enum quant_type type, uint32_t n, uint32_t cols, uint32_t outputs,
                      bool panels) {
        struct sample s = {cols * 1000 + outputs};
        _cleanup_(freep) char *weights = sample_weights(&s, type, (size_t) outputs * cols);
        _cleanup_(freep) float *w = malloc(cols * sizeof(*w));
        _cleanup_(batch_deinit) struct batch b;
        struct dot_job job;

        batch_init(&b, v, type, n, cols, outputs, sample_floats(&s, (size_t) n * cols), panels);
        job = batch_job(&b, type, weights);
        cpu_variant_dot(v, type, &job);
        for (uint32_t t = 0; t < n; t++) {
                _cleanup_(freep) void *panel =
                        needs_panels(v, type) ? pack(v, dot_input(type), &b.x[t], 1, cols) : NULL;
                float alone[64], *y = alone;
                struct dot_job single = job;

                single.n = 1;
                single.x = &b.x[t];
                single.panels = panel;
                single.y = &y;
                cpu_variant_dot(v, type, &single);
                assert_se(memcmp(alone, b.y[t], outputs * sizeof(float)) == 0);
                for (uint32_t i = 0; i < outputs; i++) {
                        const char *row = weights + i * job.row_bytes;
                        double tolerance, expected = ref_dot(type, row, b.x[t], cols);

                        /* Whole numbers leave no room for another order. */
                        if (dot_input(type) != DOT_FLOAT && v->needs & (CPU_AVX2 | CPU_DOTPROD)) {
                                assert_se(b.y[t][i] == (float) expected);
                                continue;
                        }
                        quant_info(type)->dequantize(w, row, cols);
                        tolerance = 1e-5 * norm(w, cols) * norm(b.values + (size_t) t * cols, cols) + 1e-30;
                        assert_se(fabs(b.y[t][i] - expected) <= tolerance);
                }
        }
}

static void check_shape(const struct cpu_variant *v, enum quant_type type, uint32_t n, uint32_t cols,
                        uint32_t outputs) {
        if (!needs_panels(v, type))
                check_job(v, type, n, cols, outputs, false);
        if (takes_panels(v, type))
                check_job(v, type, n, cols, outputs, true);
}

TEST(every_variant_agrees_with_the_definition_and_a_row_with_itself_alone) {
        static const uint32_t outputs[] = {1, 7, 16, 18, 35};

        for (unsigned v = 0; v < n_cpu_variants; v++)
                for (const enum quant_type *type = sample_types; *type != _QUANT_MAX; type++) {
                        uint32_t block = MAX(quant_info(*type)->block_values, 8U);

                        if (!runs_here(cpu_variants[v]))
                                continue;
                        for (uint32_t n = 1; n <= 17; n++)
                                check_shape(cpu_variants[v], *type, n, block * (1 + n % 5), outputs[n % 5]);
                        check_shape(cpu_variants[v], *type, 33, block * 9, 5);
                        check_shape(cpu_variants[v], *type, 2, block * 3, 64);
                        check_shape(cpu_variants[v], *type, 18, block * 3, 51);
                        if (!cpu_variants[v]->dot[*type]) /* dequantised in tiles of columns */
                                check_shape(cpu_variants[v], *type, 3, 2048 + 256, 5);
                        if (block == 8) {
                                check_shape(cpu_variants[v], *type, 5, 1, 3);
                                check_shape(cpu_variants[v], *type, 6, 37, 5);
                        }
                }
}

static float to_bf16(float v) {
        uint32_t bits = float_bits(v);

        return float_from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
}

/* What a product of prompts may differ from that of these weights and these activations (as they are in the form). */
static double prompt_tolerance(enum dot_input form, const float *w, const float *x, uint32_t cols) {
        double tolerance = 1e-30;

        for (uint32_t i = 0; i < cols; i += 256) {
                uint32_t n = MIN(cols - i, 256U);
                double largest = 0.0, sum = 0.0, products = 0.0;

                for (uint32_t c = i; c < i + n; c++) {
                        largest = fmax(largest, fabs(w[c]));
                        sum += fabs(x[c]);
                        products += fabs((double) w[c] * x[c]);
                }
                /* A weight is off by little more than half of a 125th of its block's largest; or, if it is almost in
                 * the middle, it may be rounded to either side. */
                tolerance += form == DOT_Q8_256 ? largest / 125.0 * 0.6 * sum + 1e-6 * products : 4e-6 * products;
        }
        if (form == DOT_BF16)
                tolerance += 1e-4 * norm(w, cols) * norm(x, cols) / sqrt(cols);
        return tolerance;
}

/* The numbers that an activation row's form stands for. */
static void prompt_values(float *values, enum dot_input form, const void *row, uint32_t cols) {
        for (uint32_t c = 0; c < cols; c++)
                values[c] = form == DOT_Q8_256 ? ((const int8_t *) row)[c] * q8_256_scales(row, cols)[c / 256]
                                               : to_bf16(((const float *) row)[c]);
}

/* Rows of prompts, in their form. */
struct prompts {
        enum dot_input form;
        float *values;
        char *inputs;
        const void *x[300];
        void *panels;
};

static void prompts_init(struct prompts *p, struct sample *s, const struct cpu_variant *v, enum quant_type type,
                         uint32_t n, uint32_t cols) {
        enum dot_input form = v->prompt_form(type);
        size_t bytes = dot_input_bytes(form, cols);

        assert_se(n <= ELEMENTS(p->x));
        p->form = form;
        p->values = sample_floats(s, (size_t) n * cols);
        p->inputs = aligned_alloc(64, n * bytes);
        assert_se(p->inputs);
        for (uint32_t t = 0; t < n; t++) {
                p->x[t] = form == DOT_BF16 ? (const void *) (p->values + (size_t) t * cols) : p->inputs + t * bytes;
                if (form != DOT_BF16)
                        v->dot_input(form, p->inputs + t * bytes, p->values + (size_t) t * cols, cols);
        }
        p->panels = pack(v, form, p->x, n, cols);
}

static void prompts_deinit(struct prompts *p) {
        free(p->values);
        free(p->inputs);
        free(p->panels);
}

/* The products of rounded numbers, and each row's bits when it is alone. */
static void check_prompt(const struct cpu_variant *v, enum quant_type type, uint32_t n, uint32_t cols,
                         uint32_t outputs) {
        struct sample s = {cols * 1000 + outputs};
        size_t row_bytes = quant_row_bytes(quant_info(type), cols);
        _cleanup_(freep) char *weights = sample_weights(&s, type, (size_t) outputs * cols);
        _cleanup_(freep) float *w = malloc(cols * sizeof(*w)), *values = malloc(cols * sizeof(*values)),
                               *results = calloc((size_t) n * outputs, sizeof(*results));
        _cleanup_(prompts_deinit) struct prompts p = {0};
        float *y[ELEMENTS(p.x)];
        struct dot_job job = {
                .w = (const uint8_t *) weights, .row_bytes = row_bytes, .cols = cols, .end = outputs, .n = n, .y = y,
        };
        double error = 0.0, all = 0.0;

        assert_se(w && values && results);
        prompts_init(&p, &s, v, type, n, cols);
        for (uint32_t t = 0; t < n; t++)
                y[t] = results + (size_t) t * outputs;
        job.panels = p.panels;
        v->dot_prompt(&job, type);
        for (uint32_t t = 0; t < n; t += 1 + n / 20) {
                _cleanup_(freep) void *panel = pack(v, p.form, &p.x[t], 1, cols);
                float alone[128], *only = alone;
                struct dot_job single = job;

                single.n = 1;
                single.panels = panel;
                single.y = &only;
                v->dot_prompt(&single, type);
                assert_se(memcmp(alone, y[t], outputs * sizeof(float)) == 0);
        }
        for (uint32_t i = 0; i < outputs; i++) {
                quant_info(type)->dequantize(w, weights + i * row_bytes, cols);
                for (uint32_t c = 0; p.form == DOT_BF16 && c < cols; c++)
                        w[c] = to_bf16(w[c]);
                for (uint32_t t = 0; t < n; t += 1 + n / 20) {
                        double expected = 0.0;

                        prompt_values(values, p.form, p.x[t], cols);
                        for (uint32_t c = 0; c < cols; c++)
                                expected += (double) w[c] * values[c];
                        assert_se(fabs(y[t][i] - expected) <= prompt_tolerance(p.form, w, values, cols));
                        error += (y[t][i] - expected) * (y[t][i] - expected);
                        all += (double) norm(w, cols) * norm(w, cols) * norm(values, cols) * norm(values, cols) / cols;
                }
        }
        /* Of roundings in both directions little is left. */
        assert_se(error <= 2e-4 * all);
}

TEST(prompts_are_products_of_rounded_numbers_and_a_row_is_the_same_alone) {
        for (unsigned v = 0; v < n_cpu_variants; v++)
                for (const enum quant_type *type = sample_types; *type != _QUANT_MAX; type++) {
                        uint32_t block = MAX(quant_info(*type)->block_values, 32U);

                        if (!runs_here(cpu_variants[v]) || !cpu_variants[v]->prompt_form ||
                            cpu_variants[v]->prompt_form(*type) == DOT_FLOAT)
                                continue;
                        for (uint32_t n = 1; n <= 65; n += n < 4 ? 1 : 15)
                                check_prompt(cpu_variants[v], *type, n, block * (1 + n % 11), 1 + n * 7 % 70);
                        check_prompt(cpu_variants[v], *type, 300, block * 9, 100);
                        check_prompt(cpu_variants[v], *type, 40, 2048 + block, 51);
                        check_prompt(cpu_variants[v], *type, 81, 256 + block, 70);
                        check_prompt(cpu_variants[v], *type, 3, 4096 + block, 97);
                }
}

/* Blocks of powers of two that are at most eight apart, times rows that pick one weight each. */
TEST(weights_of_mxfp4_are_exact_in_prompts) {
        enum { COLS = 256, OUTPUTS = 40 };
        static float x[COLS][COLS], w[COLS];
        static struct block_mxfp4 weights[OUTPUTS][COLS / 32];
        struct sample s = {5};

        for (size_t i = 0; i < sizeof(weights); i++)
                ((uint8_t *) weights)[i] = (uint8_t) sample_u32(&s);
        for (int i = 0; i < OUTPUTS; i++)
                for (int b = 0; b < COLS / 32; b++)
                        weights[i][b].e = (uint8_t) (100 + i + weights[i][b].e % 4);
        for (int t = 0; t < COLS; t++)
                x[t][t] = 127.0f;
        for (unsigned v = 0; v < n_cpu_variants; v++) {
                float results[OUTPUTS], *y = results;
                struct dot_job job = {
                        .w = (const uint8_t *) weights, .row_bytes = sizeof(weights[0]), .cols = COLS, .end = OUTPUTS,
                        .n = 1, .y = &y,
                };

                if (!runs_here(cpu_variants[v]) || !cpu_variants[v]->prompt_form)
                        continue;
                for (int t = 0; t < COLS; t++) {
                        _Alignas(64) char input[2 * COLS];
                        enum dot_input form = cpu_variants[v]->prompt_form(QUANT_MXFP4);
                        const void *row = input;
                        _cleanup_(freep) void *panel = NULL;

                        cpu_variants[v]->dot_input(form, input, x[t], COLS);
                        job.panels = panel = pack(cpu_variants[v], form, &row, 1, COLS);
                        cpu_variants[v]->dot_prompt(&job, QUANT_MXFP4);
                        for (int i = 0; i < OUTPUTS; i++) {
                                quant_info(QUANT_MXFP4)->dequantize(w, weights[i], COLS);
                                assert_se(fabsf(results[i] - 127.0f * w[t]) <= 1e-6f * fabsf(127.0f * w[t]));
                        }
                }
        }
}

TEST(bias_and_accumulation_come_after_the_product) {
        for (unsigned v = 0; v < n_cpu_variants; v++) {
                struct sample s = {7};
                _cleanup_(freep) void *weights = sample_weights(&s, QUANT_F32, 5 * 16);
                _cleanup_(freep) float *bias = sample_floats(&s, 5);
                _cleanup_(batch_deinit) struct batch b = {0};
                struct dot_job job;
                float plain[2][5];

                if (!runs_here(cpu_variants[v]))
                        continue;
                batch_init(&b, cpu_variants[v], QUANT_F32, 2, 16, 5, sample_floats(&s, 2 * 16), false);
                job = batch_job(&b, QUANT_F32, weights);
                cpu_variants[v]->dot[QUANT_F32](&job);
                memcpy(plain, b.results, sizeof(plain));
                job.bias = bias;
                job.accumulate = true;
                job.begin = 1;
                job.end = 4;
                cpu_variants[v]->dot[QUANT_F32](&job);
                for (unsigned t = 0; t < 2; t++)
                        for (unsigned i = 0; i < 5; i++)
                                assert_se(b.y[t][i] == (i >= 1 && i < 4
                                                                ? plain[t][i] + (plain[t][i] + bias[i])
                                                                : plain[t][i]));
        }
}

static void check_input(const struct cpu_variant *v, enum dot_input form, const float *x, uint32_t cols) {
        size_t bytes = dot_input_bytes(form, cols);
        _cleanup_(freep) char *a = aligned_alloc(64, bytes), *b = aligned_alloc(64, bytes);

        assert_se(a && b);
        memset(a, 0, bytes);
        memset(b, 0, bytes);
        ref_dot_input(form, a, x, cols);
        v->dot_input(form, b, x, cols);
        assert_se(memcmp(a, b, bytes) == 0);
}

TEST(activations_become_the_same_bytes_in_every_variant) {
        struct sample s = {3};
        _cleanup_(freep) float *x = sample_floats(&s, 1024);

        x[5] = NAN;
        x[300] = INFINITY;
        for (unsigned i = 512; i < 768; i++)
                x[i] *= 1e-38f;
        for (unsigned i = 768; i < 800; i++)
                x[i] = i == 770 ? -1e30f : 0.5e30f / 127.0f;
        for (unsigned v = 0; v < n_cpu_variants; v++)
                for (enum dot_input form = DOT_FLOAT; runs_here(cpu_variants[v]) && form < _DOT_INPUT_MAX;
                     form++) {
                        if (form == DOT_BF16) /* in panels only */
                                continue;
                        check_input(cpu_variants[v], form, x, 1024);
                        for (uint32_t cols = 32; form != DOT_FLOAT && cols <= 320; cols += 32)
                                check_input(cpu_variants[v], form, x + 1, cols);
                }
}

/* 1536 values, also at an odd address, and for plain types so few that they fill no vector. */
static void check_dequantize(const struct cpu_variant *v, enum quant_type type) {
        struct sample s = {type};
        const struct quant_info *info = quant_info(type);
        size_t bytes = quant_row_bytes(info, 1536), most = info->block_values == 1 ? 1531 : 1536;
        _cleanup_(freep) char *blocks = sample_weights(&s, type, 1536), *odd = malloc(bytes + 1);
        _cleanup_(freep) float *got = calloc(1537, sizeof(*got)), *expected = calloc(1537, sizeof(*expected));

        assert_se(odd && got && expected);
        memcpy(odd + 1, blocks, bytes);
        info->dequantize(expected, blocks, most);
        cpu_variant_dequantize(v, type)(got, odd + 1, most);
        assert_se(memcmp(got, expected, 1537 * sizeof(*got)) == 0);
}

/* Every number of half precision; what is not one stays none. */
static void check_halves(const struct cpu_variant *v) {
        _cleanup_(freep) uint16_t *halves = malloc(65536 * sizeof(*halves)), *back = malloc(65536 * sizeof(*back));
        _cleanup_(freep) float *values = malloc(65536 * sizeof(*values));

        assert_se(halves && back && values);
        for (unsigned i = 0; i < 65536; i++)
                halves[i] = (uint16_t) i;
        cpu_variant_dequantize(v, QUANT_F16)(values, halves, 65536);
        v->to_f16(back, values, 65536);
        for (unsigned i = 0; i < 65536; i++) {
                float expected = f16_to_f32(halves[i]);

                assert_se(isnan(expected) ? isnan(values[i]) : float_bits(values[i]) == float_bits(expected));
                assert_se(isnan(expected) ? back[i] == (halves[i] | 0x200) : back[i] == halves[i]);
        }
}

TEST(values_are_the_same_bits_in_every_variant) {
        for (unsigned v = 0; v < n_cpu_variants; v++) {
                for (const enum quant_type *type = sample_types; *type != _QUANT_MAX; type++)
                        if (runs_here(cpu_variants[v]))
                                check_dequantize(cpu_variants[v], *type);
                if (runs_here(cpu_variants[v]))
                        check_halves(cpu_variants[v]);
        }
}

/* Between two halves, at ties, below and above all of them; any bits. */
TEST(halves_are_rounded_alike_in_every_variant) {
        enum { N = 30001 };
        _cleanup_(freep) float *values = malloc(N * sizeof(*values));
        _cleanup_(freep) uint16_t *got = calloc(N + 1, sizeof(*got)), *expected = calloc(N + 1, sizeof(*expected));
        struct sample s = {11};

        assert_se(values && got && expected);
        for (unsigned i = 0; i < N; i++)
                values[i] = i % 3 == 0   ? float_from_bits(sample_u32(&s))
                            : i % 3 == 1 ? f16_to_f32((uint16_t) (sample_u32(&s) % 0x7bff)) * (1.0f + 0x1p-11f)
                                         : sample_float(&s) * 0x1p-13f;
        ref_to_f16(expected, values, N);
        for (unsigned v = 0; v < n_cpu_variants; v++) {
                if (!runs_here(cpu_variants[v]))
                        continue;
                cpu_variants[v]->to_f16(got, values, N);
                assert_se(memcmp(got, expected, (N + 1) * sizeof(*got)) == 0);
        }
}

#if defined(__aarch64__)
TEST(a_processor_gets_the_best_variant_that_it_has_instructions_for) {
        static const struct {
                const char *cpu, *variant;
        } cases[] = {{"cortex-a53", "c"}, {"cortex-a76", "neon"}, {"max", "i8mm"}};
        const char *cpu = getenv("QEMU_CPU");

        for (unsigned i = 0; cpu && i < ELEMENTS(cases); i++)
                if (strcmp(cpu, cases[i].cpu) == 0) {
                        assert_se(strcmp(cpu_variant_choose(NULL, machine_cpu_bits())->name, cases[i].variant) == 0);
                        return;
                }
        test_skip("not one of qemu's processors");
}
#endif

/* The dot fixtures: 8 activation rows, 24 weight rows of 512; float64 results. */
static bool check_fixture(const struct cpu_variant *v, enum quant_type type, const char *folder) {
        double limit = dot_input(type) == DOT_FLOAT ? 1e-5 : 1e-2;
        _cleanup_(freep) char *weights = NULL;
        _cleanup_(freep) float *expected = NULL, *w = malloc(512 * sizeof(*w));
        _cleanup_(batch_deinit) struct batch b = {0};
        size_t bytes, expected_bytes, x_bytes;
        struct dot_job job;
        float *x;

        weights = fixture_read(folder, quant_info(type)->name, ".bin", &bytes);
        expected = fixture_read(folder, quant_info(type)->name, ".f32", &expected_bytes);
        if (!weights || !expected)
                return false;
        x = fixture_read(folder, "activations", ".f32", &x_bytes);
        assert_se(x && x_bytes == 8 * 512 * sizeof(float) && expected_bytes == 8 * 24 * sizeof(float));
        batch_init(&b, v, type, 8, 512, 24, x, needs_panels(v, type));
        job = batch_job(&b, type, weights);
        assert_se(bytes == 24 * job.row_bytes);
        cpu_variant_dot(v, type, &job);
        for (unsigned t = 0; t < 8; t++)
                for (unsigned i = 0; i < 24; i++) {
                        quant_info(type)->dequantize(w, weights + i * job.row_bytes, 512);
                        assert_se(fabs((double) b.y[t][i] - expected[t * 24 + i]) <=
                                  limit * norm(w, 512) * norm(x + t * 512, 512));
                }
        return true;
}

TEST(dot_products_meet_the_reference_fixtures) {
        char blocks[PATH_MAX], folder[PATH_MAX + 8];
        unsigned found = 0;

        fixture_blocks(blocks);
        snprintf(folder, sizeof(folder), "%s/dot", blocks);
        for (unsigned v = 0; v < n_cpu_variants; v++)
                for (const enum quant_type *type = sample_types; *type != _QUANT_MAX; type++)
                        if (runs_here(cpu_variants[v]))
                                found += check_fixture(cpu_variants[v], *type, folder);
        if (found == 0)
                test_skip("no dot fixtures");
}
