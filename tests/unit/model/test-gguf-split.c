/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "gguf-builder.h"
#include "gguf.h"
#include "test.h"

enum { PARTS = 3 };

/* What a model of three files is like; 0: as it should be. */
struct model {
        uint32_t number[PARTS], count[PARTS]; /* what a file says, plus 1 */
        uint32_t tensors;
        bool twice;   /* the last part has the first one's tensor */
        bool missing; /* there is no last part */
        bool broken;  /* the second is no GGUF file */
};

static char folder[] = "/tmp/test-split-XXXXXX";

static const char *path_of(uint32_t part) {
        static char path[PATH_MAX];

        snprintf(path, sizeof(path), "%s/m-%05u-of-%05u.gguf", folder, part + 1, PARTS);
        return path;
}

static void write_file(const char *path, const void *data, size_t size) {
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        assert_se(fd >= 0 && write(fd, data, size) == (ssize_t) size);
        close(fd);
}

static void write_part(const struct model *m, uint32_t part) {
        struct gguf_builder b = GGUF_BUILDER_INIT;
        _cleanup_(freep) uint8_t *data = NULL;
        const uint64_t dims[] = { 8 };
        float values[8];
        char name[16];
        size_t size;

        if (part == 0)
                gguf_builder_string(&b, "general.architecture", "first");
        gguf_builder_u32(&b, "split.no", m->number[part] ? m->number[part] - 1 : part);
        gguf_builder_u32(&b, "split.count", m->count[part] ? m->count[part] - 1 : PARTS);
        gguf_builder_u32(&b, "split.tensors.count", m->tensors ? m->tensors : 2 * PARTS);
        for (uint32_t i = 0; i < 2; i++) {
                for (unsigned j = 0; j < 8; j++)
                        values[j] = (float) (part * 100 + i * 10 + j);
                snprintf(name, sizeof(name), "t%u.%u", m->twice ? part % 2 : part, i);
                gguf_builder_tensor(&b, name, 0, 1, dims, values, sizeof(values));
        }
        data = gguf_builder_finish(&b, &size);
        write_file(path_of(part), data, m->broken && part == 1 ? 3 : size);
}

static void write_model(const struct model *m) {
        if (strstr(folder, "XXXXXX"))
                assert_se(mkdtemp(folder));
        for (uint32_t i = 0; i < PARTS; i++)
                write_part(m, i);
        if (m->missing)
                assert_se(unlink(path_of(PARTS - 1)) == 0);
}

static void remove_model(void) {
        for (uint32_t i = 0; i < PARTS; i++)
                unlink(path_of(i));
        rmdir(folder);
        memcpy(folder + strlen(folder) - 6, "XXXXXX", 6);
}

TEST(a_split_model_opens_as_one) {
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        struct gguf_string name;
        char tensor[16];

        write_model(&(struct model) { .tensors = 0 });
        assert_se(gguf_open(&g, path_of(0), NULL) == 0);
        remove_model();
        assert_se(gguf_n_files(g) == PARTS && gguf_n_tensors(g) == 2 * PARTS);
        assert_se(gguf_get_string(g, "general.architecture", &name, NULL) == 0 && gguf_string_equal(name, "first"));
        for (uint32_t i = 0; i < 2 * PARTS; i++) {
                const struct gguf_tensor *t;
                float first;

                snprintf(tensor, sizeof(tensor), "t%u.%u", i / 2, i % 2);
                t = gguf_tensor(g, tensor);
                assert_se(t && t == gguf_tensor_at(g, i) && t->file == i / 2);
                assert_se(gguf_file(g, t->file)->data + t->offset == t->data);
                memcpy(&first, t->data, sizeof(first));
                assert_se(first == (float) (i / 2 * 100 + i % 2 * 10));
        }
}

TEST(parts_that_do_not_fit_are_refused_by_name) {
        static const struct {
                struct model model;
                uint32_t open;
                const char *says[2];
        } cases[] = {
                { { .missing = true }, 0, { "m-00003-of-00003.gguf", "part 3 of 3 is missing" } },
                { { .broken = true }, 0, { "m-00002-of-00003.gguf" } },
                { { .tensors = 0 }, 1, { "m-00002-of-00003.gguf", "open the first one" } },
                { { .number = { 0, 3 } }, 0, { "m-00002-of-00003.gguf", "says that it is part 3 of 3" } },
                { { .count = { 0, 0, 5 } }, 0, { "m-00003-of-00003.gguf", "says that it is part 3 of 4" } },
                { { .count = { 5, 5, 5 } }, 0, { "-00001-of-00004.gguf", "the first of 4 files" } },
                { { .count = { 5000 } }, 0, { "'split.count' 4999" } },
                { { .number = { 4 } }, 0, { "'split.no' is 3" } },
                { { .tensors = 7 }, 0, { "6 tensors", "'split.tensors.count' says 7" } },
                { { .twice = true }, 0, { "the tensor 't0.0' is in another part" } },
        };

        for (size_t i = 0; i < ELEMENTS(cases); i++) {
                struct reason reason = REASON_INIT;
                struct gguf *g = NULL;

                write_model(&cases[i].model);
                assert_se(gguf_open(&g, path_of(cases[i].open), &reason) == GGUF_E_INVALID && !g);
                for (size_t j = 0; j < ELEMENTS(cases[i].says) && cases[i].says[j]; j++)
                        if (!strstr(reason.text, cases[i].says[j])) {
                                fprintf(stderr, "case %zu: '%s' lacks '%s'\n", i, reason.text, cases[i].says[j]);
                                assert_se(!"refused for the right reason");
                        }
                assert_se(gguf_open(&g, path_of(cases[i].open), NULL) == GGUF_E_INVALID);
                remove_model();
        }
}

TEST(a_part_in_memory_has_no_others) {
        struct gguf_builder b = GGUF_BUILDER_INIT;
        _cleanup_(freep) uint8_t *data = NULL;
        struct reason reason = REASON_INIT;
        struct gguf *g;
        size_t size;

        gguf_builder_u32(&b, "split.count", 2);
        data = gguf_builder_finish(&b, &size);
        assert_se(gguf_open_memory(&g, data, size, "m-00001-of-00002.gguf", &reason) == GGUF_E_INVALID);
        assert_se(strstr(reason.text, "one of 2 files"));
}

TEST(a_whole_file_may_say_that_it_is_one_part) {
        for (uint32_t count = 0; count < 2; count++) {
                struct gguf_builder b = GGUF_BUILDER_INIT;
                _cleanup_(freep) uint8_t *data = NULL;
                _cleanup_(gguf_freep) struct gguf *g = NULL;
                size_t size;

                gguf_builder_u32(&b, "split.count", count);
                data = gguf_builder_finish(&b, &size);
                assert_se(gguf_open_memory(&g, data, size, "m.gguf", NULL) == 0 && gguf_n_files(g) == 1);
        }
}
