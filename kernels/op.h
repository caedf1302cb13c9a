/* SPDX-License-Identifier: MIT */
#pragma once

/* One argument struct per operation, the same for ref/, cpu/ and cuda/. Activations are float32, rows of
 * tokens; weights are in the file's block format. Every pointer is a device address: only a backend may
 * follow it.
 *
 * An operation computes each of its rows from that row alone, in an order fixed by the row's own content
 * (promise P2): the same bits whatever other rows the call carries. */

#include <stdbool.h>
#include <stdint.h>

#include "quant.h"

/* An address in a backend's memory. On the CPU it happens to be a host address; above kernels/ nobody may
 * know. */
struct device_ptr {
        uint64_t address;
};

#define DEVICE_NULL ((struct device_ptr) { 0 })

static inline struct device_ptr device_offset(struct device_ptr p, uint64_t bytes) {
        return (struct device_ptr) { p.address + bytes };
}

/* A matrix, or a stack of them: [stack][rows][cols], rows contiguous, type's blocks along cols. */
struct weight {
        struct device_ptr data;
        enum quant_type type;
        uint32_t rows, cols;
        uint32_t stack; /* number of experts; 1 for a plain matrix */
};

enum { KV_PAGE_TOKENS = 32 };

/* The rows of one iteration: which sequence and position each row is, and where sequences keep their KV. All
 * arrays are on the device. Rows of one sequence are neighbours, in rising position. */
struct op_rows {
        uint32_t n;
        struct device_ptr ids;        /* i32 [n] token ids */
        struct device_ptr positions;  /* i32 [n] from 0 */
        struct device_ptr sequences;  /* i32 [n] row of page_table */
        struct device_ptr page_table; /* i32 [sequences][page_table_stride]: position / KV_PAGE_TOKENS → page */
        uint32_t page_table_stride;
        uint32_t position_max;        /* highest position in the batch: bounds scratch and grid sizes */
};

/* y[t,:] = scale * table[ids[t],:]      y: [n, cols] */
struct op_embed {
        uint32_t n;
        struct weight table;
        struct device_ptr ids;
        struct device_ptr y;
        float scale;
};

/* y[r,:] = w * x[r,:] / sqrt(mean(x[r,:]²) + eps)   for n rows of `dim`; strides in floats; y may be x.
 * Per-head norms are calls with n = tokens × heads. w: f32 [dim], or null for none. (arXiv 1910.07467) */
struct op_rms_norm {
        uint32_t n, dim;
        struct device_ptr x, w, y;
        uint32_t x_stride, y_stride;
        float eps;
};

/* y[r,:] = w * (x[r,:] - mean) / sqrt(variance + eps) + b   for n rows of `dim` next to each other; w, b:
 * f32 [dim]; y may be x. (arXiv 1607.06450) */
struct op_layer_norm {
        uint32_t n, dim;
        struct device_ptr x, w, b, y;
        float eps;
};

/* Products of prompt rows. A prompt's many rows are bound by computing, not by memory. So where an operation says which
 * of its rows belong to a prompt (i32 [n], not 0; null: none does), a backend may multiply those, of some weight types,
 * after rounding them and the weights to fewer bits; then it does so with every such row. */

/* For each of `count` matrices that share the input: y = x Wᵀ (+ bias), or y += with `accumulate`.
 * x: [n, w.cols], x_stride floats apart; y: [n, w.rows], y_stride floats apart. All w.cols are equal. */
struct op_matmul {
        uint32_t n;
        struct device_ptr x;
        uint32_t x_stride;
        struct device_ptr prompt; /* i32 [n] or null: see above */
        uint32_t count; /* 1 to 4 */
        bool accumulate;
        struct op_matmul_out {
                struct weight w;
                struct device_ptr bias; /* f32 [w.rows] or null */
                struct device_ptr y;
                uint32_t y_stride;
        } out[4];
};

enum { ROPE_PAIRS_MAX = 512 }; /* more is refused with -EOPNOTSUPP */

/* A product per head: y[t,h,:] = W_h x[t,h,:], or W_hᵀ x[t,h,:] with `transposed`. W_h are w.stack matrices
 * of w.rows × w.cols; head h's begins h × head_rows rows after w.data, so that they may be slices of a
 * larger matrix. Strides in floats, of a token and of a head. */
struct op_head_matmul {
        uint32_t n;
        struct weight w;
        uint32_t head_rows;
        bool transposed;
        struct device_ptr prompt; /* i32 [n] or null: as in op_matmul */
        struct device_ptr x, y;
        uint32_t x_stride, x_head_stride, y_stride, y_head_stride;
};

/* y[i,:] = x[i,:]   n rows of `dim`; strides in floats; x and y do not overlap. */
struct op_copy {
        uint32_t n, dim;
        struct device_ptr x, y;
        uint32_t x_stride, y_stride;
};

enum rope_pairs {
        ROPE_ADJACENT, /* (2i, 2i+1): llama, DeepSeek */
        ROPE_HALVES,   /* (i, i + dims/2): NeoX, qwen, olmoe */
};

/* Turns pair i of every head by the angle position × frequencies[i] and scales it by `magnitude`, in place.
 * x: [n][heads][head_dim], `stride` floats between tokens; `dims` values of each head from `offset` take
 * part. frequencies: f32 [dims/2], made once by the engine (bases, Llama 3.1 factors and YaRN are all in
 * them). (arXiv 2104.09864; 2309.00071) */
struct op_rope {
        uint32_t n, heads, head_dim, dims, offset, stride;
        enum rope_pairs pairs;
        float magnitude;
        bool inverse;      /* turns back */
        uint32_t multiple; /* 0, or: by the largest multiple of it that is not past the position */
        struct device_ptr x, positions, frequencies;
};

/* Pages of one layer: K as [page][kv_heads][KV_PAGE_TOKENS][k_dim], V as
 * [page][kv_heads][KV_PAGE_TOKENS][v_dim], of type F16 or F32. With v null a value is the first v_dim ≤
 * k_dim values of its key (the latent of MLA, arXiv 2405.04434).
 *
 * With a ratio there is one entry for `ratio` tokens, of one head, and entry i is there from position (i +
 * 1) × ratio - 1 on. It lies in the page of that position, which has kv_page_entries() of them. */
struct kv_layer {
        struct device_ptr k, v;
        enum quant_type type; /* F32, F16 or BF16 */
        uint32_t kv_heads, k_dim, v_dim;
        uint32_t ratio; /* divides KV_PAGE_TOKENS or is a multiple of it; 0: an entry for every token */
};

static inline uint32_t kv_page_entries(uint32_t ratio) {
        return ratio == 0 ? KV_PAGE_TOKENS : ratio < KV_PAGE_TOKENS ? KV_PAGE_TOKENS / ratio : 1;
}

/* How many entries a row at `position` sees. */
static inline uint32_t kv_visible(uint32_t ratio, uint32_t position) {
        return ratio == 0 ? position + 1 : (position + 1) / ratio;
}

/* Where values lie, and how far apart. */
static inline struct device_ptr kv_values(const struct kv_layer *kv) {
        return kv->v.address ? kv->v : kv->k;
}

static inline uint32_t kv_value_stride(const struct kv_layer *kv) {
        return kv->v.address ? kv->v_dim : kv->k_dim;
}

/* As BF16, the numbers of two neighbouring tokens' values alternate: as matrix units multiply them. */
static inline bool kv_paired(const struct kv_layer *kv) {
        return kv->v.address && kv->type == QUANT_BF16;
}

/* The number of a value's dim i in the plane; slot: of a page's KV_PAGE_TOKENS, of all heads. */
static inline size_t kv_value_at(const struct kv_layer *kv, size_t slot, uint32_t i) {
        if (kv_paired(kv))
                return slot / 2 * 2 * kv->v_dim + 2 * (size_t) i + slot % 2;
        return slot * kv_value_stride(kv) + i;
}

/* Writes each row's key and value into its sequence's page. k: [n][kv_heads][k_dim], v:
 * [n][kv_heads][v_dim], unused where values are part of the keys. With a ratio only rows that end an entry
 * are written, as that entry. As BF16 all numbers are finite, the largest one instead of those that are not: who
 * multiplies a whole page, with zeros where a row sees nothing, gets zeros there. */
struct op_kv_store {
        struct op_rows rows;
        struct kv_layer kv;
        struct device_ptr k, v;
};

/* out[t,h,:] = softmax over s ≤ pos(t) (and s > pos(t) - window, if a window) of (scale q·k_s) times v_s;
 * head h reads kv head h / (heads / kv_heads). The keys of the batch's own rows are in their pages already.
 * q: [n][heads][k_dim], out: [n][heads][v_dim]. sinks: f32 [heads], a logit without value, or null. softcap:
 * 0 for none. */
struct op_attention {
        struct op_rows rows;
        struct kv_layer kv;
        uint32_t heads;
        float scale, softcap;
        uint32_t window;
        struct device_ptr sinks;
        struct device_ptr q, out;
};

/* The lightning indexer (DeepSeek V3.2): chosen[t,:] are the numbers of the k entries with the best Σ_h
 * weights[t,h] × max(q[t,h]·key, 0) among those that row t sees, rising, -1 past the last; of equals the
 * lower number. Where no more than k are seen all are chosen. keys: one head of k_dim. q: [n][heads][k_dim],
 * weights: f32 [n][heads], chosen: i32 [n][k]. A score that is not a number counts as the lowest. */
struct op_index {
        struct op_rows rows;
        struct kv_layer keys;
        uint32_t heads, k;
        struct device_ptr q, weights, chosen;
};

/* Attention with one key head whose values are part of the keys: softmax of scale q·k over the keys of the
 * last `window` positions (0: none) and then, in rising order, over the entries that were chosen (i32
 * [n][chosen_max], rising, -1 past the last), or with chosen null over all that the row sees. The dims of
 * both planes are the same, both have v null; entries.k may be null. sinks: f32 [heads], a logit without
 * value, or null. A row that sees no key at all and has no sink gets zeros. q: [n][heads][k_dim], out:
 * [n][heads][v_dim]. */
struct op_sparse_attention {
        struct op_rows rows;
        struct kv_layer kv, entries;
        uint32_t heads, window, chosen_max;
        float scale;
        struct device_ptr chosen, sinks;
        struct device_ptr q, out;
};

/* One entry for every `ratio` tokens (DeepSeek V4's compressors): per channel the mean of the tokens' values
 * v, weighted by the softmax of g + bias[position mod ratio,:]. With `overlap` v and g have two halves per
 * token: an entry takes the second of its own tokens and, before them, the first of the tokens of the entry
 * before. v, g: [n][halves × dim], bias: f32 [ratio][halves × dim], y: [n][dim], zeros in rows that end no
 * entry.
 *
 * What a sequence's unfinished entry has summed up is in `state`, for each page as it was after the page's
 * last position that has been computed: running maximum, sum of weights and weighted sum (arXiv 1805.02867),
 * in this order, of the entry and with `overlap` of the next one: f32 [page][halves][3][dim]. It is read
 * from the page of the position before a sequence's first row, and left in the pages of its rows. So rows of
 * one sequence are computed one after the other, whichever calls they come in, and a sequence may be cut to
 * whole pages only. */
struct op_compress {
        struct op_rows rows;
        uint32_t ratio, dim;
        bool overlap;
        struct device_ptr v, g, bias, state, y;
};

/* Hyper-connections (DeepSeek V4): a row has `streams` streams of `dim` values each, x: [n][streams][dim].
 *
 * mix: z [n][(2 + streams) × streams] becomes, in place, pre [streams], post [streams] and C
 * [streams][streams]:
 *   pre_i = sigmoid(s_0 z_i + b_i) + ε,   post_i = 2 sigmoid(s_1 z_{n+i} + b_{n+i}),
 *   C_jk  = softmax over k of (s_2 z_{2n+jn+k} + b_{2n+jn+k}), + ε; then divided by (its sum over j) + ε, and
 *   iterations - 1 times by (its sum over k) + ε and by (its sum over j) + ε.
 * base: f32, one for each z; scale: f32 [3]. With `head` z and mix are pre alone, and scale has one value.
 * in:  y[t,:] = Σ_i pre_i x[t,i,:] out: x[t,k,:] = post_k y[t,:] + Σ_j C_jk x[t,j,:] */
struct op_hyper {
        uint32_t n, streams, dim;
        uint32_t iterations;
        bool head;
        float epsilon;
        struct device_ptr base, scale;
        struct device_ptr mix, x, y;
};

enum { HYPER_STREAMS_MAX = 16 }; /* more is refused with -EOPNOTSUPP */

enum act_kind {
        ACT_SWIGLU,     /* silu(gate) × up */
        ACT_GEGLU,      /* gelu_tanh(gate) × up */
        ACT_SWIGLU_OAI, /* gate × sigmoid(1.702 gate) × (up + 1): gpt-oss */
};

/* y[i] = act(gate[i]) × up[i], n rows of `dim`, contiguous; y may be gate. With a limit (0: none) gate is
 * cut to at most that, and up to between -limit and limit. */
struct op_glu {
        uint32_t n, dim;
        enum act_kind act;
        float limit;
        struct device_ptr gate, up, y;
};

/* y[i] += scale × x[i]   over n values */
struct op_add {
        uint64_t n;
        struct device_ptr x, y;
        float scale;
};

/* y[i,:] = x[index[i],:]   n rows of `dim`; index: i32 [n] */
struct op_gather {
        uint32_t n, dim;
        struct device_ptr x, index, y;
};

enum {
        ROUTE_EXPERTS_MAX = 4096, /* more is refused with -EOPNOTSUPP */
        ROUTE_SAVED_MAX = 2000,   /* the most that a balance holds: thousandths of k */
        ROUTE_NONE = UINT16_MAX,  /* in what a capacity keeps: no expert */
};

enum route_gate {
        ROUTE_SOFTMAX,         /* softmax over all experts, then the k best */
        ROUTE_SIGMOID,         /* sigmoid, the bias added for choosing only */
        ROUTE_SQRT_SOFTPLUS,
        ROUTE_SOFTMAX_CHOSEN,  /* the k best logits, softmax over those */
};

/* How many experts a row takes where its sequence spends them as the router sees fit. What a row leaves of its cap is
 * saved for rows that need more, so that the sum over a sequence's first n rows is never more than that of their caps,
 * in each layer by itself. A row adds its cap to the balance, wants the experts that are worth more than the threshold,
 * at least floors[t] and one, and gets of them what the balance has; the threshold then moves to where rows want in the
 * mean what their caps give.
 *
 * The n-th expert of a row is worth e(n - 1) - e(n), where e(n) is the squared error of keeping n of the k best, were
 * their outputs unrelated vectors of one length: with S and Q the sums of the weights, as shares of what all k weigh,
 * and of their squares, e(n) = Q(n) (1/S(n) - 1)² + Q(k) - Q(n); where weights are not normalised, Q(k) - Q(n) of the
 * weights without `scale`.
 *
 * A rider has its bases[t] best experts, as far as its cap reaches, and of the others of its k best those that a row of
 * its group has anyway (whatever that row's balance is, and if it is a rider too, without riding), in so far as its
 * balance has them (after OEA, arXiv 2511.02237). So its choice depends on other rows of the call.
 *
 * State lies with the sequence's keys, as it was after each position: struct route_state [page][KV_PAGE_TOKENS]. It is
 * read from the position before a row and written to the row's own; a sequence's rows are taken one after the other,
 * whichever calls they come in. It passes through a row that has no budget, or whose cap is k or more. */
struct op_route_budget {
        struct op_rows rows;      /* the same rows */
        struct device_ptr state;  /* null: no row has a budget */
        struct device_ptr floors; /* i32 [n]; negative: this row has no budget */
        /* f32, rows demand_stride floats apart, or null: a row's experts are worth e^demand times what is said above */
        struct device_ptr demand;
        uint32_t demand_stride;
        /* i32 [n], or both null and no row rides: the group of a row, 1 to n_groups, or 0 for none; what a rider takes
         * at least, 0: the row is no rider. Riders have a budget, and experts no capacity. */
        struct device_ptr groups, bases;
        uint32_t n_groups;
};

struct route_state {
        int32_t balance; /* thousandths of an expert */
        float threshold; /* of what experts are worth */
};

/* Of each `window` positions of a sequence, the first from 0 on, no more than `most` use the same expert of the layer
 * (after arXiv 2006.16668, 2101.03961, where windows are of a batch). They are taken by rising position: a row that
 * finds experts full chooses from the others, and has fewer where those are too few.
 *
 * What rows used lies with the sequence's keys as the state of budgets does, u16 [page][KV_PAGE_TOKENS][k], ROUTE_NONE
 * past the last; it is read from the window's beginning and written to the row's own place. */
struct op_route_capacity {
        uint32_t most; /* 0: any number; else `budget` is there, though all of its floors may be negative */
        uint32_t window;
        struct device_ptr chosen;
};

/* Chooses experts for each row: the k best within its cap, by falling score (where there are neither bias nor groups
 * that is by falling logit, so that scores which rounding made equal keep their order), ties to the lower number; or,
 * with a budget, those of the k best that weigh most, by falling weight.
 * logits: f32 [n][experts]. caps: i32 [n], thousandths of an expert that this row may use in this layer; without a
 * budget rounded down. Out: ids i32 [n][k], weights f32 [n][k] (normalised over the kept ones if `normalize`, then
 * times `scale`), counts i32 [n], how many there are: as the cap says, or fewer where a table or a capacity leaves
 * fewer; used: u32 [n], counts[t] is added to it (null: not counted); tally: u32 [experts], how many of the rows chose
 * each is added to it (null: not counted). Entries past the count are id -1, weight 0. A score that is not finite
 * counts as the lowest. */
struct op_route {
        uint32_t n, experts, k;
        enum route_gate gate;
        bool normalize;
        float scale;
        struct device_ptr logits;
        struct device_ptr bias; /* f32 [experts] or null */
        /* Group-limited routing, 0, 0 for none: only experts of the groups_used best of `groups` equal
         * groups. A group scores as its best expert, with ROUTE_SIGMOID as the sum of its two best, bias
         * included. */
        uint32_t groups, groups_used;
        /* A table instead of a choice by scores, or null: i32 [rows of it][k], the experts of token id r; a
         * row may use those of them that score best. An expert that is listed twice or does not exist is not
         * used again. */
        struct device_ptr table, token_ids;
        uint32_t table_rows;
        struct device_ptr caps;
        struct op_route_budget budget;
        struct op_route_capacity capacity;
        struct device_ptr ids, weights, counts, used, tally;
};

/* y[t,:] += Σ_j weights[t,j] × down_e( act(gate_e x[t,:]) × (up_e x[t,:]) ), e = ids[t,j], j < counts[t], added up in
 * rising order of e; each product plus the expert's bias where there are any, act and limit as in op_glu. x, y:
 * [n][dim], dim = gate.cols = down.rows. Rows are grouped by expert, so each expert's weights are read once
 * per call however many rows chose it (a backend may cut very large calls to bound its scratch). Entries
 * with an id outside the stack are skipped. */
struct op_moe {
        uint32_t n, k;
        enum act_kind act;
        float limit;
        struct weight gate, up, down;
        struct device_ptr gate_bias, up_bias, down_bias; /* f32 [stack][the weight's rows], or null */
        struct device_ptr prompt; /* i32 [n] or null: as in op_matmul */
        struct device_ptr x, y;
        struct device_ptr ids, weights, counts;
};
