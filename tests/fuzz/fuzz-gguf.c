/* SPDX-License-Identifier: MIT */
/* A model file: everything that can be asked of one that opens, and text through its tokenizer. */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "chat.h"
#include "fuzz.h"
#include "gguf.h"
#include "tokenizer.h"
#include "vocabulary.h"

static volatile uint8_t sink;

static void check(bool holds) {
        if (!holds)
                abort();
}

static void read_array(const struct gguf_array *a) {
        for (uint64_t i = 0; i < a->n; i++) {
                int64_t i64;
                double f64;
                bool flag;

                if (a->type == GGUF_STRING) {
                        const struct gguf_string s = gguf_array_string(a, i);

                        if (s.size > 0)
                                sink ^= (uint8_t) (s.data[0] ^ s.data[s.size - 1]);
                        continue;
                }
                sink ^= gguf_array_i64(a, i, &i64) ^ gguf_array_f64(a, i, &f64) ^
                        gguf_array_bool(a, i, &flag);
        }
}

static void read_key(const struct gguf *g, size_t i) {
        struct reason reason;
        struct gguf_array array;
        struct gguf_string string;
        enum gguf_type type;
        uint64_t u64;
        uint32_t u32;
        int64_t i64;
        float f32;
        bool flag;
        const struct gguf_string key = gguf_key(g, i, &type);
        _cleanup_(freep) char *name = strndup(key.data, key.size);

        check(name && gguf_has(g, name));
        check((gguf_get_string(g, name, &string, &reason) == 0) == (type == GGUF_STRING));
        check((gguf_get_array(g, name, &array, &reason) == 0) == (type == GGUF_ARRAY));
        check((gguf_get_bool(g, name, &flag, &reason) == 0) == (type == GGUF_BOOL));
        sink ^= gguf_get_u32(g, name, &u32, &reason) ^ gguf_get_u64(g, name, &u64, &reason);
        sink ^= gguf_get_i64(g, name, &i64, &reason) ^ gguf_get_f32(g, name, &f32, &reason);
        if (type == GGUF_ARRAY)
                read_array(&array);
}

static void read_tensors(const struct gguf *g) {
        for (size_t i = 0; i < gguf_n_tensors(g); i++) {
                const struct gguf_tensor *t = gguf_tensor_at(g, i);
                const uint8_t *data = t->data;
                _cleanup_(freep) char *name = strndup(t->name.data, t->name.size);

                check(name && gguf_tensor(g, name) == t && t->size > 0);
                check(t->offset % gguf_alignment(g) == 0);
                sink ^= data[0] ^ data[t->size - 1];
        }
}

/* Streamed and whole decoding agree, and nothing is refused but for the reasons that are documented. */
static void translate(const struct tokenizer *t, const char *text, size_t size, unsigned flags) {
        struct token_list list = TOKEN_LIST_NULL;
        _cleanup_(freep) char *whole = NULL;
        struct detokenizer d;
        size_t n, used = 0;
        int r;

        r = tokenizer_encode(t, text, size, flags, &list);
        check(r == 0 || r == TOKENIZER_E_TEXT);
        check(tokenizer_decode(t, list.ids, list.n, DETOKENIZE_SPECIAL, &whole, &n) == 0);
        check(detokenizer_init(&d, t, DETOKENIZE_SPECIAL) == 0);
        for (size_t i = 0; i <= list.n; i++) {
                size_t part;
                const char *piece =
                        i < list.n ? detokenizer_push(&d, list.ids[i], &part) : detokenizer_flush(&d, &part);

                check(used + part <= n && memcmp(whole + used, piece, part) == 0);
                used += part;
        }
        check(used == n);
        detokenizer_deinit(&d);
        token_list_deinit(&list);
}

static void talk(const struct gguf *g, const struct tokenizer *t, const char *text, size_t size) {
        const struct chat_message message = { .role = CHAT_USER, .text = text, .size = size };
        const struct chat_template *c;
        struct token_list list = TOKEN_LIST_NULL;
        struct gguf_string template;

        if (gguf_get_string(g, "tokenizer.chat_template", &template, NULL) != 0)
                return;
        c = chat_template_detect(template.data, template.size);
        if (c)
                sink ^= (uint8_t) chat_encode(c, t, &message, 1, true, &list);
        token_list_deinit(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const char text[] =
                "Hello <|e|>, na\xc3\xafve 123 caf\x65\xcc\x81 \xe6\xbc\xa2\xff\xe2\x82  \n\n don't";
        _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        struct reason reason;
        void *copy;
        const size_t tail = size < 200 ? size : 200;

        check(posix_memalign(&copy, 64, size > 0 ? size : 1) == 0);
        memcpy(copy, data, size);
        if (gguf_open_memory(&g, copy, size, "fuzz", &reason) == 0) {
                for (size_t i = 0; i < gguf_n_keys(g); i++)
                        read_key(g, i);
                read_tensors(g);
                if (tokenizer_new(&t, g, &reason) == 0) {
                        translate(t, text, sizeof(text) - 1, 0);
                        translate(t, (const char *) data + size - tail, tail,
                                  TOKENIZE_SPECIAL | TOKENIZE_BOS);
                        talk(g, t, text, sizeof(text) - 1);
                }
                gguf_free(g);
                g = NULL;
        }
        free(copy);
        return 0;
}

static uint8_t *seed_words(const char *pre, size_t *ret_size) {
        static struct vocabulary v;
        struct gguf_builder b = GGUF_BUILDER_INIT;

        vocabulary_init(&v);
        vocabulary_merge(&v, "l", "l");
        vocabulary_merge(&v, "H", "e");
        vocabulary_merge(&v, "He", "ll");
        vocabulary_merge(&v, "Hell", "o");
        vocabulary_write(&v, &b, pre);
        gguf_builder_u32(&b, "tokenizer.ggml.bos_token_id", 1);
        gguf_builder_bool(&b, "tokenizer.ggml.add_bos_token", true);
        gguf_builder_string(&b, "tokenizer.chat_template", "<start_of_turn><end_of_turn>");
        return gguf_builder_finish(&b, ret_size);
}

/* Few tokens, so that most of the file is structure. */
static uint8_t *seed_small(size_t *ret_size) {
        static const char *const tokens[] = { "H", "e", "l", "o", "He", "ll", "<|e|>", "<u>" };
        static const int32_t types[] = { 1, 1, 1, 1, 1, 1, 3, 4 };
        static const float scores[] = { 0, 0, 0, 0, -1, -2, 0, 0 };
        static const char *const merges[] = { "H e", "l l" };
        struct gguf_builder b = GGUF_BUILDER_INIT;

        gguf_builder_string(&b, "tokenizer.ggml.model", "gpt2");
        gguf_builder_string(&b, "tokenizer.ggml.pre", "llama-bpe");
        gguf_builder_strings(&b, "tokenizer.ggml.tokens", tokens, 8);
        gguf_builder_i32s(&b, "tokenizer.ggml.token_type", types, 8);
        gguf_builder_f32s(&b, "tokenizer.ggml.scores", scores, 8);
        gguf_builder_strings(&b, "tokenizer.ggml.merges", merges, 2);
        gguf_builder_u32(&b, "tokenizer.ggml.unknown_token_id", 3);
        return gguf_builder_finish(&b, ret_size);
}

/* Scored pieces, and a map of one character whose trie is as small as can be. */
static uint8_t *seed_pieces(const char *model, size_t *ret_size) {
        static const char *const tokens[] = { "<unk>", "</s>",         "<u>", "H",  "e",
                                              "l",     "\xe2\x96\x81", "He",  "lo", "<0xFF>" };
        static const int32_t types[] = { 2, 3, 4, 1, 1, 1, 1, 1, 1, 6 };
        static const float scores[] = { 0, 0, 0, -4, -5, -6, -2, -3, -2.5f, 0 };
        struct gguf_builder b = GGUF_BUILDER_INIT;

        gguf_builder_string(&b, "tokenizer.ggml.model", model);
        gguf_builder_strings(&b, "tokenizer.ggml.tokens", tokens, 10);
        gguf_builder_f32s(&b, "tokenizer.ggml.scores", scores, 10);
        gguf_builder_i32s(&b, "tokenizer.ggml.token_type", types, 10);
        gguf_builder_bool(&b, "tokenizer.ggml.remove_extra_whitespaces", true);
        gguf_builder_u32(&b, "tokenizer.ggml.unknown_token_id", 0);
        gguf_builder_key(&b, "tokenizer.ggml.precompiled_charsmap", GGUF_ARRAY);
        bytes_u32(&b.pairs, GGUF_U8);
        bytes_u64(&b.pairs, 4 + 4 * 128 + 3);
        bytes_u32(&b.pairs, 4 * 128);
        for (uint32_t i = 0; i < 128; i++)
                bytes_u32(&b.pairs, i == 0 ? 1u << 10 : i == (1 ^ 'o') ? 2u << 10 | 1u << 8 | 'o' : 0);
        bytes_append(&b.pairs, "lo", 3);
        return gguf_builder_finish(&b, ret_size);
}

static uint8_t *seed_tensors(size_t *ret_size) {
        static const uint64_t dims[] = { 32, 2, 1, 1 };
        static const uint8_t zeros[256];
        struct gguf_builder b = GGUF_BUILDER_INIT;

        gguf_builder_u32(&b, "general.alignment", 32);
        gguf_builder_string(&b, "general.architecture", "llama");
        gguf_builder_f32(&b, "llama.rope.freq_base", 10000);
        gguf_builder_tensor(&b, "a.weight", 0, 2, dims, zeros, 256);
        gguf_builder_tensor(&b, "b.weight", 8, 2, dims, zeros, 68);
        gguf_builder_tensor(&b, "c.weight", 2, 4, dims, zeros, 36);
        return gguf_builder_finish(&b, ret_size);
}

uint8_t *fuzz_seed(unsigned number, size_t *ret_size) {
        switch (number) {
        case 0:
                return seed_tensors(ret_size);
        case 1:
                return seed_small(ret_size);
        case 2:
                return seed_words("qwen2", ret_size);
        case 3:
                return seed_words("deepseek-v3", ret_size);
        case 4:
                return seed_pieces("llama", ret_size);
        case 5:
                return seed_pieces("t5", ret_size);
        default:
                return NULL;
        }
}
