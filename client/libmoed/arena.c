/* SPDX-License-Identifier: MIT */
#include "arena.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "wire.h"

void arena_deinit(struct arena *arena) {
        free(arena->ranges);
        *arena = ARENA_INIT(0);
}

static int arena_grow(struct arena *arena) {
        size_t allocated = MAX(arena->allocated * 2, (size_t) 8);
        struct arena_range *ranges;

        if (arena->n < arena->allocated)
                return 0;
        ranges = reallocarray(arena->ranges, allocated, sizeof(*ranges));
        if (!ranges)
                return -ENOMEM;
        arena->ranges = ranges;
        arena->allocated = allocated;
        return 0;
}

int arena_take(struct arena *arena, uint64_t length, uint64_t *ret) {
        uint64_t offset = 0, need;
        size_t i;
        int r;

        if (!align_u64(length, WIRE_ARENA_ALIGN, &need) || need > arena->size)
                return ARENA_E_SIZE;
        r = arena_grow(arena);
        if (r < 0)
                return r;
        for (i = 0; i < arena->n; i++) {
                if (arena->ranges[i].offset - offset >= need)
                        break;
                offset = arena->ranges[i].offset + arena->ranges[i].length;
        }
        if (arena->size - offset < need)
                return ARENA_E_FULL;
        memmove(arena->ranges + i + 1, arena->ranges + i, (arena->n - i) * sizeof(*arena->ranges));
        arena->ranges[i] = (struct arena_range) { .offset = offset, .length = need };
        arena->n++;
        *ret = offset;
        return 0;
}

void arena_give(struct arena *arena, uint64_t offset) {
        for (size_t i = 0; i < arena->n; i++)
                if (arena->ranges[i].offset == offset) {
                        arena->n--;
                        memmove(arena->ranges + i, arena->ranges + i + 1,
                                (arena->n - i) * sizeof(*arena->ranges));
                        return;
                }
}
