/* SPDX-License-Identifier: MIT */
/* Weights that are multiplied with float32 activations, on the matrix unit: numbers of bfloat16, which activations are
 * the sum of two of (panel.h). BF16 weights are read where they lie; all others are the sum of two such numbers as
 * well, and the product of their low parts, below 2^-16 of the whole, is left out. A result is added up in one tile:
 * column by column of 32, high times high, high times low, low times high, whatever rows are in the job. */

#include "amx-dot.h"
#include "panel.h"
#include "tile.h"

enum {
        STEP = 32, /* columns of a tile */
        CHUNK_STEPS = 16,
        CHUNK = CHUNK_STEPS * STEP,
};

/* Sixteen weight rows of some columns. */
struct weights {
        const char *high, *low; /* of the first step; low: NULL where there is none */
        size_t stride, step;    /* bytes between rows, between steps */
};

struct slab {
        _Alignas(64) uint16_t high[CHUNK_STEPS][GROUP_ROWS][STEP], low[CHUNK_STEPS][GROUP_ROWS][STEP];
};

struct work {
        struct slab slabs[AMX_GROUPS];
        _Alignas(64) float acc[AMX_GROUPS][AMX_PANELS_MAX][GROUP_ROWS][PANEL_ROWS];
};

/* Columns [from, from + n) of a group's rows, zeros up to the next step. */
static void unpack(struct slab *slab, const struct group *g, enum quant_type type, uint32_t from, uint32_t n) {
        const struct quant_info *info = quant_info(type);
        dequantize_fn *dequantize = cpu_variant_dequantize(&cpu_variant_amx, type);
        _Alignas(64) float values[CHUNK];

        for (int i = 0; i < GROUP_ROWS; i++) {
                dequantize(values, g->row[i] + quant_row_bytes(info, from), n);
                memset(values + n, 0, (DIV_ROUND_UP(n, (uint32_t) STEP) * STEP - n) * sizeof(*values));
                for (uint32_t s = 0; s * STEP < n; s++)
                        split_bf16(values + s * STEP, slab->high[s][i], slab->low[s][i]);
        }
}

enum { QUARTERS = 4 };

/* Fetches a quarter of what the next groups have where these have step `s`, in rising addresses. Four quarters at once
 * would take all buffers of the first cache until they have come from memory, and tiles would wait for one. */
ALWAYS_INLINE void fetch_ahead(const struct group *g, uint32_t groups, size_t s, uint32_t quarter) {
        size_t bytes = groups * (AMX_TILE_BYTES / QUARTERS);

        if (g && g[0].ahead)
                for (size_t i = 0; i < bytes; i += 64)
                        _mm_prefetch(g[0].ahead + (s * QUARTERS + quarter) * bytes + i, _MM_HINT_T1);
}

/* One step of one panel: tiles _c0 and _c1 are the sums of the two groups, 4 and 5 their weights. */
#define MULTIPLY(_c0, _c1, _part)                                                                            \
        do {                                                                                                 \
                AMX_LOAD(6, _part, 64);                                                                      \
                AMX_DOT_BF16(_c0, 4, 6);                                                                     \
                if (groups == 2)                                                                             \
                        AMX_DOT_BF16(_c1, 5, 6);                                                             \
        } while (0)

/* `steps` steps of the groups with one panel or two. */
ALWAYS_INLINE void multiply(const struct weights *w, uint32_t groups, const struct panel_float *x0,
                            const struct panel_float *x1, uint32_t steps, float (*acc0)[GROUP_ROWS][PANEL_ROWS],
                            float (*acc1)[GROUP_ROWS][PANEL_ROWS], const struct group *ahead) {
        AMX_LOAD(0, acc0[0], 64);
        if (groups == 2)
                AMX_LOAD(1, acc1[0], 64);
        if (x1)
                AMX_LOAD(2, acc0[1], 64);
        if (groups == 2 && x1)
                AMX_LOAD(3, acc1[1], 64);
        for (uint32_t s = 0; s < steps; s++) {
                AMX_LOAD(4, w[0].high + s * w[0].step, w[0].stride);
                fetch_ahead(ahead, groups, s, 0);
                if (groups == 2)
                        AMX_LOAD(5, w[1].high + s * w[1].step, w[1].stride);
                fetch_ahead(ahead, groups, s, 1);
                MULTIPLY(0, 1, x0[s].high);
                fetch_ahead(ahead, groups, s, 2);
                MULTIPLY(0, 1, x0[s].low);
                fetch_ahead(ahead, groups, s, 3);
                if (x1) {
                        MULTIPLY(2, 3, x1[s].high);
                        MULTIPLY(2, 3, x1[s].low);
                }
                if (!w[0].low)
                        continue;
                AMX_LOAD(4, w[0].low + s * w[0].step, w[0].stride);
                if (groups == 2)
                        AMX_LOAD(5, w[1].low + s * w[1].step, w[1].stride);
                MULTIPLY(0, 1, x0[s].high);
                if (x1)
                        MULTIPLY(2, 3, x1[s].high);
        }
        AMX_STORE(0, acc0[0], 64);
        if (groups == 2)
                AMX_STORE(1, acc1[0], 64);
        if (x1)
                AMX_STORE(2, acc0[1], 64);
        if (groups == 2 && x1)
                AMX_STORE(3, acc1[1], 64);
}

/* Columns of `steps` steps from `first` on of the groups with all panels. */
static void panels_float(const struct weights *w, uint32_t groups, const char *x, size_t panel_bytes, uint32_t panels,
                         uint32_t first, uint32_t steps, struct work *k, const struct group *ahead) {
        for (uint32_t p = 0; p < panels; p += 2) {
                const struct panel_float *x0 = (const struct panel_float *) (x + p * panel_bytes) + first;
                const struct panel_float *x1 = (const struct panel_float *) (x + (p + 1) * panel_bytes) + first;

                multiply(w, groups, x0, p + 1 < panels ? x1 : NULL, steps, &k->acc[0][p], &k->acc[1][p],
                         p == 0 ? ahead : NULL);
        }
}

static void groups_float(const struct dot_job *job, enum quant_type type, const struct group *g, uint32_t groups,
                         struct work *k, uint32_t first, uint32_t panels) {
        size_t bytes = panel_bytes(DOT_FLOAT, job->cols);
        const char *x = (const char *) job->panels + first * bytes;
        struct weights w[AMX_GROUPS];
        bool in_place = type == QUANT_BF16 && job->cols % STEP == 0 && g[groups - 1].there == 0xffff;

        for (uint32_t r = 0; r < groups; r++)
                memset(k->acc[r], 0, panels * sizeof(k->acc[r][0]));
        for (uint32_t from = 0; from < job->cols; from += in_place ? job->cols : CHUNK) {
                uint32_t n = in_place ? job->cols : MIN(job->cols - from, (uint32_t) CHUNK);

                for (uint32_t r = 0; r < groups; r++) {
                        if (in_place) {
                                w[r] = (struct weights) {(const char *) g[r].row[0], NULL, job->row_bytes,
                                                         STEP * sizeof(uint16_t)};
                                continue;
                        }
                        unpack(&k->slabs[r], &g[r], type, from, n);
                        w[r] = (struct weights) {(const char *) k->slabs[r].high,
                                                 type == QUANT_BF16 ? NULL : (const char *) k->slabs[r].low,
                                                 AMX_ROW_BYTES, AMX_TILE_BYTES};
                }
                panels_float(w, groups, x, bytes, panels, from / STEP, DIV_ROUND_UP(n, (uint32_t) STEP), k,
                             in_place ? g : NULL);
        }
}

void dot_float_amx(const struct dot_job *job, enum quant_type type) {
        static const struct amx_config config = AMX_WHOLE_TILES;
        struct work k;

        amx_begin(&config);
        AMX_WALK(job, AMX_GROUPS, k.acc, groups_float(job, type, g, groups, &k, first, panels));
        amx_end();
}
