/* SPDX-License-Identifier: MIT */
#include "model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "chat.h"
#include "tokenizer.h"

static struct weight to_weight(const struct model *m, const struct gguf_tensor *t) {
        struct backend *b = m->backend;

        if (!t)
                return (struct weight) { .data = DEVICE_NULL };
        return (struct weight) {
                .data = device_offset(b->ops->buffer_address(m->files[t->file]), t->offset),
                .type = (enum quant_type) t->type,
                .cols = (uint32_t) t->dims[0],
                .rows = (uint32_t) t->dims[1],
                .stack = (uint32_t) t->dims[2],
        };
}

static int import_files(struct model *m) {
        size_t n = gguf_n_files(m->gguf);

        m->files = calloc(n, sizeof(*m->files));
        if (!m->files)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                const struct gguf_file *file = gguf_file(m->gguf, i);
                int r = m->backend->ops->buffer_import(m->backend, file->data, file->size, &m->files[i]);

                if (r)
                        return r;
                m->info.file_bytes += file->size;
        }
        return 0;
}

static int place_weights(struct model *m) {
        const struct arch_model *a = &m->arch;
        int r;

        r = import_files(m);
        if (r)
                return r;
        m->layers = calloc(a->params.layers, sizeof(*m->layers));
        if (!m->layers)
                return -ENOMEM;
        for (size_t i = 0; i < _ARCH_TENSOR_MAX; i++)
                m->weights[i] = to_weight(m, a->tensors[i]);
        for (uint32_t l = 0; l < a->params.layers; l++)
                for (size_t i = 0; i < _ARCH_LAYER_TENSOR_MAX; i++)
                        m->layers[l].weights[i] = to_weight(m, a->layers[l].tensors[i]);
        return 0;
}

static int place_frequencies(struct model *m) {
        const struct backend_ops *ops = m->backend->ops;
        uint64_t size = m->arch.params.rope_dims / 2 * sizeof(float);
        struct stream *stream;
        int r;

        r = ops->buffer_new(m->backend, size, &m->frequencies);
        if (r)
                return r;
        r = ops->stream_new(m->backend, &stream);
        if (r)
                return r;
        r = ops->upload(stream, ops->buffer_address(m->frequencies), m->arch.frequencies, size);
        if (!r)
                r = ops->stream_sync(stream);
        ops->stream_free(stream);
        return r;
}

static int fill_info(struct model *m, const char *path) {
        const struct arch_params *h = &m->arch.params;
        struct gguf_string name = { .data = gguf_name(m->gguf) };

        name.size = strlen(name.data);
        if (gguf_get_string(m->gguf, "general.name", &name, NULL))
                name.size = strlen(name.data);
        m->name = strndup(name.data, name.size);
        m->path = strdup(path);
        if (!m->name || !m->path)
                return -ENOMEM;
        m->info.architecture = m->arch.arch->name;
        m->info.name = m->name;
        m->info.file = m->path;
        m->info.vocab = h->vocab;
        m->info.layers = h->layers;
        m->info.moe_layers = m->arch.moe_layers;
        m->info.experts = h->experts;
        m->info.experts_used = h->experts_used;
        for (size_t i = 0; i < gguf_n_tensors(m->gguf); i++) {
                const struct gguf_tensor *t = gguf_tensor_at(m->gguf, i);

                m->info.parameters += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
                m->info.weight_bytes += t->size;
        }
        return 0;
}

/* A file may be without a vocabulary: then only ids go in and come out. */
static int open_tokenizer(struct model *m, struct reason *reason) {
        struct gguf_string kind, chat;
        int r;

        if (gguf_get_string(m->gguf, "tokenizer.ggml.model", &kind, NULL) ||
            gguf_string_equal(kind, "none") || gguf_string_equal(kind, "no_vocab"))
                return 0;
        r = tokenizer_new(&m->tokenizer, m->gguf, reason);
        if (r)
                return r < 0 ? r : ENGINE_E_MODEL;
        if (tokenizer_size(m->tokenizer) > m->arch.params.vocab)
                return reason_return(reason, ENGINE_E_MODEL,
                                     "%s: the vocabulary has %u tokens, token_embd.weight only %u rows",
                                     gguf_name(m->gguf), tokenizer_size(m->tokenizer), m->arch.params.vocab);
        if (!gguf_get_string(m->gguf, "tokenizer.chat_template", &chat, NULL))
                m->chat_template = chat_template_detect(chat.data, chat.size);
        return 0;
}

static int open_file(struct model *m, const char *path, const struct model_options *options,
                     struct reason *reason) {
        int r;

        r = gguf_open(&m->gguf, path, reason);
        if (r)
                return r < 0 ? r : ENGINE_E_MODEL;
        r = arch_read(&m->arch, m->gguf, reason);
        if (r)
                return r < 0 ? r : ENGINE_E_MODEL;
        r = fill_info(m, path);
        if (!r)
                r = open_tokenizer(m, reason);
        if (!r)
                r = place_weights(m);
        if (!r)
                r = place_frequencies(m);
        if (!r)
                r = model_init_kv(m, options, reason);
        return r;
}

int model_open(struct model **ret, struct backend *backend, const char *path,
               const struct model_options *options, struct reason *reason) {
        _cleanup_(model_freep) struct model *m = NULL;
        int r;

        if (options->rows_max == 0)
                return -EINVAL;
        m = calloc(1, sizeof(*m));
        if (!m)
                return -ENOMEM;
        m->backend = backend;
        m->rows_max = options->rows_max;
        r = open_file(m, path, options, reason);
        if (r)
                return r;
        *ret = steal_ptr(m);
        return 0;
}

void model_free(struct model *m) {
        const struct backend_ops *ops;

        if (!m)
                return;
        ops = m->backend->ops;
        ops->buffer_free(m->kv);
        ops->buffer_free(m->frequencies);
        for (size_t i = 0; m->files && i < gguf_n_files(m->gguf); i++)
                ops->buffer_free(m->files[i]);
        kv_pages_deinit(&m->pages);
        arch_model_deinit(&m->arch);
        tokenizer_free(m->tokenizer);
        gguf_free(m->gguf);
        free(m->files);
        free(m->layers);
        free(m->name);
        free(m->path);
        free(m);
}

void model_freep(struct model **m) {
        model_free(*m);
}

const struct model_info *model_info(const struct model *m) {
        return &m->info;
}

const struct tokenizer *model_tokenizer(const struct model *m) {
        return m->tokenizer;
}

const struct chat_template *model_chat_template(const struct model *m) {
        return m->chat_template;
}

uint32_t model_kv_pages_free(const struct model *m) {
        return m->pages.n_free;
}
