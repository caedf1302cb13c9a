/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "base/util.h"
#include "host.h"
#include "ref.h"

size_t head_matmul_scratch(const struct op_head_matmul *op) {
        return MAX(dot_input_bytes(dot_input(op->w.type), op->w.cols),
                   dot_input_bytes(DOT_FLOAT, op->w.cols));
}

/* y = Wᵀ x: the sum of W's rows, each times its value of x, in rising order. */
static void multiply_transposed(const struct weight *w, const char *rows, float *row, const float *x,
                                float *y) {
        const struct quant_info *info = quant_info(w->type);
        size_t row_bytes = quant_row_bytes(info, w->cols);

        memset(y, 0, w->cols * sizeof(*y));
        for (uint32_t r = 0; r < w->rows; r++) {
                info->dequantize(row, rows + r * row_bytes, w->cols);
                for (uint32_t i = 0; i < w->cols; i++)
                        y[i] += x[r] * row[i];
        }
}

static void multiply(const struct weight *w, const char *rows, void *input, const float *x, float *y) {
        size_t row_bytes = quant_row_bytes(quant_info(w->type), w->cols);

        ref_dot_input(dot_input(w->type), input, x, w->cols);
        for (uint32_t r = 0; r < w->rows; r++)
                y[r] = ref_dot(w->type, rows + r * row_bytes, input, w->cols);
}

void ref_head_matmul(const struct op_head_matmul *op, void *scratch, uint64_t begin, uint64_t end) {
        const struct weight *w = &op->w;
        size_t head_bytes = op->head_rows * quant_row_bytes(quant_info(w->type), w->cols);

        for (uint64_t item = begin; item < end; item++) {
                size_t t = item / w->stack, h = item % w->stack;
                const char *rows = (const char *) host_address(w->data) + h * head_bytes;
                const float *x =
                        (const float *) host_address(op->x) + t * op->x_stride + h * op->x_head_stride;
                float *y = (float *) host_address(op->y) + t * op->y_stride + h * op->y_head_stride;

                if (op->transposed)
                        multiply_transposed(w, rows, scratch, x, y);
                else
                        multiply(w, rows, scratch, x, y);
        }
}
