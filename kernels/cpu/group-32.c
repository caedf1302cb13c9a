/* SPDX-License-Identifier: MIT */
/* Blocks of 32 weights, sixteen rows side by side (group.h), on AVX-512 with VNNI. Two blocks fill a vector; the
 * last one may stand alone. */

#include "block.h"
#include "group-32.h"
#include "tile.h"

/* The sixteen rows' whole sums, of one block: its `y` is in the activations' form. */
ALWAYS_INLINE __m512 add_block(const void *x, uint32_t cols, uint32_t i, __m512i dot, int offset, struct scales_32 s,
                               __m512 acc) {
        __m512 dy = _mm512_set1_ps(q8_32_scales(x, cols)[i]);
        int all = q8_32_sums(x, cols)[i];

        dot = _mm512_sub_epi32(dot, _mm512_set1_epi32(offset * all));
        acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), s.d * dy, acc);
        return s.has_m ? _mm512_fmadd_ps(_mm512_set1_ps((float) all), s.m * dy, acc) : acc;
}

ALWAYS_INLINE void step_32(const struct dot_job *job, const struct group *g, uint32_t t, int N, uint32_t i, bool two,
                           struct format_32 f, __m512 acc[4]) {
        __m512i part[4][4], y[4];

        UNROLL for (int n = 0; n < N; n++) {
                const uint8_t *x = (const uint8_t *) job->x[t + n] + i * 32;

                y[n] = two ? load512(x) : _mm512_zextsi256_si512(load256(x));
        }
        UNROLL for (int q = 0; q < 4; q++) {
                __m512i dot[4][4];

                UNROLL for (int l = 0; l < 4; l++) {
                        __m512i w = f.values(g->row[4 * q + l] + i * f.block_bytes, two);

                        group_fetch_row(g, i * f.block_bytes, (two ? 2 : 1) * f.block_bytes, 4 * q + l);
                        UNROLL for (int n = 0; n < N; n++) dot[n][l] =
                                _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, y[n]);
                }
                UNROLL for (int n = 0; n < N; n++) part[n][q] = quarter_sums(dot[n]);
        }
        for (int b = 0; b < (two ? 2 : 1); b++) {
                struct scales_32 s = f.scales(g, (i + b) * f.block_bytes);

                UNROLL for (int n = 0; n < N; n++) {
                        __m512i low = pair_sums(part[n][0], part[n][1]), high = pair_sums(part[n][2], part[n][3]);
                        __m512i dot = b ? _mm512_shuffle_i32x4(low, high, 0xdd) : _mm512_shuffle_i32x4(low, high, 0x88);

                        acc[n] = add_block(job->x[t + n], job->cols, i + b, dot, f.offset, s, acc[n]);
                }
        }
}

ALWAYS_INLINE void row_32(const struct dot_job *job, const struct group *g, uint32_t t, int N, struct format_32 f,
                          __m512 acc[4]) {
        uint32_t i = 0, blocks = job->cols / 32;

        for (; i + 2 <= blocks; i += 2)
                step_32(job, g, t, N, i, true, f, acc);
        if (i < blocks)
                step_32(job, g, t, N, i, false, f, acc);
}

#define DOT_32(_name)                                                                                        \
        ALWAYS_INLINE void step_##_name(const struct dot_job *job, const struct group *g, uint32_t t, int N, \
                                        __m512 acc[4]) {                                                     \
                row_32(job, g, t, N, format_##_name(), acc);                                                 \
        }                                                                                                    \
        GROUP_WALK(dot_##_name##_avx512, step_##_name)

DOT_32(q8_0)
DOT_32(q4_0)
DOT_32(q4_1)
DOT_32(q5_0)
DOT_32(q5_1)
DOT_32(iq4_nl)
DOT_32(mxfp4)
