/* SPDX-License-Identifier: MIT */
#pragma once

/* The inside of a model and of a sequence, for the files of this folder. */

#include "arch.h"
#include "engine.h"
#include "gguf.h"
#include "kv.h"
#include "model-file.h"

struct model_layer {
        struct weight weights[_ARCH_LAYER_TENSOR_MAX];
        struct kv_layer kv;
        struct kv_layer index;   /* with an indexer: its keys */
        struct kv_layer entries; /* with a compressor: its entries; */
        struct device_ptr state, index_state; /* what it and the indexer's have summed up (op_compress) */
        struct device_ptr budget; /* with routed experts: of each token (struct route_state) */
        struct device_ptr chosen; /* where those have a capacity (struct op_route_capacity) */
};

struct model {
        struct backend *backend;
        struct model_file *file;
        const struct gguf *gguf; /* the file's */
        struct arch_model arch;  /* a copy; what it points to is the file's */
        struct model_info info;
        char *name, *path;

        bool awake; /* its file counts it */
        struct weight weights[_ARCH_TENSOR_MAX];
        struct model_layer *layers;
        struct buffer *frequencies; /* of all ropes, one after the other */
        struct buffer *predictor;   /* its weight and bias; NULL: there is none */

        struct buffer *kv;
        struct kv_pages pages;
        struct model_options options;
        uint32_t rows_max;
        bool whole_pages; /* sequences can be cut to whole pages only */

        uint64_t *expert_uses; /* [moe_layers][experts] rows that chose each, ever */
};

/* Of one step's counts of rows, u32 [moe_layers][experts]. */
static inline uint64_t model_tally_bytes(const struct model *m) {
        return (uint64_t) m->info.moe_layers * m->info.experts * sizeof(uint32_t);
}

struct sequence {
        struct model *model;
        uint32_t length;           /* tokens in KV */
        uint32_t n_pages, n_slots; /* pages held; room in `pages` */
        uint32_t *pages;
        bool running;              /* part of a step that has begun */
};

/* Goes on with a page that holds what comes after the sequence's whole pages, of which it takes a reference.
 * -ENOMEM. */
int sequence_follow(struct sequence *s, uint32_t page);
/* The page takes the place of one of the sequence's that holds the same bits. Neither while a step has the sequence. */
void sequence_replace(struct sequence *s, uint32_t index, uint32_t page);

/* f32 [rope_dims / 2] of a rope that the model has. */
struct device_ptr model_frequencies(const struct model *m, uint32_t rope);

/* Puts the predictor of the model's calibration on the backend, if there is one. */
int model_place_predictor(struct model *m);
/* Creates the KV arena of a model whose layers are known; fills info.context and info.kv_*. */
int model_init_kv(struct model *m, const struct model_options *options, struct reason *reason);
