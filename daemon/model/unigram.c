/* SPDX-License-Identifier: MIT */
/* SentencePiece unigram (tokenizer.ggml.model "t5"; arXiv 1804.10959): of all ways to cut the text into
 * pieces the one with the highest sum of scores, found from left to right. */
#include <errno.h>
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "sentencepiece.h"

/* What a character that is no piece costs more than the worst piece (unigram_model.cc: kUnkPenalty). */
#define UNKNOWN_PENALTY 10.0f

struct unigram {
        struct sentencepiece base;
        struct special_set pieces;
        float lowest, highest; /* scores of normal pieces */
};

/* The best way to cut the text up to here: its last piece starts at `start`. Scores are added up in single
 * precision and in this order, as SentencePiece does, since sums that differ in the last bit choose different
 * pieces. */
struct node {
        float score;
        uint32_t start;
        int32_t id;
        bool reached;
};

static bool is_piece(const struct token *token) {
        return token->size > 0 && (token->type == TOKEN_NORMAL || token->type == TOKEN_USER_DEFINED ||
                                   token->type == TOKEN_UNDEFINED);
}

static int unigram_load(struct tokenizer *t, const struct gguf *g, struct reason *reason) {
        struct unigram *u = calloc(1, sizeof(*u));
        struct special *items;
        size_t n = 0;
        int r;

        if (!u)
                return -ENOMEM;
        t->state = u;
        r = sentencepiece_init(&u->base, t, g, reason);
        if (r)
                return r;
        items = malloc(t->n * sizeof(*items));
        if (!items)
                return -ENOMEM;
        u->lowest = FLT_MAX;
        u->highest = -FLT_MAX;
        for (uint32_t id = 0; id < t->n; id++) {
                const struct token *token = &t->tokens[id];

                if (is_piece(token))
                        items[n++] = (struct special) { .text = token->text,
                                                       .size = token->size,
                                                       .id = (int32_t) id };
                if (token->type == TOKEN_NORMAL) {
                        u->lowest = MIN(u->lowest, t->scores[id]);
                        u->highest = MAX(u->highest, t->scores[id]);
                }
        }
        special_set_init(&u->pieces, items, n);
        return 0;
}

static void unigram_free(struct tokenizer *t) {
        struct unigram *u = t->state;

        if (!u)
                return;
        sentencepiece_deinit(&u->base);
        special_set_deinit(&u->pieces);
        free(u);
}

static void offer(struct node *node, float score, uint32_t start, int32_t id) {
        if (!node->reached || score > node->score)
                *node = (struct node) { .score = score, .start = start, .id = id, .reached = true };
}

/* Extends the best cut up to `at` by every piece that starts there. Returns where the next character starts.
 */
static size_t extend(const struct tokenizer *t, struct node *nodes, const char *text, size_t size,
                     size_t at) {
        const struct unigram *u = t->state;
        const size_t character = sentencepiece_character(text + at, size - at);
        const float here = nodes[at].score;
        struct special_walk walk = SPECIAL_WALK_INIT(&u->pieces);
        const struct special *piece;
        bool alone = false;

        while ((piece = special_next(&walk, text + at, size - at))) {
                /* A piece that the authors defined is always taken. */
                const float score = t->tokens[piece->id].type == TOKEN_USER_DEFINED
                                            ? (float) ((double) ((float) piece->size * u->highest) - 0.1)
                                            : t->scores[piece->id];

                offer(&nodes[at + piece->size], score + here, (uint32_t) at, piece->id);
                alone = alone || piece->size == character;
        }
        if (!alone)
                offer(&nodes[at + character], u->lowest - UNKNOWN_PENALTY + here, (uint32_t) at, BPE_NONE);
        return at + character;
}

/* Turns the links, which lead from the end to the beginning, around. */
static void reverse(struct node *nodes, size_t size) {
        uint32_t end = (uint32_t) size;
        struct node node = nodes[end];

        while (end > 0) {
                const uint32_t start = node.start;
                const struct node before = nodes[start];

                nodes[start] = (struct node) { .start = end, .id = node.id };
                node = before;
                end = start;
        }
}

static int emit(const struct tokenizer *t, const struct node *nodes, const char *text, size_t size,
                struct token_list *out) {
        const struct unigram *u = t->state;
        bool was_unknown = false;
        int r = 0;

        for (size_t at = 0; r == 0 && at < size; at = nodes[at].start) {
                if (nodes[at].id == BPE_NONE) {
                        r = sentencepiece_unknown(&u->base, t, text + at, nodes[at].start - at, &was_unknown,
                                                  out);
                        continue;
                }
                was_unknown = false;
                r = token_list_append(out, nodes[at].id);
        }
        return r;
}

static int unigram_encode(const struct tokenizer *t, const char *text, size_t size, bool first,
                          struct token_list *out) {
        const struct unigram *u = t->state;
        _cleanup_(freep) char *normal = NULL;
        _cleanup_(freep) struct node *nodes = NULL;
        int r;

        r = sentencepiece_normalize(&u->base, text, size, first, &normal, &size);
        if (r || size == 0)
                return r;
        nodes = calloc(size + 1, sizeof(*nodes));
        if (!nodes)
                return -ENOMEM;
        nodes[0].reached = true;
        for (size_t at = 0; at < size;)
                at = extend(t, nodes, normal, size, at);
        reverse(nodes, size);
        return emit(t, nodes, normal, size, out);
}

const struct tokenizer_ops unigram_ops = {
        .model = "t5",
        .spell = sentencepiece_spell,
        .load = unigram_load,
        .free = unigram_free,
        .encode = unigram_encode,
};
