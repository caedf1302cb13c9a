/* SPDX-License-Identifier: MIT */
#pragma once

/* vf: a vector of floats as wide as the instruction set that the including file is compiled for, AVX-512 or
 * AVX2 with FMA and F16C; + - * / work on it as they are. vi: as many int32. */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "unroll.h"

#if defined(__AVX512F__)

#define SIMD_NAME(_name) _name##_avx512

enum { VF_LANES = 16 };

typedef __m512 vf;

ALWAYS_INLINE vf vf_zero(void) {
        return _mm512_setzero_ps();
}

ALWAYS_INLINE vf vf_set(float x) {
        return _mm512_set1_ps(x);
}

ALWAYS_INLINE vf vf_load(const void *p) {
        return _mm512_loadu_ps(p);
}

ALWAYS_INLINE void vf_store(float *p, vf v) {
        _mm512_storeu_ps(p, v);
}

ALWAYS_INLINE vf vf_load_f16(const void *p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}

ALWAYS_INLINE vf vf_load_bf16(const void *p) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}

/* a × b + c, rounded once */
ALWAYS_INLINE vf vf_fma(vf a, vf b, vf c) {
        return _mm512_fmadd_ps(a, b, c);
}

ALWAYS_INLINE vf vf_min(vf a, vf b) {
        return _mm512_min_ps(a, b);
}

ALWAYS_INLINE vf vf_max(vf a, vf b) {
        return _mm512_max_ps(a, b);
}

ALWAYS_INLINE vf vf_abs(vf a) {
        return _mm512_abs_ps(a);
}

ALWAYS_INLINE vf vf_round(vf a) {
        return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* 2^n for the whole n from -126 to 127 in the low bits of 1.5 × 2^23 + n */
ALWAYS_INLINE vf vf_exp2i(vf shifted) {
        __m512i bits = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);

        return _mm512_castsi512_ps(_mm512_add_epi32(bits, _mm512_set1_epi32(127 << 23)));
}

/* x where x ≥ bound, else 0 */
ALWAYS_INLINE vf vf_zero_below(vf v, vf x, float bound) {
        return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, vf_set(bound), _CMP_NLT_UQ), v);
}

ALWAYS_INLINE __m256 vf_fold(vf v) {
        return _mm512_castps512_ps256(v) + _mm512_extractf32x8_ps(v, 1);
}

ALWAYS_INLINE float vf_largest(vf v) {
        return _mm512_reduce_max_ps(v);
}

/* The first n values; the other lanes are `rest`. Whole vectors take the short way. */
ALWAYS_INLINE vf vf_load_part(const float *p, uint32_t n, vf rest) {
        if (n >= VF_LANES)
                return vf_load(p);
        return _mm512_mask_loadu_ps(rest, _cvtu32_mask16((1U << n) - 1), p);
}

ALWAYS_INLINE void vf_store_part(float *p, vf v, uint32_t n) {
        if (n >= VF_LANES)
                vf_store(p, v);
        else
                _mm512_mask_storeu_ps(p, _cvtu32_mask16((1U << n) - 1), v);
}

/* As half precision, rounded to nearest even. */
ALWAYS_INLINE void vf_store_f16(void *p, vf v) {
        _mm256_storeu_si256(p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

ALWAYS_INLINE vf vf_sqrt(vf a) {
        return _mm512_sqrt_ps(a);
}

/* v where x is finite, else `other` */
ALWAYS_INLINE vf vf_where_finite(vf x, vf v, vf other) {
        return _mm512_mask_mov_ps(other, _mm512_cmp_ps_mask(_mm512_abs_ps(x), vf_set(INFINITY), _CMP_LT_OQ),
                                  v);
}

/* Pairs of neighbouring lanes change places. */
ALWAYS_INLINE vf vf_swap_pairs(vf v) {
        return _mm512_permute_ps(v, 0xb1);
}

typedef __m512i vi;

ALWAYS_INLINE vi vi_set(int32_t x) {
        return _mm512_set1_epi32(x);
}

ALWAYS_INLINE vi vi_load(const int32_t *p) {
        return _mm512_loadu_si512(p);
}

ALWAYS_INLINE void vi_store(int32_t *p, vi v) {
        _mm512_storeu_si512(p, v);
}

ALWAYS_INLINE vi vi_max(vi a, vi b) {
        return _mm512_max_epi32(a, b);
}

ALWAYS_INLINE int32_t vi_largest(vi v) {
        return _mm512_reduce_max_epi32(v);
}

/* Bit i: lane i is x. */
ALWAYS_INLINE uint32_t vi_equal(vi v, int32_t x) {
        return _cvtmask16_u32(_mm512_cmpeq_epi32_mask(v, vi_set(x)));
}

/* Numbers that stand in the order of the floats, +0 and -0 being one: none is INT32_MIN. */
ALWAYS_INLINE vi vf_order(vf v) {
        __m512i bits = _mm512_castps_si512(v + vf_zero());

        return _mm512_xor_si512(bits, _mm512_srli_epi32(_mm512_srai_epi32(bits, 31), 1));
}

/* a, but b in the first lane where a is x */
ALWAYS_INLINE vf vf_replace_one(vf a, float x, vf b) {
        uint32_t equal = _cvtmask16_u32(_mm512_cmp_ps_mask(a, vf_set(x), _CMP_EQ_OQ));

        return _mm512_mask_mov_ps(a, _cvtu32_mask16(equal & -equal), b);
}

/* Whole numbers of at most 2^31 */
ALWAYS_INLINE vi vf_to_int(vf v) {
        return _mm512_cvtps_epi32(v);
}

/* `odd` where bit 0 of n is set, else `even` */
ALWAYS_INLINE vf vf_by_parity(vi n, vf odd, vf even) {
        return _mm512_mask_mov_ps(even, _mm512_test_epi32_mask(n, vi_set(1)), odd);
}

/* -v where bit 1 of n is set */
ALWAYS_INLINE vf vf_negate_by(vi n, vf v) {
        __m512i sign = _mm512_slli_epi32(_mm512_and_si512(n, vi_set(2)), 30);

        return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(v), sign));
}

/* Dword j of v[i] changes places with dword i of v[j]. */
ALWAYS_INLINE void transpose_dwords(__m512i v[16]) {
        __m512i a[16];

        UNROLL for (int i = 0; i < 16; i += 2) {
                a[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
                a[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
        }
        /* Quarters: v[i + k] gets dword k, 4 + k, … of the rows i to i + 3. */
        UNROLL for (int i = 0; i < 16; i += 4) {
                v[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
                v[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
                v[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
                v[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
        }
        UNROLL for (int i = 0; i < 4; i++) {
                a[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
                a[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
                a[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
                a[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
        }
        UNROLL for (int i = 0; i < 4; i++) {
                v[i] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88);
                v[i + 8] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd);
                v[i + 4] = _mm512_shuffle_i32x4(a[i + 4], a[i + 12], 0x88);
                v[i + 12] = _mm512_shuffle_i32x4(a[i + 4], a[i + 12], 0xdd);
        }
}

/* Lane j of v[i] changes places with lane i of v[j]. */
ALWAYS_INLINE void vf_transpose(vf v[VF_LANES]) {
        __m512i dwords[VF_LANES];

        UNROLL for (int i = 0; i < VF_LANES; i++) dwords[i] = _mm512_castps_si512(v[i]);
        transpose_dwords(dwords);
        UNROLL for (int i = 0; i < VF_LANES; i++) v[i] = _mm512_castsi512_ps(dwords[i]);
}

#else

#define SIMD_NAME(_name) _name##_avx2

enum { VF_LANES = 8 };

typedef __m256 vf;

ALWAYS_INLINE vf vf_zero(void) {
        return _mm256_setzero_ps();
}

ALWAYS_INLINE vf vf_set(float x) {
        return _mm256_set1_ps(x);
}

ALWAYS_INLINE vf vf_load(const void *p) {
        return _mm256_loadu_ps(p);
}

ALWAYS_INLINE void vf_store(float *p, vf v) {
        _mm256_storeu_ps(p, v);
}

ALWAYS_INLINE vf vf_load_f16(const void *p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(p));
}

ALWAYS_INLINE vf vf_load_bf16(const void *p) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}

/* a × b + c, rounded once */
ALWAYS_INLINE vf vf_fma(vf a, vf b, vf c) {
        return _mm256_fmadd_ps(a, b, c);
}

ALWAYS_INLINE vf vf_min(vf a, vf b) {
        return _mm256_min_ps(a, b);
}

ALWAYS_INLINE vf vf_max(vf a, vf b) {
        return _mm256_max_ps(a, b);
}

ALWAYS_INLINE vf vf_abs(vf a) {
        return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}

ALWAYS_INLINE vf vf_round(vf a) {
        return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* 2^n for the whole n from -126 to 127 in the low bits of 1.5 × 2^23 + n */
ALWAYS_INLINE vf vf_exp2i(vf shifted) {
        __m256i bits = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);

        return _mm256_castsi256_ps(_mm256_add_epi32(bits, _mm256_set1_epi32(127 << 23)));
}

/* x where x ≥ bound, else 0 */
ALWAYS_INLINE vf vf_zero_below(vf v, vf x, float bound) {
        return _mm256_and_ps(_mm256_cmp_ps(x, vf_set(bound), _CMP_NLT_UQ), v);
}

ALWAYS_INLINE __m256 vf_fold(vf v) {
        return v;
}

ALWAYS_INLINE float vf_largest(vf v) {
        __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

        m = _mm_max_ps(m, _mm_movehl_ps(m, m));
        return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

ALWAYS_INLINE __m256i part_mask(uint32_t n) {
        return _mm256_cmpgt_epi32(_mm256_set1_epi32((int) n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* The first n values; the other lanes are `rest`. Whole vectors take the short way. */
ALWAYS_INLINE vf vf_load_part(const float *p, uint32_t n, vf rest) {
        __m256i mask = part_mask(n);

        if (n >= VF_LANES)
                return vf_load(p);
        return _mm256_blendv_ps(rest, _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask));
}

ALWAYS_INLINE void vf_store_part(float *p, vf v, uint32_t n) {
        if (n >= VF_LANES)
                vf_store(p, v);
        else
                _mm256_maskstore_ps(p, part_mask(n), v);
}

/* As half precision, rounded to nearest even. */
ALWAYS_INLINE void vf_store_f16(void *p, vf v) {
        _mm_storeu_si128(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

ALWAYS_INLINE vf vf_sqrt(vf a) {
        return _mm256_sqrt_ps(a);
}

/* v where x is finite, else `other` */
ALWAYS_INLINE vf vf_where_finite(vf x, vf v, vf other) {
        return _mm256_blendv_ps(other, v, _mm256_cmp_ps(vf_abs(x), vf_set(INFINITY), _CMP_LT_OQ));
}

/* Pairs of neighbouring lanes change places. */
ALWAYS_INLINE vf vf_swap_pairs(vf v) {
        return _mm256_permute_ps(v, 0xb1);
}

typedef __m256i vi;

ALWAYS_INLINE vi vi_set(int32_t x) {
        return _mm256_set1_epi32(x);
}

ALWAYS_INLINE vi vi_load(const int32_t *p) {
        return _mm256_loadu_si256((const __m256i *) p);
}

ALWAYS_INLINE void vi_store(int32_t *p, vi v) {
        _mm256_storeu_si256((__m256i *) p, v);
}

ALWAYS_INLINE vi vi_max(vi a, vi b) {
        return _mm256_max_epi32(a, b);
}

ALWAYS_INLINE int32_t vi_largest(vi v) {
        __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));

        m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
        return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
}

/* Bit i: lane i is x. */
ALWAYS_INLINE uint32_t vi_equal(vi v, int32_t x) {
        return (uint32_t) _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(v, vi_set(x))));
}

/* Numbers that stand in the order of the floats, +0 and -0 being one: none is INT32_MIN. */
ALWAYS_INLINE vi vf_order(vf v) {
        __m256i bits = _mm256_castps_si256(v + vf_zero());

        return _mm256_xor_si256(bits, _mm256_srli_epi32(_mm256_srai_epi32(bits, 31), 1));
}

/* a, but b in the first lane where a is x */
ALWAYS_INLINE vf vf_replace_one(vf a, float x, vf b) {
        int equal = _mm256_movemask_ps(_mm256_cmp_ps(a, vf_set(x), _CMP_EQ_OQ));
        __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);

        return _mm256_blendv_ps(
                a, b, _mm256_castsi256_ps(_mm256_cmpeq_epi32(bits, _mm256_set1_epi32(equal & -equal))));
}

/* Whole numbers of at most 2^31 */
ALWAYS_INLINE vi vf_to_int(vf v) {
        return _mm256_cvtps_epi32(v);
}

/* `odd` where bit 0 of n is set, else `even` */
ALWAYS_INLINE vf vf_by_parity(vi n, vf odd, vf even) {
        return _mm256_blendv_ps(even, odd, _mm256_castsi256_ps(_mm256_slli_epi32(n, 31)));
}

/* -v where bit 1 of n is set */
ALWAYS_INLINE vf vf_negate_by(vi n, vf v) {
        __m256i sign = _mm256_slli_epi32(_mm256_and_si256(n, vi_set(2)), 30);

        return _mm256_castsi256_ps(_mm256_xor_si256(_mm256_castps_si256(v), sign));
}

/* Lane j of v[i] changes places with lane i of v[j]. */
ALWAYS_INLINE void vf_transpose(vf v[VF_LANES]) {
        __m256 a[VF_LANES];

        /* Each half has the fours of four rows: those from the first lane on, and from the fifth. */
        UNROLL for (int i = 0; i < 4; i++) {
                a[i] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x20);
                a[i + 4] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x31);
        }
        UNROLL for (int i = 0; i < VF_LANES; i += 4) {
                __m256 low[2] = {_mm256_unpacklo_ps(a[i], a[i + 1]), _mm256_unpacklo_ps(a[i + 2], a[i + 3])};
                __m256 high[2] = {_mm256_unpackhi_ps(a[i], a[i + 1]), _mm256_unpackhi_ps(a[i + 2], a[i + 3])};

                v[i] = _mm256_shuffle_ps(low[0], low[1], 0x44);
                v[i + 1] = _mm256_shuffle_ps(low[0], low[1], 0xee);
                v[i + 2] = _mm256_shuffle_ps(high[0], high[1], 0x44);
                v[i + 3] = _mm256_shuffle_ps(high[0], high[1], 0xee);
        }
}

#endif

/* The last lanes of a row, `bytes` of what `load` loads: the others are zero. */
ALWAYS_INLINE vf vf_load_rest(vf (*load)(const void *), const uint8_t *p, size_t bytes) {
        uint8_t padded[VF_LANES * sizeof(float)] = {0};

        memcpy(padded, p, bytes);
        return load(padded);
}

/* Calls _part(…, i, n) for the n ≤ VF_LANES values from each i on; n is a constant where it is VF_LANES. */
#define VF_PARTS(_count, _part, ...)                                                                         \
        do {                                                                                                 \
                uint32_t _i = 0, _n = (_count);                                                              \
                                                                                                             \
                for (; _i + VF_LANES <= _n; _i += VF_LANES)                                                  \
                        _part(__VA_ARGS__, _i, VF_LANES);                                                    \
                if (_i < _n)                                                                                 \
                        _part(__VA_ARGS__, _i, _n - _i);                                                     \
        } while (0)

/* Sum of the lanes, halves first. */
ALWAYS_INLINE float vf_sum(vf v) {
        __m256 a = vf_fold(v);
        __m128 m = _mm256_castps256_ps128(a) + _mm256_extractf128_ps(a, 1);

        m = m + _mm_movehl_ps(m, m);
        return _mm_cvtss_f32(_mm_add_ss(m, _mm_movehdup_ps(m)));
}

/* e^x within 1 unit in the last place: x = n ln 2 + r, e^r by a polynomial (|r| ≤ 0.3475: off by 4e-9), times
 * 2^n. Below -87.3 it is 0; above 88.3 it stays at e^88.3. Not-a-number stays one. */
ALWAYS_INLINE vf vf_exp(vf x) {
        vf bounded = vf_min(vf_set(88.3f), vf_max(vf_set(-87.3f), x));
        /* Adding 1.5 × 2^23 rounds to a whole number, and leaves it in the low bits. */
        vf shifted = vf_fma(bounded, vf_set(1.44269504f), vf_set(0x1.8p23f)), n = shifted - vf_set(0x1.8p23f);
        vf r = vf_fma(n, vf_set(-0x1.62ep-1f),
                      bounded); /* ln 2 in two parts; the first has 12 bits, so n × it is exact */
        vf p = vf_set(1.3933992e-3f);

        r = vf_fma(n, vf_set(-0x1.0bfbe8p-15f), r);
        p = vf_fma(p, r, vf_set(8.3694302e-3f));
        p = vf_fma(p, r, vf_set(4.1666476e-2f));
        p = vf_fma(p, r, vf_set(1.6666514e-1f));
        p = vf_fma(p, r, vf_set(0.5f));
        p = vf_fma(p, r, vf_set(1.0f));
        p = vf_fma(p, r, vf_set(1.0f));
        return vf_zero_below(p * vf_exp2i(shifted), x, -87.3f);
}
