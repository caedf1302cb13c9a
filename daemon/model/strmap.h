/* SPDX-License-Identifier: MIT */
#pragma once

/* Hash table from byte strings to numbers, of a size fixed in advance. The strings are not copied and must
 * outlive it. The hash is seeded at random for each table, so that a file cannot choose strings that collide.
 * Any number of threads may look up; adding is for one. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct strmap_entry {
        const char *key; /* NULL: free */
        uint32_t size, value;
};

struct strmap {
        struct strmap_entry *entries;
        uint64_t mask, seed[2];
};

#define STRMAP_NULL                                                                                          \
        { .entries = NULL }

/* Room for `n` strings. 0 or -ENOMEM. */
int strmap_init(struct strmap *m, size_t n);
void strmap_deinit(struct strmap *m);

/* False, and nothing changed, when the string is there already. No more than the n of strmap_init() may be
 * added. */
bool strmap_add(struct strmap *m, const char *key, uint32_t size, uint32_t value);
bool strmap_get(const struct strmap *m, const char *key, size_t size, uint32_t *ret);

/* A seed from the kernel's generator. */
uint64_t strmap_seed(void);
/* Folds two words into one so that each bit of either reaches all of the result. */
static inline uint64_t strmap_mix(uint64_t a, uint64_t b) {
        __uint128_t product = (__uint128_t) a * b;

        return (uint64_t) product ^ (uint64_t) (product >> 64);
}
