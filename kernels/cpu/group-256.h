/* SPDX-License-Identifier: MIT */
#pragma once

/* The formats with blocks of 256 weights as vectors of AVX-512: four of 64 values each, in their natural order. */

#include "block.h"
#include "group.h"

/* In each quarter the first 16 bytes of a Q4_K or Q5_K block: d, dmin and the packed scales. They become bytes: scales
 * 0 to 3, mins 0 to 3, scales 4 to 7, mins 4 to 7 (block.h: q4_k_scale_min). */
ALWAYS_INLINE __m512i q4_k_scales(__m512i head) {
        const __m512i low_bytes =
                all_quarters(_mm_setr_epi8(4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 12, 13, 14, 15));
        const __m512i top_bytes =
                all_quarters(_mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, 4, 5, 6, 7, 8, 9, 10, 11));
        const __m512i shift = all_quarters(_mm_setr_epi32(0, 0, 0, 4));
        const __m512i mask = all_quarters(_mm_setr_epi32(0x3f3f3f3f, 0x3f3f3f3f, 0x0f0f0f0f, 0x0f0f0f0f));
        __m512i low = _mm512_and_si512(_mm512_srlv_epi32(_mm512_shuffle_epi8(head, low_bytes), shift), mask);
        __m512i top = _mm512_srli_epi32(_mm512_shuffle_epi8(head, top_bytes), 2);

        return _mm512_ternarylogic_epi32(low, top, _mm512_set1_epi8(0x30), 0xf8); /* low | (top & 0x30) */
}

/* Byte shuffle within quarters: byte a as a word, in all words of the low half, and byte b in the high half. */
ALWAYS_INLINE __m512i words_of_bytes(int a, int b) {
        return halves(_mm256_set1_epi16((short) (0x8000 | a)), _mm256_set1_epi16((short) (0x8000 | b)));
}

/* The shuffle that spreads the scales of values 64 v to 64 v + 63 over them. */
ALWAYS_INLINE __m512i q4_k_scale_words(int v) {
        return v < 2 ? words_of_bytes(2 * v, 2 * v + 1) : words_of_bytes(2 * v + 4, 2 * v + 5);
}

/* The shuffle that makes the scale of sub-block j every dword of its quarter. */
ALWAYS_INLINE __m512i q4_k_scale_dwords(int j) {
        return _mm512_set1_epi32((int) 0x80808000 | (j < 4 ? j : j + 4));
}

/* The shuffle that makes a quarter's mins words. */
ALWAYS_INLINE __m512i q4_k_min_words(void) {
        return all_quarters(_mm_setr_epi8(4, -1, 5, -1, 6, -1, 7, -1, 12, -1, 13, -1, 14, -1, 15, -1));
}

ALWAYS_INLINE __m512i low_then_high(__m256i q) {
        __m512i v = _mm512_srlv_epi64(_mm512_broadcast_i64x4(q), _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4));

        return _mm512_and_si512(v, _mm512_set1_epi8(15));
}

ALWAYS_INLINE __m512i values_q4_k(const uint8_t *block, int v) {
        return low_then_high(load256(((const struct block_q4_k *) block)->q + 32 * v));
}

ALWAYS_INLINE __m512i values_q5_k(const uint8_t *block, int v) {
        const struct block_q5_k *b = (const struct block_q5_k *) block;
        __m512i bits = halves(_mm256_set1_epi8((char) (1 << 2 * v)), _mm256_set1_epi8((char) (2 << 2 * v)));
        __mmask64 set = _mm512_test_epi8_mask(_mm512_broadcast_i64x4(load256(b->qh)), bits);
        __m512i q = low_then_high(load256(b->q + 32 * v));

        return _mm512_mask_add_epi8(q, set, q, _mm512_set1_epi8(16));
}

/* 0 to 63 (block.h: q6_k_unpack): of a half of the block its first 64 values, or the others. */
ALWAYS_INLINE __m512i half_q6_k(const uint8_t *ql, const uint8_t *qh, bool others) {
        __m512i low = load512(ql), high = _mm512_broadcast_i64x4(load256(qh));

        if (!others) {
                high = _mm512_sllv_epi64(high, _mm512_setr_epi64(4, 4, 4, 4, 2, 2, 2, 2));
        } else {
                low = _mm512_srli_epi16(low, 4);
                high = _mm512_srlv_epi64(high, _mm512_setr_epi64(0, 0, 0, 0, 2, 2, 2, 2));
        }
        return _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi8(0x0f)),
                               _mm512_and_si512(high, _mm512_set1_epi8(0x30)));
}

ALWAYS_INLINE __m512i values_q6_k(const uint8_t *block, int v) {
        const struct block_q6_k *b = (const struct block_q6_k *) block;

        return half_q6_k(b->ql + v / 2 * 64, b->qh + v / 2 * 32, v % 2);
}

ALWAYS_INLINE __m256i scales_q6_k(const uint8_t *block) {
        return _mm256_cvtepi8_epi16(load128(((const struct block_q6_k *) block)->scales));
}

/* The codes of values 64 v to 64 v + 63. */
ALWAYS_INLINE __m512i codes_iq4_xs(const uint8_t *block, int v) {
        __m256i q = load256(((const struct block_iq4_xs *) block)->q + 32 * v);
        __m512i twice = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), _mm512_castsi256_si512(q));

        twice = _mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
        return _mm512_and_si512(twice, _mm512_set1_epi8(15));
}

/* Sixteen scales, two for each sub-block of 32, as the other formats have them. */
ALWAYS_INLINE __m256i scales_iq4_xs(const uint8_t *block) {
        const struct block_iq4_xs *b = (const struct block_iq4_xs *) block;
        const __m256i shift_low = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28),
                      shift_high = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
        __m256i low, high, scale;
        int32_t packed;

        memcpy(&packed, b->scales_low, sizeof(packed));
        low = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(packed), shift_low), _mm256_set1_epi32(15));
        high = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(b->scales_high), shift_high), _mm256_set1_epi32(3));
        scale = _mm256_sub_epi32(_mm256_or_si256(low, _mm256_slli_epi32(high, 4)), _mm256_set1_epi32(32));
        /* Each dword's low word twice. */
        return _mm256_or_si256(_mm256_and_si256(scale, _mm256_set1_epi32(0xffff)), _mm256_slli_epi32(scale, 16));
}

/* In each quarter the first bytes of a block. They become its eight scales, as words. */
ALWAYS_INLINE __m512i iq4_xs_scales(__m512i head) {
        const __m512i low_bytes = all_quarters(_mm_setr_epi8(4, -1, 4, -1, 5, -1, 5, -1, 6, -1, 6, -1, 7, -1, 7, -1));
        const __m512i high_bytes = all_quarters(_mm_set1_epi16(0x0302));
        const __m512i low_shift = all_quarters(_mm_setr_epi16(0, 4, 0, 4, 0, 4, 0, 4));
        const __m512i high_shift = all_quarters(_mm_setr_epi16(0, 2, 4, 6, 8, 10, 12, 14));
        __m512i low = _mm512_srlv_epi16(_mm512_shuffle_epi8(head, low_bytes), low_shift);
        __m512i high = _mm512_srlv_epi16(_mm512_shuffle_epi8(head, high_bytes), high_shift);

        low = _mm512_and_si512(low, _mm512_set1_epi16(15));
        high = _mm512_slli_epi16(_mm512_and_si512(high, _mm512_set1_epi16(3)), 4);
        return _mm512_sub_epi16(_mm512_or_si512(low, high), _mm512_set1_epi16(32));
}

/* Scale j in every dword of its quarter. */
ALWAYS_INLINE __m512i iq4_xs_scale_dwords(__m512i scales, int j) {
        const int top = (2 * j + 1) << 24 | (2 * j) << 16;

        return _mm512_srai_epi32(_mm512_shuffle_epi8(scales, _mm512_set1_epi32(top | 0x8080)), 16);
}

/* Word indices that spread sixteen scales over values 64 v to 64 v + 63. */
ALWAYS_INLINE __m512i scale_words(int v) {
        return quarters(_mm_set1_epi16((short) (4 * v)), _mm_set1_epi16((short) (4 * v + 1)),
                        _mm_set1_epi16((short) (4 * v + 2)), _mm_set1_epi16((short) (4 * v + 3)));
}

/* `scales` are sixteen words. */
ALWAYS_INLINE __m512i spread_scales(__m256i scales, int v) {
        return _mm512_permutexvar_epi16(scale_words(v), _mm512_castsi256_si512(scales));
}
