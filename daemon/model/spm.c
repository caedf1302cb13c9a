/* SPDX-License-Identifier: MIT */
/* SentencePiece BPE (tokenizer.ggml.model "llama"): characters join whenever their sum is a piece, the piece
 * with the highest score first. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "sentencepiece.h"
#include "strmap.h"

struct spm {
        struct sentencepiece base;
        struct strmap pieces;
        uint32_t *ranks; /* [n] place in the order of falling score; equal scores share one */
        uint32_t piece_max;
        bool words; /* no piece has a space behind something else: text can be cut there */
};

struct scored {
        float score;
        uint32_t id;
};

static int scored_compare(const void *x, const void *y) {
        const struct scored *a = x, *b = y;

        return (a->score < b->score) - (a->score > b->score);
}

static int load_ranks(struct tokenizer *t, struct spm *s) {
        _cleanup_(freep) struct scored *order = malloc(t->n * sizeof(*order));
        uint32_t rank = 0;

        s->ranks = malloc(t->n * sizeof(*s->ranks));
        if (!order || !s->ranks)
                return -ENOMEM;
        for (uint32_t id = 0; id < t->n; id++)
                order[id] = (struct scored) { .score = t->scores[id], .id = id };
        qsort(order, t->n, sizeof(*order), scored_compare);
        for (uint32_t i = 0; i < t->n; i++) {
                rank += i > 0 && order[i].score != order[i - 1].score;
                s->ranks[order[i].id] = rank;
        }
        return 0;
}

static bool ends_word_inside(const struct token *token) {
        for (uint32_t i = 1; i < token->size; i++)
                if (token->text[i] == ' ' && token->text[i - 1] != ' ')
                        return true;
        return false;
}

static int load_pieces(struct tokenizer *t, struct spm *s) {
        const int r = strmap_init(&s->pieces, t->n);

        if (r)
                return r;
        s->words = true;
        for (uint32_t id = 0; id < t->n; id++) {
                const struct token *token = &t->tokens[id];

                if (token->size == 0 || (token->type != TOKEN_NORMAL && token->type != TOKEN_USER_DEFINED &&
                                         token->type != TOKEN_UNDEFINED))
                        continue;
                strmap_add(&s->pieces, token->text, token->size, id);
                s->piece_max = MAX(s->piece_max, token->size);
                s->words = s->words && !ends_word_inside(token);
        }
        return 0;
}

static int spm_load(struct tokenizer *t, const struct gguf *g, struct reason *reason) {
        struct spm *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return -ENOMEM;
        t->state = s;
        r = sentencepiece_init(&s->base, t, g, reason);
        if (r == 0)
                r = load_ranks(t, s);
        if (r == 0)
                r = load_pieces(t, s);
        return r;
}

static void spm_free(struct tokenizer *t) {
        struct spm *s = t->state;

        if (!s)
                return;
        sentencepiece_deinit(&s->base);
        strmap_deinit(&s->pieces);
        free(s->ranks);
        free(s);
}

static bool spm_join(const void *userdata, const char *word, const struct bpe_symbol *left,
                     const struct bpe_symbol *right, uint32_t *ret_rank, int32_t *ret_id) {
        const struct spm *s = userdata;
        const size_t size = (size_t) left->size + right->size;
        uint32_t id;

        if (size > s->piece_max || !strmap_get(&s->pieces, word + left->start, size, &id))
                return false;
        *ret_rank = s->ranks[id];
        *ret_id = (int32_t) id;
        return true;
}

/* One call of spm_encode(). */
struct encoding {
        const struct tokenizer *t;
        const struct spm *s;
        struct bpe bpe;
        bool was_unknown;
        struct token_list *out;
};

static int emit(struct encoding *e, const char *word) {
        int r = 0;

        for (uint32_t i = 0; r == 0 && i != UINT32_MAX; i = e->bpe.symbols[i].next) {
                const struct bpe_symbol *symbol = &e->bpe.symbols[i];

                if (symbol->id == BPE_NONE) {
                        r = sentencepiece_unknown(&e->s->base, e->t, word + symbol->start, symbol->size,
                                                  &e->was_unknown, e->out);
                        continue;
                }
                e->was_unknown = false;
                r = token_list_append(e->out, symbol->id);
        }
        return r;
}

static int encode_word(struct encoding *e, const char *word, size_t size) {
        const struct bpe_rules rules = { .join = spm_join, .userdata = e->s };
        int r;

        bpe_begin(&e->bpe);
        for (size_t i = 0, n; i < size; i += n) {
                uint32_t id;

                n = sentencepiece_character(word + i, size - i);
                r = bpe_add(&e->bpe, strmap_get(&e->s->pieces, word + i, n, &id) ? (int32_t) id : BPE_NONE,
                            n);
                if (r)
                        return r;
        }
        r = bpe_merge(&e->bpe, word, &rules);
        return r ? r : emit(e, word);
}

/* The bytes up to the first space behind something else. */
static size_t word_size(const char *text, size_t size) {
        size_t i = 0;

        while (i < size && text[i] == ' ')
                i++;
        while (i < size && text[i] != ' ')
                i++;
        return i;
}

static int spm_encode(const struct tokenizer *t, const char *text, size_t size, bool first,
                      struct token_list *out) {
        struct encoding e = { .t = t, .s = t->state, .bpe = BPE_NULL, .out = out };
        _cleanup_(freep) char *normal = NULL;
        size_t n;
        int r;

        r = sentencepiece_normalize(&e.s->base, text, size, first, &normal, &size);
        for (size_t i = 0; r == 0 && i < size; i += n) {
                n = e.s->words ? word_size(normal + i, size - i) : size;
                r = encode_word(&e, normal + i, n);
        }
        bpe_deinit(&e.bpe);
        return r;
}

const struct tokenizer_ops spm_ops = {
        .model = "llama",
        .spell = sentencepiece_spell,
        .load = spm_load,
        .free = spm_free,
        .encode = spm_encode,
        .adds_bos = true,
};
