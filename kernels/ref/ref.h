/* SPDX-License-Identifier: MIT */
#pragma once

/* The plain C definition of every operation. A function computes the items [begin, end) of an operation;
 * items do not touch each other, so that any split of them over threads gives the same bits. No function
 * fails: shapes were checked before (host.h). */

#include "base/util.h"
#include "float16.h"
#include "host.h"
#include "op.h"

/* Items: rows. */
void ref_rms_norm(const struct op_rms_norm *op, uint32_t begin, uint32_t end);
void ref_layer_norm(const struct op_layer_norm *op, uint32_t begin, uint32_t end);
void ref_rope(const struct op_rope *op, uint32_t begin, uint32_t end);
void ref_glu(const struct op_glu *op, uint32_t begin, uint32_t end);
void ref_copy(const struct op_copy *op, uint32_t begin, uint32_t end);
void ref_hyper_mix(const struct op_hyper *op, uint32_t begin, uint32_t end);
void ref_hyper_in(const struct op_hyper *op, uint32_t begin, uint32_t end);
void ref_hyper_out(const struct op_hyper *op, uint32_t begin, uint32_t end);
void ref_gather(const struct op_gather *op, uint32_t begin, uint32_t end);

/* Items: rows. Experts that are `full` ([experts]; NULL: none is) are not chosen. */
typedef void route_fn(const struct op_route *op, const bool *full, uint32_t begin, uint32_t end);
route_fn ref_route;

/* All rows, one after the other, when the router has chosen as if rows with budgets could have all and no expert were
 * ever full: where some are it chooses again, by `route`; then budgets are spent. */
void route_settle(const struct op_route *op, route_fn *route);

/* Whether what rows have depends on rows before them. */
static inline bool route_is_settled(const struct op_route *op) {
        return op->budget.state.address;
}

/* Where a sequence's state of that position lies, counted in positions from the plane's beginning. */
size_t route_place(const struct op_route *op, uint32_t t, uint32_t position);

/* What the rows so far of a sequence's window have used. */
struct route_window {
        int32_t sequence;
        uint32_t next; /* position of the first row that is not counted */
        uint32_t uses[ROUTE_EXPERTS_MAX];
        bool full[ROUTE_EXPERTS_MAX];
};

/* Comes to stand before a row. Returns which experts are full, if the row has one of them; else NULL. */
const bool *route_window_enter(struct route_window *w, const struct op_route *op, uint32_t t, uint32_t position);
/* Counts the row, and keeps what it has. */
void route_window_leave(struct route_window *w, const struct op_route *op, uint32_t t, uint32_t position);

static inline bool route_has_budget(const struct op_route *op, uint32_t t) {
        return route_is_settled(op) && ((const int32_t *) host_address(op->budget.floors))[t] >= 0;
}

/* How many experts to choose for a row. */
static inline uint32_t route_cap(const struct op_route *op, uint32_t t) {
        int32_t cap = ((const int32_t *) host_address(op->caps))[t];

        return route_has_budget(op, t) ? op->k : MIN((uint32_t) MAX(cap, 0) / 1000, op->k);
}

/* Whether scores are compared by the logits that they rise with, which no rounding makes equal. */
static inline bool route_by_logits(const struct op_route *op) {
        return !op->bias.address && op->groups == 0;
}

/* Number i of keys or values of that type. */
static inline float kv_value(enum quant_type type, const void *base, size_t i) {
        const uint16_t *halves = base;

        if (type == QUANT_F32)
                return ((const float *) base)[i];
        return type == QUANT_BF16 ? bf16_to_f32(halves[i]) : f16_to_f32(halves[i]);
}

/* Items: rows. What does the work of an element may be a variant's. */
typedef void to_half_fn(uint16_t *dst, const float *src, uint32_t n);
to_half_fn ref_to_f16;
/* What is not finite becomes the largest finite number: see op_kv_store. */
to_half_fn ref_to_bf16;
void kv_store(const struct op_kv_store *op, to_half_fn *to_f16, to_half_fn *to_bf16, uint32_t begin, uint32_t end);
void embed(const struct op_embed *op, dequantize_fn *dequantize, uint32_t begin, uint32_t end);

/* Items: values. */
void ref_add(const struct op_add *op, uint64_t begin, uint64_t end);

/* Items: channels. `add` takes a row's values and logits g + bias into the running softmax of n of them. */
struct channels {
        float *max, *weight, *value;
};
typedef void channels_add_fn(const struct channels *s, const float *v, const float *g, const float *bias,
                             uint32_t n);
channels_add_fn ref_channels_add;
void compress(const struct op_compress *op, channels_add_fn *add, uint32_t begin, uint32_t end);

/* Items: row × heads + head. */
void ref_attention(const struct op_attention *op, uint64_t begin, uint64_t end);

void ref_sparse_attention(const struct op_sparse_attention *op, uint64_t begin, uint64_t end);

/* Items: rows. `scores`: room for as many as a row sees. */
void ref_index(const struct op_index *op, float *scores, uint32_t begin, uint32_t end);

/* Where entry i of a sequence lies, counted in entries from the plane's beginning. `pages`: its row of the
 * page table. */
size_t kv_entry(uint32_t ratio, const int32_t *pages, uint32_t i);

/* The keys of one row of a sparse attention, in order: `recent` of the window, from position `first` on;
 * then entries. */
struct sparse_keys {
        const int32_t *pages, *chosen;
        uint32_t first, recent, count;
};

struct sparse_keys sparse_keys(const struct op_sparse_attention *op, uint32_t t);
/* Where key i begins. */
const char *sparse_key(const struct op_sparse_attention *op, const struct sparse_keys *keys, uint32_t i);

/* Writes the numbers of the k best of n scores, rising, of equals the lower; k < n. Not-a-number is the
 * lowest. */
void choose_best(int32_t *chosen, const float *scores, uint32_t n, uint32_t k);

/* Items: row × heads + head. `scratch`: head_matmul_scratch(op) bytes, aligned to 64. */
void ref_head_matmul(const struct op_head_matmul *op, void *scratch, uint64_t begin, uint64_t end);
size_t head_matmul_scratch(const struct op_head_matmul *op);

#define ZERO_BELOW 1e-35f

/* What a weight type is multiplied with, or (DOT_BF16) what prompt rows are where a variant rounds them. 8-bit
 * activations: blocks of 32 (Q8_32) or 256 (Q8_256; the last one of a row may be shorter, a multiple of 32) values,
 * each with the float32 scale d = max|x| / 127 and q = x / d rounded to nearest, ties to even; a block whose largest
 * magnitude is below ZERO_BELOW is zero. */
enum dot_input {
        DOT_FLOAT,
        DOT_BF16,
        DOT_Q8_32,
        DOT_Q8_256,
        _DOT_INPUT_MAX,
};

enum dot_input dot_input(enum quant_type type);

/* Bytes of a row of `cols` values in that form, a multiple of 64. A Q8 row is: int8 q[cols]; float d[cols /
 * block]; and then the sums of q as int16 over each 32 values (Q8_32) or 16 values (Q8_256). */
size_t dot_input_bytes(enum dot_input input, uint32_t cols);

static inline const float *q8_32_scales(const void *row, uint32_t cols) {
        return (const float *) ((const char *) row + cols);
}

static inline const int16_t *q8_32_sums(const void *row, uint32_t cols) {
        return (const int16_t *) ((const char *) row + cols + cols / 32 * sizeof(float));
}

static inline const float *q8_256_scales(const void *row, uint32_t cols) {
        return (const float *) ((const char *) row + cols);
}

static inline const int16_t *q8_256_sums(const void *row, uint32_t cols) {
        return (const int16_t *) ((const char *) row + cols + (cols + 255) / 256 * sizeof(float));
}

/* Brings a row into that form. `dst` is aligned to 64 bytes. */
void ref_dot_input(enum dot_input input, void *dst, const float *src, uint32_t cols);

/* The dot product of a weight row in `type`'s blocks and an activation row in the type's form: where there are
 * 8-bit activations exact integers within a block, then sum = fmaf(integer, weights' scale × activations', sum) over
 * the blocks in rising order, from 0. Every other type: float32, in rising order. */
float ref_dot(enum quant_type type, const void *w, const void *x, uint32_t cols);

/* One value of op_glu. */
float ref_act(enum act_kind act, float limit, float gate, float up);
