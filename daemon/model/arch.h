/* SPDX-License-Identifier: MIT */
#pragma once

/* What a model file is made of. An architecture is a row of data: which parts its layers have, how rotary
 * pairs lie, what its router does. arch_read() takes the row that the file names, reads its hyper-parameters,
 * finds every tensor and checks each one's shape and type against them; what it returns needs no further
 * check.
 *
 * Names of keys and tensors: github.com/ggml-org/ggml, docs/gguf.md, and the converters' tables. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/reason.h"
#include "gguf.h"
#include "op.h"

enum {
        _ARCH_E_SUCCESS,
        ARCH_E_REFUSED, /* the file is not a model that this build can run; the reason says why */
};

/* Parts that a layer may be made of; each brings its tensors. */
enum arch_part {
        ARCH_GQA = 1 << 0,           /* grouped-query attention */
        ARCH_QKV_BIAS = 1 << 1,
        ARCH_QK_NORM_HEAD = 1 << 2,  /* RMS norm of each head of Q and K */
        ARCH_QK_NORM_ROW = 1 << 3,   /* RMS norm of a whole row of Q and K */
        ARCH_DENSE = 1 << 4,         /* one gated feed-forward */
        ARCH_MOE = 1 << 5,           /* router and routed experts */
        ARCH_OUTPUT_BIAS = 1 << 6,   /* on attention's output */
        ARCH_SINKS = 1 << 7,         /* a logit per head that takes attention away from all keys */
        ARCH_NORM_AFTER = 1 << 8,    /* norms of what attention and feed-forward give, before it is added */
        ARCH_NORM_BETWEEN = 1 << 9,  /* the feed-forward's norm goes by the name of attention's second one */
        ARCH_SHARED_GATE = 1 << 10,  /* the shared expert counts as much as a gate of its own says */
        ARCH_EXPERT_BIAS = 1 << 11,  /* on the router's logits and on all of the experts' products */
        ARCH_SHARED = 1 << 16,       /* beside the routed experts one that every token uses */
        ARCH_ROUTER_BIAS = 1 << 17,  /* on the scores, for choosing only */
        ARCH_MLA = 1 << 18,          /* multi-head latent attention (arXiv 2405.04434) */
        ARCH_MLA_Q = 1 << 19,        /* its queries from the hidden state, or */
        ARCH_MLA_Q_LORA = 1 << 20,   /* from a low-rank projection of it */
        ARCH_MLA_SPLIT = 1 << 21,    /* its matrices from the latent to keys (transposed) and values, or */
        ARCH_MLA_WHOLE = 1 << 22,    /* both in one, head after head */
        ARCH_DSA = 1 << 23,          /* attends to the positions that an indexer chose (DeepSeek V3.2) */
        ARCH_INDEXER = 1 << 24,      /* has an indexer of its own; else the last one's choice counts */
        ARCH_INDEX_KEYS = 1 << 25,   /* with a key for every position */
        ARCH_WINDOWED = 1 << 26,     /* attends to a window and to compressed entries (DeepSeek V4) */
        ARCH_CSA = 1 << 27,          /* entries of few tokens that overlap, chosen by an indexer */
        ARCH_HCA = 1 << 28,          /* entries of many tokens */
        ARCH_HYPER = 1 << 29,        /* hyper-connections: a token carries several streams */
        ARCH_HASH = 1 << 30,         /* experts by the token's id */
};

struct arch {
        const char *name;       /* general.architecture */
        uint32_t parts;         /* of every layer, but for the feed-forward */
        uint32_t parts_allowed; /* present when their tensors are */
        uint32_t ffn;           /* ARCH_DENSE, ARCH_MOE, or both: then expert_count decides */
        enum rope_pairs pairs, index_pairs; /* of heads; of the indexer's */
        enum act_kind act;
        enum route_gate gate;
        bool normalize;         /* router weights sum to one over the chosen experts */
        /* YaRN leaves the length of rotated vectors alone; the scale on q·k has its own factor. */
        bool yarn_on_scale;
        const char *rope_base;       /* its key, where it is not rope.freq_base */
        const char *rope_base_local; /* with layers of ARCH_ROPE_LOCAL: the key of theirs */
        bool yarn_exact;        /* its range of pairs is not rounded to whole ones */
        float act_limit;        /* on gate and up (op_glu); 0: none */
        /* Of so many layers the last sees everything, the others a sliding window; 0: all see everything. */
        uint32_t window_period;
        bool embedding_sqrt;    /* embeddings are multiplied by √hidden */
        uint32_t wide_layers;   /* a model of so many layers divides q·k by √(hidden / heads) */
};

struct arch_params {
        uint32_t layers, hidden, vocab, context;
        uint32_t heads, kv_heads, k_dim, v_dim;     /* as attention runs; MLA: over the latent, one KV head */
        uint32_t q_lora, kv_lora;                   /* MLA: ranks; q_lora 0: none */
        uint32_t qk_nope, mla_v;                    /* MLA: of a head, without rope_dims; of its value */
        uint32_t ffn;                               /* 0 where no layer is dense */
        uint32_t experts, experts_used, expert_ffn; /* 0 where no layer has experts */
        uint32_t dense_layers;                      /* the first ones, without experts */
        uint32_t shared, shared_ffn;                /* shared experts, and their width together */
        uint32_t groups, groups_used;               /* 0: experts are not chosen by groups */
        uint32_t capacity, capacity_window;         /* of so many positions few may use the same expert; 0: any
                                                     * number */
        uint32_t rope_dims;
        uint32_t index_heads, index_dim, index_k;   /* indexer: how many keys it chooses at most */
        uint32_t window;                            /* positions that such a layer sees, its own among them */
        uint32_t csa_ratio, hca_ratio;              /* tokens of a compressed entry; 0: no layer has such */
        uint32_t out_groups, out_lora;              /* output matrix in two: groups of heads, rank of each */
        uint32_t streams, sinkhorn;                 /* hyper-connections: 0, or how many; iterations */
        float hyper_eps;
        uint32_t hash_layers;                       /* the first ones */
        uint32_t nextn;                             /* blocks behind, which predict further tokens */
        float eps;
        float attention_scale; /* on q·k */
        float embedding_scale, expert_scale;
        float residual_scale; /* on what a block adds to the stream */
        float logit_scale;    /* logits are divided by it */
        enum route_gate gate;
        bool normalize;
};

enum arch_tensor {
        ARCH_TOKEN_EMBD,
        ARCH_OUTPUT_NORM,
        ARCH_OUTPUT, /* the embedding's tensor where the file has none of its own */
        ARCH_ROPE_FREQS,
        ARCH_HYPER_HEAD,
        ARCH_HYPER_HEAD_BASE,
        ARCH_HYPER_HEAD_SCALE,
        _ARCH_TENSOR_MAX,
};

enum arch_layer_tensor {
        ARCH_ATTN_NORM,
        ARCH_ATTN_Q,
        ARCH_ATTN_K,
        ARCH_ATTN_V,
        ARCH_ATTN_Q_BIAS,
        ARCH_ATTN_K_BIAS,
        ARCH_ATTN_V_BIAS,
        ARCH_ATTN_Q_NORM,
        ARCH_ATTN_K_NORM,
        ARCH_ATTN_OUTPUT,
        ARCH_FFN_NORM,
        ARCH_FFN_GATE,
        ARCH_FFN_UP,
        ARCH_FFN_DOWN,
        ARCH_FFN_ROUTER,
        ARCH_FFN_GATE_EXPS,
        ARCH_FFN_UP_EXPS,
        ARCH_FFN_DOWN_EXPS,
        ARCH_FFN_GATE_SHEXP,
        ARCH_FFN_UP_SHEXP,
        ARCH_FFN_DOWN_SHEXP,
        ARCH_FFN_ROUTER_BIAS,
        ARCH_ATTN_Q_A,
        ARCH_ATTN_Q_A_NORM,
        ARCH_ATTN_Q_B,
        ARCH_ATTN_KV_A,
        ARCH_ATTN_KV_A_NORM,
        ARCH_ATTN_KV_B,
        ARCH_ATTN_K_B,
        ARCH_ATTN_V_B,
        ARCH_INDEX_Q,
        ARCH_INDEX_K,
        ARCH_INDEX_K_NORM,
        ARCH_INDEX_K_NORM_BIAS,
        ARCH_INDEX_WEIGHTS,
        ARCH_ATTN_SINKS,
        ARCH_ATTN_KV,
        ARCH_ATTN_OUTPUT_A,
        ARCH_ATTN_OUTPUT_B,
        ARCH_COMPRESS_V,
        ARCH_COMPRESS_GATE,
        ARCH_COMPRESS_BIAS,
        ARCH_COMPRESS_NORM,
        ARCH_INDEX_V,
        ARCH_INDEX_GATE,
        ARCH_INDEX_BIAS,
        ARCH_INDEX_NORM,
        ARCH_HYPER_ATTN,
        ARCH_HYPER_ATTN_BASE,
        ARCH_HYPER_ATTN_SCALE,
        ARCH_HYPER_FFN,
        ARCH_HYPER_FFN_BASE,
        ARCH_HYPER_FFN_SCALE,
        ARCH_FFN_TABLE,
        ARCH_ATTN_OUTPUT_BIAS,
        ARCH_ATTN_NORM_AFTER,
        ARCH_FFN_NORM_AFTER,
        ARCH_FFN_ROUTER_LOGIT_BIAS,
        ARCH_FFN_GATE_EXPS_BIAS,
        ARCH_FFN_UP_EXPS_BIAS,
        ARCH_FFN_DOWN_EXPS_BIAS,
        ARCH_FFN_GATE_INP_SHEXP,
        _ARCH_LAYER_TENSOR_MAX,
};

/* Layers may differ in how they turn their heads. */
enum {
        ARCH_ROPE_MAIN,
        ARCH_ROPE_LOCAL, /* of layers that look at a window only: its own base, no scaling */
        ARCH_ROPES,
};

struct arch_layer {
        uint32_t parts;
        uint32_t rope;      /* which of the model's ropes */
        float limit, shared_limit; /* on what goes into a routed, a shared expert's product; 0: none */
        uint32_t moe_layer; /* with ARCH_MOE: how many such layers come before it */
        uint32_t window;    /* of grouped-query attention; 0: sees everything */
        const struct gguf_tensor *tensors[_ARCH_LAYER_TENSOR_MAX]; /* NULL where the layer has no such part */
};

struct arch_model {
        const struct arch *arch;
        struct arch_params params;
        const struct gguf_tensor *tensors[_ARCH_TENSOR_MAX];
        struct arch_layer *layers; /* [params.layers] */
        uint32_t moe_layers;
        /* What a layer with such a rope turns by: [rope_dims / 2] radians per position, and the length of
         * what comes out; where no layer has it, NULL. */
        struct arch_rope {
                float *frequencies;
                float magnitude;
        } ropes[ARCH_ROPES];
};

#define ARCH_MODEL_NULL { .arch = NULL }

/* NULL when this build does not know it. */
const struct arch *arch_find(struct gguf_string name);

/* Reads and checks the whole model. 0, ARCH_E_REFUSED, or -ENOMEM. `ret` points into `g`, which must outlive
 * it, and is the caller's: arch_model_deinit(). Thread-safe. */
int arch_read(struct arch_model *ret, const struct gguf *g, struct reason *reason);
void arch_model_deinit(struct arch_model *m);

/* The steps of arch_read(), each on what those before it filled in. */
int arch_read_params(struct arch_model *m, const struct gguf *g, struct reason *reason);
int arch_read_tensors(struct arch_model *m, const struct gguf *g, struct reason *reason);
int arch_read_rope(struct arch_model *m, const struct gguf *g, struct reason *reason);

/* Tokens of one compressed entry of a layer, 0: it has none. */
int arch_read_ratio(struct arch_model *m, const struct gguf *g, uint32_t layer, uint32_t *ret,
                    struct reason *reason);

/* Reads `ARCHITECTURE.suffix`; a missing key yields `otherwise`. 0 or ARCH_E_REFUSED. */
int arch_get_u32(const struct arch_model *m, const struct gguf *g, const char *suffix, uint32_t otherwise,
                 uint32_t *ret, struct reason *reason);
int arch_get_f32(const struct arch_model *m, const struct gguf *g, const char *suffix, float otherwise,
                 float *ret, struct reason *reason);
/* The key's full name, in `key`. */
const char *arch_key(const struct arch_model *m, const char *suffix, char key[static 96]);
