/* SPDX-License-Identifier: MIT */
#pragma once

/* What the parts of the cpu backend share: its object, and scratch memory that lives from one operation to
 * the next so that a token allocates nothing. */

#include "host.h"
#include "pool.h"
#include "variant.h"

struct scratch {
        void *data;
        size_t size;
        bool planned; /* nothing is allocated: `size` is the most that any operation asked for */
};

/* The items of a loop, a run of them to each thread, so that what it reads is one piece of memory; whoever has no more
 * of its own takes from the others. For loops that hand out as many items as the deal has, whichever they name. */
struct deal;

int deal_new(struct deal **ret, unsigned threads);
void deal_free(struct deal *d);
void deal_out(struct deal *d, uint64_t n);
/* The next item of `worker`. */
uint64_t deal_next(struct deal *d, unsigned worker);

enum { CPU_DEALS = 2 };

struct cpu_backend {
        struct backend base;
        struct pool *pool;
        const struct cpu_variant *variant;
        struct scratch scratch;
        struct deal *deals[CPU_DEALS];
        char description[64];
};

static inline struct cpu_backend *cpu_backend(struct stream *s) {
        return (struct cpu_backend *) s->backend;
}

/* Lays out one operation's scratch: adds a part of `count` × `bytes` to `total`, aligned to a page; returns its
 * offset. A total that would overflow sticks at SIZE_MAX, which scratch_get() refuses. */
size_t scratch_plan(size_t *total, size_t count, size_t bytes);

/* At least `total` bytes aligned to a page, contents undefined, until the next call; NULL: no memory, or only
 * planned. */
void *scratch_get(struct scratch *s, size_t total);

/* Weight rows of one piece of work: large enough to be worth handing out, small enough that all threads get
 * some of `rows_total` rows. `row_work` is bytes of a weight row × activation rows. A multiple of the
 * kernels' tiles. */
uint32_t cpu_row_unit(const struct cpu_backend *b, uint64_t rows_total, uint64_t row_work);

/* Whether `n` rows that are multiplied with weights of a type are wanted as panels. */
static inline bool cpu_wants_panels(const struct cpu_variant *v, enum quant_type type, uint32_t n) {
        uint32_t from = v->panel_rows ? v->panel_rows(type) : 0;

        return from > 0 && n >= from;
}

/* The form that prompt rows take for a type; DOT_FLOAT: they are computed as all others are. */
static inline enum dot_input cpu_prompt_form(const struct cpu_variant *v, enum quant_type type) {
        return v->prompt_form ? v->prompt_form(type) : DOT_FLOAT;
}

/* Whether their products are computed by the variant's dot_prompt(). */
static inline bool cpu_prompt(const struct cpu_variant *v, enum quant_type type) {
        return cpu_prompt_form(v, type) != DOT_FLOAT;
}

/* How many of n rows belong to no prompt (NULL: all of them); and the rows' numbers, those first. */
uint32_t cpu_exact_rows(const int32_t *prompt, uint32_t n);
void cpu_order_rows(uint32_t *order, const int32_t *prompt, uint32_t n);

/* Bytes of a row that is converted to a form on its own; 0: panels are packed from rows as they are. */
static inline size_t cpu_form_bytes(enum dot_input form, uint32_t cols) {
        return form == DOT_Q8_32 || form == DOT_Q8_256 ? dot_input_bytes(form, cols) : 0;
}

/* Items so few that waking a thread costs more than they do run on the caller: the grain for pool_run() when
 * one item costs about `item_nsec`. */
uint64_t cpu_grain(const struct cpu_backend *b, uint64_t n, uint64_t item_nsec);

/* The operations whose rows are independent and whose arithmetic is a function of one range. */
#define ROWS_OP(_op, _function)                                                                              \
        struct _op##_arg {                                                                                   \
                const struct _op *op;                                                                        \
                const struct cpu_variant *variant;                                                           \
        };                                                                                                   \
        static void _op##_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {                  \
                struct _op##_arg *a = arg;                                                                   \
                                                                                                             \
                _function(a->op, begin, end);                                                                \
        }                                                                                                    \
        static void _op##_run(struct stream *s, const struct _op *op, uint64_t n, uint64_t item_nsec) {      \
                struct cpu_backend *b = cpu_backend(s);                                                      \
                struct _op##_arg a = {op, b->variant};                                                       \
                                                                                                             \
                pool_run(b->pool, n, cpu_grain(b, n, item_nsec), _op##_piece, &a);                           \
        }

int cpu_matmul(struct stream *s, const struct op_matmul *op);
int cpu_moe(struct stream *s, const struct op_moe *op);
int cpu_head_matmul(struct stream *s, const struct op_head_matmul *op);
int cpu_index(struct stream *s, const struct op_index *op);
int cpu_sparse_attention(struct stream *s, const struct op_sparse_attention *op);
int cpu_hyper_mix(struct stream *s, const struct op_hyper *op);
int cpu_hyper_in(struct stream *s, const struct op_hyper *op);
int cpu_hyper_out(struct stream *s, const struct op_hyper *op);
int cpu_attention(struct stream *s, const struct op_attention *op);
