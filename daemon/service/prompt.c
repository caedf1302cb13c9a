/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "chat.h"
#include "prompt.h"

static int prompt_error(int r, struct reason *reason) {
        switch (r) {
        case TOKENIZER_E_TEXT:
                return reason_return(reason, EILSEQ, "the prompt has a character that the model's vocabulary cannot "
                                                     "express");
        case TOKENIZER_E_SIZE:
                return reason_return(reason, EMSGSIZE, "the prompt is longer than the tokenizer takes");
        }
        return r;
}

static int prompt_copy_tokens(struct token_list *out, const struct request *request, uint32_t vocab,
                              struct reason *reason) {
        uint32_t n = request->prompt_bytes / (uint32_t) sizeof(int32_t);
        int r;

        for (uint32_t i = 0; i < n; i++) {
                int32_t token = request_token(request, i);

                if (token < 0 || (uint32_t) token >= vocab)
                        return reason_return(reason, EINVAL, "token %u of the prompt is %d; the model's are 0 to %u", i,
                                             token, vocab - 1);
                r = token_list_append(out, token);
                if (r < 0)
                        return r;
        }
        return 0;
}

static uint32_t count_messages(const struct request *request) {
        struct request_message message;
        uint32_t offset = 0, n = 0;

        while (request_message(request, &offset, &message))
                n++;
        return n;
}

/* A model without a template of a known family reads the messages one under the other. */
static int prompt_chat_plain(struct token_list *out, const struct request *request, const struct tokenizer *tokenizer) {
        _cleanup_(freep) struct token_text *parts = NULL;
        uint32_t n = count_messages(request), offset = 0;
        struct request_message message;

        parts = calloc(2 * (size_t) n, sizeof(*parts));
        if (!parts)
                return -ENOMEM;
        for (uint32_t i = 0; request_message(request, &offset, &message); i++) {
                parts[2 * i] = (struct token_text) {
                        .text = message.text, .size = message.length, .flags = i == 0 ? TOKENIZE_BOS : 0
                };
                parts[2 * i + 1] = (struct token_text) { .text = "\n", .size = 1 };
        }
        return tokenizer_encode_parts(tokenizer, parts, 2 * (size_t) n, out);
}

static int prompt_chat(struct token_list *out, const struct request *request, const struct model *model,
                       struct reason *reason) {
        static const enum chat_role roles[] = {
                [WIRE_ROLE_SYSTEM] = CHAT_SYSTEM,
                [WIRE_ROLE_USER] = CHAT_USER,
                [WIRE_ROLE_ASSISTANT] = CHAT_ASSISTANT,
        };
        const struct chat_template *chat = model_chat_template(model);
        _cleanup_(freep) struct chat_message *messages = NULL;
        struct request_message message;
        uint32_t offset = 0, n = 0;

        if (!chat)
                return prompt_error(prompt_chat_plain(out, request, model_tokenizer(model)), reason);
        messages = calloc(count_messages(request), sizeof(*messages));
        if (!messages)
                return -ENOMEM;
        while (request_message(request, &offset, &message))
                messages[n++] = (struct chat_message) {
                        .role = roles[message.role], .text = message.text, .size = message.length
                };
        return prompt_error(chat_encode(chat, model_tokenizer(model), messages, n, true, out), reason);
}

int prompt_tokenize(struct token_list *out, const struct request *request, const struct model *model,
                    struct reason *reason) {
        unsigned flags = 0;

        switch (request->kind) {
        case WIRE_PROMPT_TOKENS:
                return prompt_copy_tokens(out, request, model_info(model)->vocab, reason);
        case WIRE_PROMPT_MESSAGES:
                return prompt_chat(out, request, model, reason);
        case WIRE_PROMPT_TEXT:
                break;
        }
        if (request->flags & WIRE_GENERATE_SPECIAL)
                flags |= TOKENIZE_SPECIAL;
        if (!(request->flags & WIRE_GENERATE_NO_BOS))
                flags |= TOKENIZE_BOS;
        return prompt_error(tokenizer_encode(model_tokenizer(model), request->prompt, request->prompt_bytes, flags,
                                             out),
                            reason);
}
