/* SPDX-License-Identifier: MIT */
#include "calibration.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "engine.h"
#include "gguf-builder.h"
#include "kv.h"
#include "test.h"
#include "tiny.h"

/* Of the tiny model (tiny.h). */
enum { LAYERS = TINY_LAYERS, USED = TINY_EXPERTS_USED, LINES = 8 * (USED - 1) + 1, WIDTH = 32, FINGERPRINT = 4711 };

static uint16_t shares[LINES][LAYERS];
static float error[LINES][LAYERS], weight[LAYERS][WIDTH], bias[LAYERS];

static struct arch_model arch = {
        .moe_layers = LAYERS, .params = { .layers = LAYERS, .hidden = WIDTH, .experts_used = USED },
};

/* As if the last layer needed most. */
static void fill(void) {
        for (int i = 0; i < LINES; i++)
                for (int l = 0; l < LAYERS; l++) {
                        shares[i][l] = (uint16_t) (8 + i);
                        error[i][l] = (float) (LINES - i);
                }
        shares[4][0]--;
        shares[4][2]++;
        for (int l = 0; l < LAYERS; l++) {
                bias[l] = 1.5f * (float) l;
                for (int i = 0; i < WIDTH; i++)
                        weight[l][i] = (float) (l * i);
        }
}

static const struct calibration good = {
        .plan = { .layers = LAYERS, .experts_used = USED, .shares = &shares[0][0] },
        .error = &error[0][0],
        .predictor = { .layer = 1, .width = WIDTH, .weight = &weight[0][0], .bias = bias },
        .tokens = 1000,
};

/* A file that differs from a good one in what a test says. */
struct file {
        uint64_t version, layers, used, fingerprint;
        const char *omit_key, *omit_tensor, *retype;
        uint64_t layer;
        int64_t plan_cols;
};

#define FILE_GOOD \
        { .version = 1, .layers = LAYERS, .used = USED, .fingerprint = FINGERPRINT, .layer = 1, .plan_cols = LAYERS }

static void key(struct gguf_builder *b, const struct file *f, const char *name, uint64_t value) {
        if (f->omit_key && strcmp(f->omit_key, name) == 0)
                return;
        gguf_builder_key(b, name, GGUF_U64);
        bytes_u64(&b->pairs, value);
}

static void tensor(struct gguf_builder *b, const struct file *f, const char *name, uint32_t type, uint64_t cols,
                   uint64_t rows, const void *data, size_t size) {
        uint64_t dims[] = { cols, rows };

        if (f->omit_tensor && strcmp(f->omit_tensor, name) == 0)
                return;
        if (f->retype && strcmp(f->retype, name) == 0)
                type = type == 0 ? 26 : 1;
        gguf_builder_tensor(b, name, type, 2, dims, data, size);
}

static int read_file(struct calibration *ret, const struct file *f, struct reason *reason) {
        struct gguf_builder b = GGUF_BUILDER_INIT;
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        uint8_t *data;
        size_t size;
        int r;

        key(&b, f, "calibration.version", f->version);
        key(&b, f, "calibration.model", f->fingerprint);
        key(&b, f, "calibration.moe_layers", f->layers);
        key(&b, f, "calibration.experts_used", f->used);
        key(&b, f, "calibration.tokens", 1000);
        key(&b, f, "calibration.predictor.layer", f->layer);
        tensor(&b, f, "plan", 25, (uint64_t) f->plan_cols, LINES, shares, sizeof(shares));
        tensor(&b, f, "error", 0, LAYERS, LINES, error, sizeof(error));
        tensor(&b, f, "predictor.weight", 0, WIDTH, LAYERS, weight, sizeof(weight));
        tensor(&b, f, "predictor.bias", 0, LAYERS, 1, bias, sizeof(bias));
        data = gguf_builder_finish(&b, &size);
        assert_se(gguf_open_memory(&g, data, size, "side-car", reason) == 0);
        r = calibration_read(ret, g, FINGERPRINT, &arch, reason);
        gguf_free(g);
        g = NULL;
        free(data);
        return r;
}

static void refused(const struct file *f, const char *why) {
        struct calibration c = CALIBRATION_NULL;
        struct reason reason = REASON_INIT;

        assert_se(read_file(&c, f, &reason) == CALIBRATION_E_REFUSED);
        assert_se(!c.plan.shares && !c.error && !c.predictor.weight);
        if (!strstr(reason.text, why))
                fprintf(stderr, "%s\n", reason.text);
        assert_se(strstr(reason.text, why) && strstr(reason.text, "side-car"));
}

TEST(lies_beside_the_model_under_its_name) {
        static const char *const names[][2] = {
                { "/a/demo.gguf", "/a/demo.calibration.gguf" },
                { "x-00001-of-00002.gguf", "x-00001-of-00002.calibration.gguf" },
                { "weights", "weights.calibration.gguf" },
                { ".gguf", ".gguf.calibration.gguf" },
        };

        for (size_t i = 0; i < ELEMENTS(names); i++) {
                char *path = calibration_path(names[i][0]);

                assert_se(path && strcmp(path, names[i][1]) == 0);
                free(path);
        }
}

TEST(what_a_file_says_is_read_whole_and_copied) {
        struct calibration c = CALIBRATION_NULL;
        struct reason reason = REASON_INIT;

        fill();
        assert_se(read_file(&c, &(struct file) FILE_GOOD, &reason) == 0);
        assert_se(c.tokens == 1000 && c.plan.layers == LAYERS && c.plan.experts_used == USED);
        assert_se(memcmp(c.plan.shares, shares, sizeof(shares)) == 0 && memcmp(c.error, error, sizeof(error)) == 0);
        assert_se(c.predictor.layer == 1 && c.predictor.width == WIDTH);
        assert_se(memcmp(c.predictor.weight, weight, sizeof(weight)) == 0);
        assert_se(memcmp(c.predictor.bias, bias, sizeof(bias)) == 0);
        calibration_deinit(&c);
}

TEST(there_need_be_no_predictor) {
        struct file f = FILE_GOOD;
        struct calibration c = CALIBRATION_NULL;

        fill();
        f.omit_tensor = "predictor.weight";
        assert_se(read_file(&c, &f, NULL) == 0);
        assert_se(c.plan.shares && !c.predictor.weight && !c.predictor.bias);
        calibration_deinit(&c);
}

TEST(what_is_of_another_model_or_version_is_refused) {
        struct file f = FILE_GOOD;

        fill();
        f.fingerprint++;
        refused(&f, "another model");
        f = (struct file) FILE_GOOD;
        f.version = 2;
        refused(&f, "version 2");
        f = (struct file) FILE_GOOD;
        f.layers++;
        refused(&f, "moe_layers");
        f = (struct file) FILE_GOOD;
        f.used = UINT64_MAX;
        refused(&f, "experts_used");
}

TEST(what_is_missing_or_of_another_shape_is_refused) {
        static const char *const keys[] = {
                "calibration.version", "calibration.model", "calibration.moe_layers", "calibration.experts_used",
                "calibration.tokens", "calibration.predictor.layer",
        };
        static const char *const tensors[] = { "plan", "error", "predictor.weight", "predictor.bias" };
        struct file f;

        fill();
        for (size_t i = 0; i < ELEMENTS(keys); i++) {
                f = (struct file) FILE_GOOD;
                f.omit_key = keys[i];
                refused(&f, keys[i]);
        }
        for (size_t i = 0; i < ELEMENTS(tensors); i++) {
                f = (struct file) FILE_GOOD;
                f.retype = tensors[i];
                refused(&f, tensors[i]);
                f.retype = NULL;
                f.omit_tensor = tensors[i];
                if (i != 2) /* whose absence means that there is no predictor */
                        refused(&f, tensors[i]);
        }
        f = (struct file) FILE_GOOD;
        f.plan_cols = LAYERS - 1;
        refused(&f, "plan");
        f = (struct file) FILE_GOOD;
        f.layer = LAYERS;
        refused(&f, "predictor.layer");
        f.layer = UINT64_MAX;
        refused(&f, "predictor.layer");
}

TEST(shares_that_break_the_budget_or_leave_the_range_are_refused) {
        struct file f = FILE_GOOD;

        fill();
        shares[5][1]++;
        refused(&f, "line 5");
        fill();
        shares[0][0] = 7;
        shares[0][1] = 9;
        refused(&f, "7 eighths");
        fill();
        shares[LINES - 1][0]++;
        shares[LINES - 1][1]--;
        refused(&f, "25 eighths");
        fill();
        shares[2][0] = UINT16_MAX;
        refused(&f, "line 2");
}

TEST(numbers_that_are_none_are_refused) {
        struct file f = FILE_GOOD;

        fill();
        error[3][1] = NAN;
        refused(&f, "error");
        fill();
        weight[2][31] = -INFINITY;
        refused(&f, "predictor.weight");
        fill();
        bias[0] = NAN;
        refused(&f, "predictor.bias");
}

TEST(a_model_without_experts_has_no_calibration) {
        struct file f = FILE_GOOD;

        fill();
        arch.moe_layers = 0;
        refused(&f, "no layer with experts");
}

/* Beside the tiny model of this test. */
static const char *side_car(const char *model) {
        static char path[64];
        char *p = calibration_path(model);

        assert_se(p && strlen(p) < sizeof(path));
        strcpy(path, p);
        free(p);
        return path;
}

static uint64_t fingerprint_of(const char *model) {
        struct gguf *g;
        uint64_t fingerprint;

        assert_se(gguf_open(&g, model, NULL) == 0);
        fingerprint = gguf_fingerprint(g);
        gguf_free(g);
        return fingerprint;
}

static enum model_calibration state_of(const char *model, bool *ret_why) {
        struct model_file *file;
        enum model_calibration state;
        const char *why;

        assert_se(model_file_open(&file, model, NULL) == 0);
        state = model_file_calibration(file, &why);
        *ret_why = why[0];
        model_file_unref(file);
        return state;
}

TEST(is_loaded_with_the_model_if_it_fits_and_else_the_model_without_it) {
        const char *model = tiny_write(&(struct tiny) { 0 }), *path = side_car(model);
        struct calibration plain = good;
        bool why;
        FILE *f;

        fill();
        assert_se(state_of(model, &why) == MODEL_CALIBRATION_NONE && !why);
        assert_se(calibration_write(&good, fingerprint_of(model), path, false) == 0);
        assert_se(state_of(model, &why) == MODEL_CALIBRATION_PREDICTOR && !why);
        plain.predictor.weight = NULL;
        assert_se(calibration_write(&plain, fingerprint_of(model), path, false) == -EEXIST);
        assert_se(calibration_write(&plain, fingerprint_of(model), path, true) == 0);
        assert_se(state_of(model, &why) == MODEL_CALIBRATION_PLAN && !why);
        assert_se(calibration_write(&good, fingerprint_of(model) + 1, path, true) == 0);
        assert_se(state_of(model, &why) == MODEL_CALIBRATION_REFUSED && why);
        f = fopen(path, "w");
        assert_se(f && fputs("no such thing", f) >= 0 && fclose(f) == 0);
        assert_se(state_of(model, &why) == MODEL_CALIBRATION_REFUSED && why);
        assert_se(truncate(path, 0) == 0 && state_of(model, &why) == MODEL_CALIBRATION_REFUSED && why);
        assert_se(unlink(path) == 0 && mkdir(path, 0700) == 0);
        assert_se(state_of(model, &why) == MODEL_CALIBRATION_REFUSED && why);
        assert_se(rmdir(path) == 0 && symlink("/nowhere/at/all", path) == 0);
        assert_se(state_of(model, &why) == MODEL_CALIBRATION_NONE);
        assert_se(unlink(path) == 0);
}

TEST(a_model_with_another_calibration_is_another_model) {
        const char *model = tiny_write(&(struct tiny) { 0 }), *path = side_car(model);
        struct model_file *before, *after;

        fill();
        assert_se(model_file_open(&before, model, NULL) == 0 && !model_file_changed(before, model));
        assert_se(calibration_write(&good, fingerprint_of(model), path, false) == 0);
        assert_se(model_file_changed(before, model));
        assert_se(model_file_open(&after, model, NULL) == 0 && !model_file_changed(after, model));
        assert_se(!model_file_same(before, after) && model_file_same(after, after));
        assert_se(calibration_write(&good, fingerprint_of(model), path, true) == 0 && model_file_changed(after, model));
        assert_se(unlink(path) == 0 && model_file_changed(after, model) && !model_file_changed(before, model));
        model_file_unref(before);
        model_file_unref(after);
}

TEST(the_fingerprint_tells_models_apart_by_metadata_and_by_weights) {
        const char *model = tiny_write(&(struct tiny) { 0 });
        uint64_t fingerprint = fingerprint_of(model);
        struct stat st;
        FILE *f;

        assert_se(fingerprint_of(tiny_write(&(struct tiny) { 0 })) == fingerprint);
        assert_se(fingerprint_of(tiny_write(&(struct tiny) { .key = "context_length", .value = 99 })) != fingerprint);
        model = tiny_write(&(struct tiny) { 0 });
        assert_se(stat(model, &st) == 0 && (f = fopen(model, "r+")) && fseek(f, st.st_size / 2, SEEK_SET) == 0);
        assert_se(fputc('!', f) == '!' && fclose(f) == 0 && fingerprint_of(model) != fingerprint);
}

enum { ROWS = 60, CAP = 1500 };

/* Which experts the rows of a text used. */
struct uses {
        int32_t counts[LAYERS][ROWS];
        uint32_t rows; /* seen in the steps before */
        float logits[TINY_VOCAB];
};

static void see(const struct step_view *view, void *context) {
        struct uses *uses = context;

        memcpy(uses->counts[view->layer] + uses->rows, view->expert_counts, view->rows * sizeof(int32_t));
}

/* A text on the tiny model with what lies beside it; and a neighbour of it that takes other caps. */
struct pair {
        struct model *model;
        struct step *step, *beside;
        struct step_part parts[2];
        struct step_budget budgets[2][ROWS];
        uint32_t none[ROWS];
        int32_t tokens[ROWS];
};

static void pair_init(struct pair *p, const char *path, struct backend *b) {
        const struct model_options options = { .kv_type = QUANT_F32, .kv_bytes = 1 << 20, .rows_max = 2 * ROWS };

        *p = (struct pair) { 0 };
        assert_se(model_open(&p->model, b, path, &options, NULL) == 0 && step_new(&p->step, p->model) == 0);
        assert_se(step_new_beside(&p->beside, p->step, ROWS) == 0);
        for (int i = 0; i < ROWS; i++) {
                p->tokens[i] = (i * i * 3 + i / 4) % TINY_VOCAB;
                p->budgets[0][i] = (struct step_budget) { .cap_milli = CAP, .min_milli = 1000 };
                p->budgets[1][i] = (struct step_budget) { .cap_milli = 2250, .min_milli = 1000 };
        }
        for (int i = 0; i < 2; i++) {
                p->parts[i] = (struct step_part) { .allowances = p->none, .budgets = p->budgets[i], .logits = 1 };
                assert_se(sequence_new(&p->parts[i].sequence, p->model) == 0);
                assert_se(sequence_reserve(p->parts[i].sequence, ROWS) == 0);
        }
}

static void pair_deinit(struct pair *p) {
        step_free(p->beside);
        step_free(p->step);
        sequence_free(p->parts[0].sequence);
        sequence_free(p->parts[1].sequence);
        model_free(p->model);
}

/* Between any two layers of ours the neighbour has a step of its own, of one row. */
static void run_interrupted(struct pair *p) {
        int r;

        assert_se(step_begin(p->step, &p->parts[0], 1) == 0);
        while ((r = step_advance(p->step)) == 1) {
                p->parts[1].count = 1;
                if (sequence_length(p->parts[1].sequence) < ROWS)
                        assert_se(step_run(p->beside, &p->parts[1], 1) == 0);
        }
        assert_se(r == 0);
}

/* So many rows at a time, beside the neighbour's in a step, or with its steps in between. */
static void use(const char *path, struct backend *b, uint32_t chunk, bool interrupted, struct uses *ret) {
        const struct step_observer observer = { .layer = see, .context = ret };
        struct pair p;

        pair_init(&p, path, b);
        assert_se(step_observe(p.step, &observer) == 0);
        for (ret->rows = 0; ret->rows < ROWS; ret->rows += p.parts[0].count) {
                p.parts[0].count = p.parts[1].count = MIN(chunk, ROWS - ret->rows);
                p.parts[0].tokens = p.tokens + ret->rows;
                p.parts[1].tokens = p.tokens + sequence_length(p.parts[1].sequence) % (ROWS - chunk + 1);
                if (interrupted)
                        run_interrupted(&p);
                else /* the neighbour's rows come behind ours, where the next of ours will be put over them */
                        assert_se(step_run(p.step, p.parts, ret->rows + 2 * p.parts[0].count <= ROWS ? 2 : 1) == 0);
        }
        memcpy(ret->logits, p.parts[0].logits_out, sizeof(ret->logits));
        pair_deinit(&p);
}

TEST(a_predictor_moves_experts_between_tokens_and_no_layer_passes_its_share) {
        const char *model = tiny_write(&(struct tiny) { 0 }), *path = side_car(model);
        static struct uses plain, predicted, others[2];
        struct calibration c = good;
        struct backend *b;

        fill();
        c.predictor.weight = NULL;
        assert_se(backend_ref_new(&b) == 0);
        assert_se(calibration_write(&c, fingerprint_of(model), path, false) == 0);
        use(model, b, ROWS, false, &plain);
        for (int l = 0; l < LAYERS; l++)
                for (int i = 0; i < WIDTH; i++)
                        weight[l][i] = (float) ((i * 7 + l * 3) % 11 - 5) / 4.0f;
        memset(bias, 0, sizeof(bias));
        assert_se(calibration_write(&good, fingerprint_of(model), path, true) == 0);
        use(model, b, ROWS, false, &predicted);
        use(model, b, 7, false, &others[0]);
        use(model, b, 13, true, &others[1]);
        unlink(path);
        /* It looks behind layer 1: nothing changes up to there, and something in the last. */
        assert_se(memcmp(plain.counts, predicted.counts, 2 * sizeof(plain.counts[0])) == 0);
        assert_se(memcmp(plain.counts[2], predicted.counts[2], sizeof(plain.counts[2])) != 0);
        for (uint32_t l = 0; l < LAYERS; l++) {
                uint64_t sum = 0;

                for (uint32_t i = 0; i < ROWS; i++) {
                        sum += (uint64_t) predicted.counts[l][i];
                        assert_se(1000 * sum <= (uint64_t) expert_plan_milli(&good.plan, CAP, l) * (i + 1));
                        assert_se(predicted.counts[l][i] >= 1);
                }
        }
        for (int i = 0; i < 2; i++) {
                assert_se(memcmp(predicted.counts, others[i].counts, sizeof(others[i].counts)) == 0);
                assert_se(memcmp(predicted.logits, others[i].logits, sizeof(others[i].logits)) == 0);
        }
        b->ops->free(b);
}
