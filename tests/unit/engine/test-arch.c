/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <string.h>

#include "arch.h"
#include "base/util.h"
#include "gguf.h"
#include "test.h"
#include "tiny.h"

static int open_tiny(const struct tiny *tiny, struct reason *reason) {
        struct model_options options = { .kv_type = QUANT_F16, .kv_bytes = 1 << 20, .rows_max = 4 };
        struct backend *backend;
        struct model *model = NULL;
        int r;

        assert_se(backend_ref_new(&backend) == 0);
        r = model_open(&model, backend, tiny_write(tiny), &options, reason);
        model_free(model);
        backend->ops->free(backend);
        return r;
}

TEST(a_sound_model_opens) {
        struct reason reason = REASON_INIT;

        assert_se(open_tiny(&(struct tiny) { 0 }, &reason) == 0);
}

TEST(a_model_says_what_it_is) {
        struct backend *backend;
        struct model *model;
        const struct model_info *info;

        assert_se(backend_ref_new(&backend) == 0);
        model = tiny_open(&(struct tiny) { 0 }, backend, 5, 4);
        info = model_info(model);
        assert_se(strcmp(info->architecture, "qwen3moe") == 0 && strcmp(info->name, "tiny") == 0);
        assert_se(info->vocab == TINY_VOCAB && info->layers == TINY_LAYERS && info->moe_layers == TINY_LAYERS);
        assert_se(info->experts == TINY_EXPERTS && info->experts_used == TINY_EXPERTS_USED);
        /* Two heads of 8 values of K and V each, F32; what is left of a budget. */
        assert_se(info->kv_bytes_per_token == TINY_LAYERS * (2 * (8 + 8) * 4 + 8));
        assert_se(info->kv_pages == 5 && model_kv_pages_free(model) == 5);
        assert_se(info->context == 5 * KV_PAGE_TOKENS);
        assert_se(info->weight_bytes == info->parameters * 4 && info->file_bytes > info->weight_bytes);
        assert_se(!model_tokenizer(model) && !model_chat_template(model));
        model_free(model);
        backend->ops->free(backend);
}

TEST(an_absent_output_matrix_is_the_embedding) {
        assert_se(open_tiny(&(struct tiny) { .omit_tensor = "output.weight" }, NULL) == 0);
}

/* What is wrong, and what the refusal must say of it. */
TEST(what_cannot_be_run_is_refused_by_name) {
        static const struct {
                struct tiny tiny;
                const char *says[3];
        } cases[] = {
                { { .architecture = "mamba" }, { "unknown architecture \"mamba\"", "llama", "gpt-oss" } },
                { { .architecture = "deepseek2" }, { "deepseek2.attention.kv_lora_rank is missing" } },
                { { .architecture = "glm-dsa" }, { "glm-dsa.attention.kv_lora_rank is missing" } },
                { { .architecture = "deepseek4" }, { "indexer of 0 heads" } },
                { { .omit_key = "block_count" }, { "qwen3moe.block_count" } },
                { { .omit_key = "embedding_length" }, { "qwen3moe.embedding_length" } },
                { { .key = "block_count", .value = 0 }, { "qwen3moe.block_count is 0, expected 1 to" } },
                { { .key = "block_count", .value = 1u << 31 }, { "qwen3moe.block_count is 2147483648" } },
                { { .key = "block_count", .value = 4 }, { "blk.3.attn_norm.weight is missing" } },
                { { .key = "block_count", .value = 2 }, { "blk.2.", "2 layers" } },
                { { .key = "embedding_length", .value = UINT32_MAX }, { "embedding_length is 4294967295" } },
                { { .key = "attention.head_count", .value = 0 }, { "attention.head_count is 0" } },
                { { .key = "attention.head_count", .value = 3 }, { "3 attention heads cannot share 2 KV heads" } },
                { { .key = "attention.head_count_kv", .value = 0 }, { "attention.head_count_kv is 0" } },
                { { .key = "attention.key_length", .value = 65536 }, { "attention.key_length is 65536" } },
                { { .key = "rope.dimension_count", .value = 10 }, { "10 rotary dimensions in a head of 8" } },
                { { .key = "rope.dimension_count", .value = 2048 }, { "is 2048, expected 2 to 1024" } },
                { { .key = "expert_count", .value = 5000 }, { "expert_count is 5000" } },
                { { .key = "rope.dimension_count", .value = 3 }, { "3 rotary dimensions" } },
                { { .key = "rope.freq_base", .value = 0 }, { "rope.freq_base is 0" } },
                { { .key = "context_length", .value = 0 }, { "context_length is 0" } },
                { { .key = "expert_count", .value = 0 }, { "3 of 0 experts" } },
                { { .key = "expert_used_count", .value = 7 }, { "7 of 6 experts" } },
                { { .key = "expert_used_count", .value = 0 }, { "0 of 6 experts" } },
                { { .key = "expert_gating_func", .value = 5 }, { "expert_gating_func is 5" } },
                { { .capacity_factor = 1.25f }, { "expert_capacity_factor is 1.25, of a window of 0 tokens" } },
                { { .capacity_window = 64 }, { "expert_capacity_factor is 0, of a window of 64 tokens" } },
                { { .capacity_factor = -1.0f, .capacity_window = 64 }, { "expert_capacity_factor is -1" } },
                { { .capacity_factor = NAN, .capacity_window = 64 }, { "capacity_factor is not a finite number" } },
                { { .capacity_factor = 1.0f, .capacity_window = 1, .key = "expert_capacity_window", .value = 0 },
                  { "expert_capacity_window is 0, expected 1 to 65536" } },
                { { .capacity_factor = 1.0f, .capacity_window = UINT32_MAX },
                  { "expert_capacity_window is 4294967295, expected 1 to 65536" } },
                { { .omit_key = "expert_feed_forward_length" }, { "feed_forward_length is missing" } },
                { { .architecture = "gemma3" }, { "gemma3.attention.sliding_window is missing" } },
                { { .architecture = "qwen2moe" }, { "blk.0.attn_q.bias is missing, which qwen2moe needs" } },
                { { .omit_tensor = "token_embd.weight" }, { "token_embd.weight is missing" } },
                { { .omit_tensor = "blk.1.attn_q_norm.weight" }, { "blk.1.attn_q_norm.weight is missing" } },
                { { .omit_tensor = "blk.2.ffn_down_exps.weight" }, { "blk.2.ffn_down_exps.weight is missing" } },
                { { .wrong_tensor = "output.weight" }, { "output.weight is 32 x 39, expected 32 x 40" } },
                { { .wrong_tensor = "blk.0.attn_norm.weight" }, { "blk.0.attn_norm.weight is 31 x 1" } },
                { { .wrong_tensor = "blk.1.attn_k.weight" }, { "attn_k.weight is 32 x 15, expected 32 x 16" } },
                { { .wrong_tensor = "blk.2.ffn_gate_inp.weight" }, { "ffn_gate_inp.weight is 32 x 5" } },
                { { .wrong_tensor = "blk.2.ffn_up_exps.weight" }, { "is 32 x 15 x 6, expected 32 x 16 x 6" } },
                { { .typed_tensor = "blk.0.attn_q.weight", .type = 26 }, { "blk.0.attn_q.weight has type I32" } },
                { { .typed_tensor = "blk.0.attn_q.weight", .type = 24 }, { "has type I8" } },
                { { .typed_tensor = "output_norm.weight", .type = 1 }, { "has type F16, expected F32" } },
                { { .extra_tensor = "blk.0.attn_q.bias" }, { "blk.0.attn_q.bias has no place" } },
                { { .extra_tensor = "blk.7.attn_norm.weight" }, { "blk.7.attn_norm.weight has no place" } },
                { { .extra_tensor = "blk.0x.attn_norm.weight" }, { "has no place" } },
                { { .extra_tensor = "mystery.weight" }, { "mystery.weight has no place" } },
                { { .vocabulary = true }, { "the vocabulary has 256 tokens, token_embd.weight only 40 rows" } },
                { { .rope = "longrope" }, { "rope.scaling.type is \"longrope\"" } },
                { { .rope = "linear", .rope_factor = -2.0f }, { "rope.scaling.factor is -2" } },
                { { .rope = "yarn", .rope_factor = INFINITY }, { "rope.scaling.factor is not a finite number" } },
        };

        for (size_t i = 0; i < ELEMENTS(cases); i++) {
                struct reason reason = REASON_INIT;
                int r = open_tiny(&cases[i].tiny, &reason);

                for (size_t j = 0; j < ELEMENTS(cases[i].says) && cases[i].says[j]; j++) {
                        if (r == ENGINE_E_MODEL && strstr(reason.text, cases[i].says[j]))
                                continue;
                        fprintf(stderr, "case %zu: %d '%s' should say '%s'\n", i, r, reason.text, cases[i].says[j]);
                        assert_se(!"refused for the right reason");
                }
        }
}

TEST(a_capacity_is_rounded_up_and_none_where_it_is_a_window) {
        static const struct {
                float factor;
                uint32_t window, capacity;
        } cases[] = {
                { 0.0f, 0, 0 },     { 1.0f, 64, 32 },    { 1.0f, 65, 33 },   { 1.1f, 100, 55 },  { 1e-38f, 64, 1 },
                { 1.99f, 100, 0 },  { 1.98f, 100, 99 },  { 2.0f, 100, 0 },   { 1e38f, 65536, 0 },
        };

        for (size_t i = 0; i < ELEMENTS(cases); i++) {
                struct tiny tiny = { .capacity_factor = cases[i].factor, .capacity_window = cases[i].window };
                struct arch_model m = ARCH_MODEL_NULL;
                struct gguf *g;

                assert_se(gguf_open(&g, tiny_write(&tiny), NULL) == 0 && arch_read(&m, g, NULL) == 0);
                assert_se(m.params.capacity == cases[i].capacity);
                arch_model_deinit(&m);
                gguf_free(g);
        }
}

TEST(a_capacity_costs_two_bytes_a_choice) {
        struct backend *backend;
        struct model *model;

        assert_se(backend_ref_new(&backend) == 0);
        model = tiny_open(&(struct tiny) { .capacity_factor = 1.5f, .capacity_window = 64 }, backend, 5, 4);
        assert_se(model_info(model)->has_capacity && model_info(model)->kv_pages == 5);
        assert_se(model_info(model)->kv_bytes_per_token == TINY_LAYERS * (2 * (8 + 8) * 4 + 8 + 2 * TINY_EXPERTS_USED));
        model_free(model);
        backend->ops->free(backend);
}

TEST(a_file_that_is_none_is_refused) {
        struct model_options options = { .kv_type = QUANT_F16, .kv_bytes = 1 << 20, .rows_max = 4 };
        struct reason reason = REASON_INIT;
        struct backend *backend;
        struct model *model;

        assert_se(backend_ref_new(&backend) == 0);
        assert_se(model_open(&model, backend, "/dev/null", &options, &reason) == ENGINE_E_MODEL);
        assert_se(reason.text[0]);
        assert_se(model_open(&model, backend, "/nowhere/model.gguf", &options, NULL) < 0);
        backend->ops->free(backend);
}

TEST(a_context_beyond_the_training_length_is_for_who_asks) {
        static const struct {
                uint32_t context_max;
                bool extend;
                uint32_t context;
        } cases[] = {
                { 0, false, TINY_CONTEXT },
                { 0, true, TINY_CONTEXT },
                { TINY_CONTEXT / 2, false, TINY_CONTEXT / 2 },
                { TINY_CONTEXT / 2, true, TINY_CONTEXT / 2 },
                { 3 * TINY_CONTEXT, false, TINY_CONTEXT },
                { 3 * TINY_CONTEXT, true, 3 * TINY_CONTEXT },
        };
        struct backend *backend;

        assert_se(backend_ref_new(&backend) == 0);
        for (size_t i = 0; i < ELEMENTS(cases); i++) {
                struct model_options options = {
                        .kv_type = QUANT_F16, .kv_bytes = 1 << 22, .rows_max = 4, .context_max = cases[i].context_max,
                        .context_extend = cases[i].extend,
                };
                struct sequence *sequence;
                struct model *model;

                assert_se(model_open(&model, backend, tiny_write(&(struct tiny) { 0 }), &options, NULL) == 0);
                assert_se(model_info(model)->context == cases[i].context);
                assert_se(sequence_new(&sequence, model) == 0);
                assert_se(sequence_reserve(sequence, cases[i].context + 1) == ENGINE_E_CONTEXT);
                assert_se(sequence_reserve(sequence, cases[i].context) == 0);
                sequence_free(sequence);
                model_free(model);
        }
        backend->ops->free(backend);
}

TEST(an_arena_smaller_than_a_page_is_refused) {
        struct model_options options = { .kv_type = QUANT_F16, .kv_bytes = 1000, .rows_max = 4 };
        struct reason reason = REASON_INIT;
        struct backend *backend;
        struct model *model;

        assert_se(backend_ref_new(&backend) == 0);
        assert_se(model_open(&model, backend, tiny_write(&(struct tiny) { 0 }), &options, &reason) == ENGINE_E_MODEL);
        assert_se(strstr(reason.text, "1000 bytes for KV hold no page"));
        backend->ops->free(backend);
}

static void read_frequencies(struct arch_model *m, const struct tiny *tiny, struct gguf **g) {
        assert_se(gguf_open(g, tiny_write(tiny), NULL) == 0);
        assert_se(arch_read(m, *g, NULL) == 0);
}

TEST(rotary_frequencies_fall_from_one_by_the_base) {
        struct arch_model m = ARCH_MODEL_NULL;
        struct gguf *g;

        read_frequencies(&m, &(struct tiny) { 0 }, &g);
        /* Four pairs, base 10000: 10000^(-2i/8). */
        assert_se(m.ropes[0].frequencies[0] == 1.0f && m.ropes[0].frequencies[1] == 0.1f &&
                  m.ropes[0].frequencies[2] == 0.01f && m.ropes[0].frequencies[3] == 0.001f);
        assert_se(m.ropes[0].magnitude == 1.0f);
        arch_model_deinit(&m);
        gguf_free(g);
}

TEST(a_factor_of_one_changes_no_frequency) {
        struct arch_model plain = ARCH_MODEL_NULL, scaled = ARCH_MODEL_NULL;
        struct gguf *g[2];

        read_frequencies(&plain, &(struct tiny) { 0 }, &g[0]);
        for (const char *const *kind = (const char *const[]) { "none", "linear", "yarn", NULL }; *kind; kind++) {
                read_frequencies(&scaled, &(struct tiny) { .rope = *kind }, &g[1]);
                assert_se(memcmp(plain.ropes[0].frequencies, scaled.ropes[0].frequencies, 4 * sizeof(float)) == 0);
                assert_se(scaled.ropes[0].magnitude == 1.0f);
                arch_model_deinit(&scaled);
                gguf_free(g[1]);
        }
        arch_model_deinit(&plain);
        gguf_free(g[0]);
}

/* Expected: the formulas of arXiv 2309.00071 as transformers 5.23 computes them (modeling_rope_utils). */
TEST(linear_and_yarn_scaling_are_as_published) {
        static const struct {
                struct tiny tiny;
                float frequencies[4], magnitude;
        } cases[] = {
                { { .rope = "linear", .rope_factor = 4.0f }, { 0.25f, 0.025f, 0.0025f, 0.00025f }, 1.0f },
                { { .rope = "yarn", .rope_factor = 4.0f, .rope_context = 64 },
                  { 1.0f, 0.0625f, 0.0025f, 0.00025f }, 1.1386294f },
                { { .rope = "yarn", .rope_factor = 4.0f, .rope_context = 4096 },
                  { 1.0f, 0.1f, 0.00625f, 0.00025f }, 1.1386294f },
        };

        for (size_t i = 0; i < ELEMENTS(cases); i++) {
                struct arch_model m = ARCH_MODEL_NULL;
                struct gguf *g;

                read_frequencies(&m, &cases[i].tiny, &g);
                for (unsigned j = 0; j < 4; j++)
                        assert_se(fabsf(m.ropes[0].frequencies[j] / cases[i].frequencies[j] - 1.0f) < 1e-6f);
                assert_se(fabsf(m.ropes[0].magnitude - cases[i].magnitude) < 1e-6f);
                arch_model_deinit(&m);
                gguf_free(g);
        }
}
