/* SPDX-License-Identifier: MIT */
#include "trial.h"

#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "machine.h"
#include "test.h"
#include "variant.h"

struct device_ptr trial_floats(struct device *d, struct sample *s, size_t n) {
        return device_take(d, sample_floats(s, n), n * sizeof(float));
}

struct device_ptr trial_row(struct device_ptr p, uint32_t row, size_t width) {
        return device_offset(p, row * width * sizeof(float));
}

struct weight trial_weight(struct device *d, struct sample *s, enum quant_type type, uint32_t stack,
                           uint32_t rows, uint32_t cols) {
        size_t values = (size_t) stack * rows * cols;

        return (struct weight){
                .data = device_take(d, sample_weights(s, type, values),
                                    quant_row_bytes(quant_info(type), values)),
                .type = type,
                .rows = rows,
                .cols = cols,
                .stack = stack,
        };
}

float *trial_result(struct device *d, struct device_ptr p, size_t rows, size_t width, size_t *ret_width) {
        float *values = malloc(rows * width * sizeof(*values));

        assert_se(values);
        device_get(d, values, p, rows * width * sizeof(*values));
        *ret_width = width;
        return values;
}

void trial_rows(struct device *d, const struct trial *t, struct op_rows *rows) {
        int32_t *positions = malloc(t->n * sizeof(*positions)),
                *sequences = malloc(t->n * sizeof(*sequences));
        int32_t pages[3][TRIAL_STRIDE];
        uint32_t prompt = (t->n + 2) / 3;

        assert_se(positions && sequences);
        for (uint32_t i = 0; i < t->n; i++) {
                uint32_t late = i - prompt, half = (t->n - prompt + 1) / 2;

                sequences[i] = i < prompt ? 1 : late < half ? 0 : 2;
                positions[i] = (int32_t) (i < prompt    ? 27 + i
                                          : late < half ? 190 + late
                                                        : 64 + (late - half));
        }
        for (int i = 0; i < 3 * TRIAL_STRIDE; i++)
                pages[i / TRIAL_STRIDE][i % TRIAL_STRIDE] = i * 7 % TRIAL_PAGES;
        *rows = (struct op_rows){
                .n = t->n,
                .positions = device_take(d, positions, t->n * sizeof(*positions)),
                .sequences = device_take(d, sequences, t->n * sizeof(*sequences)),
                .page_table = device_put(d, pages, sizeof(pages)),
                .page_table_stride = TRIAL_STRIDE,
                .position_max = TRIAL_STRIDE * KV_PAGE_TOKENS - 1,
        };
}

struct device_ptr trial_prompts(struct device *d, const struct trial *t) {
        int32_t *prompt = malloc(t->n * sizeof(*prompt));

        assert_se(prompt);
        for (uint32_t i = 0; i < t->n; i++)
                prompt[i] = i % 3 != 1;
        return trial_row(device_take(d, prompt, t->n * sizeof(*prompt)), t->from, 1);
}

/* Of many rows some eight. */
static void check_rows_alone(struct device *d, trial_fn *fn, const struct trial *trial, const float *together,
                             size_t width) {
        for (uint32_t i = 0; i < trial->n; i += 1 + trial->n / 8) {
                struct trial alone = *trial;
                _cleanup_(freep) float *row = NULL;

                alone.from = i;
                alone.count = 1;
                row = fn(d, &alone, &width);
                device_clear(d);
                assert_se(memcmp(row, together + i * width, width * sizeof(*row)) == 0);
        }
}

static void device_pair_init(struct device devices[2], const char *isa, unsigned threads) {
        struct backend *b = sample_backend(isa, threads);

        devices[0] = devices[1] = (struct device){0};
        if (b) {
                device_init(&devices[0], b);
                device_init(&devices[1], sample_backend_ref());
        }
}

void trial_check_variant(const struct cpu_variant *v, trial_fn *fn, struct trial trial, double tolerance) {
        _cleanup_(freep) float *one_thread = NULL;
        size_t width;

        /* Numbers have 16 bits where two of bfloat16 stand for one (panel.h). */
        if (dot_input(trial.type) == DOT_FLOAT && v->panel_rows && v->panel_rows(trial.type) > 0)
                tolerance *= 10.0;
        trial.count = trial.n;
        for (unsigned threads = 1; threads <= 4; threads++) {
                struct device devices[2];
                _cleanup_(freep) float *got = NULL, *expected = NULL;

                device_pair_init(devices, v->name, threads);
                if (!devices[0].backend)
                        return;
                got = fn(&devices[0], &trial, &width);
                device_clear(&devices[0]);
                if (threads == 1) {
                        expected = fn(&devices[1], &trial, &width);
                        assert_se(sample_difference(got, expected, trial.n * width) <= tolerance);
                        one_thread = steal_ptr(got);
                } else {
                        assert_se(memcmp(got, one_thread, trial.n * width * sizeof(*got)) == 0);
                }
                if (threads == 1)
                        check_rows_alone(&devices[0], fn, &trial, one_thread, width);
                device_deinit(&devices[0]);
                device_deinit(&devices[1]);
        }
}

void trial_check_attention(trial_fn *fn, struct trial trial) {
        for (unsigned v = 0; v < n_cpu_variants; v++)
                trial_check_variant(cpu_variants[v], fn, trial,
                                    cpu_variants[v]->kv_bf16 && trial.type == QUANT_BF16 ? 2e-2 : 2e-5);
}

enum quant_type trial_kv_type(uint32_t i) {
        static const enum quant_type types[] = {QUANT_F32, QUANT_BF16, QUANT_F16, QUANT_BF16, QUANT_BF16};

        return types[i % ELEMENTS(types)];
}

void trial_check(trial_fn *fn, struct trial trial, double tolerance) {
        for (unsigned v = 0; v < n_cpu_variants; v++)
                trial_check_variant(cpu_variants[v], fn, trial, tolerance);
}
