/* SPDX-License-Identifier: MIT */
#include "model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"

static struct weight to_weight(const struct model *m, const struct gguf_tensor *t) {
        struct backend *b = m->backend;

        if (!t)
                return (struct weight) { .data = DEVICE_NULL };
        return (struct weight) {
                .data = device_offset(b->ops->buffer_address(m->file->buffers[t->file]), t->offset),
                .type = (enum quant_type) t->type,
                .cols = (uint32_t) t->dims[0],
                .rows = (uint32_t) t->dims[1],
                .stack = (uint32_t) t->dims[2],
        };
}

static int place_weights(struct model *m) {
        const struct arch_model *a = &m->arch;
        int r;

        r = model_file_import(m->file, m->backend);
        if (r)
                return r;
        m->awake = true;
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

static int upload_frequencies(struct model *m, struct stream *stream) {
        const struct backend_ops *ops = m->backend->ops;
        int r = 0;

        for (uint32_t i = 0; i < ARCH_ROPES && !r; i++)
                if (m->arch.ropes[i].frequencies)
                        r = ops->upload(stream, model_frequencies(m, i), m->arch.ropes[i].frequencies,
                                        m->arch.params.rope_dims / 2 * sizeof(float));
        return r ? r : ops->stream_sync(stream);
}

struct device_ptr model_frequencies(const struct model *m, uint32_t rope) {
        return device_offset(m->backend->ops->buffer_address(m->frequencies),
                             (uint64_t) rope * (m->arch.params.rope_dims / 2) * sizeof(float));
}

static int place_frequencies(struct model *m) {
        const struct backend_ops *ops = m->backend->ops;
        uint64_t size = m->arch.params.rope_dims * sizeof(float);
        struct stream *stream;
        int r;

        r = ops->buffer_new(m->backend, ARCH_ROPES * size, true, &m->frequencies);
        if (r)
                return r;
        r = ops->stream_new(m->backend, &stream);
        if (r)
                return r;
        r = upload_frequencies(m, stream);
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
        m->info.file_bytes = m->file->bytes;
        m->info.architecture = m->arch.arch->name;
        m->info.name = m->name;
        m->info.file = m->path;
        m->info.vocab = h->vocab;
        m->info.layers = h->layers;
        m->info.moe_layers = m->arch.moe_layers;
        m->info.experts = h->experts;
        m->info.experts_used = h->experts_used;
        m->info.has_capacity = h->capacity > 0;
        for (size_t i = 0; i < gguf_n_tensors(m->gguf); i++) {
                const struct gguf_tensor *t = gguf_tensor_at(m->gguf, i);

                m->info.parameters += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
                m->info.weight_bytes += t->size;
        }
        return 0;
}

static int init_uses(struct model *m) {
        m->expert_uses = calloc((size_t) m->info.moe_layers * m->info.experts + 1, sizeof(*m->expert_uses));
        return m->expert_uses ? 0 : -ENOMEM;
}

const uint64_t *model_expert_uses(const struct model *m, uint32_t moe_layer) {
        return m->expert_uses + (size_t) moe_layer * m->info.experts;
}

/* Everything that the backend holds for it. On failure half of it may be there. */
static int model_place(struct model *m, struct reason *reason) {
        int r;

        r = place_weights(m);
        if (!r)
                r = place_frequencies(m);
        if (!r)
                r = model_place_predictor(m);
        if (!r)
                r = model_init_kv(m, &m->options, reason);
        return r;
}

static void model_displace(struct model *m) {
        const struct backend_ops *ops = m->backend->ops;

        ops->buffer_free(m->kv);
        ops->buffer_free(m->frequencies);
        ops->buffer_free(m->predictor);
        m->kv = m->frequencies = m->predictor = NULL;
        kv_pages_deinit(&m->pages);
        m->pages = (struct kv_pages) KV_PAGES_NULL;
        free(m->layers);
        m->layers = NULL;
        if (m->awake)
                model_file_release(m->file);
        m->awake = false;
}

int model_new(struct model **ret, struct backend *backend, struct model_file *file,
              const struct model_options *options, struct reason *reason) {
        _cleanup_(model_freep) struct model *m = NULL;
        int r;

        if (options->rows_max == 0)
                return -EINVAL;
        m = calloc(1, sizeof(*m));
        if (!m)
                return -ENOMEM;
        m->backend = backend;
        m->options = *options;
        m->rows_max = options->rows_max;
        m->file = model_file_ref(file);
        m->gguf = file->gguf;
        m->arch = file->arch;
        r = fill_info(m, gguf_file(file->gguf, 0)->path);
        if (!r)
                r = init_uses(m);
        if (!r)
                r = model_place(m, reason);
        if (r)
                return r;
        *ret = steal_ptr(m);
        return 0;
}

int model_open(struct model **ret, struct backend *backend, const char *path,
               const struct model_options *options, struct reason *reason) {
        _cleanup_(model_file_unrefp) struct model_file *file = NULL;
        int r;

        r = model_file_open(&file, path, reason);
        return r ? r : model_new(ret, backend, file, options, reason);
}

void model_sleep(struct model *m) {
        model_displace(m);
}

int model_wake(struct model *m) {
        int r;

        if (m->awake)
                return 0;
        r = model_place(m, NULL);
        if (r)
                model_displace(m);
        return r;
}

bool model_awake(const struct model *m) {
        return m->awake;
}

void model_free(struct model *m) {
        if (!m)
                return;
        model_displace(m);
        model_file_unref(m->file);
        free(m->expert_uses);
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
        return m->file->tokenizer;
}

const struct chat_template *model_chat_template(const struct model *m) {
        return m->file->chat_template;
}

struct model_file *model_file(const struct model *m) {
        return m->file;
}

uint32_t model_kv_pages_free(const struct model *m) {
        return m->pages.n_free;
}
