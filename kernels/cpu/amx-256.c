/* SPDX-License-Identifier: MIT */
/* Blocks of 256 weights with scaled sub-blocks on the matrix unit. A weight times the scale of its sub-block is a whole
 * number of up to 13 bits: it is split into two digits that are bytes, one tile each, and the products of both with the
 * activations are put together again. So the sums are exact, and equal those of group-256.c to the bit.
 *
 * The unit multiplies one pair of panels while AVX-512 finishes the pair before (float32 scales, mins), between the
 * instructions of the former: neither waits for the other. */

#include "amx-dot.h"
#include "group-256.h"
#include "panel.h"
#include "tile.h"

/* A block of sixteen weight rows: what the unit multiplies, and what the products are finished with, a block later. */
struct slab {
        _Alignas(PANEL_ALIGN) int8_t digits[2][4][GROUP_ROWS][64]; /* [low, high] */
};

struct factors {
        _Alignas(64) int16_t mins[GROUP_ROWS][8];
        float d[GROUP_ROWS], dmin[GROUP_ROWS];
};

/* Constant: functions that take one are inlined for it. */
struct format_amx {
        size_t block_bytes;
        int shift; /* weight × scale = low digit + (high digit << shift) */
        bool has_sign, has_min;
        /* A quarter of a slab's rows, and with the last one the scales. */
        void (*unpack)(struct slab *slab, struct factors *factors, const struct group *g, size_t at, int quarter);
};

/* The products of a slab with one panel or two, not put together yet. */
struct products {
        const struct slab *slab;
        const struct factors *factors;
        const panel_fours *x[2];
        const struct panel_256 *scales[2];
        float (*acc[2])[PANEL_ROWS]; /* [16 weight rows][16 activation rows] */
        bool two;
        /* Tile i collides with the loads of step i of the next products, which come when it is done (panel.h). */
        _Alignas(PANEL_ALIGN) int32_t digits[2][2][GROUP_ROWS][PANEL_ROWS]; /* [panel][low, high] */
};

struct work {
        struct slab slabs[2][AMX_GROUPS];
        struct factors factors[3][AMX_GROUPS];
        struct products products[2];
        _Alignas(PANEL_ALIGN) float acc[AMX_GROUPS][AMX_PANELS_MAX][GROUP_ROWS][PANEL_ROWS];
};

/* --- unpacking --------------------------------------------------------------------------------------------------- */

/* Bytes of at most 31 times scales' digits of at most 7 stay below 256: one multiplication of a word does two. Rows are
 * those whose scales lie in one vector: quarter, quarter + 4, … */
ALWAYS_INLINE void unpack_q45_k(struct slab *slab, struct factors *factors, const struct group *g, size_t at,
                                int quarter, __m512i (*values)(const uint8_t *block, int v)) {
        __m512i scales, mins, low, high, words;

        scales = q4_k_scales(quarters(load128(g->row[quarter] + at), load128(g->row[quarter + 4] + at),
                                      load128(g->row[quarter + 8] + at), load128(g->row[quarter + 12] + at)));
        mins = _mm512_shuffle_epi8(scales, q4_k_min_words());
        _mm_store_si128((__m128i *) factors->mins[quarter], _mm512_castsi512_si128(mins));
        _mm_store_si128((__m128i *) factors->mins[quarter + 4], _mm512_extracti32x4_epi32(mins, 1));
        _mm_store_si128((__m128i *) factors->mins[quarter + 8], _mm512_extracti32x4_epi32(mins, 2));
        _mm_store_si128((__m128i *) factors->mins[quarter + 12], _mm512_extracti32x4_epi32(mins, 3));
        low = _mm512_and_si512(scales, _mm512_set1_epi8(7));
        high = _mm512_and_si512(_mm512_srli_epi16(scales, 3), _mm512_set1_epi8(7));
        UNROLL for (int l = 0; l < 4; l++) {
                __m512i row_low = spread_quarter(low, l);
                __m512i row_high = spread_quarter(high, l);
                int row = quarter + 4 * l;

                UNROLL for (int v = 0; v < 4; v++) {
                        __m512i w = values(g->row[row] + at, v), spread = q4_k_scale_words(v);

                        _mm512_store_si512(slab->digits[0][v][row],
                                           _mm512_mullo_epi16(w, _mm512_shuffle_epi8(row_low, spread)));
                        _mm512_store_si512(slab->digits[1][v][row],
                                           _mm512_mullo_epi16(w, _mm512_shuffle_epi8(row_high, spread)));
                }
        }
        if (quarter < 3)
                return;
        words = group_words(g, at);
        _mm512_store_ps(factors->d, low_halves(words));
        _mm512_store_ps(factors->dmin, high_halves(words));
}

ALWAYS_INLINE void unpack_q4_k(struct slab *slab, struct factors *factors, const struct group *g, size_t at,
                               int quarter) {
        unpack_q45_k(slab, factors, g, at, quarter, values_q4_k);
}

ALWAYS_INLINE void unpack_q5_k(struct slab *slab, struct factors *factors, const struct group *g, size_t at,
                               int quarter) {
        unpack_q45_k(slab, factors, g, at, quarter, values_q5_k);
}

/* (value - offset) × scale = low + 128 high, -64 ≤ low < 64, for values 64 v to 64 v + 63 of row i. */
ALWAYS_INLINE void split_products(struct slab *slab, int i, int v, __m512i values, int offset, __m256i scales) {
        __m512i scale = spread_scales(scales, v), mask = _mm512_set1_epi16(127);
        /* Each quarter has one scale, so that its halves may be taken apart and put together again. */
        __m512i a = _mm512_unpacklo_epi8(values, _mm512_setzero_si512());
        __m512i b = _mm512_unpackhi_epi8(values, _mm512_setzero_si512());
        __m512i add =
                _mm512_sub_epi16(_mm512_set1_epi16(64), _mm512_mullo_epi16(scale, _mm512_set1_epi16((short) offset)));

        a = _mm512_add_epi16(_mm512_mullo_epi16(a, scale), add);
        b = _mm512_add_epi16(_mm512_mullo_epi16(b, scale), add);
        _mm512_store_si512(slab->digits[1][v][i],
                           _mm512_packs_epi16(_mm512_srai_epi16(a, 7), _mm512_srai_epi16(b, 7)));
        _mm512_store_si512(slab->digits[0][v][i],
                           _mm512_sub_epi8(_mm512_packus_epi16(_mm512_and_si512(a, mask), _mm512_and_si512(b, mask)),
                                           _mm512_set1_epi8(64)));
}

ALWAYS_INLINE void unpack_q6_k(struct slab *slab, struct factors *factors, const struct group *g, size_t at,
                               int quarter) {
        UNROLL for (int i = 4 * quarter; i < 4 * quarter + 4; i++) {
                __m256i scales = scales_q6_k(g->row[i] + at);

                UNROLL for (int v = 0; v < 4; v++)
                        split_products(slab, i, v, values_q6_k(g->row[i] + at, v), 32, scales);
        }
        /* d is the last thing in a block. */
        if (quarter == 3)
                _mm512_store_ps(factors->d, high_halves(group_words(g, at + sizeof(struct block_q6_k) - 4)));
}

ALWAYS_INLINE void unpack_iq4_xs(struct slab *slab, struct factors *factors, const struct group *g, size_t at,
                                 int quarter) {
        UNROLL for (int i = 4 * quarter; i < 4 * quarter + 4; i++) {
                __m256i scales = scales_iq4_xs(g->row[i] + at);

                UNROLL for (int v = 0; v < 4; v++)
                        split_products(slab, i, v, levels_iq4(codes_iq4_xs(g->row[i] + at, v)), 127, scales);
        }
        if (quarter == 3)
                _mm512_store_ps(factors->d, low_halves(group_words(g, at)));
}

/* A slab to be unpacked: block at `at` of the group. */
struct coming {
        struct slab *slab;
        struct factors *factors;
        const struct group *g;
        size_t at;
};

ALWAYS_INLINE void unpack(const struct coming *c, int quarter, struct format_amx f) {
        UNROLL for (unsigned row = 4 * quarter; row < 4 * quarter + 4U; row++)
                group_fetch_row(c->g, c->at, f.block_bytes, row);
        f.unpack(c->slab, c->factors, c->g, c->at, quarter);
}

/* --- multiplying ------------------------------------------------------------------------------------------------- */

/* Puts the products of four weight rows with a panel together: acc = acc + d dy (low + high << shift) - dmin dy mins.
 * What the rows share is read before any of them is written: the compiler cannot know that they lie apart. */
ALWAYS_INLINE void finish_rows(const struct products *p, int side, int from, struct format_amx f) {
        const struct panel_256 *x = p->scales[side];
        const int32_t(*low)[PANEL_ROWS] = p->digits[side][0], (*high)[PANEL_ROWS] = p->digits[side][1];
        const struct factors *factors = p->factors;
        float(*acc)[PANEL_ROWS] = p->acc[side];
        __m512 dy = _mm512_load_ps(x->d);
        __m512i sums[4];

        UNROLL for (int j = 0; j < 4; j++) sums[j] = load512(x->sums[j]);
        UNROLL for (int w = from; w < from + 4; w++) {
                __m512i dot = _mm512_add_epi32(_mm512_slli_epi32(load512(high[w]), f.shift), load512(low[w]));
                __m512 sum = _mm512_load_ps(acc[w]);

                sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_set1_ps(factors->d[w]) * dy, sum);
                if (f.has_min) {
                        __m512i mins = _mm512_setzero_si512();

                        UNROLL for (int j = 0; j < 4; j++) {
                                int32_t pair;

                                memcpy(&pair, factors->mins[w] + 2 * j, sizeof(pair));
                                mins = _mm512_dpwssd_epi32(mins, sums[j], _mm512_set1_epi32(pair));
                        }
                        sum = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(mins), _mm512_set1_ps(factors->dmin[w]) * dy, sum);
                }
                _mm512_store_ps(acc[w], sum);
        }
}

ALWAYS_INLINE void finish(const struct products *p, int from, struct format_amx f) {
        finish_rows(p, 0, from, f);
        if (p->two)
                finish_rows(p, 1, from, f);
}

#define MULTIPLY(_c, _a, _b)                                                                                 \
        do {                                                                                                 \
                if (f.has_sign)                                                                              \
                        AMX_DOT_S8_S8(_c, _a, _b);                                                           \
                else                                                                                         \
                        AMX_DOT_U8_S8(_c, _a, _b);                                                           \
        } while (0)

/* 64 values of the block. */
#define STEP(_v)                                                                                             \
        do {                                                                                                 \
                AMX_LOAD_AT(4, a, (_v) * AMX_TILE_BYTES, 64);                                                \
                AMX_LOAD_AT(6, x0, (_v) * AMX_TILE_BYTES, 64);                                               \
                MULTIPLY(0, 4, 6);                                                                           \
                AMX_LOAD_AT(5, a, (4 + (_v)) * AMX_TILE_BYTES, 64);                                          \
                MULTIPLY(1, 5, 6);                                                                           \
                if (two) {                                                                                   \
                        AMX_LOAD_AT(7, x1, (_v) * AMX_TILE_BYTES, 64);                                       \
                        MULTIPLY(2, 4, 7);                                                                   \
                        MULTIPLY(3, 5, 7);                                                                   \
                }                                                                                            \
                if (before)                                                                                  \
                        finish(before, 4 * (_v), f);                                                         \
                if (coming)                                                                                  \
                        unpack(coming, (_v), f);                \
        } while (0)

/* Multiplies p's slab with its panels and, meanwhile, finishes `before` and unpacks `coming` (unless NULL). */
ALWAYS_INLINE void multiply(struct products *p, bool two, const struct products *before, const struct coming *coming,
                            struct format_amx f) {
        /* The instructions clobber memory, as the compiler sees it: what they need stays in registers. */
        const int8_t(*a)[GROUP_ROWS][64] = p->slab->digits[0];
        const panel_fours *x0 = p->x[0], *x1 = p->x[1];
        int32_t(*c)[2][GROUP_ROWS][PANEL_ROWS] = p->digits;

        AMX_ZERO(0);
        AMX_ZERO(1);
        if (two) {
                AMX_ZERO(2);
                AMX_ZERO(3);
        }
        STEP(0);
        STEP(1);
        STEP(2);
        STEP(3);
        AMX_STORE_AT(0, c, 0, 64);
        AMX_STORE_AT(1, c, AMX_TILE_BYTES, 64);
        if (two) {
                AMX_STORE_AT(2, c, 2 * AMX_TILE_BYTES, 64);
                AMX_STORE_AT(3, c, 3 * AMX_TILE_BYTES, 64);
        }
}

/* To block i of one panel or two of them. */
ALWAYS_INLINE void point(struct products *p, const char *panel, size_t panel_bytes, bool two, uint32_t cols, uint32_t i,
                         float (*acc)[GROUP_ROWS][PANEL_ROWS]) {
        p->two = two;
        for (uint32_t side = 0; side <= two; side++, panel += panel_bytes) {
                p->x[side] = (const panel_fours *) panel + 64 * i;
                p->scales[side] = (const struct panel_256 *) panel_scales(DOT_Q8_256, panel, cols) + i;
                p->acc[side] = acc[side];
        }
}

/* Panels are read from the second cache, once for all groups. */
ALWAYS_INLINE void groups_256(const struct dot_job *job, const struct group *g, uint32_t groups, struct work *k,
                              uint32_t first, uint32_t panels, struct format_amx f) {
        uint32_t blocks = job->cols / 256, turn = 0;
        size_t bytes = panel_bytes(DOT_Q8_256, job->cols);
        const char *x = (const char *) job->panels + first * bytes;
        const struct products *before = NULL;

        for (uint32_t r = 0; r < groups; r++) {
                memset(k->acc[r], 0, panels * sizeof(k->acc[r][0]));
                for (int quarter = 0; quarter < 4; quarter++)
                        unpack(&(struct coming) {&k->slabs[0][r], &k->factors[0][r], &g[r], 0}, quarter, f);
        }
        for (uint32_t i = 0; i < blocks; i++) {
                for (uint32_t p = 0; p < panels; p += 2)
                        for (uint32_t r = 0; r < groups; r++) {
                                struct coming coming = {&k->slabs[(i + 1) % 2][r], &k->factors[(i + 1) % 3][r], &g[r],
                                                        (i + 1) * f.block_bytes};
                                struct products *now = &k->products[turn++ % 2];
                                bool two = p + 1 < panels, more = p == 0 && i + 1 < blocks;

                                now->slab = &k->slabs[i % 2][r];
                                now->factors = &k->factors[i % 3][r];
                                point(now, x + p * bytes, bytes, two, job->cols, i, &k->acc[r][p]);
                                if (two && more)
                                        multiply(now, true, before, &coming, f);
                                else if (two)
                                        multiply(now, true, before, NULL, f);
                                else
                                        multiply(now, false, before, more ? &coming : NULL, f);
                                before = now;
                        }
        }
        for (int from = 0; from < GROUP_ROWS; from += 4)
                finish(before, from, f);
}

ALWAYS_INLINE void dot_256(const struct dot_job *job, struct format_amx f) {
        static const struct amx_config config = AMX_WHOLE_TILES;
        uint32_t most = amx_most_groups(job);
        struct work k;

        amx_begin(&config);
        AMX_WALK(job, most, k.acc, groups_256(job, g, groups, &k, first, panels, f));
        amx_end();
}

#define DOT_AMX_256(_name, _shift, _has_sign, _has_min)                                                      \
        void dot_##_name##_amx(const struct dot_job *job) {                                                  \
                if (job->panels)                                                                             \
                        dot_256(job, (struct format_amx) {                                                   \
                                sizeof(struct block_##_name), _shift, _has_sign, _has_min, unpack_##_name    \
                        });                                                                                  \
                else                                                                                         \
                        dot_##_name##_avx512(job);                                                           \
        }

DOT_AMX_256(q4_k, 3, false, true)
DOT_AMX_256(q5_k, 3, false, true)
DOT_AMX_256(q6_k, 7, true, false)
DOT_AMX_256(iq4_xs, 7, true, false)
