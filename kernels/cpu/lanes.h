/* SPDX-License-Identifier: MIT */
#pragma once

/* 256 columns of sixteen weight rows, unpacked side by side by AVX2: lane r of half h belongs to row 8 h + r. */

#include "base/util.h"
#include "block.h"
#include "quant-part.h"
#include "simd.h"
#include "variant.h"

enum {
        LANES = 8,
        HALVES = 2,
        LANE_ROWS = HALVES * LANES,
        LANE_COLS = 256,
        LANE_PARTS = LANE_COLS / 32,
        LANE_FEW = 4, /* activation rows that are multiplied while weights are unpacked, at most */
};

/* A part is 32 columns. Value = d × scale × q - dmin × min, or d × q + m. */
struct lanes {
        _Alignas(64) __m256i q[LANE_COLS / 4][HALVES]; /* four neighbouring columns in each lane */
        __m256i scales[16][HALVES];       /* a word twice in each lane; of each part, or of each half of one */
        __m256i mins[8][HALVES];          /* those of two neighbouring parts or halves in each lane, as words */
        __m256 d[LANE_PARTS][HALVES], m[LANE_PARTS][HALVES]; /* of each part, or d[0] and dmin in m[0] */
        __m256i high[8];                  /* bits that the values of eight rows lack still */
};

struct lanes_half;

/* Of what is multiplied. Constant: functions that take one are inlined for it. (Small: it is passed in a register, and
 * clang sees through that.) */
struct products {
        uint16_t cols; /* of a block: 32 or 256 */
        uint8_t scale; /* columns that share a scale: 32, or 16 */
        /* Sums of so many products of two columns are words. 0: values have a sign; their products, with another sign,
         * are words one by one. */
        uint8_t together;
        uint8_t at_once; /* activation rows that values are multiplied with as they come; 0: values are kept */
};

/* Constant, too. */
struct format {
        struct products p;
        uint32_t bytes; /* of a block */
        uint32_t piece; /* columns that are unpacked together */
        int zero;       /* of blocks of 32: what has been added to the values */
        bool m;         /* of these: value = d × q + m */
        enum { NO_MINS, WHOLE_MINS, OWN_MINS } mins; /* of blocks of 256: with the scales' d, or one of their own */
        int rest; /* lines of half of the rows' bytes that loads of sixteen bytes do not fetch, in 256 columns */
        void (*head)(struct lanes_half *h, struct products p); /* what a block has but for values, or NULL */
        /* Those of a piece, whose block is from `at` in the rows on. */
        void (*values)(struct lanes_half *h, int piece, size_t at, struct products p);
};

/* (clang wants to see a number as the loop's end.) */
#define EACH_OF_FEW(_n, _p) UNROLL for (int _n = 0; _n < LANE_FEW; _n++) if (_n < (_p).at_once)

/* Eight rows from a block on, and what becomes of them. */
struct lanes_half {
        struct lanes *to;
        int half;
        const uint8_t *row, *fourth; /* row_bytes between them */
        size_t row_bytes;
        const char *ahead; /* what is read later, to be fetched meanwhile: */
        size_t apart;      /* and so far from it, where values are not kept */
        const __m256i *scales; /* of the piece */
        __m256i *q;            /* where its values are kept, or else: */
        const uint8_t *x[LANE_FEW]; /* activation rows from the piece on */
        __m256i dot[LANE_FEW];      /* sums of products */
        __m256i some[LANE_COLS / 2 / 16][LANE_FEW]; /* of a piece: those that are words still, for each scale */
};

ALWAYS_INLINE __m128i load128(const void *p) {
        return _mm_loadu_si128(p);
}

ALWAYS_INLINE __m256i load256(const void *p) {
        return _mm256_loadu_si256(p);
}

ALWAYS_INLINE __m256i bytes(int x) {
        return _mm256_set1_epi8((char) x);
}

ALWAYS_INLINE __m256i some_bits(__m256i v, int mask) {
        return _mm256_and_si256(v, bytes(mask));
}

/* Some bits of each byte of v, and some of w. */
ALWAYS_INLINE __m256i with_bits(__m256i v, int v_mask, __m256i w, int w_mask) {
        return _mm256_or_si256(some_bits(v, v_mask), some_bits(w, w_mask));
}

ALWAYS_INLINE __m256i both(__m128i v) {
        return _mm256_broadcastsi128_si256(v);
}

ALWAYS_INLINE const uint8_t *row_at(const struct lanes_half *h, int row, size_t at) {
        return (row < 4 ? h->row : h->fourth) + (size_t) (row % 4) * h->row_bytes + at;
}

ALWAYS_INLINE void fetch_lines(const char *at, int n) {
        UNROLL for (int i = 0; i < n; i++) _mm_prefetch(at + 64 * i, _MM_HINT_T1);
}

/* Sixteen bytes from `at` of each row: dword i of all of them in v[i]. Fetches as many, or half of them where there is
 * time for the others later: a few at a time, for while more are on the way than the processor can keep track of,
 * nothing is computed; and in two places, for either of which the hardware looks ahead. */
ALWAYS_INLINE void load_rows(__m256i v[4], struct lanes_half *h, size_t at, struct products p) {
        __m256i rows[4], a, b, c, d;

        fetch_lines(h->ahead, 1);
        if (p.at_once)
                fetch_lines(h->ahead + h->apart, 1);
        h->ahead += 64;
        UNROLL for (int r = 0; r < 4; r++) rows[r] = _mm256_inserti128_si256(
                _mm256_castsi128_si256(load128(row_at(h, r, at))), load128(row_at(h, r + 4, at)), 1);
        a = _mm256_unpacklo_epi32(rows[0], rows[1]);
        b = _mm256_unpacklo_epi32(rows[2], rows[3]);
        c = _mm256_unpackhi_epi32(rows[0], rows[1]);
        d = _mm256_unpackhi_epi32(rows[2], rows[3]);
        v[0] = _mm256_unpacklo_epi64(a, b);
        v[1] = _mm256_unpackhi_epi64(a, b);
        v[2] = _mm256_unpacklo_epi64(c, d);
        v[3] = _mm256_unpackhi_epi64(c, d);
}

ALWAYS_INLINE short word_at(const struct lanes_half *h, int row, size_t at) {
        short word;

        memcpy(&word, row_at(h, row, at), sizeof(word));
        return word;
}

ALWAYS_INLINE int dword_at(const struct lanes_half *h, int row, size_t at) {
        int dword;

        memcpy(&dword, row_at(h, row, at), sizeof(dword));
        return dword;
}

/* The half-precision number at `at` of each row. */
ALWAYS_INLINE __m256 load_halves(const struct lanes_half *h, size_t at) {
        __m128i words = _mm_setr_epi16(word_at(h, 0, at), word_at(h, 1, at), word_at(h, 2, at), word_at(h, 3, at),
                                       word_at(h, 4, at), word_at(h, 5, at), word_at(h, 6, at), word_at(h, 7, at));

        return _mm256_cvtph_ps(words);
}

ALWAYS_INLINE __m256i load_dwords(const struct lanes_half *h, size_t at) {
        return _mm256_setr_epi32(dword_at(h, 0, at), dword_at(h, 1, at), dword_at(h, 2, at), dword_at(h, 3, at),
                                 dword_at(h, 4, at), dword_at(h, 5, at), dword_at(h, 6, at), dword_at(h, 7, at));
}

/* Keeps the compiler from making a tree of sums that are added up one after the other: it has no registers for that. */
ALWAYS_INLINE __m256i in_order(__m256i sum) {
        __asm__("" : "+x"(sum));
        return sum;
}

ALWAYS_INLINE __m256i four_at(const void *q, int four) {
        int32_t v;

        memcpy(&v, (const char *) q + 4 * four, sizeof(v));
        return _mm256_set1_epi32(v);
}

/* Four columns' products with those of an activation row; they are number i of the fours that share a scale. */
ALWAYS_INLINE void add_products(__m256i *dot, __m256i *some, __m256i q, __m256i y, int i, __m256i scale,
                                struct products p) {
        const int together = MIN(MAX(p.together, 1), (int) p.scale / 4);
        __m256i words = p.together ? _mm256_maddubs_epi16(q, y)
                                   : _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(y, q));

        *some = i % together == 0 ? words : in_order(_mm256_add_epi16(*some, words));
        if (i % together == together - 1)
                *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(*some, scale));
}

/* Scale i from `scales` on: of blocks of 32 there is none. */
ALWAYS_INLINE __m256i scale_at(const __m256i *scales, int i, struct products p) {
        return p.cols == 32 ? _mm256_set1_epi16(1) : scales[i * HALVES];
}

/* A four of the piece. Those that share a scale come in their order. */
ALWAYS_INLINE void put(struct lanes_half *h, int four, __m256i q, struct products p) {
        const int fours = (int) p.scale / 4;

        if (p.at_once == 0)
                h->q[four * HALVES] = q;
        EACH_OF_FEW(n, p)
                add_products(&h->dot[n], &h->some[four / fours][n], q, four_at(h->x[n], four), four % fours,
                             scale_at(h->scales, four / fours, p), p);
}

/* --- blocks of 32, which are pieces ------------------------------------------------------------------------------- */

ALWAYS_INLINE void put_d(struct lanes_half *h, int piece, size_t at) {
        h->to->d[piece][h->half] = load_halves(h, at);
}

ALWAYS_INLINE void put_m(struct lanes_half *h, int piece, size_t at) {
        h->to->m[piece][h->half] = load_halves(h, at);
}

ALWAYS_INLINE __m256i same(__m256i codes) {
        return codes;
}

/* quant_levels_iq4 by code */
ALWAYS_INLINE __m256i levels_iq4(__m256i codes) {
        return _mm256_shuffle_epi8(both(load128(quant_levels_iq4)), codes);
}

/* quant_levels_fp4 by code, plus 12 */
ALWAYS_INLINE __m256i levels_fp4(__m256i codes) {
        const __m128i levels = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);

        return _mm256_shuffle_epi8(both(levels), codes);
}

/* Of sixteen bytes the low nibbles, then the high ones. */
ALWAYS_INLINE __m256i nibbles(const __m256i v[4], int i) {
        return some_bits(i < 4 ? v[i] : _mm256_srli_epi16(v[i - 4], 4), 15);
}

ALWAYS_INLINE void put_nibbles(struct lanes_half *h, size_t at, __m256i (*level)(__m256i codes), struct products p) {
        __m256i v[4];

        load_rows(v, h, at, p);
        UNROLL for (int i = 0; i < 8; i++) put(h, i, level(nibbles(v, i)), p);
}

/* In each lane a shuffle's index of its byte i. */
ALWAYS_INLINE __m256i byte_of_lane(int i) {
        return both(_mm_setr_epi32(0x01010101 * i, 0x01010101 * (4 + i), 0x01010101 * (8 + i), 0x01010101 * (12 + i)));
}

/* Bits 4 i to 4 i + 3 of each lane as the fifth bits of its bytes. `high` has the odd fours in the high halves of its
 * bytes, `shifted` the even ones. */
ALWAYS_INLINE __m256i fifth_bits(__m256i high, __m256i shifted, int i) {
        __m256i spread = _mm256_shuffle_epi8(i % 2 ? high : shifted, byte_of_lane(i / 2));

        return _mm256_min_epu8(_mm256_and_si256(spread, _mm256_set1_epi32((int) 0x80402010)), bytes(16));
}

/* The same with fifth bits, bit j of a dword that of value j. */
ALWAYS_INLINE void put_five_bits(struct lanes_half *h, size_t at, size_t high_at, struct products p) {
        __m256i v[4], high = load_dwords(h, high_at), shifted = _mm256_slli_epi16(high, 4);

        load_rows(v, h, at, p);
        UNROLL for (int i = 0; i < 8; i++)
                put(h, i, _mm256_or_si256(nibbles(v, i), fifth_bits(high, shifted, i)), p);
}

ALWAYS_INLINE void values_q8_0(struct lanes_half *h, int piece, size_t at, struct products p) {
        put_d(h, piece, at);
        UNROLL for (int i = 0; i < 2; i++) {
                __m256i v[4];

                load_rows(v, h, at + offsetof(struct block_q8_0, q) + 16 * (size_t) i, p);
                UNROLL for (int k = 0; k < 4; k++) put(h, 4 * i + k, v[k], p);
        }
}

ALWAYS_INLINE void values_q4_0(struct lanes_half *h, int piece, size_t at, struct products p) {
        put_d(h, piece, at);
        put_nibbles(h, at + offsetof(struct block_q4_0, q), same, p);
}

ALWAYS_INLINE void values_q4_1(struct lanes_half *h, int piece, size_t at, struct products p) {
        put_d(h, piece, at);
        put_m(h, piece, at + offsetof(struct block_q4_1, m));
        put_nibbles(h, at + offsetof(struct block_q4_1, q), same, p);
}

ALWAYS_INLINE void values_q5_0(struct lanes_half *h, int piece, size_t at, struct products p) {
        put_d(h, piece, at);
        put_five_bits(h, at + offsetof(struct block_q5_0, q), at + offsetof(struct block_q5_0, qh), p);
}

ALWAYS_INLINE void values_q5_1(struct lanes_half *h, int piece, size_t at, struct products p) {
        put_d(h, piece, at);
        put_m(h, piece, at + offsetof(struct block_q5_1, m));
        put_five_bits(h, at + offsetof(struct block_q5_1, q), at + offsetof(struct block_q5_1, qh), p);
}

ALWAYS_INLINE void values_iq4_nl(struct lanes_half *h, int piece, size_t at, struct products p) {
        put_d(h, piece, at);
        put_nibbles(h, at + offsetof(struct block_iq4_nl, q), levels_iq4, p);
}

/* The scale is quant-part.h's half_e8m0(). */
ALWAYS_INLINE void values_mxfp4(struct lanes_half *h, int piece, size_t at, struct products p) {
        __m256i e = _mm256_and_si256(load_dwords(h, at), _mm256_set1_epi32(255));
        __m256i bits = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
        __m256i small = _mm256_sllv_epi32(_mm256_set1_epi32(0x200000), e);

        bits = _mm256_blendv_epi8(bits, small, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e));
        h->to->d[piece][h->half] = _mm256_castsi256_ps(bits);
        put_nibbles(h, at + offsetof(struct block_mxfp4, q), levels_fp4, p);
}

/* --- blocks of 256 ------------------------------------------------------------------------------------------------ */

/* A byte of each lane as a word, twice. */
ALWAYS_INLINE __m256i word_of_byte(__m256i v, int i) {
        const __m256i odd = _mm256_set1_epi16((short) 0x8000);

        return _mm256_shuffle_epi8(v, _mm256_or_si256(byte_of_lane(i), odd));
}

/* Bytes i and i + 1 as words. */
ALWAYS_INLINE __m256i words_of_bytes(__m256i v, int i) {
        const int two = (int) 0x80008000 | (i + 1) << 16 | i;

        return _mm256_shuffle_epi8(v, both(_mm_setr_epi32(two, two + 0x00040004, two + 0x00080008, two + 0x000c000c)));
}

/* Sixteen scales that have a sign, and mins of 2^shift scales. */
ALWAYS_INLINE void put_signed_scales(struct lanes_half *h, const __m256i scales[4], int shift) {
        UNROLL for (int j = 0; j < 16; j++) {
                __m256i high = _mm256_slli_epi16(word_of_byte(scales[j / 4], j % 4), 8);

                h->to->scales[j][h->half] = _mm256_srai_epi16(high, 8);
        }
        UNROLL for (int j = 0; j < 8; j++) {
                __m256i high = _mm256_slli_epi16(words_of_bytes(scales[j / 2], j % 2 * 2), 8);

                h->to->mins[j][h->half] = _mm256_srai_epi16(high, 8 - shift);
        }
}

/* The half-precision numbers in the low and in the high half of each lane. */
ALWAYS_INLINE void put_d_dmin(struct lanes_half *h, __m256i v) {
        __m256i low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff)), high = _mm256_srli_epi32(v, 16);
        __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);

        h->to->d[0][h->half] = _mm256_cvtph_ps(_mm256_castsi256_si128(words));
        h->to->m[0][h->half] = _mm256_cvtph_ps(_mm256_extracti128_si256(words, 1));
}

/* 32 bytes of bits that come on top. */
ALWAYS_INLINE void put_high(struct lanes_half *h, size_t at, struct products p) {
        load_rows(h->to->high, h, at, p);
        load_rows(h->to->high + 4, h, at + 16, p);
}

/* Packed as block.h's q4_k_scale_min() says. */
ALWAYS_INLINE void head_q4_k(struct lanes_half *h, struct products p) {
        __m256i v[4], scales[2], mins[2];

        load_rows(v, h, 0, p);
        put_d_dmin(h, v[0]);
        scales[0] = some_bits(v[1], 0x3f);
        scales[1] = with_bits(v[3], 0x0f, _mm256_srli_epi32(v[1], 2), 0x30);
        mins[0] = some_bits(v[2], 0x3f);
        mins[1] = with_bits(_mm256_srli_epi32(v[3], 4), 0x0f, _mm256_srli_epi32(v[2], 2), 0x30);
        UNROLL for (int j = 0; j < 8; j++) h->to->scales[j][h->half] = word_of_byte(scales[j / 4], j % 4);
        UNROLL for (int j = 0; j < 4; j++) h->to->mins[j][h->half] = words_of_bytes(mins[j / 2], j % 2 * 2);
}

/* 64 columns: the low nibbles are the first 32. */
ALWAYS_INLINE void values_q4_k(struct lanes_half *h, int piece, size_t at, struct products p) {
        UNROLL for (int i = 0; i < 2; i++) {
                __m256i v[4];

                load_rows(v, h, at + offsetof(struct block_q4_k, q) + 32 * (size_t) piece + 16 * (size_t) i, p);
                UNROLL for (int k = 0; k < 4; k++) {
                        put(h, 4 * i + k, some_bits(v[k], 15), p);
                        put(h, 4 * i + k + 8, some_bits(_mm256_srli_epi16(v[k], 4), 15), p);
                }
        }
}

ALWAYS_INLINE void head_q5_k(struct lanes_half *h, struct products p) {
        head_q4_k(h, p);
        put_high(h, offsetof(struct block_q5_k, qh), p);
}

ALWAYS_INLINE void values_q5_k(struct lanes_half *h, int piece, size_t at, struct products p) {
        UNROLL for (int i = 0; i < 2; i++) {
                __m256i v[4];

                load_rows(v, h, at + offsetof(struct block_q5_k, q) + 32 * (size_t) piece + 16 * (size_t) i, p);
                UNROLL for (int k = 0; k < 4; k++) {
                        __m256i high = _mm256_srl_epi16(h->to->high[4 * i + k], _mm_cvtsi32_si128(2 * piece));

                        put(h, 4 * i + k, with_bits(v[k], 15, _mm256_slli_epi16(high, 4), 16), p);
                        put(h, 4 * i + k + 8,
                            with_bits(_mm256_srli_epi16(v[k], 4), 15, _mm256_slli_epi16(high, 3), 16), p);
                }
        }
}

/* With mins of 32 scales values from 0 to 63 are what they are. */
ALWAYS_INLINE void head_q6_k(struct lanes_half *h, struct products p) {
        __m256i scales[4];

        load_rows(scales, h, offsetof(struct block_q6_k, scales), p);
        put_signed_scales(h, scales, 5);
        h->to->d[0][h->half] = load_halves(h, offsetof(struct block_q6_k, d));
}

/* 128 columns (block.h: q6_k_unpack). */
ALWAYS_INLINE void values_q6_k(struct lanes_half *h, int piece, size_t at, struct products p) {
        const size_t low_at = at + offsetof(struct block_q6_k, ql) + 64 * (size_t) piece;
        const size_t high_at = at + offsetof(struct block_q6_k, qh) + 32 * (size_t) piece;

        UNROLL for (int i = 0; i < 2; i++) {
                __m256i low[2][4], high[4];

                load_rows(low[0], h, low_at + 16 * (size_t) i, p);
                load_rows(low[1], h, low_at + 32 + 16 * (size_t) i, p);
                load_rows(high, h, high_at + 16 * (size_t) i, p);
                UNROLL for (int k = 0; k < 4; k++) {
                        const __m256i top[4] = {_mm256_slli_epi16(high[k], 4), _mm256_slli_epi16(high[k], 2), high[k],
                                                _mm256_srli_epi16(high[k], 2)};

                        UNROLL for (int j = 0; j < 4; j++) {
                                __m256i l = j < 2 ? low[j][k] : _mm256_srli_epi16(low[j - 2][k], 4);

                                put(h, 8 * j + 4 * i + k, with_bits(l, 0x0f, top[j], 0x30), p);
                        }
                }
        }
}

ALWAYS_INLINE void head_iq4_xs(struct lanes_half *h, struct products p) {
        __m256i v[4];

        load_rows(v, h, 0, p);
        put_d_dmin(h, v[0]); /* there is no dmin */
        UNROLL for (int j = 0; j < 8; j++) {
                __m256i low = _mm256_and_si256(_mm256_srli_epi32(v[1], 4 * j), _mm256_set1_epi32(15));
                __m256i high = _mm256_and_si256(_mm256_srli_epi32(v[0], 16 + 2 * j), _mm256_set1_epi32(3));
                __m256i scale = _mm256_or_si256(low, _mm256_slli_epi32(high, 4));

                scale = _mm256_sub_epi32(scale, _mm256_set1_epi32(32));
                h->to->scales[j][h->half] = _mm256_blend_epi16(scale, _mm256_slli_epi32(scale, 16), 0xaa);
        }
}

ALWAYS_INLINE void values_iq4_xs(struct lanes_half *h, int piece, size_t at, struct products p) {
        put_nibbles(h, at + offsetof(struct block_iq4_xs, q) + 16 * (size_t) piece, levels_iq4, p);
}

ALWAYS_INLINE void head_q2_k(struct lanes_half *h, struct products p) {
        __m256i v[4];

        load_rows(v, h, 0, p);
        UNROLL for (int j = 0; j < 16; j++) h->to->scales[j][h->half] = word_of_byte(some_bits(v[j / 4], 15), j % 4);
        UNROLL for (int j = 0; j < 8; j++) h->to->mins[j][h->half] =
                words_of_bytes(some_bits(_mm256_srli_epi16(v[j / 2], 4), 15), j % 2 * 2);
        put_d_dmin(h, load_dwords(h, offsetof(struct block_q2_k, d)));
}

/* 128 columns in 32 bytes: the lowest two bits are the first 32. `high` bits from `bit` on come on top, one a part. */
ALWAYS_INLINE void put_two_bits(struct lanes_half *h, size_t at, bool high, int bit, struct products p) {
        UNROLL for (int i = 0; i < 2; i++) {
                __m256i v[4];

                load_rows(v, h, at + 16 * (size_t) i, p);
                UNROLL for (int k = 0; k < 4; k++) UNROLL for (int j = 0; j < 4; j++) {
                        __m256i two = _mm256_srli_epi16(v[k], 2 * j);
                        __m256i top = _mm256_srl_epi16(h->to->high[4 * i + k], _mm_cvtsi32_si128(bit + j));

                        put(h, 8 * j + 4 * i + k,
                            high ? with_bits(two, 3, _mm256_slli_epi16(top, 2), 4) : some_bits(two, 3), p);
                }
        }
}

ALWAYS_INLINE void values_q2_k(struct lanes_half *h, int piece, size_t at, struct products p) {
        put_two_bits(h, at + offsetof(struct block_q2_k, q) + 32 * (size_t) piece, false, 0, p);
}

/* With mins of 4 scales values from 0 to 7 are what they are. Scales are packed as quant-k.c's q3_k_scale() says. */
ALWAYS_INLINE void head_q3_k(struct lanes_half *h, struct products p) {
        const size_t at = offsetof(struct block_q3_k, scales);
        __m256i low[2] = {load_dwords(h, at), load_dwords(h, at + 4)}, high = load_dwords(h, at + 8);
        __m256i scales[4];

        UNROLL for (int i = 0; i < 4; i++) {
                __m256i four = some_bits(_mm256_srli_epi16(low[i % 2], i / 2 * 4), 15);
                __m256i two = some_bits(_mm256_srli_epi16(high, 2 * i), 3);

                scales[i] = _mm256_sub_epi8(_mm256_or_si256(four, _mm256_slli_epi16(two, 4)), bytes(32));
        }
        put_signed_scales(h, scales, 2);
        h->to->d[0][h->half] = load_halves(h, offsetof(struct block_q3_k, d));
        put_high(h, offsetof(struct block_q3_k, qh), p);
}

ALWAYS_INLINE void values_q3_k(struct lanes_half *h, int piece, size_t at, struct products p) {
        put_two_bits(h, at + offsetof(struct block_q3_k, q) + 32 * (size_t) piece, true, 4 * piece, p);
}
