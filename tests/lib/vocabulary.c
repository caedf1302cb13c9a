/* SPDX-License-Identifier: MIT */
#include "vocabulary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "utf8.h"

/* The table of GPT-2's encoder.py: printable bytes stand for themselves, the others for U+0100 and up. */
static void write_byte(unsigned byte, unsigned *others, char *out) {
        const int prints = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;

        out[utf8_encode(prints ? byte : 256 + (*others)++, out)] = '\0';
}

void vocabulary_init(struct vocabulary *v) {
        unsigned others = 0;

        *v = (struct vocabulary) { .n_tokens = 256 };
        for (unsigned byte = 0; byte < 256; byte++) {
                write_byte(byte, &others, v->tokens[byte]);
                v->types[byte] = VOCABULARY_NORMAL;
        }
}

int32_t vocabulary_add(struct vocabulary *v, const char *written, int32_t type) {
        if (v->n_tokens == VOCABULARY_TOKENS_MAX || strlen(written) >= VOCABULARY_TEXT_MAX)
                abort();
        strcpy(v->tokens[v->n_tokens], written);
        v->types[v->n_tokens] = type;
        return (int32_t) v->n_tokens++;
}

int32_t vocabulary_merge(struct vocabulary *v, const char *left, const char *right) {
        char written[VOCABULARY_TEXT_MAX];

        if (v->n_merges == VOCABULARY_MERGES_MAX || strlen(left) + strlen(right) + 2 > VOCABULARY_TEXT_MAX)
                abort();
        sprintf(v->merges[v->n_merges++], "%s %s", left, right);
        sprintf(written, "%s%s", left, right);
        return vocabulary_add(v, written, VOCABULARY_NORMAL);
}

void vocabulary_write(const struct vocabulary *v, struct gguf_builder *b, const char *pre) {
        const char *tokens[VOCABULARY_TOKENS_MAX], *merges[VOCABULARY_MERGES_MAX];

        for (size_t i = 0; i < v->n_tokens; i++)
                tokens[i] = v->tokens[i];
        for (size_t i = 0; i < v->n_merges; i++)
                merges[i] = v->merges[i];
        gguf_builder_string(b, "tokenizer.ggml.model", "gpt2");
        if (pre)
                gguf_builder_string(b, "tokenizer.ggml.pre", pre);
        gguf_builder_strings(b, "tokenizer.ggml.tokens", tokens, v->n_tokens);
        gguf_builder_i32s(b, "tokenizer.ggml.token_type", v->types, v->n_tokens);
        gguf_builder_strings(b, "tokenizer.ggml.merges", merges, v->n_merges);
}
