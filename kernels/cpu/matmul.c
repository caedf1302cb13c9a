/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "base/util.h"
#include "cpu.h"

/* One matmul: the activations once in each form that its weights ask for, then pieces of weight rows. */
struct matmul {
        const struct op_matmul *op;
        const struct cpu_variant *variant;
        struct deal *deal;
        uint32_t unit; /* weight rows a piece */
        uint64_t first_piece[ELEMENTS(((struct op_matmul *) NULL)->out) + 1];
        struct matmul_input {
                uint8_t *rows;   /* [n][row_bytes]; NULL: not needed, or the activations as they are */
                size_t row_bytes;
                const void **x;  /* [n]; NULL: not needed */
                uint8_t *panels; /* [n / 16][panel_bytes]; NULL: not wanted */
                size_t panel_bytes;
        } input[_DOT_INPUT_MAX];
        float **y[ELEMENTS(((struct op_matmul *) NULL)->out)]; /* [n] */
};

/* Rows of an item of the conversion: those of a panel. */
enum { BUNDLE = 16 };

static const float *matmul_x(const struct op_matmul *op, uint64_t t) {
        return (const float *) host_address(op->x) + t * op->x_stride;
}

static void convert_bundle(struct matmul *m, uint32_t from) {
        uint32_t n = MIN(m->op->n - from, (uint32_t) BUNDLE), cols = m->op->out[0].w.cols;

        for (enum dot_input form = 0; form < _DOT_INPUT_MAX; form++) {
                struct matmul_input *in = &m->input[form];

                for (uint32_t t = from; in->rows && t < from + n; t++)
                        m->variant->dot_input(form, in->rows + t * in->row_bytes, matmul_x(m->op, t), cols);
                if (in->panels)
                        m->variant->panel_pack(form, in->panels + from / BUNDLE * in->panel_bytes, in->x + from, n,
                                               cols);
        }
}

static void convert_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        for (uint64_t i = begin; i < end; i++)
                convert_bundle(arg, (uint32_t) i * BUNDLE);
}

static void multiply_one(struct matmul *m, uint64_t piece) {
        const struct op_matmul_out *out;
        const struct matmul_input *in;
        struct dot_job job;
        unsigned i = 0;

        while (piece >= m->first_piece[i + 1])
                i++;
        out = &m->op->out[i];
        in = &m->input[dot_input(out->w.type)];
        job = (struct dot_job){
                .w = host_address(out->w.data),
                .row_bytes = quant_row_bytes(quant_info(out->w.type), out->w.cols),
                .cols = out->w.cols,
                .begin = (uint32_t) (piece - m->first_piece[i]) * m->unit,
                .n = m->op->n,
                .x = in->x,
                .panels = cpu_wants_panels(m->variant, out->w.type, m->op->n) ? in->panels : NULL,
                .y = m->y[i],
                .bias = host_address(out->bias),
                .accumulate = m->op->accumulate,
        };
        job.end = MIN(job.begin + m->unit, out->w.rows);
        job.next = job.w + job.end * job.row_bytes;
        job.next_rows = MIN(m->unit, out->w.rows - job.end);
        cpu_variant_dot(m->variant, out->w.type, &job);
}

static void multiply_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct matmul *m = arg;

        for (uint64_t i = begin; i < end; i++)
                multiply_one(m, deal_next(m->deal, worker));
}

static int matmul_reserve(struct matmul *m, struct scratch *scratch) {
        size_t rows_at[_DOT_INPUT_MAX], x_at[_DOT_INPUT_MAX], panels_at[_DOT_INPUT_MAX], y_at[ELEMENTS(m->y)];
        bool needed[_DOT_INPUT_MAX] = {false}, panels[_DOT_INPUT_MAX] = {false};
        const struct op_matmul *op = m->op;
        size_t total = 0;
        char *data;

        for (uint32_t i = 0; i < op->count; i++) {
                enum dot_input form = dot_input(op->out[i].w.type);

                needed[form] = true;
                panels[form] |= cpu_wants_panels(m->variant, op->out[i].w.type, op->n);
                y_at[i] = scratch_plan(&total, op->n, sizeof(*m->y[i]));
        }
        for (enum dot_input form = 0; form < _DOT_INPUT_MAX; form++) {
                struct matmul_input *in = &m->input[form];

                in->row_bytes = dot_input_bytes(form, op->out[0].w.cols);
                in->panel_bytes = panels[form] ? m->variant->panel_bytes(form, op->out[0].w.cols) : 0;
                rows_at[form] = scratch_plan(&total, needed[form] && form != DOT_FLOAT ? op->n : 0, in->row_bytes);
                x_at[form] = scratch_plan(&total, needed[form] ? op->n : 0, sizeof(*in->x));
                panels_at[form] = scratch_plan(&total, DIV_ROUND_UP(op->n, (uint32_t) BUNDLE), in->panel_bytes);
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
                struct matmul_input *in = &m->input[form];

                if (!needed[form])
                        continue;
                in->rows = form == DOT_FLOAT ? NULL : (uint8_t *) data + rows_at[form];
                in->panels = panels[form] ? (uint8_t *) data + panels_at[form] : NULL;
                in->x = (const void **) (data + x_at[form]);
                for (size_t t = 0; t < op->n; t++)
                        in->x[t] = in->rows ? in->rows + t * in->row_bytes : (const void *) matmul_x(op, t);
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
        struct matmul m = {.op = op, .variant = b->variant, .deal = b->deals[0]};
        uint64_t pieces, bundles = DIV_ROUND_UP(op->n, (uint32_t) BUNDLE);
        int r;

        r = host_check_matmul(op);
        if (r || op->n == 0)
                return r;
        r = matmul_reserve(&m, &b->scratch);
        if (r)
                return r;
        pieces = matmul_divide(&m, b);
        deal_out(m.deal, pieces);
        pool_run_phases(b->pool,
                        (struct pool_phase[]) {
                                {bundles, cpu_grain(b, bundles, BUNDLE * op->out[0].w.cols / 4), convert_piece, &m},
                                {pieces, 1, multiply_piece, &m},
                        },
                        2);
        return 0;
}
