/* SPDX-License-Identifier: MIT */
#include "chat.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"

enum {
        CHAT_TRIM = 1 << 0,         /* white space around a message is dropped */
        CHAT_FOLD = 1 << 1,         /* no system turn: its text goes before the first message of the user */
        CHAT_DROP_THOUGHT = 1 << 2, /* of earlier answers only what follows </think> */
};

enum { NEEDLES_MAX = 3 };

struct chat_turn {
        const char *before, *after;
};

/* In texts {bos} and {eos} are the vocabulary's tokens. */
struct chat_template {
        const char *name;
        const char *needles[NEEDLES_MAX]; /* all are in the template's text, newlines written as such */
        unsigned flags;
        const char *begin, *generate;
        const char *system; /* what a conversation without system message gets, or NULL */
        struct chat_turn turns[_CHAT_ROLE_MAX];
};

#define CHATML_TURNS                                                                                         \
        {                                                                                                    \
                [CHAT_SYSTEM] = { "<|im_start|>system\n", "<|im_end|>\n" },                                  \
                [CHAT_USER] = { "<|im_start|>user\n", "<|im_end|>\n" },                                      \
                [CHAT_ASSISTANT] = { "<|im_start|>assistant\n", "<|im_end|>\n" },                            \
        }
#define DEEPSEEK_TURNS(_assistant)                                                                           \
        {                                                                                                    \
                [CHAT_SYSTEM] = { "", "" }, [CHAT_USER] = { "<｜User｜>", "" },                              \
                [CHAT_ASSISTANT] = { _assistant, "<｜end▁of▁sentence｜>" },                                  \
        }

/* The first row that matches counts, so the particular stand before the general. Sources: the
 * tokenizer_config.json or chat_template.jinja that each family publishes. */
static const struct chat_template templates[] = {
        {
                .name = "qwen2.5",
                .needles = { "<|im_start|>", "You are Qwen, created by Alibaba Cloud." },
                .begin = "",
                .generate = "<|im_start|>assistant\n",
                .system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
                .turns = CHATML_TURNS,
        },
        {
                .name = "qwen2",
                .needles = { "<|im_start|>", "<|im_start|>system\nYou are a helpful assistant" },
                .begin = "",
                .generate = "<|im_start|>assistant\n",
                .system = "You are a helpful assistant.",
                .turns = CHATML_TURNS,
        },
        {
                .name = "qwen3",
                .needles = { "<|im_start|>", "</think>" },
                .flags = CHAT_DROP_THOUGHT,
                .begin = "",
                .generate = "<|im_start|>assistant\n",
                .turns = CHATML_TURNS,
        },
        {
                .name = "chatml",
                .needles = { "<|im_start|>", "<|im_end|>" },
                .begin = "",
                .generate = "<|im_start|>assistant\n",
                .turns = CHATML_TURNS,
        },
        {
                .name = "llama3",
                .needles = { "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>" },
                .flags = CHAT_TRIM,
                .begin = "{bos}",
                .generate = "<|start_header_id|>assistant<|end_header_id|>\n\n",
                .turns = {
                        [CHAT_SYSTEM] = { "<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>" },
                        [CHAT_USER] = { "<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>" },
                        [CHAT_ASSISTANT] = { "<|start_header_id|>assistant<|end_header_id|>\n\n",
                                             "<|eot_id|>" },
                },
        },
        {
                /* Answers without thinking, which is this family's default. */
                .name = "deepseek-v3.1",
                .needles = { "<｜User｜>", "<｜Assistant｜>", "not thinking" },
                .flags = CHAT_DROP_THOUGHT,
                .begin = "{bos}",
                .generate = "<｜Assistant｜></think>",
                .turns = DEEPSEEK_TURNS("<｜Assistant｜></think>"),
        },
        {
                .name = "deepseek-r1",
                .needles = { "<｜User｜>", "<｜Assistant｜><think>\n" },
                .flags = CHAT_DROP_THOUGHT,
                .begin = "{bos}",
                .generate = "<｜Assistant｜><think>\n",
                .turns = DEEPSEEK_TURNS("<｜Assistant｜>"),
        },
        {
                .name = "deepseek-v3",
                .needles = { "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>" },
                .flags = CHAT_DROP_THOUGHT,
                .begin = "{bos}",
                .generate = "<｜Assistant｜>",
                .turns = DEEPSEEK_TURNS("<｜Assistant｜>"),
        },
        {
                .name = "deepseek-v2",
                .needles = { "'User: ' + ", "'Assistant: ' + ", "eos_token" },
                .begin = "{bos}",
                .generate = "Assistant:",
                .turns = {
                        [CHAT_SYSTEM] = { "", "\n\n" },
                        [CHAT_USER] = { "User: ", "\n\n" },
                        [CHAT_ASSISTANT] = { "Assistant: ", "{eos}" },
                },
        },
        {
                .name = "gemma",
                .needles = { "<start_of_turn>", "<end_of_turn>" },
                .flags = CHAT_TRIM | CHAT_FOLD,
                .begin = "{bos}",
                .generate = "<start_of_turn>model\n",
                .turns = {
                        [CHAT_USER] = { "<start_of_turn>user\n", "<end_of_turn>\n" },
                        [CHAT_ASSISTANT] = { "<start_of_turn>model\n", "<end_of_turn>\n" },
                },
        },
        {
                .name = "mistral-v7",
                .needles = { "[SYSTEM_PROMPT]", "[INST]" },
                .begin = "{bos}",
                .generate = "",
                .turns = {
                        [CHAT_SYSTEM] = { "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]" },
                        [CHAT_USER] = { "[INST]", "[/INST]" },
                        [CHAT_ASSISTANT] = { "", "{eos}" },
                },
        },
        {
                .name = "mistral",
                .needles = { "'[INST] ' + ", "' [/INST]'" },
                .flags = CHAT_FOLD,
                .begin = "{bos}",
                .generate = "",
                .turns = {
                        [CHAT_USER] = { "[INST] ", " [/INST]" },
                        [CHAT_ASSISTANT] = { "", "{eos}" },
                },
        },
        {
                .name = "gpt-oss",
                .needles = { "<|start|>", "<|channel|>", "<|message|>" },
                .begin = "<|start|>system<|message|>You are ChatGPT, a large language model trained by "
                         "OpenAI.\n"
                         "Knowledge cutoff: 2024-06\n\nReasoning: medium\n\n"
                         "# Valid channels: analysis, commentary, final. "
                         "Channel must be included for every message.<|end|>",
                .generate = "<|start|>assistant",
                .turns = {
                        [CHAT_SYSTEM] = { "<|start|>developer<|message|># Instructions\n\n", "<|end|>" },
                        [CHAT_USER] = { "<|start|>user<|message|>", "<|end|>" },
                        [CHAT_ASSISTANT] = { "<|start|>assistant<|channel|>final<|message|>", "<|end|>" },
                },
        },
        {
                .name = "granite",
                .needles = { "<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>" },
                .begin = "",
                .generate = "<|start_of_role|>assistant<|end_of_role|>",
                .turns = {
                        [CHAT_SYSTEM] = { "<|start_of_role|>system<|end_of_role|>", "<|end_of_text|>\n" },
                        [CHAT_USER] = { "<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n" },
                        [CHAT_ASSISTANT] = { "<|start_of_role|>assistant<|end_of_role|>",
                                             "<|end_of_text|>\n" },
                },
        },
        {
                .name = "olmo",
                .needles = { "bos_token", "'<|user|>\n' + message['content'] + '\n'",
                             "'<|assistant|>\n' + message['content'] + eos_token" },
                .begin = "{bos}",
                .generate = "<|assistant|>\n",
                .turns = {
                        [CHAT_SYSTEM] = { "<|system|>\n", "\n" },
                        [CHAT_USER] = { "<|user|>\n", "\n" },
                        [CHAT_ASSISTANT] = { "<|assistant|>\n", "{eos}\n" },
                },
        },
};

/* Files differ in whether a newline inside a string of the program is one or is written \n, and in quotes. */
static char *canonical(const char *text, size_t size) {
        char *out = malloc(size + 1), *end = out;

        if (!out)
                return NULL;
        for (size_t i = 0; i < size; i++) {
                if (text[i] == '\\' && i + 1 < size && text[i + 1] == 'n') {
                        *end++ = '\n';
                        i++;
                } else {
                        *end++ = text[i] == '"' ? '\'' : text[i];
                }
        }
        *end = '\0';
        return out;
}

static bool matches(const struct chat_template *c, const char *text, size_t size) {
        for (size_t i = 0; i < NEEDLES_MAX && c->needles[i]; i++)
                if (!memmem(text, size, c->needles[i], strlen(c->needles[i])))
                        return false;
        return true;
}

const struct chat_template *chat_template_detect(const char *text, size_t size) {
        _cleanup_(freep) char *plain = canonical(text, size);
        const size_t n = plain ? strlen(plain) : 0;

        for (size_t i = 0; plain && i < ELEMENTS(templates); i++)
                if (matches(&templates[i], plain, n))
                        return &templates[i];
        return NULL;
}

const struct chat_template *chat_template_find(const char *name) {
        for (size_t i = 0; i < ELEMENTS(templates); i++)
                if (strcmp(templates[i].name, name) == 0)
                        return &templates[i];
        return NULL;
}

const char *chat_template_name(const struct chat_template *c) {
        return c->name;
}

/* The conversation as stretches of text, ours and theirs. */
struct chat_parts {
        const struct chat_template *template;
        const struct tokenizer *tokenizer;
        struct token_text *parts;
        size_t n, capacity;
};

static int parts_add(struct chat_parts *p, const char *text, size_t size, unsigned flags) {
        if (size == 0)
                return 0;
        if (p->n == p->capacity) {
                const size_t capacity = MAX(p->capacity * 2, (size_t) 32);
                struct token_text *grown = realloc(p->parts, capacity * sizeof(*grown));

                if (!grown)
                        return -ENOMEM;
                p->parts = grown;
                p->capacity = capacity;
        }
        p->parts[p->n++] = (struct token_text) { .text = text, .size = size, .flags = flags };
        return 0;
}

/* Text of ours, its {bos} and {eos} replaced; a vocabulary without that token has nothing there. */
static int parts_own(struct chat_parts *p, const char *text) {
        while (*text) {
                const char *brace = strchrnul(text, '{');
                size_t size = 0;
                const char *piece;
                int r;

                r = parts_add(p, text, (size_t) (brace - text), TOKENIZE_SPECIAL);
                if (r || !*brace)
                        return r;
                piece = tokenizer_piece(
                        p->tokenizer,
                        brace[1] == 'b' ? tokenizer_bos(p->tokenizer) : tokenizer_eos(p->tokenizer), &size);
                r = parts_add(p, piece, size, TOKENIZE_SPECIAL);
                if (r)
                        return r;
                text = brace + strlen("{bos}");
        }
        return 0;
}

static int parts_message(struct chat_parts *p, const struct chat_message *m) {
        static const char thought[] = "</think>";
        const char *start = m->text, *end = m->text + m->size, *found;

        if ((p->template->flags & CHAT_DROP_THOUGHT) && m->role == CHAT_ASSISTANT) {
                while ((found = memmem(start, (size_t) (end - start), thought, strlen(thought))))
                        start = found + strlen(thought);
                while (start > m->text && start < end && *start == '\n')
                        start++;
        }
        if (p->template->flags & CHAT_TRIM) {
                while (start < end && isspace((unsigned char) *start))
                        start++;
                while (start < end && isspace((unsigned char) end[-1]))
                        end--;
        }
        return parts_add(p, start, (size_t) (end - start), 0);
}

/* `folded` is a system message that this turn takes in, or NULL. */
static int parts_turn(struct chat_parts *p, const struct chat_message *m, const struct chat_message *folded) {
        const struct chat_turn *turn;
        int r;

        if ((unsigned) m->role >= _CHAT_ROLE_MAX)
                return -EINVAL;
        turn = &p->template->turns[m->role];
        if (!turn->before)
                turn = &p->template->turns[CHAT_USER];
        r = parts_own(p, turn->before);
        if (r == 0 && folded)
                r = parts_message(p, folded);
        if (r == 0 && folded)
                r = parts_own(p, "\n\n");
        if (r == 0)
                r = parts_message(p, m);
        if (r == 0)
                r = parts_own(p, turn->after);
        return r;
}

static int parts_conversation(struct chat_parts *p, const struct chat_message *messages, size_t n) {
        const struct chat_template *c = p->template;
        const struct chat_message *folded = NULL;
        int r;

        r = parts_own(p, c->begin);
        if (r == 0 && c->system && (n == 0 || messages[0].role != CHAT_SYSTEM)) {
                const struct chat_message standard = {
                        .role = CHAT_SYSTEM,
                        .text = c->system,
                        .size = strlen(c->system),
                };

                r = parts_turn(p, &standard, NULL);
        }
        for (size_t i = 0; r == 0 && i < n; i++) {
                if ((c->flags & CHAT_FOLD) && i == 0 && n > 1 && messages[0].role == CHAT_SYSTEM &&
                    messages[1].role == CHAT_USER) {
                        folded = &messages[0];
                        continue;
                }
                r = parts_turn(p, &messages[i], folded);
                folded = NULL;
        }
        return r;
}

int chat_encode(const struct chat_template *c, const struct tokenizer *t, const struct chat_message *messages,
                size_t n, bool generate, struct token_list *out) {
        struct chat_parts p = { .template = c, .tokenizer = t };
        int r;

        r = parts_conversation(&p, messages, n);
        if (r == 0 && generate)
                r = parts_own(&p, c->generate);
        if (r == 0)
                r = tokenizer_encode_parts(t, p.parts, p.n, out);
        free(p.parts);
        return r;
}
