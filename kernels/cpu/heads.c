/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "cpu.h"

/* One product per head. A piece of work is some rows of one head's matrix for a slice of tokens; or, transposed, some
 * of its columns for all of them. Tokens are taken in another order: those of prompts come last. */
struct heads {
        const struct op_head_matmul *op;
        const struct cpu_variant *variant;
        uint32_t unit, units;    /* rows or columns of a piece, pieces of a head */
        struct head_slices {
                enum dot_input form;
                bool prompt;     /* of tokens of prompts, that are multiplied as such */
                uint32_t begin, end, size, count; /* tokens, in that order; of a slice; slices */
                size_t panel_bytes; /* 0: never panels */
        } slices[2];
        uint32_t *order; /* [n] tokens */
        char *scratch;   /* [threads][worker_bytes] */
        size_t worker_bytes, panels_bytes, row_bytes; /* of a worker: panels of a slice, then BUNDLE rows */
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

/* Tokens that are converted at a time. A slice has more of them where they go as panels, since it unpacks the weights
 * anew; but no more than stay in the second cache. */
enum { BUNDLE = 16, SLICE_BUNDLES = 16, SLICE_BYTES = 512 << 10 };

/* Sets a job's inputs: rows of the form that the weights ask for, BUNDLE of them in scratch at a time if they are not
 * what they were, and panels of all of them. */
static void slice_inputs(struct heads *a, const struct head_slices *s, uint32_t head, const uint32_t *tokens,
                         bool panels, char *scratch, const void *x[], struct dot_job *job) {
        bool converted = cpu_form_bytes(s->form, job->cols) > 0;
        char *panel = scratch;

        job->x = x;
        job->panels = panels ? scratch : NULL;
        for (uint32_t t = 0; t < job->n; t++) {
                char *row = scratch + a->panels_bytes + t % BUNDLE * a->row_bytes;
                uint32_t n = t % BUNDLE + 1;

                x[t] = converted ? (const void *) row : heads_x(a->op, tokens[t], head);
                if (converted)
                        a->variant->dot_input(s->form, row, heads_x(a->op, tokens[t], head), job->cols);
                if (panels && (n == BUNDLE || t + 1 == job->n)) {
                        a->variant->panel_pack(s->form, panel, x + t + 1 - n, n, job->cols);
                        panel += s->panel_bytes;
                }
        }
}

static void multiply_slice(struct heads *a, const struct head_slices *s, uint32_t slice, uint32_t head, uint32_t piece,
                           char *scratch) {
        const struct op_head_matmul *op = a->op;
        const void *x[SLICE_BUNDLES * BUNDLE];
        float *y[SLICE_BUNDLES * BUNDLE];
        uint32_t from = s->begin + slice * s->size;
        struct dot_job job = {
                .row_bytes = quant_row_bytes(quant_info(op->w.type), op->w.cols),
                .cols = op->w.cols,
                .begin = piece * a->unit,
                .end = MIN((piece + 1) * a->unit, op->w.rows),
                .n = MIN(s->size, s->end - from),
                .y = y,
        };

        job.w = head_rows(op, head, job.row_bytes);
        for (uint32_t t = 0; t < job.n; t++)
                y[t] = heads_y(op, a->order[from + t], head);
        slice_inputs(a, s, head, a->order + from, s->prompt || cpu_wants_panels(a->variant, op->w.type, job.n), scratch,
                     x, &job);
        if (s->prompt)
                a->variant->dot_prompt(&job, op->w.type);
        else
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
        char *scratch = a->scratch + worker * a->worker_bytes;
        uint32_t exact = a->slices[0].count, slices = exact + a->slices[1].count;

        for (uint64_t item = begin; item < end; item++) {
                uint32_t slice = (uint32_t) (item % slices), piece = (uint32_t) (item / slices % a->units);
                uint32_t head = (uint32_t) (item / slices / a->units);

                if (slice < exact)
                        multiply_slice(a, &a->slices[0], slice, head, piece, scratch);
                else
                        multiply_slice(a, &a->slices[1], slice - exact, head, piece, scratch);
        }
}

static void columns_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct heads *a = arg;
        uint32_t cols = a->op->w.cols;

        for (uint64_t item = begin; item < end; item++) {
                uint32_t from = (uint32_t) (item % a->units) * a->unit;

                multiply_columns(a, (uint32_t) (item / a->units), from, MIN(a->unit, cols - from),
                                 (float *) (a->scratch + worker * a->worker_bytes));
        }
}

/* A head to a piece, but when there are too few heads for the threads. */
static uint32_t heads_unit(const struct op_head_matmul *op, uint32_t length, unsigned threads) {
        return op->w.stack >= threads ? length : DIV_ROUND_UP(length, DIV_ROUND_UP(threads, op->w.stack));
}

static int multiply_transposed(struct cpu_backend *b, const struct op_head_matmul *op) {
        unsigned threads = pool_threads(b->pool);
        struct heads a = {.op = op, .variant = b->variant, .worker_bytes = MIX_ROWS * MIX_COLS * sizeof(float)};
        size_t total = 0;

        a.unit = DIV_ROUND_UP(heads_unit(op, op->w.cols, threads), 256U) * 256;
        a.unit = MIN(a.unit, (uint32_t) MIX_COLS);
        a.units = DIV_ROUND_UP(op->w.cols, a.unit);
        scratch_plan(&total, threads, a.worker_bytes);
        a.scratch = scratch_get(&b->scratch, total);
        if (!a.scratch)
                return -ENOMEM;
        pool_run(b->pool, (uint64_t) op->w.stack * a.units, 1, columns_piece, &a);
        return 0;
}

/* The tokens [begin, end) of the order. */
static struct head_slices slices_of(const struct heads *a, enum dot_input form, bool prompt, uint32_t begin,
                                    uint32_t end) {
        bool panels = prompt || cpu_wants_panels(a->variant, a->op->w.type, BUNDLE);
        struct head_slices s = {.form = form, .prompt = prompt, .begin = begin, .end = end, .size = BUNDLE};

        if (panels) {
                s.panel_bytes = a->variant->panel_bytes(form, a->op->w.cols);
                s.size *= (uint32_t) MIN(MAX(SLICE_BYTES / s.panel_bytes, (size_t) 1), (size_t) SLICE_BUNDLES);
        }
        s.count = DIV_ROUND_UP(end - begin, s.size);
        return s;
}

/* Of either kind memory is for as many tokens as there can be, whichever are a prompt's (which the planning backend
 * can't see). */
static int heads_reserve(struct heads *a, struct cpu_backend *b, uint32_t n_exact) {
        const struct op_head_matmul *op = a->op;
        enum dot_input prompt = op->prompt.address ? cpu_prompt_form(b->variant, op->w.type) : DOT_FLOAT;
        size_t total = 0, order_at = scratch_plan(&total, op->n, sizeof(*a->order)), worker_at;

        a->slices[0] = slices_of(a, dot_input(op->w.type), false, 0, prompt == DOT_FLOAT ? op->n : n_exact);
        if (prompt != DOT_FLOAT)
                a->slices[1] = slices_of(a, prompt, true, n_exact, op->n);
        for (int i = 0; i < 2; i++) {
                const struct head_slices *s = &a->slices[i];

                a->panels_bytes = MAX(a->panels_bytes, s->size / BUNDLE * s->panel_bytes);
                a->row_bytes = MAX(a->row_bytes, cpu_form_bytes(s->form, op->w.cols));
        }
        scratch_plan(&a->worker_bytes, 1, a->panels_bytes + BUNDLE * a->row_bytes);
        worker_at = scratch_plan(&total, pool_threads(b->pool), a->worker_bytes);
        a->scratch = scratch_get(&b->scratch, total);
        if (!a->scratch)
                return -ENOMEM;
        a->order = (uint32_t *) (a->scratch + order_at);
        a->scratch += worker_at;
        return 0;
}

static int multiply_plain(struct cpu_backend *b, const struct op_head_matmul *op) {
        const int32_t *prompt = b->scratch.planned ? NULL : host_address(op->prompt);
        struct heads a = {.op = op, .variant = b->variant};
        int r;

        r = heads_reserve(&a, b, cpu_exact_rows(prompt, op->n));
        if (r)
                return r;
        cpu_order_rows(a.order, prompt, op->n);
        a.unit = MAX(heads_unit(op, op->w.rows, pool_threads(b->pool)), 1U);
        a.units = DIV_ROUND_UP(op->w.rows, a.unit);
        pool_run(b->pool, (uint64_t) op->w.stack * a.units * (a.slices[0].count + a.slices[1].count), 1, heads_piece,
                 &a);
        return 0;
}

int cpu_head_matmul(struct stream *s, const struct op_head_matmul *op) {
        int r = host_check_head_matmul(op);

        if (r || op->n == 0)
                return r;
        return op->transposed ? multiply_transposed(cpu_backend(s), op) : multiply_plain(cpu_backend(s), op);
}
