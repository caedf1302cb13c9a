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
static size_t special_bound(const struct special_set *s, size_t low, size_t high, size_t depth, unsigned byte) {
        while (low < high) {
                const size_t middle = low + (high - low) / 2;

                if ((uint8_t) s->items[middle].text[depth] < byte)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

const struct special *special_at(const struct special_set *s, const char *text, size_t size) {
        const struct special *best = NULL;
        size_t low, high;

        if (s->n == 0 || size == 0)
                return NULL;
        low = s->first[(uint8_t) text[0]];
        high = s->first[(uint8_t) text[0] + 1];
        /* items[low … high) agree with the text in their first `depth` bytes. */
        for (size_t depth = 1; low < high; depth++) {
                unsigned byte;

                if (s->items[low].size == depth)
                        best = &s->items[low];
                while (low < high && s->items[low].size == depth)
                        low++;
                if (depth == size)
                        break;
                byte = (uint8_t) text[depth];
                low = special_bound(s, low, high, depth, byte);
                high = special_bound(s, low, high, depth, byte + 1);
        }
        return best;
}
