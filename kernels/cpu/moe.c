/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "cpu.h"

/* One moe operation, or a slice of its rows. A pair is a (row, chosen expert); pairs are sorted by expert, within one
 * by whether the row is a prompt's (where that makes a difference), and then by row: a group is those of one expert
 * that are computed alike. Loops over the pool: activations to the weights' form; gate, up and activation function; the
 * hidden rows to the form of down; down, which is added up in the rows themselves, expert after expert. Where a variant
 * can, hidden values of prompts stay by columns, sixteen pairs side by side, from gate and up to the panels of down. */
struct moe {
        const struct op_moe *op;
        const struct cpu_variant *variant;
        struct deal *deal_up, *deal_down;
        const int32_t *prompt; /* [rows], or NULL: none is of a prompt, or it makes no difference */
        uint32_t n_exact;      /* rows that are not; where only a plan is made, none while there may be prompts */
        uint32_t n_pairs, n_active, n_bundles;
        uint32_t *active;   /* [n_active] groups that have pairs, rising: expert × 2 + whether they are of prompts */
        uint32_t *first;    /* [n_active + 1] their first pair */
        uint32_t *pair_row; /* [n_pairs] */
        float *pair_weight; /* [n_pairs] */
        uint32_t *fill;     /* [2 × stack] */
        uint32_t unit_up, unit_down;
        bool columns; /* hidden values of prompts stay by columns */
        struct bundle *bundles;  /* [n_bundles] */
        uint32_t *first_bundle;  /* [n_active] */

        struct moe_input {
                enum dot_input form;
                enum quant_type type;
                enum dot_input prompt; /* the form of those of prompts; DOT_FLOAT: they are like the others */
                uint32_t cols;
                uint8_t *rows;   /* [rows, or some pairs][row_bytes]; NULL: as they are */
                size_t row_bytes;
                const void **x;  /* [n_pairs] */
                uint8_t *panels; /* [n_bundles][panel_bytes]; a group's follow each other, though they may be smaller */
                size_t panel_bytes;
        } input[2], hidden_input; /* of gate and up (maybe one and the same form); of down */
        float *hidden;     /* [pairs whose hidden values do not stay by columns][hidden] */
        float **hidden_y;  /* [n_pairs], NULL for the others */
        float **y;         /* [n_pairs] the rows that down is added to */
        float *worker;     /* [threads][2][SLICE][unit_up]: gate and up of one piece */
        uint8_t *bundle;   /* [threads][BUNDLE][row_bytes of down]: hidden rows on their way to a panel */
};

/* Up to sixteen pairs of one group: a panel, where the group has enough of them. */
struct bundle {
        uint32_t first, n, group;
};

enum {
        BUNDLE = 16,
        SLICE = 320, /* pairs that a piece of gate and up computes at a time: what it makes of them stays in the
                      * cache */
        PROMPT_UNIT = 256, /* weight rows of such a piece of prompts: its first ones are unpacked while nothing else
                            * runs */
};

static const float *moe_x(const struct op_moe *op, uint64_t t) {
        return (const float *) host_address(op->x) + t * op->gate.cols;
}

static bool is_prompt(const struct moe *m, uint32_t t) {
        return m->prompt && m->prompt[t] != 0;
}

/* The group of entry j of row t, or one past the last when the entry does not count. */
static uint32_t entry_group(const struct moe *m, uint32_t t, uint32_t j) {
        const struct op_moe *op = m->op;
        int32_t count = ((const int32_t *) host_address(op->counts))[t];
        int32_t id = ((const int32_t *) host_address(op->ids))[(size_t) t * op->k + j];

        return (int32_t) j < count && id >= 0 && (uint32_t) id < op->gate.stack ? 2 * (uint32_t) id + is_prompt(m, t)
                                                                                : 2 * op->gate.stack;
}

/* Counting sort. */
static void moe_group(struct moe *m) {
        const struct op_moe *op = m->op;
        uint32_t at = 0, groups = 2 * op->gate.stack;

        memset(m->fill, 0, groups * sizeof(*m->fill));
        for (uint32_t t = 0; t < op->n; t++)
                for (uint32_t j = 0; j < op->k; j++) {
                        uint32_t g = entry_group(m, t, j);

                        if (g < groups)
                                m->fill[g]++;
                }
        for (uint32_t g = 0; g < groups; g++) {
                uint32_t count = m->fill[g];

                m->fill[g] = at;
                if (count == 0)
                        continue;
                m->active[m->n_active] = g;
                m->first_bundle[m->n_active] = m->n_bundles;
                for (uint32_t i = 0; i < count; i += BUNDLE)
                        m->bundles[m->n_bundles++] = (struct bundle) {
                                .first = at + i, .n = MIN(count - i, (uint32_t) BUNDLE), .group = m->n_active,
                        };
                m->first[m->n_active++] = at;
                at += count;
        }
        m->first[m->n_active] = m->n_pairs = at;
        for (uint32_t t = 0; t < op->n; t++)
                for (uint32_t j = 0; j < op->k; j++) {
                        uint32_t g = entry_group(m, t, j), pair;

                        if (g == groups)
                                continue;
                        pair = m->fill[g]++;
                        m->pair_row[pair] = t;
                        m->pair_weight[pair] = ((const float *) host_address(op->weights))[(size_t) t * op->k + j];
                }
}

static enum dot_input form_of(const struct moe_input *in, bool prompt) {
        return prompt && in->prompt != DOT_FLOAT ? in->prompt : in->form;
}

/* The form that a row is converted to; DOT_FLOAT: none, it stays what it is, at most until it is packed. */
static enum dot_input row_form(const struct moe *m, const struct moe_input *in, uint32_t t) {
        enum dot_input form = form_of(in, is_prompt(m, t));

        return cpu_form_bytes(form, in->cols) > 0 ? form : DOT_FLOAT;
}

/* Whether a group's pairs are computed as those of prompts. */
static bool group_prompt(const struct moe *m, const struct moe_input *in, uint32_t group) {
        return in->prompt != DOT_FLOAT && m->active[group] % 2;
}

static enum dot_input group_form(const struct moe *m, const struct moe_input *in, uint32_t group) {
        return form_of(in, m->active[group] % 2);
}

/* Whether they are multiplied as panels. */
static bool group_panels(const struct moe *m, const struct moe_input *in, uint32_t group) {
        return group_prompt(m, in, group) ||
               cpu_wants_panels(m->variant, in->type, m->first[group + 1] - m->first[group]);
}

/* Whether its hidden values stay by columns. */
static bool group_columns(const struct moe *m, uint32_t group) {
        return m->columns && group_prompt(m, &m->hidden_input, group);
}

/* Hidden rows that are multiplied as rows stay in memory one after the other; of others only the panels do. */
static void point_hidden(struct moe *m) {
        struct moe_input *down = &m->hidden_input;
        float *hidden = m->hidden;
        uint8_t *row = down->rows;

        for (uint32_t group = 0; group < m->n_active; group++) {
                bool columns = group_columns(m, group);
                bool converted = !group_panels(m, down, group) &&
                                 cpu_form_bytes(group_form(m, down, group), down->cols) > 0;

                for (uint32_t i = m->first[group]; i < m->first[group + 1]; i++) {
                        m->hidden_y[i] = columns ? NULL : hidden;
                        hidden += columns ? 0 : m->op->gate.rows;
                        down->x[i] = converted ? row : (const void *) m->hidden_y[i];
                        row += converted ? down->row_bytes : 0;
                }
        }
}

static void moe_point(struct moe *m) {
        const struct op_moe *op = m->op;

        for (uint32_t i = 0; i < m->n_pairs; i++) {
                for (unsigned side = 0; side < 2; side++) {
                        struct moe_input *in = &m->input[side];

                        in->x[i] = row_form(m, in, m->pair_row[i]) != DOT_FLOAT
                                           ? in->rows + m->pair_row[i] * in->row_bytes
                                           : (const void *) moe_x(op, m->pair_row[i]);
                }
                m->y[i] = (float *) host_address(op->y) + (size_t) m->pair_row[i] * op->down.rows;
        }
        point_hidden(m);
}

static void input_init(const struct cpu_variant *v, struct moe_input *in, const struct weight *w, bool prompts) {
        in->form = dot_input(w->type);
        in->type = w->type;
        in->cols = w->cols;
        in->prompt = prompts ? cpu_prompt_form(v, w->type) : DOT_FLOAT;
        in->row_bytes = MAX(cpu_form_bytes(in->form, w->cols), cpu_form_bytes(in->prompt, w->cols));
        in->panel_bytes = cpu_wants_panels(v, w->type, UINT32_MAX) ? v->panel_bytes(in->form, w->cols) : 0;
        if (in->prompt != DOT_FLOAT)
                in->panel_bytes = MAX(in->panel_bytes, v->panel_bytes(in->prompt, w->cols));
}

/* Whether rows, and panels of them, serve gate and up alike. */
static bool input_same(const struct moe_input *a, const struct moe_input *b) {
        return a->form == b->form && a->prompt == b->prompt && a->panel_bytes == b->panel_bytes;
}

/* An input of `rows` rows, if it has to be converted at all, and of all pairs; `x` is where its pointers are. */
struct input_plan {
        size_t rows, x, panels;
};

static struct input_plan input_plan(const struct moe_input *in, size_t rows, size_t pairs, size_t bundles,
                                    size_t *total) {
        return (struct input_plan) {
                .rows = scratch_plan(total, in->row_bytes > 0 ? rows : 0, in->row_bytes),
                .x = scratch_plan(total, pairs, sizeof(*in->x)),
                .panels = scratch_plan(total, bundles, in->panel_bytes),
        };
}

/* Hidden rows, of so many pairs, that are multiplied as rows at most: where panels are wanted at all, those of a group
 * of a few pairs. */
static size_t hidden_rows(const struct moe *m, size_t pairs) {
        const struct cpu_variant *v = m->variant;
        uint32_t from = v->panel_rows ? v->panel_rows(m->op->down.type) : 0;

        return from > 0 ? MIN(pairs, 2 * (size_t) m->op->down.stack * (from - 1)) : pairs;
}

/* Pairs whose hidden values do not stay by columns, at most. */
static size_t pairs_by_rows(const struct moe *m) {
        return (size_t) (m->columns ? m->n_exact : m->op->n) * m->op->k;
}

static void input_place(struct moe_input *in, const struct input_plan *plan, char *data) {
        in->rows = in->row_bytes > 0 ? (uint8_t *) data + plan->rows : NULL;
        in->x = (const void **) (data + plan->x);
        in->panels = in->panel_bytes ? (uint8_t *) data + plan->panels : NULL;
}

enum part {
        PART_ACTIVE,
        PART_FIRST,
        PART_FIRST_BUNDLE,
        PART_BUNDLES,
        PART_PAIR_ROW,
        PART_PAIR_WEIGHT,
        PART_FILL,
        PART_HIDDEN,
        PART_HIDDEN_Y,
        PART_Y,
        PART_WORKER,
        PART_BUNDLE,
        _PART_MAX,
};

static int moe_reserve(struct moe *m, struct cpu_backend *b) {
        const struct op_moe *op = m->op;
        size_t pairs = (size_t) op->n * op->k, groups = 2 * (size_t) op->gate.stack, at[_PART_MAX], total = 0;
        size_t bundles = pairs / BUNDLE + MIN(pairs, groups);
        struct input_plan plans[3];
        char *data;

        at[PART_ACTIVE] = scratch_plan(&total, groups, sizeof(*m->active));
        at[PART_FIRST] = scratch_plan(&total, groups + 1, sizeof(*m->first));
        at[PART_FIRST_BUNDLE] = scratch_plan(&total, groups, sizeof(*m->first_bundle));
        at[PART_BUNDLES] = scratch_plan(&total, bundles, sizeof(*m->bundles));
        at[PART_PAIR_ROW] = scratch_plan(&total, pairs, sizeof(*m->pair_row));
        at[PART_PAIR_WEIGHT] = scratch_plan(&total, pairs, sizeof(*m->pair_weight));
        at[PART_FILL] = scratch_plan(&total, groups, sizeof(*m->fill));
        at[PART_HIDDEN] = scratch_plan(&total, pairs_by_rows(m), op->gate.rows * sizeof(float));
        at[PART_HIDDEN_Y] = scratch_plan(&total, pairs, sizeof(*m->hidden_y));
        at[PART_Y] = scratch_plan(&total, pairs, sizeof(*m->y));
        at[PART_WORKER] = scratch_plan(&total, pool_threads(b->pool) * (size_t) 2 * SLICE, m->unit_up * sizeof(float));
        at[PART_BUNDLE] = scratch_plan(&total, pool_threads(b->pool) * (size_t) BUNDLE, m->hidden_input.row_bytes);
        plans[0] = plans[1] = input_plan(&m->input[0], op->n, pairs, bundles, &total);
        if (!input_same(&m->input[0], &m->input[1]))
                plans[1] = input_plan(&m->input[1], op->n, pairs, bundles, &total);
        plans[2] = input_plan(&m->hidden_input, hidden_rows(m, pairs), pairs, bundles, &total);
        data = scratch_get(&b->scratch, total);
        if (!data)
                return -ENOMEM;
        m->active = (uint32_t *) (data + at[PART_ACTIVE]);
        m->first = (uint32_t *) (data + at[PART_FIRST]);
        m->first_bundle = (uint32_t *) (data + at[PART_FIRST_BUNDLE]);
        m->bundles = (struct bundle *) (data + at[PART_BUNDLES]);
        m->pair_row = (uint32_t *) (data + at[PART_PAIR_ROW]);
        m->pair_weight = (float *) (data + at[PART_PAIR_WEIGHT]);
        m->fill = (uint32_t *) (data + at[PART_FILL]);
        m->hidden = (float *) (data + at[PART_HIDDEN]);
        m->hidden_y = (float **) (data + at[PART_HIDDEN_Y]);
        m->y = (float **) (data + at[PART_Y]);
        m->worker = (float *) (data + at[PART_WORKER]);
        m->bundle = (uint8_t *) data + at[PART_BUNDLE];
        input_place(&m->input[0], &plans[0], data);
        input_place(&m->input[1], &plans[1], data);
        input_place(&m->hidden_input, &plans[2], data);
        return 0;
}

static void input_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct moe *m = arg;

        for (uint64_t t = begin; t < end; t++)
                for (unsigned side = 0; side < 2; side++) {
                        struct moe_input *in = &m->input[side];
                        enum dot_input form = row_form(m, in, (uint32_t) t);

                        if (form != DOT_FLOAT && (side == 0 || in->rows != m->input[0].rows))
                                m->variant->dot_input(form, in->rows + t * in->row_bytes, moe_x(m->op, t), in->cols);
                }
}

/* Where the panel of a group's bundle i is. */
static uint8_t *group_panel(const struct moe *m, const struct moe_input *in, uint32_t group, uint32_t i) {
        size_t bytes = m->variant->panel_bytes(group_form(m, in, group), in->cols);

        return in->panels + m->first_bundle[group] * in->panel_bytes + i * bytes;
}

/* Of the rows x, if its group has panels. */
static void pack_bundle(const struct moe *m, const struct moe_input *in, uint32_t i, const void *const *x) {
        const struct bundle *b = &m->bundles[i];

        if (group_panels(m, in, b->group))
                m->variant->panel_pack(group_form(m, in, b->group),
                                       group_panel(m, in, b->group, i - m->first_bundle[b->group]), x, b->n, in->cols);
}

static void input_pack_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        const struct moe *m = arg;

        for (uint64_t i = begin; i < end; i++) {
                uint32_t first = m->bundles[i].first;

                pack_bundle(m, &m->input[0], (uint32_t) i, m->input[0].x + first);
                if (m->input[1].panels != m->input[0].panels)
                        pack_bundle(m, &m->input[1], (uint32_t) i, m->input[1].x + first);
        }
}

/* The pairs of a bundle, in the form that down asks for: where they are multiplied as rows in their places. */
static void hidden_bundle(const struct moe *m, uint32_t i, uint8_t *rows) {
        const struct moe_input *in = &m->hidden_input;
        const struct bundle *b = &m->bundles[i];
        enum dot_input form = group_form(m, in, b->group);
        bool converted = cpu_form_bytes(form, in->cols) > 0, panels = group_panels(m, in, b->group);
        const void *x[BUNDLE];

        for (uint32_t j = 0; j < b->n; j++) {
                void *row = panels ? rows + j * in->row_bytes : (void *) in->x[b->first + j];

                x[j] = converted ? row : m->hidden_y[b->first + j];
                if (converted)
                        m->variant->dot_input(form, row, m->hidden_y[b->first + j], in->cols);
        }
        pack_bundle(m, in, i, x);
}

static void hidden_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        const struct moe *m = arg;
        uint8_t *rows = m->bundle + worker * (size_t) BUNDLE * m->hidden_input.row_bytes;

        for (uint64_t i = begin; i < end; i++)
                if (!group_columns(m, m->bundles[i].group))
                        hidden_bundle(m, (uint32_t) i, rows);
}

/* Rows of the matrix of a group's expert. */
static const uint8_t *expert_rows(const struct moe *m, const struct weight *w, uint32_t group, uint32_t row) {
        size_t row_bytes = quant_row_bytes(quant_info(w->type), w->cols);

        return (const uint8_t *) host_address(w->data) + ((size_t) (m->active[group] / 2) * w->rows + row) * row_bytes;
}

/* Rows [begin, end) of one expert's matrix for its pairs [from, from + n), counted from its first; `from` is the first
 * of a bundle. y and scale are those of the first of these pairs. */
static void moe_dot(const struct moe *m, const struct moe_input *in, const struct weight *w, struct device_ptr bias,
                    uint32_t group, uint32_t from, struct dot_job job) {
        uint32_t expert = m->active[group] / 2;

        job.row_bytes = quant_row_bytes(quant_info(w->type), w->cols);
        job.w = expert_rows(m, w, group, 0);
        job.cols = w->cols;
        job.x = in->x + m->first[group] + from;
        if (group_panels(m, in, group))
                job.panels = group_panel(m, in, group, from / BUNDLE);
        if (bias.address)
                job.bias = (const float *) host_address(bias) + (size_t) expert * w->rows;
        if (group_prompt(m, in, group))
                m->variant->dot_prompt(&job, w->type);
        else
                cpu_variant_dot(m->variant, w->type, &job);
}

/* The activation function of gate and up [n][dim], in place of y. */
static void up_act(const struct moe *m, float *y, const float *gate, const float *up, uint32_t dim) {
        struct op_glu glu = {
                .n = 1,
                .dim = dim,
                .act = m->op->act,
                .limit = m->op->limit,
                .gate = host_device_ptr(gate),
                .up = host_device_ptr(up),
                .y = host_device_ptr(y),
        };

        m->variant->glu(&glu, 0, 1);
}

/* Gate, up and the activation function of some rows for at most SLICE pairs. */
static void up_slice(struct moe *m, uint32_t group, uint32_t from, uint32_t n, uint32_t begin, uint32_t end,
                     float *worker) {
        const struct op_moe *op = m->op;
        float *gate[SLICE], *up[SLICE];
        uint32_t rows = end - begin;
        bool columns = group_columns(m, group);
        float *worker_up = worker + (size_t) SLICE * rows;
        struct dot_job job = {.begin = begin, .end = end, .n = n, .y = gate, .columns = columns ? worker : NULL};

        if (op->gate.type == op->up.type) {
                job.next = expert_rows(m, &op->up, group, begin);
                job.next_rows = rows;
        }
        /* A job's results begin at row 0. */
        for (uint32_t i = 0; i < n; i++) {
                gate[i] = worker + (size_t) i * rows - begin;
                up[i] = worker_up + (size_t) i * rows - begin;
        }
        moe_dot(m, &m->input[0], &op->gate, op->gate_bias, group, from, job);
        job.y = up;
        job.columns = columns ? worker_up : NULL;
        if (op->gate.type == op->up.type && end < op->gate.rows)
                job.next = expert_rows(m, &op->gate, group, end);
        else if (op->gate.type == op->up.type && group + 1 < m->n_active)
                job.next = expert_rows(m, &op->gate, group + 1, 0);
        else
                job.next_rows = 0;
        job.next_rows = MIN(job.next_rows, end < op->gate.rows ? op->gate.rows - end : op->gate.rows);
        moe_dot(m, &m->input[1], &op->up, op->up_bias, group, from, job);
        for (uint32_t i = 0; i < n; i += columns ? BUNDLE : 1) {
                float *values = worker + (size_t) i * rows, *ups = worker_up + (size_t) i * rows;

                if (!columns) {
                        up_act(m, m->hidden_y[m->first[group] + from + i] + begin, values, ups, rows);
                        continue;
                }
                up_act(m, values, values, ups, BUNDLE * rows);
                m->variant->pack_columns(group_panel(m, &m->hidden_input, group, (from + i) / BUNDLE), values, begin,
                                         rows, op->down.cols);
        }
}

static void up_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct moe *m = arg;
        uint32_t hidden = m->op->gate.rows, units = DIV_ROUND_UP(hidden, m->unit_up);

        for (uint64_t i = begin; i < end; i++) {
                uint64_t piece = deal_next(m->deal_up, worker);
                uint32_t group = (uint32_t) (piece / units), row = (uint32_t) (piece % units) * m->unit_up;
                uint32_t n = m->first[group + 1] - m->first[group], slice = rows_at_a_time(n, SLICE, BUNDLE);

                for (uint32_t from = 0; from < n; from += slice)
                        up_slice(m, group, from, MIN(n - from, slice), row, MIN(row + m->unit_up, hidden),
                                 m->worker + worker * (size_t) 2 * SLICE * m->unit_up);
        }
}

/* Some rows of down, all experts one after the other: a row of y gets its experts' parts in rising order. */
static void down_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct moe *m = arg;
        const struct op_moe *op = m->op;

        for (uint64_t i = begin; i < end; i++) {
                uint32_t row = (uint32_t) deal_next(m->deal_down, worker) * m->unit_down;

                for (uint32_t group = 0; group < m->n_active; group++) {
                        struct dot_job job = {
                                .begin = row,
                                .end = MIN(row + m->unit_down, op->down.rows),
                                .n = m->first[group + 1] - m->first[group],
                                .y = m->y + m->first[group],
                                .accumulate = true,
                                .scale = m->pair_weight + m->first[group],
                        };

                        if (group + 1 < m->n_active) {
                                job.next = expert_rows(m, &op->down, group + 1, row);
                                job.next_rows = job.end - row;
                        } else if (job.end < op->down.rows) {
                                job.next = expert_rows(m, &op->down, 0, job.end);
                                job.next_rows = MIN(m->unit_down, op->down.rows - job.end);
                        }
                        moe_dot(m, &m->hidden_input, &op->down, op->down_bias, group, 0, job);
                }
        }
}

static void moe_run(struct moe *m, struct cpu_backend *b) {
        const struct op_moe *op = m->op;
        bool panels = m->input[0].panels || m->input[1].panels;
        uint64_t ups = (uint64_t) m->n_active * DIV_ROUND_UP(op->gate.rows, m->unit_up);
        uint64_t downs = DIV_ROUND_UP(op->down.rows, m->unit_down);
        uint64_t pack_nsec = BUNDLE * (uint64_t) op->gate.cols / 8, hidden_nsec = BUNDLE * (uint64_t) op->down.cols / 4;

        deal_out(m->deal_up, ups);
        deal_out(m->deal_down, downs);
        pool_run_phases(b->pool,
                        (struct pool_phase[]) {
                                {op->n, cpu_grain(b, op->n, op->gate.cols / 4), input_piece, m},
                                {panels ? m->n_bundles : 0, cpu_grain(b, m->n_bundles, pack_nsec), input_pack_piece, m},
                                {ups, 1, up_piece, m},
                                {m->n_bundles, cpu_grain(b, m->n_bundles, hidden_nsec), hidden_piece, m},
                                {downs, 1, down_piece, m},
                        },
                        5);
}

static void moe_inputs(struct moe *m, bool prompts) {
        const struct op_moe *op = m->op;

        input_init(m->variant, &m->input[0], &op->gate, prompts);
        input_init(m->variant, &m->input[1], &op->up, prompts);
        if (input_same(&m->input[0], &m->input[1]))
                m->input[1] = m->input[0];
        input_init(m->variant, &m->hidden_input, &op->down, prompts);
        m->columns = m->variant->pack_columns && m->input[0].prompt == DOT_Q8_256 &&
                     m->input[1].prompt == DOT_Q8_256 && m->hidden_input.prompt == DOT_Q8_256;
}

/* Rows at a time, so that scratch stays about MOE_SCRATCH however many rows a call has. Rows are independent: where a
 * call is cut changes no bit. Slices are of one size, for each unpacks all experts anew. */
enum { MOE_SCRATCH = 128 << 20 };

static uint32_t moe_slice_rows(const struct cpu_backend *b, const struct op_moe *op) {
        struct moe m = {.op = op, .variant = b->variant};
        const struct moe_input *up = &m.input[1], *down = &m.hidden_input;
        uint64_t pair_bytes = 4 * (uint64_t) op->gate.rows + sizeof(*m.pair_row) + sizeof(*m.pair_weight) +
                              2 * sizeof(*m.y) + 3 * sizeof(*up->x);
        uint64_t most;

        moe_inputs(&m, op->prompt.address);
        pair_bytes += (m.input[0].panel_bytes + down->panel_bytes) / BUNDLE;
        if (!input_same(&m.input[0], up))
                pair_bytes += up->panel_bytes / BUNDLE;
        if (down->panel_bytes == 0)
                pair_bytes += down->row_bytes;
        most = MAX(MOE_SCRATCH / (pair_bytes * op->k + m.input[0].row_bytes), UINT64_C(1));
        return (uint32_t) DIV_ROUND_UP(op->n, DIV_ROUND_UP(op->n, most));
}

/* Weight rows of the pieces. A piece of down passes all experts: that counts where their bytes are what takes time. */
static void moe_units(struct moe *m, const struct cpu_backend *b) {
        const struct op_moe *op = m->op;
        uint64_t pairs = (uint64_t) op->n * op->k, active = MIN(pairs, (uint64_t) op->gate.stack);
        uint64_t mean = DIV_ROUND_UP(pairs, MAX(active, UINT64_C(1)));
        size_t up_bytes = quant_row_bytes(quant_info(op->gate.type), op->gate.cols);
        size_t down_bytes = quant_row_bytes(quant_info(op->down.type), op->down.cols);

        m->unit_up = m->prompt ? PROMPT_UNIT : cpu_row_unit(b, op->gate.rows * active, 2 * up_bytes * mean);
        m->unit_up = MIN(m->unit_up, op->gate.rows);
        m->unit_down = cpu_row_unit(b, op->down.rows, down_bytes * (mean < BUNDLE && !m->prompt ? active : 1));
}

static void moe_prompts(struct moe *m, const struct cpu_backend *b, uint32_t from) {
        const struct op_moe *op = m->op;
        const int32_t *prompt = host_address(op->prompt);
        bool differ = cpu_prompt(b->variant, op->gate.type) || cpu_prompt(b->variant, op->up.type) ||
                      cpu_prompt(b->variant, op->down.type);

        m->n_exact = op->n;
        if (!prompt || !differ)
                return;
        m->n_exact = b->scratch.planned ? 0 : cpu_exact_rows(prompt + from, op->n);
        m->prompt = m->n_exact < op->n ? prompt + from : NULL;
}

static int moe_slice(struct cpu_backend *b, const struct op_moe *whole, uint32_t from, uint32_t n) {
        struct op_moe op = *whole;
        struct moe m = {.op = &op, .variant = b->variant, .deal_up = b->deals[0], .deal_down = b->deals[1]};
        int r;

        op.n = n;
        op.x = device_offset(op.x, (uint64_t) from * op.gate.cols * sizeof(float));
        op.y = device_offset(op.y, (uint64_t) from * op.down.rows * sizeof(float));
        op.ids = device_offset(op.ids, (uint64_t) from * op.k * sizeof(int32_t));
        op.weights = device_offset(op.weights, (uint64_t) from * op.k * sizeof(float));
        op.counts = device_offset(op.counts, from * sizeof(int32_t));
        moe_prompts(&m, b, from);
        moe_inputs(&m, m.prompt);
        moe_units(&m, b);
        r = moe_reserve(&m, b);
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
        rows = moe_slice_rows(cpu_backend(s), op);
        for (uint32_t from = 0; r == 0 && from < op->n; from += rows)
                r = moe_slice(b, op, from, MIN(rows, op->n - from));
        return r;
}
