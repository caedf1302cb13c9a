/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch.h"
#include "base/util.h"

enum dim {
        DIM_ONE, /* no such dimension */
        DIM_HIDDEN,
        DIM_VOCAB, /* any: the embedding's rows say how many tokens there are */
        DIM_HEAD,
        DIM_Q,
        DIM_K,
        DIM_V,
        DIM_ATTENDED,
        DIM_FFN,
        DIM_EXPERT_FFN,
        DIM_EXPERTS,
        DIM_ROPE_PAIRS,
        DIM_SHARED_FFN,
        DIM_Q_LORA,
        DIM_KV_LORA,
        DIM_QK_NOPE,
        DIM_MLA_V,
        DIM_HEADS,
        DIM_MLA_Q,        /* all heads' queries */
        DIM_MLA_LATENT,   /* latent and rotated values */
        DIM_MLA_EXPANDED, /* all heads' keys without rope, and values */
        DIM_MLA_ATTENDED,
        DIM_INDEX_Q,
        DIM_INDEX,
        DIM_INDEX_HEADS,
        DIM_OUT_GROUP, /* what one group of heads attended to */
        DIM_OUT_LOW,   /* of all groups */
        DIM_CSA,       /* both halves */
        DIM_CSA_INDEX,
        DIM_CSA_RATIO,
        DIM_HCA_RATIO,
        DIM_STREAMS,
        DIM_ALL_STREAMS, /* their values */
        DIM_MIX,
        DIM_MIX_SCALE,
        DIM_EXPERTS_USED,
};

/* A tensor of some part. One without rows is a vector, F32; with a stack, a matrix per expert. */
struct rule {
        uint32_t slot, part;
        const char *name;
        enum dim cols, rows, stack;
        bool optional;
        uint32_t type;   /* QUANT_I32; else 0: F32 without rows, any type with */
        bool plain;      /* F32 though it has rows */
        uint32_t except; /* parts in whose company it goes by another name */
};

static const struct rule model_rules[] = {
        { ARCH_TOKEN_EMBD, 0, "token_embd.weight", DIM_HIDDEN, DIM_VOCAB },
        { ARCH_OUTPUT_NORM, 0, "output_norm.weight", DIM_HIDDEN },
        { ARCH_OUTPUT, 0, "output.weight", DIM_HIDDEN, DIM_VOCAB, .optional = true },
        { ARCH_ROPE_FREQS, 0, "rope_freqs.weight", DIM_ROPE_PAIRS, .optional = true },
        { ARCH_HYPER_HEAD, ARCH_HYPER, "output_hc_fn.weight", DIM_ALL_STREAMS, DIM_STREAMS },
        { ARCH_HYPER_HEAD_BASE, ARCH_HYPER, "output_hc_base.weight", DIM_STREAMS },
        { ARCH_HYPER_HEAD_SCALE, ARCH_HYPER, "output_hc_scale.weight", DIM_ONE },
};

static const struct rule layer_rules[] = {
        { ARCH_ATTN_NORM, ARCH_GQA | ARCH_MLA | ARCH_WINDOWED, "attn_norm.weight", DIM_HIDDEN },
        { ARCH_ATTN_Q, ARCH_GQA, "attn_q.weight", DIM_HIDDEN, DIM_Q },
        { ARCH_ATTN_K, ARCH_GQA, "attn_k.weight", DIM_HIDDEN, DIM_K },
        { ARCH_ATTN_V, ARCH_GQA, "attn_v.weight", DIM_HIDDEN, DIM_V },
        { ARCH_ATTN_OUTPUT, ARCH_GQA, "attn_output.weight", DIM_ATTENDED, DIM_HIDDEN },
        { ARCH_ATTN_Q_BIAS, ARCH_QKV_BIAS, "attn_q.bias", DIM_Q },
        { ARCH_ATTN_K_BIAS, ARCH_QKV_BIAS, "attn_k.bias", DIM_K },
        { ARCH_ATTN_V_BIAS, ARCH_QKV_BIAS, "attn_v.bias", DIM_V },
        { ARCH_ATTN_Q_NORM, ARCH_QK_NORM_HEAD, "attn_q_norm.weight", DIM_HEAD },
        { ARCH_ATTN_K_NORM, ARCH_QK_NORM_HEAD, "attn_k_norm.weight", DIM_HEAD },
        { ARCH_ATTN_Q_NORM, ARCH_QK_NORM_ROW, "attn_q_norm.weight", DIM_Q },
        { ARCH_ATTN_K_NORM, ARCH_QK_NORM_ROW, "attn_k_norm.weight", DIM_K },
        { ARCH_FFN_NORM, ARCH_DENSE | ARCH_MOE, "ffn_norm.weight", DIM_HIDDEN, .except = ARCH_NORM_BETWEEN },
        { ARCH_FFN_NORM, ARCH_NORM_BETWEEN, "post_attention_norm.weight", DIM_HIDDEN },
        { ARCH_ATTN_NORM_AFTER, ARCH_NORM_AFTER, "post_attention_norm.weight", DIM_HIDDEN },
        { ARCH_FFN_NORM_AFTER, ARCH_NORM_AFTER, "post_ffw_norm.weight", DIM_HIDDEN },
        { ARCH_ATTN_OUTPUT_BIAS, ARCH_OUTPUT_BIAS, "attn_output.bias", DIM_HIDDEN },
        { ARCH_ATTN_SINKS, ARCH_SINKS | ARCH_WINDOWED, "attn_sinks.weight", DIM_HEADS },
        { ARCH_FFN_GATE, ARCH_DENSE, "ffn_gate.weight", DIM_HIDDEN, DIM_FFN },
        { ARCH_FFN_UP, ARCH_DENSE, "ffn_up.weight", DIM_HIDDEN, DIM_FFN },
        { ARCH_FFN_DOWN, ARCH_DENSE, "ffn_down.weight", DIM_FFN, DIM_HIDDEN },
        { ARCH_FFN_ROUTER, ARCH_MOE, "ffn_gate_inp.weight", DIM_HIDDEN, DIM_EXPERTS },
        { ARCH_FFN_GATE_EXPS, ARCH_MOE, "ffn_gate_exps.weight", DIM_HIDDEN, DIM_EXPERT_FFN, DIM_EXPERTS },
        { ARCH_FFN_UP_EXPS, ARCH_MOE, "ffn_up_exps.weight", DIM_HIDDEN, DIM_EXPERT_FFN, DIM_EXPERTS },
        { ARCH_FFN_DOWN_EXPS, ARCH_MOE, "ffn_down_exps.weight", DIM_EXPERT_FFN, DIM_HIDDEN, DIM_EXPERTS },
        { ARCH_FFN_ROUTER_BIAS, ARCH_ROUTER_BIAS, "exp_probs_b.bias", DIM_EXPERTS },
        { ARCH_FFN_GATE_SHEXP, ARCH_SHARED, "ffn_gate_shexp.weight", DIM_HIDDEN, DIM_SHARED_FFN },
        { ARCH_FFN_UP_SHEXP, ARCH_SHARED, "ffn_up_shexp.weight", DIM_HIDDEN, DIM_SHARED_FFN },
        { ARCH_FFN_DOWN_SHEXP, ARCH_SHARED, "ffn_down_shexp.weight", DIM_SHARED_FFN, DIM_HIDDEN },
        { ARCH_FFN_GATE_INP_SHEXP, ARCH_SHARED_GATE, "ffn_gate_inp_shexp.weight", DIM_HIDDEN },
        { ARCH_FFN_ROUTER_LOGIT_BIAS, ARCH_EXPERT_BIAS, "ffn_gate_inp.bias", DIM_EXPERTS },
        { ARCH_FFN_GATE_EXPS_BIAS, ARCH_EXPERT_BIAS, "ffn_gate_exps.bias", DIM_EXPERT_FFN, DIM_EXPERTS, .plain = true },
        { ARCH_FFN_UP_EXPS_BIAS, ARCH_EXPERT_BIAS, "ffn_up_exps.bias", DIM_EXPERT_FFN, DIM_EXPERTS, .plain = true },
        { ARCH_FFN_DOWN_EXPS_BIAS, ARCH_EXPERT_BIAS, "ffn_down_exps.bias", DIM_HIDDEN, DIM_EXPERTS, .plain = true },
        { ARCH_ATTN_Q, ARCH_MLA_Q, "attn_q.weight", DIM_HIDDEN, DIM_MLA_Q },
        { ARCH_ATTN_Q_A, ARCH_MLA_Q_LORA | ARCH_WINDOWED, "attn_q_a.weight", DIM_HIDDEN, DIM_Q_LORA },
        { ARCH_ATTN_Q_A_NORM, ARCH_MLA_Q_LORA | ARCH_WINDOWED, "attn_q_a_norm.weight", DIM_Q_LORA },
        { ARCH_ATTN_Q_B, ARCH_MLA_Q_LORA, "attn_q_b.weight", DIM_Q_LORA, DIM_MLA_Q },
        { ARCH_ATTN_KV_A, ARCH_MLA, "attn_kv_a_mqa.weight", DIM_HIDDEN, DIM_MLA_LATENT },
        { ARCH_ATTN_KV_A_NORM, ARCH_MLA, "attn_kv_a_norm.weight", DIM_KV_LORA },
        { ARCH_ATTN_KV_B, ARCH_MLA_WHOLE, "attn_kv_b.weight", DIM_KV_LORA, DIM_MLA_EXPANDED },
        { ARCH_ATTN_K_B, ARCH_MLA_SPLIT, "attn_k_b.weight", DIM_QK_NOPE, DIM_KV_LORA, DIM_HEADS },
        { ARCH_ATTN_V_B, ARCH_MLA_SPLIT, "attn_v_b.weight", DIM_KV_LORA, DIM_MLA_V, DIM_HEADS },
        { ARCH_ATTN_OUTPUT, ARCH_MLA, "attn_output.weight", DIM_MLA_ATTENDED, DIM_HIDDEN },
        { ARCH_INDEX_Q, ARCH_INDEXER, "indexer.attn_q_b.weight", DIM_Q_LORA, DIM_INDEX_Q },
        { ARCH_INDEX_K, ARCH_INDEX_KEYS, "indexer.attn_k.weight", DIM_HIDDEN, DIM_INDEX },
        { ARCH_INDEX_K_NORM, ARCH_INDEX_KEYS, "indexer.k_norm.weight", DIM_INDEX },
        { ARCH_INDEX_K_NORM_BIAS, ARCH_INDEX_KEYS, "indexer.k_norm.bias", DIM_INDEX },
        { ARCH_INDEX_WEIGHTS, ARCH_INDEXER, "indexer.proj.weight", DIM_HIDDEN, DIM_INDEX_HEADS },
        { ARCH_ATTN_Q_B, ARCH_WINDOWED, "attn_q_b.weight", DIM_Q_LORA, DIM_Q },
        { ARCH_ATTN_KV, ARCH_WINDOWED, "attn_kv.weight", DIM_HIDDEN, DIM_HEAD },
        { ARCH_ATTN_KV_A_NORM, ARCH_WINDOWED, "attn_kv_a_norm.weight", DIM_HEAD },
        { ARCH_ATTN_OUTPUT_A, ARCH_WINDOWED, "attn_output_a.weight", DIM_OUT_GROUP, DIM_OUT_LOW },
        { ARCH_ATTN_OUTPUT_B, ARCH_WINDOWED, "attn_output_b.weight", DIM_OUT_LOW, DIM_HIDDEN },
        { ARCH_COMPRESS_V, ARCH_HCA, "attn_compressor_kv.weight", DIM_HIDDEN, DIM_HEAD },
        { ARCH_COMPRESS_GATE, ARCH_HCA, "attn_compressor_gate.weight", DIM_HIDDEN, DIM_HEAD },
        { ARCH_COMPRESS_BIAS, ARCH_HCA, "attn_compressor_ape.weight", DIM_HEAD, DIM_HCA_RATIO, .plain = true },
        { ARCH_COMPRESS_V, ARCH_CSA, "attn_compressor_kv.weight", DIM_HIDDEN, DIM_CSA },
        { ARCH_COMPRESS_GATE, ARCH_CSA, "attn_compressor_gate.weight", DIM_HIDDEN, DIM_CSA },
        { ARCH_COMPRESS_BIAS, ARCH_CSA, "attn_compressor_ape.weight", DIM_CSA, DIM_CSA_RATIO, .plain = true },
        { ARCH_COMPRESS_NORM, ARCH_CSA | ARCH_HCA, "attn_compressor_norm.weight", DIM_HEAD },
        { ARCH_INDEX_V, ARCH_CSA, "indexer_compressor_kv.weight", DIM_HIDDEN, DIM_CSA_INDEX },
        { ARCH_INDEX_GATE, ARCH_CSA, "indexer_compressor_gate.weight", DIM_HIDDEN, DIM_CSA_INDEX },
        { ARCH_INDEX_BIAS, ARCH_CSA, "indexer_compressor_ape.weight", DIM_CSA_INDEX, DIM_CSA_RATIO, .plain = true },
        { ARCH_INDEX_NORM, ARCH_CSA, "indexer_compressor_norm.weight", DIM_INDEX },
        { ARCH_HYPER_ATTN, ARCH_HYPER, "hc_attn_fn.weight", DIM_ALL_STREAMS, DIM_MIX },
        { ARCH_HYPER_ATTN_BASE, ARCH_HYPER, "hc_attn_base.weight", DIM_MIX },
        { ARCH_HYPER_ATTN_SCALE, ARCH_HYPER, "hc_attn_scale.weight", DIM_MIX_SCALE },
        { ARCH_HYPER_FFN, ARCH_HYPER, "hc_ffn_fn.weight", DIM_ALL_STREAMS, DIM_MIX },
        { ARCH_HYPER_FFN_BASE, ARCH_HYPER, "hc_ffn_base.weight", DIM_MIX },
        { ARCH_HYPER_FFN_SCALE, ARCH_HYPER, "hc_ffn_scale.weight", DIM_MIX_SCALE },
        { ARCH_FFN_TABLE, ARCH_HASH, "ffn_gate_tid2eid.weight", DIM_EXPERTS_USED, DIM_VOCAB, .type = QUANT_I32 },
};

/* Token ids are 31 bits; this also bounds a row of logits. */
enum { VOCAB_MAX = 1 << 24 };

static uint64_t dim_value(const struct arch_params *h, enum dim dim) {
        switch (dim) {
        case DIM_ONE:
                return 1;
        case DIM_HIDDEN:
                return h->hidden;
        case DIM_VOCAB:
                return h->vocab;
        case DIM_HEAD:
                return h->k_dim;
        case DIM_Q:
                return (uint64_t) h->heads * h->k_dim;
        case DIM_K:
                return (uint64_t) h->kv_heads * h->k_dim;
        case DIM_V:
                return (uint64_t) h->kv_heads * h->v_dim;
        case DIM_ATTENDED:
                return (uint64_t) h->heads * h->v_dim;
        case DIM_FFN:
                return h->ffn;
        case DIM_EXPERT_FFN:
                return h->expert_ffn;
        case DIM_EXPERTS:
                return h->experts;
        case DIM_ROPE_PAIRS:
                return h->rope_dims / 2;
        case DIM_SHARED_FFN:
                return h->shared_ffn;
        case DIM_Q_LORA:
                return h->q_lora;
        case DIM_KV_LORA:
                return h->kv_lora;
        case DIM_QK_NOPE:
                return h->qk_nope;
        case DIM_MLA_V:
                return h->mla_v;
        case DIM_HEADS:
                return h->heads;
        case DIM_MLA_Q:
                return (uint64_t) h->heads * (h->qk_nope + h->rope_dims);
        case DIM_MLA_LATENT:
                return (uint64_t) h->kv_lora + h->rope_dims;
        case DIM_MLA_EXPANDED:
                return (uint64_t) h->heads * (h->qk_nope + h->mla_v);
        case DIM_MLA_ATTENDED:
                return (uint64_t) h->heads * h->mla_v;
        case DIM_INDEX_Q:
                return (uint64_t) h->index_heads * h->index_dim;
        case DIM_INDEX:
                return h->index_dim;
        case DIM_INDEX_HEADS:
                return h->index_heads;
        case DIM_OUT_GROUP:
                return (uint64_t) h->heads / h->out_groups * h->v_dim;
        case DIM_OUT_LOW:
                return (uint64_t) h->out_groups * h->out_lora;
        case DIM_CSA:
                return 2 * (uint64_t) h->k_dim;
        case DIM_CSA_INDEX:
                return 2 * (uint64_t) h->index_dim;
        case DIM_CSA_RATIO:
                return h->csa_ratio;
        case DIM_HCA_RATIO:
                return h->hca_ratio;
        case DIM_STREAMS:
                return h->streams;
        case DIM_ALL_STREAMS:
                return (uint64_t) h->streams * h->hidden;
        case DIM_MIX:
                return (uint64_t) (2 + h->streams) * h->streams;
        case DIM_MIX_SCALE:
                return 3;
        case DIM_EXPERTS_USED:
                return h->experts_used;
        }
        return 0;
}

static void shape_text(char text[static 96], uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
        if (d != 1)
                snprintf(text, 96, "%llu x %llu x %llu x %llu", (unsigned long long) a,
                         (unsigned long long) b, (unsigned long long) c, (unsigned long long) d);
        else if (c != 1)
                snprintf(text, 96, "%llu x %llu x %llu", (unsigned long long) a, (unsigned long long) b,
                         (unsigned long long) c);
        else
                snprintf(text, 96, "%llu x %llu", (unsigned long long) a, (unsigned long long) b);
}

static int check_shape(const struct arch_params *h, const struct gguf *g, const struct gguf_tensor *t,
                       const struct rule *rule, const char *name, struct reason *reason) {
        uint64_t cols = dim_value(h, rule->cols), rows = dim_value(h, rule->rows),
                 stack = dim_value(h, rule->stack);
        char is[96], expected[96];

        if (t->dims[0] == cols && t->dims[1] == rows && t->dims[2] == stack && t->dims[3] == 1)
                return 0;
        shape_text(is, t->dims[0], t->dims[1], t->dims[2], t->dims[3]);
        shape_text(expected, cols, rows, stack, 1);
        return reason_return(reason, ARCH_E_REFUSED, "%s: tensor %s is %s, expected %s", gguf_name(g), name,
                             is, expected);
}

static int check_type(const struct gguf *g, const struct gguf_tensor *t, const struct rule *rule,
                      const char *name, struct reason *reason) {
        const struct quant_info *info = quant_info(t->type);
        const struct gguf_tensor_type *type = gguf_tensor_type(t->type);

        /* Kernels read numbers of up to eight bytes where they lie. */
        if (t->offset % 8)
                return reason_return(reason, ARCH_E_REFUSED,
                                     "%s: tensor %s is at offset %llu, not a multiple of 8", gguf_name(g),
                                     name, (unsigned long long) t->offset);
        if (rule->rows == DIM_ONE || rule->plain || rule->type) {
                if (t->type == rule->type)
                        return 0;
                return reason_return(reason, ARCH_E_REFUSED, "%s: tensor %s has type %s, expected %s",
                                     gguf_name(g), name, type ? type->name : "unknown",
                                     quant_info(rule->type)->name);
        }
        if (info && info->weights)
                return 0;
        return reason_return(reason, ARCH_E_REFUSED,
                             "%s: tensor %s has type %s, which this build cannot compute with", gguf_name(g),
                             name, type ? type->name : "unknown");
}

/* Finds the tensor of a rule; `ret` gets NULL when it is optional and absent. */
static int find(const struct arch_model *m, const struct gguf *g, const struct rule *rule, const char *name,
                bool optional, const struct gguf_tensor **ret, struct reason *reason) {
        const struct gguf_tensor *t = gguf_tensor(g, name);
        int r;

        if (!t) {
                *ret = NULL;
                if (optional)
                        return 0;
                return reason_return(reason, ARCH_E_REFUSED, "%s: tensor %s is missing, which %s needs",
                                     gguf_name(g), name, m->arch->name);
        }
        r = check_shape(&m->params, g, t, rule, name, reason);
        if (!r)
                r = check_type(g, t, rule, name, reason);
        if (!r)
                *ret = t;
        return r;
}

static int read_vocab(struct arch_model *m, const struct gguf *g, struct reason *reason) {
        const struct gguf_tensor *t = gguf_tensor(g, "token_embd.weight");

        if (t && (t->dims[1] < 1 || t->dims[1] > VOCAB_MAX))
                return reason_return(reason, ARCH_E_REFUSED,
                                     "%s: token_embd.weight has %llu rows, expected 1 to %u", gguf_name(g),
                                     (unsigned long long) t->dims[1], (unsigned) VOCAB_MAX);
        if (t)
                m->params.vocab = (uint32_t) t->dims[1];
        return 0;
}

/* Parts that a layer has when it has their tensor. */
static const struct {
        uint32_t part;
        const char *name;
} probes[] = {
        { ARCH_QKV_BIAS, "attn_q.bias" },
        { ARCH_ROUTER_BIAS, "exp_probs_b.bias" },
        { ARCH_MLA_WHOLE, "attn_kv_b.weight" },
        { ARCH_SHARED_GATE, "ffn_gate_inp_shexp.weight" },
};

/* `attention.indexer.types`: true where a layer has an indexer of its own; absent: all have. */
static bool has_indexer(const struct arch_model *m, const struct gguf *g, uint32_t index) {
        struct gguf_array types;
        char key[96];
        bool full;

        if (gguf_get_array(g, arch_key(m, "attention.indexer.types", key), &types, NULL) || index >= types.n)
                return true;
        /* The first has no other's to use. */
        return index == 0 || !gguf_array_bool(&types, index, &full) || full;
}

static uint32_t layer_parts(const struct arch_model *m, const struct gguf *g, uint32_t index) {
        const struct arch_params *h = &m->params;
        uint32_t parts = m->arch->parts;
        char name[64];

        parts |= h->experts && index >= h->dense_layers ? ARCH_MOE : ARCH_DENSE;
        if (parts & ARCH_MOE && h->shared_ffn)
                parts |= ARCH_SHARED;
        for (size_t i = 0; i < ELEMENTS(probes); i++) {
                snprintf(name, sizeof(name), "blk.%u.%s", index, probes[i].name);
                if (m->arch->parts_allowed & probes[i].part && gguf_tensor(g, name))
                        parts |= probes[i].part;
        }
        if (parts & ARCH_MLA) {
                parts |= h->q_lora ? ARCH_MLA_Q_LORA : ARCH_MLA_Q;
                parts |= parts & ARCH_MLA_WHOLE ? 0 : ARCH_MLA_SPLIT;
        }
        if (parts & ARCH_DSA && has_indexer(m, g, index))
                parts |= ARCH_INDEXER | ARCH_INDEX_KEYS;
        if (index < h->hash_layers)
                parts |= ARCH_HASH;
        return parts;
}

/* Limits per layer; a missing list means none. */
static int read_limit(const struct arch_model *m, const struct gguf *g, const char *name, uint32_t index,
                      float *ret, struct reason *reason) {
        struct gguf_array limits;
        double limit;
        char key[96];

        if (!gguf_has(g, arch_key(m, name, key)))
                return 0;
        if (gguf_get_array(g, key, &limits, reason))
                return ARCH_E_REFUSED;
        if (index >= limits.n || !gguf_array_f64(&limits, index, &limit) || !(limit >= 0.0 && limit <= 1e30))
                return reason_return(reason, ARCH_E_REFUSED, "%s: %s[%u] is missing or no limit",
                                     gguf_name(g), key, index);
        *ret = (float) limit;
        return 0;
}

static int read_windowed(struct arch_model *m, const struct gguf *g, uint32_t index, struct reason *reason) {
        struct arch_layer *layer = &m->layers[index];
        uint32_t ratio;
        int r;

        r = arch_read_ratio(m, g, index, &ratio, reason);
        if (!r)
                r = read_limit(m, g, "swiglu_clamp_exp", index, &layer->limit, reason);
        if (!r)
                r = read_limit(m, g, "swiglu_clamp_shexp", index, &layer->shared_limit, reason);
        if (r)
                return r;
        layer->rope = ratio ? ARCH_ROPE_MAIN : ARCH_ROPE_LOCAL;
        if (ratio)
                layer->parts |= ratio < KV_PAGE_TOKENS ? ARCH_CSA | ARCH_INDEXER : ARCH_HCA;
        return 0;
}

static int read_layer(struct arch_model *m, const struct gguf *g, uint32_t index, struct reason *reason) {
        struct arch_layer *layer = &m->layers[index];
        char name[64];
        int r;

        layer->parts = layer_parts(m, g, index);
        if (layer->parts & ARCH_WINDOWED) {
                r = read_windowed(m, g, index, reason);
                if (r)
                        return r;
        } else if (m->arch->window_period && (index + 1) % m->arch->window_period) {
                layer->window = m->params.window;
                layer->rope = m->arch->rope_base_local ? ARCH_ROPE_LOCAL : ARCH_ROPE_MAIN;
        }
        layer->limit = m->arch->act_limit > 0.0f ? m->arch->act_limit : layer->limit;
        for (size_t i = 0; i < ELEMENTS(layer_rules); i++) {
                const struct rule *rule = &layer_rules[i];

                if (!(layer->parts & rule->part) || layer->parts & rule->except)
                        continue;
                snprintf(name, sizeof(name), "blk.%u.%s", index, rule->name);
                r = find(m, g, rule, name, rule->optional, &layer->tensors[rule->slot], reason);
                if (r)
                        return r;
        }
        if (layer->parts & ARCH_MOE)
                layer->moe_layer = m->moe_layers++;
        return 0;
}

/* True when the tensor is one that the forward pass will use, or of a block that it leaves out. */
static bool is_used(const struct arch_model *m, const struct gguf_tensor *t) {
        const struct gguf_tensor *const *slots = m->tensors;
        size_t n = _ARCH_TENSOR_MAX;
        char name[32], *end;
        unsigned long layer;

        if (t->name.size > 4 && memcmp(t->name.data, "blk.", 4) == 0) {
                snprintf(name, sizeof(name), "%.*s", (int) MIN(t->name.size - 4, sizeof(name) - 1),
                         t->name.data + 4);
                layer = strtoul(name, &end, 10);
                if (end == name || *end != '.' || layer >= m->params.layers)
                        return end != name && *end == '.' && layer < m->params.layers + m->params.nextn;
                slots = m->layers[layer].tensors;
                n = _ARCH_LAYER_TENSOR_MAX;
        }
        for (size_t i = 0; i < n; i++)
                if (slots[i] == t)
                        return true;
        return false;
}

/* A weight that the pass would not use means another model than the one that would be computed. */
static int check_unused(const struct arch_model *m, const struct gguf *g, struct reason *reason) {
        for (size_t i = 0; i < gguf_n_tensors(g); i++) {
                const struct gguf_tensor *t = gguf_tensor_at(g, i);

                if (!is_used(m, t))
                        return reason_return(reason, ARCH_E_REFUSED,
                                             "%s: tensor %.*s has no place in a model of %u layers of %s",
                                             gguf_name(g), (int) MIN(t->name.size, 64u), t->name.data,
                                             m->params.layers, m->arch->name);
        }
        return 0;
}

int arch_read_tensors(struct arch_model *m, const struct gguf *g, struct reason *reason) {
        int r;

        r = read_vocab(m, g, reason);
        if (r)
                return r;
        for (size_t i = 0; i < ELEMENTS(model_rules); i++) {
                const struct rule *rule = &model_rules[i];

                if (rule->part && !(m->arch->parts & rule->part))
                        continue;
                r = find(m, g, rule, rule->name, rule->optional, &m->tensors[rule->slot], reason);
                if (r)
                        return r;
        }
        m->layers = calloc(m->params.layers, sizeof(*m->layers));
        if (!m->layers)
                return -ENOMEM;
        for (uint32_t l = 0; l < m->params.layers; l++) {
                r = read_layer(m, g, l, reason);
                if (r)
                        return r;
        }
        r = check_unused(m, g, reason);
        if (!r && !m->tensors[ARCH_OUTPUT])
                m->tensors[ARCH_OUTPUT] = m->tensors[ARCH_TOKEN_EMBD];
        return r;
}
