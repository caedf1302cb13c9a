/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "cpu.h"

/* One product per head. A piece of work is some rows (transposed: some columns) of one head's matrix, for all
 * tokens. */
struct heads {
        const struct op_head_matmul *op;
        const struct cpu_variant *variant;
        uint32_t unit, units; /* rows or columns of a piece, pieces of a head */
        char *scratch;        /* [threads][worker_bytes] */
        size_t worker_bytes, input_bytes;
};

static const float *heads_x(const struct op_head_matmul *op, size_t t, uint32_t head) {
        return (const float *) host_address(op->x) + t * op->x_stride + (size_t) head * op->x_head_stride;
}

static float *heads_y(const struct op_head_matmul *op, size_t t, uint32_t head) {
        return (float *) host_address(op->y) + t * op->y_stride + (size_t) head * op->y_head_stride;
}

static const uint8_t *head_rows(const struct op_head_matmul *op, uint32_t head, size_t row_bytes) {
        return (const uint8_t *) host_address(op->w.data) + (size_t) head * op->head_rows * row_bytes;
}

/* Tokens of a slice: their pointers and inputs are in the worker's scratch. */
enum { SLICE = 16 };

static void multiply_slice(struct heads *a, uint32_t head, uint32_t piece, uint32_t from, uint32_t to,
                           char *scratch) {
        const struct op_head_matmul *op = a->op;
        enum dot_input form = dot_input(op->w.type);
        const void *x[SLICE];
        float *y[SLICE];
        struct dot_job job = {
                .row_bytes = quant_row_bytes(quant_info(op->w.type), op->w.cols),
                .cols = op->w.cols,
                .begin = piece * a->unit,
                .end = MIN((piece + 1) * a->unit, op->w.rows),
                .n = to - from,
                .x = x,
                .y = y,
        };

        job.w = head_rows(op, head, job.row_bytes);
        for (uint32_t t = from; t < to; t++) {
                char *input = scratch + (t - from) * a->input_bytes;

                y[t - from] = heads_y(op, t, head);
                x[t - from] = form == DOT_FLOAT ? (const void *) heads_x(op, t, head) : input;
                if (form != DOT_FLOAT)
                        a->variant->dot_input(form, input, heads_x(op, t, head), op->w.cols);
        }
        cpu_variant_dot(a->variant, op->w.type, &job);
}

/* What is dequantised at once: it stays in the first cache while all tokens pass, of which each loads and
 * stores its sums once for it. A few tokens rather have memory flow. */
enum { MIX_ROWS = 16, MIX_ROWS_FEW = 8, FEW = 4, MIX_COLS = 512 /* a multiple of every block */ };

/* Columns [begin, begin + n) of y = Wᵀ x; begin and n are multiples of the type's block. */
static void multiply_columns(struct heads *a, uint32_t head, uint32_t begin, uint32_t n, float *values) {
        const struct op_head_matmul *op = a->op;
        const struct quant_info *info = quant_info(op->w.type);
        dequantize_fn *dequantize = cpu_variant_dequantize(a->variant, op->w.type);
        size_t row_bytes = quant_row_bytes(info, op->w.cols);
        uint32_t rows = op->n > FEW ? MIX_ROWS : MIX_ROWS_FEW;
        const uint8_t *row = head_rows(op, head, row_bytes) + quant_row_bytes(info, begin);
        struct mix_job job = {
                .w = values,
                .cols = n,
                .n = op->n,
                .y = heads_y(op, 0, head) + begin,
                .x_stride = op->x_stride,
                .y_stride = op->y_stride,
        };

        for (uint32_t t = 0; t < op->n; t++)
                memset(heads_y(op, t, head) + begin, 0, n * sizeof(float));
        for (uint32_t r = 0; r < op->w.rows; r += job.rows) {
                job.rows = MIN(op->w.rows - r, rows);
                job.x = heads_x(op, 0, head) + r;
                for (uint32_t i = 0; i < job.rows; i++, row += row_bytes)
                        dequantize(values + (size_t) i * n, row, n);
                a->variant->mix(&job);
        }
}

static void heads_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct heads *a = arg;
        const struct op_head_matmul *op = a->op;
        char *scratch = a->scratch + worker * a->worker_bytes;

        for (uint64_t item = begin; item < end; item++) {
                uint32_t head = (uint32_t) (item / a->units), piece = (uint32_t) (item % a->units);

                if (op->transposed)
                        multiply_columns(a, head, piece * a->unit, MIN(a->unit, op->w.cols - piece * a->unit),
                                         (float *) scratch);
                else
                        for (uint32_t t = 0; t < op->n; t += SLICE)
                                multiply_slice(a, head, piece, t, MIN(t + SLICE, op->n), scratch);
        }
}

int cpu_head_matmul(struct stream *s, const struct op_head_matmul *op) {
        struct cpu_backend *b = cpu_backend(s);
        unsigned threads = pool_threads(b->pool);
        struct heads a = {.op = op, .variant = b->variant};
        uint32_t length;
        size_t total = 0;
        int r;

        r = host_check_head_matmul(op);
        if (r || op->n == 0)
                return r;
        /* A head to a piece, but when there are too few heads for the threads. */
        length = op->transposed ? op->w.cols : op->w.rows;
        a.unit = op->w.stack >= threads ? length : DIV_ROUND_UP(length, DIV_ROUND_UP(threads, op->w.stack));
        a.unit =
                op->transposed ? MIN(DIV_ROUND_UP(a.unit, 256U) * 256, (uint32_t) MIX_COLS) : MAX(a.unit, 1U);
        a.units = DIV_ROUND_UP(length, a.unit);
        a.input_bytes = dot_input_bytes(dot_input(op->w.type), op->w.cols);
        a.worker_bytes = op->transposed ? MIX_ROWS * MIX_COLS * sizeof(float) : SLICE * a.input_bytes;
        scratch_plan(&total, threads, a.worker_bytes);
        a.scratch = scratch_get(&b->scratch, total);
        if (!a.scratch)
                return -ENOMEM;
        pool_run(b->pool, (uint64_t) op->w.stack * a.units, 1, heads_piece, &a);
        return 0;
}
