/* SPDX-License-Identifier: MIT */
#pragma once

/* Tells contents apart; no protection against anybody who looks for two that are alike. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* `hash` and `size` bytes of data made one number; what is less than eight bytes at the end counts as if zeros
 * followed. */
static inline uint64_t hash_mix(uint64_t hash, const void *data, size_t size) {
        for (size_t i = 0; i < size; i += sizeof(uint64_t)) {
                size_t n = size - i < sizeof(uint64_t) ? size - i : sizeof(uint64_t);
                uint64_t word = 0;

                memcpy(&word, (const uint8_t *) data + i, n);
                hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
                hash ^= hash >> 29;
        }
        return hash;
}

static inline uint64_t hash_mix_u64(uint64_t hash, uint64_t value) {
        return hash_mix(hash, &value, sizeof(value));
}
