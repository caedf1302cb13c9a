/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "engine.h"
#include "host.h"
#include "model-file.h"
#include "test.h"

#define MODEL REFERENCE_DATA "/models/olmoe/model.gguf"

static const _Atomic bool go_on, stop = true;

static char *read_all(const char *path, size_t *ret_size) {
        FILE *f = fopen(path, "re");
        struct stat st;
        char *data;

        assert_se(f && fstat(fileno(f), &st) == 0);
        data = malloc((size_t) st.st_size);
        assert_se(data && fread(data, 1, (size_t) st.st_size, f) == (size_t) st.st_size);
        fclose(f);
        *ret_size = (size_t) st.st_size;
        return data;
}

/* Opens a copy of the model in which the byte at `wrong` (0: none) is another, with so many pages behind it. */
static struct model_file *open_copy_in(const char *folder, size_t wrong, unsigned pages) {
        static const char page[4096];
        struct reason reason = REASON_INIT;
        struct model_file *f;
        char path[64];
        size_t size;
        char *data = read_all(MODEL, &size);
        int fd;

        snprintf(path, sizeof(path), "%s/moed-share-XXXXXX", folder);
        fd = mkstemp(path);
        assert_se(fd >= 0);
        if (wrong)
                data[wrong] ^= 1;
        assert_se(write(fd, data, size) == (ssize_t) size);
        for (unsigned i = 0; i < pages; i++)
                assert_se(write(fd, page, sizeof(page)) == (ssize_t) sizeof(page));
        close(fd);
        free(data);
        assert_se(model_file_open(&f, path, &reason) == 0);
        unlink(path);
        return f;
}

static struct model_file *open_copy(size_t wrong) {
        return open_copy_in("/tmp", wrong, 0);
}

static const struct gguf_tensor *largest(const struct model_file *f) {
        const struct gguf_tensor *best = gguf_tensor_at(f->gguf, 0);

        for (size_t i = 1; i < gguf_n_tensors(f->gguf); i++)
                if (gguf_tensor_at(f->gguf, i)->size > best->size)
                        best = gguf_tensor_at(f->gguf, i);
        return best;
}

/* Whether the mapping begins with the model's bytes, but for one. */
static bool begins(const struct model_file *f, size_t wrong) {
        size_t size;
        char *data = read_all(MODEL, &size);
        bool same;

        if (wrong)
                data[wrong] ^= 1;
        same = gguf_file(f->gguf, 0)->size >= size &&
               memcmp(gguf_file(f->gguf, 0)->data, data, size) == 0;
        free(data);
        return same;
}

/* And has no more. */
static bool shows(const struct model_file *f, size_t wrong) {
        struct stat st;

        assert_se(stat(MODEL, &st) == 0);
        return gguf_file(f->gguf, 0)->size == (uint64_t) st.st_size && begins(f, wrong);
}

TEST(equal_tensors_are_found_and_the_bytes_stay) {
        struct model_file *a = open_copy(0), *b = open_copy(0);
        uint64_t page = (uint64_t) sysconf(_SC_PAGESIZE);

        assert_se(!model_file_same(a, b) && model_file_shared(a, b) == 0);
        assert_se(model_file_share(b, &a, 1, &go_on) == 0);
        assert_se(model_file_shared(a, b) > a->weight_bytes / 2 && model_file_shared(a, b) < a->weight_bytes);
        assert_se(model_file_shared(a, b) == model_file_shared(b, a) && model_file_shared(a, b) % page == 0);
        assert_se(shows(a, 0) && shows(b, 0));
        /* What b shows is a's, also when nobody else wants a any more. */
        model_file_unref(a);
        assert_se(shows(b, 0));
        model_file_unref(b);
}

TEST(one_other_byte_keeps_a_tensor_apart) {
        struct model_file *a = open_copy(0), *b, *c;
        const struct gguf_tensor *t = largest(a);
        size_t wrong = (size_t) (t->offset + t->size / 2);
        uint64_t all;

        b = open_copy(wrong);
        c = open_copy(0);
        assert_se(model_file_share(b, &a, 1, &go_on) == 0);
        assert_se(model_file_share(c, (struct model_file *[]) { a, b }, 2, &go_on) == 0);
        all = model_file_shared(c, a);
        assert_se(model_file_shared(a, b) < all && all - model_file_shared(a, b) > t->size - 3 * 4096);
        /* Through their common origin, without having been compared. */
        assert_se(model_file_shared(c, b) == model_file_shared(a, b));
        assert_se(shows(a, 0) && shows(b, wrong) && shows(c, 0));
        model_file_unref(a);
        model_file_unref(c);
        assert_se(shows(b, wrong));
        model_file_unref(b);
}

TEST(only_older_files_are_looked_at_and_once) {
        struct model_file *a = open_copy(0), *b = open_copy(0);

        assert_se(model_file_share(a, &b, 1, &go_on) == 0 && model_file_shared(a, b) == 0);
        assert_se(model_file_share(b, &a, 1, &stop) == 0 && model_file_shared(a, b) == 0);
        assert_se(model_file_share(b, &a, 1, &go_on) == 0 && model_file_shared(a, b) == 0);
        model_file_unref(a);
        model_file_unref(b);
}

TEST(one_file_is_the_same_until_it_changes) {
        char path[] = "/tmp/moed-share-XXXXXX", other[sizeof(path) + 1];
        struct model_file *a, *b;
        size_t size;
        char *data = read_all(MODEL, &size);
        int fd = mkstemp(path);

        assert_se(fd >= 0 && write(fd, data, size) == (ssize_t) size);
        assert_se(model_file_open(&a, path, NULL) == 0 && model_file_open(&b, path, NULL) == 0);
        assert_se(model_file_same(a, b) && !model_file_changed(a, path));
        assert_se(model_file_shared(a, a) == a->weight_bytes);
        model_file_unref(b);
        snprintf(other, sizeof(other), "%s~", path);
        assert_se(rename(path, other) == 0 && model_file_changed(a, path) && !model_file_changed(a, other));
        assert_se(ftruncate(fd, (off_t) size + 1) == 0 && model_file_changed(a, other));
        assert_se(model_file_open(&b, other, NULL) == 0 && !model_file_same(a, b));
        unlink(other);
        close(fd);
        free(data);
        model_file_unref(a);
        model_file_unref(b);
}

TEST(a_file_is_fetched_part_by_part_to_its_end) {
        struct model_file *f = open_copy(0), *other = model_file_ref(f);
        uint64_t at = 0, before;
        int r;

        assert_se(model_file_wanted(f));
        do {
                before = at;
                r = model_file_fetch_part(f, &at);
                assert_se(r >= 0 && (r == 1) == (at > before));
        } while (r == 1);
        assert_se(at == f->bytes && shows(f, 0));
        model_file_unref(other);
        assert_se(!model_file_wanted(f));
        model_file_unref(f);
}

/* How much of what is mapped there lies in huge pages, as another interface of the kernel tells. */
static uint64_t bytes_in_huge_pages(const void *data) {
        FILE *f = fopen("/proc/self/smaps", "re");
        unsigned long begin, end, kib;
        uint64_t found = 0;
        bool inside = false;
        char line[512];

        assert_se(f);
        while (fgets(line, sizeof(line), f)) {
                if (sscanf(line, "%lx-%lx ", &begin, &end) == 2)
                        inside = (uintptr_t) data >= begin && (uintptr_t) data < end;
                else if (inside && (sscanf(line, "ShmemPmdMapped: %lu", &kib) == 1 ||
                                    sscanf(line, "FilePmdMapped: %lu", &kib) == 1))
                        found += kib << 10;
        }
        fclose(f);
        return found;
}

/* tmpfs makes huge pages of small ones when it is asked to, unless the administrator forbids it. */
static bool tmpfs_has_huge_pages(void) {
        FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "re");
        char line[256] = "";
        bool has = f && fgets(line, sizeof(line), f) && !strstr(line, "[deny]");

        if (f)
                fclose(f);
        return has;
}

/* In huge pages where it can be, with the same bytes in them. False: this kernel does not tell how pages lie. */
static bool enlarge(struct model_file *f, unsigned *ret_enlarged) {
        struct model_file_enlarging e = {};
        uint64_t before;
        int r;

        do {
                before = e.at;
                r = model_file_enlarge_part(f, &e);
                assert_se(r == 1 ? e.at == before + HOST_HUGE_PAGE : e.at == before);
        } while (r == 1);
        assert_se(r < 0 || e.at == gguf_file(f->gguf, 0)->size / HOST_HUGE_PAGE * HOST_HUGE_PAGE);
        assert_se(begins(f, 0));
        *ret_enlarged = e.enlarged;
        return r == 0;
}

TEST(weights_in_small_pages_move_to_huge_ones) {
        struct model_options options = { .kv_type = QUANT_F16, .kv_bytes = 1 << 20, .rows_max = 8 };
        static const char *const folders[] = { "/tmp", "/dev/shm" };
        struct backend *backend;

        assert_se(backend_ref_new(&backend) == 0);
        for (size_t i = 0; i < ELEMENTS(folders); i++) {
                struct model_file *f = open_copy_in(folders[i], 0, 1600);
                const struct gguf_file *file = gguf_file(f->gguf, 0);
                unsigned enlarged, again;
                struct model *model;
                uint64_t before;

                assert_se(model_new(&model, backend, f, &options, NULL) == 0 && model_file_fetch(f, &go_on) == 0);
                before = bytes_in_huge_pages(file->data);
                if (enlarge(f, &enlarged)) {
                        assert_se(bytes_in_huge_pages(file->data) == before + enlarged * (uint64_t) HOST_HUGE_PAGE);
                        assert_se(i == 0 || !tmpfs_has_huge_pages() || enlarged == file->size / HOST_HUGE_PAGE);
                        assert_se(enlarge(f, &again) && (again == 0 || enlarged < file->size / HOST_HUGE_PAGE));
                }
                model_free(model);
                model_file_unref(f);
        }
        backend_freep(&backend);
}

TEST(models_of_one_file_sleep_and_wake_by_themselves) {
        struct model_options options = { .kv_type = QUANT_F16, .kv_bytes = 1 << 20, .rows_max = 8 };
        struct backend *backend;
        struct model_file *f = open_copy(0);
        struct model *a, *b;
        uint32_t pages;

        assert_se(backend_ref_new(&backend) == 0);
        assert_se(model_new(&a, backend, f, &options, NULL) == 0 && model_new(&b, backend, f, &options, NULL) == 0);
        model_file_unref(f);
        pages = model_kv_pages_free(a);
        assert_se(pages > 0 && f->n_awake == 2);
        model_sleep(a);
        model_sleep(a);
        assert_se(!model_awake(a) && model_awake(b) && f->n_awake == 1 && f->buffers && model_kv_pages_free(a) == 0);
        assert_se(model_info(a)->context == model_info(b)->context && model_tokenizer(a) == model_tokenizer(b));
        model_sleep(b);
        assert_se(f->n_awake == 0 && !f->buffers);
        assert_se(model_file_fetch(f, &go_on) == 0 && shows(f, 0));
        assert_se(model_wake(a) == 0 && model_wake(a) == 0 && f->n_awake == 1 && model_kv_pages_free(a) == pages);
        model_free(b);
        model_free(a);
        backend_freep(&backend);
}
