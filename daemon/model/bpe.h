/* SPDX-License-Identifier: MIT */
#pragma once

/* Byte pair encoding of one word (arXiv 1508.07909): of all neighbours that may join, those with the lowest
 * rank do, the leftmost first, until none may. O(n log n) for any word. The rules of joining are the
 * caller's, so that merge lists and scored vocabularies share this. Not thread-safe: a struct bpe belongs to
 * one call. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BPE_NONE = -1 }; /* in place of a token's id: a symbol that is no token */

/* A piece of the word. Symbols are in one array; joined ones stay behind with `size` 0. */
struct bpe_symbol {
        int32_t id;
        uint32_t start, size; /* bytes of the word */
        uint32_t next, prev;  /* indices; UINT32_MAX at the ends */
};

struct bpe {
        struct bpe_symbol *symbols;
        size_t n, capacity;
        uint64_t *heap;
        size_t heap_n, heap_capacity;
};

#define BPE_NULL                                                                                             \
        { .symbols = NULL }

struct bpe_rules {
        /* May these neighbours join? Then their rank (lower joins earlier) and the id of the result. */
        bool (*join)(const void *userdata, const char *word, const struct bpe_symbol *left,
                     const struct bpe_symbol *right, uint32_t *ret_rank, int32_t *ret_id);
        const void *userdata;
};

void bpe_deinit(struct bpe *b);

/* Begins a word; then each symbol in order. -ENOMEM. At most UINT32_MAX - 1 symbols and bytes. */
void bpe_begin(struct bpe *b);
int bpe_add(struct bpe *b, int32_t id, size_t size);

/* Joins what can be joined; walk the result from symbols[0] by `next`. -ENOMEM. */
int bpe_merge(struct bpe *b, const char *word, const struct bpe_rules *rules);
