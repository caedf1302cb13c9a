/* SPDX-License-Identifier: MIT */
#include "tokenizer.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "tokenizer-internal.h"

#define refuse(t, reason, format, ...)                                                                       \
        reason_return(reason, TOKENIZER_E_INVALID, "%.60s: " format, (t)->name, ##__VA_ARGS__)

static const struct tokenizer_ops *const models[] = { &bytelevel_ops, &spm_ops, &unigram_ops };

void token_list_deinit(struct token_list *list) {
        free(list->ids);
        *list = (struct token_list) TOKEN_LIST_NULL;
}

int token_list_append(struct token_list *list, int32_t id) {
        if (list->n == list->capacity) {
                const size_t capacity = MAX(list->capacity * 2, (size_t) 64);
                int32_t *grown = realloc(list->ids, capacity * sizeof(*grown));

                if (!grown)
                        return -ENOMEM;
                list->ids = grown;
                list->capacity = capacity;
        }
        list->ids[list->n++] = id;
        return 0;
}

static int find_model(struct tokenizer *t, const struct gguf *g, struct reason *reason) {
        struct gguf_string model;
        char known[80] = "";

        if (gguf_get_string(g, "tokenizer.ggml.model", &model, reason) != 0)
                return TOKENIZER_E_INVALID;
        for (size_t i = 0; i < ELEMENTS(models); i++) {
                const size_t used = strlen(known);

                if (gguf_string_equal(model, models[i]->model)) {
                        t->ops = models[i];
                        return 0;
                }
                snprintf(known + used, sizeof(known) - used, "%s%s", i > 0 ? ", " : "", models[i]->model);
        }
        return refuse(t, reason, "the tokenizer model '%.*s' is unknown; known are %s",
                      (int) MIN(model.size, UINT64_C(40)), model.data, known);
}

/* Types are optional: without them every token is text. */
static int load_types(struct tokenizer *t, const struct gguf *g, struct reason *reason) {
        static const char key[] = "tokenizer.ggml.token_type";
        struct gguf_array types;
        int r;

        r = gguf_get_array(g, key, &types, NULL);
        if (r == GGUF_E_TYPE)
                return refuse(t, reason, "'%s' is not an array", key);
        if (r == 0 && types.n != t->n)
                return refuse(t, reason, "'%s' has %" PRIu64 " elements for %u tokens", key, types.n, t->n);
        for (uint32_t id = 0; id < t->n; id++) {
                int64_t type = TOKEN_NORMAL;

                if (r == 0 && (types.type == GGUF_STRING || !gguf_array_i64(&types, id, &type) || type < 0 ||
                               type >= _TOKEN_TYPE_MAX))
                        return refuse(t, reason, "element %u of '%s' is not a token type", id, key);
                t->tokens[id].type = (uint8_t) type;
        }
        return 0;
}

static int load_scores(struct tokenizer *t, const struct gguf *g, struct reason *reason) {
        static const char key[] = "tokenizer.ggml.scores";
        struct gguf_array scores;
        int r;

        r = gguf_get_array(g, key, &scores, NULL);
        if (r == GGUF_E_MISSING)
                return 0;
        if (r)
                return refuse(t, reason, "'%s' is not an array", key);
        if (scores.n != t->n)
                return refuse(t, reason, "'%s' has %" PRIu64 " elements for %u tokens", key, scores.n, t->n);
        t->scores = malloc(t->n * sizeof(*t->scores));
        if (!t->scores)
                return -ENOMEM;
        for (uint32_t id = 0; id < t->n; id++) {
                double score;

                if (scores.type == GGUF_STRING || !gguf_array_f64(&scores, id, &score) ||
                    !isfinite((float) score))
                        return refuse(t, reason, "element %u of '%s' is not a finite number", id, key);
                t->scores[id] = (float) score;
        }
        return 0;
}

static int load_tokens(struct tokenizer *t, const struct gguf *g, struct reason *reason) {
        static const char key[] = "tokenizer.ggml.tokens";
        struct gguf_array tokens;
        size_t total = 0, used = 0;
        int r;

        r = gguf_get_array(g, key, &tokens, reason);
        if (r)
                return TOKENIZER_E_INVALID;
        if (tokens.type != GGUF_STRING || tokens.n == 0 || tokens.n > TOKENIZER_VOCABULARY_MAX)
                return refuse(t, reason, "'%s' is %" PRIu64 " of %s, not 1 to %d strings", key, tokens.n,
                              gguf_type_name(tokens.type), TOKENIZER_VOCABULARY_MAX);
        t->n = (uint32_t) tokens.n;
        for (uint32_t id = 0; id < t->n; id++) {
                const struct gguf_string text = gguf_array_string(&tokens, id);

                if (text.size > TOKENIZER_PIECE_MAX)
                        return refuse(t, reason, "token %u has %" PRIu64 " bytes, more than %d", id,
                                      text.size, TOKENIZER_PIECE_MAX);
                total += text.size + SPELL_EXTRA;
        }
        t->tokens = calloc(t->n, sizeof(*t->tokens));
        t->bytes = malloc(total);
        if (!t->tokens || !t->bytes)
                return -ENOMEM;
        r = load_types(t, g, reason);
        if (r == 0)
                r = load_scores(t, g, reason);
        if (r)
                return r;
        for (uint32_t id = 0; id < t->n; id++) {
                struct token *token = &t->tokens[id];

                token->text = t->bytes + used;
                token->size = (uint32_t) t->ops->spell(token->type, gguf_array_string(&tokens, id),
                                                       t->bytes + used);
                used += token->size;
                t->piece_max = MAX(t->piece_max, token->size);
        }
        return 0;
}

/* The tokens of a type, or of two, as a set. */
static int load_special(struct tokenizer *t, bool control, struct special_set *ret, struct reason *reason) {
        _cleanup_(freep) struct special *items = NULL;
        size_t n = 0;

        for (uint32_t id = 0; id < t->n; id++)
                n += t->tokens[id].type == TOKEN_CONTROL || t->tokens[id].type == TOKEN_USER_DEFINED;
        items = malloc(MAX(n, (size_t) 1) * sizeof(*items));
        if (!items)
                return -ENOMEM;
        n = 0;
        for (uint32_t id = 0; id < t->n; id++) {
                const struct token *token = &t->tokens[id];

                if (token->size == 0 ||
                    (token->type != TOKEN_USER_DEFINED && !(control && token->type == TOKEN_CONTROL)))
                        continue;
                if (token->size > TOKENIZER_SPECIAL_MAX)
                        return refuse(t, reason, "the special token %u has %u bytes, more than %d", id,
                                      token->size, TOKENIZER_SPECIAL_MAX);
                items[n++] = (struct special) { .text = token->text, .size = token->size, .id = (int32_t) id };
        }
        special_set_init(ret, steal_ptr(items), n);
        return 0;
}

static int load_id(struct tokenizer *t, const struct gguf *g, const char *key, int32_t *ret,
                   struct reason *reason) {
        uint32_t id;
        int r;

        *ret = -1;
        /* Some converters write the largest number for "none". */
        r = gguf_get_u32_or(g, key, UINT32_MAX, &id, reason);
        if (r || id == UINT32_MAX)
                return r ? TOKENIZER_E_INVALID : 0;
        if (id >= t->n)
                return refuse(t, reason, "'%s' is %u, but there are %u tokens", key, id, t->n);
        *ret = (int32_t) id;
        return 0;
}

int32_t tokenizer_control(const struct tokenizer *t, const char *name) {
        const struct special *s = special_at(&t->control, name, strlen(name));

        if (!s || s->size != strlen(name) || t->tokens[s->id].type != TOKEN_CONTROL)
                return -1;
        return s->id;
}

/* Files name one end token, chat models stop at others too; these are theirs. */
static void load_eog(struct tokenizer *t, int32_t eom) {
        static const char *const names[] = {
                "<|endoftext|>",
                "<|end_of_text|>",
                "<|eot_id|>",
                "<|eom_id|>",
                "<|im_end|>",
                "<|end|>",
                "<|return|>",
                "<|call|>",
                "<end_of_turn>",
                "<turn|>",
                "<|eot|>",
                "<EOT>",
                "<_EOT>",
                "</s>",
                "<eos>",
                "<|eos|>",
                "<｜end▁of▁sentence｜>",
                "<|end_of_sentence|>",
                "<|endofturn|>",
                "[EOS]",
                "[EOT]",
        };
        const int32_t ids[] = { t->eos, t->eot, eom };

        for (size_t i = 0; i < ELEMENTS(names); i++) {
                const int32_t id = tokenizer_control(t, names[i]);

                if (id >= 0)
                        t->tokens[id].eog = true;
        }
        /* Harmony (gpt-oss) ends each of an answer's messages with <|end|> and goes on to the next channel.
         */
        if (tokenizer_control(t, "<|return|>") >= 0 && tokenizer_control(t, "<|end|>") >= 0)
                t->tokens[tokenizer_control(t, "<|end|>")].eog = false;
        for (size_t i = 0; i < ELEMENTS(ids); i++)
                if (ids[i] >= 0)
                        t->tokens[ids[i]].eog = true;
}

static int load_ids(struct tokenizer *t, const struct gguf *g, struct reason *reason) {
        static const char *const keys[] = {
                "tokenizer.ggml.bos_token_id",     "tokenizer.ggml.eos_token_id",
                "tokenizer.ggml.eot_token_id",     "tokenizer.ggml.eom_token_id",
                "tokenizer.ggml.unknown_token_id",
        };
        int32_t eom, *const ids[] = { &t->bos, &t->eos, &t->eot, &eom, &t->unknown };

        for (size_t i = 0; i < ELEMENTS(keys); i++) {
                const int r = load_id(t, g, keys[i], ids[i], reason);

                if (r)
                        return r;
        }
        load_eog(t, eom);
        return 0;
}

static int tokenizer_load(struct tokenizer *t, const struct gguf *g, struct reason *reason) {
        int r;

        r = find_model(t, g, reason);
        if (r == 0)
                r = load_tokens(t, g, reason);
        if (r == 0)
                r = load_special(t, true, &t->control, reason);
        if (r == 0)
                r = load_special(t, false, &t->user, reason);
        if (r == 0)
                r = load_ids(t, g, reason);
        if (r)
                return r;
        t->adds_bos = t->ops->adds_bos;
        r = t->ops->load(t, g, reason);
        if (r)
                return r;
        r = gguf_get_bool_or(g, "tokenizer.ggml.add_bos_token", t->adds_bos, &t->adds_bos, reason);
        return r ? TOKENIZER_E_INVALID : 0;
}

int tokenizer_new(struct tokenizer **ret, const struct gguf *g, struct reason *reason) {
        _cleanup_(tokenizer_freep) struct tokenizer *t = calloc(1, sizeof(*t));
        int r;

        if (!t)
                return -ENOMEM;
        t->name = strdup(gguf_name(g));
        if (!t->name)
                return -ENOMEM;
        r = tokenizer_load(t, g, reason);
        if (r)
                return r;
        *ret = steal_ptr(t);
        return 0;
}

void tokenizer_free(struct tokenizer *t) {
        if (!t)
                return;
        if (t->ops)
                t->ops->free(t);
        special_set_deinit(&t->control);
        special_set_deinit(&t->user);
        free(t->tokens);
        free(t->bytes);
        free(t->scores);
        free(t->name);
        free(t);
}

void tokenizer_freep(struct tokenizer **t) {
        tokenizer_free(*t);
}

/* One call of tokenizer_encode_parts(): text that is not yet encoded is [start, at) of `text`. */
struct scan {
        const struct tokenizer *t;
        const char *text;
        size_t start, at;
        struct token_list *out;
        bool first;
};

static int scan_flush(struct scan *s) {
        const size_t size = s->at - s->start;
        int r = 0;

        if (size > 0)
                r = s->t->ops->encode(s->t, s->text + s->start, size, s->first, s->out);
        s->first = false;
        s->start = s->at;
        return r;
}

/* A part's text is [s->at, end). */
static int scan_part(struct scan *s, size_t end, unsigned flags) {
        const struct special_set *set = flags & TOKENIZE_SPECIAL ? &s->t->control : &s->t->user;
        int r;

        if (set->n == 0)
                s->at = end;
        while (s->at < end) {
                const struct special *special = special_at(set, s->text + s->at, end - s->at);

                if (!special) {
                        s->at++;
                        continue;
                }
                r = scan_flush(s);
                if (r == 0)
                        r = token_list_append(s->out, special->id);
                if (r)
                        return r;
                s->at += special->size;
                s->start = s->at;
        }
        return 0;
}

static int scan_parts(struct scan *s, const struct token_text *parts, size_t n) {
        int r;

        if (n > 0 && (parts[0].flags & TOKENIZE_BOS) && s->t->adds_bos && s->t->bos >= 0) {
                r = token_list_append(s->out, s->t->bos);
                if (r)
                        return r;
        }
        for (size_t i = 0; i < n; i++) {
                r = scan_part(s, s->at + parts[i].size, parts[i].flags);
                if (r)
                        return r;
        }
        return scan_flush(s);
}

int tokenizer_encode_parts(const struct tokenizer *t, const struct token_text *parts, size_t n,
                           struct token_list *out) {
        const size_t before = out->n;
        _cleanup_(freep) char *joined = NULL;
        struct scan s = { .t = t, .out = out, .first = true };
        size_t total = 0;
        int r;

        for (size_t i = 0; i < n; i++) {
                if (parts[i].size > TOKENIZER_TEXT_MAX - total)
                        return TOKENIZER_E_SIZE;
                total += parts[i].size;
        }
        if (n == 1) {
                s.text = parts[0].text;
        } else {
                char *end = joined = malloc(total + 1);

                if (!joined)
                        return -ENOMEM;
                for (size_t i = 0; i < n; i++)
                        end = mempcpy(end, parts[i].text, parts[i].size);
                s.text = joined;
        }
        r = scan_parts(&s, parts, n);
        if (r)
                out->n = before;
        return r;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t size, unsigned flags,
                     struct token_list *out) {
        const struct token_text part = { .text = text, .size = size, .flags = flags };

        return tokenizer_encode_parts(t, &part, 1, out);
}

static const struct token *tokenizer_token(const struct tokenizer *t, int32_t id) {
        return id >= 0 && (uint32_t) id < t->n ? &t->tokens[id] : NULL;
}

uint32_t tokenizer_size(const struct tokenizer *t) {
        return t->n;
}

const char *tokenizer_piece(const struct tokenizer *t, int32_t id, size_t *ret_size) {
        const struct token *token = tokenizer_token(t, id);

        if (!token)
                return NULL;
        *ret_size = token->size;
        return token->text;
}

float tokenizer_score(const struct tokenizer *t, int32_t id) {
        return t->scores && tokenizer_token(t, id) ? t->scores[id] : 0.0f;
}

bool tokenizer_is_control(const struct tokenizer *t, int32_t id) {
        const struct token *token = tokenizer_token(t, id);

        return token && token->type == TOKEN_CONTROL;
}

bool tokenizer_is_eog(const struct tokenizer *t, int32_t id) {
        const struct token *token = tokenizer_token(t, id);

        return token && token->eog;
}

int32_t tokenizer_bos(const struct tokenizer *t) {
        return t->bos;
}

int32_t tokenizer_eos(const struct tokenizer *t) {
        return t->eos;
}

int32_t tokenizer_eot(const struct tokenizer *t) {
        return t->eot;
}

bool tokenizer_adds_bos(const struct tokenizer *t) {
        return t->adds_bos;
}

size_t tokenizer_piece_max(const struct tokenizer *t) {
        return t->piece_max;
}
