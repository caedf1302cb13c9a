/* SPDX-License-Identifier: MIT */
#pragma once

/* What the matrix unit does for attention, in steps between other instructions. */

#include "amx-attend.h"
#include "amx-fetch.h"

/* A block of keys for a group, or two from that one on: it begins at key `base`, number `key` of the stage; its chunks
 * [from, to) are seen by some lane. */
struct block {
        uint32_t group, base, key, from, to;
};

/* What the matrix unit does while the vector units weigh a block, for one group or two: it adds the values of the
 * block before, and then computes the scores of the one after; these may be of other groups. A step is one or two pairs
 * of products each. */
struct matrix {
        const struct work *w;
        struct block before, after;
        const uint16_t *weights; /* of the block before */
        float *scores;           /* of the block after */
        uint32_t v_chunk, t;     /* of `before`: the next product; v_chunks: all are done */
        uint32_t s_chunk, c;     /* of `after`; to: all are done */
        uint32_t steps, planned, slots, owed;
        struct fetch *fetch; /* to be called at each slot, or NULL */
        float *sums[4];      /* where the sums in tiles 0 to 3 belong; NULL: there are none */
};

/* With from = to there is no such block. */
ALWAYS_INLINE void matrix_init(struct matrix *m, const struct block *before, const struct block *after) {
        m->before = *before;
        m->after = *after;
        m->v_chunk = before->from < before->to ? 0 : m->w->v_chunks;
        m->t = before->from;
        m->s_chunk = after->from;
        m->c = 0;
        m->steps = m->w->v_chunks * (before->to - before->from) + m->w->k_chunks * (after->to - after->from);
        m->planned = m->steps;
        m->owed = 0;
}

#define STORE_SUMS(_tile)                                                                                    \
        do {                                                                                                 \
                if (m->sums[_tile])                                                                          \
                        AMX_STORE(_tile, m->sums[_tile], AMX_ROW_BYTES);                                     \
        } while (0)

/* A tile begins with what is at `_at`, or with zeros that belong there. */
#define BEGIN_SUMS(_tile, _at, _zeros)                                                                       \
        do {                                                                                                 \
                STORE_SUMS(_tile);                                                                           \
                if (_zeros)                                                                                  \
                        AMX_ZERO(_tile);                                                                     \
                else                                                                                         \
                        AMX_LOAD(_tile, _at, AMX_ROW_BYTES);                                                 \
                m->sums[_tile] = (_at);                                                                      \
        } while (0)

ALWAYS_INLINE void add_step(struct matrix *m, bool two) {
        const struct work *w = m->w;
        float *out = w->out + ((size_t) m->before.group * w->v_chunks + m->v_chunk) * 2 * TILE_FLOATS;
        float *out1 = out + (size_t) w->v_chunks * 2 * TILE_FLOATS;
        const uint16_t *v = w->values +
                            ((size_t) (m->before.key / CHUNK + m->t) * w->v_chunks + m->v_chunk) * 2 * TILE_VALUES;
        bool first = m->t == m->before.from, zeros = !w->lanes[m->before.group].begun;

        AMX_LOAD(4, m->weights + m->t * TILE_VALUES, AMX_ROW_BYTES);
        AMX_LOAD_ONCE(6, v, AMX_ROW_BYTES);
        if (first)
                BEGIN_SUMS(0, out, zeros);
        AMX_DOT_BF16(0, 4, 6);
        AMX_LOAD_ONCE(7, v + TILE_VALUES, AMX_ROW_BYTES);
        if (first)
                BEGIN_SUMS(1, out + TILE_FLOATS, zeros);
        AMX_DOT_BF16(1, 4, 7);
        if (two) {
                AMX_LOAD(5, m->weights + (BLOCK_CHUNKS + m->t) * TILE_VALUES, AMX_ROW_BYTES);
                if (first)
                        BEGIN_SUMS(2, out1, zeros);
                AMX_DOT_BF16(2, 5, 6);
                if (first)
                        BEGIN_SUMS(3, out1 + TILE_FLOATS, zeros);
                AMX_DOT_BF16(3, 5, 7);
        }
        if (++m->t < m->before.to)
                return;
        m->t = m->before.from;
        if (++m->v_chunk == w->v_chunks)
                w->lanes[m->before.group].begun = true;
}

ALWAYS_INLINE void score_step(struct matrix *m, bool two) {
        const struct work *w = m->w;
        const uint16_t *k0 = w->keys + ((size_t) (m->after.key + m->s_chunk * CHUNK) * w->k_chunks + m->c) * CHUNK;
        size_t stride = (size_t) w->k_chunks * AMX_ROW_BYTES;
        const uint16_t *q0 = w->queries + ((size_t) m->after.group * w->k_chunks + m->c) * TILE_VALUES;
        float *to = m->scores + m->s_chunk * CHUNK * LANES, *to1 = to + ATTENTION_BLOCK * LANES;
        bool first = m->c == 0;

        AMX_LOAD_ONCE(4, k0, stride);
        AMX_LOAD(6, q0, AMX_ROW_BYTES);
        if (first)
                BEGIN_SUMS(0, to, true);
        AMX_DOT_BF16(0, 4, 6);
        AMX_LOAD_ONCE(5, k0 + (size_t) w->k_chunks * TILE_VALUES, stride);
        if (first)
                BEGIN_SUMS(1, to + TILE_FLOATS, true);
        AMX_DOT_BF16(1, 5, 6);
        if (two) {
                AMX_LOAD(7, q0 + (size_t) w->k_chunks * TILE_VALUES, AMX_ROW_BYTES);
                if (first)
                        BEGIN_SUMS(2, to1, true);
                AMX_DOT_BF16(2, 4, 7);
                if (first)
                        BEGIN_SUMS(3, to1 + TILE_FLOATS, true);
                AMX_DOT_BF16(3, 5, 7);
        }
        if (++m->c < w->k_chunks)
                return;
        m->c = 0;
        m->s_chunk++;
}

ALWAYS_INLINE void matrix_step(struct matrix *m, bool two) {
        m->steps--;
        if (m->v_chunk < m->w->v_chunks)
                add_step(m, two);
        else
                score_step(m, two);
}

/* Between the instructions of the vector units: so many steps that they end with the last of the slots. */
ALWAYS_INLINE void matrix_slot(struct matrix *m, bool two) {
        if (m->fetch)
                fetch_slot(m->fetch);
        for (m->owed += m->planned; m->owed >= m->slots && m->steps > 0; m->owed -= m->slots)
                matrix_step(m, two);
}

ALWAYS_INLINE void matrix_finish(struct matrix *m, bool two) {
        while (m->steps > 0)
                matrix_step(m, two);
        STORE_SUMS(0);
        STORE_SUMS(1);
        STORE_SUMS(2);
        STORE_SUMS(3);
        memset(m->sums, 0, sizeof(m->sums));
}
