/* SPDX-License-Identifier: MIT */
/* Attention over contexts long enough to be cut for threads. Whatever a page holds behind the last row that has
 * been computed is poison: it must not matter to any row. */
#include <math.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "host.h"
#include "machine.h"
#include "ref.h"
#include "test.h"
#include "trial.h"
#include "variant.h"

enum {
        PAGES = 96, /* of a sequence */
        CONTEXT = PAGES * KV_PAGE_TOKENS,
        CHOSEN = 700,
};

/* Rows of sequence 0 around the first cut, and then some far into sequence 1. */
static uint32_t row_sequence(const struct trial *t, uint32_t row) {
        return row >= t->n / 2;
}

static uint32_t row_position(const struct trial *t, uint32_t row) {
        return row < t->n / 2 ? ATTENTION_SPLIT - t->n / 4 + row : CONTEXT - 2 * t->n + row;
}

static struct op_rows make_rows(struct device *d, const struct trial *t) {
        int32_t *positions = malloc(t->count * sizeof(*positions)), *sequences = malloc(t->count * sizeof(*sequences));
        int32_t pages[2][PAGES];

        assert_se(positions && sequences);
        for (uint32_t i = 0; i < t->count; i++) {
                positions[i] = (int32_t) row_position(t, t->from + i);
                sequences[i] = (int32_t) row_sequence(t, t->from + i);
        }
        for (int i = 0; i < PAGES; i++)
                for (int s = 0; s < 2; s++)
                        pages[s][i] = 2 * (i * 7 % PAGES) + s;
        return (struct op_rows){
                .n = t->count,
                .positions = device_take(d, positions, t->count * sizeof(*positions)),
                .sequences = device_take(d, sequences, t->count * sizeof(*sequences)),
                .page_table = device_put(d, pages, sizeof(pages)),
                .page_table_stride = PAGES,
                .position_max = CONTEXT - 1,
        };
}

/* Entries that no row of the call sees: the largest number, or not-a-number, which is never kept as BF16. */
static void poison(const struct trial *t, const struct op_rows *rows, struct kv_layer *kv, void *data, uint32_t dim,
                   bool paired) {
        size_t bytes = dim * quant_info(kv->type)->block_bytes;

        for (uint32_t s = 0; s < 2; s++) {
                const int32_t *pages = (const int32_t *) host_address(rows->page_table) + s * PAGES;
                uint32_t seen = 0;

                for (uint32_t i = 0; i < t->count; i++)
                        if (row_sequence(t, t->from + i) == s)
                                seen = kv_visible(kv->ratio, row_position(t, t->from + i));
                for (uint32_t i = seen; i < kv_visible(kv->ratio, CONTEXT - 1); i++)
                        for (uint32_t h = 0; h < kv->kv_heads; h++) {
                                size_t entry = kv_entry(kv->ratio, pages, i), page = kv_page_entries(kv->ratio);
                                size_t at = (entry / page * kv->kv_heads + h) * page + entry % page;

                                for (uint32_t j = 0; paired && j < dim; j++)
                                        ((uint16_t *) data)[at / 2 * 2 * dim + 2 * j + at % 2] = 0x7f7f;
                                if (!paired)
                                        memset((char *) data + at * bytes, kv->type == QUANT_BF16 ? 0x7f : 0xff, bytes);
                        }
        }
}

static struct device_ptr make_plane(struct device *d, struct sample *s, const struct trial *t,
                                    const struct op_rows *rows, struct kv_layer *kv, uint32_t dim, bool apart) {
        size_t values = (size_t) 2 * PAGES * kv->kv_heads * kv_page_entries(kv->ratio) * dim;
        void *data = sample_weights(s, kv->type, values);

        poison(t, rows, kv, data, dim, apart && kv->type == QUANT_BF16);
        return device_take(d, data, values * quant_info(kv->type)->block_bytes);
}

/* option: bit 0 window, 1 sinks, 2 two kv heads, 3 keys hold the values */
static float *try_dense(struct device *d, const struct trial *t, size_t *ret_width) {
        struct sample s = {t->dim + t->heads};
        uint32_t v_dim = t->dim - t->dim / 4;
        struct op_attention op = {
                .rows = make_rows(d, t),
                .kv = {.type = t->type, .kv_heads = t->option & 4 ? 2 : 1, .k_dim = t->dim, .v_dim = v_dim},
                .heads = t->heads,
                .scale = 1.7f / sqrtf((float) t->dim),
                .window = t->option & 1 ? 1500 : 0,
                .sinks = t->option & 2 ? trial_floats(d, &s, t->heads) : DEVICE_NULL,
                .q = trial_row(trial_floats(d, &s, (size_t) t->n * t->heads * t->dim), t->from, t->heads * t->dim),
                .out = device_put(d, NULL, (size_t) t->count * t->heads * v_dim * sizeof(float)),
        };

        op.kv.k = make_plane(d, &s, t, &op.rows, &op.kv, t->dim, false);
        if (!(t->option & 8))
                op.kv.v = make_plane(d, &s, t, &op.rows, &op.kv, v_dim, true);
        assert_se(d->ops->attention(d->stream, &op) == 0);
        return trial_result(d, op.out, t->count, t->heads * v_dim, ret_width);
}

TEST(attention_agrees_over_cuts_whatever_lies_behind) {
        for (uint32_t option = 0; option < 16; option++)
                trial_check_attention(try_dense, (struct trial){.n = 20 + option,
                                                                .dim = 20 + 14 * (option % 3),
                                                                .heads = option & 4 ? 4 : 1 + option % 3,
                                                                .type = trial_kv_type(option),
                                                                .option = option});
        /* Whole tiles, of few heads and of some. */
        trial_check_attention(try_dense,
                              (struct trial){.n = 4, .dim = 128, .heads = 4, .type = QUANT_BF16, .option = 8});
        trial_check_attention(try_dense,
                              (struct trial){.n = 4, .dim = 128, .heads = 34, .type = QUANT_BF16, .option = 4});
}

/* As many rows and heads as a job may have, and more. */
TEST(attention_agrees_where_jobs_are_full) {
        static const struct trial trials[] = {
                {.n = 560, .dim = 12, .heads = 1, .type = QUANT_BF16},
                {.n = 40, .dim = 20, .heads = 20, .type = QUANT_BF16, .option = 8},
                {.n = 4, .dim = 8, .heads = 2 * ATTENTION_PAIRS + 40, .type = QUANT_BF16, .option = 2},
        };

        for (unsigned i = 0; i < ELEMENTS(trials); i++)
                trial_check_attention(try_dense, trials[i]);
}

/* option: 0 chosen among tokens, 1 all entries of ratio 4 and a window, 2 chosen of them, and a window */
static float *try_sparse(struct device *d, const struct trial *t, size_t *ret_width) {
        struct sample s = {t->dim + t->heads};
        uint32_t v_dim = t->dim - t->dim / 4;
        _cleanup_(freep) int32_t *chosen = malloc((size_t) t->count * CHOSEN * sizeof(*chosen));
        struct op_sparse_attention op = {
                .rows = make_rows(d, t),
                .kv = {.type = t->type, .kv_heads = 1, .k_dim = t->dim, .v_dim = v_dim},
                .heads = t->heads,
                .window = t->option ? 150 : 0,
                .scale = 1.7f / sqrtf((float) t->dim),
                .sinks = trial_floats(d, &s, t->heads),
                .q = trial_row(trial_floats(d, &s, (size_t) t->n * t->heads * t->dim), t->from, t->heads * t->dim),
                .out = device_put(d, NULL, (size_t) t->count * t->heads * v_dim * sizeof(float)),
        };

        assert_se(chosen);
        op.kv.k = make_plane(d, &s, t, &op.rows, &op.kv, t->dim, false);
        op.entries = op.kv;
        op.entries.ratio = t->option ? 4 : 0;
        op.entries.k = make_plane(d, &s, t, &op.rows, &op.entries, t->dim, false);
        for (uint32_t i = 0; i < t->count; i++) {
                uint32_t seen = kv_visible(op.entries.ratio, row_position(t, t->from + i)), step = 1 + seen / CHOSEN;

                for (uint32_t j = 0; j < CHOSEN; j++)
                        chosen[i * CHOSEN + j] = j * step < seen ? (int32_t) (j * step) : -1;
        }
        if (t->option != 1) {
                op.chosen = device_put(d, chosen, (size_t) t->count * CHOSEN * sizeof(*chosen));
                op.chosen_max = CHOSEN;
        }
        assert_se(d->ops->sparse_attention(d->stream, &op) == 0);
        return trial_result(d, op.out, t->count, t->heads * v_dim, ret_width);
}

TEST(sparse_attention_agrees_over_cuts_whatever_lies_behind) {
        for (uint32_t option = 0; option < 3; option++)
                for (uint32_t heads = 1; heads < 50; heads += 23)
                        trial_check_attention(try_sparse, (struct trial){.n = 7,
                                                                         .dim = 30 + heads,
                                                                         .heads = heads,
                                                                         .type = trial_kv_type(option + heads),
                                                                         .option = option});
}

/* Only the first of a key's dims is not 0, and all variants' scores are exact, many of them equal. */
static float *try_choice(struct device *d, const struct trial *t, size_t *ret_width) {
        struct sample s = {t->option};
        struct op_index op = {
                .rows = make_rows(d, t),
                .keys = {.type = t->type, .kv_heads = 1, .k_dim = t->dim, .ratio = t->option % 2 ? 4 : 0},
                .heads = 1,
                .k = 100 + t->option * 37,
        };
        size_t n = (size_t) 2 * PAGES * kv_page_entries(op.keys.ratio);
        _cleanup_(freep) int32_t *chosen = malloc((size_t) t->count * op.k * sizeof(*chosen));
        float *values = malloc((size_t) t->count * op.k * sizeof(*values));
        float *ones = malloc((size_t) t->count * t->dim * sizeof(*ones));
        uint16_t *keys = calloc(n * t->dim, sizeof(*keys));

        assert_se(chosen && values && keys && ones);
        for (size_t i = 0; i < n; i++)
                keys[i * t->dim] = (uint16_t) ((sample_u32(&s) & (t->option & 2 ? 0x9ff0 : 0x8300)) | 0x2000);
        for (uint32_t i = 0; i < t->count * t->dim; i++)
                ones[i] = 1.0f;
        poison(t, &op.rows, &op.keys, keys, t->dim, false);
        op.keys.k = device_take(d, keys, n * t->dim * sizeof(*keys));
        op.q = op.weights = device_take(d, ones, (size_t) t->count * t->dim * sizeof(*ones));
        op.chosen = device_put(d, NULL, (size_t) t->count * op.k * sizeof(*chosen));
        assert_se(d->ops->index(d->stream, &op) == 0);
        device_get(d, chosen, op.chosen, (size_t) t->count * op.k * sizeof(*chosen));
        for (uint32_t i = 0; i < t->count * op.k; i++)
                values[i] = (float) chosen[i];
        *ret_width = op.k;
        return values;
}

TEST(the_index_chooses_the_same_from_long_contexts) {
        for (uint32_t option = 0; option < 16; option++) {
                trial_check(try_choice, (struct trial){.n = 50, .dim = 1, .type = QUANT_F16, .option = option}, 0.0);
                trial_check(try_choice, (struct trial){.n = 50, .dim = 32, .type = QUANT_BF16, .option = option}, 0.0);
        }
}

static float odd_score(struct sample *s, unsigned kind) {
        float x = sample_float(s);

        switch (kind) {
        case 0:
                return x;
        case 1:
                return x > 0.99f ? x : -0.0f * (float) (x > 0.0f);
        case 2:
                return sample_u32(s) % 50 == 0 ? NAN : x < -0.9f ? -INFINITY : floorf(x * 300.0f);
        default: /* rising: a sample in even steps sees all of it */
                return x * 0.001f + (float) s->state * 0x1p-64f;
        }
}

static void check_best(struct sample *s, uint32_t n, unsigned kind, uint32_t factor) {
        _cleanup_(freep) float *scores = malloc(n * sizeof(*scores));
        _cleanup_(freep) int32_t *expected = malloc(n * sizeof(*expected)), *got = malloc(n * sizeof(*got));

        assert_se(scores && expected && got);
        for (uint32_t j = 0; j < n; j++)
                scores[j] = odd_score(s, kind);
        for (uint32_t k = 1; k < n; k = k * factor + 1) {
                choose_best(expected, scores, n, k);
                for (unsigned v = 0; v < n_cpu_variants; v++) {
                        if (!cpu_variants[v]->choose || (cpu_variants[v]->needs & ~machine_cpu_bits()))
                                continue;
                        cpu_variants[v]->choose(got, scores, n, k);
                        assert_se(memcmp(got, expected, k * sizeof(*got)) == 0);
                }
        }
}

TEST(the_best_scores_are_the_same_to_all_variants) {
        static const uint32_t sizes[] = {5, 2047, 2048, 2049, 5000, 40000};
        struct sample s = {7};

        for (unsigned i = 0; i < 4 * ELEMENTS(sizes); i++)
                check_best(&s, sizes[i / 4], i % 4, 3);
        /* More come near the best than are kept at a time. */
        check_best(&s, 1500000, 0, 1000);
}

/* A token that went wrong must not reach those before it through the company of a prompt. */
TEST(what_is_not_finite_stays_with_the_rows_that_see_it) {
        const struct trial t = {.n = 64, .count = 64, .dim = 64, .heads = 2, .option = 8};

        for (unsigned i = 0; i < 2 * n_cpu_variants; i++) {
                unsigned v = i / 2;
                struct backend *b = sample_backend(cpu_variants[v]->name, 2);
                _cleanup_(freep) float *clean = NULL, *spoilt = NULL;
                struct op_kv_store store;
                struct op_attention op;
                struct device d;
                struct sample s = {1};
                float key[64];
                size_t width;

                if (!b)
                        continue;
                device_init(&d, b);
                op = (struct op_attention){
                        .rows = make_rows(&d, &t),
                        .kv = {.type = i % 2 ? QUANT_BF16 : QUANT_F16, .kv_heads = 1, .k_dim = 64, .v_dim = 64},
                        .heads = 2,
                        .scale = 0.2f,
                        .q = trial_floats(&d, &s, (size_t) 64 * 2 * 64),
                        .out = device_put(&d, NULL, (size_t) 64 * 2 * 64 * sizeof(float)),
                };
                op.kv.k = make_plane(&d, &s, &t, &op.rows, &op.kv, 64, false);
                assert_se(d.ops->attention(d.stream, &op) == 0);
                clean = trial_result(&d, op.out, 64, 128, &width);
                /* The key of row 10. */
                for (unsigned j = 0; j < ELEMENTS(key); j++)
                        key[j] = j % 3 == 0 ? NAN : j % 3 == 1 ? INFINITY : -INFINITY;
                store = (struct op_kv_store){.rows = op.rows, .kv = op.kv, .k = device_put(&d, key, sizeof(key))};
                store.rows.n = 1;
                store.rows.positions = trial_row(op.rows.positions, 10, 1);
                assert_se(d.ops->kv_store(d.stream, &store) == 0);
                assert_se(d.ops->attention(d.stream, &op) == 0);
                spoilt = trial_result(&d, op.out, 64, 128, &width);
                assert_se(memcmp(clean, spoilt, 10 * 128 * sizeof(float)) == 0);
                assert_se(memcmp(clean + 10 * 128, spoilt + 10 * 128, 128 * sizeof(float)) != 0);
                assert_se(memcmp(clean + 32 * 128, spoilt + 32 * 128, 32 * 128 * sizeof(float)) == 0);
                device_deinit(&d);
        }
}
