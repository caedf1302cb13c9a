/* SPDX-License-Identifier: MIT */
#pragma once

/* A vector of floats as wide as the instruction set that the including file is compiled for: AVX-512 or AVX2
 * with FMA and F16C. + - * / work on it as they are. */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* Loops over register arrays must vanish, also where the compiler would rather keep code small. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define ALWAYS_INLINE static inline __attribute__((always_inline))

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

/* 2^n for whole n from -126 to 127 */
ALWAYS_INLINE vf vf_exp2i(vf n) {
        return _mm512_castsi512_ps(
                _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
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

/* 2^n for whole n from -126 to 127 */
ALWAYS_INLINE vf vf_exp2i(vf n) {
        return _mm256_castsi256_ps(
                _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
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

#endif

/* Sum of the lanes, halves first. */
ALWAYS_INLINE float vf_sum(vf v) {
        __m256 a = vf_fold(v);
        __m128 m = _mm256_castps256_ps128(a) + _mm256_extractf128_ps(a, 1);

        m = m + _mm_movehl_ps(m, m);
        return _mm_cvtss_f32(_mm_add_ss(m, _mm_movehdup_ps(m)));
}

/* The sums of eight vectors' lanes, in the order of vf_sum() up to which halves are added first. */
ALWAYS_INLINE __m256 vf_sum8(const vf v[8]) {
        __m256 a = _mm256_hadd_ps(vf_fold(v[0]), vf_fold(v[1])),
               b = _mm256_hadd_ps(vf_fold(v[2]), vf_fold(v[3]));
        __m256 c = _mm256_hadd_ps(vf_fold(v[4]), vf_fold(v[5])),
               d = _mm256_hadd_ps(vf_fold(v[6]), vf_fold(v[7]));

        a = _mm256_hadd_ps(a, b);
        c = _mm256_hadd_ps(c, d);
        return _mm256_permute2f128_ps(a, c, 0x20) + _mm256_permute2f128_ps(a, c, 0x31);
}

/* e^x within 1 unit in the last place: x = n ln 2 + r, e^r by its Taylor series to r^7 (|r| ≤ 0.347: the rest
 * is below 6e-9), times 2^n. Below -87.3 it is 0; above 88.3 it stays at e^88.3. Not-a-number stays one. */
ALWAYS_INLINE vf vf_exp(vf x) {
        vf bounded = vf_min(vf_set(88.3f), vf_max(vf_set(-87.3f), x));
        vf n = vf_round(bounded * vf_set(1.44269504f));
        vf r = vf_fma(n, vf_set(-0x1.62ep-1f),
                      bounded); /* ln 2 in two parts; the first has 12 bits, so n × it is exact */
        vf p = vf_set(1.0f / 5040.0f);

        r = vf_fma(n, vf_set(-0x1.0bfbe8p-15f), r);
        p = vf_fma(p, r, vf_set(1.0f / 720.0f));
        p = vf_fma(p, r, vf_set(1.0f / 120.0f));
        p = vf_fma(p, r, vf_set(1.0f / 24.0f));
        p = vf_fma(p, r, vf_set(1.0f / 6.0f));
        p = vf_fma(p, r, vf_set(0.5f));
        p = vf_fma(p, r, vf_set(1.0f));
        p = vf_fma(p, r, vf_set(1.0f));
        return vf_zero_below(p * vf_exp2i(n), x, -87.3f);
}
