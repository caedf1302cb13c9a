/* SPDX-License-Identifier: MIT */
#pragma once

/* What a client asked for: a wire_generate and what follows it, copied out of the arena once and checked once.
 * Everything here points into that private copy. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/reason.h"
#include "sampler.h"
#include "stop.h"
#include "wire.h"

enum { REQUEST_MESSAGES_MAX = 4096 };

struct request {
        char *block; /* owned; everything below points into it */
        uint32_t model, flags;
        enum wire_prompt kind;
        uint32_t max_tokens;
        uint32_t experts_milli, ride_experts;
        struct sampler_params sampler;
        struct stop_pattern stops[STOP_COUNT_MAX];
        uint32_t n_stops;
        const char *prompt;
        uint32_t prompt_bytes;
};
#define REQUEST_NULL { .block = NULL }

struct request_message {
        enum wire_role role;
        const char *text;
        uint32_t length;
};

/* Checks `length` bytes at `block` (malloc()ed, aligned to 8). On success takes the block; else returns an errno,
 * positive, for the client (EINVAL, EMSGSIZE), says why, and the block stays the caller's. `prompt_max`: most bytes of
 * a prompt. */
int request_parse(struct request *ret, char *block, size_t length, uint64_t prompt_max, struct reason *reason);
void request_deinit(struct request *request);

/* Token ids of a WIRE_PROMPT_TOKENS; the copy is aligned for them or not, so they are read one by one. */
int32_t request_token(const struct request *request, uint32_t i);
/* Reads the message at *offset of a WIRE_PROMPT_MESSAGES and moves on; false at the end. The request has been
 * checked. */
bool request_message(const struct request *request, uint32_t *offset, struct request_message *ret);
