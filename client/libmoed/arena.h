/* SPDX-License-Identifier: MIT */
#pragma once

/* Which parts of the arena hold prompts that the daemon has not taken yet. Only numbers: the list is the
 * client's own and never lies in shared memory. First fit; there are at most as many ranges as the submission
 * ring has slots, and mostly one, so a sorted list is all it takes. */

#include <stddef.h>
#include <stdint.h>

struct arena_range {
        uint64_t offset, length; /* length rounded up to WIRE_ARENA_ALIGN */
};

struct arena {
        uint64_t size;
        struct arena_range *ranges; /* by offset */
        size_t n, allocated;
};
#define ARENA_INIT(_size) ((struct arena) { .size = (_size) })

enum {
        _ARENA_E_SUCCESS,
        ARENA_E_FULL, /* not now: prompts in transit are in the way */
        ARENA_E_SIZE, /* never: larger than the arena */
};

void arena_deinit(struct arena *arena);
/* Takes `length` bytes (at least 1). Returns 0 and *ret, aligned to WIRE_ARENA_ALIGN; ARENA_E_*; -ENOMEM. */
int arena_take(struct arena *arena, uint64_t length, uint64_t *ret);
/* Gives back what was taken at `offset`. An offset that was not is ignored. */
void arena_give(struct arena *arena, uint64_t offset);
