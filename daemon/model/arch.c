/* SPDX-License-Identifier: MIT */
#include "arch.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>

#include "base/util.h"

static const struct arch archs[] = {
        {
                .name = "llama", /* with experts: Mixtral */
                .parts = ARCH_GQA,
                .parts_allowed = ARCH_QKV_BIAS,
                .ffn = ARCH_DENSE | ARCH_MOE,
                .pairs = ROPE_ADJACENT, /* the converter permutes the rows of Q and K for this */
                .act = ACT_SWIGLU,
                .gate = ROUTE_SOFTMAX,
                .normalize = true,
        },
        {
                .name = "qwen2",
                .parts = ARCH_GQA | ARCH_QKV_BIAS,
                .ffn = ARCH_DENSE,
                .pairs = ROPE_HALVES,
                .act = ACT_SWIGLU,
        },
        {
                .name = "qwen3",
                .parts = ARCH_GQA | ARCH_QK_NORM_HEAD,
                .ffn = ARCH_DENSE,
                .pairs = ROPE_HALVES,
                .act = ACT_SWIGLU,
        },
        {
                .name = "qwen3moe",
                .parts = ARCH_GQA | ARCH_QK_NORM_HEAD,
                .ffn = ARCH_MOE,
                .pairs = ROPE_HALVES,
                .act = ACT_SWIGLU,
                .gate = ROUTE_SOFTMAX,
                .normalize = true,
        },
        {
                .name = "olmoe",
                .parts = ARCH_GQA | ARCH_QK_NORM_ROW,
                .ffn = ARCH_MOE,
                .pairs = ROPE_HALVES,
                .act = ACT_SWIGLU,
                .gate = ROUTE_SOFTMAX,
        },
        {
                .name = "qwen2moe",
                .parts = ARCH_GQA | ARCH_QKV_BIAS,
                .parts_allowed = ARCH_SHARED_GATE,
                .ffn = ARCH_MOE,
                .pairs = ROPE_HALVES,
                .act = ACT_SWIGLU,
                .gate = ROUTE_SOFTMAX,
        },
        {
                .name = "granitemoe",
                .parts = ARCH_GQA,
                .ffn = ARCH_MOE,
                .pairs = ROPE_ADJACENT, /* permuted, as llama's */
                .act = ACT_SWIGLU,
                .gate = ROUTE_SOFTMAX_CHOSEN,
        },
        {
                .name = "gemma3",
                .parts = ARCH_GQA | ARCH_QK_NORM_HEAD | ARCH_NORM_AFTER,
                .ffn = ARCH_DENSE,
                .pairs = ROPE_HALVES,
                .act = ACT_GEGLU,
                .window_period = 6,
                .rope_base_local = "rope.freq_base_swa",
                .embedding_sqrt = true,
                .wide_layers = 62, /* 27B */
        },
        {
                .name = "gpt-oss",
                .parts = ARCH_GQA | ARCH_QKV_BIAS | ARCH_OUTPUT_BIAS | ARCH_SINKS | ARCH_EXPERT_BIAS |
                         ARCH_NORM_BETWEEN,
                .ffn = ARCH_MOE,
                .pairs = ROPE_HALVES,
                .act = ACT_SWIGLU_OAI,
                .act_limit = 7.0f,
                .gate = ROUTE_SOFTMAX_CHOSEN,
                .yarn_exact = true,
                .window_period = 2,
        },
        {
                .name = "deepseek2", /* V2-Lite, V2, V3, R1: what differs is in the file */
                .parts = ARCH_MLA,
                .parts_allowed = ARCH_MLA_WHOLE | ARCH_ROUTER_BIAS,
                .ffn = ARCH_DENSE | ARCH_MOE,
                .pairs = ROPE_ADJACENT,
                .act = ACT_SWIGLU,
                .gate = ROUTE_SOFTMAX,
                .yarn_on_scale = true,
        },
        {
                .name = "deepseek32", /* V3.2 */
                .parts = ARCH_MLA | ARCH_DSA,
                .parts_allowed = ARCH_ROUTER_BIAS,
                .ffn = ARCH_DENSE | ARCH_MOE,
                .pairs = ROPE_ADJACENT,
                .index_pairs = ROPE_HALVES,
                .act = ACT_SWIGLU,
                .gate = ROUTE_SIGMOID,
                .yarn_on_scale = true,
        },
        {
                .name = "glm-dsa",
                .parts = ARCH_MLA | ARCH_DSA,
                .parts_allowed = ARCH_ROUTER_BIAS,
                .ffn = ARCH_DENSE | ARCH_MOE,
                .pairs = ROPE_ADJACENT,
                .index_pairs = ROPE_ADJACENT,
                .act = ACT_SWIGLU,
                .gate = ROUTE_SIGMOID,
                .yarn_on_scale = true,
        },
        {
                .name = "deepseek4", /* V4 */
                .parts = ARCH_WINDOWED | ARCH_HYPER,
                .parts_allowed = ARCH_ROUTER_BIAS,
                .ffn = ARCH_MOE,
                .pairs = ROPE_ADJACENT,
                .index_pairs = ROPE_ADJACENT,
                .act = ACT_SWIGLU,
                .gate = ROUTE_SQRT_SOFTPLUS,
                .normalize = true,
                .yarn_on_scale = true,
                .rope_base = "attention.compress_rope_freq_base",
                .rope_base_local = "rope.freq_base",
        },
};

/* Integers that stand in the metadata. The ranges keep every product of two of them, and of those a tensor or
 * a buffer of activations is made of, far from wrapping 64 bits; and backends take them (op.h). */
struct param {
        const char *suffix;
        size_t offset;
        uint32_t min, max;
        bool required;
};

#define PARAM(_suffix, _field, _min, _max, _required)                                                        \
        { _suffix, offsetof(struct arch_params, _field), _min, _max, _required }

static const struct param params[] = {
        PARAM("block_count", layers, 1, 1024, true),
        PARAM("context_length", context, 1, 1 << 26, true),
        PARAM("embedding_length", hidden, 1, 1 << 17, true),
        PARAM("attention.head_count", heads, 1, 4096, true),
        PARAM("attention.head_count_kv", kv_heads, 1, 4096, false),
        PARAM("attention.key_length", k_dim, 1, 4096, false),
        PARAM("attention.value_length", v_dim, 1, 4096, false),
        PARAM("rope.dimension_count", rope_dims, 2, 2 * ROPE_PAIRS_MAX, false),
        PARAM("attention.sliding_window", window, 0, 1 << 26, false),
        PARAM("feed_forward_length", ffn, 1, 1 << 20, false),
        PARAM("expert_count", experts, 0, ROUTE_EXPERTS_MAX, false),
        PARAM("expert_used_count", experts_used, 0, 256, false),
        PARAM("expert_feed_forward_length", expert_ffn, 1, 1 << 20, false),
        PARAM("expert_shared_count", shared, 0, 256, false),
        PARAM("expert_shared_feed_forward_length", shared_ffn, 0, 1 << 20, false),
        PARAM("expert_group_count", groups, 0, ROUTE_EXPERTS_MAX, false),
        PARAM("expert_group_used_count", groups_used, 0, ROUTE_EXPERTS_MAX, false),
        PARAM("expert_capacity_window", capacity_window, 1, 1 << 16, false),
        PARAM("leading_dense_block_count", dense_layers, 0, 1024, false),
        PARAM("attention.q_lora_rank", q_lora, 0, 1 << 16, false),
        PARAM("attention.kv_lora_rank", kv_lora, 1, 4096, false),
        PARAM("attention.key_length_mla", qk_nope, 1, 4096, false),
        PARAM("attention.value_length_mla", mla_v, 1, 4096, false),
        PARAM("attention.indexer.head_count", index_heads, 1, 4096, false),
        PARAM("attention.indexer.key_length", index_dim, 1, 4096, false),
        PARAM("attention.indexer.top_k", index_k, 1, 1 << 16, false),
        PARAM("nextn_predict_layers", nextn, 0, 8, false),
        PARAM("attention.output_group_count", out_groups, 1, 4096, false),
        PARAM("attention.output_lora_rank", out_lora, 1, 1 << 16, false),
        PARAM("hyper_connection.count", streams, 1, HYPER_STREAMS_MAX, false),
        PARAM("hyper_connection.sinkhorn_iterations", sinkhorn, 1, 1000, false),
        PARAM("hash_layer_count", hash_layers, 0, 1024, false),
};

const struct arch *arch_find(struct gguf_string name) {
        for (size_t i = 0; i < ELEMENTS(archs); i++)
                if (gguf_string_equal(name, archs[i].name))
                        return &archs[i];
        return NULL;
}

const char *arch_key(const struct arch_model *m, const char *suffix, char key[static 96]) {
        snprintf(key, 96, "%s.%s", m->arch->name, suffix);
        return key;
}

int arch_get_u32(const struct arch_model *m, const struct gguf *g, const char *suffix, uint32_t otherwise,
                 uint32_t *ret, struct reason *reason) {
        char key[96];

        return gguf_get_u32_or(g, arch_key(m, suffix, key), otherwise, ret, reason) ? ARCH_E_REFUSED : 0;
}

int arch_get_f32(const struct arch_model *m, const struct gguf *g, const char *suffix, float otherwise,
                 float *ret, struct reason *reason) {
        char key[96];

        if (gguf_get_f32_or(g, arch_key(m, suffix, key), otherwise, ret, reason))
                return ARCH_E_REFUSED;
        if (!isfinite(*ret))
                return reason_return(reason, ARCH_E_REFUSED, "%s: %s is not a finite number", gguf_name(g),
                                     key);
        return 0;
}

static int refuse_unknown(const struct gguf *g, struct gguf_string name, struct reason *reason) {
        char known[512] = "";
        size_t n = 0;

        for (size_t i = 0; i < ELEMENTS(archs) && n < sizeof(known); i++)
                n += (size_t) snprintf(known + n, sizeof(known) - n, "%s%s", i ? ", " : "", archs[i].name);
        return reason_return(reason, ARCH_E_REFUSED, "%s: unknown architecture \"%.*s\"; known are: %s",
                             gguf_name(g), (int) MIN(name.size, 40u), name.data, known);
}

static int read_integers(struct arch_model *m, const struct gguf *g, struct reason *reason) {
        for (size_t i = 0; i < ELEMENTS(params); i++) {
                const struct param *p = &params[i];
                uint32_t *value = (uint32_t *) ((char *) &m->params + p->offset);
                char key[96];

                arch_key(m, p->suffix, key);
                *value = 0;
                if (!gguf_has(g, key) && !p->required)
                        continue;
                if (gguf_get_u32(g, key, value, reason))
                        return ARCH_E_REFUSED;
                if (*value < p->min || *value > p->max)
                        return reason_return(reason, ARCH_E_REFUSED, "%s: %s is %u, expected %u to %u",
                                             gguf_name(g), key, *value, p->min, p->max);
        }
        return 0;
}

static int read_floats(struct arch_model *m, const struct gguf *g, struct reason *reason) {
        struct arch_params *h = &m->params;

        if (arch_get_f32(m, g, "attention.layer_norm_rms_epsilon", -1.0f, &h->eps, reason) ||
            arch_get_f32(m, g, "attention.scale", 0.0f, &h->attention_scale, reason) ||
            arch_get_f32(m, g, "hyper_connection.epsilon", 1e-6f, &h->hyper_eps, reason) ||
            arch_get_f32(m, g, "embedding_scale",
                         m->arch->embedding_sqrt ? sqrtf((float) h->hidden) : 1.0f, &h->embedding_scale,
                         reason) ||
            arch_get_f32(m, g, "residual_scale", 1.0f, &h->residual_scale, reason) ||
            arch_get_f32(m, g, "logit_scale", 1.0f, &h->logit_scale, reason) ||
            arch_get_f32(m, g, "expert_weights_scale", 0.0f, &h->expert_scale, reason))
                return ARCH_E_REFUSED;
        if (h->eps < 0.0f || h->eps > 1.0f)
                return reason_return(
                        reason, ARCH_E_REFUSED,
                        "%s: %s.attention.layer_norm_rms_epsilon is missing or not between 0 and 1",
                        gguf_name(g), m->arch->name);
        if (h->logit_scale == 0.0f)
                return reason_return(reason, ARCH_E_REFUSED, "%s: %s.logit_scale is 0", gguf_name(g),
                                     m->arch->name);
        if (h->attention_scale == 0.0f && h->layers == m->arch->wide_layers)
                h->attention_scale = 1.0f / sqrtf((float) h->hidden / (float) h->heads);
        if (h->attention_scale == 0.0f)
                h->attention_scale =
                        1.0f / sqrtf((float) (h->kv_lora ? h->qk_nope + h->rope_dims : h->k_dim));
        if (h->expert_scale == 0.0f)
                h->expert_scale = 1.0f;
        return 0;
}

/* Newer files give the lengths of the latent form beside those of the heads, older ones only the latter.
 * Attention runs over the latent: its one key is the latent and the rotated values, its value the latent. */
static int derive_mla(struct arch_model *m, const struct gguf *g, struct reason *reason) {
        struct arch_params *h = &m->params;
        uint32_t key = h->qk_nope ? h->qk_nope : h->k_dim;

        if (h->kv_lora == 0)
                return reason_return(reason, ARCH_E_REFUSED, "%s: %s.attention.kv_lora_rank is missing",
                                     gguf_name(g), m->arch->name);
        if (h->mla_v == 0)
                h->mla_v = h->v_dim;
        if (h->rope_dims == 0 || key <= h->rope_dims || h->mla_v == 0)
                return reason_return(reason, ARCH_E_REFUSED,
                                     "%s: heads of %u values of key with %u rotary ones and %u of value; "
                                     "expected some of each",
                                     gguf_name(g), key, h->rope_dims, h->mla_v);
        h->qk_nope = key - h->rope_dims;
        h->kv_heads = 1;
        h->k_dim = h->kv_lora + h->rope_dims;
        h->v_dim = h->kv_lora;
        return 0;
}

static int check_indexer(struct arch_model *m, const struct gguf *g, struct reason *reason) {
        struct arch_params *h = &m->params;

        if (!(m->arch->parts & (ARCH_DSA | ARCH_WINDOWED))) {
                h->index_heads = h->index_dim = h->index_k = 0;
                return 0;
        }
        if (h->index_heads == 0 || h->index_k == 0 || h->index_dim < h->rope_dims || h->q_lora == 0)
                return reason_return(reason, ARCH_E_REFUSED,
                                     "%s: an indexer of %u heads of %u values (%u rotary) that chooses %u "
                                     "keys, from queries of rank %u; expected some of each",
                                     gguf_name(g), h->index_heads, h->index_dim, h->rope_dims, h->index_k,
                                     h->q_lora);
        return 0;
}

/* `attention.compress_ratios`: 0 for a layer with a window only. Entries of less than a page of tokens are
 * those that an indexer chooses from; those of more are all attended to. */
int arch_read_ratio(struct arch_model *m, const struct gguf *g, uint32_t layer, uint32_t *ret,
                    struct reason *reason) {
        struct arch_params *h = &m->params;
        struct gguf_array ratios;
        uint32_t *known;
        int64_t ratio;
        char key[96];

        if (gguf_get_array(g, arch_key(m, "attention.compress_ratios", key), &ratios, reason))
                return ARCH_E_REFUSED;
        if (layer >= ratios.n || !gguf_array_i64(&ratios, layer, &ratio) || ratio < 0 || ratio > 1 << 16 ||
            (ratio > 0 && KV_PAGE_TOKENS % ratio && ratio % KV_PAGE_TOKENS))
                return reason_return(reason, ARCH_E_REFUSED,
                                     "%s: %s[%u] is no number of tokens that divides %d or is a multiple",
                                     gguf_name(g), key, layer, (int) KV_PAGE_TOKENS);
        known = ratio < KV_PAGE_TOKENS ? &h->csa_ratio : &h->hca_ratio;
        if (ratio > 0 && *known > 0 && *known != ratio)
                return reason_return(reason, ARCH_E_REFUSED,
                                     "%s: %s has %u and %u; expected one number below %d and one from there on",
                                     gguf_name(g), key, *known, (unsigned) ratio, (int) KV_PAGE_TOKENS);
        if (ratio > 0)
                *known = (uint32_t) ratio;
        *ret = (uint32_t) ratio;
        return 0;
}

static int check_windowed(struct arch_model *m, const struct gguf *g, struct reason *reason) {
        struct arch_params *h = &m->params;

        if (!(m->arch->parts & ARCH_WINDOWED)) {
                h->out_groups = h->out_lora = h->streams = h->sinkhorn = h->hash_layers = 0;
                return 0;
        }
        if (h->window == 0 || h->q_lora == 0 || h->out_lora == 0 || h->out_groups == 0 || h->heads % h->out_groups ||
            h->kv_heads != 1 || h->k_dim != h->v_dim || h->streams == 0 || h->sinkhorn == 0)
                return reason_return(reason, ARCH_E_REFUSED,
                                     "%s: a window of %u, queries of rank %u, %u heads in %u groups of rank "
                                     "%u, %u KV heads and %u streams make no model of %s",
                                     gguf_name(g), h->window, h->q_lora, h->heads, h->out_groups, h->out_lora,
                                     h->kv_heads, h->streams, m->arch->name);
        return 0;
}

/* What the format leaves to be derived when its key is absent. */
static int derive(struct arch_model *m, const struct gguf *g, struct reason *reason) {
        struct arch_params *h = &m->params;
        int r;

        if (m->arch->parts & ARCH_MLA) {
                r = derive_mla(m, g, reason);
                if (r)
                        return r;
        }
        if (h->kv_heads == 0)
                h->kv_heads = h->heads;
        if (h->k_dim == 0)
                h->k_dim = h->hidden / h->heads;
        if (h->v_dim == 0)
                h->v_dim = h->k_dim;
        if (h->rope_dims == 0)
                h->rope_dims = h->k_dim;
        if (h->expert_ffn == 0)
                h->expert_ffn = h->ffn;
        if (h->nextn >= h->layers)
                return reason_return(reason, ARCH_E_REFUSED, "%s: %u of %u blocks predict further tokens",
                                     gguf_name(g), h->nextn, h->layers);
        h->layers -= h->nextn;
        if (h->heads % h->kv_heads)
                return reason_return(reason, ARCH_E_REFUSED,
                                     "%s: %u attention heads cannot share %u KV heads", gguf_name(g),
                                     h->heads, h->kv_heads);
        if (h->k_dim == 0 || h->rope_dims % 2 || h->rope_dims > MIN(h->k_dim, 2u * ROPE_PAIRS_MAX))
                return reason_return(
                        reason, ARCH_E_REFUSED,
                        "%s: %u rotary dimensions in a head of %u; expected an even number inside it",
                        gguf_name(g), h->rope_dims, h->k_dim);
        r = check_indexer(m, g, reason);
        return r ? r : check_windowed(m, g, reason);
}

static int check_window(struct arch_model *m, const struct gguf *g, struct reason *reason) {
        if (m->arch->window_period && m->params.window == 0)
                return reason_return(reason, ARCH_E_REFUSED, "%s: %s.attention.sliding_window is missing or 0",
                                     gguf_name(g), m->arch->name);
        return 0;
}

static int check_groups(struct arch_model *m, const struct gguf *g, struct reason *reason) {
        struct arch_params *h = &m->params;

        if (h->groups <= 1)
                h->groups = h->groups_used = 0;
        if (h->groups > 0 && (h->experts % h->groups || h->groups_used == 0 || h->groups_used > h->groups ||
                              h->experts_used > h->experts / h->groups * h->groups_used))
                return reason_return(reason, ARCH_E_REFUSED,
                                     "%s: %u of %u experts cannot be chosen from %u of %u groups", gguf_name(g),
                                     h->experts_used, h->experts, h->groups_used, h->groups);
        return 0;
}

static int check_experts(struct arch_model *m, const struct gguf *g, struct reason *reason) {
        struct arch_params *h = &m->params;
        bool moe = m->arch->ffn == ARCH_MOE || (m->arch->ffn & ARCH_MOE && h->experts > 0);

        if (!moe) {
                h->experts = h->experts_used = h->expert_ffn = h->shared = h->shared_ffn = h->groups = 0;
        } else {
                h->dense_layers = MIN(h->dense_layers, h->layers);
                if (h->dense_layers == 0)
                        h->ffn = 0;
                if (h->shared_ffn == 0)
                        h->shared_ffn = h->shared * h->expert_ffn;
                if (h->experts == 0 || h->experts_used == 0 || h->experts_used > h->experts)
                        return reason_return(reason, ARCH_E_REFUSED,
                                             "%s: %u of %u experts used per token; "
                                             "expected 1 to all of at least one",
                                             gguf_name(g), h->experts_used, h->experts);
        }
        if (h->ffn == 0 && (h->expert_ffn == 0 || h->dense_layers > 0))
                return reason_return(reason, ARCH_E_REFUSED, "%s: %s.feed_forward_length is missing",
                                     gguf_name(g), m->arch->name);
        return check_groups(m, g, reason);
}

/* The capacity is ceil(factor × window × used / experts), in single precision, where 1.1 of 100 are 110. What reaches
 * the whole window limits nothing. */
static int read_capacity(struct arch_model *m, const struct gguf *g, struct reason *reason) {
        struct arch_params *h = &m->params;
        float factor, most;

        if (arch_get_f32(m, g, "expert_capacity_factor", 0.0f, &factor, reason))
                return ARCH_E_REFUSED;
        if (factor < 0.0f || (factor > 0.0f) != (h->capacity_window > 0))
                return reason_return(reason, ARCH_E_REFUSED,
                                     "%s: %s.expert_capacity_factor is %g, of a window of %u tokens; "
                                     "expected both to be there and above 0, or none",
                                     gguf_name(g), m->arch->name, (double) factor, h->capacity_window);
        if (h->experts == 0 || factor == 0.0f)
                return 0;
        most = ceilf(factor * (float) (h->capacity_window * h->experts_used) / (float) h->experts);
        h->capacity = most < (float) h->capacity_window ? MAX((uint32_t) most, 1u) : 0;
        return 0;
}

/* `expert_gating_func`: 1 softmax, 2 sigmoid, 3 softmax over the chosen, 4 sqrt(softplus); absent or 0:
 * the architecture's own. */
static int read_router(struct arch_model *m, const struct gguf *g, struct reason *reason) {
        struct arch_params *h = &m->params;
        char key[96];
        uint32_t gate;

        h->gate = m->arch->gate;
        if (arch_get_u32(m, g, "expert_gating_func", 0, &gate, reason))
                return ARCH_E_REFUSED;
        if (gguf_get_bool_or(g, arch_key(m, "expert_weights_norm", key), m->arch->normalize, &h->normalize,
                             reason))
                return ARCH_E_REFUSED;
        switch (gate) {
        case 0:
                return 0;
        case 1:
                h->gate = ROUTE_SOFTMAX;
                return 0;
        case 2:
                h->gate = ROUTE_SIGMOID;
                return 0;
        case 3:
                h->gate = ROUTE_SOFTMAX_CHOSEN;
                return 0;
        case 4:
                h->gate = ROUTE_SQRT_SOFTPLUS;
                return 0;
        default:
                return reason_return(reason, ARCH_E_REFUSED,
                                     "%s: %s.expert_gating_func is %u; known are 1 to 4", gguf_name(g),
                                     m->arch->name, gate);
        }
}

int arch_read_params(struct arch_model *m, const struct gguf *g, struct reason *reason) {
        struct gguf_string name;
        int r;

        if (gguf_get_string(g, "general.architecture", &name, reason))
                return ARCH_E_REFUSED;
        m->arch = arch_find(name);
        if (!m->arch)
                return refuse_unknown(g, name, reason);
        r = read_integers(m, g, reason);
        if (!r)
                r = derive(m, g, reason);
        if (!r)
                r = check_window(m, g, reason);
        if (!r)
                r = check_experts(m, g, reason);
        if (!r)
                r = read_floats(m, g, reason);
        if (!r)
                r = read_capacity(m, g, reason);
        if (!r)
                r = read_router(m, g, reason);
        return r;
}

int arch_read(struct arch_model *ret, const struct gguf *g, struct reason *reason) {
        struct arch_model m = ARCH_MODEL_NULL;
        int r;

        r = arch_read_params(&m, g, reason);
        if (!r)
                r = arch_read_tensors(&m, g, reason);
        if (!r)
                r = arch_read_rope(&m, g, reason);
        if (r) {
                arch_model_deinit(&m);
                return r;
        }
        *ret = m;
        return 0;
}

void arch_model_deinit(struct arch_model *m) {
        free(m->layers);
        for (size_t i = 0; i < ARCH_ROPES; i++)
                free(m->ropes[i].frequencies);
        *m = (struct arch_model) ARCH_MODEL_NULL;
}
