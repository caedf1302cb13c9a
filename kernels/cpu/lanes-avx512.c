/* SPDX-License-Identifier: MIT */
/* Dot products of quantised weights with more than a few 8-bit activation rows on AVX-512 with VNNI: unpacked as on
 * AVX2 (lanes-dot.h), once for all of them, and a vector holds all sixteen rows. Results have the same bits. (Q4_K and
 * Q5_K are not here: what of group-256.c takes eight activation rows at a time is as fast.) */

#define LANE_MANY 8
#include "lanes-dot.h"

/* To sixteen rows' values with a sign this is added where VNNI wants bytes without one. */
enum { UNSIGNED = 128 };

ALWAYS_INLINE __m512i both_halves(const __m256i v[HALVES]) {
        return _mm512_load_si512(v);
}

ALWAYS_INLINE __m512 both_halves_ps(const __m256 v[HALVES]) {
        return _mm512_load_ps((const float *) v);
}

ALWAYS_INLINE __m512i four_for_all(const void *q, int four) {
        int32_t v;

        memcpy(&v, (const char *) q + 4 * four, sizeof(v));
        return _mm512_set1_epi32(v);
}

ALWAYS_INLINE bool has_sign(struct format f) {
        return f.p.together == 0;
}

/* The mins' part of a block of 256. */
ALWAYS_INLINE __m512i sum_mins(const struct lanes *lanes, const int16_t *sums, struct format f) {
        const __m512i parts = _mm512_castsi128_si512(sums_of_parts(sums));
        __m512i less = _mm512_setzero_si512();

        UNROLL for (int j = 0; j < LANE_PARTS; j++) {
                const __m512i two = f.p.scale == 32 ? _mm512_permutexvar_epi32(_mm512_set1_epi32(j), parts)
                                                    : four_for_all(sums, j);

                if (2 * j * f.p.scale < LANE_COLS)
                        less = _mm512_dpwssd_epi32(less, both_halves(lanes->mins[j]), two);
        }
        return less;
}

/* What has been added to a block's values comes to this. */
ALWAYS_INLINE __m512i sum_added(const struct lanes *lanes, const int16_t *sums, uint32_t i, struct format f) {
        __m512i added = _mm512_setzero_si512();

        if (f.p.cols == 32)
                return _mm512_set1_epi32((has_sign(f) ? UNSIGNED : f.zero) * sums[i]);
        UNROLL for (int j = 0; j < LANE_PARTS; j++) {
                const __m512i sum = _mm512_set1_epi32((uint16_t) (int16_t) (sums[2 * j] + sums[2 * j + 1]));

                added = _mm512_dpwssd_epi32(added, both_halves(lanes->scales[j]), sum);
        }
        return _mm512_mullo_epi32(added, _mm512_set1_epi32(UNSIGNED));
}

/* Adds a block's products with activation row n to the sum; of blocks of 32 those of number i. */
ALWAYS_INLINE __m512 add_block(__m512 sum, const struct lanes *lanes, __m512i dot, const struct inputs *x, int n,
                               uint32_t i, struct format f) {
        const __m512 d = _mm512_set1_ps(x->d[n][i]);
        const __m512i less = f.mins ? sum_mins(lanes, x->sums[n], f) : sum_added(lanes, x->sums[n], i, f);

        if (f.mins == WHOLE_MINS || f.zero || has_sign(f))
                dot = _mm512_sub_epi32(dot, less);
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), both_halves_ps(lanes->d[i]) * d, sum);
        if (f.mins == OWN_MINS)
                sum = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(less), both_halves_ps(lanes->m[0]) * d, sum);
        if (f.m)
                sum = _mm512_fmadd_ps(_mm512_set1_ps(x->sums[n][i]), both_halves_ps(lanes->m[i]) * d, sum);
        return sum;
}

ALWAYS_INLINE void multiply(const struct lanes *lanes, const struct inputs *x, uint32_t parts, const char *ahead,
                            float (*sums)[LANE_ROWS], int N, struct format f) {
        const int fours = (int) f.p.scale / 4, every = (int) (f.p.cols / f.p.scale);
        const int lines = FETCH_LINES * MAX(N / 4, 1);
        const __m256i (*q)[HALVES] = lanes->q;
        __m512i dot[LANE_MANY] = {};

        for (int i = 0; i < (int) (parts * 32 / f.p.scale); i++, q += fours) {
                __m512i some[LANE_MANY] = {};

                if (ahead)
                        fetch_lines(ahead + lines * 64 * i, lines);
                if (i % every == 0)
                        UNROLL for (int n = 0; n < N; n++) dot[n] = _mm512_setzero_si512();
                UNROLL for (int k = 0; k < fours; k++) {
                        __m512i w = both_halves(q[k]);

                        if (has_sign(f))
                                w = _mm512_xor_si512(w, _mm512_set1_epi8((char) UNSIGNED));
                        UNROLL for (int n = 0; n < N; n++) some[n] =
                                _mm512_dpbusd_epi32(some[n], w, four_for_all(x->q[n] + i * f.p.scale, k));
                }
                if (f.p.cols == 32) {
                        UNROLL for (int n = 0; n < N; n++) dot[n] = some[n];
                } else {
                        const __m512i scale = _mm512_srai_epi32(both_halves(lanes->scales[i]), 16);

                        UNROLL for (int n = 0; n < N; n++) dot[n] =
                                _mm512_add_epi32(dot[n], _mm512_mullo_epi32(some[n], scale));
                }
                if (i % every < every - 1)
                        continue;
                UNROLL for (int n = 0; n < N; n++) _mm512_store_ps(
                        sums[n], add_block(_mm512_load_ps(sums[n]), lanes, dot[n], x, n, (uint32_t) (i / every), f));
        }
}

ALWAYS_INLINE void dot_columns(const struct dot_job *job, const struct columns *c, uint32_t t, uint32_t n,
                               struct work *k, struct format f) {
        columns_unpacked(job, c, t, n, k, f);
}

/* At most four activation rows, and a matrix of fewer than sixteen rows, are for `few`. */
ALWAYS_INLINE void dot_format(const struct dot_job *job, dot_fn *few, struct format f) {
        if (job->n <= LANE_FEW || job->end < LANE_ROWS)
                few(job);
        else
                dot_lanes(job, f);
}

#define DOT(_name, _few)                                                                                     \
        void dot_##_name##_lanes_avx512(const struct dot_job *job) {                                         \
                dot_format(job, _few, format_##_name());                                                     \
        }

DOT(q8_0, dot_q8_0_avx512)
DOT(q4_0, dot_q4_0_avx512)
DOT(q4_1, dot_q4_1_avx512)
DOT(q5_0, dot_q5_0_avx512)
DOT(q5_1, dot_q5_1_avx512)
DOT(iq4_nl, dot_iq4_nl_avx512)
DOT(mxfp4, dot_mxfp4_avx512)
DOT(q2_k, dot_q2_k_avx2)
DOT(q3_k, dot_q3_k_avx2)
DOT(q6_k, dot_q6_k_avx512)
DOT(iq4_xs, dot_iq4_xs_avx512)
