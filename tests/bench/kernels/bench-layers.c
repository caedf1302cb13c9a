/* SPDX-License-Identifier: MIT */
/* Single layers of published shapes on the cpu backend, with random content, by name: see usage(). Each has
 * several copies of its weights or keys, together more than the caches hold, and a run goes over all of them.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "cases.h"
#include "host.h"

enum { BUFFERS_MAX = 1024, COPIES_MAX = 64, TOKENS_MAX = 1 << 20, CASES_MAX = 64 };
#define COLD_BYTES (UINT64_C(512) << 20) /* of all copies together */

/* OLMoE-1B-7B's experts (arXiv 2409.02060). */
enum { MOE_HIDDEN = 2048, MOE_FFN = 1024, MOE_EXPERTS = 64, MOE_CHOSEN = 8, MOE_ROWS_MAX = 512 };

/* Qwen3-30B-A3B's, and a row for each of so many sequences. */
enum { RIDE_HIDDEN = 2048, RIDE_FFN = 768, RIDE_EXPERTS = 128, RIDE_CHOSEN = 8, RIDE_ROWS = 16 };

struct shape {
        const char *name;
        uint32_t heads, kv_heads, k_dim, v_dim;
        bool latent;            /* a value is the first part of its key */
        uint32_t window, ratio; /* beside the chosen entries; tokens of an entry, 0: one */
        uint32_t layers;        /* of the model that are so */
        uint32_t index_heads, index_dim, index_k;
        /* What the indexer's matrices read, and rows of those that its keys are made by. */
        uint32_t hidden, q_low, index_rows;
};

/* clang-format off */
static const struct shape shapes[] = {
        /* Qwen3-30B-A3B, DeepSeek-V2-Lite */
        { .name = "gqa", .heads = 32, .kv_heads = 4, .k_dim = 128, .v_dim = 128, .layers = 48 },
        { .name = "mla", .heads = 16, .kv_heads = 1, .k_dim = 576, .v_dim = 512, .latent = true, .layers = 27 },
        /* DeepSeek-V3.2; V4-Flash, whose keys are compressed from values and gates of two halves each */
        { .name = "dsa", .heads = 128, .kv_heads = 1, .k_dim = 576, .v_dim = 512, .latent = true, .layers = 61,
          .index_heads = 64, .index_dim = 128, .index_k = 2048, .hidden = 7168, .q_low = 1536, .index_rows = 128 },
        { .name = "csa", .heads = 64, .kv_heads = 1, .k_dim = 512, .v_dim = 512, .latent = true, .window = 128,
          .ratio = 4, .layers = 21, .index_heads = 64, .index_dim = 128, .index_k = 512, .hidden = 4096, .q_low = 1024,
          .index_rows = 512 },
};
/* clang-format on */

/* DeepSeek-V2-Lite's matrices from queries to the latent, and from it to values: of all heads. */
enum { LATENT_HEADS = 16, LATENT_DIM = 512, LATENT_ROPE = 64, LATENT_HEAD = 128, LATENT_ROWS_MAX = 4096 };

enum {
        PROMPT_ROWS = 512, /* of a prompt's last chunk */
        PROMPT_RUNS = 4,   /* of those, which memory does not bind */
};

/* Memory of one kind, as often as it takes to be cold. */
struct copies {
        struct device_ptr at[COPIES_MAX];
        unsigned n, next;
};

struct layer {
        const struct shape *shape;
        uint32_t tokens;
        struct copies kv, entries, keys, index_weights;
        struct op_rows rows, prompt_rows;
        struct device_ptr q, out, prompt_q, prompt_out, index_q, index_weight, chosen, hidden, q_low;
};

struct moe {
        struct copies weights;
        struct device_ptr x, y, ids, factors, counts, ones;
        uint64_t matrix_bytes; /* of one matrix of all experts */
};

struct latent {
        struct copies weights;
        struct device_ptr q_heads, q, attended, ones;
        uint64_t matrix_bytes; /* of either kind */
};

/* Rows that ride on each other's experts: what the router has for them, and how the rest is to be told. */
struct ride {
        struct copies weights, logits;
        struct device_ptr x, y, ids, factors, counts, state;
        struct device_ptr zeros, ones, sequences, caps, bases; /* i32 [RIDE_ROWS] */
        uint64_t matrix_bytes;
};

struct bench {
        struct backend *backend;
        struct stream *stream;
        struct buffer *buffers[BUFFERS_MAX];
        unsigned n_buffers;
        struct layer layers[CASES_MAX];
        unsigned n_layers;
        struct moe moe;
        struct latent latent;
        struct ride ride;
        uint64_t random;
};

static uint64_t next_random(struct bench *b) {
        /* xorshift64 (Marsaglia, 2003) */
        b->random ^= b->random << 13;
        b->random ^= b->random >> 7;
        b->random ^= b->random << 17;
        return b->random;
}

static int new_memory(struct bench *b, uint64_t bytes, struct device_ptr *ret) {
        const struct backend_ops *ops = b->backend->ops;
        int r;

        if (b->n_buffers == BUFFERS_MAX)
                return -ENOSPC;
        r = ops->buffer_new(b->backend, bytes, true, &b->buffers[b->n_buffers]);
        if (r == 0)
                *ret = ops->buffer_address(b->buffers[b->n_buffers++]);
        return r;
}

/* Random numbers of both signs between 1/8 and 1/2, of the type that the backend keeps keys and values as. */
static void fill_halves(struct bench *b, struct device_ptr at, uint64_t bytes) {
        const uint64_t each = UINT64_C(0x0001000100010001);
        bool bf16 = b->backend->kv_type == QUANT_BF16;
        uint64_t mask = each * (bf16 ? 0x80ff : 0x87ff), base = each * (bf16 ? 0x3e00 : 0x3000);
        uint64_t *data = host_address(at);

        for (uint64_t i = 0; i < bytes / sizeof(*data); i++)
                data[i] = (next_random(b) & mask) | base;
}

static int new_floats(struct bench *b, uint64_t n, struct device_ptr *ret) {
        int r = new_memory(b, n * sizeof(float), ret);

        for (uint64_t i = 0; r == 0 && i < n; i++)
                ((float *) host_address(*ret))[i] = (float) ((double) (next_random(b) >> 11) / 0x1p52 - 1.0);
        return r;
}

static unsigned copies_of(uint64_t bytes) {
        return (unsigned) MIN(DIV_ROUND_UP(COLD_BYTES, bytes), (uint64_t) COPIES_MAX);
}

/* `bytes` each, all the same: small numbers in every block format. */
static int new_copies(struct bench *b, struct copies *c, uint64_t bytes) {
        unsigned n = copies_of(bytes);
        int r = 0;

        for (c->n = 0; r == 0 && c->n < n; c->n++) {
                r = new_memory(b, bytes, &c->at[c->n]);
                if (r == 0)
                        memset(host_address(c->at[c->n]), 0x11, bytes);
        }
        return r;
}

static struct device_ptr next_copy(struct copies *c) {
        return c->at[c->next++ % c->n];
}

/* --- attention
 * ---------------------------------------------------------------------------------------------- */

static uint64_t half_bytes(uint64_t values) {
        return values * 2;
}

static struct kv_layer kv_plane(const struct bench *b, const struct layer *l, struct device_ptr at) {
        const struct shape *s = l->shape;
        uint64_t k_bytes = half_bytes((uint64_t) l->tokens * s->kv_heads * s->k_dim);

        return (struct kv_layer){
                .k = at,
                .v = s->latent ? DEVICE_NULL : device_offset(at, k_bytes),
                .type = b->backend->kv_type,
                .kv_heads = s->kv_heads,
                .k_dim = s->k_dim,
                .v_dim = s->v_dim,
        };
}

static uint64_t kv_bytes(const struct layer *l, uint64_t tokens) {
        const struct shape *s = l->shape;

        return half_bytes(tokens * s->kv_heads * (s->k_dim + (s->latent ? 0 : s->v_dim)));
}

static uint32_t entries_of(const struct layer *l) {
        return kv_visible(l->shape->ratio, l->tokens - 1);
}

/* What a model's layers keep of so many tokens. */
static uint64_t arena_bytes(const struct layer *l) {
        const struct shape *s = l->shape;
        uint64_t entry = s->index_dim + (s->ratio ? s->k_dim : 0);

        return s->layers * (kv_bytes(l, l->tokens) + half_bytes(entries_of(l) * entry));
}

/* Planes as they lie in the arena of a model: its size tells what pages they are in. What nobody uses costs nothing. */
static int new_planes(struct bench *b, const struct layer *l, struct copies *c, uint64_t bytes) {
        struct device_ptr arena;
        int r;

        c->n = copies_of(bytes);
        r = new_memory(b, MAX(arena_bytes(l), c->n * bytes), &arena);
        for (unsigned i = 0; r == 0 && i < c->n; i++) {
                c->at[i] = device_offset(arena, i * bytes);
                fill_halves(b, c->at[i], bytes);
        }
        return r;
}

/* The last n rows of a sequence that has the pages one after the other. */
static int new_rows(struct bench *b, const struct layer *l, uint32_t n, struct op_rows *ret) {
        uint32_t pages = l->tokens / KV_PAGE_TOKENS;
        struct device_ptr numbers;
        int32_t *data;
        int r = new_memory(b, (2 * n + pages) * sizeof(*data), &numbers);

        if (r)
                return r;
        data = host_address(numbers);
        for (uint32_t i = 0; i < n; i++) {
                data[i] = (int32_t) (l->tokens - n + i);
                data[n + i] = 0;
        }
        for (uint32_t i = 0; i < pages; i++)
                data[2 * n + i] = (int32_t) i;
        *ret = (struct op_rows){
                .n = n,
                .positions = numbers,
                .sequences = device_offset(numbers, n * sizeof(*data)),
                .page_table = device_offset(numbers, 2 * n * sizeof(*data)),
                .page_table_stride = pages,
                .position_max = l->tokens - 1,
        };
        return 0;
}

static uint64_t index_weight_bytes(const struct shape *s) {
        const struct quant_info *info = quant_info(QUANT_Q8_0);

        return quant_row_bytes(info, s->q_low) * s->index_heads * s->index_dim +
               quant_row_bytes(info, s->hidden) * (s->index_rows + s->index_heads);
}

static int init_index(struct bench *b, struct layer *l) {
        const struct shape *s = l->shape;
        int r;

        r = new_planes(b, l, &l->keys, half_bytes((uint64_t) entries_of(l) * s->index_dim));
        if (!r)
                r = new_copies(b, &l->index_weights, index_weight_bytes(s));
        if (!r && s->ratio)
                r = new_planes(b, l, &l->entries, half_bytes((uint64_t) entries_of(l) * s->k_dim));
        if (!r)
                r = new_floats(b, s->hidden, &l->hidden);
        if (!r)
                r = new_floats(b, s->q_low, &l->q_low);
        if (!r)
                r = new_floats(b, (uint64_t) s->index_heads * s->index_dim, &l->index_q);
        if (!r)
                r = new_floats(b, s->index_heads + s->index_rows, &l->index_weight);
        if (!r)
                r = new_memory(b, s->index_k * sizeof(int32_t), &l->chosen);
        return r;
}

static int init_layer(struct bench *b, struct layer *l) {
        const struct shape *s = l->shape;
        int r;

        r = new_rows(b, l, 1, &l->rows);
        if (!r)
                r = new_planes(b, l, &l->kv, kv_bytes(l, l->tokens));
        if (!r)
                r = new_floats(b, (uint64_t) s->heads * s->k_dim, &l->q);
        if (!r)
                r = new_floats(b, (uint64_t) s->heads * s->v_dim, &l->out);
        if (!r && s->index_heads)
                r = init_index(b, l);
        return r;
}

/* Rows that end with the last key. */
static int attend(struct bench *b, struct layer *l, struct op_rows rows, struct device_ptr q, struct device_ptr out,
                  struct case_run *run) {
        const struct shape *s = l->shape;
        struct op_attention op = {
                .rows = rows,
                .kv = kv_plane(b, l, next_copy(&l->kv)),
                .heads = s->heads,
                .scale = 1.0f / sqrtf((float) s->k_dim),
                .q = q,
                .out = out,
        };

        run->bytes += (double) kv_bytes(l, l->tokens);
        run->products += (double) rows.n * (l->tokens - (rows.n - 1) / 2.0) * s->heads * (s->k_dim + s->v_dim);
        return b->backend->ops->attention(b->stream, &op);
}

static int run_dense(struct bench *b, struct layer *l, struct case_run *run) {
        return attend(b, l, l->rows, l->q, l->out, run);
}

static int init_prompt(struct bench *b, struct layer *l) {
        const struct shape *s = l->shape;
        uint32_t rows = MIN(l->tokens, (uint32_t) PROMPT_ROWS);
        int r = new_rows(b, l, rows, &l->prompt_rows);

        if (!r)
                r = new_floats(b, (uint64_t) rows * s->heads * s->k_dim, &l->prompt_q);
        return r ? r : new_floats(b, (uint64_t) rows * s->heads * s->v_dim, &l->prompt_out);
}

static int run_prompt(struct bench *b, struct layer *l, struct case_run *run) {
        return attend(b, l, l->prompt_rows, l->prompt_q, l->prompt_out, run);
}

static int run_index(struct bench *b, struct layer *l, struct case_run *run) {
        const struct shape *s = l->shape;
        struct op_index op = {
                .rows = l->rows,
                .keys = {.k = next_copy(&l->keys),
                         .type = b->backend->kv_type,
                         .kv_heads = 1,
                         .k_dim = s->index_dim,
                         .ratio = s->ratio},
                .heads = s->index_heads,
                .k = s->index_k,
                .q = l->index_q,
                .weights = l->index_weight,
                .chosen = l->chosen,
        };

        run->bytes += (double) half_bytes((uint64_t) entries_of(l) * s->index_dim);
        run->products += (double) entries_of(l) * s->index_heads * s->index_dim;
        return b->backend->ops->index(b->stream, &op);
}

/* The indexer's matrices: its queries, from the low-rank ones; its keys, or what they are compressed from,
 * and its heads' weights, from the hidden state. */
static int run_index_weights(struct bench *b, struct layer *l, struct case_run *run) {
        const struct shape *s = l->shape;
        uint32_t q_rows = s->index_heads * s->index_dim, rows = s->index_rows + s->index_heads;
        struct device_ptr at = next_copy(&l->index_weights),
                          behind = device_offset(at,
                                                 quant_row_bytes(quant_info(QUANT_Q8_0), s->q_low) * q_rows);
        struct op_matmul queries = {.n = 1, .x = l->q_low, .x_stride = s->q_low, .count = 1},
                         others = {.n = 1, .x = l->hidden, .x_stride = s->hidden, .count = 1};
        int r;

        queries.out[0] = (struct op_matmul_out){
                .w = {at, QUANT_Q8_0, q_rows, s->q_low, 1}, .y = l->index_q, .y_stride = q_rows};
        others.out[0] = (struct op_matmul_out){
                .w = {behind, QUANT_Q8_0, rows, s->hidden, 1}, .y = l->index_weight, .y_stride = rows};
        run->bytes += (double) index_weight_bytes(s);
        run->products += (double) q_rows * s->q_low + (double) rows * s->hidden;
        r = b->backend->ops->matmul(b->stream, &queries);
        return r ? r : b->backend->ops->matmul(b->stream, &others);
}

static int run_sparse(struct bench *b, struct layer *l, struct case_run *run) {
        const struct shape *s = l->shape;
        struct kv_layer kv = kv_plane(b, l, next_copy(&l->kv)), entries = kv;
        uint32_t seen = MIN(s->index_k, entries_of(l)) + MIN(s->window, l->tokens);
        struct op_sparse_attention op;

        if (s->ratio) {
                entries.k = next_copy(&l->entries);
                entries.ratio = s->ratio;
        }
        op = (struct op_sparse_attention){
                .rows = l->rows,
                .kv = kv,
                .entries = entries,
                .heads = s->heads,
                .window = s->window,
                .chosen_max = s->index_k,
                .scale = 1.0f / sqrtf((float) s->k_dim),
                .chosen = l->chosen,
                .q = l->q,
                .out = l->out,
        };
        run->bytes += (double) kv_bytes(l, seen);
        run->products += (double) seen * s->heads * (s->k_dim + s->v_dim);
        return b->backend->ops->sparse_attention(b->stream, &op);
}

static int run_chosen(struct bench *b, struct layer *l, struct case_run *run) {
        int r;

        r = run_index_weights(b, l, run);
        if (!r)
                r = run_index(b, l, run);
        if (!r)
                r = run_sparse(b, l, run);
        return r;
}

typedef int layer_fn(struct bench *b, struct layer *l, struct case_run *run);

/* Over all copies of what it reads; the figures are of one layer. */
static int run_copies(struct bench *b, struct layer *l, layer_fn *fn, unsigned n, struct case_run *ret) {
        struct case_run sum = {0};
        uint64_t begin;
        int r;

        r = fn(b, l, &(struct case_run){0}); /* scratch is there, and what the indexer chooses */
        begin = now_nsec();
        for (unsigned i = 0; r == 0 && i < n; i++)
                r = fn(b, l, &sum);
        *ret = (struct case_run){
                .seconds = (double) (now_nsec() - begin) / NSEC_PER_SEC / n,
                .bytes = sum.bytes / n,
                .products = sum.products / n,
        };
        return r;
}

static int find_layer(struct bench *b, const struct shape *shape, uint32_t tokens, struct layer **ret) {
        struct layer *l;

        for (unsigned i = 0; i < b->n_layers; i++)
                if (b->layers[i].shape == shape && b->layers[i].tokens == tokens) {
                        *ret = &b->layers[i];
                        return 0;
                }
        if (b->n_layers == CASES_MAX)
                return -ENOSPC;
        l = &b->layers[b->n_layers];
        *l = (struct layer){.shape = shape, .tokens = tokens};
        *ret = l;
        b->n_layers++;
        return init_layer(b, l);
}

static int run_attention(struct bench *b, const struct shape *shape, const char *part, uint32_t tokens,
                         struct case_run *ret, struct reason *reason) {
        struct layer *l;
        int r;

        if (tokens < KV_PAGE_TOKENS || tokens > TOKENS_MAX || tokens % KV_PAGE_TOKENS)
                return reason_return(reason, CASE_E_NONE, "a context is a multiple of %d up to %d",
                                     KV_PAGE_TOKENS, TOKENS_MAX);
        r = find_layer(b, shape, tokens, &l);
        if (r)
                return r;
        if (strcmp(part, "dense") == 0)
                return run_copies(b, l, run_dense, l->kv.n, ret);
        if (strcmp(part, "prompt") == 0 && l->prompt_rows.n == 0)
                r = init_prompt(b, l);
        if (r)
                return r;
        if (strcmp(part, "prompt") == 0)
                return run_copies(b, l, run_prompt, PROMPT_RUNS, ret);
        if (shape->index_heads && strcmp(part, "index") == 0)
                return run_copies(b, l, run_index, l->keys.n, ret);
        if (shape->index_heads && strcmp(part, "chosen") == 0)
                return run_copies(b, l, run_chosen, l->keys.n, ret);
        return reason_return(reason, CASE_E_NONE, "%s has no part '%s'", shape->name, part);
}

/* --- experts
 * ------------------------------------------------------------------------------------------------ */

static int init_moe(struct bench *b) {
        struct moe *m = &b->moe;
        uint32_t rows = MOE_ROWS_MAX * MOE_EXPERTS / MOE_CHOSEN;
        int r;

        m->matrix_bytes = quant_row_bytes(quant_info(QUANT_Q4_K), MOE_HIDDEN) * MOE_FFN * MOE_EXPERTS;
        r = new_copies(b, &m->weights, 3 * m->matrix_bytes);
        if (!r)
                r = new_floats(b, (uint64_t) rows * MOE_HIDDEN, &m->x);
        if (!r)
                r = new_memory(b, (uint64_t) rows * MOE_HIDDEN * sizeof(float), &m->y);
        if (!r)
                r = new_memory(b, (uint64_t) rows * MOE_CHOSEN * sizeof(int32_t), &m->ids);
        if (!r)
                r = new_floats(b, (uint64_t) rows * MOE_CHOSEN, &m->factors);
        if (!r)
                r = new_memory(b, (uint64_t) rows * sizeof(int32_t), &m->counts);
        if (!r)
                r = new_memory(b, (uint64_t) rows * sizeof(int32_t), &m->ones);
        for (uint32_t i = 0; r == 0 && i < rows * MOE_CHOSEN; i++) {
                ((int32_t *) host_address(m->ids))[i] = (int32_t) (i % MOE_EXPERTS);
                ((int32_t *) host_address(m->counts))[i / MOE_CHOSEN] = MOE_CHOSEN;
                ((int32_t *) host_address(m->ones))[i / MOE_CHOSEN] = 1;
        }
        return r;
}

static int run_moe_once(struct bench *b, uint32_t rows, bool prompt) {
        struct device_ptr at = next_copy(&b->moe.weights);
        uint64_t bytes = b->moe.matrix_bytes;
        struct op_moe op = {
                .n = rows,
                .k = MOE_CHOSEN,
                .gate = {at, QUANT_Q4_K, MOE_FFN, MOE_HIDDEN, MOE_EXPERTS},
                .up = {device_offset(at, bytes), QUANT_Q4_K, MOE_FFN, MOE_HIDDEN, MOE_EXPERTS},
                .down = {device_offset(at, 2 * bytes), QUANT_Q4_K, MOE_HIDDEN, MOE_FFN, MOE_EXPERTS},
                .prompt = prompt ? b->moe.ones : DEVICE_NULL,
                .x = b->moe.x,
                .y = b->moe.y,
                .ids = b->moe.ids,
                .weights = b->moe.factors,
                .counts = b->moe.counts,
        };

        return b->backend->ops->moe(b->stream, &op);
}

/* So many rows for each of the experts. */
static int run_moe(struct bench *b, uint32_t per_expert, bool prompt, struct case_run *ret, struct reason *reason) {
        uint32_t rows = per_expert * MOE_EXPERTS / MOE_CHOSEN;
        uint64_t begin;
        int r = 0;

        if (per_expert < 1 || per_expert > MOE_ROWS_MAX)
                return reason_return(reason, CASE_E_NONE, "1 to %d rows for each expert", MOE_ROWS_MAX);
        if (b->moe.weights.n == 0)
                r = init_moe(b);
        if (!r)
                r = run_moe_once(b, rows, prompt);
        begin = now_nsec();
        for (unsigned i = 0; r == 0 && i < b->moe.weights.n; i++)
                r = run_moe_once(b, rows, prompt);
        *ret = (struct case_run){
                .seconds = (double) (now_nsec() - begin) / NSEC_PER_SEC / b->moe.weights.n,
                .bytes = 3.0 * (double) b->moe.matrix_bytes,
                .products = 3.0 * rows * MOE_CHOSEN * MOE_HIDDEN * MOE_FFN,
        };
        return r;
}

/* --- products per head of latent attention ----------------------------------------------------------------------- */

static int init_latent(struct bench *b) {
        struct latent *l = &b->latent;
        const uint64_t rows = LATENT_ROWS_MAX;
        int r;

        l->matrix_bytes = quant_row_bytes(quant_info(QUANT_Q8_0), LATENT_DIM) * LATENT_HEAD * LATENT_HEADS;
        r = new_copies(b, &l->weights, 2 * l->matrix_bytes);
        if (!r)
                r = new_floats(b, rows * LATENT_HEADS * (LATENT_HEAD + LATENT_ROPE), &l->q_heads);
        if (!r)
                r = new_memory(b, rows * LATENT_HEADS * (LATENT_DIM + LATENT_ROPE) * sizeof(float), &l->q);
        if (!r)
                r = new_floats(b, rows * LATENT_HEADS * LATENT_DIM, &l->attended);
        if (!r)
                r = new_memory(b, rows * sizeof(int32_t), &l->ones);
        for (uint32_t i = 0; r == 0 && i < rows; i++)
                ((int32_t *) host_address(l->ones))[i] = 1;
        return r;
}

/* From queries to the latent, and from it to values. */
static int run_latent_once(struct bench *b, uint32_t rows, bool prompt) {
        struct latent *l = &b->latent;
        struct device_ptr at = next_copy(&l->weights);
        const uint32_t head = LATENT_HEAD + LATENT_ROPE, key = LATENT_DIM + LATENT_ROPE;
        struct op_head_matmul absorb = {
                .n = rows,
                .w = {at, QUANT_Q8_0, LATENT_DIM, LATENT_HEAD, LATENT_HEADS},
                .head_rows = LATENT_DIM,
                .prompt = prompt ? l->ones : DEVICE_NULL,
                .x = l->q_heads, .x_stride = LATENT_HEADS * head, .x_head_stride = head,
                .y = l->q, .y_stride = LATENT_HEADS * key, .y_head_stride = key,
        };
        struct op_head_matmul expand = {
                .n = rows,
                .w = {device_offset(at, l->matrix_bytes), QUANT_Q8_0, LATENT_HEAD, LATENT_DIM, LATENT_HEADS},
                .head_rows = LATENT_HEAD,
                .prompt = absorb.prompt,
                .x = l->attended, .x_stride = LATENT_HEADS * LATENT_DIM, .x_head_stride = LATENT_DIM,
                .y = l->q_heads, .y_stride = LATENT_HEADS * LATENT_HEAD, .y_head_stride = LATENT_HEAD,
        };
        int r = b->backend->ops->head_matmul(b->stream, &absorb);

        return r ? r : b->backend->ops->head_matmul(b->stream, &expand);
}

static int run_latent(struct bench *b, uint32_t rows, bool prompt, struct case_run *ret, struct reason *reason) {
        const unsigned n = rows >= PROMPT_ROWS ? PROMPT_RUNS : COPIES_MAX;
        uint64_t begin;
        int r = 0;

        if (rows < 1 || rows > LATENT_ROWS_MAX)
                return reason_return(reason, CASE_E_NONE, "1 to %d rows", LATENT_ROWS_MAX);
        if (b->latent.weights.n == 0)
                r = init_latent(b);
        if (!r)
                r = run_latent_once(b, rows, prompt);
        begin = now_nsec();
        for (unsigned i = 0; r == 0 && i < n; i++)
                r = run_latent_once(b, rows, prompt);
        *ret = (struct case_run){
                .seconds = (double) (now_nsec() - begin) / NSEC_PER_SEC / n,
                .bytes = 2.0 * (double) b->latent.matrix_bytes,
                .products = 2.0 * rows * LATENT_HEADS * LATENT_DIM * LATENT_HEAD,
        };
        return r;
}

/* --- riding
 * ------------------------------------------------------------------------------------------------- */

static int new_numbers(struct bench *b, int32_t first, int32_t step, struct device_ptr *ret) {
        int r = new_memory(b, RIDE_ROWS * sizeof(int32_t), ret);

        for (int32_t i = 0; r == 0 && i < RIDE_ROWS; i++)
                ((int32_t *) host_address(*ret))[i] = first + i * step;
        return r;
}

static int init_ride(struct bench *b) {
        struct ride *m = &b->ride;
        int r;

        m->matrix_bytes = quant_row_bytes(quant_info(QUANT_Q4_K), RIDE_HIDDEN) * RIDE_FFN * RIDE_EXPERTS;
        r = new_copies(b, &m->weights, 3 * m->matrix_bytes);
        for (m->logits.n = 0; r == 0 && m->logits.n < m->weights.n; m->logits.n++)
                r = new_floats(b, RIDE_ROWS * RIDE_EXPERTS, &m->logits.at[m->logits.n]);
        if (!r)
                r = new_floats(b, RIDE_ROWS * RIDE_HIDDEN, &m->x);
        if (!r)
                r = new_memory(b, RIDE_ROWS * RIDE_HIDDEN * sizeof(float), &m->y);
        if (!r)
                r = new_memory(b, RIDE_ROWS * RIDE_CHOSEN * sizeof(int32_t), &m->ids);
        if (!r)
                r = new_memory(b, RIDE_ROWS * RIDE_CHOSEN * sizeof(float), &m->factors);
        if (!r)
                r = new_memory(b, RIDE_ROWS * KV_PAGE_TOKENS * sizeof(struct route_state), &m->state);
        if (!r)
                r = new_numbers(b, 0, 0, &m->counts);
        if (!r)
                r = new_numbers(b, 0, 0, &m->zeros);
        if (!r)
                r = new_numbers(b, 1, 0, &m->ones);
        if (!r)
                r = new_numbers(b, 0, 1, &m->sequences);
        if (!r)
                r = new_numbers(b, RIDE_CHOSEN * 1000, 0, &m->caps);
        return r ? r : new_numbers(b, 0, 0, &m->bases);
}

static struct op_route ride_route(struct ride *m) {
        return (struct op_route){
                .n = RIDE_ROWS,
                .experts = RIDE_EXPERTS,
                .k = RIDE_CHOSEN,
                .gate = ROUTE_SOFTMAX,
                .normalize = true,
                .scale = 1.0f,
                .logits = next_copy(&m->logits),
                .caps = m->caps,
                .budget = {.rows = {.n = RIDE_ROWS,
                                    .positions = m->zeros,
                                    .sequences = m->sequences,
                                    .page_table = m->sequences,
                                    .page_table_stride = 1},
                           .state = m->state,
                           .floors = m->zeros,
                           .groups = m->ones,
                           .bases = m->bases,
                           .n_groups = 1},
                .ids = m->ids,
                .weights = m->factors,
                .counts = m->counts,
        };
}

static int run_ride_once(struct bench *b) {
        struct ride *m = &b->ride;
        struct device_ptr at = next_copy(&m->weights);
        struct op_route route = ride_route(m);
        struct op_moe moe = {
                .n = RIDE_ROWS,
                .k = RIDE_CHOSEN,
                .gate = {at, QUANT_Q4_K, RIDE_FFN, RIDE_HIDDEN, RIDE_EXPERTS},
                .up = {device_offset(at, m->matrix_bytes), QUANT_Q4_K, RIDE_FFN, RIDE_HIDDEN, RIDE_EXPERTS},
                .down = {device_offset(at, 2 * m->matrix_bytes), QUANT_Q4_K, RIDE_HIDDEN, RIDE_FFN, RIDE_EXPERTS},
                .x = m->x,
                .y = m->y,
                .ids = m->ids,
                .weights = m->factors,
                .counts = m->counts,
        };
        int r = b->backend->ops->route(b->stream, &route);

        return r ? r : b->backend->ops->moe(b->stream, &moe);
}

/* What the last run chose: adds its bytes and products. */
static void count_ride(const struct ride *m, struct case_run *run) {
        const int32_t *ids = host_address(m->ids), *counts = host_address(m->counts);
        bool read[RIDE_EXPERTS] = {false};

        for (uint32_t t = 0; t < RIDE_ROWS; t++)
                for (int32_t j = 0; j < counts[t]; j++) {
                        bool *seen = &read[ids[t * RIDE_CHOSEN + (uint32_t) j]];

                        run->bytes += *seen ? 0.0 : 3.0 * (double) m->matrix_bytes / RIDE_EXPERTS;
                        run->products += 3.0 * RIDE_HIDDEN * RIDE_FFN;
                        *seen = true;
                }
}

/* Each row has `base` experts anyway. */
static int run_ride(struct bench *b, uint32_t base, struct case_run *ret, struct reason *reason) {
        struct case_run sum = {0};
        uint64_t begin;
        int r = 0;

        if (base < 1 || base > RIDE_CHOSEN)
                return reason_return(reason, CASE_E_NONE, "1 to %d experts anyway", RIDE_CHOSEN);
        if (b->ride.weights.n == 0)
                r = init_ride(b);
        for (uint32_t t = 0; r == 0 && t < RIDE_ROWS; t++)
                ((int32_t *) host_address(b->ride.bases))[t] = (int32_t) base;
        if (!r)
                r = run_ride_once(b);
        begin = now_nsec();
        for (unsigned i = 0; r == 0 && i < b->ride.weights.n; i++) {
                r = run_ride_once(b);
                count_ride(&b->ride, &sum);
        }
        *ret = (struct case_run){
                .seconds = (double) (now_nsec() - begin) / NSEC_PER_SEC / b->ride.weights.n,
                .bytes = sum.bytes / b->ride.weights.n,
                .products = sum.products / b->ride.weights.n,
        };
        return r;
}

static int run(void *context, const char *name, struct case_run *ret, struct reason *reason) {
        struct bench *b = context;
        char shape[8], part[8], end;
        uint32_t n;

        if (sscanf(name, "moe-%u%c", &n, &end) == 1)
                return run_moe(b, n, false, ret, reason);
        if (sscanf(name, "moe-prompt-%u%c", &n, &end) == 1)
                return run_moe(b, n, true, ret, reason);
        if (sscanf(name, "heads-%u%c", &n, &end) == 1)
                return run_latent(b, n, false, ret, reason);
        if (sscanf(name, "heads-prompt-%u%c", &n, &end) == 1)
                return run_latent(b, n, true, ret, reason);
        if (sscanf(name, "ride-%u%c", &n, &end) == 1)
                return run_ride(b, n, ret, reason);
        if (sscanf(name, "%7[a-z]-%7[a-z]-%u%c", shape, part, &n, &end) == 3)
                for (unsigned i = 0; i < ELEMENTS(shapes); i++)
                        if (strcmp(shapes[i].name, shape) == 0)
                                return run_attention(b, &shapes[i], part, n, ret, reason);
        return reason_return(reason, CASE_E_NONE, "there is no case '%s'", name);
}

static void bench_close(struct bench *b) {
        while (b->n_buffers > 0)
                b->backend->ops->buffer_free(b->buffers[--b->n_buffers]);
        b->backend->ops->stream_free(b->stream);
        b->backend->ops->free(b->backend);
}

static void usage(void) {
        puts("usage: bench-layers [--json] [--rounds N] [--read-bytes N] CASE...\n"
             CASE_USAGE_RUN CASE_USAGE_READ
             "Cases:\n"
             "  moe-R           an OLMoE layer of Q4_K experts, R rows for each of the 64\n"
             "  moe-prompt-R    the same for rows of prompts\n"
             "  heads-R         DeepSeek-V2-Lite's products per head, Q8_0, of R rows\n"
             "  heads-prompt-R  the same for rows of prompts\n"
             "  ride-K          router and Q4_K experts of a Qwen3-30B-A3B layer, one row of 16 requests of a user each: K of\n"
             "                  8 experts, and of the others those that another of the rows has; 8: all of them\n"
             "  SHAPE-dense-T   attention of one token over T before it: gqa (Qwen3-30B-A3B), mla "
             "(DeepSeek-V2-Lite),\n"
             "                  dsa (V3.2), csa (V4-Flash)\n"
             "  SHAPE-prompt-T  the same of the last rows of a prompt of T tokens, 512 of them at most\n"
             "  SHAPE-index-T   the indexer alone, of dsa or csa, T tokens\n"
             "  SHAPE-chosen-T  all of sparse attention: the indexer's matrices, the indexer, attention to "
             "what it chose\n"
             "  limits          the machine's");
}

int main(int argc, char **argv) {
        struct bench b = {.random = 88172645463325252u};
        struct case_program program = {.run = run, .context = &b, .usage = usage};
        int status;

        if (!cases_parse(&program, &argc, &argv, &status))
                return status;
        if (backend_cpu_new(&b.backend, &(struct backend_cpu_options){0}) ||
            b.backend->ops->stream_new(b.backend, &b.stream))
                return EXIT_FAILURE;
        status = cases_main(&program, argv, argc);
        bench_close(&b);
        return status;
}
