/* SPDX-License-Identifier: MIT */
/* Every operation through backend.h: each variant of the cpu backend against the ref backend, and against
 * itself with other thread counts and with each row alone. */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "device.h"
#include "machine.h"
#include "sample.h"
#include "test.h"
#include "trial.h"
#include "variant.h"

static float *try_rms_norm(struct device *d, const struct trial *t, size_t *ret_width) {
        struct sample s = {t->dim};
        uint32_t stride = t->dim + t->option;
        struct op_rms_norm op = {
                .n = t->count,
                .dim = t->dim,
                .x = trial_row(trial_floats(d, &s, (size_t) t->n * stride), t->from, stride),
                .w = t->option ? trial_floats(d, &s, t->dim) : DEVICE_NULL,
                .x_stride = stride,
                .y_stride = stride,
                .eps = 1e-6f,
        };

        op.y = t->option ? op.x : device_put(d, NULL, (size_t) t->n * stride * sizeof(float));
        assert_se(d->ops->rms_norm(d->stream, &op) == 0);
        return trial_result(d, op.y, t->count, stride, ret_width);
}

/* option: bit 0 adds up, 1 prompts */
static float *try_matmul(struct device *d, const struct trial *t, size_t *ret_width) {
        static const uint32_t rows[] = {5, 64, 19};
        enum quant_type types[] = {t->type, t->type, QUANT_F32};
        struct sample s = {t->dim + t->type};
        struct op_matmul op = {.n = t->count, .x_stride = t->dim + 3, .count = 3, .accumulate = t->option & 1};
        uint32_t width = 5 + 64 + 19 + 2;
        struct device_ptr y;

        op.x = trial_row(trial_floats(d, &s, (size_t) t->n * op.x_stride), t->from, op.x_stride);
        y = trial_row(trial_floats(d, &s, (size_t) t->n * width), t->from, width);
        if (t->option & 2)
                op.prompt = trial_prompts(d, t);
        for (unsigned i = 0, at = 0; i < 3; at += rows[i++])
                op.out[i] = (struct op_matmul_out){
                        .w = trial_weight(d, &s, types[i], 1, rows[i], t->dim),
                        .bias = i == 1 ? trial_floats(d, &s, rows[i]) : DEVICE_NULL,
                        .y = device_offset(y, at * sizeof(float)),
                        .y_stride = width,
                };
        assert_se(d->ops->matmul(d->stream, &op) == 0);
        return trial_result(d, y, t->count, width, ret_width);
}

static float *try_rope(struct device *d, const struct trial *t, size_t *ret_width) {
        struct sample s = {t->dim};
        uint32_t head_dim = t->dim + 4, width = t->heads * head_dim + 5;
        float *frequencies = sample_floats(&s, t->dim / 2);
        int32_t *positions = malloc(t->n * sizeof(*positions));
        struct op_rope op = {
                .n = t->count,
                .heads = t->heads,
                .head_dim = head_dim,
                .dims = t->dim,
                .offset = 3,
                .stride = width,
                .pairs = t->option & 1 ? ROPE_HALVES : ROPE_ADJACENT,
                .magnitude = 1.25f,
                .inverse = t->option & 2,
                .multiple = t->option & 4 ? 16 : 0,
                .x = trial_row(trial_floats(d, &s, (size_t) t->n * width), t->from, width),
        };

        assert_se(positions);
        for (uint32_t i = 0; i < t->n; i++)
                positions[i] = (int32_t) (i * 97);
        op.frequencies = device_take(d, frequencies, t->dim / 2 * sizeof(float));
        op.positions = trial_row(device_take(d, positions, t->n * sizeof(*positions)), t->from, 1);
        assert_se(d->ops->rope(d->stream, &op) == 0);
        return trial_result(d, op.x, t->count, width, ret_width);
}

static const enum act_kind acts[] = {ACT_SWIGLU, ACT_GEGLU, ACT_SWIGLU_OAI};

static float *try_glu(struct device *d, const struct trial *t, size_t *ret_width) {
        struct sample s = {t->dim};
        float *gate = sample_floats(&s, (size_t) t->n * t->dim);
        struct op_glu op = {.n = t->count, .dim = t->dim, .act = acts[t->option % 3]};
        float *up = sample_floats(&s, (size_t) t->n * t->dim);

        op.limit = t->option < 3 ? 0.0f : 1.5f;

        for (size_t i = 0; i < (size_t) t->n * t->dim; i++) {
                gate[i] *= i % 7 == 0 ? 200.0f : 8.0f;
                up[i] *= 3.0f;
        }
        op.gate = trial_row(device_take(d, gate, (size_t) t->n * t->dim * sizeof(float)), t->from, t->dim);
        op.up = trial_row(device_take(d, up, (size_t) t->n * t->dim * sizeof(float)), t->from, t->dim);
        op.y = op.gate;
        assert_se(d->ops->glu(d->stream, &op) == 0);
        return trial_result(d, op.y, t->count, t->dim, ret_width);
}

static float *try_add(struct device *d, const struct trial *t, size_t *ret_width) {
        struct sample s = {t->dim};
        struct op_add op = {
                .n = (uint64_t) t->count * t->dim,
                .x = trial_row(trial_floats(d, &s, (size_t) t->n * t->dim), t->from, t->dim),
                .y = trial_row(trial_floats(d, &s, (size_t) t->n * t->dim), t->from, t->dim),
                .scale = 0.3f,
        };

        assert_se(d->ops->add(d->stream, &op) == 0);
        return trial_result(d, op.y, t->count, t->dim, ret_width);
}

/* Ids may point outside the table. */
static float *try_embed(struct device *d, const struct trial *t, size_t *ret_width) {
        struct sample s = {t->dim};
        int32_t *ids = malloc(t->n * sizeof(*ids));
        struct op_embed op = {.n = t->count,
                              .table = trial_weight(d, &s, t->type, 1, 6, t->dim),
                              .scale = t->option ? 3.0f : 1.0f};

        assert_se(ids);
        for (uint32_t i = 0; i < t->n; i++)
                ids[i] = (int32_t) (sample_u32(&s) % 8) - 1;
        op.ids = trial_row(device_take(d, ids, t->n * sizeof(*ids)), t->from, 1);
        op.y = device_put(d, NULL, (size_t) t->n * t->dim * sizeof(float));
        assert_se(d->ops->embed(d->stream, &op) == 0);
        return trial_result(d, op.y, t->count, t->dim, ret_width);
}

static float *try_gather(struct device *d, const struct trial *t, size_t *ret_width) {
        struct sample s = {t->dim};
        int32_t *index = malloc(t->n * sizeof(*index));
        struct op_gather op = {.n = t->count, .dim = t->dim, .x = trial_floats(d, &s, (size_t) 9 * t->dim)};

        assert_se(index);
        for (uint32_t i = 0; i < t->n; i++)
                index[i] = (int32_t) (sample_u32(&s) % 9);
        op.index = trial_row(device_take(d, index, t->n * sizeof(*index)), t->from, 1);
        op.y = device_put(d, NULL, (size_t) t->n * t->dim * sizeof(float));
        assert_se(d->ops->gather(d->stream, &op) == 0);
        return trial_result(d, op.y, t->count, t->dim, ret_width);
}

enum { MOE_EXPERTS = 7, MOE_K = 4 };

/* Some entries count not at all: beyond the row's count, or an expert that does not exist. */
static void moe_choice(struct device *d, struct sample *s, const struct trial *t, struct op_moe *op) {
        int32_t *ids = malloc(t->n * MOE_K * sizeof(*ids)), *counts = malloc(t->n * sizeof(*counts));

        assert_se(ids && counts);
        for (uint32_t i = 0; i < t->n * MOE_K; i++)
                ids[i] = (int32_t) (sample_u32(s) % (MOE_EXPERTS + 2)) - 1;
        for (uint32_t i = 0; i < t->n; i++)
                counts[i] = (int32_t) (sample_u32(s) % (MOE_K + 1));
        op->ids = trial_row(device_take(d, ids, t->n * MOE_K * sizeof(*ids)), t->from, MOE_K);
        op->counts = trial_row(device_take(d, counts, t->n * sizeof(*counts)), t->from, 1);
        op->weights = trial_row(trial_floats(d, s, (size_t) t->n * MOE_K), t->from, MOE_K);
}

/* option: bit 0 up is float32, 1 biases and limits, 2 prompts */
static float *try_moe(struct device *d, const struct trial *t, size_t *ret_width) {
        struct sample s = {t->dim + t->type};
        uint32_t hidden =
                t->dim * 3 / 2 / quant_info(t->type)->block_values * quant_info(t->type)->block_values;
        struct op_moe op = {
                .n = t->count,
                .k = MOE_K,
                .act = ACT_SWIGLU,
                .gate = trial_weight(d, &s, t->type, MOE_EXPERTS, hidden, t->dim),
                .up = trial_weight(d, &s, t->option & 1 ? QUANT_F32 : t->type, MOE_EXPERTS, hidden, t->dim),
                .down = trial_weight(d, &s, t->type, MOE_EXPERTS, t->dim, hidden),
        };

        op.x = trial_row(trial_floats(d, &s, (size_t) t->n * t->dim), t->from, t->dim);
        op.y = trial_row(trial_floats(d, &s, (size_t) t->n * t->dim), t->from, t->dim);
        if (t->option & 2) {
                op.act = ACT_SWIGLU_OAI;
                op.limit = 0.5f;
                op.gate_bias = trial_floats(d, &s, MOE_EXPERTS * hidden);
                op.up_bias = trial_floats(d, &s, MOE_EXPERTS * hidden);
                op.down_bias = trial_floats(d, &s, MOE_EXPERTS * t->dim);
        }
        if (t->option & 4)
                op.prompt = trial_prompts(d, t);
        moe_choice(d, &s, t, &op);
        assert_se(d->ops->moe(d->stream, &op) == 0);
        return trial_result(d, op.y, t->count, t->dim, ret_width);
}

/* option: bit 0 window, 1 sinks, 2 soft cap, 3 kv heads are fewer than heads */
static float *try_attention(struct device *d, const struct trial *t, size_t *ret_width) {
        struct sample s = {t->dim + t->heads};
        uint32_t kv_heads = t->option & 8 ? 1 : t->heads, v_dim = t->dim + 8;
        size_t slots = (size_t) TRIAL_PAGES * kv_heads * KV_PAGE_TOKENS;
        struct kv_layer kv = {.type = t->type, .kv_heads = kv_heads, .k_dim = t->dim, .v_dim = v_dim};
        struct op_kv_store store;
        struct op_attention op;

        kv.k = device_take(d, sample_weights(&s, t->type, slots * t->dim),
                           slots * t->dim * quant_info(t->type)->block_bytes);
        kv.v = device_take(d, sample_weights(&s, t->type, slots * v_dim),
                           slots * v_dim * quant_info(t->type)->block_bytes);
        store = (struct op_kv_store){
                .kv = kv,
                .k = trial_floats(d, &s, (size_t) t->n * kv_heads * t->dim),
                .v = trial_floats(d, &s, (size_t) t->n * kv_heads * v_dim),
        };
        trial_rows(d, t, &store.rows);
        assert_se(d->ops->kv_store(d->stream, &store) == 0);
        op = (struct op_attention){
                .rows = store.rows,
                .kv = kv,
                .heads = t->heads,
                .scale = 1.7f / sqrtf((float) t->dim),
                .softcap = t->option & 4 ? 1.5f : 0.0f,
                .window = t->option & 1 ? 40 : 0,
                .sinks = t->option & 2 ? trial_floats(d, &s, t->heads) : DEVICE_NULL,
                .q = trial_row(trial_floats(d, &s, (size_t) t->n * t->heads * t->dim), t->from, t->heads * t->dim),
                .out = device_put(d, NULL, (size_t) t->n * t->heads * v_dim * sizeof(float)),
        };
        op.rows.n = t->count;
        op.rows.positions = trial_row(op.rows.positions, t->from, 1);
        op.rows.sequences = trial_row(op.rows.sequences, t->from, 1);
        assert_se(d->ops->attention(d->stream, &op) == 0);
        return trial_result(d, op.out, t->count, t->heads * v_dim, ret_width);
}

TEST(rms_norm_agrees_over_odd_sizes) {
        for (uint32_t dim = 1; dim <= 200; dim += 13)
                for (uint32_t option = 0; option < 2; option++)
                        trial_check(try_rms_norm, (struct trial){.n = 1 + dim % 5, .dim = dim, .option = option},
                              1e-5);
        trial_check(try_rms_norm, (struct trial){.n = 40, .dim = 2048}, 1e-5);
}

/* Types without a kernel share one way: fewer shapes do for each. */
static bool is_generic(enum quant_type type) {
        return !cpu_variant_c.dot[type];
}

TEST(matmul_agrees_over_types_and_rows) {
        static const uint32_t rows[] = {1, 2, 3, 4, 5, 8, 17, 33, 70};

        for (const enum quant_type *type = sample_types; *type != _QUANT_MAX; type++)
                for (unsigned i = 0; i < ELEMENTS(rows); i += 1 + 2 * is_generic(*type))
                        trial_check(try_matmul,
                              (struct trial){.n = rows[i],
                                             .type = *type,
                                             .option = i % 2,
                                             .dim = MAX(quant_info(*type)->block_values, 32U) * (1 + i % 3)},
                              1e-5);
}

TEST(rope_agrees_in_both_pairings) {
        for (uint32_t option = 0; option < 8; option++) {
                for (uint32_t heads = 1; heads <= 5; heads++)
                        trial_check(try_rope,
                                    (struct trial){.n = 6, .dim = heads * 6, .heads = heads, .option = option},
                                    1e-6);
                trial_check(try_rope, (struct trial){.n = 40, .dim = 128, .heads = 3, .option = option}, 1e-6);
                trial_check(try_rope,
                            (struct trial){.n = 2, .dim = 2 * ROPE_PAIRS_MAX, .heads = 1, .option = option}, 1e-6);
        }
}

/* (1, 0) turns to the cosine and the sine, here of position × frequency rounded to float32. */
static void check_angles(struct device *d) {
        static const float frequencies[] = {1.0f,    0.8659643f, 0.5623413f, 0.1f, 0.0031622776f,
                                            1.1e-5f, 0.0f,       3.1415927f, 1.7f};
        enum { N = 4000, PAIRS = ELEMENTS(frequencies) };
        _cleanup_(freep) float *x = calloc((size_t) N * 2 * PAIRS, sizeof(*x));
        _cleanup_(freep) int32_t *positions = malloc(N * sizeof(*positions));
        struct op_rope op = {.n = N,
                             .heads = 1,
                             .head_dim = 2 * PAIRS,
                             .dims = 2 * PAIRS,
                             .stride = 2 * PAIRS,
                             .pairs = ROPE_HALVES,
                             .magnitude = 1.0f};

        assert_se(x && positions);
        for (int i = 0; i < N; i++) {
                /* Far ones too: 3.1 times 2^30 is more than any context. */
                positions[i] = i < 1000 ? i : i < 3900 ? i * 268 : (1 << 30) + i;
                for (size_t k = 0; k < PAIRS; k++)
                        x[(size_t) i * 2 * PAIRS + k] = 1.0f;
        }
        op.x = device_put(d, x, (size_t) N * 2 * PAIRS * sizeof(*x));
        op.positions = device_put(d, positions, N * sizeof(*positions));
        op.frequencies = device_put(d, frequencies, sizeof(frequencies));
        assert_se(d->ops->rope(d->stream, &op) == 0);
        device_get(d, x, op.x, (size_t) N * 2 * PAIRS * sizeof(*x));
        for (int i = 0; i < N; i++)
                for (size_t k = 0; k < PAIRS; k++) {
                        float angle = (float) positions[i] * frequencies[k], *row = x + (size_t) i * 2 * PAIRS + k;

                        assert_se(fabs(row[0] - cos((double) angle)) <= 3e-7);
                        assert_se(fabs(row[PAIRS] - sin((double) angle)) <= 3e-7);
                }
}

TEST(angles_are_exact_at_any_position) {
        for (unsigned v = 0; v < n_cpu_variants; v++) {
                struct backend *b = sample_backend(cpu_variants[v]->name, 2);
                struct device d;

                if (!b)
                        continue;
                device_init(&d, b);
                check_angles(&d);
                device_deinit(&d);
        }
}

TEST(glu_agrees_for_all_functions_and_limits) {
        for (uint32_t dim = 1; dim <= 100; dim += 11)
                for (uint32_t option = 0; option < 6; option++)
                        trial_check(try_glu, (struct trial){.n = 5, .dim = dim, .option = option}, 2e-6);
        trial_check(try_glu, (struct trial){.n = 30, .dim = 1000}, 2e-6);
}

TEST(add_embed_and_gather_agree) {
        for (uint32_t dim = 1; dim <= 100; dim += 9) {
                trial_check(try_add, (struct trial){.n = 5, .dim = dim}, 1e-6);
                trial_check(try_gather, (struct trial){.n = 5, .dim = dim}, 0.0);
        }
        trial_check(try_add, (struct trial){.n = 20, .dim = 3001}, 1e-6);
        trial_check(try_gather, (struct trial){.n = 100, .dim = 3001}, 0.0);
        for (const enum quant_type *type = sample_types; *type != _QUANT_MAX; type++)
                for (uint32_t option = 0; option < 2; option++)
                        trial_check(try_embed, (struct trial){.n = 40, .dim = 512, .type = *type, .option = option},
                              0.0);
}

TEST(moe_agrees_over_types_and_rows) {
        static const uint32_t rows[] = {1, 2, 5, 33};

        for (const enum quant_type *type = sample_types; *type != _QUANT_MAX; type++)
                for (unsigned i = 0; i < ELEMENTS(rows); i += 1 + is_generic(*type))
                        trial_check(try_moe,
                              (struct trial){.n = rows[i], .type = *type, .dim = 256, .option = i}, 3e-3);
}

/* What rounds prompts does so whatever other rows there are. (The tolerance is of the largest error; experts of random
 * numbers have results of very different sizes.) */
TEST(rows_of_prompts_agree_beside_others) {
        static const uint32_t rows[] = {1, 2, 7, 33, 100};

        for (unsigned v = 0; v < n_cpu_variants; v++)
                for (const enum quant_type *type = sample_types; *type != _QUANT_MAX; type++)
                        for (unsigned i = 0; i < ELEMENTS(rows); i += 1 + 3 * is_generic(*type)) {
                                bool rounds = cpu_variants[v]->prompt_form &&
                                              cpu_variants[v]->prompt_form(*type) != DOT_FLOAT;
                                struct trial trial = {.n = rows[i], .type = *type, .dim = 256};

                                trial.option = 2 + i % 2;
                                trial_check_variant(cpu_variants[v], try_matmul, trial, rounds ? 0.1 : 1e-5);
                                trial.option = 4 + i % 4;
                                trial_check_variant(cpu_variants[v], try_moe, trial, rounds ? 0.5 : 3e-3);
                        }
}

/* 128 MiB of scratch (moe.c) hold 51,150 rows of the first shape, 44,620 of the second. */
TEST(moe_agrees_where_a_call_is_cut_to_bound_scratch) {
        trial_check_variant(cpu_variants[0], try_moe, (struct trial){.n = 51200, .type = QUANT_F16, .dim = 16},
                            2e-5);
        trial_check_variant(cpu_variants[0], try_moe,
                            (struct trial){.n = 45002, .type = QUANT_BF16, .dim = 32, .option = 4}, 0.5);
}

/* Rows [from, from + n) of a matmul, and whether all give the bits that are expected of them. */
static void check_matmul_rows(struct device *d, const struct op_matmul *whole, uint32_t from, uint32_t n,
                              const float *expected) {
        uint32_t outputs = whole->out[0].w.rows;
        struct op_matmul op = *whole;
        _cleanup_(freep) float *got = malloc((size_t) n * outputs * sizeof(*got));

        assert_se(got);
        op.n = n;
        op.x = trial_row(whole->x, from, whole->x_stride);
        op.prompt = trial_row(whole->prompt, from, 1);
        op.out[0].y = trial_row(whole->out[0].y, from, outputs);
        assert_se(d->ops->matmul(d->stream, &op) == 0);
        device_get(d, got, op.out[0].y, (size_t) n * outputs * sizeof(*got));
        assert_se(memcmp(got, expected + (size_t) from * outputs, (size_t) n * outputs * sizeof(*got)) == 0);
}

/* 64 MiB of scratch (matmul.c) hold 3,276 rows of this shape. */
TEST(rows_of_a_matmul_that_is_cut_to_bound_scratch_are_those_of_small_ones) {
        enum { ROWS = 3500, COLS = 4096, OUTPUTS = 19, PART = 700 };
        static const enum quant_type types[] = {QUANT_Q4_K, QUANT_Q8_0, QUANT_F32};

        for (unsigned i = 0; i < ELEMENTS(types); i++) {
                struct sample s = {i};
                struct op_matmul op = {.n = ROWS, .x_stride = COLS, .count = 1};
                _cleanup_(freep) float *expected = malloc(ROWS * OUTPUTS * sizeof(*expected));
                struct device d = {0};

                assert_se(expected);
                device_init(&d, sample_backend(cpu_variant_choose(NULL, machine_cpu_bits())->name, 2));
                op.x = trial_floats(&d, &s, (size_t) ROWS * COLS);
                op.prompt = trial_prompts(&d, &(struct trial) {.n = ROWS});
                op.out[0] = (struct op_matmul_out) {
                        .w = trial_weight(&d, &s, types[i], 1, OUTPUTS, COLS),
                        .y = device_put(&d, NULL, ROWS * OUTPUTS * sizeof(float)),
                        .y_stride = OUTPUTS,
                };
                assert_se(d.ops->matmul(d.stream, &op) == 0);
                device_get(&d, expected, op.out[0].y, ROWS * OUTPUTS * sizeof(float));
                for (uint32_t from = 0; from < ROWS; from += PART)
                        check_matmul_rows(&d, &op, from, PART, expected);
                device_clear(&d);
                device_deinit(&d);
        }
}

TEST(attention_agrees_with_windows_sinks_caps_and_shared_heads) {
        for (uint32_t option = 0; option < 16; option++)
                for (uint32_t heads = 1; heads <= 5; heads += 2)
                        trial_check_attention(try_attention,
                                              (struct trial){.n = 1 + option * 3 % 40,
                                                             .dim = 8 * heads + option,
                                                             .heads = heads,
                                                             .type = trial_kv_type(option + heads),
                                                             .option = option});
        trial_check_attention(try_attention,
                              (struct trial){.n = 50, .dim = 128, .heads = 4, .type = QUANT_BF16, .option = 8});
}
