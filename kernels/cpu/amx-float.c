/* SPDX-License-Identifier: MIT */
/* Weights that are multiplied with float32 activations, on the matrix unit: numbers of bfloat16, which activations are
 * the sum of two of (panel.h). BF16 weights are read where they lie; all others are the sum of two such numbers as
 * well. Products with the larger and with the smaller numbers of the activations are added up apart, column by column
 * of 32, those of the weights' larger numbers before those of the smaller ones, whatever rows are in the job; and these
 * two sums in the end. */

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

/* Of a group with half a panel: for each weight row, eight sums and then the other eight. */
typedef float half_sums[GROUP_ROWS][2][PANEL_HALF];

struct work {
        struct slab slabs[AMX_GROUPS];
        _Alignas(64) half_sums sums[AMX_GROUPS][AMX_PANELS_MAX][2];
        float acc[AMX_GROUPS][AMX_PANELS_MAX][GROUP_ROWS][PANEL_ROWS];
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

/* `steps` steps of the groups with a panel, or with its first half. */
ALWAYS_INLINE void multiply(const struct weights *w, uint32_t groups, const struct panel_float *x, bool whole,
                            uint32_t steps, half_sums *sums0, half_sums *sums1, const struct group *ahead) {
        AMX_LOAD(0, sums0[0], 64);
        if (groups == 2)
                AMX_LOAD(1, sums1[0], 64);
        if (whole)
                AMX_LOAD(2, sums0[1], 64);
        if (groups == 2 && whole)
                AMX_LOAD(3, sums1[1], 64);
        for (uint32_t s = 0; s < steps; s++) {
                AMX_LOAD(4, w[0].high + s * w[0].step, w[0].stride);
                fetch_ahead(ahead, groups, s, 0);
                AMX_LOAD(6, x[s].halves[0], 64);
                AMX_DOT_BF16(0, 4, 6);
                fetch_ahead(ahead, groups, s, 1);
                if (groups == 2) {
                        AMX_LOAD(5, w[1].high + s * w[1].step, w[1].stride);
                        AMX_DOT_BF16(1, 5, 6);
                }
                fetch_ahead(ahead, groups, s, 2);
                if (whole) {
                        AMX_LOAD(7, x[s].halves[1], 64);
                        AMX_DOT_BF16(2, 4, 7);
                        if (groups == 2)
                                AMX_DOT_BF16(3, 5, 7);
                }
                fetch_ahead(ahead, groups, s, 3);
                if (!w[0].low)
                        continue;
                AMX_LOAD(4, w[0].low + s * w[0].step, w[0].stride);
                AMX_DOT_BF16(0, 4, 6);
                if (whole)
                        AMX_DOT_BF16(2, 4, 7);
                if (groups == 2) {
                        AMX_LOAD(5, w[1].low + s * w[1].step, w[1].stride);
                        AMX_DOT_BF16(1, 5, 6);
                        if (whole)
                                AMX_DOT_BF16(3, 5, 7);
                }
        }
        AMX_STORE(0, sums0[0], 64);
        if (groups == 2)
                AMX_STORE(1, sums1[0], 64);
        if (whole)
                AMX_STORE(2, sums0[1], 64);
        if (groups == 2 && whole)
                AMX_STORE(3, sums1[1], 64);
}

/* Columns of `steps` steps from `first` on of the groups with n activation rows. */
static void panels_float(const struct weights *w, uint32_t groups, const char *x, size_t panel_bytes, uint32_t n,
                         uint32_t first, uint32_t steps, struct work *k, const struct group *ahead) {
        for (uint32_t p = 0; p * PANEL_ROWS < n; p++) {
                const struct panel_float *panel = (const struct panel_float *) (x + p * panel_bytes) + first;
                bool whole = n - p * PANEL_ROWS > PANEL_HALF;

                multiply(w, groups, panel, whole, steps, k->sums[0][p], k->sums[1][p], p == 0 ? ahead : NULL);
        }
}

static void add_halves(float acc[GROUP_ROWS][PANEL_ROWS], const half_sums sums[2]) {
        for (int half = 0; half < 2; half++)
                for (int w = 0; w < GROUP_ROWS; w++)
                        _mm256_store_ps(acc[w] + half * PANEL_HALF,
                                        _mm256_load_ps(sums[half][w][0]) + _mm256_load_ps(sums[half][w][1]));
}

static void groups_float(const struct dot_job *job, enum quant_type type, const struct group *g, uint32_t groups,
                         struct work *k, uint32_t first, uint32_t panels) {
        uint32_t rows = MIN(job->n - first * PANEL_ROWS, panels * PANEL_ROWS);
        size_t bytes = panel_bytes(DOT_FLOAT, job->cols);
        const char *x = (const char *) job->panels + first * bytes;
        struct weights w[AMX_GROUPS];
        bool in_place = type == QUANT_BF16 && job->cols % STEP == 0 && g[groups - 1].there == 0xffff;

        for (uint32_t r = 0; r < groups; r++)
                memset(k->sums[r], 0, panels * sizeof(k->sums[r][0]));
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
                panels_float(w, groups, x, bytes, rows, from / STEP, DIV_ROUND_UP(n, (uint32_t) STEP), k,
                             in_place ? g : NULL);
        }
        for (uint32_t r = 0; r < groups; r++)
                for (uint32_t p = 0; p < panels; p++)
                        add_halves(k->acc[r][p], k->sums[r][p]);
}

void dot_float_amx(const struct dot_job *job, enum quant_type type) {
        static const struct amx_config config = AMX_WHOLE_TILES;
        struct work k;

        amx_begin(&config);
        AMX_WALK(job, AMX_GROUPS, k.acc, groups_float(job, type, g, groups, &k, first, panels));
        amx_end();
}
