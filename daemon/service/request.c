/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "request.h"

static int request_check_head(const struct wire_generate *g, size_t length, uint64_t prompt_max,
                              struct reason *reason) {
        if (g->size != sizeof(*g))
                return reason_return(reason, EINVAL, "the request says that its head has %u bytes, version %u has %zu",
                                     g->size, (unsigned) WIRE_VERSION, sizeof(*g));
        if (g->flags & ~(uint32_t) _WIRE_GENERATE_FLAGS)
                return reason_return(reason, EINVAL, "the request has unknown flags: %#x", g->flags);
        if (!(g->flags & WIRE_GENERATE_RIDE) != (g->ride_experts == 0))
                return reason_return(reason, EINVAL, "a request that rides tells how many experts it takes at "
                                     "least, others 0");
        for (size_t i = 0; i < ELEMENTS(g->reserved); i++)
                if (g->reserved[i] != 0)
                        return reason_return(reason, EINVAL, "a reserved field of the request is not zero");
        if (g->stop_count > STOP_COUNT_MAX)
                return reason_return(reason, EINVAL, "the request has %u stop strings, at most %u are allowed",
                                     g->stop_count, (unsigned) STOP_COUNT_MAX);
        if (g->prompt_bytes > prompt_max)
                return reason_return(reason, EMSGSIZE,
                                     "the prompt has %u bytes, at most %llu are allowed (PromptBytesMax= in moed.conf)",
                                     g->prompt_bytes, (unsigned long long) prompt_max);
        /* All three are below 2^32, the sum cannot wrap in 64 bits. */
        if ((uint64_t) sizeof(*g) + g->stop_bytes + g->prompt_bytes != length)
                return reason_return(reason, EINVAL,
                                     "the request has %zu bytes, its head tells of %llu with stops and prompt", length,
                                     (unsigned long long) sizeof(*g) + g->stop_bytes + g->prompt_bytes);
        return 0;
}

static int request_parse_stops(struct request *request, const struct wire_generate *g, const char *at,
                               struct reason *reason) {
        uint32_t left = g->stop_bytes;

        for (uint32_t i = 0; i < g->stop_count; i++) {
                struct wire_stop stop;

                if (left < sizeof(stop))
                        return reason_return(reason, EINVAL, "stop string %u lies outside the request", i);
                memcpy(&stop, at, sizeof(stop));
                at += sizeof(stop);
                left -= sizeof(stop);
                if (stop.length < 1 || stop.length > STOP_LENGTH_MAX)
                        return reason_return(reason, EINVAL, "stop string %u has %u bytes, 1 to %u are allowed", i,
                                             stop.length, (unsigned) STOP_LENGTH_MAX);
                if (stop.length > left)
                        return reason_return(reason, EINVAL, "stop string %u lies outside the request", i);
                request->stops[i] = (struct stop_pattern) { .text = at, .length = stop.length };
                at += stop.length;
                left -= stop.length;
        }
        if (left > 0)
                return reason_return(reason, EINVAL, "%u bytes are left behind the stop strings", left);
        request->n_stops = g->stop_count;
        return 0;
}

static int request_check_messages(const struct request *request, struct reason *reason) {
        const char *at = request->prompt;
        uint32_t left = request->prompt_bytes, n = 0;

        while (left > 0) {
                struct wire_message message;

                if (left < sizeof(message))
                        return reason_return(reason, EINVAL, "message %u lies outside the request", n);
                memcpy(&message, at, sizeof(message));
                left -= sizeof(message);
                if (message.length > left)
                        return reason_return(reason, EINVAL, "message %u lies outside the request", n);
                if (message.role < WIRE_ROLE_SYSTEM || message.role > WIRE_ROLE_ASSISTANT)
                        return reason_return(reason, EINVAL, "message %u has the unknown role %u", n, message.role);
                at += sizeof(message) + message.length;
                left -= message.length;
                if (++n > REQUEST_MESSAGES_MAX)
                        return reason_return(reason, EINVAL, "more than %u messages", (unsigned) REQUEST_MESSAGES_MAX);
        }
        return n > 0 ? 0 : reason_return(reason, EINVAL, "a chat without messages");
}

static int request_check_prompt(const struct request *request, struct reason *reason) {
        switch (request->kind) {
        case WIRE_PROMPT_TEXT:
                return 0;
        case WIRE_PROMPT_TOKENS:
                if (request->prompt_bytes == 0 || request->prompt_bytes % sizeof(int32_t) != 0)
                        return reason_return(reason, EINVAL, "%u bytes are not a prompt of 4-byte token ids",
                                             request->prompt_bytes);
                return 0;
        case WIRE_PROMPT_MESSAGES:
                return request_check_messages(request, reason);
        }
        return reason_return(reason, EINVAL, "unknown kind of prompt: %u", (unsigned) request->kind);
}

int request_parse(struct request *ret, char *block, size_t length, uint64_t prompt_max, struct reason *reason) {
        struct request request = REQUEST_NULL;
        struct wire_generate g;
        const char *wrong;
        int r;

        if (length < sizeof(g))
                return reason_return(reason, EINVAL, "a request of %zu bytes is shorter than its head", length);
        memcpy(&g, block, sizeof(g));
        r = request_check_head(&g, length, prompt_max, reason);
        if (r != 0)
                return r;
        request.model = g.model;
        request.flags = g.flags;
        request.kind = (enum wire_prompt) g.prompt_kind;
        request.max_tokens = g.max_tokens;
        request.experts_milli = g.experts_milli;
        request.ride_experts = g.ride_experts;
        request.sampler = (struct sampler_params) {
                .temperature = g.temperature, .top_k = g.top_k, .top_p = g.top_p, .min_p = g.min_p,
                .repetition_penalty = g.repetition_penalty, .presence_penalty = g.presence_penalty,
                .frequency_penalty = g.frequency_penalty, .penalty_window = g.penalty_window, .seed = g.seed,
        };
        wrong = sampler_params_check(&request.sampler);
        if (wrong)
                return reason_return(reason, EINVAL, "%s", wrong);
        r = request_parse_stops(&request, &g, block + sizeof(g), reason);
        if (r != 0)
                return r;
        request.prompt = block + sizeof(g) + g.stop_bytes;
        request.prompt_bytes = g.prompt_bytes;
        r = request_check_prompt(&request, reason);
        if (r != 0)
                return r;
        request.block = block;
        *ret = request;
        return 0;
}

void request_deinit(struct request *request) {
        free(request->block);
        *request = (struct request) REQUEST_NULL;
}

int32_t request_token(const struct request *request, uint32_t i) {
        int32_t token;

        memcpy(&token, request->prompt + (size_t) i * sizeof(token), sizeof(token));
        return token;
}

bool request_message(const struct request *request, uint32_t *offset, struct request_message *ret) {
        struct wire_message message;

        if (*offset >= request->prompt_bytes)
                return false;
        memcpy(&message, request->prompt + *offset, sizeof(message));
        *ret = (struct request_message) {
                .role = (enum wire_role) message.role,
                .text = request->prompt + *offset + sizeof(message),
                .length = message.length,
        };
        *offset += (uint32_t) sizeof(message) + message.length;
        return true;
}
