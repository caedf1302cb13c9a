/* SPDX-License-Identifier: MIT */
/* Compiled once per instruction set (simd.h): the very values of quant_info()->dequantize(), only that a
 * signalling not-a-number of half precision becomes a quiet one. Where a scaled value is added to an offset
 * the product is exact (11 bits of scale, at most 6 of the sub-block's, 5 of the value), so that it does not
 * matter whether it is rounded in between. */

#include "block.h"
#include "quant-part.h"
#include "simd.h"
#include "tile.h"

ALWAYS_INLINE __m256i load256(const void *p) {
        return _mm256_loadu_si256(p);
}

ALWAYS_INLINE float half(uint16_t h) {
        return _cvtsh_ss(h);
}

/* The eight or sixteen signed bytes from byte `at` on, a multiple of VF_LANES. */
ALWAYS_INLINE vf vf_from_bytes(__m128i q, int at) {
#if defined(__AVX512F__)
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q));
#else
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(at ? _mm_srli_si128(q, 8) : q));
#endif
}

/* 16 values: q × a */
ALWAYS_INLINE void put16(float *dst, __m128i q, float a) {
        UNROLL for (int i = 0; i < 16; i += VF_LANES) vf_store(dst + i, vf_from_bytes(q, i) * vf_set(a));
}

/* 16 values: q × a + c */
ALWAYS_INLINE void put16_plus(float *dst, __m128i q, float a, float c) {
        UNROLL for (int i = 0; i < 16; i += VF_LANES)
                vf_store(dst + i, vf_fma(vf_from_bytes(q, i), vf_set(a), vf_set(c)));
}

ALWAYS_INLINE void put32(float *dst, __m256i q, float a) {
        put16(dst, _mm256_castsi256_si128(q), a);
        put16(dst + 16, _mm256_extracti128_si256(q, 1), a);
}

ALWAYS_INLINE void put32_plus(float *dst, __m256i q, float a, float c) {
        put16_plus(dst, _mm256_castsi256_si128(q), a, c);
        put16_plus(dst + 16, _mm256_extracti128_si256(q, 1), a, c);
}

/* 16 scales, times d. */
ALWAYS_INLINE void scale16(float scales[16], __m128i s, float d) {
        put16(scales, s, d);
}

/* Each byte shifted right by up to 7 and cut to the bits of `mask`. */
ALWAYS_INLINE __m256i bits_of(__m256i q, int shift, char mask) {
        return _mm256_and_si256(_mm256_srli_epi16(q, shift), _mm256_set1_epi8(mask));
}

/* 16 bytes hold 32 values: the low nibbles, then the high ones. */
ALWAYS_INLINE __m256i nibbles(const uint8_t q[16]) {
        __m128i low = _mm_loadu_si128((const void *) q);

        return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(low, 4), low), _mm256_set1_epi8(15));
}

ALWAYS_INLINE __m256i levels_of(__m256i codes, const int8_t levels[16]) {
        return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const void *) levels)),
                                   codes);
}

/* The fifth bits of 32 values, as 16 or 0. */
ALWAYS_INLINE __m256i fifth_bits(uint32_t high) {
        const __m256i spread =
                _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
        const __m256i bit = _mm256_set1_epi64x((long long) 0x8040201008040201);
        __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32((int) high), spread);

        return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit), _mm256_set1_epi8(16));
}

static void from_f32(float *dst, const void *src, size_t n) {
        memcpy(dst, src, n * sizeof(*dst));
}

ALWAYS_INLINE void from_plain(float *dst, const uint8_t *src, size_t n, vf (*load)(const void *)) {
        size_t i = 0;

        for (; i + VF_LANES <= n; i += VF_LANES)
                vf_store(dst + i, load(src + i * 2));
        if (i < n) {
                uint8_t rest[2 * VF_LANES] = {0};

                memcpy(rest, src + i * 2, (n - i) * 2);
                vf_store_part(dst + i, load(rest), (uint32_t) (n - i));
        }
}

static void from_f16(float *dst, const void *src, size_t n) {
        from_plain(dst, src, n, vf_load_f16);
}

static void from_bf16(float *dst, const void *src, size_t n) {
        from_plain(dst, src, n, vf_load_bf16);
}

static void from_q8_0(float *dst, const void *src, size_t n) {
        const struct block_q8_0 *b = src;

        for (const float *end = dst + n; dst < end; dst += 32, b++)
                UNROLL for (int i = 0; i < 32; i += 16)
                        put16(dst + i, _mm_loadu_si128((const void *) (b->q + i)), half(b->d));
}

static void from_q4_0(float *dst, const void *src, size_t n) {
        const struct block_q4_0 *b = src;

        for (const float *end = dst + n; dst < end; dst += 32, b++)
                put32(dst, _mm256_sub_epi8(nibbles(b->q), _mm256_set1_epi8(8)), half(b->d));
}

static void from_q4_1(float *dst, const void *src, size_t n) {
        const struct block_q4_1 *b = src;

        for (const float *end = dst + n; dst < end; dst += 32, b++)
                put32_plus(dst, nibbles(b->q), half(b->d), half(b->m));
}

static void from_q5_0(float *dst, const void *src, size_t n) {
        const struct block_q5_0 *b = src;

        for (const float *end = dst + n; dst < end; dst += 32, b++) {
                __m256i q = _mm256_or_si256(nibbles(b->q), fifth_bits(b->qh));

                put32(dst, _mm256_sub_epi8(q, _mm256_set1_epi8(16)), half(b->d));
        }
}

static void from_q5_1(float *dst, const void *src, size_t n) {
        const struct block_q5_1 *b = src;

        for (const float *end = dst + n; dst < end; dst += 32, b++)
                put32_plus(dst, _mm256_or_si256(nibbles(b->q), fifth_bits(b->qh)), half(b->d), half(b->m));
}

static void from_iq4_nl(float *dst, const void *src, size_t n) {
        const struct block_iq4_nl *b = src;

        for (const float *end = dst + n; dst < end; dst += 32, b++)
                put32(dst, levels_of(nibbles(b->q), quant_levels_iq4), half(b->d));
}

static void from_mxfp4(float *dst, const void *src, size_t n) {
        const struct block_mxfp4 *b = src;

        for (const float *end = dst + n; dst < end; dst += 32, b++)
                put32(dst, levels_of(nibbles(b->q), quant_levels_fp4), half_e8m0(b->e));
}

static void from_q2_k(float *dst, const void *src, size_t n) {
        const struct block_q2_k *b = src;

        for (const float *end = dst + n; dst < end; b++) {
                __m128i s = _mm_loadu_si128((const void *) b->scales), low = _mm_set1_epi8(15);
                float a[16], c[16];

                scale16(a, _mm_and_si128(s, low), half(b->d));
                scale16(c, _mm_and_si128(_mm_srli_epi16(s, 4), low), -half(b->dmin));
                for (int j = 0; j < 16; j += 2, dst += 32) {
                        __m256i q = bits_of(load256(b->q + j / 8 * 32), j % 8, 3);

                        put16_plus(dst, _mm256_castsi256_si128(q), a[j], c[j]);
                        put16_plus(dst + 16, _mm256_extracti128_si256(q, 1), a[j + 1], c[j + 1]);
                }
        }
}

/* The sixteen scales, 0 to 63 (quant-k.c: q3_k_scale). */
static __m128i q3_k_scales(const uint8_t packed[12]) {
        uint32_t s[3], four = 0x0f0f0f0f, two = 0x30303030;

        memcpy(s, packed, sizeof(s));
        return _mm_setr_epi32(
                (int) ((s[0] & four) | (s[2] << 4 & two)), (int) ((s[1] & four) | (s[2] << 2 & two)),
                (int) ((s[0] >> 4 & four) | (s[2] & two)), (int) ((s[1] >> 4 & four) | (s[2] >> 2 & two)));
}

static void from_q3_k(float *dst, const void *src, size_t n) {
        const struct block_q3_k *b = src;

        for (const float *end = dst + n; dst < end; b++) {
                __m256i high = load256(b->qh);
                float a[16];

                scale16(a, _mm_sub_epi8(q3_k_scales(b->scales), _mm_set1_epi8(32)), half(b->d));
                for (int j = 0; j < 16; j += 2, dst += 32) {
                        __m256i q = bits_of(load256(b->q + j / 8 * 32), j % 8, 3);

                        q = _mm256_or_si256(q, _mm256_slli_epi16(bits_of(high, j / 2, 1), 2));
                        q = _mm256_sub_epi8(q, _mm256_set1_epi8(4));
                        put16(dst, _mm256_castsi256_si128(q), a[j]);
                        put16(dst + 16, _mm256_extracti128_si256(q, 1), a[j + 1]);
                }
        }
}

/* The 8 scales and then the 8 mins (block.h: q4_k_scale_min). */
static __m128i q4_k_scales(const uint8_t packed[12]) {
        uint32_t s[3], low = 0x0f0f0f0f, top = 0x30303030, six = 0x3f3f3f3f;

        memcpy(s, packed, sizeof(s));
        return _mm_setr_epi32((int) (s[0] & six), (int) ((s[2] & low) | (s[0] >> 2 & top)),
                              (int) (s[1] & six), (int) ((s[2] >> 4 & low) | (s[1] >> 2 & top)));
}

/* Eight times 32 values: the nibbles of q, and a fifth bit each from `high`, if any. */
ALWAYS_INLINE void put_k(float *dst, const uint8_t *q, const uint8_t *high, __m128i packed, float d,
                         float dmin) {
        float a[16], c[16];

        scale16(a, packed, d);
        scale16(c, packed, -dmin);
        for (int j = 0; j < 8; j++, dst += 32) {
                __m256i v = bits_of(load256(q + j / 2 * 32), j % 2 * 4, 15);

                if (high)
                        v = _mm256_or_si256(v, _mm256_slli_epi16(bits_of(load256(high), j, 1), 4));
                put32_plus(dst, v, a[j], c[8 + j]);
        }
}

static void from_q4_k(float *dst, const void *src, size_t n) {
        const struct block_q4_k *b = src;

        for (const float *end = dst + n; dst < end; dst += 256, b++)
                put_k(dst, b->q, NULL, q4_k_scales(b->scales), half(b->d), half(b->dmin));
}

static void from_q5_k(float *dst, const void *src, size_t n) {
        const struct block_q5_k *b = src;

        for (const float *end = dst + n; dst < end; dst += 256, b++)
                put_k(dst, b->q, b->qh, q4_k_scales(b->scales), half(b->d), half(b->dmin));
}

static void from_q6_k(float *dst, const void *src, size_t n) {
        const struct block_q6_k *b = src;

        for (const float *end = dst + n; dst < end; b++) {
                float a[16];

                scale16(a, _mm_loadu_si128((const void *) b->scales), half(b->d));
                for (int j = 0; j < 8; j++, dst += 32) {
                        __m256i low = bits_of(load256(b->ql + j / 4 * 64 + j % 2 * 32), j % 4 / 2 * 4, 15);
                        __m256i high = bits_of(load256(b->qh + j / 4 * 32), j % 4 * 2, 3);
                        __m256i q = _mm256_or_si256(low, _mm256_slli_epi16(high, 4));

                        q = _mm256_sub_epi8(q, _mm256_set1_epi8(32));
                        put16(dst, _mm256_castsi256_si128(q), a[2 * j]);
                        put16(dst + 16, _mm256_extracti128_si256(q, 1), a[2 * j + 1]);
                }
        }
}

static void from_iq4_xs(float *dst, const void *src, size_t n) {
        const struct block_iq4_xs *b = src;

        for (const float *end = dst + n; dst < end; b++)
                for (int j = 0; j < 8; j++, dst += 32) {
                        int low = b->scales_low[j / 2] >> j % 2 * 4 & 15, high = b->scales_high >> 2 * j & 3;

                        put32(dst, levels_of(nibbles(b->q + 16 * j), quant_levels_iq4),
                              half(b->d) * (float) ((low | high << 4) - 32));
                }
}

dequantize_fn *const SIMD_NAME(dequantize)[_QUANT_MAX] = {
        [QUANT_F32] = from_f32,     [QUANT_F16] = from_f16,       [QUANT_BF16] = from_bf16,
        [QUANT_Q8_0] = from_q8_0,   [QUANT_Q4_0] = from_q4_0,     [QUANT_Q4_1] = from_q4_1,
        [QUANT_Q5_0] = from_q5_0,   [QUANT_Q5_1] = from_q5_1,     [QUANT_Q2_K] = from_q2_k,
        [QUANT_Q3_K] = from_q3_k,   [QUANT_Q4_K] = from_q4_k,     [QUANT_Q5_K] = from_q5_k,
        [QUANT_Q6_K] = from_q6_k,   [QUANT_IQ4_NL] = from_iq4_nl, [QUANT_IQ4_XS] = from_iq4_xs,
        [QUANT_MXFP4] = from_mxfp4,
};
