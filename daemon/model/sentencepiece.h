/* SPDX-License-Identifier: MIT */
#pragma once

/* What SentencePiece's two kinds of vocabulary (BPE, unigram) share: how text is normalised, how pieces are
 * spelled, what becomes of characters that are no piece. In the file a space is written U+2581; here it is a
 * space throughout. github.com/google/sentencepiece, src/normalizer.cc, src/sentencepiece_processor.cc. */

#include "tokenizer-internal.h"

/* Replacements of character sequences, compiled into a double-array trie (Darts-clone) with the strings
 * behind it. */
struct charsmap {
        uint32_t *units;
        size_t n_units;
        char *strings; /* each ends with a zero byte; the last byte is one */
        size_t strings_size;
};

struct sentencepiece {
        bool space_first;   /* a space is put before the text */
        bool spaces_merge;  /* runs of spaces become one, none at the ends */
        int32_t bytes[256]; /* byte tokens, BPE_NONE where there is none */
        struct charsmap map;
};

size_t sentencepiece_spell(enum token_type type, struct gguf_string text, char *out);

/* Fills `s` and sets what depends on it in `t`. TOKENIZER_E_INVALID, -ENOMEM; safe to deinit in any case. */
int sentencepiece_init(struct sentencepiece *s, struct tokenizer *t, const struct gguf *g,
                       struct reason *reason);
void sentencepiece_deinit(struct sentencepiece *s);

/* The text as the vocabulary sees it, the caller's to free; `first` when it is the beginning.
 * TOKENIZER_E_SIZE when replacements make it too long, -ENOMEM. */
int sentencepiece_normalize(const struct sentencepiece *s, const char *text, size_t size, bool first,
                            char **ret, size_t *ret_size);

/* Length of the character at the start of text, 1 where there is none. */
size_t sentencepiece_character(const char *text, size_t size);

/* Appends what stands for bytes that are no piece: byte tokens if there are, else the unknown token, once for
 * a run
 * (*was_unknown says if the token before was one). TOKENIZER_E_TEXT when there is neither. */
int sentencepiece_unknown(const struct sentencepiece *s, const struct tokenizer *t, const char *bytes,
                          size_t size, bool *was_unknown, struct token_list *out);
