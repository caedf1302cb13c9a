/* SPDX-License-Identifier: MIT */
/* Rows of prompts by weights that do not become bytes (amx-prompt.c), on the matrix unit: weights and activations
 * are rounded to bfloat16, multiplied, and added up as float32 in one tile, column after column, whatever rows are in
 * the job. That is half the products that exact whole numbers take (amx-256.c), and nothing is left to be done per
 * block.
 *
 * Weights are unpacked a block ahead of their first products, between these: in larger pieces AVX-512's work would fill
 * up the processor's scheduler, and it would not see the tiles that come next. With few panels a group is multiplied
 * with all of them at once, and its weights never leave the first cache. With more of them two groups are multiplied
 * with two panels at a time: the first two while weights are unpacked, which then are in the second cache for the
 * others. What comes from there takes longer than its products: so sums need not leave their tiles for a smaller
 * cache's sake. */

#include "amx-dot.h"
#include "group-256.h"
#include "tile.h"

enum {
        STEP = 32,    /* columns of a tile */
        BLOCK = 256,  /* columns that are unpacked together, two rows of each group in a step */
        STEPS = BLOCK / STEP,
        CHUNK = 2048, /* columns that are added up in a tile */
        ROWS = AMX_GROUPS * GROUP_ROWS, /* weight rows at a time */
        FEW_PANELS = 4, /* that are multiplied with a group alone, all of them at once */
        SLAB_BLOCKS = CHUNK / BLOCK + 1,
        ROW_PAD = 32, /* so that a tile's rows lie in different sets of the caches */
};

_Static_assert(AMX_GROUPS == 2, "tiles 0 to 5");

/* Weight rows; the last one stands in for those that are missing. */
struct weights {
        struct group groups[AMX_GROUPS];
};

typedef uint16_t block_rows[GROUP_ROWS][BLOCK + ROW_PAD];

/* Unpacked weights: blocks of columns, used in turn. */
struct slab {
        _Alignas(PANEL_ALIGN) block_rows blocks[AMX_GROUPS][SLAB_BLOCKS];
};

/* A block that is being unpacked. */
struct coming {
        const struct weights *w; /* NULL: none is */
        size_t at;               /* its first byte in each row */
        uint32_t cols, slot;
};

struct work {
        struct slab slab;
        _Alignas(64) float acc[AMX_GROUPS][AMX_PANELS_MAX][GROUP_ROWS][PANEL_ROWS];
        struct weights weights[2];
        struct coming coming;
};

/* Constant: functions that take one are inlined for it. */
struct format_bf16 {
        enum quant_type type;
        bool plain; /* they are bfloat16, in whole tiles: taken as they are, not dequantised */
};

/* --- unpacking --------------------------------------------------------------------------------------------------- */

/* Any type, by its definition. */
static void unpack_any(uint16_t *dst, const uint8_t *src, uint32_t n, enum quant_type type) {
        _Alignas(64) float values[BLOCK];

        cpu_variant_dequantize(&cpu_variant_amx, type)(values, src, n);
        memset(values + n, 0, (BLOCK - n) * sizeof(*values));
        for (uint32_t i = 0; i < n; i += STEP)
                _mm512_store_si512(dst + i, to_bf16(_mm512_load_ps(values + i), _mm512_load_ps(values + i + 16)));
}

ALWAYS_INLINE size_t bytes_before(uint32_t column, struct format_bf16 f) {
        return f.plain ? column * sizeof(uint16_t) : quant_row_bytes(quant_info(f.type), column);
}

/* Fetches what the rows after these have where this row has its block. */
ALWAYS_INLINE void fetch_ahead(const struct coming *c, uint32_t row, struct format_bf16 f) {
        const struct group *g = &c->w->groups[0];

        if (g->ahead)
                for (size_t i = 0; i < bytes_before(BLOCK, f); i += 64)
                        _mm_prefetch(g->ahead + row * g->row_bytes + c->at + i, _MM_HINT_T1);
}

/* Half of a row's block, or of what there is of it. */
ALWAYS_INLINE void unpack_half(struct coming *c, struct slab *slab, int group, uint32_t row, int half,
                               struct format_bf16 f) {
        const uint8_t *src = c->w->groups[group].row[row] + c->at;
        uint16_t *dst = slab->blocks[group][c->slot][row] + half * (BLOCK / 2);
        const int first = half * (STEPS / 2);

        if (half == 0)
                fetch_ahead(c, (uint32_t) group * GROUP_ROWS + row, f);
        if (f.plain) {
                int there = (int) (c->cols / STEP);

                UNROLL for (int i = 0; i < STEPS / 2; i++)
                        if (first + i < there)
                                _mm512_store_si512(dst + i * STEP,
                                                   load512(src + bytes_before((uint32_t) (first + i) * STEP, f)));
        } else if (half == 0) {
                unpack_any(dst, src, c->cols, f.type);
        }
}

/* A quarter of what is unpacked in step s of a block's eight: of two rows of each group. */
ALWAYS_INLINE void unpack_part(struct work *k, uint32_t s, int part, int groups, struct format_bf16 f) {
        uint32_t row = 2 * s + (uint32_t) part / 2;

        if (k->coming.w) {
                unpack_half(&k->coming, &k->slab, 0, row, part % 2, f);
                if (groups > 1)
                        unpack_half(&k->coming, &k->slab, 1, row, part % 2, f);
        }
}

ALWAYS_INLINE void unpack_steps(struct work *k, uint32_t s, int groups, struct format_bf16 f) {
        for (; s < STEPS; s++)
                for (int part = 0; part < 4; part++)
                        unpack_part(k, s, part, groups, f);
}

/* --- multiplying ------------------------------------------------------------------------------------------------- */

/* A chunk's products with one panel or two: what of them has been added up is in tiles 0 to 3. */
struct product {
        const struct weights *w, *next; /* the chunk after this one is of `next`, or NULL */
        uint32_t from, cols, next_from, next_cols;
        uint32_t rows;        /* weight rows at a time */
        uint32_t slot, slots; /* of the chunk's first block; so many are in use */
        const char *x0, *x1;  /* panels, from the chunk's columns on */
        float (*acc[AMX_GROUPS])[GROUP_ROWS][PANEL_ROWS];
        bool more; /* to be added to what is in acc */
};

/* The block that many after the chunk's first begins to come. */
ALWAYS_INLINE void come(struct work *k, const struct product *p, uint32_t block, struct format_bf16 f) {
        bool same = block * BLOCK < p->cols;
        uint32_t from = same ? p->from + block * BLOCK : p->next_from;
        uint32_t end = same ? p->from + p->cols : p->next_from + p->next_cols;

        k->coming.w = same ? p->w : p->next;
        k->coming.at = bytes_before(from, f);
        k->coming.cols = MIN(end - from, (uint32_t) BLOCK);
        k->coming.slot = (p->slot + block) % p->slots;
}

ALWAYS_INLINE void zero_sums(void) {
        AMX_ZERO(0);
        AMX_ZERO(1);
        AMX_ZERO(2);
        AMX_ZERO(3);
}

/* The sums of one panel with both groups, or of two. */
ALWAYS_INLINE void load_pairs(const struct product *p, bool two) {
        if (!p->more) {
                zero_sums();
                return;
        }
        AMX_LOAD(0, p->acc[0][0], 64);
        AMX_LOAD(1, p->acc[1][0], 64);
        if (two) {
                AMX_LOAD(2, p->acc[0][1], 64);
                AMX_LOAD(3, p->acc[1][1], 64);
        }
}

ALWAYS_INLINE void store_pairs(const struct product *p, bool two) {
        AMX_STORE(0, p->acc[0][0], 64);
        AMX_STORE(1, p->acc[1][0], 64);
        if (two) {
                AMX_STORE(2, p->acc[0][1], 64);
                AMX_STORE(3, p->acc[1][1], 64);
        }
}

#define LOAD_A(_tile, _group) AMX_LOAD(_tile, a##_group + s * STEP, sizeof(k->slab.blocks[0][0][0]))

ALWAYS_INLINE void multiply(struct work *k, const struct product *p, bool two, bool unpack, struct format_bf16 f) {
        const char *x0 = p->x0, *x1 = p->x1;

        load_pairs(p, two);
        for (uint32_t block = 0; block * BLOCK < p->cols; block++) {
                uint32_t slot = (p->slot + block) % p->slots;
                const uint16_t *a0 = k->slab.blocks[0][slot][0], *a1 = k->slab.blocks[1][slot][0];
                uint32_t steps = MIN(DIV_ROUND_UP(p->cols - block * BLOCK, (uint32_t) STEP), (uint32_t) STEPS);

                if (unpack)
                        come(k, p, block + 1, f);
                for (uint32_t s = 0; s < steps; s++, x0 += AMX_TILE_BYTES, x1 += AMX_TILE_BYTES) {
                        AMX_LOAD_ONCE(6, x0, AMX_ROW_BYTES);
                        LOAD_A(4, 0);
                        AMX_DOT_BF16(0, 4, 6);
                        if (unpack)
                                unpack_part(k, s, 0, AMX_GROUPS, f);
                        LOAD_A(5, 1);
                        AMX_DOT_BF16(1, 5, 6);
                        if (unpack)
                                unpack_part(k, s, 1, AMX_GROUPS, f);
                        if (two) {
                                AMX_LOAD_ONCE(7, x1, AMX_ROW_BYTES);
                                AMX_DOT_BF16(2, 4, 7);
                        }
                        if (unpack)
                                unpack_part(k, s, 2, AMX_GROUPS, f);
                        if (two)
                                AMX_DOT_BF16(3, 5, 7);
                        if (unpack)
                                unpack_part(k, s, 3, AMX_GROUPS, f);
                }
                if (unpack)
                        unpack_steps(k, steps, AMX_GROUPS, f);
        }
        store_pairs(p, two);
}

/* Of so many panels with a group. */
ALWAYS_INLINE void load_sums(const struct product *p, int panels) {
        if (!p->more) {
                zero_sums();
                return;
        }
        AMX_LOAD(0, p->acc[0][0], 64);
        if (panels > 1)
                AMX_LOAD(1, p->acc[0][1], 64);
        if (panels > 2)
                AMX_LOAD(2, p->acc[0][2], 64);
        if (panels > 3)
                AMX_LOAD(3, p->acc[0][3], 64);
}

ALWAYS_INLINE void store_sums(float (*acc)[GROUP_ROWS][PANEL_ROWS], int panels) {
        AMX_STORE(0, acc[0], 64);
        if (panels > 1)
                AMX_STORE(1, acc[1], 64);
        if (panels > 2)
                AMX_STORE(2, acc[2], 64);
        if (panels > 3)
                AMX_STORE(3, acc[3], 64);
}

/* A chunk's products of a group alone with all panels of a job that has few. */
ALWAYS_INLINE void multiply_few(struct work *k, const struct product *p, int panels, struct format_bf16 f) {
        size_t bytes = (size_t) (p->x1 - p->x0);
        const char *x = p->x0;

        load_sums(p, panels);
        for (uint32_t block = 0; block * BLOCK < p->cols; block++) {
                const uint16_t *a0 = k->slab.blocks[0][(p->slot + block) % p->slots][0];
                uint32_t steps = MIN(DIV_ROUND_UP(p->cols - block * BLOCK, (uint32_t) STEP), (uint32_t) STEPS);

                come(k, p, block + 1, f);
                for (uint32_t s = 0; s < steps; s++, x += AMX_TILE_BYTES) {
                        LOAD_A(4, 0);
                        AMX_LOAD_ONCE(5, x, AMX_ROW_BYTES);
                        AMX_DOT_BF16(0, 4, 5);
                        unpack_part(k, s, 0, 1, f);
                        if (panels > 1) {
                                AMX_LOAD_ONCE(6, x + bytes, AMX_ROW_BYTES);
                                AMX_DOT_BF16(1, 4, 6);
                        }
                        unpack_part(k, s, 1, 1, f);
                        if (panels > 2) {
                                AMX_LOAD_ONCE(7, x + 2 * bytes, AMX_ROW_BYTES);
                                AMX_DOT_BF16(2, 4, 7);
                        }
                        unpack_part(k, s, 2, 1, f);
                        if (panels > 3) {
                                AMX_LOAD_ONCE(5, x + 3 * bytes, AMX_ROW_BYTES);
                                AMX_DOT_BF16(3, 4, 5);
                        }
                        unpack_part(k, s, 3, 1, f);
                }
                unpack_steps(k, steps, 1, f);
        }
        store_sums(p->acc[0], panels);
}

static void multiply_again(struct work *k, const struct product *p, bool two) {
        if (two)
                multiply(k, p, true, false, (struct format_bf16) {});
        else
                multiply(k, p, false, false, (struct format_bf16) {});
}

static void weights_at(struct weights *w, const struct dot_job *job, uint32_t row, uint32_t rows) {
        w->groups[0] = w->groups[1] = group_at(job, row, rows);
        if (rows > GROUP_ROWS && row + GROUP_ROWS < job->end)
                w->groups[1] = group_at(job, row + GROUP_ROWS, rows);
        else
                w->groups[1].there = 0;
}

/* What comes after the chunk at `from` of the weights from `row` on. */
static void find_next(const struct dot_job *job, struct work *k, struct product *p, uint32_t row) {
        p->next = p->w;
        p->next_from = p->from + CHUNK;
        if (p->next_from >= job->cols) {
                p->next = NULL;
                p->next_from = 0;
                if (row + p->rows < job->end) {
                        struct weights *other = &k->weights[p->w == &k->weights[0]];

                        weights_at(other, job, row + p->rows, p->rows);
                        p->next = other;
                }
        }
        p->next_cols = MIN(job->cols - p->next_from, (uint32_t) CHUNK);
}

/* The outputs of products with activation rows t to t + n - 1. */
static void store(const struct dot_job *job, const struct weights *w, uint32_t row, uint32_t t, uint32_t n,
                  struct work *k) {
        for (uint32_t g = 0; g < AMX_GROUPS; g++)
                if (w->groups[g].there)
                        amx_store(job, &w->groups[g], row + g * GROUP_ROWS, t, n, k->acc[g]);
}

/* The product is to be of panel `panel` and that after it, counted from `first` on. */
static void panels_at(const struct dot_job *job, struct work *k, struct product *p, uint32_t panel, uint32_t first) {
        size_t bytes = panel_bytes(DOT_BF16, job->cols);

        p->x0 = (const char *) job->panels + (first + panel) * bytes + p->from / STEP * AMX_TILE_BYTES;
        p->x1 = p->x0 + bytes;
        p->acc[0] = &k->acc[0][panel];
        p->acc[1] = &k->acc[1][panel];
}

/* A chunk with activation rows t to t + n - 1. */
ALWAYS_INLINE void multiply_panels(const struct dot_job *job, struct work *k, struct product *p, uint32_t row,
                                   uint32_t t, uint32_t n, struct format_bf16 f) {
        uint32_t panels = DIV_ROUND_UP(n, (uint32_t) PANEL_ROWS);

        panels_at(job, k, p, 0, t / PANEL_ROWS);
        if (panels == 1)
                multiply_few(k, p, 1, f);
        else if (panels == 2)
                multiply_few(k, p, 2, f);
        else if (panels == 3)
                multiply_few(k, p, 3, f);
        else if (panels == FEW_PANELS)
                multiply_few(k, p, FEW_PANELS, f);
        else
                multiply(k, p, true, true, f);
        for (uint32_t i = 2; panels > FEW_PANELS && i < panels; i += 2) {
                panels_at(job, k, p, i, t / PANEL_ROWS);
                multiply_again(k, p, i + 1 < panels);
        }
        if (p->from + CHUNK >= job->cols)
                store(job, p->w, row, t, n, k);
}

/* Activation rows t to t + n - 1 with all weight rows. */
ALWAYS_INLINE void rows_bf16(const struct dot_job *job, uint32_t t, uint32_t n, struct work *k, struct format_bf16 f) {
        uint32_t panels = DIV_ROUND_UP(n, (uint32_t) PANEL_ROWS);
        struct product p = {
                .rows = panels > FEW_PANELS ? ROWS : GROUP_ROWS,
                .slots = panels > FEW_PANELS ? SLAB_BLOCKS : 2,
                .next = &k->weights[0],
        };

        weights_at(&k->weights[0], job, job->begin, p.rows);
        p.next_cols = MIN(job->cols, (uint32_t) CHUNK);
        come(k, &p, 0, f);
        unpack_steps(k, 0, (int) (p.rows / GROUP_ROWS), f);
        for (uint32_t row = job->begin; row < job->end; row += p.rows) {
                p.w = p.next;
                for (p.from = 0; p.from < job->cols; p.from += CHUNK) {
                        p.cols = MIN(job->cols - p.from, (uint32_t) CHUNK);
                        p.more = p.from > 0;
                        find_next(job, k, &p, row);
                        multiply_panels(job, k, &p, row, t, n, f);
                        p.slot = (p.slot + DIV_ROUND_UP(p.cols, (uint32_t) BLOCK)) % p.slots;
                }
        }
}

ALWAYS_INLINE void dot_bf16(const struct dot_job *job, struct format_bf16 f) {
        static const struct amx_config config = AMX_WHOLE_TILES;
        struct work k;

        amx_begin(&config);
        for (uint32_t t = 0, most = amx_rows_at_a_time(job->n); t < job->n; t += most)
                rows_bf16(job, t, MIN(job->n - t, most), &k, f);
        amx_end();
}

void dot_bfloat_amx(const struct dot_job *job, enum quant_type type) {
        if (type == QUANT_BF16 && job->cols % STEP == 0)
                dot_bf16(job, (struct format_bf16) {.plain = true});
        else
                dot_bf16(job, (struct format_bf16) {.type = type});
}
