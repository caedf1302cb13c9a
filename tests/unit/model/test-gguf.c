/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "gguf-builder.h"
#include "gguf.h"
#include "quant.h"
#include "test.h"

enum { F32 = 0, Q4_0 = 2, Q4_K = 12 };

static const uint64_t row_of_8[] = { 8 };
static const float eight[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };

/* Opens what the builder holds and expects the refusal to mention `word`. */
static void refused(struct gguf_builder *b, const char *word) {
        struct reason reason = REASON_INIT;
        struct gguf *g = NULL;
        size_t size;
        uint8_t *data = gguf_builder_finish(b, &size);

        assert_se(gguf_open_memory(&g, data, size, "dir/made.gguf", &reason) == GGUF_E_INVALID);
        assert_se(!g);
        if (!strstr(reason.text, word) || strncmp(reason.text, "made.gguf: ", 11) != 0)
                fprintf(stderr, "'%s' lacks '%s'\n", reason.text, word);
        assert_se(strstr(reason.text, word));
        assert_se(strncmp(reason.text, "made.gguf: ", 11) == 0);
        /* Refused is refused also for who does not want to know why. */
        assert_se(gguf_open_memory(&g, data, size, "made.gguf", NULL) == GGUF_E_INVALID);
        free(data);
}

static struct gguf *opened(struct gguf_builder *b, uint8_t **ret_data) {
        struct reason reason = REASON_INIT;
        struct gguf *g = NULL;
        size_t size;
        int r;

        *ret_data = gguf_builder_finish(b, &size);
        r = gguf_open_memory(&g, *ret_data, size, "made.gguf", &reason);
        if (r)
                fprintf(stderr, "%s\n", reason.text);
        assert_se(r == 0);
        return g;
}

TEST(gguf_reads_what_was_written) {
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        _cleanup_(freep) uint8_t *data = NULL;
        struct gguf_builder b = GGUF_BUILDER_INIT;
        static const char *const words[] = { "one", "", "three" };
        const struct gguf_tensor *t;
        struct gguf_array a;
        struct gguf_string s;
        enum gguf_type type;
        uint32_t u;
        float f;
        bool flag;

        gguf_builder_u32(&b, "a.number", 7);
        gguf_builder_f32(&b, "a.float", 1.5f);
        gguf_builder_bool(&b, "a.bool", true);
        gguf_builder_string(&b, "a.string", "text");
        gguf_builder_strings(&b, "a.list", words, ELEMENTS(words));
        gguf_builder_tensor(&b, "first", F32, 1, row_of_8, eight, sizeof(eight));
        gguf_builder_tensor(&b, "second", F32, 1, row_of_8, eight, sizeof(eight));
        g = opened(&b, &data);

        assert_se(gguf_version(g) == 3 && gguf_alignment(g) == 32);
        assert_se(strcmp(gguf_name(g), "made.gguf") == 0);
        assert_se(gguf_n_keys(g) == 5 && gguf_n_tensors(g) == 2 && gguf_n_files(g) == 1);
        assert_se(gguf_get_u32(g, "a.number", &u, NULL) == 0 && u == 7);
        assert_se(gguf_get_f32(g, "a.float", &f, NULL) == 0 && f == 1.5f);
        assert_se(gguf_get_bool(g, "a.bool", &flag, NULL) == 0 && flag);
        assert_se(gguf_get_string(g, "a.string", &s, NULL) == 0 && gguf_string_equal(s, "text"));
        assert_se(gguf_get_array(g, "a.list", &a, NULL) == 0 && a.n == 3 && a.type == GGUF_STRING);
        for (size_t i = 0; i < ELEMENTS(words); i++)
                assert_se(gguf_string_equal(gguf_array_string(&a, i), words[i]));
        assert_se(gguf_string_equal(gguf_key(g, 3, &type), "a.string") && type == GGUF_STRING);
        t = gguf_tensor(g, "second");
        assert_se(t && t == gguf_tensor_at(g, 1) && t->n_dims == 1 && t->dims[0] == 8 && t->dims[1] == 1);
        assert_se(t->size == sizeof(eight) && memcmp(t->data, eight, sizeof(eight)) == 0);
        assert_se((const uint8_t *) t->data == gguf_file(g, t->file)->data + t->offset);
        assert_se((uintptr_t) t->data % 32 == 0);
        assert_se(!gguf_tensor(g, "third") && !gguf_has(g, "a.nothing"));
}

/* Whether a page is mapped there. */
static bool is_mapped(const uint8_t *page) {
        return msync((void *) page, 1, MS_ASYNC) == 0;
}

TEST(a_large_file_is_mapped_as_its_huge_pages_lie_and_nothing_beside_it) {
        static const size_t paddings[] = { 0, 1, 4096, 1 << 20 };
        const size_t huge = 2 << 20, page = (size_t) sysconf(_SC_PAGESIZE);

        for (size_t i = 0; i < ELEMENTS(paddings); i++) {
                struct gguf_builder b = GGUF_BUILDER_INIT;
                char path[] = "/tmp/moed-gguf-XXXXXX";
                int fd = mkstemp(path);
                const uint8_t *data, *end;
                struct gguf *g;
                size_t size;
                uint8_t *made;

                gguf_builder_tensor(&b, "a", F32, 1, row_of_8, eight, sizeof(eight));
                made = gguf_builder_finish(&b, &size);
                assert_se(write(fd, made, size) == (ssize_t) size && ftruncate(fd, (off_t) (huge + paddings[i])) == 0);
                free(made);
                close(fd);
                assert_se(gguf_open(&g, path, NULL) == 0);
                unlink(path);
                data = gguf_file(g, 0)->data;
                end = data + (huge + paddings[i] + page - 1) / page * page;
                assert_se((uintptr_t) data % huge == 0);
                assert_se(memcmp(gguf_tensor(g, "a")->data, eight, sizeof(eight)) == 0);
                assert_se(is_mapped(end - page) && end[-1] == 0);
                gguf_free(g);
                for (const uint8_t *p = data; p < end; p += page)
                        assert_se(!is_mapped(p));
        }
}

TEST(gguf_getters_take_any_integer_that_fits_and_no_other) {
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        _cleanup_(freep) uint8_t *data = NULL;
        struct gguf_builder b = GGUF_BUILDER_INIT;
        struct reason reason = REASON_INIT;
        struct gguf_string s;
        struct gguf_array a;
        uint64_t u64;
        int64_t i64;
        uint32_t u32 = 42;
        bool flag;
        float f;

        gguf_builder_key(&b, "i8", GGUF_I8);
        bytes_u8(&b.pairs, 0xff);
        gguf_builder_key(&b, "u8", GGUF_U8);
        bytes_u8(&b.pairs, 0xff);
        gguf_builder_key(&b, "u64", GGUF_U64);
        bytes_u64(&b.pairs, UINT64_MAX);
        gguf_builder_key(&b, "i64", GGUF_I64);
        bytes_u64(&b.pairs, (uint64_t) INT64_MIN);
        gguf_builder_f32(&b, "f32", 2);
        gguf_builder_string(&b, "string", "x");
        g = opened(&b, &data);

        assert_se(gguf_get_u32(g, "u8", &u32, NULL) == 0 && u32 == 255);
        assert_se(gguf_get_i64(g, "i8", &i64, NULL) == 0 && i64 == -1);
        assert_se(gguf_get_i64(g, "i64", &i64, NULL) == 0 && i64 == INT64_MIN);
        assert_se(gguf_get_u64(g, "u64", &u64, NULL) == 0 && u64 == UINT64_MAX);
        assert_se(gguf_get_f32(g, "i8", &f, NULL) == 0 && f == -1);
        assert_se(gguf_get_u32(g, "i8", &u32, &reason) == GGUF_E_TYPE && u32 == 255);
        assert_se(strstr(reason.text, "'i8' is -1"));
        assert_se(gguf_get_u32(g, "u64", &u32, &reason) == GGUF_E_TYPE);
        assert_se(gguf_get_i64(g, "u64", &i64, NULL) == GGUF_E_TYPE);
        assert_se(gguf_get_u64(g, "f32", &u64, &reason) == GGUF_E_TYPE && strstr(reason.text, "f32"));
        assert_se(gguf_get_u32(g, "string", &u32, &reason) == GGUF_E_TYPE && strstr(reason.text, "string"));
        assert_se(gguf_get_bool(g, "u8", &flag, NULL) == GGUF_E_TYPE);
        assert_se(gguf_get_string(g, "u8", &s, NULL) == GGUF_E_TYPE);
        assert_se(gguf_get_array(g, "string", &a, NULL) == GGUF_E_TYPE);
        assert_se(gguf_get_u32(g, "none", &u32, &reason) == GGUF_E_MISSING && strstr(reason.text, "'none'"));
        assert_se(gguf_get_u32_or(g, "none", 5, &u32, NULL) == 0 && u32 == 5);
        assert_se(gguf_get_f32_or(g, "none", 0.5f, &f, NULL) == 0 && f == 0.5f);
        assert_se(gguf_get_bool_or(g, "string", true, &flag, NULL) == GGUF_E_TYPE);
}

TEST(gguf_arrays_of_numbers_are_read_unaligned_and_by_value) {
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        _cleanup_(freep) uint8_t *data = NULL;
        struct gguf_builder b = GGUF_BUILDER_INIT;
        static const int32_t numbers[] = { -1, 0, INT32_MAX };
        static const float floats[] = { 0.25f, -4 };
        struct gguf_array a;
        int64_t i64;
        double f64;
        bool flag;

        gguf_builder_i32s(&b, "odd", numbers, ELEMENTS(numbers));
        gguf_builder_f32s(&b, "floats", floats, ELEMENTS(floats));
        gguf_builder_key(&b, "bools", GGUF_ARRAY);
        bytes_u32(&b.pairs, GGUF_BOOL);
        bytes_u64(&b.pairs, 2);
        bytes_append(&b.pairs, "\0\1", 2);
        g = opened(&b, &data);
        assert_se(gguf_get_array(g, "odd", &a, NULL) == 0 && a.n == 3);
        for (size_t i = 0; i < a.n; i++)
                assert_se(gguf_array_i64(&a, i, &i64) && i64 == numbers[i]);
        assert_se(!gguf_array_bool(&a, 0, &flag));
        assert_se(gguf_get_array(g, "floats", &a, NULL) == 0);
        assert_se(gguf_array_f64(&a, 1, &f64) && f64 == -4 && !gguf_array_i64(&a, 0, &i64));
        assert_se(gguf_get_array(g, "bools", &a, NULL) == 0);
        assert_se(gguf_array_bool(&a, 0, &flag) && !flag && gguf_array_bool(&a, 1, &flag) && flag);
}

TEST(gguf_refuses_a_wrong_magic_version_or_byte_order) {
        struct gguf_builder b = GGUF_BUILDER_INIT;
        struct reason reason = REASON_INIT;
        struct gguf *g;
        uint8_t _Alignas(64) data[64] = "GGML";

        assert_se(gguf_open_memory(&g, data, sizeof(data), "x", &reason) == GGUF_E_INVALID);
        assert_se(strstr(reason.text, "not a GGUF file"));
        b.version = 1;
        refused(&b, "version 1");
        b.version = 4;
        refused(&b, "version 4");
        b.version = 0;
        refused(&b, "version 0");
        b.version = 0x03000000;
        refused(&b, "big-endian");
}

TEST(gguf_refuses_every_truncation) {
        struct gguf_builder b = GGUF_BUILDER_INIT;
        static const char *const words[] = { "one", "two" };
        static const int32_t numbers[] = { 1, 2 };
        _cleanup_(freep) uint8_t *data = NULL;
        size_t size;

        gguf_builder_u32(&b, "number", 7);
        gguf_builder_string(&b, "string", "text");
        gguf_builder_strings(&b, "list", words, 2);
        gguf_builder_i32s(&b, "numbers", numbers, 2);
        gguf_builder_tensor(&b, "tensor", F32, 1, row_of_8, eight, sizeof(eight));
        data = gguf_builder_finish(&b, &size);
        for (size_t n = 0; n < size; n++) {
                /* A buffer of exactly that size, so that a checker of memory sees a read past it. */
                uint8_t *cut = aligned_alloc(64, (n + 64) / 64 * 64), *end = cut + (n + 64) / 64 * 64 - n;
                struct reason reason = REASON_INIT;
                struct gguf *g;

                memset(cut, 0xff, (size_t) (end - cut));
                memcpy(cut, data, n);
                assert_se(gguf_open_memory(&g, cut, n, "cut", &reason) == GGUF_E_INVALID);
                assert_se(reason.text[0] != '\0');
                free(cut);
        }
}

TEST(gguf_refuses_counts_that_the_file_cannot_hold) {
        struct gguf_builder b = GGUF_BUILDER_INIT;

        b.n_pairs = UINT64_MAX;
        refused(&b, "announces 18446744073709551615 keys");
        b.n_pairs = 1000;
        refused(&b, "announces 1000 keys");
        b.n_tensors = UINT64_MAX / 2;
        refused(&b, "tensors, more than the file can hold");
        gguf_builder_key(&b, "list", GGUF_ARRAY);
        bytes_u32(&b.pairs, GGUF_F64);
        bytes_u64(&b.pairs, UINT64_MAX / 8 + 2); /* times 8 wraps to a small number */
        bytes_u64(&b.pairs, 0);
        refused(&b, "'list' announces");
        gguf_builder_key(&b, "strings", GGUF_ARRAY);
        bytes_u32(&b.pairs, GGUF_STRING);
        bytes_u64(&b.pairs, UINT64_MAX / 8 + 1);
        bytes_u64(&b.pairs, 0);
        refused(&b, "'strings' announces");
}

TEST(gguf_refuses_strings_that_run_past_the_end) {
        struct gguf_builder b = GGUF_BUILDER_INIT;

        gguf_builder_key(&b, "s", GGUF_STRING);
        bytes_u64(&b.pairs, UINT64_MAX - 3);
        refused(&b, "the string 's'");
        gguf_builder_key(&b, "list", GGUF_ARRAY);
        bytes_u32(&b.pairs, GGUF_STRING);
        bytes_u64(&b.pairs, 2);
        bytes_string(&b.pairs, "fits");
        bytes_u64(&b.pairs, 5);
        bytes_append(&b.pairs, "four", 4);
        refused(&b, "string 1 of 'list'");
        bytes_u64(&b.pairs, 1u << 30);
        bytes_append(&b.pairs, "filling up to a pair", 20);
        b.n_pairs = 1;
        refused(&b, "the name of key 0");
}

TEST(gguf_refuses_unknown_and_nested_types) {
        struct gguf_builder b = GGUF_BUILDER_INIT;

        gguf_builder_key(&b, "k", 13);
        bytes_u32(&b.pairs, 0);
        refused(&b, "'k' has a value of unknown type 13");
        gguf_builder_key(&b, "k", GGUF_ARRAY);
        bytes_u32(&b.pairs, GGUF_ARRAY);
        bytes_u64(&b.pairs, 0);
        refused(&b, "elements of type 9 (array)");
        gguf_builder_key(&b, "k", GGUF_ARRAY);
        bytes_u32(&b.pairs, 77);
        bytes_u64(&b.pairs, 0);
        refused(&b, "elements of type 77 (unknown)");
        gguf_builder_key(&b, "k", GGUF_BOOL);
        bytes_u8(&b.pairs, 2);
        refused(&b, "'k' holds 2");
        gguf_builder_key(&b, "k", GGUF_ARRAY);
        bytes_u32(&b.pairs, GGUF_BOOL);
        bytes_u64(&b.pairs, 2);
        bytes_append(&b.pairs, "\1\3", 2);
        refused(&b, "'k' holds 3");
}

TEST(gguf_refuses_bad_names_and_duplicates) {
        static char name[GGUF_NAME_MAX + 2];
        struct gguf_builder b = GGUF_BUILDER_INIT;

        gguf_builder_u32(&b, "", 1);
        refused(&b, "has 0 bytes");
        memset(name, 'k', sizeof(name) - 1);
        gguf_builder_u32(&b, name, 1);
        refused(&b, "has 65536 bytes");
        bytes_u64(&b.pairs, 3);
        bytes_append(&b.pairs, "a\0b", 3);
        bytes_u32(&b.pairs, GGUF_U32);
        bytes_u32(&b.pairs, 1);
        b.n_pairs = 1;
        refused(&b, "zero byte");
        gguf_builder_u32(&b, "twice", 1);
        gguf_builder_u32(&b, "twice", 1);
        refused(&b, "the key 'twice' is there twice");
        gguf_builder_tensor(&b, "t", F32, 1, row_of_8, eight, sizeof(eight));
        gguf_builder_tensor(&b, "t", F32, 1, row_of_8, eight, sizeof(eight));
        refused(&b, "the tensor 't' is there twice");
        gguf_builder_tensor(&b, "", F32, 1, row_of_8, eight, sizeof(eight));
        refused(&b, "the name of tensor 0");
}

TEST(gguf_accepts_the_longest_name) {
        static char name[GGUF_NAME_MAX + 1];
        struct gguf_builder b = GGUF_BUILDER_INIT;
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        _cleanup_(freep) uint8_t *data = NULL;

        memset(name, 'k', sizeof(name) - 1);
        gguf_builder_u32(&b, name, 1);
        g = opened(&b, &data);
        assert_se(gguf_has(g, name));
}

TEST(gguf_refuses_bad_alignments) {
        static const uint32_t bad[] = { 0, 4, 24, 33, 2 * GGUF_ALIGNMENT_MAX, 0x80000000 };
        struct gguf_builder b = GGUF_BUILDER_INIT;
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        _cleanup_(freep) uint8_t *data = NULL;

        for (size_t i = 0; i < ELEMENTS(bad); i++) {
                gguf_builder_u32(&b, "general.alignment", bad[i]);
                refused(&b, "'general.alignment' is");
        }
        gguf_builder_string(&b, "general.alignment", "32");
        refused(&b, "'general.alignment' is of type string");
        b.alignment = 4096;
        gguf_builder_u32(&b, "general.alignment", 4096);
        gguf_builder_tensor(&b, "t", F32, 1, row_of_8, eight, sizeof(eight));
        g = opened(&b, &data);
        assert_se(gguf_tensor(g, "t")->offset % 4096 == 0);
}

/* A tensor's description by hand, with eight floats of data behind it. */
static void describe(struct gguf_builder *b, uint32_t n_dims, const uint64_t *dims, uint32_t type,
                     uint64_t offset) {
        bytes_string(&b->tensors, "weight");
        bytes_u32(&b->tensors, n_dims);
        for (uint32_t i = 0; i < MIN(n_dims, 8u); i++)
                bytes_u64(&b->tensors, dims[i]);
        bytes_u32(&b->tensors, type);
        bytes_u64(&b->tensors, offset);
        bytes_append(&b->data, eight, sizeof(eight));
        b->n_tensors++;
}

TEST(gguf_refuses_bad_shapes) {
        struct gguf_builder b = GGUF_BUILDER_INIT;
        static const uint64_t ones[8] = { 1, 1, 1, 1, 1, 1, 1, 1 };
        static const uint64_t zero[2] = { 8, 0 }, half[2] = { 48, 1 };
        static const uint64_t wraps[4] = { UINT64_C(1) << 32, UINT64_C(1) << 32, 1, 1 };
        static const uint64_t large[1] = { UINT64_C(1) << 63 };
        static const uint64_t bytes_wrap[2] = { UINT64_C(1) << 62, 1 };

        describe(&b, 0, ones, F32, 0);
        refused(&b, "'weight' has 0 dimensions");
        describe(&b, 5, ones, F32, 0);
        refused(&b, "'weight' has 5 dimensions");
        describe(&b, UINT32_MAX, ones, F32, 0);
        refused(&b, "'weight' has 4294967295 dimensions");
        describe(&b, 2, zero, F32, 0);
        refused(&b, "dimension 1 of the tensor 'weight' is 0");
        describe(&b, 4, wraps, F32, 0);
        refused(&b, "the dimensions of the tensor 'weight' overflow");
        describe(&b, 1, large, F32, 0);
        refused(&b, "overflow");
        describe(&b, 2, bytes_wrap, F32, 0);
        refused(&b, "the size of the tensor 'weight' overflows");
        describe(&b, 2, half, Q4_0, 0);
        refused(&b, "rows of 48 values, not a multiple of Q4_0's 32");
        describe(&b, 1, row_of_8, Q4_K, 0);
        refused(&b, "not a multiple of Q4_K's 256");
}

TEST(gguf_refuses_unknown_tensor_types) {
        static const uint32_t bad[] = { 4, 5, 31, 36, 41, 200, UINT32_MAX };
        struct gguf_builder b = GGUF_BUILDER_INIT;

        for (size_t i = 0; i < ELEMENTS(bad); i++) {
                char word[40];

                snprintf(word, sizeof(word), "unknown type %u", bad[i]);
                describe(&b, 1, row_of_8, bad[i], 0);
                refused(&b, word);
        }
}

TEST(gguf_refuses_tensors_outside_the_file) {
        struct gguf_builder b = GGUF_BUILDER_INIT;
        static const uint64_t nine[1] = { 9 };

        describe(&b, 1, row_of_8, F32, 8);
        refused(&b, "is at 8, not a multiple of 32");
        describe(&b, 1, row_of_8, F32, 32);
        refused(&b, "'weight' needs 32 bytes at 32");
        describe(&b, 1, row_of_8, F32, UINT64_MAX - 31);
        refused(&b, "incomplete file");
        describe(&b, 1, nine, F32, 0);
        refused(&b, "'weight' needs 36 bytes at 0");
}

TEST(gguf_and_kernels_agree_on_the_size_of_each_type) {
        size_t known = 0;

        for (uint32_t number = 0; number < 256; number++) {
                const struct gguf_tensor_type *type = gguf_tensor_type(number);
                const struct quant_info *info = quant_info(number);

                if (!info)
                        continue;
                known++;
                assert_se(type && strcmp(type->name, info->name) == 0);
                assert_se(type->block_values == info->block_values && type->block_bytes == info->block_bytes);
        }
        assert_se(known > 0);
}

TEST(gguf_opens_files_and_refuses_what_is_none) {
        char path[] = "/tmp/test-gguf-XXXXXX";
        struct gguf_builder b = GGUF_BUILDER_INIT;
        struct reason reason = REASON_INIT;
        _cleanup_(freep) uint8_t *data = NULL;
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        struct gguf *none;
        size_t size;
        int fd;

        fd = mkstemp(path);
        assert_se(fd >= 0);
        assert_se(gguf_open(&none, path, &reason) == GGUF_E_INVALID && strstr(reason.text, "empty"));
        gguf_builder_tensor(&b, "t", F32, 1, row_of_8, eight, sizeof(eight));
        data = gguf_builder_finish(&b, &size);
        assert_se(write(fd, data, size) == (ssize_t) size);
        close(fd);
        assert_se(gguf_open(&g, path, &reason) == 0);
        assert_se(memcmp(gguf_tensor(g, "t")->data, eight, sizeof(eight)) == 0);
        unlink(path);

        assert_se(gguf_open(&none, path, &reason) == -ENOENT && strstr(reason.text, path));
        assert_se(gguf_open(&none, "/tmp", &reason) == GGUF_E_INVALID &&
                  strstr(reason.text, "not a regular file"));
        assert_se(mkfifo(path, 0600) == 0);
        assert_se(gguf_open(&none, path, &reason) == GGUF_E_INVALID);
        unlink(path);
        assert_se(gguf_open_memory(&none, data + 1, 8, "x", NULL) == -EINVAL);
}
