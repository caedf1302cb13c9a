/* SPDX-License-Identifier: MIT */
/* choose_best() in two passes over the scores. A sample of them tells between which ranks the k-th best lies,
 * nearly always; the first pass keeps the ranks between, among which it is then found, and the second one writes
 * what is above it. */

#include <math.h>
#include <stdbool.h>

#include "base/util.h"
#include "ref.h"
#include "simd.h"
#include "tile.h"

enum {
        LEAST = 2048,  /* scores that are worth it */
        SAMPLE = 1024,
        BETWEEN = 8192, /* most ranks that are kept */
};

/* Rise with the scores; -0 is 0, not-a-number is lowest. */
ALWAYS_INLINE __m512i ranks_of(__m512 scores, __mmask16 there) {
        __m512i bits = _mm512_castps_si512(scores + vf_zero());
        __mmask16 negative = _mm512_movepi32_mask(bits), number = _mm512_cmp_ps_mask(scores, scores, _CMP_ORD_Q);
        __m512i ranks = _mm512_xor_si512(bits, _mm512_mask_set1_epi32(_mm512_set1_epi32(INT32_MIN), negative, -1));

        return _mm512_maskz_mov_epi32(there & number, ranks);
}

ALWAYS_INLINE __mmask16 lanes_left(uint32_t n) {
        return n >= 16 ? 0xffff : (__mmask16) ((1u << n) - 1);
}

/* The k-th largest of n, k from 1. */
static uint32_t find_rank(const uint32_t *ranks, uint32_t n, uint32_t k) {
        uint32_t found = 0;

        for (int shift = 24; shift >= 0; shift -= 8) {
                uint32_t counts[256] = {0}, byte = 255;

                for (uint32_t i = 0; i < n; i++)
                        if (shift == 24 || ranks[i] >> (shift + 8) == found >> (shift + 8))
                                counts[ranks[i] >> shift & 255]++;
                for (; byte > 0 && counts[byte] < k; byte--)
                        k -= counts[byte];
                found |= byte << shift;
        }
        return found;
}

/* Ranks that the k-th best is likely between. */
static void guess_bounds(const float *scores, uint32_t n, uint32_t k, uint32_t *ret_low, uint32_t *ret_high) {
        _Alignas(64) float some[SAMPLE];
        uint32_t ranks[SAMPLE], at = (uint32_t) ((uint64_t) SAMPLE * k / n);
        uint32_t margin = 8 + (uint32_t) (4.0f * sqrtf((float) at));

        for (uint32_t i = 0; i < SAMPLE; i++)
                some[i] = scores[(uint64_t) i * n / SAMPLE];
        for (uint32_t i = 0; i < SAMPLE; i += 16)
                _mm512_storeu_si512(ranks + i, ranks_of(_mm512_load_ps(some + i), 0xffff));
        *ret_low = at + margin > SAMPLE ? 0 : find_rank(ranks, SAMPLE, at + margin);
        *ret_high = at <= margin ? UINT32_MAX : find_rank(ranks, SAMPLE, at - margin);
}

/* What of m ranks is at least `low`; how much that is. */
static uint32_t keep_ranks(uint32_t *ranks, uint32_t m, uint32_t low) {
        uint32_t kept = 0;

        for (uint32_t i = 0; i < m; i += 16) {
                __m512i some = _mm512_loadu_si512(ranks + i);
                __mmask16 enough = _mm512_mask_cmpge_epu32_mask(lanes_left(m - i), some, _mm512_set1_epi32((int) low));

                _mm512_storeu_si512(ranks + kept, _mm512_maskz_compress_epi32(enough, some));
                kept += (uint32_t) __builtin_popcount(enough);
        }
        return kept;
}

/* The k-th best rank, and how many are above it; false: it was not where it was looked for. */
static bool find_threshold(const float *scores, uint32_t n, uint32_t k, uint32_t *ret_threshold, uint32_t *ret_above) {
        uint32_t between[BETWEEN + 16], low, high, above = 0, m = 0;

        guess_bounds(scores, n, k, &low, &high);
        for (uint32_t i = 0; i < n; i += 16) {
                __mmask16 there = lanes_left(n - i);
                __m512i ranks = ranks_of(_mm512_maskz_loadu_ps(there, scores + i), there);
                __mmask16 over = _mm512_cmpgt_epu32_mask(ranks, _mm512_set1_epi32((int) high));
                __mmask16 kept = _mm512_mask_cmpge_epu32_mask(there & ~over, ranks, _mm512_set1_epi32((int) low));

                above += (uint32_t) __builtin_popcount(over);
                _mm512_storeu_si512(between + m, _mm512_maskz_compress_epi32(kept, ranks));
                m += (uint32_t) __builtin_popcount(kept);
                if (m <= BETWEEN)
                        continue;
                /* The k-th best of some is no better than that of all. */
                if (above >= k || above + m < k)
                        return false;
                low = find_rank(between, m, k - above);
                m = keep_ranks(between, m, low);
                if (m > BETWEEN)
                        return false;
        }
        if (above >= k || above + m < k)
                return false;
        *ret_threshold = find_rank(between, m, k - above);
        for (uint32_t i = 0; i < m; i++)
                above += between[i] > *ret_threshold;
        *ret_above = above;
        return true;
}

void choose_avx512(int32_t *chosen, const float *scores, uint32_t n, uint32_t k) {
        uint32_t threshold, above, equal, m = 0;
        __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);

        if (n < LEAST || !find_threshold(scores, n, k, &threshold, &above)) {
                choose_best(chosen, scores, n, k);
                return;
        }
        equal = k - above; /* of those that equal it the first */
        for (uint32_t i = 0; i < n; i += 16, index = _mm512_add_epi32(index, _mm512_set1_epi32(16))) {
                __mmask16 there = lanes_left(n - i);
                __m512i ranks = ranks_of(_mm512_maskz_loadu_ps(there, scores + i), there);
                __mmask16 best = _mm512_mask_cmpgt_epu32_mask(there, ranks, _mm512_set1_epi32((int) threshold));
                uint32_t ties = _mm512_mask_cmpeq_epu32_mask(there, ranks, _mm512_set1_epi32((int) threshold));

                for (; ties && equal > 0; ties &= ties - 1, equal--)
                        best |= (__mmask16) (ties & -ties);
                _mm512_mask_storeu_epi32(chosen + m, lanes_left((uint32_t) __builtin_popcount(best)),
                                         _mm512_maskz_compress_epi32(best, index));
                m += (uint32_t) __builtin_popcount(best);
        }
}
