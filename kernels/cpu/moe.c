/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "cpu.h"

/* One moe operation, or a slice of its rows. A pair is a (row, chosen expert); pairs are sorted by expert
 * and, within one, by row. Four loops over the pool: activations to the weights' form; gate, up and
 * activation function; the hidden rows to the form of down; down. The sum over a row's pairs, in the row's
 * own order, makes the fifth. */
struct moe {
        const struct op_moe *op;
        const struct cpu_variant *variant;
        uint32_t n_pairs, n_active;
        uint32_t *active;   /* [n_active] experts that have pairs */
        uint32_t *first;    /* [n_active + 1] their first pair */
        uint32_t *pair_row; /* [n_pairs] */
        uint32_t *pair_at;  /* [n × k] the pair of a row's entry, or NO_PAIR */
        uint32_t *fill;     /* [stack] */
        uint32_t unit_up, unit_down;

        uint8_t *input[2],
                *hidden_input; /* gate's and up's form of x (maybe one and the same), down's of hidden */
        size_t input_bytes[2], hidden_bytes;
        const void **x[2], **hidden_x; /* [n_pairs] */
        float *gate, *up, *down;       /* [n_pairs][hidden], [n_pairs][hidden], [n_pairs][dim] */
        float **gate_y, **up_y, **down_y;
};

enum { NO_PAIR = UINT32_MAX };

static const float *moe_x(const struct op_moe *op, uint64_t t) {
        return (const float *) host_address(op->x) + t * op->gate.cols;
}

/* The expert of entry j of row t, or the stack's size when the entry does not count. */
static uint32_t entry_expert(const struct op_moe *op, uint32_t t, uint32_t j) {
        int32_t count = ((const int32_t *) host_address(op->counts))[t];
        int32_t id = ((const int32_t *) host_address(op->ids))[(size_t) t * op->k + j];

        return (int32_t) j < count && id >= 0 && (uint32_t) id < op->gate.stack ? (uint32_t) id
                                                                                : op->gate.stack;
}

/* Counting sort. */
static void moe_group(struct moe *m) {
        const struct op_moe *op = m->op;
        uint32_t at = 0;

        memset(m->fill, 0, op->gate.stack * sizeof(*m->fill));
        for (uint32_t t = 0; t < op->n; t++)
                for (uint32_t j = 0; j < op->k; j++) {
                        uint32_t e = entry_expert(op, t, j);

                        if (e < op->gate.stack)
                                m->fill[e]++;
                }
        for (uint32_t e = 0; e < op->gate.stack; e++) {
                uint32_t count = m->fill[e];

                m->fill[e] = at;
                if (count == 0)
                        continue;
                m->active[m->n_active] = e;
                m->first[m->n_active++] = at;
                at += count;
        }
        m->first[m->n_active] = m->n_pairs = at;
        for (uint32_t t = 0; t < op->n; t++)
                for (uint32_t j = 0; j < op->k; j++) {
                        uint32_t e = entry_expert(op, t, j);
                        size_t entry = (size_t) t * op->k + j;

                        m->pair_at[entry] = e < op->gate.stack ? m->fill[e]++ : NO_PAIR;
                        if (e < op->gate.stack)
                                m->pair_row[m->pair_at[entry]] = t;
                }
}

static void moe_point(struct moe *m) {
        const struct op_moe *op = m->op;

        for (uint32_t i = 0; i < m->n_pairs; i++) {
                for (unsigned side = 0; side < 2; side++)
                        m->x[side][i] = m->input[side]
                                                ? m->input[side] + m->pair_row[i] * m->input_bytes[side]
                                                : (const void *) moe_x(op, m->pair_row[i]);
                m->gate_y[i] = m->gate + (size_t) i * op->gate.rows;
                m->up_y[i] = m->up + (size_t) i * op->gate.rows;
                m->down_y[i] = m->down + (size_t) i * op->down.rows;
                m->hidden_x[i] =
                        m->hidden_input ? m->hidden_input + i * m->hidden_bytes : (const void *) m->gate_y[i];
        }
}

enum part {
        PART_ACTIVE,
        PART_FIRST,
        PART_PAIR_ROW,
        PART_PAIR_AT,
        PART_FILL,
        PART_INPUT,
        PART_INPUT_UP,
        PART_HIDDEN_INPUT,
        PART_X,
        PART_X_UP,
        PART_HIDDEN_X,
        PART_GATE,
        PART_UP,
        PART_DOWN,
        PART_GATE_Y,
        PART_UP_Y,
        PART_DOWN_Y,
        _PART_MAX,
};

static int moe_reserve(struct moe *m, struct scratch *scratch) {
        const struct op_moe *op = m->op;
        enum dot_input form = dot_input(op->gate.type), form_up = dot_input(op->up.type);
        enum dot_input form_down = dot_input(op->down.type);
        size_t pairs = (size_t) op->n * op->k, at[_PART_MAX], total = 0;
        char *data;

        m->input_bytes[0] = dot_input_bytes(form, op->gate.cols);
        m->input_bytes[1] = dot_input_bytes(form_up, op->up.cols);
        m->hidden_bytes = dot_input_bytes(form_down, op->down.cols);
        at[PART_ACTIVE] = scratch_plan(&total, op->gate.stack, sizeof(*m->active));
        at[PART_FIRST] = scratch_plan(&total, op->gate.stack + (size_t) 1, sizeof(*m->first));
        at[PART_FILL] = scratch_plan(&total, op->gate.stack, sizeof(*m->fill));
        at[PART_PAIR_ROW] = scratch_plan(&total, pairs, sizeof(*m->pair_row));
        at[PART_PAIR_AT] = scratch_plan(&total, pairs, sizeof(*m->pair_at));
        at[PART_INPUT] = scratch_plan(&total, form == DOT_FLOAT ? 0 : op->n, m->input_bytes[0]);
        at[PART_INPUT_UP] =
                form_up == form ? at[PART_INPUT]
                                : scratch_plan(&total, form_up == DOT_FLOAT ? 0 : op->n, m->input_bytes[1]);
        at[PART_HIDDEN_INPUT] = scratch_plan(&total, form_down == DOT_FLOAT ? 0 : pairs, m->hidden_bytes);
        for (enum part p = PART_X; p <= PART_HIDDEN_X; p++)
                at[p] = scratch_plan(&total, pairs, sizeof(void *));
        for (enum part p = PART_GATE; p <= PART_UP; p++)
                at[p] = scratch_plan(&total, pairs, op->gate.rows * sizeof(float));
        at[PART_DOWN] = scratch_plan(&total, pairs, op->down.rows * sizeof(float));
        for (enum part p = PART_GATE_Y; p <= PART_DOWN_Y; p++)
                at[p] = scratch_plan(&total, pairs, sizeof(float *));
        data = scratch_get(scratch, total);
        if (!data)
                return -ENOMEM;
        m->active = (uint32_t *) (data + at[PART_ACTIVE]);
        m->first = (uint32_t *) (data + at[PART_FIRST]);
        m->fill = (uint32_t *) (data + at[PART_FILL]);
        m->pair_row = (uint32_t *) (data + at[PART_PAIR_ROW]);
        m->pair_at = (uint32_t *) (data + at[PART_PAIR_AT]);
        m->input[0] = form == DOT_FLOAT ? NULL : (uint8_t *) data + at[PART_INPUT];
        m->input[1] = form_up == DOT_FLOAT ? NULL : (uint8_t *) data + at[PART_INPUT_UP];
        m->hidden_input = form_down == DOT_FLOAT ? NULL : (uint8_t *) data + at[PART_HIDDEN_INPUT];
        m->x[0] = (const void **) (data + at[PART_X]);
        m->x[1] = (const void **) (data + at[PART_X_UP]);
        m->hidden_x = (const void **) (data + at[PART_HIDDEN_X]);
        m->gate = (float *) (data + at[PART_GATE]);
        m->up = (float *) (data + at[PART_UP]);
        m->down = (float *) (data + at[PART_DOWN]);
        m->gate_y = (float **) (data + at[PART_GATE_Y]);
        m->up_y = (float **) (data + at[PART_UP_Y]);
        m->down_y = (float **) (data + at[PART_DOWN_Y]);
        return 0;
}

static void input_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct moe *m = arg;
        const struct op_moe *op = m->op;

        for (uint64_t t = begin; t < end; t++) {
                if (m->input[0])
                        m->variant->dot_input(dot_input(op->gate.type), m->input[0] + t * m->input_bytes[0],
                                              moe_x(op, t), op->gate.cols);
                if (m->input[1] && m->input[1] != m->input[0])
                        m->variant->dot_input(dot_input(op->up.type), m->input[1] + t * m->input_bytes[1],
                                              moe_x(op, t), op->up.cols);
        }
}

static void hidden_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct moe *m = arg;

        for (uint64_t i = begin; i < end; i++)
                m->variant->dot_input(dot_input(m->op->down.type), m->hidden_input + i * m->hidden_bytes,
                                      m->gate_y[i], m->op->down.cols);
}

/* Rows [begin, end) of one expert's matrix for all of its pairs. */
static void moe_dot(const struct moe *m, uint32_t group, const struct weight *w, struct device_ptr bias,
                    uint32_t begin, uint32_t end, const void **x, float **y) {
        size_t row_bytes = quant_row_bytes(quant_info(w->type), w->cols);
        struct dot_job job = {
                .w = (const uint8_t *) host_address(w->data) +
                     (size_t) m->active[group] * w->rows * row_bytes,
                .row_bytes = row_bytes,
                .cols = w->cols,
                .begin = begin,
                .end = end,
                .n = m->first[group + 1] - m->first[group],
                .x = x + m->first[group],
                .y = y + m->first[group],
        };

        if (bias.address)
                job.bias = (const float *) host_address(bias) + (size_t) m->active[group] * w->rows;
        cpu_variant_dot(m->variant, w->type, &job);
}

static void up_one(struct moe *m, uint64_t piece) {
        uint32_t hidden = m->op->gate.rows, units = DIV_ROUND_UP(hidden, m->unit_up), group = piece / units;
        uint32_t begin = piece % units * m->unit_up, end = MIN(begin + m->unit_up, hidden);

        moe_dot(m, group, &m->op->gate, m->op->gate_bias, begin, end, m->x[0], m->gate_y);
        moe_dot(m, group, &m->op->up, m->op->up_bias, begin, end, m->x[1], m->up_y);
        for (uint32_t i = m->first[group]; i < m->first[group + 1]; i++) {
                struct op_glu glu = {
                        .n = 1,
                        .dim = end - begin,
                        .act = m->op->act,
                        .limit = m->op->limit,
                        .gate = host_device_ptr(m->gate_y[i] + begin),
                        .up = host_device_ptr(m->up_y[i] + begin),
                        .y = host_device_ptr(m->gate_y[i] + begin),
                };

                m->variant->glu(&glu, 0, 1);
        }
}

static void up_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        for (uint64_t piece = begin; piece < end; piece++)
                up_one(arg, piece);
}

static void down_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct moe *m = arg;
        uint32_t rows = m->op->down.rows, units = DIV_ROUND_UP(rows, m->unit_down);

        for (uint64_t piece = begin; piece < end; piece++) {
                uint32_t from = piece % units * m->unit_down;

                moe_dot(m, piece / units, &m->op->down, m->op->down_bias, from, MIN(from + m->unit_down, rows),
                        m->hidden_x, m->down_y);
        }
}

static void sum_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct moe *m = arg;
        const struct op_moe *op = m->op;
        const float *weights = host_address(op->weights);

        for (uint64_t entry = begin * op->k; entry < end * op->k; entry++) {
                struct op_add add;

                if (m->pair_at[entry] == NO_PAIR)
                        continue;
                add = (struct op_add){
                        .x = host_device_ptr(m->down_y[m->pair_at[entry]]),
                        .y = host_device_ptr((float *) host_address(op->y) + entry / op->k * op->down.rows),
                        .scale = weights[entry],
                };
                m->variant->add(&add, 0, op->down.rows);
        }
}

static void moe_run(struct moe *m, struct cpu_backend *b) {
        const struct op_moe *op = m->op;
        uint64_t mean = DIV_ROUND_UP(m->n_pairs, MAX(m->n_active, 1U));
        size_t up_bytes = quant_row_bytes(quant_info(op->gate.type), op->gate.cols);
        size_t down_bytes = quant_row_bytes(quant_info(op->down.type), op->down.cols);

        m->unit_up = cpu_row_unit(b, (uint64_t) op->gate.rows * m->n_active, 2 * up_bytes * mean);
        m->unit_down = cpu_row_unit(b, (uint64_t) op->down.rows * m->n_active, down_bytes * mean);
        if (m->input[0] || m->input[1])
                pool_run(b->pool, op->n, cpu_grain(b, op->n, op->gate.cols / 4), input_piece, m);
        pool_run(b->pool, (uint64_t) m->n_active * DIV_ROUND_UP(op->gate.rows, m->unit_up), 1, up_piece, m);
        if (m->hidden_input)
                pool_run(b->pool, m->n_pairs, cpu_grain(b, m->n_pairs, op->down.cols / 4), hidden_piece, m);
        pool_run(b->pool, (uint64_t) m->n_active * DIV_ROUND_UP(op->down.rows, m->unit_down), 1, down_piece,
                 m);
        pool_run(b->pool, op->n, cpu_grain(b, op->n, (uint64_t) op->down.rows * op->k / 8), sum_piece, m);
}

/* Rows at a time, so that scratch stays below MOE_SCRATCH however many rows a call has. Rows are independent:
 * where a call is cut changes no bit, and some hundred rows pay for reading the experts again. */
enum { MOE_SCRATCH = 96 << 20 };

static uint32_t moe_slice_rows(const struct op_moe *op) {
        uint64_t pair_bytes = (2 * (uint64_t) op->gate.rows + op->down.rows) * sizeof(float);
        uint64_t rows = MOE_SCRATCH / MAX(pair_bytes * op->k, UINT64_C(1));

        return (uint32_t) MAX(MIN(rows, (uint64_t) op->n), UINT64_C(1));
}

static int moe_slice(struct cpu_backend *b, const struct op_moe *whole, uint32_t from, uint32_t n) {
        struct op_moe op = *whole;
        struct moe m = {.op = &op, .variant = b->variant};
        int r;

        op.n = n;
        op.x = device_offset(op.x, (uint64_t) from * op.gate.cols * sizeof(float));
        op.y = device_offset(op.y, (uint64_t) from * op.down.rows * sizeof(float));
        op.ids = device_offset(op.ids, (uint64_t) from * op.k * sizeof(int32_t));
        op.weights = device_offset(op.weights, (uint64_t) from * op.k * sizeof(float));
        op.counts = device_offset(op.counts, from * sizeof(int32_t));
        r = moe_reserve(&m, &b->scratch);
        if (r)
                return r;
        moe_group(&m);
        moe_point(&m);
        if (m.n_pairs > 0)
                moe_run(&m, b);
        return 0;
}

int cpu_moe(struct stream *s, const struct op_moe *op) {
        struct cpu_backend *b = cpu_backend(s);
        uint32_t rows;
        int r;

        r = host_check_moe(op);
        if (r || op->n == 0 || op->k == 0)
                return r;
        rows = moe_slice_rows(op);
        for (uint32_t from = 0; r == 0 && from < op->n; from += rows)
                r = moe_slice(b, op, from, MIN(rows, op->n - from));
        return r;
}
