/* SPDX-License-Identifier: MIT */
#pragma once

/* A place in bytes that are not ours. Everything that parses such bytes reads through this: whether enough is
 * left is decided by a subtraction that cannot wrap, and a read that fails moves nothing. Numbers are
 * little-endian and need no alignment. Not thread-safe; copy the struct to look ahead. */

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct cursor {
        const uint8_t *base;
        uint64_t size, offset; /* offset <= size, always */
};

static inline uint64_t cursor_left(const struct cursor *c) {
        return c->size - c->offset;
}

/* The next `n` bytes, which the cursor then leaves behind; NULL when fewer are left. */
static inline const uint8_t *cursor_take(struct cursor *c, uint64_t n) {
        const uint8_t *p;

        if (n > cursor_left(c))
                return NULL;
        p = c->base + c->offset;
        c->offset += n;
        return p;
}

static inline bool cursor_u8(struct cursor *c, uint8_t *ret) {
        const uint8_t *p = cursor_take(c, 1);

        if (p)
                *ret = *p;
        return p != NULL;
}

static inline bool cursor_u32(struct cursor *c, uint32_t *ret) {
        const uint8_t *p = cursor_take(c, sizeof(*ret));

        if (!p)
                return false;
        memcpy(ret, p, sizeof(*ret));
        *ret = le32toh(*ret);
        return true;
}

static inline bool cursor_u64(struct cursor *c, uint64_t *ret) {
        const uint8_t *p = cursor_take(c, sizeof(*ret));

        if (!p)
                return false;
        memcpy(ret, p, sizeof(*ret));
        *ret = le64toh(*ret);
        return true;
}
