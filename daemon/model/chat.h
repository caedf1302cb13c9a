/* SPDX-License-Identifier: MIT */
#pragma once

/* Conversations as the model was trained to read them. A GGUF file carries a program for that, in Jinja; it
 * is never run. Known families are recognised by phrases of it and are rows of a table here. What users wrote
 * is tokenised without control tokens, so no message can end its turn or begin another's. */

#include <stdbool.h>
#include <stddef.h>

#include "tokenizer.h"

enum chat_role {
        CHAT_SYSTEM,
        CHAT_USER,
        CHAT_ASSISTANT,
        _CHAT_ROLE_MAX,
};

/* Any bytes; they stay the caller's. */
struct chat_message {
        enum chat_role role;
        const char *text;
        size_t size;
};

struct chat_template;

/* The family that the text of tokenizer.chat_template belongs to: static data. NULL when it is of none that
 * is known: the caller takes the conversation as plain text and says so. */
const struct chat_template *chat_template_detect(const char *text, size_t size);
/* By the name of the family, or NULL. */
const struct chat_template *chat_template_find(const char *name);
const char *chat_template_name(const struct chat_template *c);

/* Appends a conversation's tokens to `out`, begin-of-text included where the family has it; with `generate`
 * also the beginning of the assistant's next turn. Failures as of tokenizer_encode(), `out` is then as it
 * was; -EINVAL for a role that is none. */
int chat_encode(const struct chat_template *c, const struct tokenizer *t, const struct chat_message *messages,
                size_t n, bool generate, struct token_list *out);
