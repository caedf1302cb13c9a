/* SPDX-License-Identifier: MIT */
#pragma once

/* A small byte-level vocabulary for tests: the 256 bytes as tokens 0 … 255, then what is added. */

#include <stddef.h>
#include <stdint.h>

#include "gguf-builder.h"

enum { VOCABULARY_TOKENS_MAX = 320, VOCABULARY_MERGES_MAX = 64, VOCABULARY_TEXT_MAX = 64 };

/* Types of the format. */
enum {
        VOCABULARY_NORMAL = 1,
        VOCABULARY_CONTROL = 3,
        VOCABULARY_USER = 4,
};

struct vocabulary {
        char tokens[VOCABULARY_TOKENS_MAX][VOCABULARY_TEXT_MAX];
        int32_t types[VOCABULARY_TOKENS_MAX];
        char merges[VOCABULARY_MERGES_MAX][VOCABULARY_TEXT_MAX];
        size_t n_tokens, n_merges;
};

void vocabulary_init(struct vocabulary *v);
/* A token spelled as it is in the file; returns its id. */
int32_t vocabulary_add(struct vocabulary *v, const char *written, int32_t type);
/* A rule, and the token that it makes; printable ASCII only. Returns the token's id. */
int32_t vocabulary_merge(struct vocabulary *v, const char *left, const char *right);
/* Writes model, pre-tokenizer, tokens, types and merges. `pre` may be NULL. */
void vocabulary_write(const struct vocabulary *v, struct gguf_builder *b, const char *pre);
