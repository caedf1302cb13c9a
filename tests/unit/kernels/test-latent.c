/* SPDX-License-Identifier: MIT */
/* What the DeepSeek line needs beside the ordinary: products per head, keys that hold their values, chosen
 * and compressed keys, hyper-connections. */
#include <math.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "host.h"
#include "test.h"
#include "trial.h"
#include "variant.h"

/* option: bit 0 transposed, 1 slices of a larger matrix, 2 prompts */
static float *try_head_matmul(struct device *d, const struct trial *t, size_t *ret_width) {
        struct sample s = {t->dim + t->heads + t->type};
        uint32_t rows = 7 + t->n % 40, spare = t->option & 2 ? 3 : 0, in = t->option & 1 ? rows : t->dim,
                 out = t->option & 1 ? t->dim : rows, width = t->heads * (out + 1);
        struct weight w = trial_weight(d, &s, t->type, t->heads, rows + spare, t->dim);
        struct op_head_matmul op = {
                .n = t->count,
                .w = w,
                .head_rows = rows + spare,
                .transposed = t->option & 1,
                .prompt = t->option & 4 ? trial_prompts(d, t) : DEVICE_NULL,
                .x = trial_row(trial_floats(d, &s, (size_t) t->n * t->heads * (in + 2)), t->from,
                               t->heads * (in + 2)),
                .x_stride = t->heads * (in + 2),
                .x_head_stride = in + 2,
                .y = device_put(d, NULL, (size_t) t->n * width * sizeof(float)),
                .y_stride = width,
                .y_head_stride = out + 1,
        };

        op.w.rows = rows;
        op.w.data = device_offset(w.data, (spare ? 2 : 0) * quant_row_bytes(quant_info(t->type), t->dim));
        assert_se(d->ops->head_matmul(d->stream, &op) == 0);
        return trial_result(d, op.y, t->count, width, ret_width);
}

TEST(head_products_agree_plain_transposed_and_in_slices) {
        static const uint32_t rows[] = {1, 3, 17, 40};

        for (const enum quant_type *type = sample_types; *type != _QUANT_MAX; type++)
                for (uint32_t i = 0; i < 8; i++)
                        trial_check(try_head_matmul,
                                    (struct trial){.n = rows[i / 2],
                                                   .type = *type,
                                                   .heads = 1 + 2 * (i % 3),
                                                   .option = i % 4,
                                                   .dim = 256 * (1 + i % 2)},
                                    3e-3);
        for (uint32_t option = 0; option < 4; option++)
                trial_check(try_head_matmul,
                            (struct trial){
                                    .n = 9, .type = QUANT_Q8_0, .heads = 4, .option = option, .dim = 1280},
                            3e-3);
        for (uint32_t dim = 1; dim < 200; dim += 13)
                for (uint32_t option = 0; option < 4; option++)
                        trial_check(try_head_matmul,
                                    (struct trial){.n = 1 + dim % 9,
                                                   .type = dim % 3 == 0   ? QUANT_F32
                                                           : dim % 3 == 1 ? QUANT_F16
                                                                          : QUANT_BF16,
                                                   .heads = 3,
                                                   .option = option,
                                                   .dim = dim},
                                    1e-5);
}

TEST(head_products_of_prompts_agree_beside_others) {
        static const uint32_t rows[] = {1, 6, 50, 600};

        for (unsigned v = 0; v < n_cpu_variants; v++)
                for (const enum quant_type *type = sample_types; *type != _QUANT_MAX; type++)
                        for (unsigned i = 0; i < ELEMENTS(rows); i++) {
                                bool rounds = cpu_variants[v]->prompt_form &&
                                              cpu_variants[v]->prompt_form(*type) != DOT_FLOAT;
                                struct trial trial = {
                                        .n = rows[i], .type = *type, .heads = 1 + i % 3, .option = 4 + 2 * (i % 2),
                                        .dim = (i % 2 ? 1 : 5) * MAX(quant_info(*type)->block_values, 5U),
                                };

                                trial_check_variant(cpu_variants[v], try_head_matmul, trial, rounds ? 0.1 : 3e-3);
                        }
}

static float *try_copy(struct device *d, const struct trial *t, size_t *ret_width) {
        struct sample s = {t->dim};
        struct op_copy op = {
                .n = t->count,
                .dim = t->dim,
                .x = trial_row(trial_floats(d, &s, (size_t) t->n * (t->dim + 3)), t->from, t->dim + 3),
                .x_stride = t->dim + 3,
                .y = device_put(d, NULL, (size_t) t->n * (t->dim + 2) * sizeof(float)),
                .y_stride = t->dim + 2,
        };

        assert_se(d->ops->copy(d->stream, &op) == 0);
        return trial_result(d, op.y, t->count, t->dim + 2, ret_width);
}

static float *try_layer_norm(struct device *d, const struct trial *t, size_t *ret_width) {
        struct sample s = {t->dim};
        struct op_layer_norm op = {
                .n = t->count,
                .dim = t->dim,
                .x = trial_row(trial_floats(d, &s, (size_t) t->n * t->dim), t->from, t->dim),
                .w = trial_floats(d, &s, t->dim),
                .b = trial_floats(d, &s, t->dim),
                .eps = 1e-6f,
        };

        op.y = op.x;
        assert_se(d->ops->layer_norm(d->stream, &op) == 0);
        return trial_result(d, op.y, t->count, t->dim, ret_width);
}

TEST(copies_and_layer_norms_agree_over_odd_sizes) {
        for (uint32_t dim = 1; dim <= 150; dim += 11) {
                trial_check(try_copy, (struct trial){.n = 1 + dim % 7, .dim = dim}, 0.0);
                trial_check(try_layer_norm, (struct trial){.n = 1 + dim % 7, .dim = dim}, 1e-5);
        }
}

TEST(a_layer_norm_has_mean_zero_and_variance_one) {
        float x[] = {1.0f, 2.0f, 3.0f, 6.0f}, w[] = {1.0f, 1.0f, 1.0f, 2.0f}, b[] = {0.0f, 0.0f, 0.5f, 0.0f};
        struct device d;
        struct op_layer_norm op = {.n = 1, .dim = 4};

        device_init(&d, sample_backend_ref());
        op.x = op.y = device_put(&d, x, sizeof(x));
        op.w = device_put(&d, w, sizeof(w));
        op.b = device_put(&d, b, sizeof(b));
        assert_se(d.ops->layer_norm(d.stream, &op) == 0);
        device_get(&d, x, op.y, sizeof(x));
        /* mean 3, variance 3.5 */
        assert_se(fabsf(x[0] + 2.0f / sqrtf(3.5f)) < 1e-6f && fabsf(x[2] - 0.5f) < 1e-6f);
        assert_se(fabsf(x[3] - 6.0f / sqrtf(3.5f)) < 1e-6f);
        device_deinit(&d);
}

static struct kv_layer plane(struct device *d, struct sample *s, enum quant_type type, uint32_t k_dim,
                             uint32_t v_dim, uint32_t ratio) {
        size_t values = (size_t) TRIAL_PAGES * kv_page_entries(ratio) * k_dim;

        return (struct kv_layer){
                .k = device_take(d, sample_weights(s, type, values), values * quant_info(type)->block_bytes),
                .type = type,
                .kv_heads = 1,
                .k_dim = k_dim,
                .v_dim = v_dim,
                .ratio = ratio,
        };
}

static struct op_rows rows_from(struct op_rows rows, const struct trial *t) {
        rows.n = t->count;
        rows.positions = trial_row(rows.positions, t->from, 1);
        rows.sequences = trial_row(rows.sequences, t->from, 1);
        return rows;
}

/* Stores and reads keys that hold their values. */
static float *try_latent_attention(struct device *d, const struct trial *t, size_t *ret_width) {
        struct sample s = {t->dim + t->heads};
        uint32_t v_dim = t->dim - t->dim / 4;
        struct op_kv_store store = {.kv = plane(d, &s, t->type, t->dim, v_dim, 0)};
        struct op_attention op;

        store.k = trial_floats(d, &s, (size_t) t->n * t->dim);
        trial_rows(d, t, &store.rows);
        assert_se(d->ops->kv_store(d->stream, &store) == 0);
        op = (struct op_attention){
                .rows = rows_from(store.rows, t),
                .kv = store.kv,
                .heads = t->heads,
                .scale = 1.7f / sqrtf((float) t->dim),
                .q = trial_row(trial_floats(d, &s, (size_t) t->n * t->heads * t->dim), t->from,
                               t->heads * t->dim),
                .out = device_put(d, NULL, (size_t) t->n * t->heads * v_dim * sizeof(float)),
        };
        assert_se(d->ops->attention(d->stream, &op) == 0);
        return trial_result(d, op.out, t->count, t->heads * v_dim, ret_width);
}

TEST(attention_agrees_where_keys_hold_the_values) {
        for (uint32_t dim = 4; dim <= 100; dim += 24)
                for (uint32_t i = 0; i < 3; i++)
                        trial_check_attention(try_latent_attention,
                                              (struct trial){.n = 20,
                                                             .dim = dim,
                                                             .heads = 1 + dim % 5,
                                                             .type = trial_kv_type(i)});
}

static const uint32_t ratios[] = {0, 4, 64};

/* Of the entries that each row sees every third, at most `max`. */
static struct device_ptr some_entries(struct device *d, const struct trial *t, const struct op_rows *rows,
                                      uint32_t ratio, uint32_t max) {
        _cleanup_(freep) int32_t *positions = malloc(t->n * sizeof(*positions));
        int32_t *chosen = malloc((size_t) t->n * max * sizeof(*chosen));

        assert_se(positions && chosen);
        device_get(d, positions, rows->positions, t->n * sizeof(*positions));
        for (uint32_t i = 0; i < t->n; i++)
                for (uint32_t j = 0; j < max; j++)
                        chosen[i * max + j] =
                                3 * j < kv_visible(ratio, (uint32_t) positions[i]) ? (int32_t) (3 * j) : -1;
        return device_take(d, chosen, (size_t) t->n * max * sizeof(*chosen));
}

/* option: bit 0 window, 1 sinks, 2 chosen entries, 3 no entries, the rest: ratio */
static float *try_sparse_attention(struct device *d, const struct trial *t, size_t *ret_width) {
        enum { CHOSEN = 37 };
        struct sample s = {t->dim + t->heads};
        uint32_t v_dim = t->dim - t->dim / 4, ratio = ratios[t->option >> 4];
        struct op_sparse_attention op = {
                .kv = plane(d, &s, t->type, t->dim, v_dim, 0),
                .heads = t->heads,
                .window = t->option & 1 ? 40 : 0,
                .scale = 1.7f / sqrtf((float) t->dim),
                .sinks = t->option & 2 ? trial_floats(d, &s, t->heads) : DEVICE_NULL,
                .q = trial_row(trial_floats(d, &s, (size_t) t->n * t->heads * t->dim), t->from,
                               t->heads * t->dim),
                .out = device_put(d, NULL, (size_t) t->n * t->heads * v_dim * sizeof(float)),
        };

        trial_rows(d, t, &op.rows);
        if (!(t->option & 8))
                op.entries = plane(d, &s, t->type, t->dim, v_dim, ratio);
        if (t->option & 4) {
                op.chosen = trial_row(some_entries(d, t, &op.rows, ratio, CHOSEN), t->from, CHOSEN);
                op.chosen_max = CHOSEN;
        }
        op.rows = rows_from(op.rows, t);
        assert_se(d->ops->sparse_attention(d->stream, &op) == 0);
        return trial_result(d, op.out, t->count, t->heads * v_dim, ret_width);
}

TEST(sparse_attention_agrees_over_windows_entries_and_choices) {
        for (uint32_t option = 0; option < 48; option++) {
                if ((option & 12) == 12)
                        continue;
                trial_check_attention(try_sparse_attention,
                                      (struct trial){.n = 14,
                                                     .dim = 5 + option,
                                                     .heads = 1 + option % 20,
                                                     .type = trial_kv_type(option),
                                                     .option = option});
        }
}

TEST(a_row_that_sees_no_key_gets_zeros) {
        struct trial t = {.n = 3, .count = 3, .dim = 8, .heads = 2, .type = QUANT_F32, .option = 8};
        _cleanup_(freep) float *got = NULL;
        struct device d;
        size_t width;

        device_init(&d, sample_backend("c", 1));
        got = try_sparse_attention(&d, &t, &width);
        for (size_t i = 0; i < 3 * width; i++)
                assert_se(got[i] == 0.0f);
        device_deinit(&d);
}

enum { INDEX_K = 9 };

static struct op_index make_index(struct device *d, const struct trial *t, struct sample *s) {
        struct op_index op = {
                .keys = plane(d, s, t->type, t->dim, 0, ratios[t->option]),
                .heads = t->heads,
                .k = INDEX_K,
                .q = trial_row(trial_floats(d, s, (size_t) t->n * t->heads * t->dim), t->from,
                               t->heads * t->dim),
                .weights = trial_row(trial_floats(d, s, (size_t) t->n * t->heads), t->from, t->heads),
                .chosen = device_put(d, NULL, (size_t) t->n * INDEX_K * sizeof(int32_t)),
        };

        trial_rows(d, t, &op.rows);
        op.rows = rows_from(op.rows, t);
        return op;
}

/* The numbers as floats. */
static float *try_index(struct device *d, const struct trial *t, size_t *ret_width) {
        struct sample s = {t->dim + t->heads};
        struct op_index op = make_index(d, t, &s);
        _cleanup_(freep) int32_t *chosen = malloc((size_t) t->count * INDEX_K * sizeof(*chosen));
        float *values = malloc((size_t) t->count * INDEX_K * sizeof(*values));

        assert_se(chosen && values && d->ops->index(d->stream, &op) == 0);
        device_get(d, chosen, op.chosen, (size_t) t->count * INDEX_K * sizeof(*chosen));
        for (uint32_t i = 0; i < t->count * INDEX_K; i++)
                values[i] = (float) chosen[i];
        *ret_width = INDEX_K;
        return values;
}

/* How good the choice of row t is: the sum of the chosen entries' scores. All backends here keep their memory in
 * ours. */
static double choice_value(const struct op_index *op, uint32_t t) {
        const int32_t *chosen = (const int32_t *) host_address(op->chosen) + t * op->k;
        const int32_t *pages = (const int32_t *) host_address(op->rows.page_table) +
                               ((const int32_t *) host_address(op->rows.sequences))[t] * op->rows.page_table_stride;
        const float *q = (const float *) host_address(op->q) + (size_t) t * op->heads * op->keys.k_dim;
        const float *weights = (const float *) host_address(op->weights) + (size_t) t * op->heads;
        double value = 0.0;

        for (uint32_t i = 0; i < op->k && chosen[i] >= 0; i++) {
                size_t key = kv_entry(op->keys.ratio, pages, (uint32_t) chosen[i]) * op->keys.k_dim;

                for (uint32_t h = 0; h < op->heads; h++) {
                        double product = 0.0;

                        for (uint32_t j = 0; j < op->keys.k_dim; j++)
                                product += (double) q[h * op->keys.k_dim + j] *
                                           kv_value(op->keys.type, host_address(op->keys.k), key + j);
                        value += weights[h] * fmax(product, 0.0);
                }
        }
        return value;
}

static float *try_index_value(struct device *d, const struct trial *t, size_t *ret_width) {
        struct sample s = {t->dim + t->heads};
        struct op_index op = make_index(d, t, &s);
        float *values = malloc(t->count * sizeof(*values));

        assert_se(values && d->ops->index(d->stream, &op) == 0);
        for (uint32_t i = 0; i < t->count; i++)
                values[i] = (float) choice_value(&op, i);
        *ret_width = 1;
        return values;
}

/* The matrix unit's scores are of queries as bfloat16: the choice is as good within that. */
static void check_index(struct trial trial) {
        for (unsigned v = 0; v < n_cpu_variants; v++)
                if (cpu_variants[v]->index && trial.type == QUANT_BF16)
                        trial_check_variant(cpu_variants[v], try_index_value, trial, 5e-3);
                else
                        trial_check_variant(cpu_variants[v], try_index, trial, 0.0);
}

TEST(the_index_agrees) {
        static const enum quant_type types[] = {QUANT_F32, QUANT_F16, QUANT_BF16};
        static const uint32_t dims[] = {3, 25, 32, 64, 69};

        for (uint32_t i = 0; i < ELEMENTS(ratios) * ELEMENTS(dims) * ELEMENTS(types); i++) {
                uint32_t dim = dims[i / ELEMENTS(types) % ELEMENTS(dims)];

                check_index((struct trial){.n = 14,
                                           .dim = dim,
                                           .heads = 1 + dim % 39,
                                           .option = i / ELEMENTS(types) / ELEMENTS(dims),
                                           .type = types[i % ELEMENTS(types)]});
        }
        /* The published shapes, and heads for more than one set of tiles. */
        for (uint32_t option = 0; option < 2; option++) {
                check_index((struct trial){.n = 14, .dim = 128, .heads = 64, .option = option, .type = QUANT_BF16});
                check_index((struct trial){.n = 14, .dim = 128, .heads = 70, .option = option, .type = QUANT_BF16});
        }
}

/* One sequence of 40 keys of one value, one query of 1: scores are the keys, or 0 below. */
static void check_choice(const float *keys, uint32_t n, uint32_t k, const int32_t *expected) {
        int32_t pages[] = {1, 0}, position = (int32_t) n - 1, zero = 0, chosen[16];
        float one = 1.0f, slots[2 * KV_PAGE_TOKENS];
        struct op_index op = {.heads = 1, .k = k};
        struct device d;

        memcpy(slots + KV_PAGE_TOKENS, keys, MIN(n, 32U) * sizeof(float));
        memcpy(slots, keys + 32, (MAX(n, 32U) - 32) * sizeof(float));
        device_init(&d, sample_backend("c", 2));
        op.keys = (struct kv_layer){
                .k = device_put(&d, slots, sizeof(slots)), .type = QUANT_F32, .kv_heads = 1, .k_dim = 1};
        op.rows = (struct op_rows){
                .n = 1,
                .positions = device_put(&d, &position, 4),
                .sequences = device_put(&d, &zero, 4),
                .page_table = device_put(&d, pages, sizeof(pages)),
                .page_table_stride = 2,
                .position_max = (uint32_t) position,
        };
        op.q = op.weights = device_put(&d, &one, sizeof(one));
        op.chosen = device_put(&d, NULL, sizeof(chosen));
        assert_se(d.ops->index(d.stream, &op) == 0);
        device_get(&d, chosen, op.chosen, k * sizeof(*chosen));
        assert_se(memcmp(chosen, expected, k * sizeof(*chosen)) == 0);
        device_deinit(&d);
}

TEST(the_index_chooses_the_best_in_rising_order) {
        float keys[40] = {
                [3] = 2.0f, [7] = 5.0f, [8] = 5.0f, [20] = NAN, [33] = 1e-30f, [35] = -4.0f, [39] = 3.0f};

        check_choice(keys, 40, 4, (int32_t[]){3, 7, 8, 39});
        /* Of two that tie the lower; then zeros from the start on. */
        check_choice(keys, 40, 1, (int32_t[]){7});
        check_choice(keys, 40, 7, (int32_t[]){0, 1, 3, 7, 8, 33, 39});
        /* No more than can be chosen: all. */
        check_choice(keys, 3, 5, (int32_t[]){0, 1, 2, -1, -1});
}

/* Two sequences, fed in turns: `chunk` rows of the first, then one of the other. */
enum { COMPRESS_ROWS = 150, COMPRESS_PAGES = 10, COMPRESS_STRIDE = 5 };

struct compress {
        uint32_t ratio, dim, halves;
        float *v, *g, *bias; /* [COMPRESS_ROWS][halves × dim]; bias: [ratio] of it */
};

static void compress_call(struct device *d, struct op_compress *op, const struct compress *c, uint32_t first,
                          uint32_t n, uint32_t other, float *y) {
        size_t width = c->halves * c->dim, rows = n + 1;
        int32_t positions[COMPRESS_ROWS + 1], sequences[COMPRESS_ROWS + 1] = {0};
        float *v = malloc(rows * width * sizeof(*v)), *g = malloc(rows * width * sizeof(*g));

        assert_se(v && g);
        for (uint32_t i = 0; i <= n; i++) {
                uint32_t from = i < n ? first + i : (other * 31 + 5) % COMPRESS_ROWS;

                positions[i] = (int32_t) (i < n ? first + i : other);
                memcpy(v + i * width, c->v + from * width, width * sizeof(*v));
                memcpy(g + i * width, c->g + from * width, width * sizeof(*g));
        }
        sequences[n] = 1;
        op->rows.n = n + 1;
        op->rows.positions = device_put(d, positions, rows * sizeof(*positions));
        op->rows.sequences = device_put(d, sequences, rows * sizeof(*sequences));
        op->v = device_take(d, v, rows * width * sizeof(*v));
        op->g = device_take(d, g, rows * width * sizeof(*g));
        op->y = device_put(d, NULL, rows * c->dim * sizeof(float));
        assert_se(d->ops->compress(d->stream, op) == 0);
        device_get(d, y + (size_t) first * c->dim, op->y, (size_t) n * c->dim * sizeof(float));
}

static float *compress_all(struct backend *backend, const struct compress *c, uint32_t chunk) {
        int32_t pages[2][COMPRESS_STRIDE] = {{7, 2, 9, 0, 4}, {3, 8, 1, 6, 5}};
        float *y = calloc((size_t) COMPRESS_ROWS * c->dim, sizeof(*y));
        _cleanup_(freep) float *state = NULL;
        size_t state_size = (size_t) COMPRESS_PAGES * c->halves * 3 * c->dim * sizeof(float);
        struct op_compress op = {.ratio = c->ratio, .dim = c->dim, .overlap = c->halves == 2};
        struct device d;

        device_init(&d, backend);
        state = malloc(state_size);
        assert_se(y && state);
        memset(state, 0xff, state_size); /* what a page held before must not matter */
        for (uint32_t first = 0, other = 0; first < COMPRESS_ROWS; first += chunk, other++) {
                struct device_ptr at = device_put(&d, state, state_size);

                op.rows.page_table = device_put(&d, pages, sizeof(pages));
                op.rows.page_table_stride = COMPRESS_STRIDE;
                op.bias = device_put(&d, c->bias, (size_t) c->ratio * c->halves * c->dim * sizeof(float));
                op.state = at;
                compress_call(&d, &op, c, first, MIN(chunk, COMPRESS_ROWS - first), other, y);
                device_get(&d, state, at, state_size);
                device_clear(&d);
        }
        device_deinit(&d);
        return y;
}

/* The formula, over all slots of an entry at once. */
static double compress_entry(const struct compress *c, uint32_t entry, uint32_t channel) {
        double weight = 0.0, value = 0.0;

        for (uint32_t half = 0; half < c->halves; half++)
                for (uint32_t j = 0; j < c->ratio; j++) {
                        int64_t t = (int64_t) entry * c->ratio + j - (half + 1 < c->halves ? c->ratio : 0);
                        size_t at = (size_t) c->dim * half + channel, width = c->halves * c->dim;
                        double p;

                        if (t < 0)
                                continue;
                        p = exp((double) c->g[t * width + at] + (double) c->bias[j * width + at]);
                        weight += p;
                        value += p * c->v[t * width + at];
                }
        return value / weight;
}

static void check_entries(const struct compress *c, const float *y) {
        for (uint32_t t = 0; t < COMPRESS_ROWS; t++)
                for (uint32_t i = 0; i < c->dim; i++) {
                        double expected = (t + 1) % c->ratio ? 0.0 : compress_entry(c, t / c->ratio, i);

                        assert_se(fabs(y[t * c->dim + i] - expected) <= 1e-5);
                }
}

static void check_compress(uint32_t ratio, uint32_t dim, uint32_t halves) {
        static const uint32_t chunks[] = {1, 7, 32, COMPRESS_ROWS};
        struct sample s = {ratio + dim};
        _cleanup_(freep) float *v = sample_floats(&s, (size_t) COMPRESS_ROWS * halves * dim);
        _cleanup_(freep) float *g = sample_floats(&s, (size_t) COMPRESS_ROWS * halves * dim);
        _cleanup_(freep) float *bias = sample_floats(&s, (size_t) ratio * halves * dim);
        struct compress c = {ratio, dim, halves, v, g, bias};
        size_t values = (size_t) COMPRESS_ROWS * dim;

        for (unsigned i = 0; i <= n_cpu_variants; i++) {
                const char *isa = i < n_cpu_variants ? cpu_variants[i]->name : NULL;
                struct backend *b = isa ? sample_backend(isa, 1) : sample_backend_ref();
                _cleanup_(freep) float *whole = b ? compress_all(b, &c, COMPRESS_ROWS) : NULL;

                if (!b)
                        continue;
                check_entries(&c, whole);
                for (unsigned k = 0; k < ELEMENTS(chunks); k++) {
                        _cleanup_(freep) float *y = NULL;

                        y = compress_all(isa ? sample_backend(isa, 3) : sample_backend_ref(), &c, chunks[k]);
                        assert_se(memcmp(y, whole, values * sizeof(*y)) == 0);
                }
        }
}

TEST(an_entry_is_what_its_tokens_are_however_they_come) {
        check_compress(4, 6, 2);
        check_compress(8, 33, 2);
        check_compress(32, 5, 1);
        check_compress(64, 40, 1);
        check_compress(128, 3, 1);
}

/* The entries that a store with a ratio writes are those that attention reads. */
TEST(a_store_with_a_ratio_writes_each_entry_once) {
        int32_t pages[] = {2, 0, 1, 3}, positions[100], sequences[100] = {0}, chosen[] = {2};
        float k[100], out = 0.0f, q = 0.0f;
        struct device d;
        struct op_kv_store store = {0};
        struct op_sparse_attention op = {.heads = 1, .scale = 1.0f, .chosen_max = 1};

        for (int i = 0; i < 100; i++) {
                positions[i] = i;
                k[i] = (float) i;
        }
        device_init(&d, sample_backend("c", 2));
        for (uint32_t ratio = 4; ratio <= 32; ratio *= 8) {
                store.kv = (struct kv_layer){.k = device_put(&d, NULL, 4 * KV_PAGE_TOKENS * sizeof(float)),
                                             .type = QUANT_F32,
                                             .kv_heads = 1,
                                             .k_dim = 1,
                                             .v_dim = 1,
                                             .ratio = ratio};
                store.k = device_put(&d, k, sizeof(k));
                store.rows = (struct op_rows){
                        .n = 100,
                        .positions = device_put(&d, positions, sizeof(positions)),
                        .sequences = device_put(&d, sequences, sizeof(sequences)),
                        .page_table = device_put(&d, pages, sizeof(pages)),
                        .page_table_stride = 4,
                        .position_max = 99,
                };
                assert_se(d.ops->kv_store(d.stream, &store) == 0);
                op.rows = store.rows;
                op.rows.n = 1;
                op.rows.positions = trial_row(op.rows.positions, 99, 1);
                op.kv = op.entries = store.kv;
                op.kv.ratio = 0;
                op.chosen = device_put(&d, chosen, sizeof(chosen));
                op.q = device_put(&d, &q, sizeof(q));
                op.out = device_put(&d, NULL, sizeof(out));
                assert_se(d.ops->sparse_attention(d.stream, &op) == 0);
                device_get(&d, &out, op.out, sizeof(out));
                assert_se(out == (float) (3 * ratio - 1));
        }
        device_deinit(&d);
}

/* dim values in heads streams; option: 0 mix, 1 head's mix, 2 in, 3 out */
static float *try_hyper(struct device *d, const struct trial *t, size_t *ret_width) {
        struct sample s = {t->dim + t->heads};
        uint32_t mix = t->option == 1 ? t->heads : (2 + t->heads) * t->heads, row = t->heads * t->dim;
        struct op_hyper op = {
                .n = t->count,
                .streams = t->heads,
                .dim = t->dim,
                .iterations = 20,
                .head = t->option == 1,
                .epsilon = 1e-6f,
                .base = trial_floats(d, &s, mix),
                .scale = trial_floats(d, &s, 3),
                .mix = trial_row(trial_floats(d, &s, (size_t) t->n * mix), t->from, mix),
                .x = trial_row(trial_floats(d, &s, (size_t) t->n * row), t->from, row),
                .y = trial_row(trial_floats(d, &s, (size_t) t->n * t->dim), t->from, t->dim),
        };

        if (t->option < 2) {
                assert_se(d->ops->hyper_mix(d->stream, &op) == 0);
                return trial_result(d, op.mix, t->count, mix, ret_width);
        }
        if (t->option == 2) {
                assert_se(d->ops->hyper_in(d->stream, &op) == 0);
                return trial_result(d, op.y, t->count, t->dim, ret_width);
        }
        assert_se(d->ops->hyper_out(d->stream, &op) == 0);
        return trial_result(d, op.x, t->count, row, ret_width);
}

TEST(hyper_connections_agree) {
        for (uint32_t option = 0; option < 4; option++)
                for (uint32_t streams = 1; streams <= 6; streams++)
                        trial_check(try_hyper,
                                    (struct trial){
                                            .n = 9, .dim = 11 * streams, .heads = streams, .option = option},
                                    1e-6);
}

TEST(a_mix_neither_adds_nor_loses) {
        struct trial t = {.n = 5, .count = 5, .dim = 3, .heads = 4};
        _cleanup_(freep) float *mix = NULL;
        struct device d;
        size_t width;

        device_init(&d, sample_backend_ref());
        mix = try_hyper(&d, &t, &width);
        for (uint32_t i = 0; i < t.n; i++)
                for (uint32_t j = 0; j < 4; j++) {
                        const float *c = mix + i * width + 8;

                        assert_se(fabsf(c[j] + c[4 + j] + c[8 + j] + c[12 + j] - 1.0f) < 1e-4f);
                        assert_se(fabsf(c[4 * j] + c[4 * j + 1] + c[4 * j + 2] + c[4 * j + 3] - 1.0f) <
                                  1e-3f);
                        assert_se(mix[i * width + j] > 0.0f && mix[i * width + 4 + j] < 2.0f);
                }
        device_deinit(&d);
}

TEST(a_turn_back_undoes_a_turn_and_entries_turn_by_their_first_position) {
        enum { DIM = 12 };
        float x[2][DIM], turned[2][DIM], frequencies[DIM / 2] = {1.0f, 0.5f, 0.2f, 0.1f, 0.01f, 0.001f};
        int32_t positions[] = {131, 128};
        struct op_rope op = {.n = 2,
                             .heads = 1,
                             .head_dim = DIM,
                             .dims = DIM,
                             .stride = DIM,
                             .magnitude = 1.0f,
                             .multiple = 4};
        struct device d;

        for (int i = 0; i < DIM; i++)
                x[0][i] = x[1][i] = (float) i - 4.5f;
        device_init(&d, sample_backend("c", 1));
        op.x = device_put(&d, x, sizeof(x));
        op.positions = device_put(&d, positions, sizeof(positions));
        op.frequencies = device_put(&d, frequencies, sizeof(frequencies));
        assert_se(d.ops->rope(d.stream, &op) == 0);
        device_get(&d, turned, op.x, sizeof(turned));
        assert_se(memcmp(turned[0], turned[1], sizeof(turned[0])) == 0 &&
                  fabsf(turned[0][0] - x[0][0]) > 0.1f);
        op.inverse = true;
        assert_se(d.ops->rope(d.stream, &op) == 0);
        device_get(&d, turned, op.x, sizeof(turned));
        for (int i = 0; i < DIM; i++)
                assert_se(fabsf(turned[0][i] - x[0][i]) < 1e-5f);
        device_deinit(&d);
}
