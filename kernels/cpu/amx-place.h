/* SPDX-License-Identifier: MIT */
#pragma once

/* Keys and values of float16 become tiles of bfloat16. */

#include "amx-attend.h"

ALWAYS_INLINE __m512i load_chunk(const uint16_t *p) {
        return to_bf16(_mm512_cvtph_ps(_mm256_loadu_si256((const void *) p)),
                          _mm512_cvtph_ps(_mm256_loadu_si256((const void *) (p + 16))));
}

/* n < CHUNK values, zeros behind. */
ALWAYS_INLINE __m512i load_rest(const uint16_t *p, uint32_t n) {
        __m512i v = _mm512_maskz_loadu_epi16((1u << n) - 1, p);

        return to_bf16(_mm512_cvtph_ps(_mm512_castsi512_si256(v)),
                          _mm512_cvtph_ps(_mm512_extracti64x4_epi64(v, 1)));
}

/* Not-a-number and infinity become the largest finite bfloat16: as signed numbers they are above it where positive,
 * and as unsigned ones where negative. */
ALWAYS_INLINE __m512i clamp(__m512i v) {
        return _mm512_min_epu16(_mm512_min_epi16(v, _mm512_set1_epi16(0x7f7f)), _mm512_set1_epi16((short) 0xff7f));
}

ALWAYS_INLINE uint16_t *key_at(const struct work *w, uint32_t i) {
        return w->keys + (size_t) i * w->k_chunks * CHUNK;
}

/* The key or, of NULL, zeros. */
ALWAYS_INLINE void place_key(const struct work *w, uint32_t i, const uint16_t *key, uint32_t dim) {
        uint16_t *to = key_at(w, i);
        uint32_t c = 0;

        for (; key && c < dim / CHUNK; c++)
                _mm512_store_si512(to + c * CHUNK, load_chunk(key + c * CHUNK));
        if (key && c < w->k_chunks) {
                _mm512_store_si512(to + c * CHUNK, load_rest(key + c * CHUNK, dim % CHUNK));
                c++;
        }
        for (; c < w->k_chunks; c++)
                _mm512_store_si512(to + c * CHUNK, _mm512_setzero_si512());
}

/* Values of keys i and i + 1, i even. The quarters of 16 columns that this leaves in one tile are dims 0-3, 8-11,
 * 16-19, 24-27 of the chunk, in the other those between; amx_attend_store() undoes it. */
ALWAYS_INLINE void place_chunk(const struct work *w, uint32_t i, uint32_t c, __m512i even, __m512i odd) {
        uint16_t *to = w->values + ((size_t) (i / CHUNK) * 2 * w->v_chunks + 2 * c) * TILE_VALUES +
                       i % CHUNK / 2 * CHUNK;

        even = clamp(even);
        odd = clamp(odd);
        _mm512_store_si512(to, _mm512_unpacklo_epi16(even, odd));
        _mm512_store_si512(to + TILE_VALUES, _mm512_unpackhi_epi16(even, odd));
}

ALWAYS_INLINE void place_values(const struct work *w, uint32_t i, const uint16_t *even, const uint16_t *odd,
                                uint32_t dim) {
        uint32_t c = 0;

        for (; c < dim / CHUNK; c++)
                place_chunk(w, i, c, load_chunk(even + c * CHUNK), load_chunk(odd + c * CHUNK));
        if (c < w->v_chunks)
                place_chunk(w, i, c, load_rest(even + c * CHUNK, dim % CHUNK), load_rest(odd + c * CHUNK, dim % CHUNK));
}

/* Of the last key or the one before it, and zeros. */
ALWAYS_INLINE void place_last_values(const struct work *w, uint32_t i, const uint16_t *even, uint32_t dim) {
        const __m512i zero = _mm512_setzero_si512();

        for (uint32_t c = 0; c < w->v_chunks; c++)
                if (!even)
                        place_chunk(w, i, c, zero, zero);
                else if (c < dim / CHUNK)
                        place_chunk(w, i, c, load_chunk(even + c * CHUNK), zero);
                else
                        place_chunk(w, i, c, load_rest(even + c * CHUNK, dim % CHUNK), zero);
}

/* Of keys that hold their values: those in place as `key` and the next one. */
ALWAYS_INLINE void place_key_values(const struct work *w, uint32_t i, uint32_t key) {
        const uint16_t *even = key_at(w, key), *odd = key_at(w, key + 1);

        for (uint32_t c = 0; c < w->v_chunks; c++)
                place_chunk(w, i, c, _mm512_load_si512(even + c * CHUNK),
                            _mm512_load_si512(odd + c * CHUNK));
}

/* A page begins anywhere in memory, where no hardware prefetcher foresees it. */
ALWAYS_INLINE void prefetch(const uint16_t *p, uint32_t dim) {
        for (uint32_t i = 0; i < dim; i += 32)
                _mm_prefetch((const char *) (p + i), _MM_HINT_T1);
}
