/* SPDX-License-Identifier: MIT */
#include "tiny.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gguf-builder.h"
#include "test.h"
#include "vocabulary.h"

enum { HIDDEN = 32, HEADS = 4, KV_HEADS = 2, HEAD = 8, EXPERT_FFN = 16 };

struct builder {
        struct gguf_builder gguf;
        const struct tiny *tiny;
        uint32_t random;
};

static const char *architecture(const struct tiny *tiny) {
        return tiny->architecture ? tiny->architecture : "qwen3moe";
}

static void number(struct builder *b, const char *suffix, uint32_t value) {
        const struct tiny *tiny = b->tiny;
        char key[96];

        if (tiny->omit_key && strcmp(tiny->omit_key, suffix) == 0)
                return;
        if (tiny->key && strcmp(tiny->key, suffix) == 0)
                value = tiny->value;
        snprintf(key, sizeof(key), "%s.%s", architecture(tiny), suffix);
        gguf_builder_u32(&b->gguf, key, value);
}

/* Between -1 and 1; the generator is a linear congruential one (Numerical Recipes, 2nd edition, section 7.1). */
static float next(struct builder *b) {
        b->random = b->random * 1664525u + 1013904223u;
        return (float) (b->random >> 8) / (float) (1 << 23) - 1.0f;
}

static size_t bytes_of(uint32_t type, uint64_t values) {
        const struct gguf_tensor_type *info = gguf_tensor_type(type);

        return values / info->block_values * info->block_bytes;
}

static void tensor(struct builder *b, const char *name, uint64_t cols, uint64_t rows, uint64_t stack) {
        const struct tiny *tiny = b->tiny;
        uint64_t dims[3] = { cols, rows, stack }, values;
        uint32_t n_dims = stack ? 3 : rows ? 2 : 1, type = 0;
        float *data;

        if (tiny->omit_tensor && strcmp(tiny->omit_tensor, name) == 0)
                return;
        if (tiny->wrong_tensor && strcmp(tiny->wrong_tensor, name) == 0)
                dims[rows ? 1 : 0]--;
        if (tiny->typed_tensor && strcmp(tiny->typed_tensor, name) == 0)
                type = tiny->type;
        values = dims[0] * (rows ? dims[1] : 1) * (stack ? stack : 1);
        data = calloc(values, sizeof(*data));
        assert_se(data);
        for (uint64_t i = 0; i < values; i++)
                data[i] = rows ? next(b) / sqrtf((float) cols) * 1.7f : 1.0f + 0.1f * next(b);
        gguf_builder_tensor(&b->gguf, name, type, n_dims, dims, data, bytes_of(type, values));
        free(data);
}

static void layer(struct builder *b, uint32_t l) {
        struct {
                const char *name;
                uint64_t cols, rows, stack;
        } tensors[] = {
                { "attn_norm.weight", HIDDEN },
                { "attn_q.weight", HIDDEN, HEADS * HEAD },
                { "attn_k.weight", HIDDEN, KV_HEADS * HEAD },
                { "attn_v.weight", HIDDEN, KV_HEADS * HEAD },
                { "attn_q_norm.weight", HEAD },
                { "attn_k_norm.weight", HEAD },
                { "attn_output.weight", HEADS * HEAD, HIDDEN },
                { "ffn_norm.weight", HIDDEN },
                { "ffn_gate_inp.weight", HIDDEN, TINY_EXPERTS },
                { "ffn_gate_exps.weight", HIDDEN, EXPERT_FFN, TINY_EXPERTS },
                { "ffn_up_exps.weight", HIDDEN, EXPERT_FFN, TINY_EXPERTS },
                { "ffn_down_exps.weight", EXPERT_FFN, HIDDEN, TINY_EXPERTS },
        };
        char name[64];

        for (size_t i = 0; i < sizeof(tensors) / sizeof(tensors[0]); i++) {
                snprintf(name, sizeof(name), "blk.%u.%s", l, tensors[i].name);
                tensor(b, name, tensors[i].cols, tensors[i].rows, tensors[i].stack);
        }
}

static void rope_scaling(struct builder *b) {
        const struct tiny *tiny = b->tiny;
        char key[96];

        snprintf(key, sizeof(key), "%s.rope.scaling.type", architecture(tiny));
        gguf_builder_string(&b->gguf, key, tiny->rope);
        snprintf(key, sizeof(key), "%s.rope.scaling.factor", architecture(tiny));
        if (tiny->rope_factor != 0.0f)
                gguf_builder_f32(&b->gguf, key, tiny->rope_factor);
        if (tiny->rope_context)
                number(b, "rope.scaling.original_context_length", tiny->rope_context);
}

static void metadata(struct builder *b) {
        char key[96];

        gguf_builder_string(&b->gguf, "general.architecture", architecture(b->tiny));
        gguf_builder_string(&b->gguf, "general.name", "tiny");
        if (b->tiny->alignment)
                gguf_builder_u32(&b->gguf, "general.alignment", b->tiny->alignment);
        number(b, "block_count", TINY_LAYERS);
        number(b, "context_length", TINY_CONTEXT);
        number(b, "embedding_length", HIDDEN);
        number(b, "attention.head_count", HEADS);
        number(b, "attention.head_count_kv", KV_HEADS);
        number(b, "attention.key_length", HEAD);
        number(b, "attention.value_length", HEAD);
        number(b, "rope.dimension_count", HEAD);
        number(b, "rope.freq_base", 10000);
        number(b, "expert_count", TINY_EXPERTS);
        number(b, "expert_used_count", TINY_EXPERTS_USED);
        number(b, "expert_feed_forward_length", EXPERT_FFN);
        number(b, "expert_gating_func", 1);
        if (b->tiny->capacity_window)
                number(b, "expert_capacity_window", b->tiny->capacity_window);
        if (b->tiny->capacity_factor != 0.0f) {
                snprintf(key, sizeof(key), "%s.expert_capacity_factor", architecture(b->tiny));
                gguf_builder_f32(&b->gguf, key, b->tiny->capacity_factor);
        }
        snprintf(key, sizeof(key), "%s.attention.layer_norm_rms_epsilon", architecture(b->tiny));
        gguf_builder_f32(&b->gguf, key, 1e-6f);
        if (b->tiny->rope)
                rope_scaling(b);
        if (b->tiny->vocabulary) {
                static struct vocabulary v;

                vocabulary_init(&v);
                vocabulary_write(&v, &b->gguf, "gpt-2");
        }
}

static char path[64];

static void unlink_path(void) {
        unlink(path);
}

const char *tiny_write(const struct tiny *tiny) {
        struct builder b = { .gguf = GGUF_BUILDER_INIT, .tiny = tiny, .random = 7 };
        uint8_t *data;
        size_t size;
        int fd;

        if (tiny->alignment)
                b.gguf.alignment = tiny->alignment;
        metadata(&b);
        tensor(&b, "token_embd.weight", HIDDEN, TINY_VOCAB, 0);
        tensor(&b, "output_norm.weight", HIDDEN, 0, 0);
        tensor(&b, "output.weight", HIDDEN, TINY_VOCAB, 0);
        for (uint32_t l = 0; l < TINY_LAYERS; l++)
                layer(&b, l);
        if (tiny->extra_tensor)
                tensor(&b, tiny->extra_tensor, HIDDEN, 0, 0);
        data = gguf_builder_finish(&b.gguf, &size);
        if (path[0])
                unlink_path();
        else
                atexit(unlink_path);
        strcpy(path, "/tmp/test-tiny-XXXXXX");
        fd = mkstemp(path);
        assert_se(fd >= 0);
        assert_se(write(fd, data, size) == (ssize_t) size);
        close(fd);
        free(data);
        return path;
}

struct model *tiny_open(const struct tiny *tiny, struct backend *backend, uint32_t pages, uint32_t rows_max) {
        struct model_options options = {
                .kv_type = QUANT_F32,
                .kv_bytes =
                        (uint64_t) pages * KV_PAGE_TOKENS * TINY_LAYERS *
                        (KV_HEADS * 2 * HEAD * sizeof(float) + sizeof(struct route_state) +
                         (tiny->capacity_window ? TINY_EXPERTS_USED * sizeof(uint16_t) : 0)),
                .rows_max = rows_max,
        };
        struct reason reason = REASON_INIT;
        struct model *model;

        if (model_open(&model, backend, tiny_write(tiny), &options, &reason)) {
                fprintf(stderr, "%s\n", reason.text);
                assert_se(!"the tiny model opens");
        }
        return model;
}

int step_run(struct step *step, struct step_part *parts, uint32_t n) {
        int r = step_begin(step, parts, n);

        while (r == 0) {
                r = step_advance(step);
                if (r <= 0)
                        return r;
                r = 0;
        }
        return r;
}
