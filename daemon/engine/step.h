/* SPDX-License-Identifier: MIT */
#pragma once

/* The inside of a step, for the files of this folder: step.c checks and stages a batch, forward.c enqueues
 * its operations, step-memory.c holds its buffers, step-observe.c shows its layers. Everything is enqueued on
 * one stream; the host waits once, at the end. */

#include "model.h"

/* Device memory that only grows; its content does not survive growing. */
struct step_buffer {
        struct buffer *buffer;
        uint64_t size;
        struct device_ptr at;
};

/* Activations, [rows_max] rows each. What a layer leaves to the next is the step's own; the rest lies in the room, and
 * another step may have used it in between. */
struct step_activations {
        /* its own: */
        struct device_ptr x;                 /* f32 [hidden] */
        struct device_ptr streams;           /* f32 [streams × hidden] */
        struct device_ptr chosen;            /* i32 [index_k] by the last indexer */
        /* in the room: */
        struct device_ptr normed, branch;    /* f32 [hidden] */
        struct device_ptr q, k, v, attended; /* f32 [heads or kv_heads × dim] */
        struct device_ptr q_low;             /* f32 [q_lora] */
        struct device_ptr q_heads;           /* f32 [heads × a head's query, or its value] around the latent */
        struct device_ptr index_q, index_k;  /* f32 [index_heads × index_dim], [index_dim] */
        struct device_ptr index_weights;     /* f32 [index_heads] */
        struct device_ptr compress_v, compress_gate; /* f32 [both halves of a compressor's values] */
        struct device_ptr entry;             /* f32 [its entry] */
        struct device_ptr out_low;           /* f32 [out_groups × out_lora] */
        struct device_ptr streams_normed;    /* f32 [streams × hidden] */
        struct device_ptr mix;               /* f32 [(2 + streams) × streams] */
        struct device_ptr gate, up;          /* f32 [the widest feed-forward] */
        struct device_ptr router;            /* f32 [experts] */
        struct device_ptr demand;            /* f32 [moe_layers] with a predictor */
        struct device_ptr expert_ids, expert_weights, expert_counts; /* i32 and f32 [experts_used], i32 [1] */
        struct device_ptr shared_ids, shared_weights, shared_counts; /* the same for one shared expert with a gate */
};

enum { STEP_ARRAYS = 9 }; /* of struct step_batch, beside the caps */

/* What the host says about a batch: i32 arrays one after the other, and so on the device after one upload. */
struct step_batch {
        uint32_t rows, n_wanted, position_max;
        int32_t *staged;                                      /* [(STEP_ARRAYS + moe_layers) × rows_max] */
        int32_t *ids, *positions, *sequences;                 /* [rows] */
        int32_t *ones;                                        /* [rows] a cap of one expert */
        int32_t *floors, *groups, *bases;                     /* [rows] as op_route has them */
        uint32_t n_groups;
        int32_t *prompts;                                     /* [rows] whether it is a row of a prompt */
        int32_t *wanted;                                      /* [n_wanted] rows whose logits are wanted */
        int32_t *caps;                                        /* [moe_layers][rows] thousandths of an expert */
        struct device_ptr device_ids, device_positions, device_sequences, device_ones, device_floors,
                device_groups, device_bases, device_wanted, device_caps;
        struct device_ptr device_prompts;                     /* null: no row is one of a prompt */
};

/* What an observer is shown, on the host. */
struct step_seen {
        void *memory;
        float *input, *output, *weights;
        int32_t *ids, *counts, *chosen;
};

/* What steps of a model share that are under way at the same time: of those, one computes a layer at a time. */
struct step_room {
        unsigned n_ref;
        struct stream *stream;
        struct step_buffer memory; /* the activations that nobody needs any more after a layer */
};

struct step {
        struct model *model;
        struct step_room *room;
        struct stream *stream; /* the room's */
        uint32_t rows_max;
        struct step_buffer activations, batch_memory, counts, page_table, logits;
        struct step_activations a;
        struct step_batch batch;

        uint32_t page_stride;
        int32_t *host_pages; /* [n_parts][page_stride] */
        /* What `counts` has at the end: how many rows chose each expert, [moe_layers][experts]; then, behind it, how
         * many each row used, [rows]. */
        uint32_t *host_tally, *host_used;
        uint64_t experts_read;
        bool trial; /* what its rows choose is not counted */
        float *host_logits;  /* [n_wanted][vocab]; NULL where the device's memory is the host's */
        uint64_t host_pages_size, host_logits_size;

        struct step_part *parts; /* of the step that has begun; NULL: none has */
        uint32_t n_parts;
        uint32_t layer; /* the next to run */

        const struct step_observer *observer;
        bool observed; /* the step that has begun is shown to it */
        struct step_seen seen;
};

/* Whether row `i` of a part has a budget, not an allowance. */
static inline bool step_has_budget(const struct step_part *part, uint32_t i) {
        return part->budgets && part->budgets[i].cap_milli != STEP_BUDGET_NONE;
}

/* What a row is between layers: its values, and where they are. */
static inline uint32_t step_width(const struct step *s) {
        const struct arch_params *h = &s->model->arch.params;

        return h->hidden * (h->streams ? h->streams : 1);
}

static inline struct device_ptr step_rows(const struct step *s) {
        return s->model->arch.params.streams ? s->a.streams : s->a.x;
}

static inline uint64_t step_counts_bytes(const struct step *s) {
        return model_tally_bytes(s->model) + s->batch.rows * sizeof(uint32_t);
}

/* Whether what the device has written can be read in place: many rows of logits take as long to copy as to choose
 * from. */
static inline bool step_on_host(const struct step *s) {
        return s->model->backend->flags & BACKEND_HOST_MEMORY;
}

/* Each enqueues its part of the pass: the embedding of every row; a layer; the logits of the rows that want
 * them, and their download. */
int forward_begin(struct step *s);
int forward_layer(struct step *s, uint32_t layer);
int forward_end(struct step *s);

/* Memory whose size does not depend on the batch, and the room's for a step of this size. On failure half of it may be
 * there. */
int step_memory_init(struct step *s);
/* Finds the activations anew: the room may have grown. */
void step_memory_place(struct step *s);
/* Room for a page table of `pages` entries and `n_wanted` rows of logits. */
int step_memory_grow(struct step *s, uint64_t pages, uint32_t n_wanted);
int step_memory_observe(struct step *s);
void step_memory_deinit(struct step *s);

/* Fetches the input of layer 0; shows a layer that has been enqueued. Both wait for the device. */
int step_observe_begin(struct step *s);
int step_observe_layer(struct step *s, uint32_t layer);
