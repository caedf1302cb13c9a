/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <pthread.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "fixture-tokenizer.h"
#include "gguf-builder.h"
#include "gguf.h"
#include "test.h"
#include "tokenizer.h"
#include "vocabulary.h"

/* Makes the tokenizer of what the builder holds; the file is gone when it is used. */
static int make(struct tokenizer **ret, struct gguf_builder *b, struct reason *reason) {
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        _cleanup_(freep) uint8_t *data = NULL;
        size_t size;
        int r;

        data = gguf_builder_finish(b, &size);
        assert_se(gguf_open_memory(&g, data, size, "made.gguf", reason) == 0);
        r = tokenizer_new(ret, g, reason);
        memset(data, 0xaa, size);
        return r;
}

static struct tokenizer *made(const struct vocabulary *v, const char *pre) {
        struct gguf_builder b = GGUF_BUILDER_INIT;
        struct reason reason = REASON_INIT;
        struct tokenizer *t;
        int r;

        vocabulary_write(v, &b, pre);
        r = make(&t, &b, &reason);
        if (r)
                fprintf(stderr, "%s\n", reason.text);
        assert_se(r == 0);
        return t;
}

static void refused(struct gguf_builder *b, const char *word) {
        struct reason reason = REASON_INIT;
        struct tokenizer *t = NULL;

        assert_se(make(&t, b, &reason) == TOKENIZER_E_INVALID);
        if (!strstr(reason.text, word))
                fprintf(stderr, "'%s' lacks '%s'\n", reason.text, word);
        assert_se(!t && strstr(reason.text, word));
}

/* Expects text to become the ids, which end with -1. */
static void encodes(const struct tokenizer *t, const char *text, unsigned flags, const int32_t *ids) {
        struct token_list list = TOKEN_LIST_NULL;
        size_t n = 0;

        while (ids[n] >= 0)
                n++;
        assert_se(tokenizer_encode(t, text, strlen(text), flags, &list) == 0);
        assert_se(list.n == n && (n == 0 || memcmp(list.ids, ids, n * sizeof(*ids)) == 0));
        token_list_deinit(&list);
}

#define IDS(...) ((const int32_t[]) { __VA_ARGS__, -1 })

TEST(bpe_joins_the_lowest_rank_first_then_leftmost) {
        static struct vocabulary v;
        _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;
        int32_t ab, bc, aa, abc;

        vocabulary_init(&v);
        bc = vocabulary_merge(&v, "b", "c");
        ab = vocabulary_merge(&v, "a", "b");
        aa = vocabulary_merge(&v, "a", "a");
        abc = vocabulary_merge(&v, "a", "bc");
        t = made(&v, "gpt-2");
        encodes(t, "ab", 0, IDS(ab));
        encodes(t, "abc", 0, IDS(abc));
        encodes(t, "abcab", 0, IDS(abc, ab));
        encodes(t, "aaa", 0, IDS(aa, 'a'));
        encodes(t, "aaaab", 0, IDS(aa, 'a', ab));
        encodes(t, "bcb", 0, IDS(bc, 'b'));
        /* Not across words. */
        encodes(t, "a b", 0, IDS('a', ' ', 'b'));
        encodes(t, "", 0, (const int32_t[]) { -1 });
}

TEST(bpe_word_that_is_a_token_needs_no_merges_only_where_the_family_says_so) {
        static struct vocabulary v;
        _cleanup_(tokenizer_freep) struct tokenizer *llama = NULL, *gpt2 = NULL;
        int32_t whole;

        vocabulary_init(&v);
        whole = vocabulary_add(&v, "whole", VOCABULARY_NORMAL);
        llama = made(&v, "llama-bpe");
        gpt2 = made(&v, "gpt-2");
        encodes(llama, "whole", 0, IDS(whole));
        encodes(gpt2, "whole", 0, IDS('w', 'h', 'o', 'l', 'e'));
}

TEST(special_tokens_are_text_unless_asked_for) {
        static struct vocabulary v;
        _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;
        int32_t end, user, longer;

        vocabulary_init(&v);
        end = vocabulary_add(&v, "<|e|>", VOCABULARY_CONTROL);
        longer = vocabulary_add(&v, "<|e|>>", VOCABULARY_CONTROL);
        user = vocabulary_add(&v, "<t>", VOCABULARY_USER);
        t = made(&v, "gpt-2");
        encodes(t, "a<|e|>b", TOKENIZE_SPECIAL, IDS('a', end, 'b'));
        encodes(t, "<|e|>", 0, IDS('<', '|', 'e', '|', '>'));
        encodes(t, "a<t>b", 0, IDS('a', user, 'b'));
        encodes(t, "<t><|e|>", TOKENIZE_SPECIAL, IDS(user, end));
        /* The longest at a place; the leftmost first; a beginning is none. */
        encodes(t, "<|e|>>", TOKENIZE_SPECIAL, IDS(longer));
        encodes(t, "<<|e|>", TOKENIZE_SPECIAL, IDS('<', end));
        encodes(t, "<|e|", TOKENIZE_SPECIAL, IDS('<', '|', 'e', '|'));
        assert_se(tokenizer_control(t, "<|e|>") == end && tokenizer_control(t, "<|e") == -1);
        assert_se(tokenizer_control(t, "<t>") == -1 && tokenizer_control(t, "") == -1);
        assert_se(tokenizer_is_control(t, end) && !tokenizer_is_control(t, user) &&
                  !tokenizer_is_control(t, -1));
}

TEST(a_word_that_spells_a_control_token_stays_text) {
        static struct vocabulary v;
        _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;

        vocabulary_init(&v);
        vocabulary_add(&v, "stop", VOCABULARY_CONTROL);
        t = made(&v, "llama-bpe");
        encodes(t, "stop", 0, IDS('s', 't', 'o', 'p'));
}

TEST(parts_join_to_one_text_but_special_tokens_only_in_trusted_parts) {
        static struct vocabulary v;
        _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;
        struct token_list list = TOKEN_LIST_NULL;
        int32_t ab, end;

        vocabulary_init(&v);
        ab = vocabulary_merge(&v, "a", "b");
        end = vocabulary_add(&v, "<e>", VOCABULARY_CONTROL);
        t = made(&v, "gpt-2");
        const struct token_text parts[] = {
                { .text = "<e>a", .size = 4, .flags = TOKENIZE_SPECIAL },
                { .text = "b<e", .size = 3 },
                { .text = "><e>", .size = 4, .flags = TOKENIZE_SPECIAL },
        };
        const int32_t expected[] = { end, ab, '<', 'e', '>', end };

        assert_se(tokenizer_encode_parts(t, parts, 3, &list) == 0);
        assert_se(list.n == ELEMENTS(expected) && memcmp(list.ids, expected, sizeof(expected)) == 0);
        assert_se(tokenizer_encode_parts(t, NULL, 0, &list) == 0 && list.n == ELEMENTS(expected));
        token_list_deinit(&list);
}

/* Every text comes back byte for byte, whole and token by token, and no event has part of a character. */
static void round_trip(const struct tokenizer *t, const char *text, size_t n) {
        struct token_list list = TOKEN_LIST_NULL;
        _cleanup_(freep) char *decoded = NULL, *streamed = malloc(n + 1);
        struct detokenizer d;
        const char *piece;
        size_t size, used = 0;

        assert_se(tokenizer_encode(t, text, n, 0, &list) == 0);
        assert_se(tokenizer_decode(t, list.ids, list.n, 0, &decoded, &size) == 0);
        assert_se(size == n && memcmp(decoded, text, n) == 0);
        assert_se(detokenizer_init(&d, t, 0) == 0);
        for (size_t i = 0; i <= list.n; i++) {
                piece = i < list.n ? detokenizer_push(&d, list.ids[i], &size) : detokenizer_flush(&d, &size);
                assert_se(used + size <= n);
                memcpy(streamed + used, piece, size);
                used += size;
        }
        assert_se(used == n && memcmp(streamed, text, n) == 0);
        detokenizer_deinit(&d);
        token_list_deinit(&list);
}

TEST(bytes_that_are_not_utf8_round_trip) {
        static const char *const texts[] = {
                "\xff",
                "a\xffg",
                "\xc3",
                "\xc3(",
                "\xe2\x82",
                "\xed\xa0\x80",
                "\xf8\x88\x80\x80\x80",
                "\xc0\xaf",
                "ok \xf0\x9f\x98\x80 \xf0\x9f\x98",
                "\x80\x80\x80",
                "na\xc3\xafve \xfe\xfe \xe6\xbc\xa2",
        };
        static const char *const families[] = { "gpt-2",       "qwen2",  "deepseek-llm",
                                                "deepseek-v3", "gpt-4o", "tekken" };
        static struct vocabulary v;
        char all[512];

        vocabulary_init(&v);
        vocabulary_merge(&v, "a", "b");
        for (unsigned i = 0; i < 512; i++)
                all[i] = (char) (i * 37);
        for (size_t f = 0; f < ELEMENTS(families); f++) {
                _cleanup_(tokenizer_freep) struct tokenizer *t = made(&v, families[f]);

                for (size_t i = 0; i < ELEMENTS(texts); i++)
                        round_trip(t, texts[i], strlen(texts[i]));
                round_trip(t, "nul\0inside", 10);
                round_trip(t, all, sizeof(all));
        }
}

TEST(stream_never_splits_a_character) {
        static struct vocabulary v;
        _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;
        static const char text[] = "\xf0\x9f\x98\x80"
                                   "a\xe2\x82"
                                   "b";
        static const size_t sizes[] = { 0, 0, 0, 4, 1, 0, 0, 3 };
        struct detokenizer d;
        size_t size;
        int32_t end;

        vocabulary_init(&v);
        end = vocabulary_add(&v, "<e>", VOCABULARY_CONTROL);
        t = made(&v, "gpt-2");
        assert_se(detokenizer_init(&d, t, 0) == 0);
        /* The bytes are tokens 0 … 255 of this vocabulary. "b" shows that the character before it never ends.
         */
        for (size_t i = 0; i < sizeof(text) - 1; i++) {
                const char *piece = detokenizer_push(&d, (uint8_t) text[i], &size);

                assert_se(size == sizes[i]);
                assert_se(memcmp(piece, text + i + 1 - size, size) == 0);
        }
        detokenizer_push(&d, 0xe2, &size);
        assert_se(size == 0);
        /* Control tokens and ids that are none add nothing and take nothing away. */
        detokenizer_push(&d, end, &size);
        assert_se(size == 0);
        detokenizer_push(&d, 1 << 30, &size);
        assert_se(size == 0);
        detokenizer_push(&d, -1, &size);
        assert_se(size == 0);
        assert_se(memcmp(detokenizer_flush(&d, &size), "\xe2", 1) == 0 && size == 1);
        detokenizer_flush(&d, &size);
        assert_se(size == 0);
        detokenizer_deinit(&d);
        assert_se(detokenizer_init(&d, t, DETOKENIZE_SPECIAL) == 0);
        assert_se(memcmp(detokenizer_push(&d, end, &size), "<e>", 3) == 0 && size == 3);
        detokenizer_deinit(&d);
}

TEST(text_of_ten_megabytes_takes_no_quadratic_time) {
        /* One word, one run of space, marks on one letter, half characters: each would take hours if
         * quadratic. */
        static const char *const units[] = { "a",    " ",  "\n", "e\xcc\xa7\xcc\x81", "\xcc\x81\xcc\xa7",
                                             "\xff", "ab " };
        static struct vocabulary v;
        _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;
        const size_t n = 10000000;
        char *text = malloc(n + 1);

        vocabulary_init(&v);
        vocabulary_merge(&v, "a", "a");
        vocabulary_merge(&v, "aa", "aa");
        vocabulary_merge(&v, "aaaa", "aaaa");
        t = made(&v, "qwen2");
        for (size_t i = 0; i < ELEMENTS(units); i++) {
                const size_t unit = strlen(units[i]);
                struct token_list list = TOKEN_LIST_NULL;

                for (size_t k = 0; k < n; k++)
                        text[k] = units[i][k % unit];
                assert_se(tokenizer_encode(t, text, n, 0, &list) == 0);
                assert_se(i > 0 || list.n == n / 8);
                token_list_deinit(&list);
        }
        free(text);
}

TEST(begin_of_text_is_added_when_asked_and_wanted) {
        static struct vocabulary v;
        int32_t bos;

        vocabulary_init(&v);
        bos = vocabulary_add(&v, "<s>", VOCABULARY_CONTROL);
        for (int wanted = 0; wanted < 3; wanted++) {
                struct gguf_builder b = GGUF_BUILDER_INIT;
                _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;

                vocabulary_write(&v, &b, wanted == 2 ? "llama-bpe" : "gpt-2");
                gguf_builder_u32(&b, "tokenizer.ggml.bos_token_id", (uint32_t) bos);
                if (wanted < 2)
                        gguf_builder_bool(&b, "tokenizer.ggml.add_bos_token", wanted);
                assert_se(make(&t, &b, NULL) == 0);
                assert_se(tokenizer_bos(t) == bos && tokenizer_adds_bos(t) == (wanted > 0));
                encodes(t, "x", 0, IDS('x'));
                if (wanted)
                        encodes(t, "x", TOKENIZE_BOS, IDS(bos, 'x'));
                else
                        encodes(t, "x", TOKENIZE_BOS, IDS('x'));
        }
}

TEST(generation_ends_at_the_ids_of_the_file_and_at_known_names) {
        static struct vocabulary v;
        struct gguf_builder b = GGUF_BUILDER_INIT;
        _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;
        int32_t eos, turn, text, end;

        vocabulary_init(&v);
        eos = vocabulary_add(&v, "<stop>", VOCABULARY_CONTROL);
        turn = vocabulary_add(&v, "<|im_end|>", VOCABULARY_CONTROL);
        end = vocabulary_add(&v, "<|end|>", VOCABULARY_CONTROL);
        text = vocabulary_add(&v, "<end_of_turn>", VOCABULARY_NORMAL);
        vocabulary_write(&v, &b, "gpt-2");
        gguf_builder_u32(&b, "tokenizer.ggml.eos_token_id", (uint32_t) eos);
        assert_se(make(&t, &b, NULL) == 0);
        assert_se(tokenizer_eos(t) == eos && tokenizer_bos(t) == -1 && tokenizer_eot(t) == -1);
        assert_se(tokenizer_is_eog(t, eos) && tokenizer_is_eog(t, turn) && tokenizer_is_eog(t, end));
        assert_se(!tokenizer_is_eog(t, text) && !tokenizer_is_eog(t, 'a') && !tokenizer_is_eog(t, 1 << 20));
        /* In harmony <|end|> is the end of a message, not of the answer. */
        tokenizer_free(t);
        vocabulary_add(&v, "<|return|>", VOCABULARY_CONTROL);
        t = made(&v, "gpt-2");
        assert_se(!tokenizer_is_eog(t, end) && tokenizer_is_eog(t, tokenizer_control(t, "<|return|>")));
}

TEST(hostile_vocabularies_are_refused) {
        static struct vocabulary v;
        struct gguf_builder b = GGUF_BUILDER_INIT;
        static const char *const one[] = { "a" };
        static const float not_finite[] = { 1.0f / 0.0f };
        static const int32_t bad_type[] = { 7 };

        refused(&b, "'tokenizer.ggml.model' is missing");
        gguf_builder_string(&b, "tokenizer.ggml.model", "bert");
        refused(&b, "'bert' is unknown; known are gpt2");
        gguf_builder_string(&b, "tokenizer.ggml.model", "gpt2");
        refused(&b, "'tokenizer.ggml.tokens' is missing");
        gguf_builder_string(&b, "tokenizer.ggml.model", "gpt2");
        gguf_builder_strings(&b, "tokenizer.ggml.tokens", NULL, 0);
        refused(&b, "'tokenizer.ggml.tokens' is 0 of string");
        gguf_builder_string(&b, "tokenizer.ggml.model", "gpt2");
        gguf_builder_i32s(&b, "tokenizer.ggml.tokens", bad_type, 1);
        refused(&b, "of i32");
        gguf_builder_string(&b, "tokenizer.ggml.model", "gpt2");
        gguf_builder_strings(&b, "tokenizer.ggml.tokens", one, 1);
        gguf_builder_i32s(&b, "tokenizer.ggml.token_type", bad_type, 1);
        refused(&b, "element 0 of 'tokenizer.ggml.token_type'");
        gguf_builder_string(&b, "tokenizer.ggml.model", "gpt2");
        gguf_builder_strings(&b, "tokenizer.ggml.tokens", one, 1);
        gguf_builder_i32s(&b, "tokenizer.ggml.token_type", bad_type, 0);
        refused(&b, "has 0 elements for 1 tokens");
        gguf_builder_string(&b, "tokenizer.ggml.model", "gpt2");
        gguf_builder_strings(&b, "tokenizer.ggml.tokens", one, 1);
        gguf_builder_f32s(&b, "tokenizer.ggml.scores", not_finite, 1);
        refused(&b, "element 0 of 'tokenizer.ggml.scores'");
        gguf_builder_string(&b, "tokenizer.ggml.model", "gpt2");
        gguf_builder_strings(&b, "tokenizer.ggml.tokens", one, 1);
        gguf_builder_f32s(&b, "tokenizer.ggml.scores", not_finite, 0);
        refused(&b, "has 0 elements for 1 tokens");

        vocabulary_init(&v);
        vocabulary_write(&v, &b, "never-heard-of");
        refused(&b, "'never-heard-of' is unknown; known are gpt-2");
        vocabulary_write(&v, &b, NULL);
        gguf_builder_u32(&b, "tokenizer.ggml.bos_token_id", 256);
        refused(&b, "'tokenizer.ggml.bos_token_id' is 256, but there are 256 tokens");
        vocabulary_write(&v, &b, NULL);
        gguf_builder_string(&b, "tokenizer.ggml.add_bos_token", "yes");
        refused(&b, "'tokenizer.ggml.add_bos_token' is of type string");
}

TEST(merges_that_name_no_tokens_are_refused) {
        static const char *const bad[] = { "ab", "", " ", "a ", " a", "a zz", "a b", "\xff a", "a b c" };
        static struct vocabulary v;

        for (size_t i = 0; i < ELEMENTS(bad); i++) {
                struct gguf_builder b = GGUF_BUILDER_INIT;

                vocabulary_init(&v);
                vocabulary_merge(&v, "x", "y");
                strcpy(v.merges[v.n_merges++], bad[i]);
                vocabulary_write(&v, &b, "gpt-2");
                refused(&b, "rule 1 of 'tokenizer.ggml.merges'");
        }
}

TEST(oversized_tokens_are_refused) {
        struct gguf_builder b = GGUF_BUILDER_INIT;
        static char text[TOKENIZER_PIECE_MAX + 2];
        const char *const one[] = { text };
        static const int32_t control[] = { VOCABULARY_CONTROL };

        memset(text, 'a', sizeof(text) - 1);
        gguf_builder_string(&b, "tokenizer.ggml.model", "gpt2");
        gguf_builder_strings(&b, "tokenizer.ggml.tokens", one, 1);
        refused(&b, "token 0 has 65537 bytes");
        text[TOKENIZER_SPECIAL_MAX + 1] = '\0';
        gguf_builder_string(&b, "tokenizer.ggml.model", "gpt2");
        gguf_builder_strings(&b, "tokenizer.ggml.tokens", one, 1);
        gguf_builder_i32s(&b, "tokenizer.ggml.token_type", control, 1);
        refused(&b, "special token 0 has 1025 bytes");
}

TEST(text_that_the_vocabulary_cannot_express_is_an_outcome) {
        struct gguf_builder b = GGUF_BUILDER_INIT;
        static const char *const few[] = { "a", "b" };
        _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;
        struct token_list list = TOKEN_LIST_NULL;

        gguf_builder_string(&b, "tokenizer.ggml.model", "gpt2");
        gguf_builder_strings(&b, "tokenizer.ggml.tokens", few, 2);
        assert_se(make(&t, &b, NULL) == 0);
        assert_se(tokenizer_encode(t, "ab", 2, 0, &list) == 0 && list.n == 2);
        assert_se(tokenizer_encode(t, "abc", 3, 0, &list) == TOKENIZER_E_TEXT && list.n == 2);
        assert_se(tokenizer_encode(t, "abc", (size_t) TOKENIZER_TEXT_MAX + 1, 0, &list) == TOKENIZER_E_SIZE);
        token_list_deinit(&list);
        tokenizer_free(t);
        gguf_builder_string(&b, "tokenizer.ggml.model", "gpt2");
        gguf_builder_strings(&b, "tokenizer.ggml.tokens", few, 2);
        gguf_builder_u32(&b, "tokenizer.ggml.unknown_token_id", 1);
        assert_se(make(&t, &b, NULL) == 0);
        encodes(t, "ac", 0, IDS(0, 1));
}

static void *encode_often(void *userdata) {
        static const char text[] = "some words, 12345 and \xe6\xbc\xa2\xe5\xad\x97";

        for (int i = 0; i < 200; i++)
                round_trip(userdata, text, sizeof(text) - 1);
        return NULL;
}

TEST(a_tokenizer_serves_threads_at_once) {
        static struct vocabulary v;
        _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;
        pthread_t threads[4];

        vocabulary_init(&v);
        t = made(&v, "qwen2");
        for (size_t i = 0; i < ELEMENTS(threads); i++)
                assert_se(pthread_create(&threads[i], NULL, encode_often, t) == 0);
        for (size_t i = 0; i < ELEMENTS(threads); i++)
                assert_se(pthread_join(threads[i], NULL) == 0);
}

TEST(reference_texts_give_the_ids_of_the_models_own_tokenizers) {
        const char *folder = getenv("MOED_FIXTURES");
        _cleanup_(freep) char *tokenizers = NULL;
        struct dirent *entry;
        size_t run = 0;
        DIR *dir;

        assert_se(asprintf(&tokenizers, "%s/tokenizers", folder ? folder : FIXTURES) > 0);
        dir = opendir(tokenizers);
        if (!dir)
                test_skip("no fixtures; set MOED_FIXTURES to their folder");
        while ((entry = readdir(dir))) {
                struct fixture_tokenizer f = { .first = REASON_INIT };
                struct reason reason = REASON_INIT;
                _cleanup_(freep) char *path = NULL;

                if (entry->d_name[0] == '.')
                        continue;
                assert_se(asprintf(&path, "%s/%s", tokenizers, entry->d_name) > 0);
                if (fixture_tokenizer_run(&f, path, &reason) != 0)
                        fprintf(stderr, "%s: %s\n", entry->d_name, reason.text);
                if (f.mismatches > 0)
                        fprintf(stderr, "%s: %s\n", entry->d_name, f.first.text);
                assert_se(f.cases > 0 && f.mismatches == 0);
                run++;
        }
        closedir(dir);
        assert_se(run > 0);
}
