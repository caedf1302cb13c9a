/* SPDX-License-Identifier: MIT */
#pragma once

/* Attention of few pairs, one group or two: memory sets the pace. CHUNK dims of CHUNK keys or values at a time, a
 * column, are placed in two tiles and used from the first cache, unless they are used where they lie. */

#include "amx-attend.h"
#include "amx-fetch.h"
#include "amx-place.h"

struct few {
        const struct work *w;
        struct fetch fetch;
        uint32_t turn; /* columns are placed in two places in turns */
};

enum { COLUMN_SLOTS = CHUNK / PART };

ALWAYS_INLINE uint16_t *next_column(struct few *f) {
        return f->w->keys + (size_t) (f->turn++ % 2) * 2 * TILE_VALUES;
}

ALWAYS_INLINE void fetch_slots(struct few *f, uint32_t n) {
        for (uint32_t i = 0; i < n; i++)
                fetch_slot(&f->fetch);
}

ALWAYS_INLINE const uint16_t *place_key_column(struct few *f, const uint16_t *const *keys, uint32_t c) {
        uint16_t *to = next_column(f);

        for (uint32_t j = 0; j < CHUNK; j += PART) {
                fetch_slot(&f->fetch);
                place_key_part(to + j * CHUNK, keys + j, c * CHUNK, f->w->k_dim - c * CHUNK);
        }
        return to;
}

ALWAYS_INLINE const uint16_t *place_value_column(struct few *f, const uint16_t *const *values, uint32_t c) {
        uint16_t *to = next_column(f);

        for (uint32_t j = 0; j < CHUNK; j += PART) {
                fetch_slot(&f->fetch);
                place_value_part(to + j * (CHUNK / 2), values + j, f->w->apart, c * CHUNK, f->w->v_dim - c * CHUNK);
        }
        return to;
}

/* Scores of CHUNK keys, number t of the block; `direct`: they are used where they lie. */
ALWAYS_INLINE void score_few(struct few *f, bool two, bool direct, const uint16_t *const *keys, uint32_t t) {
        size_t row = direct ? f->w->k_dim : (uint32_t) CHUNK;
        const uint16_t *q0 = f->w->queries, *q1 = q0 + (size_t) f->w->k_chunks * TILE_VALUES;
        float *to = f->w->scores + t * CHUNK * LANES;

        AMX_ZERO(0);
        AMX_ZERO(1);
        if (two) {
                AMX_ZERO(2);
                AMX_ZERO(3);
        }
        for (uint32_t c = 0; c < f->w->k_chunks; c++) {
                const uint16_t *k = direct ? keys[t * CHUNK] + c * CHUNK : place_key_column(f, keys + t * CHUNK, c);

                AMX_LOAD(6, q0 + (size_t) c * TILE_VALUES, AMX_ROW_BYTES);
                AMX_LOAD(4, k, row * sizeof(*k));
                AMX_DOT_BF16(0, 4, 6);
                if (direct)
                        fetch_slots(f, COLUMN_SLOTS / 2);
                AMX_LOAD(5, k + AMX_ROWS * row, row * sizeof(*k));
                AMX_DOT_BF16(1, 5, 6);
                if (two) {
                        AMX_LOAD(7, q1 + (size_t) c * TILE_VALUES, AMX_ROW_BYTES);
                        AMX_DOT_BF16(2, 4, 7);
                        AMX_DOT_BF16(3, 5, 7);
                }
                if (direct)
                        fetch_slots(f, COLUMN_SLOTS / 2);
        }
        AMX_STORE(0, to, AMX_ROW_BYTES);
        AMX_STORE(1, to + TILE_FLOATS, AMX_ROW_BYTES);
        if (two) {
                AMX_STORE(2, to + ATTENTION_BLOCK * LANES, AMX_ROW_BYTES);
                AMX_STORE(3, to + ATTENTION_BLOCK * LANES + TILE_FLOATS, AMX_ROW_BYTES);
        }
}

/* Adds CHUNK dims of the values of a block's chunks [from, to); `direct` as in score_few(). */
ALWAYS_INLINE void add_few(struct few *f, bool two, bool direct, const uint16_t *const *values, uint32_t from,
                           uint32_t to, uint32_t c) {
        size_t row = direct ? 2 * f->w->v_dim : (uint32_t) CHUNK, second = direct ? CHUNK : TILE_VALUES;
        float *out = f->w->out + (size_t) c * 2 * TILE_FLOATS, *out1 = out + (size_t) f->w->v_chunks * 2 * TILE_FLOATS;

        AMX_LOAD(0, out, AMX_ROW_BYTES);
        AMX_LOAD(1, out + TILE_FLOATS, AMX_ROW_BYTES);
        if (two) {
                AMX_LOAD(2, out1, AMX_ROW_BYTES);
                AMX_LOAD(3, out1 + TILE_FLOATS, AMX_ROW_BYTES);
        }
        for (uint32_t t = from; t < to; t++) {
                const uint16_t *v = direct ? values[t * CHUNK] + 2 * c * CHUNK
                                           : place_value_column(f, values + t * CHUNK, c);
                const uint16_t *weights = f->w->weights + t * TILE_VALUES;

                AMX_LOAD(4, weights, AMX_ROW_BYTES);
                AMX_LOAD(6, v, row * sizeof(*v));
                AMX_DOT_BF16(0, 4, 6);
                if (direct)
                        fetch_slots(f, COLUMN_SLOTS / 2);
                AMX_LOAD(7, v + second, row * sizeof(*v));
                AMX_DOT_BF16(1, 4, 7);
                if (two) {
                        AMX_LOAD(5, weights + BLOCK_CHUNKS * TILE_VALUES, AMX_ROW_BYTES);
                        AMX_DOT_BF16(2, 5, 6);
                        AMX_DOT_BF16(3, 5, 7);
                }
                if (direct)
                        fetch_slots(f, COLUMN_SLOTS / 2);
        }
        AMX_STORE(0, out, AMX_ROW_BYTES);
        AMX_STORE(1, out + TILE_FLOATS, AMX_ROW_BYTES);
        if (two) {
                AMX_STORE(2, out1, AMX_ROW_BYTES);
                AMX_STORE(3, out1 + TILE_FLOATS, AMX_ROW_BYTES);
        }
}
