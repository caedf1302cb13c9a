/* SPDX-License-Identifier: MIT */
/* Compiled once per instruction set (simd.h): activations as 8 bits, the very bytes of ref_dot_input(). */

#include "base/util.h"
#include "simd.h"
#include "tile.h"

/* Values that become one vector of bytes. */
enum { GROUP = 4 * VF_LANES };

/* The second operand is returned when one is not a number: such values are passed over. */
ALWAYS_INLINE float largest(const float *x, int n) {
        vf max[2] = {vf_zero(), vf_zero()};

        UNROLL for (int i = 0; i < n / VF_LANES; i++) max[i % 2] =
                vf_max(vf_abs(vf_load(x + i * VF_LANES)), max[i % 2]);
        return vf_largest(vf_max(max[0], max[1]));
}

#if defined(__AVX512F__)

typedef __m512i vb;

/* Packing works within lanes of 16 bytes and leaves the fours of the vectors 0 to 3 side by side in each. */
ALWAYS_INLINE vb quantize(const vf v[4]) {
        const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        __m512i a = _mm512_packs_epi32(_mm512_cvtps_epi32(v[0]), _mm512_cvtps_epi32(v[1])),
                b = _mm512_packs_epi32(_mm512_cvtps_epi32(v[2]), _mm512_cvtps_epi32(v[3]));
        __m512i q = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(a, b));

        /* Values lie in [-127, 127]: -128 was not a number, which becomes 0, as in the definition. */
        return _mm512_maskz_mov_epi8(_mm512_cmpneq_epi8_mask(q, _mm512_set1_epi8(-128)), q);
}

ALWAYS_INLINE void store_bytes(int8_t *p, vb q) {
        _mm512_storeu_si512(p, q);
}

/* Sums of four neighbouring bytes. */
ALWAYS_INLINE vb sum_fours(vb q) {
        return _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), q);
}

/* The sums of each 16 bytes of four vectors. */
ALWAYS_INLINE void store_sums_16(int16_t *sums, const vb q[4]) {
        const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        __m512i a = sum_fours(q[0]), b = sum_fours(q[1]), c = sum_fours(q[2]), d = sum_fours(q[3]);

        a = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        c = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        a = _mm512_add_epi32(_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c));
        _mm256_storeu_si256((__m256i *) sums, _mm512_cvtepi32_epi16(_mm512_permutexvar_epi32(order, a)));
}

/* The sums of each 32 bytes. */
ALWAYS_INLINE void store_sums_32(int16_t *sums, vb q) {
        __m512i s = sum_fours(q);

        s = _mm512_add_epi32(s, _mm512_shuffle_epi32(s, _MM_PERM_BADC));
        s = _mm512_add_epi32(s, _mm512_shuffle_epi32(s, _MM_PERM_CDAB));
        s = _mm512_add_epi32(s, _mm512_shuffle_i64x2(s, s, _MM_SHUFFLE(2, 3, 0, 1)));
        sums[0] = (int16_t) _mm_cvtsi128_si32(_mm512_castsi512_si128(s));
        sums[1] = (int16_t) _mm_cvtsi128_si32(_mm512_extracti32x4_epi32(s, 2));
}

#else

typedef __m256i vb;

/* Packing works within lanes of 16 bytes and leaves the fours of the vectors 0 to 3 side by side in each. */
ALWAYS_INLINE vb quantize(const vf v[4]) {
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        __m256i a = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1])),
                b = _mm256_packs_epi32(_mm256_cvtps_epi32(v[2]), _mm256_cvtps_epi32(v[3]));
        __m256i q = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order);

        /* Values lie in [-127, 127]: -128 was not a number, which becomes 0, as in the definition. */
        return _mm256_andnot_si256(_mm256_cmpeq_epi8(q, _mm256_set1_epi8(-128)), q);
}

ALWAYS_INLINE void store_bytes(int8_t *p, vb q) {
        _mm256_storeu_si256((__m256i *) p, q);
}

/* Sums of four neighbouring bytes. */
ALWAYS_INLINE vb sum_fours(vb q) {
        return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), q), _mm256_set1_epi16(1));
}

/* The sums of each 16 bytes of four vectors. */
ALWAYS_INLINE void store_sums_16(int16_t *sums, const vb q[4]) {
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        __m256i a = _mm256_hadd_epi32(sum_fours(q[0]), sum_fours(q[1])),
                b = _mm256_hadd_epi32(sum_fours(q[2]), sum_fours(q[3]));

        a = _mm256_permutevar8x32_epi32(_mm256_hadd_epi32(a, b), order);
        _mm_storeu_si128((__m128i *) sums,
                         _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)));
}

/* The sum of the 32 bytes. */
ALWAYS_INLINE void store_sums_32(int16_t *sums, vb q) {
        __m256i s = sum_fours(q);
        __m128i a = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));

        a = _mm_add_epi32(a, _mm_shuffle_epi32(a, 0x4e));
        *sums = (int16_t) _mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32(a, 0xb1)));
}

#endif

static void block_256(int8_t *q, float *d, int16_t *sums, const float *x) {
        float max = largest(x, 256), inverse = max >= ZERO_BELOW ? 127.0f / max : 0.0f;
        vb bytes[256 / GROUP];

        UNROLL for (int i = 0; i < 256 / GROUP; i++) {
                vf v[4];

                UNROLL for (int k = 0; k < 4; k++) v[k] =
                        vf_load(x + i * GROUP + k * VF_LANES) * vf_set(inverse);
                bytes[i] = quantize(v);
                store_bytes(q + i * GROUP, bytes[i]);
        }
        UNROLL for (int i = 0; i < 256 / GROUP; i += 4) store_sums_16(sums + i * GROUP / 16, bytes + i);
        *d = max >= ZERO_BELOW ? max / 127.0f : 0.0f;
}

/* The last block of a row, of fewer values. */
static void rest_256(int8_t *q, float *d, int16_t *sums, const float *x, uint32_t n) {
        float values[256] = {0};
        int8_t bytes[256];
        int16_t all[256 / 16];

        memcpy(values, x, n * sizeof(*x));
        block_256(bytes, d, all, values);
        memcpy(q, bytes, n);
        memcpy(sums, all, n / 16 * sizeof(*sums));
}

static void blocks_256(int8_t *q, float *d, int16_t *sums, const float *x, uint32_t cols) {
        uint32_t i = 0;

        for (; (i + 1) * 256 <= cols; i++)
                block_256(q + i * 256, d + i, sums + i * 16, x + i * 256);
        if (i * 256 < cols)
                rest_256(q + i * 256, d + i, sums + i * 16, x + i * 256, cols - i * 256);
}

/* Blocks of 32 whose scales are computed as one vector. */
enum { BLOCKS = VF_LANES };

static void scales_32(float *d, float inverse[BLOCKS], const float *x, uint32_t blocks) {
        float max[BLOCKS] = {0};
        vf v;

        for (uint32_t i = 0; i < blocks; i++)
                max[i] = largest(x + i * 32, 32);
        v = vf_load(max);
        vf_store_part(d, vf_zero_below(v / vf_set(127.0f), v, ZERO_BELOW), blocks);
        vf_store(inverse, vf_zero_below(vf_set(127.0f) / v, v, ZERO_BELOW));
}

ALWAYS_INLINE vb quantize_32(const float *x, const float *inverse) {
        vf v[4];

        UNROLL for (int k = 0; k < 4; k++) v[k] =
                vf_load(x + k * VF_LANES) * vf_set(inverse[k * VF_LANES / 32]);
        return quantize(v);
}

/* Up to BLOCKS of them. */
static void blocks_32(int8_t *q, float *d, int16_t *sums, const float *x, uint32_t blocks) {
        float inverse[BLOCKS], x_rest[GROUP] = {0};
        int8_t q_rest[GROUP];
        int16_t sums_rest[GROUP / 32];
        uint32_t i = 0;

        scales_32(d, inverse, x, blocks);
        for (; i + GROUP / 32 <= blocks; i += GROUP / 32) {
                vb bytes = quantize_32(x + i * 32, inverse + i);

                store_bytes(q + i * 32, bytes);
                store_sums_32(sums + i, bytes);
        }
        if (i < blocks) { /* one of two */
                vb bytes;

                memcpy(x_rest, x + i * 32, 32 * sizeof(*x));
                bytes = quantize_32(x_rest, inverse + i);
                store_bytes(q_rest, bytes);
                store_sums_32(sums_rest, bytes);
                memcpy(q + i * 32, q_rest, 32);
                sums[i] = sums_rest[0];
        }
}

void SIMD_NAME(dot_input)(enum dot_input input, void *dst, const float *src, uint32_t cols) {
        int8_t *q = dst;
        float *d = (float *) (q + cols);

        if (input == DOT_FLOAT)
                memcpy(dst, src, cols * sizeof(*src));
        else if (input == DOT_Q8_32)
                for (uint32_t i = 0; i < cols / 32; i += BLOCKS)
                        blocks_32(q + i * 32, d + i, (int16_t *) (d + cols / 32) + i, src + i * 32,
                                  MIN(cols / 32 - i, (uint32_t) BLOCKS));
        else
                blocks_256(q, d, (int16_t *) (d + DIV_ROUND_UP(cols, 256U)), src, cols);
}
