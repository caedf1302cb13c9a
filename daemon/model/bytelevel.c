/* SPDX-License-Identifier: MIT */
/* Byte-level BPE (tokenizer.ggml.model "gpt2"): every byte is a token, merges join them within words. In the
 * file each byte of a token is written as a printable character (the table of GPT-2's encoder.py: printable
 * Latin-1 stands for itself, the rest for U+0100 and up in order). */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "nfc.h"
#include "pretokenizer.h"
#include "strmap.h"
#include "tokenizer-internal.h"
#include "utf8.h"

#define PAIR_FREE UINT64_MAX

/* A rule: the pair of ids left << 32 | right joins to `id`. */
struct merge {
        uint64_t pair;
        uint32_t rank;
        int32_t id;
};

struct bytelevel {
        struct pretokenizer *pretokenizer;
        struct strmap words; /* tokens that are text, by their bytes */
        struct merge *merges;
        uint64_t mask, seed;
        int32_t bytes[256]; /* BPE_NONE where the vocabulary lacks one */
};

static bool byte_prints(unsigned byte) {
        return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/* The byte that a character stands for, or -1. Those that do not print are 0x00-0x20, 0x7f-0xa0 and 0xad. */
static int character_byte(uint32_t code) {
        if (code < 256)
                return byte_prints(code) ? (int) code : -1;
        code -= 256;
        if (code <= 0x20)
                return (int) code;
        code += 0x7f - 0x21;
        if (code <= 0xa0)
                return (int) code;
        return code == 0xa1 ? 0xad : -1;
}

/* Returns the number of bytes, or -1 when some character stands for none. */
static ssize_t unwrite(struct gguf_string text, char *out) {
        size_t n = 0;

        for (size_t i = 0; i < text.size;) {
                uint32_t code;
                const unsigned length = utf8_decode(text.data + i, text.size - i, &code);
                const int byte = length > 0 ? character_byte(code) : -1;

                if (byte < 0)
                        return -1;
                out[n++] = (char) byte;
                i += length;
        }
        return (ssize_t) n;
}

/* Added tokens are spelled as they are, and so is a token that is no written bytes. */
static size_t bytelevel_spell(enum token_type type, struct gguf_string text, char *out) {
        ssize_t n = -1;

        if (type != TOKEN_CONTROL && type != TOKEN_USER_DEFINED && type != TOKEN_UNKNOWN)
                n = unwrite(text, out);
        if (n >= 0)
                return (size_t) n;
        memcpy(out, text.data, text.size);
        return text.size;
}

static struct merge *merge_find(const struct bytelevel *b, uint64_t pair) {
        uint64_t i = strmap_mix(pair ^ b->seed, UINT64_C(0x9e3779b97f4a7c15));

        for (;; i++) {
                struct merge *m = &b->merges[i & b->mask];

                if (m->pair == pair || m->pair == PAIR_FREE)
                        return m;
        }
}

static int merges_init(struct bytelevel *b, uint64_t n) {
        uint64_t slots = 8;

        while (slots < n + n / 2)
                slots *= 2;
        b->merges = malloc(slots * sizeof(*b->merges));
        if (!b->merges)
                return -ENOMEM;
        for (uint64_t i = 0; i < slots; i++)
                b->merges[i].pair = PAIR_FREE;
        b->mask = slots - 1;
        b->seed = strmap_seed();
        return 0;
}

/* `buffer` has room for the whole rule. */
static bool merge_parse(const struct bytelevel *b, struct gguf_string rule, char *buffer, uint64_t *ret_pair,
                        int32_t *ret_id) {
        const char *space = rule.size > 1 ? memchr(rule.data + 1, ' ', rule.size - 1) : NULL;
        struct gguf_string left, right;
        uint32_t l, r, joined;
        ssize_t n, k;

        if (!space)
                return false;
        left = (struct gguf_string) { .data = rule.data, .size = (uint64_t) (space - rule.data) };
        right = (struct gguf_string) { .data = space + 1, .size = rule.size - left.size - 1 };
        n = unwrite(left, buffer);
        k = n > 0 ? unwrite(right, buffer + n) : -1;
        if (k <= 0)
                return false;
        if (!strmap_get(&b->words, buffer, (size_t) n, &l) ||
            !strmap_get(&b->words, buffer + n, (size_t) k, &r) ||
            !strmap_get(&b->words, buffer, (size_t) (n + k), &joined))
                return false;
        *ret_pair = (uint64_t) l << 32 | r;
        *ret_id = (int32_t) joined;
        return true;
}

static int load_merges(struct tokenizer *t, struct bytelevel *b, const struct gguf *g,
                       struct reason *reason) {
        static const char key[] = "tokenizer.ggml.merges";
        _cleanup_(freep) char *buffer = malloc(2 * TOKENIZER_PIECE_MAX + 1);
        struct gguf_array rules = { .n = 0 };
        int r;

        if (!buffer)
                return -ENOMEM;
        r = gguf_get_array(g, key, &rules, NULL);
        if (r == GGUF_E_TYPE || (r == 0 && rules.type != GGUF_STRING))
                return reason_return(reason, TOKENIZER_E_INVALID, "%.60s: '%s' is not an array of strings",
                                     t->name, key);
        if (rules.n > UINT32_MAX)
                return reason_return(reason, TOKENIZER_E_INVALID, "%.60s: '%s' has too many rules", t->name,
                                     key);
        r = merges_init(b, rules.n);
        if (r)
                return r;
        for (uint64_t i = 0; i < rules.n; i++) {
                const struct gguf_string rule = gguf_array_string(&rules, i);
                struct merge *m, made = { .rank = (uint32_t) i };

                if (rule.size > 2 * TOKENIZER_PIECE_MAX ||
                    !merge_parse(b, rule, buffer, &made.pair, &made.id))
                        return reason_return(reason, TOKENIZER_E_INVALID,
                                             "%.60s: rule %" PRIu64
                                             " of '%s', '%.*s', is not two tokens whose sum is one",
                                             t->name, i, key, (int) MIN(rule.size, UINT64_C(40)), rule.data);
                m = merge_find(b, made.pair);
                if (m->pair == PAIR_FREE)
                        *m = made;
        }
        return 0;
}

/* What merges may name and words may be: never a control token, which text must not turn into. */
static int load_words(struct tokenizer *t, struct bytelevel *b) {
        const int r = strmap_init(&b->words, t->n);

        if (r)
                return r;
        for (uint32_t id = 0; id < t->n; id++) {
                const struct token *token = &t->tokens[id];

                if (token->size > 0 && (token->type == TOKEN_NORMAL || token->type == TOKEN_USER_DEFINED ||
                                        token->type == TOKEN_BYTE || token->type == TOKEN_UNDEFINED))
                        strmap_add(&b->words, token->text, token->size, id);
        }
        for (unsigned byte = 0; byte < 256; byte++) {
                const char c = (char) byte;
                uint32_t id;

                b->bytes[byte] = strmap_get(&b->words, &c, 1, &id) ? (int32_t) id : BPE_NONE;
        }
        return 0;
}

static int bytelevel_load(struct tokenizer *t, const struct gguf *g, struct reason *reason) {
        struct gguf_string pre = { .data = "default", .size = strlen("default") };
        struct bytelevel *b = calloc(1, sizeof(*b));
        int r;

        if (!b)
                return -ENOMEM;
        t->state = b;
        if (gguf_has(g, "tokenizer.ggml.pre") && gguf_get_string(g, "tokenizer.ggml.pre", &pre, reason) != 0)
                return TOKENIZER_E_INVALID;
        r = pretokenizer_new(&b->pretokenizer, pre, reason);
        if (r)
                return r == PRETOKENIZER_E_UNKNOWN ? TOKENIZER_E_INVALID : r;
        t->adds_bos = pretokenizer_adds_bos(b->pretokenizer);
        r = load_words(t, b);
        if (r)
                return r;
        return load_merges(t, b, g, reason);
}

static void bytelevel_free(struct tokenizer *t) {
        struct bytelevel *b = t->state;

        if (!b)
                return;
        pretokenizer_free(b->pretokenizer);
        strmap_deinit(&b->words);
        free(b->merges);
        free(b);
}

static bool bytelevel_join(const void *userdata, const char *word, const struct bpe_symbol *left,
                           const struct bpe_symbol *right, uint32_t *ret_rank, int32_t *ret_id) {
        const struct merge *m;

        if (left->id == BPE_NONE || right->id == BPE_NONE)
                return false;
        m = merge_find(userdata, (uint64_t) (uint32_t) left->id << 32 | (uint32_t) right->id);
        if (m->pair == PAIR_FREE)
                return false;
        *ret_rank = m->rank;
        *ret_id = m->id;
        return true;
}

/* One call of bytelevel_encode(). */
struct encoding {
        const struct tokenizer *t;
        const struct bytelevel *b;
        struct bpe bpe;
        struct token_list *out;
};

static int encode_word(void *userdata, const char *word, size_t n) {
        struct encoding *e = userdata;
        const struct bpe_rules rules = { .join = bytelevel_join, .userdata = e->b };
        uint32_t id;
        int r;

        if (pretokenizer_ignores_merges(e->b->pretokenizer) && strmap_get(&e->b->words, word, n, &id))
                return token_list_append(e->out, (int32_t) id);
        bpe_begin(&e->bpe);
        for (size_t i = 0; i < n; i++) {
                r = bpe_add(&e->bpe, e->b->bytes[(uint8_t) word[i]], 1);
                if (r)
                        return r;
        }
        r = bpe_merge(&e->bpe, word, &rules);
        for (uint32_t i = 0; r == 0 && i != UINT32_MAX; i = e->bpe.symbols[i].next) {
                const int32_t token = e->bpe.symbols[i].id;

                if (token == BPE_NONE && e->t->unknown < 0)
                        return TOKENIZER_E_TEXT;
                r = token_list_append(e->out, token == BPE_NONE ? e->t->unknown : token);
        }
        return r;
}

static int encode_valid(struct encoding *e, const char *text, size_t n) {
        _cleanup_(freep) char *normal = NULL;

        if (pretokenizer_nfc(e->b->pretokenizer) && nfc_needed(text, n)) {
                const int r = nfc(text, n, &normal, &n);

                if (r)
                        return r;
                text = normal;
        }
        return pretokenizer_split(e->b->pretokenizer, text, n, encode_word, e);
}

/* Bytes that are not UTF-8 are words of their own: no expression matches them. */
static int bytelevel_encode(const struct tokenizer *t, const char *text, size_t size, bool first,
                            struct token_list *out) {
        struct encoding e = { .t = t, .b = t->state, .bpe = BPE_NULL, .out = out };
        int r = 0;

        while (size > 0 && r == 0) {
                size_t n = utf8_valid(text, size);

                if (n > 0) {
                        r = encode_valid(&e, text, n);
                } else {
                        n = utf8_invalid(text, size);
                        r = encode_word(&e, text, n);
                }
                text += n;
                size -= n;
        }
        bpe_deinit(&e.bpe);
        return r;
}

const struct tokenizer_ops bytelevel_ops = {
        .model = "gpt2",
        .spell = bytelevel_spell,
        .load = bytelevel_load,
        .free = bytelevel_free,
        .encode = bytelevel_encode,
};
