/* SPDX-License-Identifier: MIT */
/* Dot products of quantised weights with 8-bit activations on AVX2. Integer sums are exact; float sums run in
 * 8 lanes, block after block. */

#include "block.h"
#include "machine.h"
#include "quant-whole.h"
#include "tile.h"

ALWAYS_INLINE __m256i load256(const void *p) {
        return _mm256_loadu_si256(p);
}

/* A half-precision number in all lanes. */
ALWAYS_INLINE __m256 half_all(uint16_t h) {
        return _mm256_cvtph_ps(_mm_set1_epi16((short) h));
}

#define ACC_ZERO(_acc, _W, _N)                                                                               \
        UNROLL for (int _w = 0; _w < (_W); _w++) UNROLL for (int _n = 0; _n < (_N); _n++)(_acc)[_w][_n] =    \
                _mm256_setzero_ps()

ALWAYS_INLINE void tile_q8_0(const struct dot_job *job, uint32_t row, uint32_t t, int W, int N) {
        const __m256i ones = _mm256_set1_epi16(1);
        __m256 acc[4][4];

        ACC_ZERO(acc, W, N);
        for (uint32_t i = 0; i < job->cols / 32; i++)
                UNROLL for (int w = 0; w < W; w++) {
                        const struct block_q8_0 *b =
                                (const void *) (job->w + (row + w) * job->row_bytes + i * sizeof(*b));
                        __m256i q = load256(b->q), magnitude = _mm256_abs_epi8(q);
                        __m256 d = half_all(b->d);

                        /* |w| × (y with the sign of w): the instruction wants one side unsigned. */
                        UNROLL for (int n = 0; n < N; n++) {
                                const uint8_t *x = job->x[t + n];
                                __m256i y = _mm256_sign_epi8(load256(x + i * 32), q);
                                __m256i dot = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, y), ones);
                                __m256 dy = _mm256_set1_ps(q8_32_scales(x, job->cols)[i]);

                                acc[w][n] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), d * dy, acc[w][n]);
                        }
                }
        TILE_STORE(job, row, t, acc, W, N);
}

ALWAYS_INLINE void tile_q4_0(const struct dot_job *job, uint32_t row, uint32_t t, int W, int N) {
        const __m256i ones = _mm256_set1_epi16(1), eights = _mm256_set1_epi8(8);
        __m256 acc[4][4];

        ACC_ZERO(acc, W, N);
        for (uint32_t i = 0; i < job->cols / 32; i++)
                UNROLL for (int w = 0; w < W; w++) {
                        const struct block_q4_0 *b =
                                (const void *) (job->w + (row + w) * job->row_bytes + i * sizeof(*b));
                        __m256i q = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *) b->q));
                        __m256 d = half_all(b->d);

                        q = _mm256_and_si256(_mm256_srlv_epi64(q, _mm256_setr_epi64x(0, 0, 4, 4)),
                                             _mm256_set1_epi8(15));
                        UNROLL for (int n = 0; n < N; n++) {
                                const uint8_t *x = job->x[t + n];
                                __m256i y = load256(x + i * 32);
                                __m256i dot = _mm256_sub_epi16(_mm256_maddubs_epi16(q, y),
                                                               _mm256_maddubs_epi16(eights, y));
                                __m256 dy = _mm256_set1_ps(q8_32_scales(x, job->cols)[i]);

                                acc[w][n] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_madd_epi16(dot, ones)),
                                                            d * dy, acc[w][n]);
                        }
                }
        TILE_STORE(job, row, t, acc, W, N);
}

DOT_WALK(dot_q8_0_avx2, tile_q8_0, 2, 4)
DOT_WALK(dot_q4_0_avx2, tile_q4_0, 2, 4)

/* The 8 scales and then the 8 mins of a Q4_K block as 16-bit numbers (block.h: q4_k_scale_min). */
ALWAYS_INLINE __m256i q4_k_scales(const struct block_q4_k *b) {
        uint32_t s[3], low = 0x0f0f0f0f, top = 0x30303030, six = 0x3f3f3f3f;

        memcpy(s, b->scales, sizeof(s));
        return _mm256_cvtepu8_epi16(
                _mm_setr_epi32((int) (s[0] & six), (int) ((s[2] & low) | (s[0] >> 2 & top)),
                               (int) (s[1] & six), (int) ((s[2] >> 4 & low) | (s[1] >> 2 & top))));
}

/* Byte shuffle that brings word `a` of a lane to its low eight bytes and word `b` to the high ones. */
ALWAYS_INLINE __m256i words_index(short a, short b) {
        __m128i low = _mm_set1_epi16((short) ((2 * a + 1) << 8 | 2 * a)),
                high = _mm_set1_epi16((short) ((2 * b + 1) << 8 | 2 * b));

        return _mm256_broadcastsi128_si256(_mm_unpacklo_epi64(low, high));
}

ALWAYS_INLINE void step_q4_k(const struct dot_job *job, uint32_t row, uint32_t t, int W, int N, uint32_t i,
                             __m256 acc[4][4]) {
        UNROLL for (int w = 0; w < W; w++) {
                const struct block_q4_k *b =
                        (const void *) (job->w + (row + w) * job->row_bytes + i * sizeof(*b));
                __m256i packed = q4_k_scales(b), scales = _mm256_permute2x128_si256(packed, packed, 0x00);
                __m128i m = _mm256_extracti128_si256(packed, 1);
                __m256i mins = _mm256_set_m128i(_mm_unpackhi_epi16(m, m), _mm_unpacklo_epi16(m, m));
                __m256 d = half_all(b->d), dmin = half_all(b->dmin);
                __m256i dot[4];

                UNROLL for (int n = 0; n < N; n++) dot[n] = _mm256_setzero_si256();
                UNROLL for (short g = 0; g < 4; g++) {
                        __m256i q = load256(b->q + 32 * g), low = _mm256_and_si256(q, _mm256_set1_epi8(15));
                        __m256i high = _mm256_and_si256(_mm256_srli_epi16(q, 4), _mm256_set1_epi8(15));
                        __m256i scale_low = _mm256_shuffle_epi8(scales, words_index(2 * g, 2 * g));
                        __m256i scale_high = _mm256_shuffle_epi8(scales, words_index(2 * g + 1, 2 * g + 1));

                        UNROLL for (int n = 0; n < N; n++) {
                                const uint8_t *y = (const uint8_t *) job->x[t + n] + i * 256 + g * 64;
                                __m256i a =
                                        _mm256_madd_epi16(_mm256_maddubs_epi16(low, load256(y)), scale_low);
                                __m256i c = _mm256_madd_epi16(_mm256_maddubs_epi16(high, load256(y + 32)),
                                                              scale_high);

                                dot[n] = _mm256_add_epi32(dot[n], _mm256_add_epi32(a, c));
                        }
                }
                UNROLL for (int n = 0; n < N; n++) {
                        __m256 dy = _mm256_set1_ps(q8_256_scales(job->x[t + n], job->cols)[i]);
                        __m256i min = _mm256_madd_epi16(
                                mins, load256(q8_256_sums(job->x[t + n], job->cols) + i * 16));

                        acc[w][n] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[n]), d * dy, acc[w][n]);
                        acc[w][n] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(min), dmin * dy, acc[w][n]);
                }
        }
}

ALWAYS_INLINE void tile_q4_k(const struct dot_job *job, uint32_t row, uint32_t t, int W, int N) {
        __m256 acc[4][4];

        ACC_ZERO(acc, W, N);
        for (uint32_t i = 0; i < job->cols / 256; i++)
                step_q4_k(job, row, t, W, N, i, acc);
        TILE_STORE(job, row, t, acc, W, N);
}

DOT_WALK(dot_q4_k_avx2, tile_q4_k, 1, 4)

/* Values 32 g to 32 g + 31 of a Q6_K block, 0 to 63 (block.h: q6_k_unpack). */
ALWAYS_INLINE __m256i q6_k_values(const struct block_q6_k *b, int g) {
        __m256i low = load256(b->ql + g / 4 * 64 + g % 2 * 32), high = load256(b->qh + g / 4 * 32);

        if (g % 4 >= 2)
                low = _mm256_srli_epi16(low, 4);
        high = g % 4 < 2 ? _mm256_slli_epi16(high, 4 - g % 4 * 2) : _mm256_srli_epi16(high, g % 4 * 2 - 4);
        return _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(0x0f)),
                               _mm256_and_si256(high, _mm256_set1_epi8(0x30)));
}

ALWAYS_INLINE void step_q6_k(const struct dot_job *job, uint32_t row, uint32_t t, int W, int N, uint32_t i,
                             __m256 acc[4][4]) {
        UNROLL for (int w = 0; w < W; w++) {
                const struct block_q6_k *b =
                        (const void *) (job->w + (row + w) * job->row_bytes + i * sizeof(*b));
                __m256i scales = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *) b->scales));
                __m256i offset = _mm256_mullo_epi16(scales, _mm256_set1_epi16(-32));
                __m256i half[2] = {
                        _mm256_permute2x128_si256(scales, scales, 0x00),
                        _mm256_permute2x128_si256(scales, scales, 0x11),
                };
                __m256 d = half_all(b->d);
                __m256i dot[4];

                /* The values are unsigned here; -32 × scale × Σ y makes up for it. */
                UNROLL for (int n = 0; n < N; n++) dot[n] =
                        _mm256_madd_epi16(offset, load256(q8_256_sums(job->x[t + n], job->cols) + i * 16));
                UNROLL for (short g = 0; g < 8; g++) {
                        short s = g % 4 * 2;
                        __m256i q = q6_k_values(b, g);
                        /* 16 values share a scale: a lane each. */
                        __m256i scale = _mm256_shuffle_epi8(
                                half[g / 4],
                                _mm256_set_m128i(_mm256_castsi256_si128(words_index(s + 1, s + 1)),
                                                 _mm256_castsi256_si128(words_index(s, s))));

                        UNROLL for (int n = 0; n < N; n++) {
                                __m256i y = load256((const uint8_t *) job->x[t + n] + i * 256 + g * 32);

                                dot[n] = _mm256_add_epi32(
                                        dot[n], _mm256_madd_epi16(_mm256_maddubs_epi16(q, y), scale));
                        }
                }
                UNROLL for (int n = 0; n < N; n++) {
                        __m256 dy = _mm256_set1_ps(q8_256_scales(job->x[t + n], job->cols)[i]);

                        acc[w][n] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[n]), d * dy, acc[w][n]);
                }
        }
}

ALWAYS_INLINE void tile_q6_k(const struct dot_job *job, uint32_t row, uint32_t t, int W, int N) {
        __m256 acc[4][4];

        ACC_ZERO(acc, W, N);
        for (uint32_t i = 0; i < job->cols / 256; i++)
                step_q6_k(job, row, t, W, N, i, acc);
        TILE_STORE(job, row, t, acc, W, N);
}

DOT_WALK(dot_q6_k_avx2, tile_q6_k, 1, 4)

/* Sixteen products' sums in eight lanes. */
ALWAYS_INLINE __m256i dot16(const int8_t *w, const int8_t *x) {
        return _mm256_madd_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const void *) w)),
                                 _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *) x)));
}

ALWAYS_INLINE float sum_lanes(__m256i v) {
        __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));

        s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
        return (float) _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

ALWAYS_INLINE float multiply_add(float a, float b, float c) {
        return _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)));
}

/* The next block of 32 of a row times that of each activation row, added to `sums`. */
static void add_whole_32(const struct dot_job *job, const struct quant_whole_32 *w, uint32_t i, uint32_t from,
                         uint32_t n, float *sums) {
        for (uint32_t t = 0; t < n; t++) {
                const int8_t *x = (const int8_t *) job->x[from + t] + (size_t) i * 32;
                float d = q8_32_scales(job->x[from + t], job->cols)[i];
                float all = q8_32_sums(job->x[from + t], job->cols)[i];
                float dot = sum_lanes(_mm256_add_epi32(dot16(w->q, x), dot16(w->q + 16, x + 16)));

                sums[t] = multiply_add(dot, w->d * d, sums[t]);
                sums[t] = multiply_add(all, w->m * d, sums[t]);
        }
}

static void add_whole_256(const struct dot_job *job, const struct quant_whole_256 *w, uint32_t i, uint32_t from,
                          uint32_t n, float *sums) {
        __m256i scales = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *) w->scales));
        __m256i mins = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *) w->mins));
        int16_t scale[16];

        _mm256_storeu_si256((void *) scale, scales);
        for (uint32_t t = 0; t < n; t++) {
                const int8_t *x = (const int8_t *) job->x[from + t] + (size_t) i * 256;
                float d = q8_256_scales(job->x[from + t], job->cols)[i];
                __m256i dot = _mm256_setzero_si256();

                for (unsigned j = 0; j < 16; j++)
                        dot = _mm256_add_epi32(dot, _mm256_mullo_epi32(dot16(w->q + 16 * j, x + 16 * j),
                                                                       _mm256_set1_epi32(scale[j])));
                sums[t] = multiply_add(sum_lanes(dot), w->d * d, sums[t]);
                dot = _mm256_madd_epi16(mins, load256(q8_256_sums(job->x[from + t], job->cols) + i * 16));
                sums[t] = multiply_add(-sum_lanes(dot), w->dmin * d, sums[t]);
        }
}

static void whole_row(const struct dot_job *job, enum quant_type type, uint32_t row, uint32_t from, uint32_t n) {
        const struct quant_info *info = quant_info(type);
        const uint8_t *w = job->w + row * job->row_bytes;
        float sums[TILE_SLICE] = {0};

        for (uint32_t i = 0; i < job->cols / info->block_values; i++, w += info->block_bytes) {
                struct quant_whole_32 whole_32;
                struct quant_whole_256 whole_256;

                if (dot_input(type) == DOT_Q8_32) {
                        quant_whole_32(type)(&whole_32, w);
                        add_whole_32(job, &whole_32, i, from, n, sums);
                } else {
                        quant_whole_256(type)(&whole_256, w);
                        add_whole_256(job, &whole_256, i, from, n, sums);
                }
        }
        for (uint32_t t = 0; t < n; t++)
                dot_store(job, from + t, row, sums[t]);
}

void dot_whole_avx2(const struct dot_job *job, enum quant_type type) {
        for (uint32_t from = 0; from < job->n; from += TILE_SLICE)
                for (uint32_t row = job->begin; row < job->end; row++)
                        whole_row(job, type, row, from, MIN(job->n - from, (uint32_t) TILE_SLICE));
}

const struct cpu_variant cpu_variant_avx2 = {
        .name = "avx2",
        .needs = CPU_AVX2,
        ROWS_MEMBERS(avx2),
        .attention = attention_avx2,
        .dot_whole = dot_whole_avx2,
        .dot =
                {
                        [QUANT_F32] = dot_f32_avx2,
                        [QUANT_F16] = dot_f16_avx2,
                        [QUANT_BF16] = dot_bf16_avx2,
                        [QUANT_Q8_0] = dot_q8_0_avx2,
                        [QUANT_Q4_0] = dot_q4_0_avx2,
                        [QUANT_Q4_K] = dot_q4_k_avx2,
                        [QUANT_Q6_K] = dot_q6_k_avx2,
                },
};
