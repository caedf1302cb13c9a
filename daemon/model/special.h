/* SPDX-License-Identifier: MIT */
#pragma once

/* Tokens that are recognised in text as they are spelled: the longest of those that begin at a place. Never
 * changes once made; any number of threads may look. */

#include <stddef.h>
#include <stdint.h>

struct special {
        const char *text;
        uint32_t size;
        int32_t id;
};

/* Sorted by their bytes, so that those with a common beginning are neighbours. */
struct special_set {
        struct special *items;
        size_t n;
        size_t first[257]; /* where those that begin with byte b start, and with b + 1 */
};

#define SPECIAL_SET_NULL                                                                                     \
        { .items = NULL }

/* Takes over `items`, an allocated array of `n` with non-empty text that outlives the set. */
void special_set_init(struct special_set *s, struct special *items, size_t n);
void special_set_deinit(struct special_set *s);

/* Goes through all that begin at one place, the shorter before the longer; of equal ones only the lowest id.
 */
struct special_walk {
        const struct special_set *set;
        size_t low, high, depth; /* items[low … high) agree with the text in their first `depth` bytes */
};

#define SPECIAL_WALK_INIT(_set)                                                                              \
        { .set = (_set) }

/* The next one, or NULL. The same text with each call. */
const struct special *special_next(struct special_walk *w, const char *text, size_t size);

/* The longest at the start of text, or NULL. */
const struct special *special_at(const struct special_set *s, const char *text, size_t size);
