/* SPDX-License-Identifier: MIT */
#pragma once

/* Rows of memory that are asked for while others are computed with, the same portion in each of so many slots: while a
 * burst of them is on its way, what is in the second cache does not come to the first either. */

#include <stdint.h>

#include "base/util.h"
#include "simd.h"

struct fetch_rows {
        const uint16_t *const *at;
        uint32_t n, bytes; /* of each */
};

struct fetch {
        const char *at, *end;      /* what is left of rows without a gap between them */
        struct fetch_rows left[2]; /* after that */
        uint32_t portion;          /* bytes */
};

enum { FETCH_LINE = 64 };

ALWAYS_INLINE void fetch_next(struct fetch *f) {
        struct fetch_rows *rows = f->left[0].n > 0 ? &f->left[0] : &f->left[1];

        if (rows->n == 0)
                return;
        f->at = (const char *) *rows->at;
        do {
                f->end = (const char *) *rows->at++ + rows->bytes;
        } while (--rows->n > 0 && (const char *) *rows->at == f->end);
}

/* In `slots` of them. */
static inline void fetch_init(struct fetch *f, struct fetch_rows first, struct fetch_rows second, uint32_t slots) {
        uint64_t bytes = (uint64_t) first.n * first.bytes + (uint64_t) second.n * second.bytes;

        *f = (struct fetch){
                .left = {first, second},
                .portion = (uint32_t) DIV_ROUND_UP(bytes, (uint64_t) slots * FETCH_LINE) * FETCH_LINE,
        };
        fetch_next(f);
}

ALWAYS_INLINE void fetch_slot(struct fetch *f) {
        const char *end = MIN(f->at + f->portion, f->end);

        for (; f->at < end; f->at += FETCH_LINE)
                _mm_prefetch(f->at, _MM_HINT_T1);
        if (f->at >= f->end)
                fetch_next(f);
}
