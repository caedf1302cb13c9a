/* SPDX-License-Identifier: MIT */
#pragma once

/* From what a client sent to the tokens that the model sees. */

#include "engine.h"
#include "request.h"
#include "tokenizer.h"

/* Above this many bytes a text is tokenised on the worker, so that the loop is not held up: some milliseconds. */
enum { PROMPT_INLINE_MAX = 64 * 1024 };

/* Appends the prompt's tokens. Thread-safe. Returns 0, a positive errno with a reason for the client, or -ENOMEM. */
int prompt_tokenize(struct token_list *out, const struct request *request, const struct model *model,
                    struct reason *reason);
