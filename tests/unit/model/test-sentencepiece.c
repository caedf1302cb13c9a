/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "gguf-builder.h"
#include "gguf.h"
#include "test.h"
#include "tokenizer.h"

#define META "\xe2\x96\x81"

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER = 4, BYTE = 6 };

struct piece {
        const char *text;
        int32_t type;
        float score;
};

static void write_pieces(struct gguf_builder *b, const char *model, const struct piece *pieces, size_t n) {
        const char *texts[64];
        int32_t types[64];
        float scores[64];

        for (size_t i = 0; i < n; i++) {
                texts[i] = pieces[i].text;
                types[i] = pieces[i].type;
                scores[i] = pieces[i].score;
        }
        gguf_builder_string(b, "tokenizer.ggml.model", model);
        gguf_builder_strings(b, "tokenizer.ggml.tokens", texts, n);
        gguf_builder_i32s(b, "tokenizer.ggml.token_type", types, n);
        gguf_builder_f32s(b, "tokenizer.ggml.scores", scores, n);
        gguf_builder_u32(b, "tokenizer.ggml.unknown_token_id", 0);
}

static int make(struct tokenizer **ret, struct gguf_builder *b, struct reason *reason) {
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        _cleanup_(freep) uint8_t *data = NULL;
        size_t size;

        data = gguf_builder_finish(b, &size);
        assert_se(gguf_open_memory(&g, data, size, "made.gguf", reason) == 0);
        return tokenizer_new(ret, g, reason);
}

/* Expects text to become the ids, which end with -1, and these to give `decoded`. */
static void encodes(const struct tokenizer *t, const char *text, const int32_t *ids, const char *decoded) {
        struct token_list list = TOKEN_LIST_NULL;
        _cleanup_(freep) char *back = NULL;
        size_t n = 0, size;

        while (ids[n] >= 0)
                n++;
        assert_se(tokenizer_encode(t, text, strlen(text), 0, &list) == 0);
        assert_se(list.n == n && (n == 0 || memcmp(list.ids, ids, n * sizeof(*ids)) == 0));
        assert_se(tokenizer_decode(t, list.ids, list.n, 0, &back, &size) == 0);
        assert_se(size == strlen(decoded) && memcmp(back, decoded, size) == 0);
        token_list_deinit(&list);
}

#define IDS(...) ((const int32_t[]) { __VA_ARGS__, -1 })
#define NO_IDS   ((const int32_t[]) { -1 })

/* Ids by position. */
static const struct piece bpe[] = {
        { "<unk>", UNKNOWN, 0 }, { "<s>", CONTROL, 0 }, { "<0xC3>", BYTE, 0 },    { "<0xA9>", BYTE, 0 },
        { "<0xFF>", BYTE, 0 },   { META, NORMAL, -9 },  { "a", NORMAL, -9 },      { "b", NORMAL, -9 },
        { "c", NORMAL, -9 },     { "bc", NORMAL, -2 },  { META "a", NORMAL, -3 }, { "ab", NORMAL, -1 },
        { "<u>", USER, 0 },
};

TEST(spm_joins_the_highest_score_first) {
        struct gguf_builder b = GGUF_BUILDER_INIT;
        _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;

        write_pieces(&b, "llama", bpe, ELEMENTS(bpe));
        assert_se(make(&t, &b, NULL) == 0);
        encodes(t, "", NO_IDS, "");
        encodes(t, "a", IDS(10), "a");
        encodes(t, "abc", IDS(5, 11, 8), "abc");
        encodes(t, "cbc", IDS(5, 8, 9), "cbc");
        encodes(t, "a a", IDS(10, 10), "a a");
        /* A space that was there stays beside the one that is put in front. */
        encodes(t, " a", IDS(5, 10), " a");
        encodes(t, "a<u>b", IDS(10, 12, 7), "a<u>b");
        assert_se(tokenizer_adds_bos(t));
}

TEST(spm_falls_back_to_bytes_and_then_to_unknown) {
        struct gguf_builder b = GGUF_BUILDER_INIT;
        _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;

        write_pieces(&b, "llama", bpe, ELEMENTS(bpe));
        assert_se(make(&t, &b, NULL) == 0);
        encodes(t, "\xc3\xa9\xff", IDS(5, 2, 3, 4), "\xc3\xa9\xff");
        /* Unknown characters in a row are one. */
        encodes(t, "xya", IDS(5, 0, 6), " \xe2\x81\x87 a");
}

TEST(spm_without_unknown_token_refuses_text_but_not_the_file) {
        struct gguf_builder b = GGUF_BUILDER_INIT;
        _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;
        struct token_list list = TOKEN_LIST_NULL;
        static const char *const one[] = { "a" };
        static const float score[] = { 0 };

        gguf_builder_string(&b, "tokenizer.ggml.model", "llama");
        gguf_builder_strings(&b, "tokenizer.ggml.tokens", one, 1);
        gguf_builder_f32s(&b, "tokenizer.ggml.scores", score, 1);
        gguf_builder_bool(&b, "tokenizer.ggml.add_space_prefix", false);
        assert_se(make(&t, &b, NULL) == 0);
        encodes(t, "aa", IDS(0, 0), "aa");
        assert_se(tokenizer_encode(t, "ab", 2, 0, &list) == TOKENIZER_E_TEXT && list.n == 0);
        token_list_deinit(&list);
}

TEST(spm_streams_drop_the_first_space_unless_text_came_before) {
        struct gguf_builder b = GGUF_BUILDER_INIT;
        _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;
        struct detokenizer d;
        size_t size;

        write_pieces(&b, "llama", bpe, ELEMENTS(bpe));
        assert_se(make(&t, &b, NULL) == 0);
        assert_se(detokenizer_init(&d, t, 0) == 0);
        detokenizer_push(&d, 1, &size);
        assert_se(size == 0);
        assert_se(memcmp(detokenizer_push(&d, 10, &size), "a", 1) == 0 && size == 1);
        assert_se(memcmp(detokenizer_push(&d, 10, &size), " a", 2) == 0 && size == 2);
        detokenizer_deinit(&d);
        assert_se(detokenizer_init(&d, t, DETOKENIZE_CONTINUE) == 0);
        assert_se(memcmp(detokenizer_push(&d, 10, &size), " a", 2) == 0 && size == 2);
        detokenizer_deinit(&d);
}

static const struct piece unigram[] = {
        { "<unk>", UNKNOWN, 0 }, { META, NORMAL, -2 },  { "a", NORMAL, -3 },  { "b", NORMAL, -3 },
        { "ab", NORMAL, -5 },    { "aba", NORMAL, -9 }, { "ba", NORMAL, -4 }, { "user", USER, 0 },
};

TEST(unigram_takes_the_best_sum_not_the_longest_piece) {
        struct gguf_builder b = GGUF_BUILDER_INIT;
        _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;

        write_pieces(&b, "t5", unigram, ELEMENTS(unigram));
        assert_se(make(&t, &b, NULL) == 0);
        encodes(t, "", NO_IDS, "");
        encodes(t, "ab", IDS(1, 4), "ab");
        encodes(t, "aba", IDS(1, 2, 6), "aba"); /* -3 - 4 beats -9 and -5 - 3 */
        encodes(t, "xxa", IDS(1, 0, 2), " \xe2\x81\x87 a");
        encodes(t, "auserb", IDS(1, 2, 7, 3), "auserb");
        assert_se(!tokenizer_adds_bos(t));
}

TEST(unigram_merges_spaces_where_the_file_says_so) {
        struct gguf_builder b = GGUF_BUILDER_INIT;
        _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;

        write_pieces(&b, "t5", unigram, ELEMENTS(unigram));
        gguf_builder_bool(&b, "tokenizer.ggml.remove_extra_whitespaces", true);
        assert_se(make(&t, &b, NULL) == 0);
        encodes(t, "  a   b  ", IDS(1, 2, 1, 3), "a b");
        encodes(t, "   ", NO_IDS, "");
}

/* A trie of one sequence, "x", that becomes "ab": the root leads to unit 1 ^ 'x', whose leaf is beside it. */
static void write_map(struct gguf_builder *b, uint32_t value) {
        enum { UNITS = 256 };
        const uint32_t node = 1 ^ 'x', leaf = node ^ 2;

        gguf_builder_key(b, "tokenizer.ggml.precompiled_charsmap", GGUF_ARRAY);
        bytes_u32(&b->pairs, GGUF_U8);
        bytes_u64(&b->pairs, 4 + 4 * UNITS + 3);
        bytes_u32(&b->pairs, 4 * UNITS);
        for (uint32_t i = 0; i < UNITS; i++) {
                uint32_t unit = 0;

                if (i == 0)
                        unit = 1u << 10;
                if (i == node)
                        unit = 2u << 10 | 1u << 8 | 'x';
                if (i == leaf)
                        unit = 1u << 31 | value;
                bytes_u32(&b->pairs, unit);
        }
        bytes_append(&b->pairs, "ab", 3);
}

TEST(characters_are_replaced_by_the_files_map) {
        struct gguf_builder b = GGUF_BUILDER_INIT;
        _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;

        write_pieces(&b, "t5", unigram, ELEMENTS(unigram));
        write_map(&b, 0);
        assert_se(make(&t, &b, NULL) == 0);
        encodes(t, "x", IDS(1, 4), "ab");
        encodes(t, "ax", IDS(1, 2, 4), "aab");
        encodes(t, "b", IDS(1, 3), "b");
        /* A leaf that points outside replaces nothing. */
        tokenizer_free(t);
        write_pieces(&b, "t5", unigram, ELEMENTS(unigram));
        write_map(&b, 3);
        assert_se(make(&t, &b, NULL) == 0);
        encodes(t, "x", IDS(1, 0), " \xe2\x81\x87 ");
}

TEST(hostile_pieces_are_refused) {
        static const char *const models[] = { "llama", "t5" };
        static const char *const one[] = { "a" };
        static const float score[] = { 0 };
        static const uint8_t maps[][9] = {
                { 4, 0, 0, 0, 1, 1, 1, 1, 1 },             /* the strings do not end */
                { 5, 0, 0, 0, 1, 1, 1, 1, 0 },             /* not whole units, no strings */
                { 0, 0, 0, 0, 1, 1, 1, 1, 0 },             /* no units */
                { 0xfc, 0xff, 0xff, 0xff, 1, 1, 1, 1, 0 }, /* more units than there are */
        };

        for (size_t i = 0; i < ELEMENTS(models); i++) {
                struct gguf_builder b = GGUF_BUILDER_INIT;
                struct reason reason = REASON_INIT;
                struct tokenizer *t;

                gguf_builder_string(&b, "tokenizer.ggml.model", models[i]);
                gguf_builder_strings(&b, "tokenizer.ggml.tokens", one, 1);
                assert_se(make(&t, &b, &reason) == TOKENIZER_E_INVALID);
                assert_se(strstr(reason.text, "'tokenizer.ggml.scores' is missing"));
                for (size_t k = 0; k < ELEMENTS(maps); k++) {
                        gguf_builder_string(&b, "tokenizer.ggml.model", models[i]);
                        gguf_builder_strings(&b, "tokenizer.ggml.tokens", one, 1);
                        gguf_builder_f32s(&b, "tokenizer.ggml.scores", score, 1);
                        gguf_builder_key(&b, "tokenizer.ggml.precompiled_charsmap", GGUF_ARRAY);
                        bytes_u32(&b.pairs, GGUF_U8);
                        bytes_u64(&b.pairs, sizeof(maps[k]));
                        bytes_append(&b.pairs, maps[k], sizeof(maps[k]));
                        assert_se(make(&t, &b, &reason) == TOKENIZER_E_INVALID);
                        assert_se(strstr(reason.text, "'tokenizer.ggml.precompiled_charsmap' has no trie"));
                }
        }
}

TEST(pieces_of_ten_megabytes_take_no_quadratic_time) {
        static const char *const units[] = { "a", "ab", " ", "\xff", "x" };
        const size_t n = 10000000;
        char *text = malloc(n);

        for (size_t m = 0; m < 2; m++) {
                struct gguf_builder b = GGUF_BUILDER_INIT;
                _cleanup_(tokenizer_freep) struct tokenizer *t = NULL;

                if (m == 0)
                        write_pieces(&b, "llama", bpe, ELEMENTS(bpe));
                else
                        write_pieces(&b, "t5", unigram, ELEMENTS(unigram));
                assert_se(make(&t, &b, NULL) == 0);
                for (size_t i = 0; i < ELEMENTS(units); i++) {
                        struct token_list list = TOKEN_LIST_NULL;

                        for (size_t k = 0; k < n; k++)
                                text[k] = units[i][k % strlen(units[i])];
                        assert_se(tokenizer_encode(t, text, n, 0, &list) == 0 && list.n > 0);
                        token_list_deinit(&list);
                }
        }
        free(text);
}
