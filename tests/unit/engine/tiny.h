/* SPDX-License-Identifier: MIT */
#pragma once

/* A tiny model made on the spot: random but repeatable F32 weights, and, for tests of what is refused, one
 * thing of it made wrong. */

#include <stdint.h>

#include "engine.h"

enum {
        TINY_VOCAB = 40,
        TINY_LAYERS = 3,
        TINY_EXPERTS = 6,
        TINY_EXPERTS_USED = 3,
        TINY_CONTEXT = 256,
};

struct tiny {
        const char *architecture;            /* "qwen3moe" when NULL */
        const char *key;                     /* suffix of a number in the metadata that is to be another: */
        uint32_t value;
        const char *omit_key, *omit_tensor;  /* the suffix of a key, the name of a tensor */
        const char *wrong_tensor;            /* has one row, or value, less than it should */
        const char *typed_tensor;            /* has `type`, with data to match */
        uint32_t type;
        const char *extra_tensor;            /* is there, though the architecture has none of that name */
        const char *rope;                    /* value of rope.scaling.type; then also: */
        float rope_factor;
        uint32_t rope_context;               /* of the training, before scaling */
        bool vocabulary;                     /* of more tokens than the embedding has rows */
        uint32_t alignment;                  /* of the tensors' data; 32 when 0 */
        float capacity_factor;               /* of its experts, and over so many tokens; 0: the file does not say */
        uint32_t capacity_window;
};

/* Writes the file; ends the test when it cannot. The path lives until the next call. */
const char *tiny_write(const struct tiny *tiny);

/* Opens a model of that kind on `backend`, with room for `pages` KV pages and `rows_max` rows a step. */
struct model *tiny_open(const struct tiny *tiny, struct backend *backend, uint32_t pages, uint32_t rows_max);

/* Runs one step over the parts to its end: the first result that is not "more". */
int step_run(struct step *step, struct step_part *parts, uint32_t n);
