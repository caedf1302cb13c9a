/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "base/util.h"
#include "cpu.h"

uint32_t cpu_exact_rows(const int32_t *prompt, uint32_t n) {
        uint32_t exact = 0;

        for (uint32_t t = 0; t < n; t++)
                exact += !prompt || prompt[t] == 0;
        return exact;
}

void cpu_order_rows(uint32_t *order, const int32_t *prompt, uint32_t n) {
        for (int turn = 0; turn < 2; turn++)
                for (uint32_t t = 0; t < n; t++)
                        if ((prompt && prompt[t] != 0) == turn)
                                *order++ = t;
}

/* Forms of rows that are computed as all are, then those of prompts' rows. */
enum { INPUTS = 2 * _DOT_INPUT_MAX };

/* One matmul: the activations once in each form that its weights ask for, then pieces of weight rows. Rows are taken in
 * another order: those of prompts come last. */
struct matmul {
        const struct op_matmul *op;
        const struct cpu_variant *variant;
        struct deal *deal;
        uint32_t unit;    /* weight rows a piece */
        uint32_t n_exact; /* rows that belong to no prompt */
        uint32_t *row;    /* [n] their order */
        uint64_t first_piece[ELEMENTS(((struct op_matmul *) NULL)->out) + 1];
        struct matmul_input {
                bool needed;
                uint32_t begin, n; /* rows, in that order */
                uint8_t *rows;   /* [n][row_bytes]; NULL: the activations as they are */
                size_t row_bytes;
                const void **x;  /* [n] */
                uint8_t *panels; /* [n / 16][panel_bytes]; NULL: not wanted */
                size_t panel_bytes;
        } input[INPUTS];
        float **y[ELEMENTS(((struct op_matmul *) NULL)->out)]; /* [n] */
};

/* Rows of an item of the conversion: those of a panel. */
enum { BUNDLE = 16 };

static const float *matmul_x(const struct op_matmul *op, uint64_t t) {
        return (const float *) host_address(op->x) + t * op->x_stride;
}

/* How many rows, in their order, are computed as all are; the others are computed as those of prompts. */
static uint32_t exact_rows(const struct matmul *m, const struct weight *w) {
        return cpu_prompt(m->variant, w->type) ? m->n_exact : m->op->n;
}

/* Rows [from, from + 16) of an input, or what is left of them. */
static void convert_bundle(struct matmul *m, struct matmul_input *in, uint32_t from) {
        enum dot_input form = (enum dot_input) ((in - m->input) % _DOT_INPUT_MAX);
        uint32_t n = MIN(in->n - from, (uint32_t) BUNDLE), cols = m->op->out[0].w.cols;

        for (uint32_t t = from; in->rows && t < from + n; t++)
                m->variant->dot_input(form, in->rows + t * in->row_bytes, matmul_x(m->op, m->row[in->begin + t]), cols);
        if (in->panels)
                m->variant->panel_pack(form, in->panels + from / BUNDLE * in->panel_bytes, in->x + from, n, cols);
}

/* Of all inputs, one after the other. */
static void convert_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct matmul *m = arg;
        uint64_t first = 0;

        for (unsigned i = 0; i < INPUTS; i++) {
                struct matmul_input *in = &m->input[i];
                uint64_t bundles = DIV_ROUND_UP(in->n, (uint32_t) BUNDLE);

                for (uint64_t k = MAX(begin, first); k < MIN(end, first + bundles); k++)
                        convert_bundle(m, in, (uint32_t) (k - first) * BUNDLE);
                first += bundles;
        }
}

static void multiply_one(struct matmul *m, uint64_t piece) {
        const struct op_matmul_out *out;
        const struct matmul_input *in;
        struct dot_job job, prompt;
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
                .n = exact_rows(m, &out->w),
                .x = in->x,
                .y = m->y[i],
                .bias = host_address(out->bias),
                .accumulate = m->op->accumulate,
        };
        job.panels = cpu_wants_panels(m->variant, out->w.type, job.n) ? in->panels : NULL;
        job.end = MIN(job.begin + m->unit, out->w.rows);
        job.next = job.w + job.end * job.row_bytes;
        job.next_rows = MIN(m->unit, out->w.rows - job.end);
        prompt = job;
        prompt.n = m->op->n - job.n;
        prompt.panels = m->input[_DOT_INPUT_MAX + cpu_prompt_form(m->variant, out->w.type)].panels;
        prompt.y += job.n;
        if (job.n > 0)
                cpu_variant_dot(m->variant, out->w.type, &job);
        if (prompt.n > 0)
                m->variant->dot_prompt(&prompt, out->w.type);
}

static void multiply_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct matmul *m = arg;

        for (uint64_t i = begin; i < end; i++)
                multiply_one(m, deal_next(m->deal, worker));
}

/* Which rows are needed in which form; and what of it takes memory, for as many rows as it can become, whichever are a
 * prompt's (which the planning backend can't see). */
static void matmul_inputs(struct matmul *m) {
        const struct op_matmul *op = m->op;
        uint32_t cols = op->out[0].w.cols;

        for (uint32_t i = 0; i < op->count; i++) {
                enum quant_type type = op->out[i].w.type;
                enum dot_input form = dot_input(type);
                uint32_t exact = exact_rows(m, &op->out[i].w);
                enum dot_input prompt_form = cpu_prompt_form(m->variant, type);
                struct matmul_input *in = &m->input[form], *prompt = &m->input[_DOT_INPUT_MAX + prompt_form];

                in->needed = true;
                in->n = MAX(in->n, exact);
                in->row_bytes = cpu_form_bytes(form, cols);
                if (cpu_wants_panels(m->variant, type, op->n))
                        in->panel_bytes = m->variant->panel_bytes(form, cols);
                if (!op->prompt.address || prompt_form == DOT_FLOAT)
                        continue;
                prompt->needed = true;
                prompt->begin = exact;
                prompt->n = op->n - exact;
                prompt->row_bytes = cpu_form_bytes(prompt_form, cols);
                prompt->panel_bytes = m->variant->panel_bytes(prompt_form, cols);
        }
}

static int matmul_reserve(struct matmul *m, struct scratch *scratch) {
        size_t rows_at[INPUTS], x_at[INPUTS], panels_at[INPUTS], y_at[ELEMENTS(m->y)];
        const struct op_matmul *op = m->op;
        size_t total = 0, row_at = scratch_plan(&total, op->n, sizeof(*m->row));
        char *data;

        for (uint32_t i = 0; i < op->count; i++)
                y_at[i] = scratch_plan(&total, op->n, sizeof(*m->y[i]));
        for (unsigned i = 0; i < INPUTS; i++) {
                struct matmul_input *in = &m->input[i];
                uint32_t n = in->needed ? op->n : 0;

                rows_at[i] = scratch_plan(&total, n, in->row_bytes);
                x_at[i] = scratch_plan(&total, n, sizeof(*in->x));
                panels_at[i] = scratch_plan(&total, DIV_ROUND_UP(n, (uint32_t) BUNDLE), in->panel_bytes);
        }
        data = scratch_get(scratch, total);
        if (!data)
                return -ENOMEM;
        m->row = (uint32_t *) (data + row_at);
        for (uint32_t i = 0; i < op->count; i++)
                m->y[i] = (float **) (data + y_at[i]);
        for (unsigned i = 0; i < INPUTS; i++) {
                struct matmul_input *in = &m->input[i];

                in->rows = in->row_bytes ? (uint8_t *) data + rows_at[i] : NULL;
                in->panels = in->panel_bytes ? (uint8_t *) data + panels_at[i] : NULL;
                in->x = (const void **) (data + x_at[i]);
        }
        return 0;
}

static void matmul_point(struct matmul *m) {
        const struct op_matmul *op = m->op;

        for (uint32_t i = 0; i < op->count; i++)
                for (uint32_t t = 0; t < op->n; t++)
                        m->y[i][t] = (float *) host_address(op->out[i].y) + (size_t) m->row[t] * op->out[i].y_stride;
        for (unsigned i = 0; i < INPUTS; i++) {
                struct matmul_input *in = &m->input[i];

                for (uint32_t t = 0; t < in->n; t++)
                        in->x[t] = in->rows ? in->rows + t * in->row_bytes
                                            : (const void *) matmul_x(op, m->row[in->begin + t]);
        }
}

/* The rows of all outputs one after the other, so that a small one beside a large one costs no barrier of its
 * own. */
static uint64_t matmul_divide(struct matmul *m, const struct cpu_backend *b) {
        const struct op_matmul *op = m->op;
        uint64_t rows = 0, bytes = 0, work = m->n_exact < op->n ? 1 : op->n; /* prompts: as in moe.c */

        for (uint32_t i = 0; i < op->count; i++) {
                rows += op->out[i].w.rows;
                bytes = MAX(bytes, quant_row_bytes(quant_info(op->out[i].w.type), op->out[i].w.cols));
        }
        m->unit = cpu_row_unit(b, rows, bytes * work);
        for (uint32_t i = 0; i < op->count; i++)
                m->first_piece[i + 1] = m->first_piece[i] + DIV_ROUND_UP(op->out[i].w.rows, m->unit);
        return m->first_piece[op->count];
}

/* Rows at a time, so that scratch stays below MATMUL_SCRATCH: rows may be needed in two forms of 8 bits, each of them
 * also as panels. As in moe.c, where a call is cut changes no bit, and slices are of one size. */
enum { MATMUL_SCRATCH = 64 << 20 };

static uint32_t matmul_slice_rows(const struct op_matmul *op) {
        uint64_t most = MAX(MATMUL_SCRATCH / (5 * (uint64_t) op->out[0].w.cols), UINT64_C(1));

        return (uint32_t) DIV_ROUND_UP(op->n, DIV_ROUND_UP(op->n, most));
}

static int matmul_slice(struct cpu_backend *b, const struct op_matmul *op) {
        struct matmul m = {.op = op, .variant = b->variant, .deal = b->deals[0]};
        const int32_t *prompt = b->scratch.planned ? NULL : host_address(op->prompt);
        uint64_t pieces, bundles = 0;
        int r;

        m.n_exact = cpu_exact_rows(prompt, op->n);
        matmul_inputs(&m);
        r = matmul_reserve(&m, &b->scratch);
        if (r)
                return r;
        cpu_order_rows(m.row, prompt, op->n);
        matmul_point(&m);
        pieces = matmul_divide(&m, b);
        deal_out(m.deal, pieces);
        for (unsigned i = 0; i < INPUTS; i++)
                bundles += DIV_ROUND_UP(m.input[i].n, (uint32_t) BUNDLE);
        pool_run_phases(b->pool,
                        (struct pool_phase[]) {
                                {bundles, cpu_grain(b, bundles, BUNDLE * op->out[0].w.cols / 4), convert_piece, &m},
                                {pieces, 1, multiply_piece, &m},
                        },
                        2);
        return 0;
}

int cpu_matmul(struct stream *s, const struct op_matmul *op) {
        struct op_matmul slice = *op;
        int r = host_check_matmul(op);

        if (r || op->n == 0)
                return r;
        for (uint32_t from = 0, rows = matmul_slice_rows(op); r == 0 && from < op->n; from += rows) {
                slice.n = MIN(rows, op->n - from);
                slice.x = device_offset(op->x, from * (uint64_t) op->x_stride * sizeof(float));
                if (op->prompt.address)
                        slice.prompt = device_offset(op->prompt, from * sizeof(int32_t));
                for (uint32_t i = 0; i < op->count; i++)
                        slice.out[i].y = device_offset(op->out[i].y,
                                                       from * (uint64_t) op->out[i].y_stride * sizeof(float));
                r = matmul_slice(cpu_backend(s), &slice);
        }
        return r;
}
