/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "base/util.h"
#include "cpu.h"

/* One matmul: the activations once in each form that its weights ask for, then pieces of weight rows. */
struct matmul {
        const struct op_matmul *op;
        const struct cpu_variant *variant;
        uint32_t unit; /* weight rows a piece */
        uint64_t first_piece[ELEMENTS(((struct op_matmul *) NULL)->out) + 1];
        uint8_t *inputs[_DOT_INPUT_MAX]; /* [n][input_bytes]; NULL: not needed */
        size_t input_bytes[_DOT_INPUT_MAX];
        const void **x[_DOT_INPUT_MAX];                        /* [n] */
        float **y[ELEMENTS(((struct op_matmul *) NULL)->out)]; /* [n] */
};

static const float *matmul_x(const struct op_matmul *op, uint64_t t) {
        return (const float *) host_address(op->x) + t * op->x_stride;
}

static void convert_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct matmul *m = arg;

        for (uint64_t t = begin; t < end; t++)
                for (enum dot_input form = DOT_FLOAT + 1; form < _DOT_INPUT_MAX; form++)
                        if (m->inputs[form])
                                m->variant->dot_input(form, m->inputs[form] + t * m->input_bytes[form],
                                                      matmul_x(m->op, t), m->op->out[0].w.cols);
}

static void multiply_one(struct matmul *m, uint64_t piece) {
        const struct op_matmul_out *out;
        struct dot_job job;
        unsigned i = 0;

        while (piece >= m->first_piece[i + 1])
                i++;
        out = &m->op->out[i];
        job = (struct dot_job){
                .w = host_address(out->w.data),
                .row_bytes = quant_row_bytes(quant_info(out->w.type), out->w.cols),
                .cols = out->w.cols,
                .begin = (uint32_t) (piece - m->first_piece[i]) * m->unit,
                .n = m->op->n,
                .x = m->x[dot_input(out->w.type)],
                .y = m->y[i],
                .bias = host_address(out->bias),
                .accumulate = m->op->accumulate,
        };
        job.end = MIN(job.begin + m->unit, out->w.rows);
        cpu_variant_dot(m->variant, out->w.type, &job);
}

static void multiply_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        for (uint64_t piece = begin; piece < end; piece++)
                multiply_one(arg, piece);
}

static int matmul_reserve(struct matmul *m, struct scratch *scratch) {
        size_t at[_DOT_INPUT_MAX] = {0}, x_at[_DOT_INPUT_MAX] = {0}, y_at[ELEMENTS(m->y)], total = 0;
        bool needed[_DOT_INPUT_MAX] = {false};
        const struct op_matmul *op = m->op;
        char *data;

        for (uint32_t i = 0; i < op->count; i++) {
                needed[dot_input(op->out[i].w.type)] = true;
                y_at[i] = scratch_plan(&total, op->n, sizeof(*m->y[i]));
        }
        for (enum dot_input form = 0; form < _DOT_INPUT_MAX; form++) {
                m->input_bytes[form] = dot_input_bytes(form, op->out[0].w.cols);
                if (needed[form] && form != DOT_FLOAT)
                        at[form] = scratch_plan(&total, op->n, m->input_bytes[form]);
                if (needed[form])
                        x_at[form] = scratch_plan(&total, op->n, sizeof(*m->x[form]));
        }
        data = scratch_get(scratch, total);
        if (!data)
                return -ENOMEM;
        for (uint32_t i = 0; i < op->count; i++) {
                m->y[i] = (float **) (data + y_at[i]);
                for (size_t t = 0; t < op->n; t++)
                        m->y[i][t] = (float *) host_address(op->out[i].y) + t * op->out[i].y_stride;
        }
        for (enum dot_input form = 0; form < _DOT_INPUT_MAX; form++) {
                if (!needed[form])
                        continue;
                m->inputs[form] = form == DOT_FLOAT ? NULL : (uint8_t *) data + at[form];
                m->x[form] = (const void **) (data + x_at[form]);
                for (size_t t = 0; t < op->n; t++)
                        m->x[form][t] = form == DOT_FLOAT ? (const void *) matmul_x(op, t)
                                                          : m->inputs[form] + t * m->input_bytes[form];
        }
        return 0;
}

/* The rows of all outputs one after the other, so that a small one beside a large one costs no barrier of its
 * own. */
static uint64_t matmul_divide(struct matmul *m, const struct cpu_backend *b) {
        const struct op_matmul *op = m->op;
        uint64_t rows = 0, bytes = 0;

        for (uint32_t i = 0; i < op->count; i++) {
                rows += op->out[i].w.rows;
                bytes = MAX(bytes, quant_row_bytes(quant_info(op->out[i].w.type), op->out[i].w.cols));
        }
        m->unit = cpu_row_unit(b, rows, bytes * op->n);
        for (uint32_t i = 0; i < op->count; i++)
                m->first_piece[i + 1] = m->first_piece[i] + DIV_ROUND_UP(op->out[i].w.rows, m->unit);
        return m->first_piece[op->count];
}

int cpu_matmul(struct stream *s, const struct op_matmul *op) {
        struct cpu_backend *b = cpu_backend(s);
        struct matmul m = {.op = op, .variant = b->variant};
        uint64_t pieces;
        int r;

        r = host_check_matmul(op);
        if (r || op->n == 0)
                return r;
        r = matmul_reserve(&m, &b->scratch);
        if (r)
                return r;
        pieces = matmul_divide(&m, b);
        pool_run(b->pool, op->n, cpu_grain(b, op->n, op->out[0].w.cols / 4), convert_piece, &m);
        pool_run(b->pool, pieces, 1, multiply_piece, &m);
        return 0;
}
