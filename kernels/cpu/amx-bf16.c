/* SPDX-License-Identifier: MIT */
/* Rows of prompts on the matrix unit: weights and activations are rounded to bfloat16, multiplied, and added up as float32
 * in one tile, column after column, whatever rows are in the job. That is half the products that whole numbers take
 * (amx-256.c), and nothing is left to be done per block.
 *
 * Some weight rows are unpacked as a whole into the second cache, in which panels lie, too: it feeds the unit well enough,
 * and sums need not leave their tiles for a smaller cache's sake. The next rows are unpacked meanwhile, a little between any
 * two tile instructions: in larger pieces AVX-512's work would fill up the processor's scheduler, and it would not see the
 * tiles that come next. Values that follow from a code of four or five bits are looked up in a table of all values of their
 * sub-block. */

#include "amx-dot.h"
#include "group-256.h"
#include "quant-part.h"
#include "tile.h"

enum {
        STEP = 32,                      /* columns of a tile */
        BLOCK = 256,                    /* columns that are unpacked together, a unit of 64 after each product */
        UNITS = 4,
        CHUNK = 2048,                   /* columns that are unpacked before they are multiplied */
        ROWS = AMX_GROUPS * GROUP_ROWS, /* weight rows at a time */
        ROW_PAD = 32,                   /* so that a tile's rows lie in different sets of the first cache */
        MOST = 4,                       /* blocks that are unpacked during a step */
};

_Static_assert(AMX_GROUPS == 2 && UNITS == 4, "tiles 0 to 3");

struct slab {
        _Alignas(64) uint16_t rows[ROWS][CHUNK + ROW_PAD];
};

/* Weight rows; the last one stands in for those that are missing. */
struct weights {
        struct group groups[AMX_GROUPS];
};

/* A chunk of weight rows that is being unpacked, block after block. */
struct coming {
        const struct weights *w;
        struct slab *slab;
        uint32_t from, cols;  /* columns [from, from + cols) */
        uint32_t row, at;     /* the next block: row ROWS: there is none; columns from `from` on */
        uint32_t n;           /* blocks of this step */
        struct {
                const uint8_t *src;
                uint16_t *dst;
                uint32_t cols;
                _Alignas(64) float scales[16];
        } now[MOST];
};

struct work {
        struct slab slabs[2];
        struct weights weights[2];
        struct coming coming;
        _Alignas(64) float acc[AMX_GROUPS][AMX_PANELS_MAX][GROUP_ROWS][PANEL_ROWS];
};

/* Constant: functions that take one are inlined for it. */
struct format_bf16 {
        enum quant_type type;
        size_t block_bytes;
        uint32_t block; /* columns: 256, 32, or 0: dequantised by the type's own function */
        /* Of a block of 256: what its units are scaled with, and unit v of it in two halves; */
        void (*scales)(float scales[16], const uint8_t *block);
        void (*unit)(uint16_t *low, uint16_t *high, const uint8_t *block, int v, const float scales[16]);
        /* a block of 32. */
        void (*unpack)(uint16_t *dst, const uint8_t *block);
};

/* --- unpacking --------------------------------------------------------------------------------------------------- */

ALWAYS_INLINE __m512 half(uint16_t h) {
        return _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
}

/* The values of codes 0 to 15: a × level + b. */
ALWAYS_INLINE __m512i table_16(__m512 levels, __m512 a, __m512 b) {
        return _mm512_castsi256_si512((__m256i) _mm512_cvtneps_pbh(_mm512_fmadd_ps(levels, a, b)));
}

ALWAYS_INLINE __m512i table_32(__m512 levels, __m512 a, __m512 b) {
        __m512 upper = _mm512_fmadd_ps(levels + _mm512_set1_ps(16.0f), a, b);

        return to_bf16(_mm512_fmadd_ps(levels, a, b), upper);
}

ALWAYS_INLINE __m512 codes_16(void) {
        return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

ALWAYS_INLINE __m512i words(const uint8_t *bytes) {
        return _mm512_cvtepu8_epi16(load256(bytes));
}

/* The low nibbles of 16 bytes, then the high ones. */
ALWAYS_INLINE __m512i nibble_words(const uint8_t *q) {
        __m256i w = _mm256_cvtepu8_epi16(load128(q));

        return halves(_mm256_and_si256(w, _mm256_set1_epi16(15)), _mm256_srli_epi16(w, 4));
}

ALWAYS_INLINE void put(uint16_t *dst, __m512i codes, __m512i table) {
        _mm512_store_si512(dst, _mm512_permutexvar_epi16(codes, table));
}

/* Sixteen and sixteen whole numbers of a byte, times a and b. */
ALWAYS_INLINE void put_bytes(uint16_t *dst, __m256i q, __m512 a, __m512 b) {
        __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(q)));
        __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(q, 1)));

        _mm512_store_si512(dst, to_bf16(low * a, high * b));
}

/* Of Q4_K and Q5_K: d × scale of sub-blocks 0 to 7, then -dmin × min of them. */
ALWAYS_INLINE void scales_q45_k(float scales[16], const uint8_t *block) {
        const __m512i order = _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15);
        const struct block_q4_k *b = (const struct block_q4_k *) block;
        __m512i bytes = q4_k_scales(all_quarters(load128(block)));
        __m512 v = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm512_castsi512_si128(bytes)));

        v = v * _mm512_mask_blend_ps(0xf0f0, half(b->d), -half(b->dmin));
        _mm512_store_ps(scales, _mm512_permutexvar_ps(order, v));
}

ALWAYS_INLINE __m512 values_of(__m512 levels, float a, float b) {
        return _mm512_fmadd_ps(levels, _mm512_set1_ps(a), _mm512_set1_ps(b));
}

ALWAYS_INLINE void unit_q4_k(uint16_t *low, uint16_t *high, const uint8_t *block, int v, const float scales[16]) {
        const struct block_q4_k *b = (const struct block_q4_k *) block;
        __m512i table = to_bf16(values_of(codes_16(), scales[2 * v], scales[8 + 2 * v]),
                                values_of(codes_16(), scales[2 * v + 1], scales[9 + 2 * v]));
        __m512i w = _mm512_or_si512(words(b->q + 32 * v), _mm512_set1_epi16(0x100));

        put(low, _mm512_and_si512(w, _mm512_set1_epi16(15)), table);
        put(high, _mm512_srli_epi16(w, 4), table);
}

ALWAYS_INLINE void unit_q5_k(uint16_t *low, uint16_t *high, const uint8_t *block, int v, const float scales[16]) {
        const struct block_q5_k *b = (const struct block_q5_k *) block;
        __m512i w = words(b->q + 32 * v), fifth = _mm512_set1_epi16(16);
        __m512i top = _mm512_srli_epi16(_mm512_slli_epi16(words(b->qh), 4), 2 * v);

        put(low, _mm512_or_si512(_mm512_and_si512(w, _mm512_set1_epi16(15)), _mm512_and_si512(top, fifth)),
            table_32(codes_16(), _mm512_set1_ps(scales[2 * v]), _mm512_set1_ps(scales[8 + 2 * v])));
        put(high, _mm512_or_si512(_mm512_srli_epi16(w, 4), _mm512_and_si512(_mm512_srli_epi16(top, 1), fifth)),
            table_32(codes_16(), _mm512_set1_ps(scales[2 * v + 1]), _mm512_set1_ps(scales[9 + 2 * v])));
}

ALWAYS_INLINE void scales_q6_k_float(float scales[16], const uint8_t *block) {
        const struct block_q6_k *b = (const struct block_q6_k *) block;

        _mm512_store_ps(scales, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load128(b->scales))) * half(b->d));
}

ALWAYS_INLINE void unit_q6_k(uint16_t *low, uint16_t *high, const uint8_t *block, int v, const float scales[16]) {
        __m512i q = _mm512_sub_epi8(values_q6_k(block, v), _mm512_set1_epi8(32));

        put_bytes(low, _mm512_castsi512_si256(q), _mm512_set1_ps(scales[4 * v]), _mm512_set1_ps(scales[4 * v + 1]));
        put_bytes(high, _mm512_extracti64x4_epi64(q, 1), _mm512_set1_ps(scales[4 * v + 2]),
                  _mm512_set1_ps(scales[4 * v + 3]));
}

ALWAYS_INLINE __m512 level_values(const int8_t levels[16]) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load128(levels)));
}

ALWAYS_INLINE void scales_iq4_xs_float(float scales[16], const uint8_t *block) {
        const struct block_iq4_xs *b = (const struct block_iq4_xs *) block;

        _mm512_store_ps(scales, _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(scales_iq4_xs(block))) * half(b->d));
}

ALWAYS_INLINE void unit_iq4_xs(uint16_t *low, uint16_t *high, const uint8_t *block, int v, const float scales[16]) {
        const struct block_iq4_xs *b = (const struct block_iq4_xs *) block;
        __m512 levels = level_values(quant_levels_iq4);
        __m512i table = to_bf16(levels * _mm512_set1_ps(scales[4 * v]), levels * _mm512_set1_ps(scales[4 * v + 2]));

        put(low, nibble_words(b->q + 32 * v), table);
        put(high, _mm512_or_si512(nibble_words(b->q + 32 * v + 16), _mm512_set1_epi16(16)), table);
}

/* Blocks of 32. */

ALWAYS_INLINE void unpack_q8_0(uint16_t *dst, const uint8_t *block) {
        const struct block_q8_0 *b = (const struct block_q8_0 *) block;
        __m512 d = half(b->d);

        put_bytes(dst, load256(b->q), d, d);
}

ALWAYS_INLINE void unpack_q4_0(uint16_t *dst, const uint8_t *block) {
        const struct block_q4_0 *b = (const struct block_q4_0 *) block;

        put(dst, nibble_words(b->q), table_16(codes_16() - _mm512_set1_ps(8.0f), half(b->d), _mm512_setzero_ps()));
}

ALWAYS_INLINE void unpack_q4_1(uint16_t *dst, const uint8_t *block) {
        const struct block_q4_1 *b = (const struct block_q4_1 *) block;

        put(dst, nibble_words(b->q), table_16(codes_16(), half(b->d), half(b->m)));
}

/* Bit i of `high`: the fifth of code i. */
ALWAYS_INLINE __m512i codes_32(const uint8_t *q, uint32_t high) {
        __m512i low = nibble_words(q);

        return _mm512_mask_add_epi16(low, high, low, _mm512_set1_epi16(16));
}

ALWAYS_INLINE void unpack_q5_0(uint16_t *dst, const uint8_t *block) {
        const struct block_q5_0 *b = (const struct block_q5_0 *) block;

        put(dst, codes_32(b->q, b->qh), table_32(codes_16() - _mm512_set1_ps(16.0f), half(b->d), _mm512_setzero_ps()));
}

ALWAYS_INLINE void unpack_q5_1(uint16_t *dst, const uint8_t *block) {
        const struct block_q5_1 *b = (const struct block_q5_1 *) block;

        put(dst, codes_32(b->q, b->qh), table_32(codes_16(), half(b->d), half(b->m)));
}

ALWAYS_INLINE void unpack_iq4_nl(uint16_t *dst, const uint8_t *block) {
        const struct block_iq4_nl *b = (const struct block_iq4_nl *) block;

        put(dst, nibble_words(b->q), table_16(level_values(quant_levels_iq4), half(b->d), _mm512_setzero_ps()));
}

ALWAYS_INLINE void unpack_mxfp4(uint16_t *dst, const uint8_t *block) {
        const struct block_mxfp4 *b = (const struct block_mxfp4 *) block;

        put(dst, nibble_words(b->q),
            table_16(level_values(quant_levels_fp4), _mm512_set1_ps(half_e8m0(b->e)), _mm512_setzero_ps()));
}

/* 32 columns read in place. */
ALWAYS_INLINE void unpack_bf16(uint16_t *dst, const uint8_t *block) {
        _mm512_store_si512(dst, load512(block));
}

/* Any type, by its definition. */
static void unpack_any(uint16_t *dst, const uint8_t *src, uint32_t n, enum quant_type type) {
        _Alignas(64) float values[BLOCK];

        cpu_variant_dequantize(&cpu_variant_amx, type)(values, src, n);
        memset(values + n, 0, (BLOCK - n) * sizeof(*values));
        for (uint32_t i = 0; i < n; i += STEP)
                _mm512_store_si512(dst + i, to_bf16(_mm512_load_ps(values + i), _mm512_load_ps(values + i + 16)));
}

ALWAYS_INLINE size_t bytes_before(uint32_t column, struct format_bf16 f) {
        return f.block ? column / f.block * f.block_bytes : quant_row_bytes(quant_info(f.type), column);
}

/* Fetches what the rows after these have where these have the bytes at `src`. */
ALWAYS_INLINE void fetch_ahead(const struct weights *w, const uint8_t *src, size_t bytes) {
        const struct group *g = &w->groups[0];

        if (g->ahead)
                for (size_t i = 0; i < bytes; i += 64)
                        _mm_prefetch(g->ahead + (src - g->row[0]) + i, _MM_HINT_T1);
}

/* Up to n ≤ MOST more blocks become those of this step. */
ALWAYS_INLINE void take_blocks(struct coming *c, uint32_t n, struct format_bf16 f) {
        for (c->n = 0; c->n < n && c->row < ROWS; c->n++) {
                const uint8_t *row = c->w->groups[c->row / GROUP_ROWS].row[c->row % GROUP_ROWS];
                uint32_t i = c->n;

                c->now[i].src = row + bytes_before(c->from + c->at, f);
                c->now[i].dst = c->slab->rows[c->row] + c->at;
                c->now[i].cols = MIN(c->cols - c->at, (uint32_t) BLOCK);
                if (f.block == BLOCK)
                        f.scales(c->now[i].scales, c->now[i].src);
                fetch_ahead(c->w, c->now[i].src, bytes_before(BLOCK, f));
                c->at += BLOCK;
                if (c->at >= c->cols) {
                        c->at = 0;
                        c->row++;
                }
        }
}

/* Unit v of this step's blocks. */
ALWAYS_INLINE void unpack_unit(const struct coming *c, int v, struct format_bf16 f) {
        for (uint32_t i = 0; i < c->n; i++) {
                uint16_t *dst = c->now[i].dst + v * (BLOCK / UNITS);
                const uint8_t *src = c->now[i].src;

                if (f.block == BLOCK) {
                        f.unit(dst, dst + STEP, src, v, c->now[i].scales);
                } else if (f.block == STEP) {
                        uint32_t there = c->now[i].cols / STEP;

                        if (2 * (uint32_t) v < there)
                                f.unpack(dst, src + (size_t) (2 * v) * f.block_bytes);
                        if (2 * (uint32_t) v + 1 < there)
                                f.unpack(dst + STEP, src + (size_t) (2 * v + 1) * f.block_bytes);
                } else if (v == 0) {
                        unpack_any(dst, src, c->now[i].cols, f.type);
                }
        }
}

/* All blocks that are left. */
ALWAYS_INLINE void unpack_rest(struct coming *c, struct format_bf16 f) {
        while (c->row < ROWS) {
                take_blocks(c, 1, f);
                UNROLL for (int v = 0; v < UNITS; v++) unpack_unit(c, v, f);
        }
        c->n = 0;
}

/* --- multiplying ------------------------------------------------------------------------------------------------- */

/* A chunk's products with one panel or two: what of them has been added up is in tiles 0 to 3. */
struct product {
        const struct slab *slab;
        const char *x0, *x1; /* panels, from the chunk's columns on */
        uint32_t steps;
        float (*acc[AMX_GROUPS])[GROUP_ROWS][PANEL_ROWS];
        bool more; /* to be added to what is in acc */
        /* Of the coming chunk's blocks, so many 65536ths in a step. */
        uint32_t rate;
};

#define LOAD_A(_tile, _group)                                                                                \
        AMX_LOAD(_tile, p->slab->rows[(_group) * GROUP_ROWS] + s * STEP, sizeof(p->slab->rows[0]))
#define LOAD_X(_tile, _x) AMX_LOAD(_tile, (_x) + s * AMX_TILE_BYTES, AMX_ROW_BYTES)

ALWAYS_INLINE void multiply(const struct product *p, bool two, struct coming *c, uint32_t *due, struct format_bf16 f) {
        if (p->more) {
                AMX_LOAD(0, p->acc[0][0], 64);
                AMX_LOAD(1, p->acc[1][0], 64);
        } else {
                AMX_ZERO(0);
                AMX_ZERO(1);
        }
        if (two && p->more) {
                AMX_LOAD(2, p->acc[0][1], 64);
                AMX_LOAD(3, p->acc[1][1], 64);
        } else if (two) {
                AMX_ZERO(2);
                AMX_ZERO(3);
        }
        for (size_t s = 0; s < p->steps; s++) {
                LOAD_X(6, p->x0);
                LOAD_A(4, 0);
                AMX_DOT_BF16(0, 4, 6);
                take_blocks(c, *due >> 16, f);
                *due = (*due & 0xffff) + p->rate;
                unpack_unit(c, 0, f);
                LOAD_A(5, 1);
                AMX_DOT_BF16(1, 5, 6);
                unpack_unit(c, 1, f);
                if (two) {
                        LOAD_X(7, p->x1);
                        AMX_DOT_BF16(2, 4, 7);
                }
                unpack_unit(c, 2, f);
                if (two)
                        AMX_DOT_BF16(3, 5, 7);
                unpack_unit(c, 3, f);
        }
        AMX_STORE(0, p->acc[0][0], 64);
        AMX_STORE(1, p->acc[1][0], 64);
        if (two) {
                AMX_STORE(2, p->acc[0][1], 64);
                AMX_STORE(3, p->acc[1][1], 64);
        }
}

/* A chunk of columns [from, from + cols) with all panels, two at a time; x: the first of them. */
ALWAYS_INLINE void multiply_chunk(const struct slab *slab, const char *x, size_t panel_bytes, uint32_t panels,
                                  uint32_t from, uint32_t cols, struct work *k, struct format_bf16 f) {
        struct coming *c = &k->coming;
        struct product p = {.slab = slab, .steps = DIV_ROUND_UP(cols, (uint32_t) STEP), .more = from > 0};
        uint32_t blocks = c->row < ROWS ? ROWS * DIV_ROUND_UP(c->cols, (uint32_t) BLOCK) : 0;
        uint32_t rate = (blocks << 16) / (DIV_ROUND_UP(panels, 2U) * p.steps) + 1, due;

        p.rate = due = MIN(rate, (uint32_t) MOST << 16);
        for (uint32_t i = 0; i < panels; i += 2) {
                p.x0 = x + i * panel_bytes + from / STEP * AMX_TILE_BYTES;
                p.x1 = p.x0 + panel_bytes;
                p.acc[0] = &k->acc[0][i];
                p.acc[1] = &k->acc[1][i];
                if (i + 1 < panels)
                        multiply(&p, true, c, &due, f);
                else
                        multiply(&p, false, c, &due, f);
        }
        unpack_rest(c, f);
}

static void weights_at(struct weights *w, const struct dot_job *job, uint32_t row) {
        w->groups[0] = w->groups[1] = group_at(job, row, ROWS);
        if (row + GROUP_ROWS < job->end)
                w->groups[1] = group_at(job, row + GROUP_ROWS, ROWS);
        else
                w->groups[1].there = 0;
}

/* The chunk after the one at row and `from` begins to come; false: there is none. */
ALWAYS_INLINE bool come(const struct dot_job *job, uint32_t row, uint32_t from, uint32_t turn, struct work *k) {
        struct coming *c = &k->coming;

        c->from = from + CHUNK;
        if (c->from >= job->cols) {
                c->from = 0;
                row += ROWS;
                if (row >= job->end)
                        return false;
                c->w = c->w == &k->weights[0] ? &k->weights[1] : &k->weights[0];
                weights_at((struct weights *) c->w, job, row);
        }
        c->cols = MIN(job->cols - c->from, (uint32_t) CHUNK);
        c->slab = &k->slabs[turn % 2];
        c->row = c->at = 0;
        return true;
}

/* Activation rows t to t + n - 1 with all weight rows. */
ALWAYS_INLINE void rows_bf16(const struct dot_job *job, uint32_t t, uint32_t n, struct work *k, struct format_bf16 f) {
        size_t bytes = panel_bytes(DOT_BF16, job->cols);
        const char *x = (const char *) job->panels + t / PANEL_ROWS * bytes;
        uint32_t panels = DIV_ROUND_UP(n, (uint32_t) PANEL_ROWS), turn = 0;
        bool more = true;

        k->coming = (struct coming) {&k->weights[0], &k->slabs[0], .cols = MIN(job->cols, (uint32_t) CHUNK)};
        weights_at(&k->weights[0], job, job->begin);
        unpack_rest(&k->coming, f);
        for (uint32_t row = job->begin; more; row += ROWS) {
                const struct weights *w = k->coming.w;

                for (uint32_t from = 0; from < job->cols; from += CHUNK) {
                        const struct slab *slab = k->coming.slab;

                        more = come(job, row, from, ++turn, k);
                        multiply_chunk(slab, x, bytes, panels, from, MIN(job->cols - from, (uint32_t) CHUNK), k, f);
                }
                for (uint32_t g = 0; g < AMX_GROUPS; g++)
                        if (w->groups[g].there)
                                amx_store(job, &w->groups[g], row + g * GROUP_ROWS, t, n, k->acc[g]);
        }
}

ALWAYS_INLINE void dot_bf16(const struct dot_job *job, struct format_bf16 f) {
        static const struct amx_config config = {
                .palette = 1,
                .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                .rows = {16, 16, 16, 16, 16, 16, 16, 16},
        };
        struct work k;

        amx_begin(&config);
        for (uint32_t t = 0; t < job->n; t += AMX_PANELS_MAX * PANEL_ROWS)
                rows_bf16(job, t, MIN(job->n - t, (uint32_t) AMX_PANELS_MAX * PANEL_ROWS), &k, f);
        amx_end();
}

#define BLOCKS_OF_256(_name, _scales)                                                                        \
        static void of_##_name(const struct dot_job *job) {                                                  \
                dot_bf16(job, (struct format_bf16) {                                                         \
                        .block_bytes = sizeof(struct block_##_name),                                         \
                        .block = 256,                                                                        \
                        .scales = scales_##_scales,                                                          \
                        .unit = unit_##_name,                                                                \
                });                                                                                          \
        }

#define BLOCKS_OF_32(_name, _bytes)                                                                          \
        static void of_##_name(const struct dot_job *job) {                                                  \
                dot_bf16(job, (struct format_bf16) {.block_bytes = _bytes, .block = 32, .unpack = unpack_##_name}); \
        }

BLOCKS_OF_256(q4_k, q45_k)
BLOCKS_OF_256(q5_k, q45_k)
BLOCKS_OF_256(q6_k, q6_k_float)
BLOCKS_OF_256(iq4_xs, iq4_xs_float)
BLOCKS_OF_32(q8_0, sizeof(struct block_q8_0))
BLOCKS_OF_32(q4_0, sizeof(struct block_q4_0))
BLOCKS_OF_32(q4_1, sizeof(struct block_q4_1))
BLOCKS_OF_32(q5_0, sizeof(struct block_q5_0))
BLOCKS_OF_32(q5_1, sizeof(struct block_q5_1))
BLOCKS_OF_32(iq4_nl, sizeof(struct block_iq4_nl))
BLOCKS_OF_32(mxfp4, sizeof(struct block_mxfp4))
BLOCKS_OF_32(bf16, STEP * sizeof(uint16_t))

void dot_prompt_amx(const struct dot_job *job, enum quant_type type) {
        static dot_fn *const dot[_QUANT_MAX] = {
                [QUANT_Q4_K] = of_q4_k, [QUANT_Q5_K] = of_q5_k, [QUANT_Q6_K] = of_q6_k,     [QUANT_IQ4_XS] = of_iq4_xs,
                [QUANT_Q8_0] = of_q8_0, [QUANT_Q4_0] = of_q4_0, [QUANT_Q4_1] = of_q4_1,     [QUANT_Q5_0] = of_q5_0,
                [QUANT_Q5_1] = of_q5_1, [QUANT_MXFP4] = of_mxfp4, [QUANT_IQ4_NL] = of_iq4_nl, [QUANT_BF16] = of_bf16,
        };

        if (dot[type] && job->cols % STEP == 0)
                dot[type](job);
        else
                dot_bf16(job, (struct format_bf16) {.type = type});
}
