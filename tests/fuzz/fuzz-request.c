/* SPDX-License-Identifier: MIT */

/* Blocks that a client submits. What passes the check must be readable in full: that is the promise of
 * request_parse(). */

#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct request_message message;
        struct reason reason = REASON_INIT;
        struct request request;
        unsigned sum = 0;
        uint32_t offset = 0;
        /* No byte to spare, so that a sanitizer sees each that is read too much. */
        char *block = malloc(size ? size : 1);

        if (!block)
                return 0;
        memcpy(block, data, size);
        if (request_parse(&request, block, size, 1024 * 1024, &reason) != 0) {
                if (!reason.text[0])
                        abort();
                free(block);
                return 0;
        }
        for (uint32_t i = 0; i < request.n_stops; i++)
                for (uint32_t k = 0; k < request.stops[i].length; k++)
                        sum += (unsigned char) request.stops[i].text[k];
        if (request.kind == WIRE_PROMPT_TOKENS)
                for (uint32_t i = 0; i < request.prompt_bytes / sizeof(int32_t); i++)
                        sum += (unsigned) request_token(&request, i);
        while (request.kind == WIRE_PROMPT_MESSAGES && request_message(&request, &offset, &message))
                for (uint32_t i = 0; i < message.length; i++)
                        sum += (unsigned char) message.text[i];
        /* The reads must not be left out as useless. */
        __asm__ volatile("" : : "r"(sum));
        request_deinit(&request);
        return 0;
}

uint8_t *fuzz_seed(unsigned number, size_t *ret_size) {
        struct wire_generate head = {
                .size = sizeof(head), .prompt_kind = WIRE_PROMPT_TEXT + number, .stop_count = 2, .stop_bytes = 14,
                .top_p = 1.0f, .repetition_penalty = 1.0f, .prompt_bytes = 24,
        };
        struct wire_stop stop = { .length = 3 };
        struct wire_message message = { .role = WIRE_ROLE_USER, .length = 4 };
        uint8_t *seed;

        if (number > 2)
                return NULL;
        seed = calloc(1, sizeof(head) + 14 + 24);
        if (!seed)
                return NULL;
        memcpy(seed, &head, sizeof(head));
        memcpy(seed + sizeof(head), &stop, sizeof(stop));
        memcpy(seed + sizeof(head) + 7, &stop, sizeof(stop));
        memcpy(seed + sizeof(head) + 14, &message, sizeof(message));
        memcpy(seed + sizeof(head) + 26, &message, sizeof(message));
        *ret_size = sizeof(head) + 14 + 24;
        return seed;
}
