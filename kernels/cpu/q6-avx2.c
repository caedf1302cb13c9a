/* SPDX-License-Identifier: MIT */
/* Q6_K with few activation rows on AVX2: two weight rows at a time, as they lie. To bring sixteen side by side
 * (lanes.h) takes more than their products do, for a block's bytes lie in three places. Results have the same bits:
 * sums of a block are whole numbers, and blocks are added in rising order with one rounding each. */

#include "lanes.h"
#include "tile.h"

enum {
        ROWS = 2,
        GROUPS = 8, /* of 32 columns in a block */
        AHEAD = 2048,
};

/* A row's way through a job: blocks, and those that will be read after a while, which are fetched. */
struct walk {
        const struct block_q6_k *at;
        const char *ahead, *end, *next; /* from `end` on the way goes on at `next` */
};

/* Columns 32 g to 32 g + 31 (block.h: q6_k_unpack), 0 to 63. */
ALWAYS_INLINE __m256i group_values(const struct block_q6_k *b, int g) {
        const __m256i low = load256(b->ql + g / 4 * 64 + g % 2 * 32), high = load256(b->qh + g / 4 * 32);

        switch (g % 4) {
        case 0:
                return with_bits(low, 0x0f, _mm256_slli_epi16(high, 4), 0x30);
        case 1:
                return with_bits(low, 0x0f, _mm256_slli_epi16(high, 2), 0x30);
        case 2:
                return with_bits(_mm256_srli_epi16(low, 4), 0x0f, high, 0x30);
        default:
                return with_bits(_mm256_srli_epi16(low, 4), 0x0f, _mm256_srli_epi16(high, 2), 0x30);
        }
}

/* Of eight scales in each half, those of 16 columns each, number 2 g in the low half and 2 g + 1 in the high one. */
ALWAYS_INLINE __m256i group_scales(__m256i scales, int g) {
        const short first = (short) ((4 * g + 1) << 8 | 4 * g);

        return _mm256_shuffle_epi8(scales, _mm256_setr_m128i(_mm_set1_epi16(first),
                                                             _mm_set1_epi16((short) (first + 0x0202))));
}

/* The sums of both vectors, as the first two numbers. */
ALWAYS_INLINE __m128i two_sums(__m256i a, __m256i b) {
        __m256i v = _mm256_hadd_epi32(a, b);

        v = _mm256_hadd_epi32(v, v);
        return _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

/* A block of both rows with N activation rows from column `col` on. */
ALWAYS_INLINE void add_blocks(const struct dot_job *job, const struct block_q6_k *const b[ROWS], uint32_t col,
                              __m128 *sums, int N) {
        __m256i dot[ROWS][LANE_FEW], scales[ROWS][2];
        __m128 d;

        UNROLL for (int r = 0; r < ROWS; r++) {
                const __m256i words = _mm256_cvtepi8_epi16(load128(b[r]->scales));

                scales[r][0] = both(_mm256_castsi256_si128(words));
                scales[r][1] = both(_mm256_extracti128_si256(words, 1));
                /* -32 for each value */
                UNROLL for (int n = 0; n < N; n++) {
                        const int16_t *parts = q8_256_sums(job->x[n], job->cols) + col / 16;
                        const __m256i less = _mm256_madd_epi16(words, load256(parts));

                        dot[r][n] = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32(less, 5));
                }
        }
        UNROLL for (int g = 0; g < GROUPS; g++) UNROLL for (int r = 0; r < ROWS; r++) {
                const __m256i q = group_values(b[r], g), scale = group_scales(scales[r][g / 4], g % 4);

                UNROLL for (int n = 0; n < N; n++) {
                        const __m256i y = load256((const uint8_t *) job->x[n] + col + 32 * g);

                        dot[r][n] = _mm256_add_epi32(dot[r][n], _mm256_madd_epi16(_mm256_maddubs_epi16(q, y), scale));
                }
        }
        d = _mm_setr_ps(_cvtsh_ss(b[0]->d), _cvtsh_ss(b[1]->d), 0.0f, 0.0f);
        UNROLL for (int n = 0; n < N; n++) {
                const float x = q8_256_scales(job->x[n], job->cols)[col / 256];

                sums[n] = _mm_fmadd_ps(_mm_cvtepi32_ps(two_sums(dot[0][n], dot[1][n])), d * _mm_set1_ps(x), sums[n]);
        }
}

ALWAYS_INLINE void fetch_block(struct walk *w) {
        fetch_lines(w->ahead, DIV_ROUND_UP((int) sizeof(*w->at), 64));
        w->ahead += sizeof(*w->at);
        if (w->ahead >= w->end)
                w->ahead = w->next;
}

/* Of two rows `apart` from each other the first is `row`, and those after it; 0: there is one. */
ALWAYS_INLINE void dot_pairs(const struct dot_job *job, struct walk *walks, uint32_t row, uint32_t rows, uint32_t apart,
                             int N) {
        for (uint32_t i = 0; i < rows; i++) {
                __m128 sums[LANE_FEW];

                UNROLL for (int n = 0; n < N; n++) sums[n] = _mm_setzero_ps();
                for (uint32_t col = 0; col < job->cols; col += LANE_COLS) {
                        const struct block_q6_k *const b[ROWS] = {walks[0].at++, walks[1].at++};

                        UNROLL for (int r = 0; r < ROWS; r++) fetch_block(&walks[r]);
                        add_blocks(job, b, col, sums, N);
                }
                UNROLL for (int n = 0; n < N; n++) {
                        dot_store(job, (uint32_t) n, row + i, _mm_cvtss_f32(sums[n]));
                        if (apart > 0)
                                dot_store(job, (uint32_t) n, row + apart + i, _mm_cvtss_f32(_mm_movehdup_ps(sums[n])));
                }
        }
}

/* Rows from `row` on; those to come begin `next_row` after job->next. */
static struct walk walk_at(const struct dot_job *job, uint32_t row, uint32_t rows, uint32_t next_row) {
        const uint8_t *at = job->w + row * job->row_bytes;
        const char *end = (const char *) at + rows * job->row_bytes, *next = end;

        if (job->next_rows > next_row)
                next = (const char *) job->next + next_row * job->row_bytes;
        return (struct walk) {
                .at = (const struct block_q6_k *) at,
                .ahead = rows * job->row_bytes > AHEAD ? (const char *) at + AHEAD : next,
                .end = end,
                .next = next,
        };
}

/* The halves of the job's rows side by side: memory is read faster in two places. */
ALWAYS_INLINE void dot_some(const struct dot_job *job, int N) {
        const uint32_t half = (job->end - job->begin) / 2, last = job->end - 1;
        struct walk walks[ROWS] = {
                walk_at(job, job->begin, half, 0),
                walk_at(job, job->begin + half, half, job->next_rows / 2),
        };

        dot_pairs(job, walks, job->begin, half, half, N);
        if ((job->end - job->begin) % 2 > 0) {
                walks[0] = walks[1] = walk_at(job, last, 1, 0);
                dot_pairs(job, walks, last, 1, 0, N);
        }
}

void dot_q6_k_few_avx2(const struct dot_job *job) {
        switch (job->n) {
        case 1:
                dot_some(job, 1);
                break;
        case 2:
                dot_some(job, 2);
                break;
        case 3:
                dot_some(job, 3);
                break;
        case 4:
                dot_some(job, 4);
                break;
        }
}
