/* SPDX-License-Identifier: MIT */
/* Dot products of quantised weights with 8-bit activations on AVX2. Sixteen weight rows are unpacked side by side, 256
 * columns at a time (lanes.h), and multiplied with all activation rows, four at a time. Integer sums are exact, and the
 * blocks of a row are added as float32 in rising order with one rounding each: results have the bits of the definition
 * (ref_dot). */

#include "lanes.h"
#include "machine.h"
#include "tile.h"

enum { FETCH_LINES = 2 }; /* at a time */

/* 256 columns of sixteen weight rows, or what is left of them. */
struct columns {
        uint32_t col;
        const uint8_t *row; /* the first one, row_bytes between them */
        size_t row_bytes;
        uint32_t parts;     /* of 32 columns */
        const char *ahead;  /* what is read later, to be fetched meanwhile: half of as many bytes, */
        size_t apart;       /* and so far from there the others */
        size_t bytes;       /* of a half */
};

enum { SLICE = 64 /* activation rows that stay in the cache while sixteen weight rows pass */ };

struct work {
        struct lanes lanes;
        _Alignas(32) float sums[SLICE][LANE_ROWS];
};

/* --- unpacking --------------------------------------------------------------------------------------------------- */

/* What is read after sixteen rows from `row` on, as far as it is known: or they themselves. */
static const char *rows_ahead(const struct dot_job *job, uint32_t row) {
        uint32_t next = row + LANE_ROWS;

        if (next + LANE_ROWS <= job->end)
                row = next;
        else if (next >= job->end && LANE_ROWS <= job->next_rows)
                return (const char *) job->next;
        return (const char *) job->w + row * job->row_bytes;
}

/* These rows are read side by side; those to come are fetched by rising addresses in two places, as memory likes
 * best. */
ALWAYS_INLINE struct columns columns_at(const struct dot_job *job, uint32_t row, uint32_t col, const char *ahead,
                                        struct format f) {
        size_t at = col / f.p.cols * (size_t) f.bytes;
        uint32_t parts = MIN((job->cols - col) / 32, (uint32_t) LANE_PARTS);

        return (struct columns) {
                .col = col,
                .row = job->w + row * job->row_bytes + at,
                .row_bytes = job->row_bytes,
                .parts = parts,
                .ahead = ahead + LANES * at,
                .apart = LANES * job->row_bytes,
                .bytes = LANES * (parts * 32 / f.p.cols * (size_t) f.bytes),
        };
}

/* Eight of the rows. */
ALWAYS_INLINE struct lanes_half half_at(struct lanes *lanes, const struct columns *c, int half) {
        const uint8_t *row = c->row + (size_t) (half * LANES) * c->row_bytes;

        return (struct lanes_half) {
                .to = lanes,
                .half = half,
                .row = row,
                .fourth = row + 4 * c->row_bytes,
                .row_bytes = c->row_bytes,
                .ahead = c->ahead + (size_t) half * (c->bytes / 2),
                .apart = c->apart,
                .scales = &lanes->scales[0][half],
                .q = &lanes->q[0][half],
        };
}

/* On to the next piece. */
ALWAYS_INLINE void unpack_piece(struct lanes_half *h, int i, struct format f) {
        f.values(h, i, f.p.cols == 32 ? (size_t) i * f.bytes : 0, f.p);
        h->scales += HALVES * f.piece / f.p.scale;
        h->q += HALVES * f.piece / 4;
        EACH_OF_FEW(n, f.p) h->x[n] += f.piece;
}

/* What is to be fetched for these rows, but has not been: less was loaded at once than the blocks have. */
ALWAYS_INLINE void fetch_rest(const struct lanes_half *h, struct format f) {
        fetch_lines(h->ahead, f.rest);
        if (f.p.at_once)
                fetch_lines(h->ahead + h->apart, f.rest);
}

/* Fetches half of what is to be fetched. */
ALWAYS_INLINE void unpack(struct lanes *lanes, const struct columns *c, struct format f) {
        for (int half = 0; half < HALVES; half++) {
                struct lanes_half h = half_at(lanes, c, half);

                if (f.head)
                        f.head(&h, f.p);
                for (int i = 0; i < (int) (c->parts * 32 / f.piece); i++)
                        unpack_piece(&h, i, f);
                fetch_rest(&h, f);
        }
}

/* --- multiplying ------------------------------------------------------------------------------------------------- */

/* Activation rows from a block on. */
struct inputs {
        const uint8_t *q[4];
        const float *d[4];      /* of the block, or of its parts */
        const int16_t *sums[4]; /* of the parts, or of halves of them */
};

ALWAYS_INLINE struct inputs inputs_at(const struct dot_job *job, uint32_t col, uint32_t t, int N, struct format f) {
        struct inputs x;

        UNROLL for (int n = 0; n < N; n++) {
                const void *row = job->x[t + (uint32_t) n];

                x.q[n] = (const uint8_t *) row + col;
                x.d[n] = f.p.cols == 256 ? q8_256_scales(row, job->cols) + col / 256
                                         : q8_32_scales(row, job->cols) + col / 32;
                x.sums[n] = f.p.cols == 256 ? q8_256_sums(row, job->cols) + col / 16
                                            : q8_32_sums(row, job->cols) + col / 32;
        }
        return x;
}

/* The mins' part of a block of 256. */
ALWAYS_INLINE __m256i sum_mins(const struct lanes *lanes, int half, const int16_t *sums, struct format f) {
        const __m256i all = load256(sums);
        const __m128i parts = _mm_hadd_epi16(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
        __m256i less = _mm256_setzero_si256();

        UNROLL for (int j = 0; j < LANE_PARTS; j++) {
                const __m256i two = f.p.scale == 32 ? _mm256_permutevar8x32_epi32(_mm256_castsi128_si256(parts),
                                                                                  _mm256_set1_epi32(j))
                                                    : four_at(sums, j);

                if (2 * j * f.p.scale < LANE_COLS)
                        less = _mm256_add_epi32(less, _mm256_madd_epi16(lanes->mins[j][half], two));
        }
        return less;
}

/* Adds a block's products with activation row n to the sum; of blocks of 32 those of number i. */
ALWAYS_INLINE __m256 add_block(__m256 sum, const struct lanes *lanes, int half, __m256i dot, const struct inputs *x,
                               int n, uint32_t i, struct format f) {
        const __m256 d = _mm256_set1_ps(x->d[n][i]);
        __m256i less = f.mins ? sum_mins(lanes, half, x->sums[n], f) : _mm256_set1_epi32(f.zero * x->sums[n][i]);

        if (f.mins == WHOLE_MINS || f.zero)
                dot = _mm256_sub_epi32(dot, less);
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), lanes->d[i][half] * d, sum);
        if (f.mins == OWN_MINS)
                sum = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(less), lanes->m[0][half] * d, sum);
        if (f.m)
                sum = _mm256_fmadd_ps(_mm256_set1_ps(x->sums[n][i]), lanes->m[i][half] * d, sum);
        return sum;
}

/* What has been unpacked with N activation rows. Fetches FETCH_LINES for each scale from `ahead` on, if that is not
 * NULL. */
ALWAYS_INLINE void multiply(const struct lanes *lanes, const struct inputs *x, uint32_t parts, const char *ahead,
                            float (*sums)[LANE_ROWS], int N, struct format f) {
        const int fours = (int) f.p.scale / 4, every = (int) (f.p.cols / f.p.scale);
        const __m256i (*q)[HALVES] = lanes->q;
        __m256i dot[4][HALVES];
        const uint8_t *y[4];

        UNROLL for (int n = 0; n < N; n++) y[n] = x->q[n];
        for (int i = 0; i < (int) (parts * 32 / f.p.scale); i++, q += fours) {
                __m256i some[4][HALVES];

                if (ahead)
                        fetch_lines(ahead + FETCH_LINES * 64 * i, FETCH_LINES);
                if (i % every == 0)
                        UNROLL for (int n = 0; n < N; n++) dot[n][0] = dot[n][1] = _mm256_setzero_si256();
                UNROLL for (int k = 0; k < fours; k++) UNROLL for (int n = 0; n < N; n++) {
                        const __m256i four = four_at(y[n], k);

                        UNROLL for (int h = 0; h < HALVES; h++)
                                add_products(&dot[n][h], &some[n][h], q[k][h], four, k,
                                             scale_at(&lanes->scales[i][h], 0, f.p), f.p);
                }
                UNROLL for (int n = 0; n < N; n++) y[n] += f.p.scale;
                if (i % every < every - 1)
                        continue;
                UNROLL for (int n = 0; n < N; n++) UNROLL for (int h = 0; h < HALVES; h++) {
                        float *sum = sums[n] + h * LANES;

                        _mm256_store_ps(sum, add_block(_mm256_load_ps(sum), lanes, h, dot[n][h], x, n,
                                                       (uint32_t) (i / every), f));
                }
        }
}

/* Unpacks columns and multiplies them on the way. */
ALWAYS_INLINE void multiply_few(struct lanes *lanes, const struct columns *c, const struct inputs *x,
                                float (*sums)[LANE_ROWS], struct format f) {
        const int pieces = (int) (c->parts * 32 / f.piece), every = (int) (f.p.cols / f.piece);

        for (int half = 0; half < HALVES; half++) {
                struct lanes_half h = half_at(lanes, c, half);

                EACH_OF_FEW(n, f.p) h.x[n] = x->q[n];
                if (f.head)
                        f.head(&h, f.p);
                for (int i = 0; i < pieces; i++) {
                        if (i % every == 0)
                                EACH_OF_FEW(n, f.p) h.dot[n] = _mm256_setzero_si256();
                        unpack_piece(&h, i, f);
                        if (i % every < every - 1)
                                continue;
                        EACH_OF_FEW(n, f.p) {
                                float *sum = sums[n] + half * LANES;

                                _mm256_store_ps(sum, add_block(_mm256_load_ps(sum), lanes, half, h.dot[n], x, n,
                                                               (uint32_t) (i / every), f));
                        }
                }
                fetch_rest(&h, f);
        }
}

/* The outputs of products with activation row t, but for the first `done` of the rows. */
static void store(const struct dot_job *job, uint32_t row, uint32_t done, uint32_t t, const float sums[LANE_ROWS]) {
        for (uint32_t i = done; i < LANE_ROWS; i += LANES) {
                uint32_t n = MIN(LANE_ROWS - i, (uint32_t) LANES);
                float *y = job->y[t] + row + i;
                vf v = vf_load_part(sums + i, n, vf_zero());

                if (job->bias)
                        v = v + vf_load_part(job->bias + row + i, n, vf_zero());
                if (job->scale)
                        v = v * vf_set(job->scale[t]);
                if (job->accumulate)
                        v = vf_load_part(y, n, vf_zero()) + v;
                vf_store_part(y, v, n);
        }
}

/* Of the activation rows from t on a few, which are all; or some, i being the first. What unpacking has not fetched is
 * fetched beside the first products. */
ALWAYS_INLINE void few_rows(const struct dot_job *job, const struct columns *c, uint32_t t, struct work *k, int N,
                            struct format f) {
        const struct inputs x = inputs_at(job, c->col, t, N, f);

        f.p.at_once = N;
        multiply_few(&k->lanes, c, &x, k->sums, f);
}

ALWAYS_INLINE void some_rows(const struct dot_job *job, const struct columns *c, uint32_t t, uint32_t i,
                             struct work *k, int N, struct format f) {
        const struct inputs x = inputs_at(job, c->col, t + i, N, f);
        size_t at = i / 4 * (c->parts * 32 / f.p.scale * FETCH_LINES * 64);

        multiply(&k->lanes, &x, c->parts, at < c->bytes ? c->ahead + c->apart + at : NULL, k->sums + i, N, f);
}

/* With the n activation rows from t on. */
ALWAYS_INLINE void dot_columns(const struct dot_job *job, const struct columns *c, uint32_t t, uint32_t n,
                               struct work *k, struct format f) {
        uint32_t i = 0;

        switch (n) {
        case 1:
                few_rows(job, c, t, k, 1, f);
                return;
        case 2:
                few_rows(job, c, t, k, 2, f);
                return;
        case 3:
                few_rows(job, c, t, k, 3, f);
                return;
        case 4:
                few_rows(job, c, t, k, 4, f);
                return;
        }
        unpack(&k->lanes, c, f);
        for (; i + 4 <= n; i += 4)
                some_rows(job, c, t, i, k, 4, f);
        switch (n - i) {
        case 1:
                some_rows(job, c, t, i, k, 1, f);
                break;
        case 2:
                some_rows(job, c, t, i, k, 2, f);
                break;
        case 3:
                some_rows(job, c, t, i, k, 3, f);
                break;
        }
}

/* Sixteen weight rows, of which the first `done` are not stored, with the n activation rows from t on. */
ALWAYS_INLINE void dot_rows(const struct dot_job *job, uint32_t row, uint32_t done, uint32_t t, uint32_t n,
                            struct work *k, struct format f) {
        const char *ahead = rows_ahead(job, row);

        memset(k->sums, 0, n * sizeof(*k->sums));
        for (uint32_t col = 0; col < job->cols; col += LANE_COLS) {
                const struct columns c = columns_at(job, row, col, ahead, f);

                dot_columns(job, &c, t, n, k, f);
        }
        for (uint32_t i = 0; i < n; i++)
                store(job, row, done, t + i, k->sums[i]);
}

/* Fewer than sixteen rows at the end are computed along with those before them. A matrix that has fewer is computed by
 * the definition. */
ALWAYS_INLINE void dot_format(const struct dot_job *job, struct format f) {
        struct work k;

        if (f.few && job->n <= LANE_FEW) {
                f.few(job);
                return;
        }
        if (job->end < LANE_ROWS) {
                dot_c(job, f.type);
                return;
        }
        for (uint32_t row = job->begin; row < job->end; row += LANE_ROWS) {
                uint32_t first = MIN(row, job->end - LANE_ROWS);

                for (uint32_t t = 0; t < job->n; t += SLICE)
                        dot_rows(job, first, row - first, t, MIN(job->n - t, (uint32_t) SLICE), &k, f);
        }
}

#define DOT(_name, _type, _cols, _piece, _scale, _together, ...)                                             \
        void dot_##_name##_avx2(const struct dot_job *job) {                                                 \
                dot_format(job, (struct format) {                                                            \
                        .type = _type,                                                                       \
                        .p = {.cols = _cols, .scale = _scale, .together = _together},                        \
                        .bytes = sizeof(struct block_##_name),                                               \
                        .piece = _piece,                                                                     \
                        .values = values_##_name,                                                            \
                        __VA_ARGS__,                                                                         \
                });                                                                                          \
        }
#define DOT_32(_name, _type, _together, ...) DOT(_name, _type, 32, 32, 32, _together, __VA_ARGS__)
#define DOT_256(_name, _type, _piece, _scale, _together, _mins, _few)                                        \
        DOT(_name, _type, 256, _piece, _scale, _together, .head = head_##_name, .mins = _mins, .few = _few)

DOT_32(q8_0, QUANT_Q8_0, 0, .rest = 1)
DOT_32(q4_0, QUANT_Q4_0, 8, .zero = 8, .rest = 1)
DOT_32(q4_1, QUANT_Q4_1, 8, .m = true, .rest = 2)
DOT_32(q5_0, QUANT_Q5_0, 4, .zero = 16, .rest = 3)
DOT_32(q5_1, QUANT_Q5_1, 4, .m = true, .rest = 4)
DOT_32(iq4_nl, QUANT_IQ4_NL, 0, .rest = 1)
DOT_32(mxfp4, QUANT_MXFP4, 4, .zero = 12, .rest = 1)
DOT_256(q2_k, QUANT_Q2_K, 128, 16, 4, OWN_MINS, NULL)
DOT_256(q3_k, QUANT_Q3_K, 128, 16, 4, WHOLE_MINS, NULL)
DOT_256(q4_k, QUANT_Q4_K, 64, 32, 8, OWN_MINS, NULL)
DOT_256(q5_k, QUANT_Q5_K, 64, 32, 4, OWN_MINS, NULL)
DOT_256(q6_k, QUANT_Q6_K, 128, 16, 2, WHOLE_MINS, dot_q6_k_few_avx2)
DOT_256(iq4_xs, QUANT_IQ4_XS, 32, 32, 0, NO_MINS, NULL)

const struct cpu_variant cpu_variant_avx2 = {
        .name = "avx2",
        .needs = CPU_AVX2,
        ROWS_MEMBERS(avx2),
        .attention = attention_avx2,
        .blend = blend_avx2,
        .dot =
                {
                        [QUANT_F32] = dot_f32_avx2,
                        [QUANT_F16] = dot_f16_avx2,
                        [QUANT_BF16] = dot_bf16_avx2,
                        [QUANT_Q8_0] = dot_q8_0_avx2,
                        [QUANT_Q4_0] = dot_q4_0_avx2,
                        [QUANT_Q4_1] = dot_q4_1_avx2,
                        [QUANT_Q5_0] = dot_q5_0_avx2,
                        [QUANT_Q5_1] = dot_q5_1_avx2,
                        [QUANT_IQ4_NL] = dot_iq4_nl_avx2,
                        [QUANT_MXFP4] = dot_mxfp4_avx2,
                        [QUANT_Q2_K] = dot_q2_k_avx2,
                        [QUANT_Q3_K] = dot_q3_k_avx2,
                        [QUANT_Q4_K] = dot_q4_k_avx2,
                        [QUANT_Q5_K] = dot_q5_k_avx2,
                        [QUANT_Q6_K] = dot_q6_k_avx2,
                        [QUANT_IQ4_XS] = dot_iq4_xs_avx2,
                },
};
