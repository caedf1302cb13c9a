/* SPDX-License-Identifier: MIT */
#include "special.h"

#include <stdlib.h>
#include <string.h>

#include "base/util.h"

static int special_compare(const void *x, const void *y) {
        const struct special *a = x, *b = y;
        const int r = memcmp(a->text, b->text, MIN(a->size, b->size));

        if (r != 0)
                return r;
        if (a->size != b->size)
                return a->size < b->size ? -1 : 1;
        return a->id < b->id ? -1 : 1;
}

void special_set_init(struct special_set *s, struct special *items, size_t n) {
        size_t i = 0;

        qsort(items, n, sizeof(*items), special_compare);
        s->items = items;
        s->n = n;
        for (unsigned b = 0; b <= 256; b++) {
                while (i < n && (uint8_t) items[i].text[0] < b)
                        i++;
                s->first[b] = i;
        }
}

void special_set_deinit(struct special_set *s) {
        free(s->items);
        *s = (struct special_set) SPECIAL_SET_NULL;
}

/* The first of items[low … high), all longer than `depth`, whose byte there is at least `byte`. */
static size_t special_bound(const struct special_set *s, size_t low, size_t high, size_t depth,
                            unsigned byte) {
        while (low < high) {
                const size_t middle = low + (high - low) / 2;

                if ((uint8_t) s->items[middle].text[depth] < byte)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

/* Keeps the items whose byte at `depth` is this one; the first byte is looked up, as most texts end there. */
static void special_narrow(struct special_walk *w, unsigned byte) {
        if (w->depth == 0) {
                w->low = w->set->first[byte];
                w->high = w->set->first[byte + 1];
        } else {
                w->low = special_bound(w->set, w->low, w->high, w->depth, byte);
                w->high = special_bound(w->set, w->low, w->high, w->depth, byte + 1);
        }
        w->depth++;
}

const struct special *special_next(struct special_walk *w, const char *text, size_t size) {
        const struct special_set *s = w->set;

        if (w->depth == 0)
                w->high = s->n;
        while (w->low < w->high) {
                const struct special *found = &s->items[w->low];

                if (w->depth > 0 && found->size == w->depth) {
                        while (w->low < w->high && s->items[w->low].size == w->depth)
                                w->low++;
                        return found;
                }
                if (w->depth == size)
                        break;
                special_narrow(w, (uint8_t) text[w->depth]);
        }
        return NULL;
}

const struct special *special_at(const struct special_set *s, const char *text, size_t size) {
        struct special_walk walk = SPECIAL_WALK_INIT(s);
        const struct special *best = NULL, *next;

        while ((next = special_next(&walk, text, size)))
                best = next;
        return best;
}
