/* SPDX-License-Identifier: MIT */
#include "model-file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "chat.h"
#include "tokenizer.h"

/* Bytes that are fetched at a time, so that whoever wants it to end does not wait long. */
#define FETCH_BYTES (UINT64_C(16) << 20)

/* A file may be without a vocabulary: then only ids go in and come out. */
static int open_tokenizer(struct model_file *f, struct reason *reason) {
        struct gguf_string kind, chat;
        int r;

        if (gguf_get_string(f->gguf, "tokenizer.ggml.model", &kind, NULL) ||
            gguf_string_equal(kind, "none") || gguf_string_equal(kind, "no_vocab"))
                return 0;
        r = tokenizer_new(&f->tokenizer, f->gguf, reason);
        if (r)
                return r < 0 ? r : ENGINE_E_MODEL;
        if (tokenizer_size(f->tokenizer) > f->arch.params.vocab)
                return reason_return(reason, ENGINE_E_MODEL,
                                     "%s: the vocabulary has %u tokens, token_embd.weight only %u rows",
                                     gguf_name(f->gguf), tokenizer_size(f->tokenizer), f->arch.params.vocab);
        if (!gguf_get_string(f->gguf, "tokenizer.chat_template", &chat, NULL))
                f->chat_template = chat_template_detect(chat.data, chat.size);
        return 0;
}

static int read_calibration(struct model_file *f, const char *path) {
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        int r;

        r = gguf_open(&g, path, &f->calibration_refused);
        if (!r)
                r = calibration_read(&f->calibration, g, gguf_fingerprint(f->gguf), &f->arch, &f->calibration_refused);
        return r;
}

/* A model runs without one, whatever is wrong with that. */
static int open_calibration(struct model_file *f, const char *model) {
        _cleanup_(freep) char *path = calibration_path(model);
        int r;

        if (!path)
                return -ENOMEM;
        if (stat(path, &f->calibration_state) < 0) {
                f->calibration_state.st_nlink = 0;
                return 0;
        }
        r = read_calibration(f, path);
        if (r && !f->calibration_refused.text[0])
                reason_set(&f->calibration_refused, "%.160s: %s", path, strerror(-r));
        return r == -ENOMEM ? r : 0;
}

static bool same_state(const struct stat *a, const struct stat *b) {
        if (a->st_nlink == 0 || b->st_nlink == 0)
                return a->st_nlink == b->st_nlink;
        return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
               a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* Whether another calibration lies beside the model now. */
static bool calibration_changed(const struct model_file *f, const char *model) {
        _cleanup_(freep) char *path = calibration_path(model);
        struct stat st;

        if (!path)
                return false;
        if (stat(path, &st) < 0)
                st.st_nlink = 0;
        return !same_state(&f->calibration_state, &st);
}

enum model_calibration model_file_calibration(const struct model_file *f, const char **ret_refused) {
        *ret_refused = f->calibration_refused.text;
        if (f->calibration_refused.text[0])
                return MODEL_CALIBRATION_REFUSED;
        if (f->calibration.predictor.weight)
                return MODEL_CALIBRATION_PREDICTOR;
        return f->calibration.plan.shares ? MODEL_CALIBRATION_PLAN : MODEL_CALIBRATION_NONE;
}

int model_file_open(struct model_file **ret, const char *path, struct reason *reason) {
        static _Atomic uint64_t serials;
        _cleanup_(model_file_unrefp) struct model_file *f = calloc(1, sizeof(*f));
        int r;

        if (!f)
                return -ENOMEM;
        f->references = 1;
        f->serial = atomic_fetch_add(&serials, 1) + 1;
        r = gguf_open(&f->gguf, path, reason);
        if (r)
                return r < 0 ? r : ENGINE_E_MODEL;
        r = arch_read(&f->arch, f->gguf, reason);
        if (r)
                return r < 0 ? r : ENGINE_E_MODEL;
        r = open_tokenizer(f, reason);
        if (!r)
                r = open_calibration(f, path);
        if (r)
                return r;
        for (size_t i = 0; i < gguf_n_files(f->gguf); i++)
                f->bytes += gguf_file(f->gguf, i)->size;
        for (size_t i = 0; i < gguf_n_tensors(f->gguf); i++)
                f->weight_bytes += gguf_tensor_at(f->gguf, i)->size;
        if (!gguf_intact(f->gguf))
                return reason_return(reason, ENGINE_E_MODEL, "%.160s: is being written to, or cannot be read", path);
        *ret = steal_ptr(f);
        return 0;
}

struct model_file *model_file_ref(struct model_file *f) {
        atomic_fetch_add(&f->references, 1);
        return f;
}

void model_file_unref(struct model_file *f) {
        if (!f || atomic_fetch_sub(&f->references, 1) > 1)
                return;
        for (struct model_file_root *root = f->roots, *next; root; root = next) {
                next = root->next;
                model_file_unref(root->file);
                free(root);
        }
        free(f->origins);
        free(f->shares);
        calibration_deinit(&f->calibration);
        arch_model_deinit(&f->arch);
        tokenizer_free(f->tokenizer);
        gguf_free(f->gguf);
        free(f);
}

void model_file_unrefp(struct model_file **f) {
        model_file_unref(*f);
}

bool model_file_same(const struct model_file *a, const struct model_file *b) {
        if (gguf_n_files(a->gguf) != gguf_n_files(b->gguf))
                return false;
        for (size_t i = 0; i < gguf_n_files(a->gguf); i++)
                if (!gguf_file_same(gguf_file(a->gguf, i), gguf_file(b->gguf, i)))
                        return false;
        return same_state(&a->calibration_state, &b->calibration_state) && model_file_intact(a) && model_file_intact(b);
}

bool model_file_lost(const struct model_file *f) {
        bool lost = gguf_lost(f->gguf);

        for (const struct model_file_root *root = f->roots; root; root = root->next)
                lost |= gguf_lost(root->file->gguf);
        return lost;
}

bool model_file_intact(const struct model_file *f) {
        for (const struct model_file_root *root = f->roots; root; root = root->next)
                if (!gguf_intact(root->file->gguf))
                        return false;
        return gguf_intact(f->gguf);
}

bool model_file_changed(const struct model_file *f, const char *path) {
        const struct gguf_file *file = gguf_file(f->gguf, 0);
        struct stat st;

        return !model_file_intact(f) || stat(path, &st) < 0 || !gguf_file_is(file, &st) || calibration_changed(f, path);
}

static int import_one(struct model_file *f, size_t i) {
        const struct gguf_file *file = gguf_file(f->gguf, i);

        /* From here on it is read as weights are: in long pieces, and again and again. What of it is not in the page
         * cache is read in huge pages then, where the file system has them: one entry of the TLB for 2 MiB. */
        (void) madvise((void *) file->data, file->size, MADV_HUGEPAGE);
        return f->backend->ops->buffer_import(f->backend, file->data, file->size, &f->buffers[i]);
}

static void free_buffers(struct model_file *f) {
        for (size_t i = 0; f->buffers && i < gguf_n_files(f->gguf); i++)
                f->backend->ops->buffer_free(f->buffers[i]);
        free(f->buffers);
        f->buffers = NULL;
}

int model_file_import(struct model_file *f, struct backend *backend) {
        size_t n = gguf_n_files(f->gguf);
        int r = 0;

        if (f->n_awake > 0) {
                if (f->backend != backend)
                        return -EINVAL;
                f->n_awake++;
                return 0;
        }
        f->backend = backend;
        f->buffers = calloc(n, sizeof(*f->buffers));
        if (!f->buffers)
                return -ENOMEM;
        for (size_t i = 0; i < n && !r; i++)
                r = import_one(f, i);
        if (r) {
                free_buffers(f);
                return r;
        }
        f->n_awake = 1;
        return 0;
}

/* The range stays mapped, so that nothing that points into it changes; its pages are no longer ours. */
static void give_back(const struct gguf_file *file) {
        (void) madvise((void *) file->data, file->size, MADV_DONTNEED);
}

void model_file_release(struct model_file *f) {
        if (--f->n_awake > 0)
                return;
        free_buffers(f);
        model_file_rest(f);
}

void model_file_rest(struct model_file *f) {
        for (size_t i = 0; f->n_awake == 0 && i < gguf_n_files(f->gguf); i++)
                give_back(gguf_file(f->gguf, i));
}

const struct gguf_file *model_file_at(const struct model_file *f, uint64_t unit, uint64_t *offset) {
        for (size_t i = 0; i < gguf_n_files(f->gguf); i++) {
                const struct gguf_file *file = gguf_file(f->gguf, i);
                uint64_t size = file->size - file->size % unit;

                if (*offset < size)
                        return file;
                *offset -= size;
        }
        return NULL;
}

int model_file_fetch_part(struct model_file *f, uint64_t *at) {
        uint64_t offset = *at, n;
        const struct gguf_file *file = model_file_at(f, 1, &offset);

        if (!file)
                return 0;
        n = MIN(FETCH_BYTES, file->size - offset);
        *at += n;
        return madvise((void *) (file->data + offset), n, MADV_POPULATE_READ) < 0 ? -errno : 1;
}

int model_file_fetch(struct model_file *f, const _Atomic bool *stop) {
        uint64_t at = 0;
        int r = 1;

        while (r > 0 && !atomic_load(stop))
                r = model_file_fetch_part(f, &at);
        return r < 0 ? r : 0;
}

bool model_file_wanted(const struct model_file *f) {
        return atomic_load(&f->references) > 1;
}
