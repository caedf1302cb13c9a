/* SPDX-License-Identifier: MIT */
/* Rows of prompts by weights in blocks of 32 or 256, on the matrix unit: both as bytes with a scale for 256 columns,
 * which is half of the products and half of the bytes that bfloat16 takes (amx-bf16.c). Weights become bytes
 * (amx-requant.h) two groups by 256 columns at a time, a block ahead of their products and between those of the block
 * before; the sums of a block's products are whole numbers, which AVX-512 scales and adds up as float32 while others
 * are multiplied. All of it is one stream of instructions, from which the processor takes what can run.
 *
 * A load waits for stores before it that share the low 12 bits of its address and whose data is not there yet
 * (panel.h). So a step's loads and its stores lie in different halves of their pages, and one step's loads begin in the
 * half where the sums of the step before are not: steps take turns with the half of the block's columns that they begin
 * with. */

#include "amx-dot.h"
#include "amx-requant.h"
#include "tile.h"

enum {
        ROWS = AMX_GROUPS * GROUP_ROWS, /* weight rows at a time */
        HALF_PAGE = PANEL_ALIGN / 2,    /* of a group's bytes of a block, or a panel's */
        MANY_PANELS = 4,                /* from so many on, weights are unpacked in two steps */
        SCALES = 8,                     /* blocks whose scales are kept: of products two before, parameters two ahead */
        SLOTS = 8,                      /* pieces of other work between the products of half a block */
};

_Static_assert(sizeof(requant_tiles) == PANEL_ALIGN && REQUANT_COLS * PANEL_ROWS == PANEL_ALIGN, "pages");

/* Weight rows; the last one stands in for those that are missing. */
struct weights {
        struct group groups[AMX_GROUPS];
        uint32_t row;
};

/* A block of them. */
struct place {
        const struct weights *w; /* NULL: past the last */
        uint32_t block, number;  /* of the row's; of all */
};

/* Constant: functions that take one are inlined for it. */
struct format {
        size_t block_bytes;
        uint32_t block; /* columns: 256, or 32 */
        size_t codes;   /* where these begin in a block */
        void (*parameters)(struct requant_tables *t, float scale[16], const struct group *g, size_t at, uint32_t there);
        void (*values)(const struct requant_half *h, int row);
};

/* Products of a block with up to two panels. */
struct products {
        uint32_t panels;
        char *sums;             /* tiles of int32, 2 for each panel: a page apart, in one half of it */
        float *acc;             /* a page: for each panel, for each group [16 weight rows][16 activation rows] */
        __mmask16 begun;        /* lanes of acc that have something in them */
        const float *scales;    /* of the weights, for each group */
        const float *panel_scales[2];
};

struct work {
        _Alignas(PANEL_ALIGN) requant_tiles tiles[2][AMX_GROUPS];
        _Alignas(PANEL_ALIGN) char sums[2][PANEL_ALIGN];
        float acc[AMX_PANELS_MAX / 2][2][AMX_GROUPS][GROUP_ROWS][PANEL_ROWS];
        struct requant_tables tables[2][AMX_GROUPS];
        _Alignas(64) float scales[SCALES][AMX_GROUPS][GROUP_ROWS];
        struct products products[3]; /* of this step and the two before */
        struct weights weights[3];
        size_t panel_bytes;
        struct place unpacked, known; /* what is unpacked next; whose parameters are computed next */
};

/* --- unpacking --------------------------------------------------------------------------------------------------- */

ALWAYS_INLINE size_t bytes_of(uint32_t cols, struct format f) {
        return cols / f.block * f.block_bytes;
}

/* Blocks of 32 columns of a block of 256, or of what there is of it. */
static uint32_t parts_there(const struct dot_job *job, uint32_t block) {
        return MIN((job->cols - block * REQUANT_COLS) / 32, (uint32_t) REQUANT_COLS / 32);
}

ALWAYS_INLINE void compute_parameters(const struct dot_job *job, struct work *k, int group, struct format f) {
        const struct place *p = &k->known;

        if (p->w)
                f.parameters(&k->tables[p->number % 2][group], k->scales[p->number % SCALES][group],
                             &p->w->groups[group], bytes_of(p->block * REQUANT_COLS, f), parts_there(job, p->block));
}

ALWAYS_INLINE struct requant_half half_at(const struct dot_job *job, struct work *k, int group, uint32_t half,
                                          struct format f) {
        const struct place *p = &k->unpacked;
        const struct group *g = &p->w->groups[group];
        size_t at = bytes_of(p->block * REQUANT_COLS, f);
        struct requant_half h = {
                .to = k->tiles[p->number % 2][group] + 2 * half,
                .tables = &k->tables[p->number % 2][group],
                .rows = g->row,
                .at = at,
                .half = half,
        };

        if (g->ahead)
                h.ahead = g->ahead + GROUP_ROWS * at + half * bytes_of(REQUANT_COLS, f);
        for (uint32_t i = 0; i < 4; i++)
                if (f.block == REQUANT_COLS)
                        h.sub[i] = at + f.codes + 64 * half + 16 * i;
                else
                        h.sub[i] = at + f.codes + MIN(4 * half + i, parts_there(job, p->block) - 1) * f.block_bytes;
        return h;
}

/* Part i of eight: two rows. Also fetches that part of what the rows after these have in this block, half of it each
 * time. */
ALWAYS_INLINE void unpack_part(const struct requant_half *h, int i, struct format f) {
        const size_t bytes = bytes_of(REQUANT_COLS, f);

        f.values(h, 2 * i);
        f.values(h, 2 * i + 1);
        if (h->ahead)
                for (size_t at = 0; at < bytes; at += 64)
                        _mm_prefetch(h->ahead + 2 * (size_t) i * bytes + at, _MM_HINT_T1);
}

/* --- multiplying ------------------------------------------------------------------------------------------------- */

/* A panel's products that are added up, four weight rows at a time. */
struct addition {
        bool needed;
        const char *sums;
        float *acc;
        const float *scales;
        __mmask16 begun; /* lanes of acc that have something in them */
        __m512 scale, excess;
};

ALWAYS_INLINE struct addition addition_of(const struct products *p, uint32_t panel) {
        __m512 scale;

        if (panel >= p->panels)
                return (struct addition) {};
        scale = _mm512_load_ps(p->panel_scales[panel]);
        return (struct addition) {
                .needed = true,
                .sums = p->sums + panel * PANEL_ALIGN,
                .acc = p->acc + panel * (AMX_GROUPS * GROUP_ROWS * PANEL_ROWS),
                .scales = p->scales,
                .begun = p->begun,
                .scale = scale,
                .excess = scale * _mm512_set1_ps(-0x1.8p23f),
        };
}

/* Piece i of SLOTS: acc += sum × weights' scale × panel's. As bits of a float from 2^23 on, a whole number becomes one
 * without the port that floating-point instructions have to share. */
ALWAYS_INLINE void add_piece(const struct addition *a, int i) {
        const __m512i bits = _mm512_set1_epi32(0x4b400000); /* 1.5 × 2^23 */

        if (!a->needed)
                return;
        UNROLL for (int w = 4 * i; w < 4 * i + 4; w++) {
                __m512 sum = _mm512_castsi512_ps(_mm512_add_epi32(bits, load512(a->sums + w * AMX_ROW_BYTES)));
                __m512 acc = _mm512_maskz_load_ps(a->begun, a->acc + w * PANEL_ROWS);

                sum = _mm512_fmadd_ps(sum, a->scale, a->excess);
                _mm512_store_ps(a->acc + w * PANEL_ROWS, _mm512_fmadd_ps(sum, _mm512_set1_ps(a->scales[w]), acc));
        }
}

static void add_all(const struct products *p) {
        for (uint32_t panel = 0; panel < p->panels; panel++) {
                struct addition a = addition_of(p, panel);

                UNROLL for (int i = 0; i < SLOTS; i++) add_piece(&a, i);
        }
}

/* What goes on beside the products. */
struct beside {
        const struct products *last;   /* whose sums are in the tiles still, to be stored */
        const struct products *before; /* the ones before those, to be added up */
        int groups;                    /* to be unpacked */
        int group;                     /* the first of them */
};

#define SLOT(_i)                                                                                             \
        do {                                                                                                 \
                add_piece(&addition, (_i));                                                                  \
                if (beside.groups > 0)                                                                       \
                        unpack_part(&half[0], (_i), f);                                                      \
                if (beside.groups > 1)                                                                       \
                        unpack_part(&half[1], (_i), f);                                                      \
        } while (0)

/* Stores a tile of the products' sums, if they have it. */
#define STORE(_products, _tile)                                                                              \
        do {                                                                                                 \
                if ((_tile) / 2 < (_products)->panels)                                                       \
                        AMX_STORE_AT(_tile, (_products)->sums,                                               \
                                     (_tile) / 2 * PANEL_ALIGN + (_tile) % 2 * AMX_TILE_BYTES, AMX_ROW_BYTES); \
        } while (0)

/* Before the first product of a tile. */
#define RENEW(_tile)                                                                                         \
        do {                                                                                                 \
                if (v == 0 && turn == 0) {                                                                   \
                        STORE(beside.last, _tile);                                                           \
                        AMX_ZERO(_tile);                                                                     \
                }                                                                                            \
        } while (0)

/* A block's products with one panel or two, x1 - x0 bytes apart; half `first` of its columns comes first. What is
 * stored meanwhile lies in the other half of its page than what is loaded. */
ALWAYS_INLINE void multiply(const struct dot_job *job, struct work *k, const requant_tiles *tiles, const char *x0,
                            const char *x1, bool two, uint32_t first, struct beside beside, struct format f) {
        struct requant_half half[AMX_GROUPS];

        for (uint32_t turn = 0; turn < 2; turn++) {
                uint32_t loaded = first ^ turn;
                size_t at = loaded * HALF_PAGE;
                const char *a = (const char *) tiles + at, *b0 = x0 + at, *b1 = x1 + at;
                const struct addition addition = addition_of(beside.before, 1 ^ loaded);

                if (beside.groups > 0)
                        half[0] = half_at(job, k, beside.group, 1 ^ loaded, f);
                if (beside.groups > 1)
                        half[1] = half_at(job, k, 1, 1 ^ loaded, f);
                UNROLL for (int v = 0; v < 2; v++) {
                        AMX_LOAD_AT(4, a, v * AMX_TILE_BYTES, AMX_ROW_BYTES);
                        AMX_LOAD_ONCE_AT(6, b0, v * AMX_TILE_BYTES, AMX_ROW_BYTES);
                        RENEW(0);
                        AMX_DOT_S8_S8(0, 4, 6);
                        SLOT(4 * v);
                        AMX_LOAD_AT(5, a, PANEL_ALIGN + v * AMX_TILE_BYTES, AMX_ROW_BYTES);
                        RENEW(1);
                        AMX_DOT_S8_S8(1, 5, 6);
                        SLOT(4 * v + 1);
                        if (two)
                                AMX_LOAD_ONCE_AT(7, b1, v * AMX_TILE_BYTES, AMX_ROW_BYTES);
                        RENEW(2);
                        if (two)
                                AMX_DOT_S8_S8(2, 4, 7);
                        SLOT(4 * v + 2);
                        RENEW(3);
                        if (two)
                                AMX_DOT_S8_S8(3, 5, 7);
                        SLOT(4 * v + 3);
                }
                if (beside.groups > 1 || (beside.groups > 0 && turn == 1))
                        compute_parameters(job, k, beside.groups > 1 ? (int) turn : beside.group, f);
        }
}

/* Stores and adds up what is left of a row's products. */
static void finish(struct work *k, uint32_t turn) {
        const struct products *last = &k->products[(turn + 2) % 3], *before = &k->products[(turn + 1) % 3];

        add_all(before);
        STORE(last, 0);
        STORE(last, 1);
        STORE(last, 2);
        STORE(last, 3);
        add_all(last);
        memset(k->products, 0, sizeof(k->products));
}

static __attribute__((noinline)) void multiply_two(const requant_tiles *tiles, const char *x0, const char *x1,
                                                   uint32_t first, const struct products *last,
                                                   const struct products *before) {
        multiply(NULL, NULL, tiles, x0, x1, true, first, (struct beside) {last, before}, (struct format) {});
}

static __attribute__((noinline)) void multiply_one(const requant_tiles *tiles, const char *x0, uint32_t first,
                                                   const struct products *last, const struct products *before) {
        multiply(NULL, NULL, tiles, x0, x0, false, first, (struct beside) {last, before}, (struct format) {});
}

/* --- a job ------------------------------------------------------------------------------------------------------- */

static void weights_at(struct weights *w, const struct dot_job *job, uint32_t row) {
        w->row = row;
        w->groups[0] = w->groups[1] = group_at(job, row, ROWS);
        if (row + GROUP_ROWS < job->end)
                w->groups[1] = group_at(job, row + GROUP_ROWS, ROWS);
        else
                w->groups[1].there = 0;
}

/* On to the next block, which may be the first of the next weights. */
static void advance(const struct dot_job *job, struct work *k, struct place *p) {
        uint32_t row;

        if (!p->w)
                return;
        p->number++;
        if (++p->block * REQUANT_COLS < job->cols)
                return;
        p->block = 0;
        row = p->w->row + ROWS;
        p->w = NULL;
        if (row < job->end) {
                struct weights *w = &k->weights[(row - job->begin) / ROWS % ELEMENTS(k->weights)];

                weights_at(w, job, row);
                p->w = w;
        }
}

/* A step: two panels, or the last one. */
ALWAYS_INLINE void step(const struct dot_job *job, struct work *k, const struct place *now, const char *x,
                        uint32_t panel, uint32_t panels, uint32_t turn, struct format f) {
        size_t bytes = k->panel_bytes;
        const char *x0 = x + panel * bytes + (size_t) now->block * PANEL_ALIGN, *x1 = x0 + bytes;
        struct products *p = &k->products[turn % 3];
        const struct products *last = &k->products[(turn + 2) % 3], *before = &k->products[(turn + 1) % 3];
        const requant_tiles *tiles = k->tiles[now->number % 2];
        uint32_t first = turn % 2;

        *p = (struct products) {
                .panels = MIN(panels - panel, 2U),
                .sums = k->sums[0] + first * HALF_PAGE,
                .acc = k->acc[panel / 2][0][0][0],
                .begun = now->block > 0 ? 0xffff : 0,
                .scales = k->scales[now->number % SCALES][0],
        };
        for (uint32_t i = 0; i < p->panels; i++) {
                const struct panel_256 *scales = panel_scales(DOT_Q8_256, x + (panel + i) * bytes, job->cols);

                p->panel_scales[i] = scales[now->block].d;
        }
        if (!k->unpacked.w || panel > 2 || (panel > 0 && panels < MANY_PANELS)) {
                if (p->panels == 2)
                        multiply_two(tiles, x0, x1, first, last, before);
                else
                        multiply_one(tiles, x0, first, last, before);
        } else if (panels >= MANY_PANELS) {
                multiply(job, k, tiles, x0, x1, true, first, (struct beside) {last, before, 1, panel / 2}, f);
        } else if (panels > 1) {
                multiply(job, k, tiles, x0, x1, true, first, (struct beside) {last, before, 2, 0}, f);
        } else {
                multiply(job, k, tiles, x0, x1, false, first, (struct beside) {last, before, 2, 0}, f);
        }
}

/* The outputs of products with activation rows t to t + n - 1. */
static void store(const struct dot_job *job, struct work *k, const struct weights *w, uint32_t t, uint32_t n) {
        for (uint32_t g = 0; g < AMX_GROUPS; g++)
                for (uint32_t i = 0; w->groups[g].there && i < n; i += PANEL_ROWS)
                        amx_store(job, &w->groups[g], w->row + g * GROUP_ROWS, t + i, MIN(n - i, (uint32_t) PANEL_ROWS),
                                  &k->acc[i / PANEL_ROWS / 2][i / PANEL_ROWS % 2][g]);
}

/* The same as columns. */
static void store_columns(const struct dot_job *job, const struct work *k, const struct weights *w, uint32_t t,
                          uint32_t n) {
        for (uint32_t i = 0; i < n; i += PANEL_ROWS)
                for (uint32_t g = 0; g < AMX_GROUPS; g++) {
                        uint32_t row = w->row + g * GROUP_ROWS;
                        uint32_t rows = MIN(job->end - MIN(row, job->end), (uint32_t) GROUP_ROWS);
                        const float (*acc)[PANEL_ROWS] = k->acc[i / PANEL_ROWS / 2][i / PANEL_ROWS % 2][g];
                        float *to = job->columns + (size_t) (t + i) * (job->end - job->begin) +
                                    (row - job->begin) * PANEL_ROWS;

                        for (uint32_t r = 0; r < rows; r++) {
                                __m512 v = _mm512_load_ps(acc[r]);

                                if (job->bias)
                                        v = v + _mm512_set1_ps(job->bias[row + r]);
                                _mm512_store_ps(to + r * PANEL_ROWS, v);
                        }
                }
}

/* The first block, while nothing is multiplied; and the parameters of the second. */
ALWAYS_INLINE void begin(const struct dot_job *job, struct work *k, struct format f) {
        weights_at(&k->weights[0], job, job->begin);
        k->unpacked = k->known = (struct place) {.w = &k->weights[0]};
        for (int g = 0; g < AMX_GROUPS; g++)
                compute_parameters(job, k, g, f);
        advance(job, k, &k->known);
        for (int g = 0; g < AMX_GROUPS; g++) {
                for (uint32_t h = 0; h < 2; h++) {
                        struct requant_half half = half_at(job, k, g, h, f);

                        for (int i = 0; i < SLOTS; i++)
                                unpack_part(&half, i, f);
                }
                compute_parameters(job, k, g, f);
        }
}

/* Activation rows t to t + n - 1 with all weight rows. */
ALWAYS_INLINE void rows_requantised(const struct dot_job *job, uint32_t t, uint32_t n, struct work *k,
                                    struct format f) {
        const char *x = (const char *) job->panels + t / PANEL_ROWS * k->panel_bytes;
        uint32_t panels = DIV_ROUND_UP(n, (uint32_t) PANEL_ROWS), turn = 0;
        struct place now;

        begin(job, k, f);
        memset(k->products, 0, sizeof(k->products));
        for (now = k->unpacked; now.w; now = k->unpacked) {
                advance(job, k, &k->unpacked);
                advance(job, k, &k->known);
                for (uint32_t panel = 0; panel < panels; panel += 2, turn++)
                        step(job, k, &now, x, panel, panels, turn, f);
                if ((now.block + 1) * REQUANT_COLS < job->cols)
                        continue;
                finish(k, turn);
                if (job->columns)
                        store_columns(job, k, now.w, t, n);
                else
                        store(job, k, now.w, t, n);
        }
}

ALWAYS_INLINE void dot_requantised(const struct dot_job *job, struct format f) {
        static const struct amx_config config = AMX_WHOLE_TILES;
        struct work k;

        k.panel_bytes = panel_bytes(DOT_Q8_256, job->cols);
        amx_begin(&config);
        for (uint32_t t = 0, most = amx_rows_at_a_time(job->n); t < job->n; t += most)
                rows_requantised(job, t, MIN(job->n - t, most), &k, f);
        amx_end();
}

#define REQUANTISED(_name, _block, _codes)                                                                   \
        static void of_##_name(const struct dot_job *job) {                                                  \
                dot_requantised(job, (struct format) {                                                       \
                        .block_bytes = sizeof(struct block_##_name),                                         \
                        .block = _block,                                                                     \
                        .codes = offsetof(struct block_##_name, _codes),                                     \
                        .parameters = parameters_##_name,                                                    \
                        .values = values_of_##_name,                                                         \
                });                                                                                          \
        }

REQUANTISED(q4_k, 256, q)
REQUANTISED(q5_k, 256, q)
REQUANTISED(q6_k, 256, ql)
REQUANTISED(iq4_xs, 256, q)
REQUANTISED(q4_0, 32, q)
REQUANTISED(q4_1, 32, q)
REQUANTISED(q5_0, 32, q)
REQUANTISED(q5_1, 32, q)
REQUANTISED(iq4_nl, 32, q)
REQUANTISED(q8_0, 32, q)
REQUANTISED(mxfp4, 32, q)

dot_fn *dot_requantised_amx(enum quant_type type) {
        static dot_fn *const dot[_QUANT_MAX] = {
                [QUANT_Q4_K] = of_q4_k, [QUANT_Q5_K] = of_q5_k, [QUANT_Q6_K] = of_q6_k,     [QUANT_IQ4_XS] = of_iq4_xs,
                [QUANT_Q4_0] = of_q4_0, [QUANT_Q4_1] = of_q4_1, [QUANT_Q5_0] = of_q5_0,     [QUANT_Q5_1] = of_q5_1,
                [QUANT_IQ4_NL] = of_iq4_nl, [QUANT_MXFP4] = of_mxfp4, [QUANT_Q8_0] = of_q8_0,
        };

        return dot[type];
}
