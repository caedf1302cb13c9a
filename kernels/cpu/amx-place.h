/* SPDX-License-Identifier: MIT */
#pragma once

/* Keys and values of bfloat16 become tiles. */

#include "amx-attend.h"
#include "base/util.h"

ALWAYS_INLINE __m512i load_chunk(const uint16_t *p) {
        return _mm512_loadu_si512(p);
}

/* n < CHUNK values, zeros behind. */
ALWAYS_INLINE __m512i load_rest(const uint16_t *p, uint32_t n) {
        return _mm512_maskz_loadu_epi16((1u << n) - 1, p);
}

/* Where key number i of the stage has its dims. */
ALWAYS_INLINE uint16_t *key_at(const struct work *w, uint32_t i) {
        return w->keys + (size_t) i * w->k_chunks * CHUNK;
}

ALWAYS_INLINE void place_key(const struct work *w, uint32_t i, const uint16_t *key, uint32_t dim) {
        uint16_t *to = key_at(w, i);
        uint32_t c = 0;

        for (; c < dim / CHUNK; c++)
                _mm512_store_si512(to + c * CHUNK, load_chunk(key + c * CHUNK));
        if (dim % CHUNK)
                _mm512_store_si512(to + c * CHUNK, load_rest(key + c * CHUNK, dim % CHUNK));
}

/* Values of two neighbouring keys, the first one even. The quarters of 16 columns that this leaves in one tile are dims
 * 0-3, 8-11, 16-19, 24-27 of the chunk, in the other those between; amx_attend_store() undoes it. */
ALWAYS_INLINE void place_value_pair(uint16_t *to, __m512i even, __m512i odd) {
        _mm512_store_si512(to, _mm512_unpacklo_epi16(even, odd));
        _mm512_store_si512(to + TILE_VALUES, _mm512_unpackhi_epi16(even, odd));
}

/* n dims of two values that alternate, or CHUNK of them where there are more, become a row of two tiles. */
ALWAYS_INLINE void copy_pair(uint16_t *to, const uint16_t *from, uint32_t n) {
        _mm512_store_si512(to, 2 * n >= CHUNK ? load_chunk(from) : load_rest(from, 2 * n));
        from += CHUNK;
        if (n >= CHUNK)
                _mm512_store_si512(to + TILE_VALUES, load_chunk(from));
        else
                _mm512_store_si512(to + TILE_VALUES,
                                   2 * n > CHUNK ? load_rest(from, 2 * n - CHUNK) : _mm512_setzero_si512());
}

/* Where keys i and i + 1 of the stage have their values. */
ALWAYS_INLINE uint16_t *values_at(const struct work *w, uint32_t i) {
        return w->values + (size_t) (i / CHUNK) * 2 * w->v_chunks * TILE_VALUES + i % CHUNK / 2 * CHUNK;
}

ALWAYS_INLINE void place_values(const struct work *w, uint32_t i, const uint16_t *pair, uint32_t dim) {
        uint16_t *to = values_at(w, i);

        for (uint32_t c = 0; c < w->v_chunks; c++)
                copy_pair(to + 2 * c * TILE_VALUES, pair + 2 * c * CHUNK, dim - c * CHUNK);
}

/* Of keys that hold their values: those in place as `key` and the next one. */
ALWAYS_INLINE void place_key_values(const struct work *w, uint32_t i, uint32_t key) {
        const uint16_t *even = key_at(w, key), *odd = key_at(w, key + 1);
        uint16_t *to = values_at(w, i);

        for (uint32_t c = 0; c < w->v_chunks; c++)
                place_value_pair(to + 2 * c * TILE_VALUES, _mm512_load_si512(even + c * CHUNK),
                                 _mm512_load_si512(odd + c * CHUNK));
}

/* A page begins anywhere in memory, where no hardware prefetcher foresees it. */
ALWAYS_INLINE void prefetch(const uint16_t *p, uint32_t dim) {
        for (uint32_t i = 0; i < dim; i += 32)
                _mm_prefetch((const char *) (p + i), _MM_HINT_T1);
}

enum { PART = 8 /* rows that are placed at a time */ };

/* CHUNK dims, or the n that are left, of PART keys. */
ALWAYS_INLINE void place_key_part(uint16_t *to, const uint16_t *const *keys, uint32_t dim, uint32_t n) {
        if (n >= CHUNK)
                UNROLL for (uint32_t j = 0; j < PART; j++)
                        _mm512_store_si512(to + j * CHUNK, load_chunk(keys[j] + dim));
        else
                for (uint32_t j = 0; j < PART; j++)
                        _mm512_store_si512(to + j * CHUNK, load_rest(keys[j] + dim, n));
}

ALWAYS_INLINE void place_value_part(uint16_t *to, const uint16_t *const *values, bool apart, uint32_t dim,
                                    uint32_t n) {
        if (apart)
                UNROLL for (uint32_t j = 0; j < PART; j += 2)
                        copy_pair(to + j * (CHUNK / 2), values[j] + 2 * dim, n);
        else if (n >= CHUNK)
                UNROLL for (uint32_t j = 0; j < PART; j += 2)
                        place_value_pair(to + j * (CHUNK / 2), load_chunk(values[j] + dim),
                                         load_chunk(values[j + 1] + dim));
        else
                for (uint32_t j = 0; j < PART; j += 2)
                        place_value_pair(to + j * (CHUNK / 2), load_rest(values[j] + dim, n),
                                         load_rest(values[j + 1] + dim, n));
}
