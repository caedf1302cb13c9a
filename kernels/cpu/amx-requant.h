/* SPDX-License-Identifier: MIT */
#pragma once

/* Weights become bytes: 256 columns of a row get one scale, and a sub-block's codes a table of the
 * bytes that they stand for, in units of that scale. First the tables' parameters of sixteen rows are computed
 * together, a lane each; then each row's tables, and its codes are looked up.
 *
 * While the matrix unit multiplies, floating-point instructions and shuffles have one port to share, whole numbers two:
 * the latter are preferred. */

#include "amx.h"
#include "group-256.h"

enum {
        REQUANT_COLS = 256,
        REQUANT_TILES = REQUANT_COLS / 64,
};

/* Weights are at most so many times their row's scale; the rest of a byte's range is for what rounding adds. */
#define REQUANT_MAX 125.0f

/* A sub-block's code stands for (a × level - b) / 256, where b has half a unit less than the value, for rounding. In
 * each part two numbers for four sub-blocks of a row: part 0 for the first four, and so on. */
struct requant_tables {
        _Alignas(64) int16_t ab[REQUANT_TILES][4][4][4][2]; /* [part][row % 4][row / 4][sub-block][a, b] */
};

typedef int8_t requant_tiles[REQUANT_TILES][GROUP_ROWS][64];

/* Where half a block of a group's rows is unpacked from, and to. */
struct requant_half {
        int8_t (*to)[GROUP_ROWS][64]; /* two tiles */
        const struct requant_tables *tables;
        const uint8_t *const *rows;
        size_t at;     /* of the block in each row, */
        size_t sub[4]; /* of the codes of four sub-blocks; where these are blocks, missing ones lie where others do */
        uint32_t half;
        const char *ahead; /* half of what the rows after these have in this block, which is fetched; or NULL */
};

/* --- constants --------------------------------------------------------------------------------------------------- */

#define FOUR(...) __VA_ARGS__, __VA_ARGS__, __VA_ARGS__, __VA_ARGS__
#define EIGHT(...) FOUR(__VA_ARGS__), FOUR(__VA_ARGS__)
#define SIXTEEN(...) EIGHT(__VA_ARGS__), EIGHT(__VA_ARGS__)
#define CONSTANT(_type, _name, ...) _Alignas(64) static const _type _name[64 / sizeof(_type)] = {__VA_ARGS__}

CONSTANT(uint8_t, bytes_15, SIXTEEN(FOUR(15)));
CONSTANT(uint8_t, bytes_16, SIXTEEN(FOUR(16)));
CONSTANT(uint8_t, bytes_48, SIXTEEN(FOUR(48)));
CONSTANT(uint8_t, bytes_63, SIXTEEN(FOUR(63)));
CONSTANT(uint16_t, low_bytes, SIXTEEN(0x00ff), SIXTEEN(0x00ff));
CONSTANT(uint16_t, high_bytes, SIXTEEN(0xff00), SIXTEEN(0xff00));
CONSTANT(uint32_t, low_words, SIXTEEN(0x0000ffff));
CONSTANT(uint32_t, half_in_b, SIXTEEN(0x00800000));
CONSTANT(uint16_t, half_words, SIXTEEN(0x0080), SIXTEEN(0x0080));
/* Byte shuffles that spread a (or b) of four sub-blocks over a quarter each; of the first two, or the others, over
 * half. */
CONSTANT(uint16_t, spread_a, EIGHT(0x0100), EIGHT(0x0504), EIGHT(0x0908), EIGHT(0x0d0c));
CONSTANT(uint16_t, spread_b, EIGHT(0x0302), EIGHT(0x0706), EIGHT(0x0b0a), EIGHT(0x0f0e));
CONSTANT(uint16_t, spread_first_a, SIXTEEN(0x0100), SIXTEEN(0x0504));
CONSTANT(uint16_t, spread_first_b, SIXTEEN(0x0302), SIXTEEN(0x0706));
CONSTANT(uint16_t, spread_last_a, SIXTEEN(0x0908), SIXTEEN(0x0d0c));
CONSTANT(uint16_t, spread_last_b, SIXTEEN(0x0b0a), SIXTEEN(0x0f0e));
/* Number of a sub-block, where its entries of a table begin. */
CONSTANT(uint8_t, first_subs, SIXTEEN(0), SIXTEEN(0), SIXTEEN(16), SIXTEEN(16));
CONSTANT(uint8_t, last_subs, SIXTEEN(32), SIXTEEN(32), SIXTEEN(48), SIXTEEN(48));
CONSTANT(uint8_t, wide_subs, SIXTEEN(0), SIXTEEN(0), SIXTEEN(32), SIXTEEN(32));
/* Shifts of a block's nibbles: halves of its columns are the low ones and the high ones, or the sixteens in turn. */
CONSTANT(uint64_t, shift_halves, FOUR(0), FOUR(4));
CONSTANT(uint64_t, shift_sixteens, 0, 0, 4, 4, 0, 0, 4, 4);
CONSTANT(uint16_t, even_then_odd, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
         1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
/* Levels of even and of odd codes, for each of four sub-blocks or of two. */
CONSTANT(int16_t, even_16, FOUR(0, 2, 4, 6, 8, 10, 12, 14));
CONSTANT(int16_t, even_q4_0, FOUR(-8, -6, -4, -2, 0, 2, 4, 6));
CONSTANT(int16_t, even_iq4, FOUR(-127, -83, -49, -22, 1, 25, 53, 89));
CONSTANT(int16_t, odd_iq4, FOUR(-104, -65, -35, -10, 13, 38, 69, 113));
/* Of MXFP4, sixteen times what the code stands for: a block's weights are exact, unless another's of the 256 columns
 * are more than eight times as large. */
CONSTANT(int16_t, even_mxfp4, FOUR(0, 16, 32, 64, 0, -16, -32, -64));
CONSTANT(int16_t, odd_mxfp4, FOUR(8, 24, 48, 96, -8, -24, -48, -96));
#define EVEN_32 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
CONSTANT(int16_t, even_32, EVEN_32, EVEN_32);
#define EVEN_Q5_0 -16, -14, -12, -10, -8, -6, -4, -2, 0, 2, 4, 6, 8, 10, 12, 14
CONSTANT(int16_t, even_q5_0, EVEN_Q5_0, EVEN_Q5_0);
/* Of Q5_K: the bit of qh that is a column's fifth. */
_Alignas(64) static const uint8_t fifth_bits[4][64] = {
        {SIXTEEN(1), SIXTEEN(1), SIXTEEN(2), SIXTEEN(2)},
        {SIXTEEN(4), SIXTEEN(4), SIXTEEN(8), SIXTEEN(8)},
        {SIXTEEN(16), SIXTEEN(16), SIXTEEN(32), SIXTEEN(32)},
        {SIXTEEN(64), SIXTEEN(64), SIXTEEN(128), SIXTEEN(128)},
};

/* Bits of a where `mask` has them, else those of b. */
ALWAYS_INLINE __m512i choose_bits(__m512i mask, __m512i a, __m512i b) {
        return _mm512_ternarylogic_epi32(mask, a, b, 0xca);
}

/* --- parameters -------------------------------------------------------------------------------------------------- */

/* The largest magnitude, with a bound so that nothing is divided by zero. */
ALWAYS_INLINE __m512 larger(__m512 a, __m512 b) {
        return _mm512_range_ps(a, b, 0x0b);
}

/* Dwords of a and b of four sub-blocks, a lane for each row, become fours of a row. */
ALWAYS_INLINE void store_part(struct requant_tables *t, int part, const __m512i v[4]) {
        __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
        __m512i c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);

        _mm512_store_si512(t->ab[part][0], _mm512_unpacklo_epi64(a, c));
        _mm512_store_si512(t->ab[part][1], _mm512_unpackhi_epi64(a, c));
        _mm512_store_si512(t->ab[part][2], _mm512_unpacklo_epi64(b, d));
        _mm512_store_si512(t->ab[part][3], _mm512_unpackhi_epi64(b, d));
}

/* The other way: the first 16 bytes from `at` of each row become dwords, a lane for each row. */
ALWAYS_INLINE void load_heads(__m512i v[4], const struct group *g, size_t at) {
        __m512i a[4], b[4];

        UNROLL for (int i = 0; i < 4; i++)
                a[i] = quarters(load128(g->row[i] + at), load128(g->row[i + 4] + at), load128(g->row[i + 8] + at),
                                load128(g->row[i + 12] + at));
        b[0] = _mm512_unpacklo_epi32(a[0], a[1]);
        b[1] = _mm512_unpackhi_epi32(a[0], a[1]);
        b[2] = _mm512_unpacklo_epi32(a[2], a[3]);
        b[3] = _mm512_unpackhi_epi32(a[2], a[3]);
        v[0] = _mm512_unpacklo_epi64(b[0], b[2]);
        v[1] = _mm512_unpackhi_epi64(b[0], b[2]);
        v[2] = _mm512_unpacklo_epi64(b[1], b[3]);
        v[3] = _mm512_unpackhi_epi64(b[1], b[3]);
}

/* Byte j of scales in the low word of each lane and byte j of mins in the high one, at bits 9 to 14. */
ALWAYS_INLINE __m512i scale_and_min(__m512i scales, __m512i mins, int j, __m512i low) {
        const __m512i field = _mm512_set1_epi16(63 << 9);
        __m512i a, b;

        if (j == 0) {
                a = _mm512_slli_epi32(scales, 9);
                b = _mm512_slli_epi32(mins, 25);
        } else if (j == 1) {
                a = _mm512_slli_epi32(scales, 1);
                b = _mm512_slli_epi32(mins, 17);
        } else if (j == 2) {
                a = _mm512_srli_epi32(scales, 7);
                b = _mm512_slli_epi32(mins, 9);
        } else {
                a = _mm512_srli_epi32(scales, 15);
                b = _mm512_slli_epi32(mins, 1);
        }
        return _mm512_and_si512(choose_bits(low, a, b), field);
}

/* Q4_K and Q5_K, whose codes are at most `top`: in whole numbers, with d and dmin in units of a thousandth of the
 * larger one to find the largest weight. */
ALWAYS_INLINE void parameters_q45_k(struct requant_tables *t, float scale[16], const struct group *g, size_t at,
                                    int top) {
        const __m512i low = constant_at(low_words), below = constant_at(half_in_b);
        const __m512i m15 = constant_at(bytes_15), m48 = constant_at(bytes_48), m63 = constant_at(bytes_63);
        __m512i head[4], bytes[4], w[8], both, mins, most = _mm512_setzero_si512();
        __m512 d, dmin, unit, one, largest;

        load_heads(head, g, at);
        head[0] = _mm512_permutexvar_epi16(constant_at(even_then_odd), head[0]);
        d = _mm512_cvtph_ps(_mm512_castsi512_si256(head[0]));
        dmin = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(head[0], 1));
        bytes[0] = _mm512_and_si512(head[1], m63);
        bytes[1] = _mm512_and_si512(head[2], m63);
        bytes[2] = _mm512_ternarylogic_epi32(_mm512_and_si512(head[3], m15), _mm512_srli_epi32(head[1], 2), m48, 0xf8);
        bytes[3] = _mm512_ternarylogic_epi32(_mm512_and_si512(_mm512_srli_epi32(head[3], 4), m15),
                                             _mm512_srli_epi32(head[2], 2), m48, 0xf8);
        unit = _mm512_max_ps(larger(d, dmin), _mm512_set1_ps(1e-30f));
        one = _mm512_rcp14_ps(unit) * _mm512_set1_ps(1000.0f);
        mins = _mm512_cvtps_epi32(dmin * one);
        both = choose_bits(low, _mm512_cvtps_epi32(d * one * _mm512_set1_ps((float) top)),
                           _mm512_slli_epi32(_mm512_sub_epi32(_mm512_setzero_si512(), mins), 16));
        mins = _mm512_slli_epi32(_mm512_abs_epi32(mins), 16);
        UNROLL for (int j = 0; j < 8; j++) {
                w[j] = scale_and_min(bytes[j / 4 * 2], bytes[j / 4 * 2 + 1], j % 4, low);
                most = _mm512_max_epi32(most, _mm512_abs_epi32(_mm512_madd_epi16(w[j], both)));
                most = _mm512_max_epi32(most, _mm512_madd_epi16(w[j], mins));
        }
        /* At least what keeps the factors below 2^15. */
        largest = _mm512_max_ps(_mm512_cvtepi32_ps(most) * unit * _mm512_set1_ps(1.0f / 512000.0f),
                                unit * _mm512_set1_ps(REQUANT_MAX * 0.5002f));
        _mm512_store_ps(scale, largest * _mm512_set1_ps(1.0f / REQUANT_MAX));
        one = _mm512_rcp14_ps(largest) * _mm512_set1_ps(REQUANT_MAX * 16384.0f);
        both = choose_bits(low, _mm512_cvtps_epi32(d * one), _mm512_slli_epi32(_mm512_cvtps_epi32(dmin * one), 16));
        UNROLL for (int j = 0; j < 8; j++) w[j] = _mm512_sub_epi16(_mm512_mulhrs_epi16(w[j], both), below);
        store_part(t, 0, w);
        store_part(t, 1, w + 4);
}

static __attribute__((noinline)) void parameters_q4_k(struct requant_tables *t, float scale[16], const struct group *g,
                                                      size_t at, uint32_t there) {
        parameters_q45_k(t, scale, g, at, 15);
}

static __attribute__((noinline)) void parameters_q5_k(struct requant_tables *t, float scale[16], const struct group *g,
                                                      size_t at, uint32_t there) {
        parameters_q45_k(t, scale, g, at, 31);
}

/* From numbers: sub-block j has the weights d[j] × level + m[j], the largest of which is `largest`. `one`: a of a
 * weight that is as large as the row's scale. */
ALWAYS_INLINE void store_parameters(struct requant_tables *t, float scale[16], const __m512 d[8], const __m512 m[8],
                                    __m512 largest, float one) {
        const __m512 half = _mm512_set1_ps(128.0f);
        __m512 unit, times;
        __m512i w[8];

        largest = _mm512_max_ps(largest, _mm512_set1_ps(1e-30f));
        _mm512_store_ps(scale, largest * _mm512_set1_ps(1.0f / REQUANT_MAX));
        unit = _mm512_set1_ps(REQUANT_MAX) / largest;
        times = unit * _mm512_set1_ps(one);
        UNROLL for (int j = 0; j < 8; j++) {
                __m512i b = _mm512_set1_epi32(-128);

                if (m)
                        b = _mm512_cvtps_epi32(_mm512_fnmsub_ps(m[j], unit * _mm512_set1_ps(256.0f), half));
                w[j] = choose_bits(constant_at(low_words), _mm512_cvtps_epi32(d[j] * times), _mm512_slli_epi32(b, 16));
        }
        store_part(t, 0, w);
        store_part(t, 1, w + 4);
}

/* 2^(e - 127), of the exponent that a block of MXFP4 begins with. */
ALWAYS_INLINE __m512 powers_of_two(__m512i heads) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_and_si512(heads, _mm512_set1_epi32(255)), 23));
}

/* Blocks of 32, `there` of the eight, which begin with their scale. `levels`: a bound on the magnitude of a level. */
ALWAYS_INLINE void parameters_32(struct requant_tables *t, float scale[16], const struct group *g, size_t at,
                                 uint32_t there, size_t block_bytes, __m512 (*scale_of)(__m512i heads), float levels,
                                 float one) {
        __m512 d[8], largest = _mm512_setzero_ps();

        for (uint32_t j = 0; j < 8; j++) {
                d[j] = j < there ? scale_of(group_words(g, at + j * block_bytes)) : _mm512_setzero_ps();
                largest = larger(largest, d[j]);
        }
        store_parameters(t, scale, d, NULL, largest * _mm512_set1_ps(levels), one);
}

/* The same of blocks with a minimum, and codes up to `top`. */
ALWAYS_INLINE void parameters_min_32(struct requant_tables *t, float scale[16], const struct group *g, size_t at,
                                     uint32_t there, size_t block_bytes, float top) {
        __m512 d[8], m[8], largest = _mm512_setzero_ps();

        for (uint32_t j = 0; j < 8; j++) {
                __m512i head = j < there ? group_words(g, at + j * block_bytes) : _mm512_setzero_si512();

                d[j] = low_halves(head);
                m[j] = high_halves(head);
                largest = larger(largest, larger(m[j], _mm512_fmadd_ps(d[j], _mm512_set1_ps(top), m[j])));
        }
        store_parameters(t, scale, d, m, largest, 256.0f);
}

#define PARAMETERS_32(_name, _scale_of, _levels, _one)                                                                 \
        static __attribute__((noinline)) void parameters_##_name(struct requant_tables *t, float scale[16],            \
                                                                 const struct group *g, size_t at, uint32_t there) {   \
                parameters_32(t, scale, g, at, there, sizeof(struct block_##_name), _scale_of, _levels, _one);         \
        }
#define PARAMETERS_MIN_32(_name, _top)                                                                       \
        static __attribute__((noinline)) void parameters_##_name(struct requant_tables *t, float scale[16],  \
                                                                 const struct group *g, size_t at, uint32_t there) { \
                parameters_min_32(t, scale, g, at, there, sizeof(struct block_##_name), _top);               \
        }
PARAMETERS_32(q4_0, low_halves, 8.0f, 256.0f)
PARAMETERS_32(q5_0, low_halves, 16.0f, 256.0f)
PARAMETERS_32(iq4_nl, low_halves, 127.0f, 32768.0f)
PARAMETERS_32(q8_0, low_halves, 128.0f, 32768.0f)
PARAMETERS_32(mxfp4, powers_of_two, REQUANT_MAX / 16.0f, 32767.0f / 16.0f)
PARAMETERS_MIN_32(q4_1, 15.0f)
PARAMETERS_MIN_32(q5_1, 31.0f)

static __attribute__((noinline)) void parameters_iq4_xs(struct requant_tables *t, float scale[16],
                                                        const struct group *g, size_t at, uint32_t there) {
        __m512i head[4];
        __m512 d[8], block, largest = _mm512_setzero_ps();

        load_heads(head, g, at);
        block = low_halves(head[0]);
        UNROLL for (int j = 0; j < 8; j++) {
                __m512i low = _mm512_and_si512(_mm512_srli_epi32(head[1], 4 * j), _mm512_set1_epi32(15));
                __m512i high = _mm512_and_si512(_mm512_srli_epi32(head[0], 16 + 2 * j), _mm512_set1_epi32(3));
                __m512i s = _mm512_or_si512(low, _mm512_slli_epi32(high, 4));

                d[j] = _mm512_cvtepi32_ps(_mm512_sub_epi32(s, _mm512_set1_epi32(32))) * block;
                largest = larger(largest, d[j]);
        }
        store_parameters(t, scale, d, NULL, largest * _mm512_set1_ps(127.0f), 32768.0f);
}

/* Sixteen sub-blocks; the weight of a code is a × (code - 32). */
static __attribute__((noinline)) void parameters_q6_k(struct requant_tables *t, float scale[16], const struct group *g,
                                                      size_t at, uint32_t there) {
        const __m512i low = constant_at(low_words), below = constant_at(half_in_b);
        __m512i heads[4], most = _mm512_setzero_si512(), factor;
        __m512 d, largest, times;

        load_heads(heads, g, at + offsetof(struct block_q6_k, scales));
        /* d is the last thing in a block. */
        d = high_halves(group_words(g, at + sizeof(struct block_q6_k) - 4));
        UNROLL for (int i = 0; i < 4; i++) most = _mm512_max_epu8(most, _mm512_abs_epi8(heads[i]));
        most = _mm512_max_epu8(most, _mm512_srli_epi32(most, 16));
        most = _mm512_max_epu8(most, _mm512_srli_epi32(most, 8));
        most = _mm512_and_si512(most, _mm512_set1_epi32(255));
        /* At least what keeps the factor below 2^15. */
        largest = _mm512_max_ps(_mm512_cvtepi32_ps(most), _mm512_set1_ps(REQUANT_MAX / 31.9f));
        times = _mm512_set1_ps(REQUANT_MAX * 1024.0f) / largest;
        largest = larger(largest * d * _mm512_set1_ps(32.0f), _mm512_set1_ps(1e-30f));
        _mm512_store_ps(scale, largest * _mm512_set1_ps(1.0f / REQUANT_MAX));
        factor = _mm512_cvtps_epi32(times);
        /* The scale's sign is d's. */
        factor = _mm512_mask_sub_epi32(factor, _mm512_movepi32_mask(_mm512_castps_si512(d)), _mm512_setzero_si512(),
                                       factor);
        factor = _mm512_or_si512(_mm512_and_si512(factor, low), _mm512_slli_epi32(factor, 16));
        UNROLL for (int part = 0; part < 4; part++) {
                __m512i w[4];

                UNROLL for (int j = 0; j < 4; j++) {
                        /* The scale times 256 in both words. */
                        __m512i s = _mm512_slli_epi32(_mm512_srli_epi32(heads[part], 8 * j), 24);
                        __m512i a = _mm512_mulhrs_epi16(_mm512_or_si512(s, _mm512_srli_epi32(s, 16)), factor);

                        w[j] = choose_bits(low, a, _mm512_sub_epi16(_mm512_slli_epi16(a, 5), below));
                }
                store_part(t, part, w);
        }
}

/* --- values ------------------------------------------------------------------------------------------------------ */

ALWAYS_INLINE __m512i row_parameters(const struct requant_half *h, uint32_t part, int row) {
        return all_quarters(load128(h->tables->ab[part][row % 4][row / 4]));
}

/* The high bytes of words, those of x at even places. */
ALWAYS_INLINE __m512i high_bytes_of(__m512i x, __m512i y) {
        return _mm512_ternarylogic_epi32(_mm512_srli_epi16(x, 8), y, constant_at(high_bytes), 0xf8);
}

/* What codes stand for: levels of the even ones; and of the odd ones, unless those are one more each. Levels that are
 * not evenly spaced are too large for a in whole numbers: it is a fraction of 2^15 then, and they are taken times
 * 256. */
struct levels {
        const int16_t *even, *odd;
};

ALWAYS_INLINE __m512i make_table(__m512i parameters, const void *a_places, const void *b_places, struct levels levels) {
        __m512i a = _mm512_shuffle_epi8(parameters, constant_at(a_places));
        __m512i b = _mm512_shuffle_epi8(parameters, constant_at(b_places));
        __m512i even = constant_at(levels.even), x, y;

        if (levels.odd)
                x = _mm512_sub_epi16(_mm512_mulhrs_epi16(_mm512_slli_epi16(even, 8), a), b);
        else
                x = _mm512_sub_epi16(_mm512_mullo_epi16(even, a), b);
        if (!levels.odd)
                y = _mm512_add_epi16(x, a);
        else
                y = _mm512_sub_epi16(_mm512_mulhrs_epi16(_mm512_slli_epi16(constant_at(levels.odd), 8), a), b);
        return high_bytes_of(x, y);
}

/* The nibbles of 64 columns, with other bits above them: of bytes that have the first half of the columns below the
 * other one, or of twice sixteen that do. */
ALWAYS_INLINE __m512i nibbles_32(const uint8_t *q) {
        return _mm512_srlv_epi64(_mm512_broadcast_i64x4(load256(q)), constant_at(shift_halves));
}

ALWAYS_INLINE __m512i nibbles_16(const uint8_t *q0, const uint8_t *q1) {
        __m512i both = _mm512_mask_broadcast_i32x4(all_quarters(load128(q0)), 0xff00, load128(q1));

        return _mm512_srlv_epi64(both, constant_at(shift_sixteens));
}

/* With the number of the sub-block above them. */
ALWAYS_INLINE __m512i table_index(__m512i nibbles, const void *subs) {
        return _mm512_ternarylogic_epi32(nibbles, constant_at(bytes_15), constant_at(subs), 0xea);
}

/* Half a block of a row, whose codes are nibbles. */
ALWAYS_INLINE void values_16(const struct requant_half *h, int row, bool by_32, struct levels levels) {
        __m512i table = make_table(row_parameters(h, h->half, row), spread_a, spread_b, levels);
        const uint8_t *q = h->rows[row];

        UNROLL for (int v = 0; v < 2; v++) {
                const uint8_t *q0 = q + h->sub[2 * v], *q1 = q + h->sub[2 * v + 1];
                __m512i nibbles = by_32 ? nibbles_32(q0) : nibbles_16(q0, q1);

                _mm512_store_si512(h->to[v][row],
                                   _mm512_permutexvar_epi8(table_index(nibbles, v ? last_subs : first_subs), table));
        }
}

/* Codes of five bits: `nibbles`, and 16 more where `fifth` says so, of columns 64 v to 64 v + 63 of the half. */
ALWAYS_INLINE void values_32(const struct requant_half *h, int row, int v, __m512i nibbles, __mmask64 fifth,
                             struct levels levels) {
        __m512i table = make_table(row_parameters(h, h->half, row), v ? spread_last_a : spread_first_a,
                                   v ? spread_last_b : spread_first_b, levels);
        __m512i index = table_index(nibbles, wide_subs);

        index = _mm512_mask_add_epi8(index, fifth, index, constant_at(bytes_16));
        _mm512_store_si512(h->to[v][row], _mm512_permutexvar_epi8(index, table));
}

#define VALUES_16(_name, _by_32, ...)                                                                        \
        ALWAYS_INLINE void values_of_##_name(const struct requant_half *h, int row) {                        \
                values_16(h, row, _by_32, (struct levels) {__VA_ARGS__});                                    \
        }
VALUES_16(q4_k, true, even_16)
VALUES_16(iq4_xs, false, even_iq4, odd_iq4)
VALUES_16(q4_0, false, even_q4_0)
VALUES_16(q4_1, false, even_16)
VALUES_16(iq4_nl, false, even_iq4, odd_iq4)
VALUES_16(mxfp4, false, even_mxfp4, odd_mxfp4)

/* Of Q5_K: qh lies before the nibbles, its bits by sub-block. */
ALWAYS_INLINE void values_of_q5_k(const struct requant_half *h, int row) {
        const uint8_t *q = h->rows[row];
        __m512i high = _mm512_broadcast_i64x4(load256(q + h->at + offsetof(struct block_q5_k, qh)));

        UNROLL for (int v = 0; v < 2; v++) {
                __mmask64 fifth = _mm512_test_epi8_mask(high, constant_at(fifth_bits[2 * h->half + (uint32_t) v]));

                values_32(h, row, v, nibbles_32(q + h->sub[2 * v]), fifth, (struct levels) {even_32});
        }
}

/* Of Q5_0 and Q5_1: right before a block's nibbles. */
ALWAYS_INLINE void values_q5_01(const struct requant_half *h, int row, struct levels levels) {
        const uint8_t *q = h->rows[row];

        UNROLL for (int v = 0; v < 2; v++) {
                const uint8_t *q0 = q + h->sub[2 * v], *q1 = q + h->sub[2 * v + 1];
                uint32_t fifth[2];

                memcpy(&fifth[0], q0 - sizeof(fifth[0]), sizeof(fifth[0]));
                memcpy(&fifth[1], q1 - sizeof(fifth[1]), sizeof(fifth[1]));
                values_32(h, row, v, nibbles_16(q0, q1), fifth[0] | (uint64_t) fifth[1] << 32, levels);
        }
}

ALWAYS_INLINE void values_of_q5_0(const struct requant_half *h, int row) {
        values_q5_01(h, row, (struct levels) {even_q5_0});
}

ALWAYS_INLINE void values_of_q5_1(const struct requant_half *h, int row) {
        values_q5_01(h, row, (struct levels) {even_32});
}

/* Too many codes for tables: each weight is computed, here as a × code / 2^15. */
ALWAYS_INLINE void values_of_q8_0(const struct requant_half *h, int row) {
        __m512i parameters = row_parameters(h, h->half, row);
        const uint8_t *q = h->rows[row];

        UNROLL for (int v = 0; v < 2; v++) {
                __m512i a = _mm512_shuffle_epi8(parameters, constant_at(v ? spread_last_a : spread_first_a));
                __m512i codes = _mm512_inserti64x4(_mm512_castsi256_si512(load256(q + h->sub[2 * v])),
                                                   load256(q + h->sub[2 * v + 1]), 1);
                __m512i even = _mm512_mulhrs_epi16(_mm512_slli_epi16(codes, 8), a);
                __m512i odd = _mm512_mulhrs_epi16(_mm512_and_si512(codes, constant_at(high_bytes)), a);

                _mm512_store_si512(h->to[v][row], high_bytes_of(_mm512_add_epi16(even, constant_at(half_words)),
                                                                _mm512_add_epi16(odd, constant_at(half_words))));
        }
}

/* And here as (a × code - b) / 256. */
ALWAYS_INLINE void values_of_q6_k(const struct requant_half *h, int row) {
        const struct block_q6_k *block = (const struct block_q6_k *) (h->rows[row] + h->at);

        UNROLL for (int v = 0; v < 2; v++) {
                __m512i q = half_q6_k(block->ql + 64 * h->half, block->qh + 32 * h->half, v);
                __m512i parameters = row_parameters(h, 2 * h->half + (uint32_t) v, row);
                __m512i a = _mm512_shuffle_epi8(parameters, constant_at(spread_a));
                __m512i b = _mm512_shuffle_epi8(parameters, constant_at(spread_b));
                __m512i even = _mm512_mullo_epi16(_mm512_and_si512(q, constant_at(low_bytes)), a);
                __m512i odd = _mm512_mullo_epi16(_mm512_srli_epi16(q, 8), a);

                _mm512_store_si512(h->to[v][row], high_bytes_of(_mm512_sub_epi16(even, b), _mm512_sub_epi16(odd, b)));
        }
}
