/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "convert.h"
#include "gguf-builder.h"
#include "quant.h"
#include "test.h"

static atomic_bool stop;
/* The bytes of the sources of a test: they must outlive what is opened on them. */
static uint8_t *kept[4];
static unsigned n_kept;

static void free_kept(void) {
        while (n_kept > 0)
                free(kept[--n_kept]);
}

/* A matrix of 64 columns, one of 48, a norm, a router, whole numbers, and metadata of every kind. */
static struct gguf *source(float first) {
        static const uint64_t wide[] = {64, 2}, narrow[] = {48, 2}, vector[] = {64}, ids[] = {8, 2};
        struct gguf_builder b = GGUF_BUILDER_INIT;
        float values[128] = {first, -0.5f};
        int32_t numbers[16] = {7};
        struct gguf *g;
        uint8_t *data;
        size_t size;

        gguf_builder_string(&b, "general.architecture", "qwen3moe");
        gguf_builder_u32(&b, "general.file_type", 0);
        gguf_builder_strings(&b, "words", (const char *const[]){"a", "", "ccc"}, 3);
        gguf_builder_i32s(&b, "numbers", (const int32_t[]){1, -2, 3}, 3);
        gguf_builder_u32(&b, "split.count", 1);
        gguf_builder_bool(&b, "yes", true);
        gguf_builder_tensor(&b, "wide.weight", QUANT_F32, 2, wide, values, sizeof(values));
        gguf_builder_tensor(&b, "narrow.weight", QUANT_F32, 2, narrow, values, 96 * sizeof(float));
        gguf_builder_tensor(&b, "x_norm.weight", QUANT_F32, 1, vector, values, 64 * sizeof(float));
        gguf_builder_tensor(&b, "blk.0.ffn_gate_inp.weight", QUANT_F32, 2, wide, values, sizeof(values));
        gguf_builder_tensor(&b, "ids.weight", QUANT_I32, 2, ids, numbers, sizeof(numbers));
        data = gguf_builder_finish(&b, &size);
        assert_se(gguf_open_memory(&g, data, size, "source.gguf", NULL) == 0);
        assert_se(n_kept < 4);
        if (n_kept == 0)
                atexit(free_kept);
        kept[n_kept++] = data;
        return g;
}

static const char *place(const char *name) {
        static char path[128];

        snprintf(path, sizeof(path), "/tmp/moed-convert-%d-%s", (int) getpid(), name);
        return path;
}

static uint32_t type_in(const struct gguf *g, const char *name) {
        return gguf_tensor(g, name)->type;
}

TEST(matrices_change_their_type_and_all_else_stays) {
        _cleanup_(gguf_freep) struct gguf *g = source(2.0f), *made = NULL;
        const char *path = place("types");
        struct gguf_array words;
        uint32_t number;
        float back[64];
        bool yes;

        assert_se(convert_file(g, QUANT_Q8_0, path, false, &stop, NULL) == 0);
        assert_se(gguf_open(&made, path, NULL) == 0);
        unlink(path);
        assert_se(type_in(made, "wide.weight") == QUANT_Q8_0 && type_in(made, "narrow.weight") == QUANT_F16);
        assert_se(type_in(made, "x_norm.weight") == QUANT_F32 && type_in(made, "ids.weight") == QUANT_I32);
        assert_se(type_in(made, "blk.0.ffn_gate_inp.weight") == QUANT_F32);
        quant_info(QUANT_Q8_0)->dequantize(back, gguf_tensor(made, "wide.weight")->data, 64);
        assert_se(fabsf(back[0] - 2.0f) < 1e-3f && fabsf(back[1] + 0.5f) < 1e-2f && back[2] == 0.0f);
        assert_se(memcmp(gguf_tensor(made, "ids.weight")->data, &(int32_t){7}, 4) == 0);
        assert_se(gguf_get_array(made, "words", &words, NULL) == 0 && words.n == 3);
        assert_se(gguf_string_equal(gguf_array_string(&words, 2), "ccc"));
        assert_se(gguf_get_bool(made, "yes", &yes, NULL) == 0 && yes && !gguf_has(made, "split.count"));
        assert_se(gguf_get_u32(made, "general.file_type", &number, NULL) == 0 && number == 7);
}

TEST(same_type_gives_the_same_tensors) {
        _cleanup_(gguf_freep) struct gguf *g = source(2.0f), *made = NULL;
        const char *path = place("same");

        assert_se(convert_file(g, QUANT_F32, path, false, &stop, NULL) == 0);
        assert_se(gguf_open(&made, path, NULL) == 0);
        unlink(path);
        for (size_t i = 0; i < gguf_n_tensors(g); i++) {
                const struct gguf_tensor *a = gguf_tensor_at(g, i), *b = gguf_tensor_at(made, i);

                assert_se(a->size == b->size && a->type == b->type && memcmp(a->data, b->data, a->size) == 0);
        }
}

TEST(file_that_is_there_is_replaced_only_when_asked) {
        _cleanup_(gguf_freep) struct gguf *g = source(2.0f);
        const char *path = place("there");
        struct stat before, after;

        assert_se(convert_file(g, QUANT_F16, path, false, &stop, NULL) == 0 && stat(path, &before) == 0);
        assert_se(convert_file(g, QUANT_F32, path, false, &stop, NULL) == -EEXIST && stat(path, &after) == 0);
        assert_se(before.st_size == after.st_size && before.st_ino == after.st_ino);
        assert_se(convert_file(g, QUANT_F32, path, true, &stop, NULL) == 0 && stat(path, &after) == 0);
        assert_se(after.st_size > before.st_size);
        unlink(path);
}

TEST(values_that_do_not_fit_are_refused_with_the_tensor_and_leave_no_file) {
        static const float bad[] = {NAN, INFINITY, 1e6f};
        struct reason reason = REASON_INIT;

        for (size_t i = 0; i < 3; i++) {
                _cleanup_(gguf_freep) struct gguf *g = source(bad[i]);
                const char *path = place("bad");

                assert_se(convert_file(g, QUANT_F16, path, false, &stop, &reason) == CONVERT_E_REFUSED);
                assert_se(strstr(reason.text, "wide.weight") && access(path, F_OK) < 0);
        }
}

TEST(conversion_that_is_stopped_leaves_no_file) {
        _cleanup_(gguf_freep) struct gguf *g = source(2.0f);
        const char *path = place("stopped");

        atomic_store(&stop, true);
        assert_se(convert_file(g, QUANT_F16, path, false, &stop, NULL) == -EINTR && access(path, F_OK) < 0);
        atomic_store(&stop, false);
}

TEST(disk_that_is_full_is_an_error) {
        _cleanup_(gguf_freep) struct gguf *g = source(2.0f);
        _cleanup_(fclosep) FILE *full = fopen("/dev/full", "w");

        assert_se(full && convert_write(g, QUANT_F16, full, &stop, NULL) == -ENOSPC);
}

TEST(types_that_cannot_be_made_are_refused_with_those_that_can) {
        struct reason reason = REASON_INIT;
        uint32_t type;

        assert_se(convert_type("q8_0", &type, &reason) == 0 && type == QUANT_Q8_0);
        assert_se(convert_type("Q4_K", &type, &reason) == CONVERT_E_REFUSED);
        assert_se(strstr(reason.text, "Q4_K") && strstr(reason.text, "Q8_0"));
}
