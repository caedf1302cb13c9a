/* SPDX-License-Identifier: MIT */
#pragma once

/* Text to tokens and back, by the vocabulary that a GGUF file carries. The file is hostile: every table is
 * checked when the tokenizer is made, which copies what it needs and forgets the file. A tokenizer never
 * changes then, and any number of threads may use it.
 *
 * Text is any bytes. Those that are not UTF-8 are kept: what is decoded is what was encoded, but where a
 * model's own normalisation changes text (NFC, spaces). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/reason.h"

struct gguf;
struct tokenizer;

enum {
        _TOKENIZER_E_SUCCESS,
        TOKENIZER_E_INVALID, /* the file's vocabulary is refused; the reason says what of it */
        TOKENIZER_E_TEXT,    /* the text has a byte or character that the vocabulary cannot express */
        TOKENIZER_E_SIZE,    /* more than TOKENIZER_TEXT_MAX bytes of text */
};

enum {
        TOKENIZER_VOCABULARY_MAX = 4 * 1024 * 1024, /* tokens */
        TOKENIZER_PIECE_MAX = 64 * 1024,            /* bytes of a token */
        TOKENIZER_SPECIAL_MAX = 1024,               /* bytes of a token that is recognised in text */
        TOKENIZER_TEXT_MAX = 256 * 1024 * 1024,     /* bytes of text at once */
};

/* Growing array of ids; start from TOKEN_LIST_NULL. */
struct token_list {
        int32_t *ids;
        size_t n, capacity;
};

#define TOKEN_LIST_NULL                                                                                      \
        { .ids = NULL }

void token_list_deinit(struct token_list *list);
/* -ENOMEM. */
int token_list_append(struct token_list *list, int32_t id);

/* Refuses with TOKENIZER_E_INVALID; -ENOMEM. The new object is the caller's. */
int tokenizer_new(struct tokenizer **ret, const struct gguf *g, struct reason *reason);
void tokenizer_free(struct tokenizer *t);
void tokenizer_freep(struct tokenizer **t);

enum {
        TOKENIZE_SPECIAL =
                1 << 0, /* control tokens that are spelled in the text become those tokens. Never set this
                         * for what a user typed: else it is plain text, but for tokens that the model's
                         * authors made to be recognised anywhere (user-defined ones). */
        TOKENIZE_BOS = 1 << 1, /* begin with the begin-of-text token if the model wants one there */
};

/* A stretch of text with its own TOKENIZE_SPECIAL or not. */
struct token_text {
        const char *text;
        size_t size;
        unsigned flags;
};

/* Appends the tokens of `text` to `out`; on failure `out` is as it was. TOKENIZER_E_TEXT, TOKENIZER_E_SIZE,
 * -ENOMEM. Time is O(n log n) for any text. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t size, unsigned flags,
                     struct token_list *out);

/* The same for parts that follow each other, tokenised as one text: words may run over from one into the
 * next, but a special token lies in one part. TOKENIZE_BOS counts in the first part. */
int tokenizer_encode_parts(const struct tokenizer *t, const struct token_text *parts, size_t n,
                           struct token_list *out);

uint32_t tokenizer_size(const struct tokenizer *t);
/* The bytes of a token, which live as long as the tokenizer; a control token's are its name. NULL for an id
 * that is none. */
const char *tokenizer_piece(const struct tokenizer *t, int32_t id, size_t *ret_size);
/* The score that the vocabulary gives a token; 0 where it has none. */
float tokenizer_score(const struct tokenizer *t, int32_t id);
/* A token that is not text: decoders leave it out. */
bool tokenizer_is_control(const struct tokenizer *t, int32_t id);
/* A token at which generation ends: end of text, of a turn, of a message. */
bool tokenizer_is_eog(const struct tokenizer *t, int32_t id);
/* The control token of that name, or -1. */
int32_t tokenizer_control(const struct tokenizer *t, const char *name);
/* -1 when the vocabulary has none. */
int32_t tokenizer_bos(const struct tokenizer *t);
int32_t tokenizer_eos(const struct tokenizer *t);
int32_t tokenizer_eot(const struct tokenizer *t);
/* Whether the model expects texts to begin with tokenizer_bos(). */
bool tokenizer_adds_bos(const struct tokenizer *t);
/* Most bytes of any token. */
size_t tokenizer_piece_max(const struct tokenizer *t);

/* Tokens to text, one at a time, never handing out part of a UTF-8 character: up to three bytes wait for the
 * next token. One per stream; not thread-safe. */
struct detokenizer {
        const struct tokenizer *tokenizer;
        char *buffer;
        unsigned flags;
        unsigned pending; /* bytes of a character, at the start of the buffer once `given` is dropped */
        size_t given;     /* bytes at the start of the buffer that were handed out last */
        bool started;
};

enum {
        DETOKENIZE_SPECIAL = 1 << 0, /* spell out control tokens instead of leaving them out */
        DETOKENIZE_CONTINUE =
                1 << 1, /* text came before: keep the space that the vocabulary puts before a text */
};

/* -ENOMEM. The tokenizer must outlive it. */
int detokenizer_init(struct detokenizer *d, const struct tokenizer *t, unsigned flags);
void detokenizer_deinit(struct detokenizer *d);
/* The whole characters that this token completes, perhaps none; ids outside the vocabulary are none. The
 * bytes live until the next call. Bytes that are not UTF-8 come as they are. */
const char *detokenizer_push(struct detokenizer *d, int32_t id, size_t *ret_size);
/* At the end: the bytes still waiting, as they are. */
const char *detokenizer_flush(struct detokenizer *d, size_t *ret_size);

/* The text of `n` tokens at once, the caller's to free. -ENOMEM, -EOVERFLOW. */
int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, unsigned flags, char **ret,
                     size_t *ret_size);
