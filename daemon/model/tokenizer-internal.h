/* SPDX-License-Identifier: MIT */
#pragma once

/* What the kinds of vocabulary share; for the files of this folder only. */

#include "bpe.h"
#include "gguf.h"
#include "special.h"
#include "tokenizer.h"

/* Numbers of tokenizer.ggml.token_type. */
enum token_type {
        TOKEN_UNDEFINED,
        TOKEN_NORMAL,
        TOKEN_UNKNOWN,
        TOKEN_CONTROL,
        TOKEN_USER_DEFINED,
        TOKEN_UNUSED,
        TOKEN_BYTE,
        _TOKEN_TYPE_MAX,
};

struct token {
        const char *text; /* bytes as decoded, in tokenizer.bytes */
        uint32_t size;
        uint8_t type;
        bool eog;
};

/* A kind of vocabulary, by tokenizer.ggml.model. */
struct tokenizer_ops {
        const char *model;
        /* Writes the bytes that a token stands for into `out` and returns how many; at most `text.size` +
         * SPELL_EXTRA. */
        size_t (*spell)(enum token_type type, struct gguf_string text, char *out);
        /* Sets t->state from the file. TOKENIZER_E_INVALID, -ENOMEM. What was made of the state is freed by
         * free(). */
        int (*load)(struct tokenizer *t, const struct gguf *g, struct reason *reason);
        void (*free)(struct tokenizer *t);
        /* Appends the tokens of text without special tokens; `first` when no token or text came before it. */
        int (*encode)(const struct tokenizer *t, const char *text, size_t size, bool first,
                      struct token_list *out);
        bool adds_bos; /* unless the file says otherwise */
};

enum { SPELL_EXTRA = 8 };

struct tokenizer {
        const struct tokenizer_ops *ops;
        void *state;
        char *name; /* of the file, for messages while loading */
        struct token *tokens;
        char *bytes;
        float *scores; /* [n], or NULL */
        uint32_t n;
        uint32_t piece_max;
        struct special_set control, user; /* what TOKENIZE_SPECIAL recognises; what is recognised anyway */
        int32_t bos, eos, eot, unknown;
        bool adds_bos;
        bool drops_space; /* decoding leaves out one space at the start */
};

extern const struct tokenizer_ops bytelevel_ops, spm_ops, unigram_ops;

/* The number of bytes, 0 … 255, that a token "<0xXX>" names, or -1. */
int token_byte(struct gguf_string text);
