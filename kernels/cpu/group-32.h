/* SPDX-License-Identifier: MIT */
#pragma once

/* The formats with blocks of 32 weights as vectors of AVX-512. */

#include "block.h"
#include "group.h"

struct scales_32 {
        __m512 d, m;
        bool has_m;
};

/* Constant: functions that take one are inlined for it. */
struct format_32 {
        size_t block_bytes;
        int offset; /* what values() adds to make them unsigned; 0 to 255 */
        /* The values of a row's block and, with `two`, of the next one (else zeros). */
        __m512i (*values)(const uint8_t *block, bool two);
        /* Of the block `at` bytes into each row. */
        struct scales_32 (*scales)(const struct group *g, size_t at);
};

/* What is 0 without a second block multiplies activations that are 0. */
ALWAYS_INLINE __m512i blocks_16(const uint8_t *a, const uint8_t *b, bool two) {
        __m512i v = all_quarters(load128(a));

        return two ? _mm512_mask_broadcast_i32x4(v, 0xff00, load128(b)) : v;
}

/* Low nibbles in the first half of each block's lanes, high ones in the second. */
ALWAYS_INLINE __m512i nibbles(__m512i v) {
        v = _mm512_srlv_epi64(v, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
        return _mm512_and_si512(v, _mm512_set1_epi8(15));
}

ALWAYS_INLINE struct scales_32 scales_d(const struct group *g, size_t at) {
        return (struct scales_32){.d = low_halves(group_words(g, at))};
}

ALWAYS_INLINE struct scales_32 scales_dm(const struct group *g, size_t at) {
        __m512i words = group_words(g, at);

        return (struct scales_32){.d = low_halves(words), .m = high_halves(words), .has_m = true};
}

ALWAYS_INLINE __m512i values_q8_0(const uint8_t *block, bool two) {
        const struct block_q8_0 *b = (const struct block_q8_0 *) block;
        __m512i q = two ? halves(load256(b[0].q), load256(b[1].q)) : _mm512_zextsi256_si512(load256(b[0].q));

        return _mm512_xor_si512(q, _mm512_set1_epi8((char) 0x80));
}

ALWAYS_INLINE struct format_32 format_q8_0(void) {
        return (struct format_32){sizeof(struct block_q8_0), 128, values_q8_0, scales_d};
}

ALWAYS_INLINE __m512i values_q4_0(const uint8_t *block, bool two) {
        const struct block_q4_0 *b = (const struct block_q4_0 *) block;

        return nibbles(blocks_16(b[0].q, b[1].q, two));
}

ALWAYS_INLINE struct format_32 format_q4_0(void) {
        return (struct format_32){sizeof(struct block_q4_0), 8, values_q4_0, scales_d};
}

ALWAYS_INLINE __m512i values_q4_1(const uint8_t *block, bool two) {
        const struct block_q4_1 *b = (const struct block_q4_1 *) block;

        return nibbles(blocks_16(b[0].q, b[1].q, two));
}

ALWAYS_INLINE struct format_32 format_q4_1(void) {
        return (struct format_32){sizeof(struct block_q4_1), 0, values_q4_1, scales_dm};
}

ALWAYS_INLINE __m512i fifth_bits(__m512i q, uint32_t low, uint32_t high) {
        __mmask64 set = _cvtu64_mask64((uint64_t) high << 32 | low);

        return _mm512_mask_add_epi8(q, set, q, _mm512_set1_epi8(16));
}

ALWAYS_INLINE __m512i values_q5_0(const uint8_t *block, bool two) {
        const struct block_q5_0 *b = (const struct block_q5_0 *) block;

        return fifth_bits(nibbles(blocks_16(b[0].q, b[1].q, two)), b[0].qh, two ? b[1].qh : 0);
}

ALWAYS_INLINE struct format_32 format_q5_0(void) {
        return (struct format_32){sizeof(struct block_q5_0), 16, values_q5_0, scales_d};
}

ALWAYS_INLINE __m512i values_q5_1(const uint8_t *block, bool two) {
        const struct block_q5_1 *b = (const struct block_q5_1 *) block;

        return fifth_bits(nibbles(blocks_16(b[0].q, b[1].q, two)), b[0].qh, two ? b[1].qh : 0);
}

ALWAYS_INLINE struct format_32 format_q5_1(void) {
        return (struct format_32){sizeof(struct block_q5_1), 0, values_q5_1, scales_dm};
}

/* quant_levels_fp4 by code, plus 12. */
ALWAYS_INLINE __m512i levels_fp4(__m512i codes) {
        return _mm512_shuffle_epi8(
                all_quarters(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0)), codes);
}

ALWAYS_INLINE __m512i values_iq4_nl(const uint8_t *block, bool two) {
        const struct block_iq4_nl *b = (const struct block_iq4_nl *) block;

        return levels_iq4(nibbles(blocks_16(b[0].q, b[1].q, two)));
}

ALWAYS_INLINE struct format_32 format_iq4_nl(void) {
        return (struct format_32){sizeof(struct block_iq4_nl), 127, values_iq4_nl, scales_d};
}

ALWAYS_INLINE __m512i values_mxfp4(const uint8_t *block, bool two) {
        const struct block_mxfp4 *b = (const struct block_mxfp4 *) block;

        return levels_fp4(nibbles(blocks_16(b[0].q, b[1].q, two)));
}

/* 2^(e - 128); the two lowest are subnormal (quant-legacy.c: half_e8m0). */
ALWAYS_INLINE struct scales_32 scales_e8m0(const struct group *g, size_t at) {
        __m512i e = _mm512_and_si512(group_words(g, at), _mm512_set1_epi32(255));
        __m512i bits = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);

        bits = _mm512_mask_sllv_epi32(bits, _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2)),
                                      _mm512_set1_epi32(0x200000), e);
        return (struct scales_32){.d = _mm512_castsi512_ps(bits)};
}

ALWAYS_INLINE struct format_32 format_mxfp4(void) {
        return (struct format_32){sizeof(struct block_mxfp4), 12, values_mxfp4, scales_e8m0};
}
