/* SPDX-License-Identifier: MIT */
#pragma once

/* Looks for stop strings in a text that comes in pieces, and holds back what may be the beginning of one, so that a
 * reader never sees a byte of a stop string wherever the pieces are cut. One thread. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
        STOP_COUNT_MAX = 16,
        STOP_LENGTH_MAX = 256, /* bytes */
};

struct stop_pattern {
        const char *text;
        uint32_t length; /* 1 to STOP_LENGTH_MAX */
};

struct stop_matcher {
        struct stop_pattern patterns[STOP_COUNT_MAX];
        uint32_t n_patterns;
        char *copy; /* of the patterns' text */
        char *text; /* what was held back, then the latest piece */
        size_t length, allocated;
        size_t released; /* first bytes of `text` that were given out by the last call */
};

#define STOP_MATCHER_NULL { .n_patterns = 0 }

/* Copies the patterns, at most STOP_COUNT_MAX; none is allowed: then nothing is ever held back. -ENOMEM. */
int stop_matcher_init(struct stop_matcher *matcher, const struct stop_pattern *patterns, uint32_t n_patterns);
void stop_matcher_deinit(struct stop_matcher *matcher);

/* Adds a piece. *ret, *ret_length: what may be shown, valid until the next call. *ret_found: a stop string is complete;
 * then what is shown ends before the first, and the rest of the text is gone. Returns 0 or -ENOMEM. */
int stop_matcher_feed(struct stop_matcher *matcher, const char *piece, size_t length, const char **ret,
                      size_t *ret_length, bool *ret_found);
/* The text ends here: what was held back may be shown after all. Valid until the next call. */
void stop_matcher_end(struct stop_matcher *matcher, const char **ret, size_t *ret_length);
