/* SPDX-License-Identifier: MIT */
/* Dot products of quantised weights with 8-bit activations on AVX-512 with VNNI. Integer sums are exact;
 * float sums run in 16 lanes, block after block. */

#include "block.h"
#include "machine.h"
#include "tile.h"

ALWAYS_INLINE __m512i join256(__m256i low, __m256i high) {
        return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

ALWAYS_INLINE __m256i load256(const void *p) {
        return _mm256_loadu_si256(p);
}

ALWAYS_INLINE float half(uint16_t h) {
        return _cvtsh_ss(h);
}

/* One block's scale in the low eight lanes, the next one's in the high ones. */
ALWAYS_INLINE __m512 half_pair(uint16_t low, uint16_t high) {
        return _mm512_cvtph_ps(_mm256_set_m128i(_mm_set1_epi16((short) high), _mm_set1_epi16((short) low)));
}

ALWAYS_INLINE __m512 float_pair(float low, float high) {
        return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_set1_ps(low)), _mm256_set1_ps(high), 1);
}

#define ACC_ZERO(_acc, _W, _N)                                                                               \
        UNROLL for (int _w = 0; _w < (_W); _w++) UNROLL for (int _n = 0; _n < (_N); _n++)(_acc)[_w][_n] =    \
                _mm512_setzero_ps()

/* Blocks of 32: two (or the last one alone) at a time. The instruction multiplies unsigned by signed bytes,
 * so the weights carry an offset, and each activation pair brings what the offset adds too much. */
struct weights_32 {
        __m512i q; /* weight + offset, unsigned */
        __m512 d;
};

ALWAYS_INLINE struct weights_32 weights_q8_0(const uint8_t *row, uint32_t i, bool two) {
        const struct block_q8_0 *b = (const struct block_q8_0 *) row + i;
        __m512i q = two ? join256(load256(b[0].q), load256(b[1].q)) : _mm512_zextsi256_si512(load256(b[0].q));

        return (struct weights_32){
                .q = _mm512_xor_si512(q, _mm512_set1_epi8((char) 0x80)),
                .d = half_pair(b[0].d, two ? b[1].d : 0),
        };
}

ALWAYS_INLINE struct weights_32 weights_q4_0(const uint8_t *row, uint32_t i, bool two) {
        const struct block_q4_0 *b = (const struct block_q4_0 *) row + i;
        __m256i low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *) b[0].q));
        __m512i q = two ? join256(low, _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *) b[1].q)))
                        : _mm512_zextsi256_si512(low);

        /* Low nibbles in the first half of each block's lanes, high ones in the second. */
        q = _mm512_srlv_epi64(q, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
        return (struct weights_32){
                .q = _mm512_and_si512(q, _mm512_set1_epi8(15)),
                .d = half_pair(b[0].d, two ? b[1].d : 0),
        };
}

typedef struct weights_32 weights_32_fn(const uint8_t *row, uint32_t i, bool two);

ALWAYS_INLINE void step_32(const struct dot_job *job, uint32_t row, uint32_t t, int W, int N, uint32_t i,
                           bool two, weights_32_fn *weights, char offset, __m512 acc[4][4]) {
        __m512i y[4], excess[4];
        __m512 dy[4];

        UNROLL for (int n = 0; n < N; n++) {
                const uint8_t *x = job->x[t + n];
                const float *d = q8_32_scales(x, job->cols);

                y[n] = two ? _mm512_loadu_si512(x + i * 32) : _mm512_zextsi256_si512(load256(x + i * 32));
                dy[n] = float_pair(d[i], two ? d[i + 1] : 0.0f);
                excess[n] = _mm512_sub_epi32(
                        _mm512_setzero_si512(),
                        _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(offset), y[n]));
        }
        UNROLL for (int w = 0; w < W; w++) {
                struct weights_32 v = weights(job->w + (row + w) * job->row_bytes, i, two);

                UNROLL for (int n = 0; n < N; n++) {
                        __m512 dot = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(excess[n], v.q, y[n]));

                        acc[w][n] = _mm512_fmadd_ps(dot, v.d * dy[n], acc[w][n]);
                }
        }
}

ALWAYS_INLINE void tile_32(const struct dot_job *job, uint32_t row, uint32_t t, int W, int N,
                           weights_32_fn *weights, char offset) {
        uint32_t i = 0, blocks = job->cols / 32;
        __m512 acc[4][4];

        ACC_ZERO(acc, W, N);
        for (; i + 2 <= blocks; i += 2)
                step_32(job, row, t, W, N, i, true, weights, offset, acc);
        if (i < blocks)
                step_32(job, row, t, W, N, i, false, weights, offset, acc);
        TILE_STORE(job, row, t, acc, W, N);
}

ALWAYS_INLINE void tile_q8_0(const struct dot_job *job, uint32_t row, uint32_t t, int W, int N) {
        tile_32(job, row, t, W, N, weights_q8_0, (char) 0x80);
}

ALWAYS_INLINE void tile_q4_0(const struct dot_job *job, uint32_t row, uint32_t t, int W, int N) {
        tile_32(job, row, t, W, N, weights_q4_0, 8);
}

DOT_WALK(dot_q8_0_avx512, tile_q8_0, 4, 4)
DOT_WALK(dot_q4_0_avx512, tile_q4_0, 4, 4)

/* The 8 scales and then the 8 mins of a Q4_K block as 16-bit numbers (block.h: q4_k_scale_min). */
ALWAYS_INLINE __m256i q4_k_scales(const struct block_q4_k *b) {
        uint32_t s[3], low = 0x0f0f0f0f, top = 0x30303030, six = 0x3f3f3f3f;

        memcpy(s, b->scales, sizeof(s));
        return _mm256_cvtepu8_epi16(
                _mm_setr_epi32((int) (s[0] & six), (int) ((s[2] & low) | (s[0] >> 2 & top)),
                               (int) (s[1] & six), (int) ((s[2] >> 4 & low) | (s[1] >> 2 & top))));
}

/* Word indices: `first` in the low half of the lanes, `second` in the high half. */
ALWAYS_INLINE __m512i halves_index(short first, short second) {
        return join256(_mm256_set1_epi16(first), _mm256_set1_epi16(second));
}

ALWAYS_INLINE void block_q4_k(const struct dot_job *job, uint32_t row, uint32_t t, int W, int N, uint32_t i,
                              __m512 acc[4][4]) {
        const __m512i shift = _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4);
        const __m256i min_index =
                _mm256_setr_epi16(8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15);

        UNROLL for (int w = 0; w < W; w++) {
                const struct block_q4_k *b =
                        (const void *) (job->w + (row + w) * job->row_bytes + i * sizeof(*b));
                __m256i scales = q4_k_scales(b), mins = _mm256_permutexvar_epi16(min_index, scales);
                float d = half(b->d), dmin = half(b->dmin);
                __m512i dot[4];

                UNROLL for (int n = 0; n < N; n++) dot[n] = _mm512_setzero_si512();
                UNROLL for (short g = 0; g < 4; g++) {
                        __m512i q = _mm512_broadcast_i64x4(load256(b->q + 32 * g));
                        __m512i scale = _mm512_permutexvar_epi16(halves_index(2 * g, 2 * g + 1),
                                                                 _mm512_castsi256_si512(scales));

                        q = _mm512_and_si512(_mm512_srlv_epi64(q, shift), _mm512_set1_epi8(15));
                        UNROLL for (int n = 0; n < N; n++) {
                                __m512i y = _mm512_loadu_si512((const uint8_t *) job->x[t + n] + i * 256 +
                                                               g * 64);

                                dot[n] = _mm512_dpwssd_epi32(dot[n], _mm512_maddubs_epi16(q, y), scale);
                        }
                }
                UNROLL for (int n = 0; n < N; n++) {
                        float dy = q8_256_scales(job->x[t + n], job->cols)[i];
                        __m256i min = _mm256_madd_epi16(
                                mins, load256(q8_256_sums(job->x[t + n], job->cols) + i * 16));

                        acc[w][n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[n]), _mm512_set1_ps(d * dy),
                                                    acc[w][n]);
                        acc[w][n] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(_mm512_zextsi256_si512(min)),
                                                     _mm512_set1_ps(dmin * dy), acc[w][n]);
                }
        }
}

ALWAYS_INLINE void tile_q4_k(const struct dot_job *job, uint32_t row, uint32_t t, int W, int N) {
        __m512 acc[4][4];

        ACC_ZERO(acc, W, N);
        for (uint32_t i = 0; i < job->cols / 256; i++)
                block_q4_k(job, row, t, W, N, i, acc);
        TILE_STORE(job, row, t, acc, W, N);
}

DOT_WALK(dot_q4_k_avx512, tile_q4_k, 1, 4)

/* Values 64 g to 64 g + 63 of a Q6_K block, 0 to 63 (block.h: q6_k_unpack). */
ALWAYS_INLINE __m512i q6_k_values(const struct block_q6_k *b, int g) {
        __m512i low = _mm512_loadu_si512(b->ql + g / 2 * 64),
                high = _mm512_broadcast_i64x4(load256(b->qh + g / 2 * 32));

        if (g % 2 == 0) {
                high = _mm512_sllv_epi64(high, _mm512_setr_epi64(4, 4, 4, 4, 2, 2, 2, 2));
        } else {
                low = _mm512_srli_epi16(low, 4);
                high = _mm512_srlv_epi64(high, _mm512_setr_epi64(0, 0, 0, 0, 2, 2, 2, 2));
        }
        return _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi8(0x0f)),
                               _mm512_and_si512(high, _mm512_set1_epi8(0x30)));
}

/* Word indices 4 g to 4 g + 3, each for a quarter of the lanes. */
ALWAYS_INLINE __m512i quarters_index(short g) {
        return join256(_mm256_set_m128i(_mm_set1_epi16(4 * g + 1), _mm_set1_epi16(4 * g)),
                       _mm256_set_m128i(_mm_set1_epi16(4 * g + 3), _mm_set1_epi16(4 * g + 2)));
}

ALWAYS_INLINE void block_q6_k_step(const struct dot_job *job, uint32_t row, uint32_t t, int W, int N,
                                   uint32_t i, __m512 acc[4][4]) {
        UNROLL for (int w = 0; w < W; w++) {
                const struct block_q6_k *b =
                        (const void *) (job->w + (row + w) * job->row_bytes + i * sizeof(*b));
                __m256i scales = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *) b->scales));
                __m256i offset = _mm256_mullo_epi16(scales, _mm256_set1_epi16(-32));
                float d = half(b->d);
                __m512i dot[4];

                /* The values are unsigned here; -32 × scale × Σ y makes up for it. */
                UNROLL for (int n = 0; n < N; n++) dot[n] = _mm512_zextsi256_si512(
                        _mm256_madd_epi16(offset, load256(q8_256_sums(job->x[t + n], job->cols) + i * 16)));
                UNROLL for (short g = 0; g < 4; g++) {
                        __m512i q = q6_k_values(b, g);
                        __m512i scale =
                                _mm512_permutexvar_epi16(quarters_index(g), _mm512_castsi256_si512(scales));

                        UNROLL for (int n = 0; n < N; n++) {
                                __m512i y = _mm512_loadu_si512((const uint8_t *) job->x[t + n] + i * 256 +
                                                               g * 64);

                                dot[n] = _mm512_dpwssd_epi32(dot[n], _mm512_maddubs_epi16(q, y), scale);
                        }
                }
                UNROLL for (int n = 0; n < N; n++) {
                        float dy = q8_256_scales(job->x[t + n], job->cols)[i];

                        acc[w][n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[n]), _mm512_set1_ps(d * dy),
                                                    acc[w][n]);
                }
        }
}

ALWAYS_INLINE void tile_q6_k(const struct dot_job *job, uint32_t row, uint32_t t, int W, int N) {
        __m512 acc[4][4];

        ACC_ZERO(acc, W, N);
        for (uint32_t i = 0; i < job->cols / 256; i++)
                block_q6_k_step(job, row, t, W, N, i, acc);
        TILE_STORE(job, row, t, acc, W, N);
}

DOT_WALK(dot_q6_k_avx512, tile_q6_k, 1, 4)

const struct cpu_variant cpu_variant_avx512 = {
        .name = "avx512",
        .needs = CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI,
        .dot_input = dot_input_avx2,
        ROWS_MEMBERS(avx512),
        .attention = attention_avx512,
        .choose = choose_avx512,
        .blend = blend_avx512,
        .dot =
                {
                        [QUANT_F32] = dot_f32_avx512,
                        [QUANT_F16] = dot_f16_avx512,
                        [QUANT_BF16] = dot_bf16_avx512,
                        [QUANT_Q8_0] = dot_q8_0_avx512,
                        [QUANT_Q4_0] = dot_q4_0_avx512,
                        [QUANT_Q4_K] = dot_q4_k_avx512,
                        [QUANT_Q6_K] = dot_q6_k_avx512,
                },
};
