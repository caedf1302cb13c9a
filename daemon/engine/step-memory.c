/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>

#include "base/util.h"
#include "step.h"

static const struct backend_ops *ops_of(const struct step *s) {
        return s->model->backend->ops;
}

static int grow_device(struct step *s, struct step_buffer *b, uint64_t size) {
        struct buffer *buffer;
        int r;

        if (size <= b->size)
                return 0;
        size = MAX(size, b->size * 2);
        r = ops_of(s)->buffer_new(s->model->backend, size, true, &buffer);
        if (r)
                return r;
        ops_of(s)->buffer_free(b->buffer);
        *b = (struct step_buffer) { .buffer = buffer, .size = size, .at = ops_of(s)->buffer_address(buffer) };
        return 0;
}

/* The old content is not kept. */
static int grow_host(void **memory, uint64_t *size, uint64_t wanted) {
        void *p;

        if (wanted <= *size)
                return 0;
        wanted = MAX(wanted, *size * 2);
        p = malloc(wanted);
        if (!p)
                return -ENOMEM;
        free(*memory);
        *memory = p;
        *size = wanted;
        return 0;
}

/* A block of rows_max rows of `width` four-byte values; without a base only the size is added up. */
static struct device_ptr carve(const struct step *s, struct device_ptr base, uint64_t *size, uint64_t width) {
        struct device_ptr at = device_offset(base, *size);

        *size += DIV_ROUND_UP(width * s->rows_max * 4, 64) * 64;
        return at;
}

/* What has to last from layer to layer. */
static uint64_t carve_own(struct step *s, struct device_ptr base) {
        const struct arch_params *h = &s->model->arch.params;
        uint64_t size = 0;

        s->a.x = carve(s, base, &size, h->hidden);
        s->a.streams = carve(s, base, &size, (uint64_t) h->streams * h->hidden);
        s->a.chosen = carve(s, base, &size, h->index_k);
        s->a.demand = carve(s, base, &size, s->model->predictor ? s->model->arch.moe_layers : 0);
        return size;
}

static uint64_t carve_room(struct step *s, struct device_ptr base) {
        const struct arch_params *h = &s->model->arch.params;
        uint64_t size = 0, ffn = MAX(h->ffn, h->shared_ffn), streams = (uint64_t) h->streams * h->hidden;
        uint64_t query = MAX(h->qk_nope + h->rope_dims, h->mla_v);
        uint64_t entry = h->csa_ratio ? MAX(h->k_dim, h->index_dim) : h->hca_ratio ? h->k_dim : 0;

        s->a.normed = carve(s, base, &size, h->hidden);
        s->a.branch = carve(s, base, &size, h->hidden);
        s->a.q = carve(s, base, &size, (uint64_t) h->heads * h->k_dim);
        s->a.k = carve(s, base, &size, (uint64_t) h->kv_heads * h->k_dim);
        s->a.v = carve(s, base, &size, (uint64_t) h->kv_heads * h->v_dim);
        s->a.attended = carve(s, base, &size, (uint64_t) h->heads * h->v_dim);
        s->a.q_low = carve(s, base, &size, h->q_lora);
        s->a.q_heads = carve(s, base, &size, h->kv_lora ? h->heads * query : 0);
        s->a.index_q = carve(s, base, &size, (uint64_t) h->index_heads * h->index_dim);
        s->a.index_k = carve(s, base, &size, h->index_dim);
        s->a.index_weights = carve(s, base, &size, h->index_heads);
        s->a.compress_v = carve(s, base, &size, 2 * entry);
        s->a.compress_gate = carve(s, base, &size, 2 * entry);
        s->a.entry = carve(s, base, &size, entry);
        s->a.out_low = carve(s, base, &size, (uint64_t) h->out_groups * h->out_lora);
        s->a.streams_normed = carve(s, base, &size, streams);
        s->a.mix = carve(s, base, &size, (2 + (uint64_t) h->streams) * h->streams);
        s->a.gate = carve(s, base, &size, ffn);
        s->a.up = carve(s, base, &size, ffn);
        s->a.router = carve(s, base, &size, h->experts);
        s->a.expert_ids = carve(s, base, &size, h->experts_used);
        s->a.expert_weights = carve(s, base, &size, h->experts_used);
        s->a.expert_counts = carve(s, base, &size, 1);
        s->a.shared_ids = carve(s, base, &size, 1);
        s->a.shared_weights = carve(s, base, &size, 1);
        s->a.shared_counts = carve(s, base, &size, 1);
        return size;
}

void step_memory_place(struct step *s) {
        carve_own(s, s->activations.at);
        carve_room(s, s->room->memory.at);
}

/* Whatever another step has enqueued must not find its memory gone. */
static int grow_room(struct step *s) {
        struct step_buffer *memory = &s->room->memory;
        uint64_t size = carve_room(s, DEVICE_NULL);
        int r = 0;

        if (size > memory->size)
                r = ops_of(s)->stream_sync(s->stream);
        return r ? r : grow_device(s, memory, size);
}

int step_memory_init(struct step *s) {
        uint64_t rows = s->rows_max, batch = rows * (STEP_ARRAYS + s->model->arch.moe_layers);
        int r;

        r = grow_device(s, &s->activations, carve_own(s, DEVICE_NULL));
        if (!r)
                r = grow_room(s);
        if (!r)
                r = grow_device(s, &s->batch_memory, batch * sizeof(int32_t));
        if (!r)
                r = grow_device(s, &s->counts, model_tally_bytes(s->model) + rows * sizeof(uint32_t));
        if (r)
                return r;
        s->batch.staged = calloc(batch, sizeof(int32_t));
        s->host_tally = calloc(1, s->counts.size);
        if (!s->batch.staged || !s->host_tally)
                return -ENOMEM;
        s->host_used = s->host_tally + model_tally_bytes(s->model) / sizeof(uint32_t);
        return 0;
}

int step_memory_grow(struct step *s, uint64_t pages, uint32_t n_wanted) {
        uint64_t logits = (uint64_t) n_wanted * s->model->arch.params.vocab * sizeof(float);
        int r;

        r = grow_device(s, &s->page_table, pages * sizeof(int32_t));
        if (!r)
                r = grow_host((void **) &s->host_pages, &s->host_pages_size, pages * sizeof(int32_t));
        if (!r)
                r = grow_device(s, &s->logits, logits);
        if (!r && !step_on_host(s))
                r = grow_host((void **) &s->host_logits, &s->host_logits_size, logits);
        return r;
}

int step_memory_observe(struct step *s) {
        const struct arch_params *h = &s->model->arch.params;
        uint64_t rows = s->rows_max, k = h->experts_used;
        struct step_seen *seen = &s->seen;
        uint64_t size = rows * (2 * (uint64_t) step_width(s) + 2 * k + 1 + h->index_k) * 4;

        if (!seen->memory)
                seen->memory = calloc(1, size);
        if (!seen->memory)
                return -ENOMEM;
        seen->input = seen->memory;
        seen->output = seen->input + rows * step_width(s);
        seen->weights = seen->output + rows * step_width(s);
        seen->ids = (int32_t *) (seen->weights + rows * k);
        seen->counts = seen->ids + rows * k;
        seen->chosen = seen->counts + rows;
        return 0;
}

void step_memory_deinit(struct step *s) {
        struct step_buffer *buffers[] = {
                &s->activations, &s->batch_memory, &s->counts, &s->page_table, &s->logits,
        };

        for (size_t i = 0; i < ELEMENTS(buffers); i++)
                ops_of(s)->buffer_free(buffers[i]->buffer);
        free(s->batch.staged);
        free(s->host_pages);
        free(s->host_tally);
        free(s->host_logits);
        free(s->seen.memory);
}
