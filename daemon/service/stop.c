/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "stop.h"

int stop_matcher_init(struct stop_matcher *matcher, const struct stop_pattern *patterns, uint32_t n_patterns) {
        struct stop_matcher m = { .n_patterns = MIN(n_patterns, (uint32_t) STOP_COUNT_MAX) };
        size_t size = 0, at = 0;

        for (uint32_t i = 0; i < m.n_patterns; i++)
                size += patterns[i].length;
        if (size > 0) {
                m.copy = malloc(size);
                if (!m.copy)
                        return -ENOMEM;
        }
        for (uint32_t i = 0; i < m.n_patterns; i++) {
                memcpy(m.copy + at, patterns[i].text, patterns[i].length);
                m.patterns[i] = (struct stop_pattern) { .text = m.copy + at, .length = patterns[i].length };
                at += patterns[i].length;
        }
        *matcher = m;
        return 0;
}

void stop_matcher_deinit(struct stop_matcher *matcher) {
        free(matcher->copy);
        free(matcher->text);
        *matcher = (struct stop_matcher) STOP_MATCHER_NULL;
}

static int stop_matcher_append(struct stop_matcher *matcher, const char *piece, size_t length) {
        char *grown;
        size_t need;

        if (matcher->released > 0)
                memmove(matcher->text, matcher->text + matcher->released, matcher->length - matcher->released);
        matcher->length -= matcher->released;
        matcher->released = 0;
        need = matcher->length + length;
        if (need > matcher->allocated) {
                grown = realloc(matcher->text, 2 * need);
                if (!grown)
                        return -ENOMEM;
                matcher->text = grown;
                matcher->allocated = 2 * need;
        }
        if (length > 0)
                memcpy(matcher->text + matcher->length, piece, length);
        matcher->length = need;
        return 0;
}

/* Where the first stop string begins, or the length of the text. */
static size_t stop_matcher_find(const struct stop_matcher *matcher) {
        size_t first = matcher->length;

        for (uint32_t i = 0; i < matcher->n_patterns; i++) {
                const struct stop_pattern *p = &matcher->patterns[i];
                const char *at = memmem(matcher->text, matcher->length, p->text, p->length);

                if (at)
                        first = MIN(first, (size_t) (at - matcher->text));
        }
        return first;
}

/* How many of the last bytes are the beginning of a stop string: the longest such tail. */
static size_t stop_matcher_tail(const struct stop_matcher *matcher) {
        size_t longest = 0;

        for (uint32_t i = 0; i < matcher->n_patterns; i++) {
                const struct stop_pattern *p = &matcher->patterns[i];
                size_t n = MIN((size_t) p->length - 1, matcher->length);

                for (; n > longest; n--)
                        if (memcmp(matcher->text + matcher->length - n, p->text, n) == 0)
                                longest = n;
        }
        return longest;
}

int stop_matcher_feed(struct stop_matcher *matcher, const char *piece, size_t length, const char **ret,
                      size_t *ret_length, bool *ret_found) {
        size_t first;
        int r;

        if (matcher->n_patterns == 0) {
                *ret = piece;
                *ret_length = length;
                *ret_found = false;
                return 0;
        }
        if (length == 0 && matcher->released == matcher->length) {
                *ret = "";
                *ret_length = 0;
                *ret_found = false;
                return 0;
        }
        r = stop_matcher_append(matcher, piece, length);
        if (r < 0)
                return r;
        first = stop_matcher_find(matcher);
        *ret_found = first < matcher->length;
        if (*ret_found)
                matcher->length = first;
        matcher->released = *ret_found ? first : matcher->length - stop_matcher_tail(matcher);
        *ret = matcher->text;
        *ret_length = matcher->released;
        return 0;
}

void stop_matcher_end(struct stop_matcher *matcher, const char **ret, size_t *ret_length) {
        *ret = matcher->text ? matcher->text + matcher->released : "";
        *ret_length = matcher->length - matcher->released;
        matcher->released = matcher->length;
}
