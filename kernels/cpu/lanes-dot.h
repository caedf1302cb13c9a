/* SPDX-License-Identifier: MIT */
#pragma once

/* Matrices of which sixteen rows are unpacked side by side, 256 columns at a time (lanes.h), and multiplied with all
 * activation rows: what AVX2 and AVX-512 have in common. A file that includes this defines LANE_MANY, how many of those
 * it multiplies at a time at most (4 or 8), multiply() and dot_columns(). */

#include "lanes.h"
#include "tile.h"

enum {
        FETCH_LINES = 2, /* at a time */
        SLICE = 64,      /* activation rows that stay in the cache while sixteen weight rows pass */
};

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

struct work {
        struct lanes lanes;
        _Alignas(64) float sums[SLICE][LANE_ROWS];
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

/* --- activation rows --------------------------------------------------------------------------------------------- */

/* Activation rows from a block on. */
struct inputs {
        const uint8_t *q[LANE_MANY];
        const float *d[LANE_MANY];      /* of the block, or of its parts */
        const int16_t *sums[LANE_MANY]; /* of the parts, or of halves of them */
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

/* The sums of each 32 columns of a block of 256 as eight words, from those of 16. */
ALWAYS_INLINE __m128i sums_of_parts(const int16_t *sums) {
        const __m256i all = load256(sums);

        return _mm_hadd_epi16(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}

/* The outputs of products with activation row t, but for the first `done` of the rows. */
static void store(const struct dot_job *job, uint32_t row, uint32_t done, uint32_t t, const float sums[LANE_ROWS]) {
        for (uint32_t i = done; i < LANE_ROWS; i += VF_LANES) {
                uint32_t n = MIN(LANE_ROWS - i, (uint32_t) VF_LANES);
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

/* --- jobs -------------------------------------------------------------------------------------------------------- */

/* What has been unpacked with N activation rows. Fetches FETCH_LINES for each scale and each four of them from `ahead`
 * on, if that is not NULL. */
ALWAYS_INLINE void multiply(const struct lanes *lanes, const struct inputs *x, uint32_t parts, const char *ahead,
                            float (*sums)[LANE_ROWS], int N, struct format f);
/* Columns with the n activation rows from t on. */
ALWAYS_INLINE void dot_columns(const struct dot_job *job, const struct columns *c, uint32_t t, uint32_t n,
                               struct work *k, struct format f);

/* Some of the activation rows from t on, i being the first. What unpacking has not fetched is fetched beside the first
 * products. */
ALWAYS_INLINE void some_rows(const struct dot_job *job, const struct columns *c, uint32_t t, uint32_t i,
                             struct work *k, int N, struct format f) {
        const struct inputs x = inputs_at(job, c->col, t + i, N, f);
        size_t at = i / 4 * (c->parts * 32 / f.p.scale * FETCH_LINES * 64);

        multiply(&k->lanes, &x, c->parts, at < c->bytes ? c->ahead + c->apart + at : NULL, k->sums + i, N, f);
}

/* Unpacks columns and multiplies them with the n activation rows from t on. */
ALWAYS_INLINE void columns_unpacked(const struct dot_job *job, const struct columns *c, uint32_t t, uint32_t n,
                                    struct work *k, struct format f) {
        uint32_t i = 0;

        unpack(&k->lanes, c, f);
        for (; LANE_MANY == 8 && i + 8 <= n; i += 8)
                some_rows(job, c, t, i, k, 8, f);
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

/* A job of a matrix of at least sixteen rows: fewer than that at the end are computed along with those before them. */
ALWAYS_INLINE void dot_lanes(const struct dot_job *job, struct format f) {
        struct work k;

        for (uint32_t row = job->begin; row < job->end; row += LANE_ROWS) {
                uint32_t first = MIN(row, job->end - LANE_ROWS);

                for (uint32_t t = 0; t < job->n; t += SLICE)
                        dot_rows(job, first, row - first, t, MIN(job->n - t, (uint32_t) SLICE), &k, f);
        }
}

/* --- formats ----------------------------------------------------------------------------------------------------- */

#define LANES_FORMAT(_name, ...)                                                                             \
        ALWAYS_INLINE struct format format_##_name(void) {                                                   \
                return (struct format) {                                                                     \
                        .bytes = sizeof(struct block_##_name), .values = values_##_name, __VA_ARGS__         \
                };                                                                                           \
        }
#define LANES_32(_name, _together, ...)                                                                      \
        LANES_FORMAT(_name, .p = {.cols = 32, .scale = 32, .together = _together}, .piece = 32, __VA_ARGS__)
#define LANES_256(_name, _piece, _scale, _together, _mins)                                                   \
        LANES_FORMAT(_name, .p = {.cols = 256, .scale = _scale, .together = _together}, .piece = _piece,     \
                     .head = head_##_name, .mins = _mins)

LANES_32(q8_0, 0, .rest = 1)
LANES_32(q4_0, 8, .zero = 8, .rest = 1)
LANES_32(q4_1, 8, .m = true, .rest = 2)
LANES_32(q5_0, 4, .zero = 16, .rest = 3)
LANES_32(q5_1, 4, .m = true, .rest = 4)
LANES_32(iq4_nl, 0, .rest = 1)
LANES_32(mxfp4, 4, .zero = 12, .rest = 1)
LANES_256(q2_k, 128, 16, 4, OWN_MINS)
LANES_256(q3_k, 128, 16, 4, WHOLE_MINS)
LANES_256(q4_k, 64, 32, 8, OWN_MINS)
LANES_256(q5_k, 64, 32, 4, OWN_MINS)
LANES_256(q6_k, 128, 16, 2, WHOLE_MINS)
LANES_256(iq4_xs, 32, 32, 0, NO_MINS)
