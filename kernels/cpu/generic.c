/* SPDX-License-Identifier: MIT */
#include "base/util.h"
#include "variant.h"

/* Rows are dequantised by tiles that stay in the first cache, and multiplied as float32. The columns of a
 * tile depend on the type alone, so that a row's sum is cut in the same places whatever else the job has. */
enum {
        TILE_ROWS = 4,
        TILE_COLS = 2048, /* a multiple of every block */
        SLICE = 64,       /* activation rows */
};

static void multiply_tile(const struct cpu_variant *v, const struct dot_job *job, uint32_t row, uint32_t rows,
                          uint32_t col, const float *tile, uint32_t cols) {
        const void *x[SLICE];
        float *y[SLICE];
        struct dot_job part = {
                .w = (const uint8_t *) tile,
                .row_bytes = cols * sizeof(float),
                .cols = cols,
                .end = rows,
                .x = x,
                .y = y,
                .bias = job->bias && col == 0 ? job->bias + row : NULL,
                .accumulate = job->accumulate || col > 0,
        };

        for (uint32_t t = 0; t < job->n; t += SLICE) {
                part.n = MIN(job->n - t, (uint32_t) SLICE);
                part.scale = job->scale ? job->scale + t : NULL;
                for (uint32_t i = 0; i < part.n; i++) {
                        x[i] = (const float *) job->x[t + i] + col;
                        y[i] = job->y[t + i] + row;
                }
                v->dot[QUANT_F32](&part);
        }
}

static void dot_generic(const struct cpu_variant *v, enum quant_type type, const struct dot_job *job) {
        _Alignas(64) float tile[TILE_ROWS * TILE_COLS];
        const struct quant_info *info = quant_info(type);
        dequantize_fn *dequantize = cpu_variant_dequantize(v, type);

        for (uint32_t row = job->begin; row < job->end; row += TILE_ROWS) {
                uint32_t rows = MIN(job->end - row, (uint32_t) TILE_ROWS);

                for (uint32_t col = 0; col < job->cols; col += TILE_COLS) {
                        uint32_t cols = MIN(job->cols - col, (uint32_t) TILE_COLS);

                        for (uint32_t i = 0; i < rows; i++)
                                dequantize(tile + i * cols,
                                           job->w + (row + i) * job->row_bytes + quant_row_bytes(info, col),
                                           cols);
                        multiply_tile(v, job, row, rows, col, tile, cols);
                }
        }
}

void cpu_variant_dot(const struct cpu_variant *v, enum quant_type type, const struct dot_job *job) {
        if (job->panels && dot_input(type) == DOT_FLOAT)
                v->dot_panels(job, type);
        else if (v->dot[type])
                v->dot[type](job);
        else if (dot_input(type) != DOT_FLOAT)
                v->dot_whole(job, type);
        else
                dot_generic(v, type, job);
}

dequantize_fn *cpu_variant_dequantize(const struct cpu_variant *v, enum quant_type type) {
        return v->dequantize && v->dequantize[type] ? v->dequantize[type] : quant_info(type)->dequantize;
}
