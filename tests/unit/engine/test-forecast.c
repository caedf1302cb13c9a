/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <malloc.h>
#include <string.h>

#include "base/util.h"
#include "forecast.h"
#include "gguf.h"
#include "sampler.h"
#include "test.h"
#include "tiny.h"

static const struct forecast_options options = {
        .model = {.kv_type = QUANT_F16, .kv_bytes = 1 << 20, .rows_max = 64},
        .threads = 2,
        .rows = 64,
};

TEST(plan_has_every_operation_of_the_cpu_backend) {
        _cleanup_(backend_freep) struct backend *cpu = NULL, *plan = NULL;
        const char *a, *b, none[sizeof(void *)] = "";

        assert_se(backend_cpu_new(&cpu, NULL) == 0 && backend_plan_new(&plan, 1) == 0);
        a = (const char *) cpu->ops;
        b = (const char *) plan->ops;
        for (size_t at = 0; at < sizeof(*cpu->ops); at += sizeof(void *))
                assert_se(memcmp(a + at, none, sizeof(none)) == 0 || memcmp(b + at, none, sizeof(none)) != 0);
}

/* So what is forecast is what a daemon will take that chooses their type itself. */
TEST(plan_keeps_keys_and_values_as_the_cpu_backend_does) {
        _cleanup_(backend_freep) struct backend *cpu = NULL, *plan = NULL;

        assert_se(backend_cpu_new(&cpu, NULL) == 0 && backend_plan_new(&plan, 1) == 0);
        assert_se(cpu->kv_type == backend_cpu_kv_type() && plan->kv_type == cpu->kv_type);
        assert_se(cpu->kv_type == QUANT_F16 || cpu->kv_type == QUANT_BF16);
}

TEST(plan_reserves_no_memory) {
        _cleanup_(backend_freep) struct backend *plan = NULL;
        struct buffer *buffer, *import;

        assert_se(backend_plan_new(&plan, 1) == 0);
        assert_se(plan->ops->buffer_new(plan, UINT64_C(1) << 60, true, &buffer) == 0);
        assert_se(plan->ops->buffer_import(plan, "x", 77, &import) == 0);
        assert_se(backend_plan_cost(plan).memory == UINT64_C(1) << 60 &&
                  backend_plan_cost(plan).imported == 77);
        plan->ops->buffer_free(buffer);
        plan->ops->buffer_free(import);
        assert_se(backend_plan_cost(plan).memory == 0 && backend_plan_cost(plan).imported == 0);
}

/* What a forward pass over one token reads, from the file's list of tensors alone. */
static uint64_t bytes_of_a_token(const char *path) {
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        uint64_t sum = 0;

        assert_se(gguf_open(&g, path, NULL) == 0);
        for (size_t i = 0; i < gguf_n_tensors(g); i++) {
                const struct gguf_tensor *t = gguf_tensor_at(g, i);

                if (gguf_string_equal(t->name, "token_embd.weight"))
                        sum += t->size / t->dims[1] + (gguf_tensor(g, "output.weight") ? 0 : t->size);
                else if (t->n_dims == 3)
                        sum += t->size / TINY_EXPERTS * TINY_EXPERTS_USED;
                else if (t->n_dims == 2)
                        sum += t->size;
        }
        return sum;
}

TEST(a_token_reads_its_weights_and_its_experts) {
        const char *path = tiny_write(&(struct tiny){.architecture = NULL});
        struct model_forecast f;

        assert_se(model_forecast(&f, path, &options, NULL) == 0);
        assert_se(f.token_weights == bytes_of_a_token(path));
}

TEST(forecast_is_what_the_model_tells) {
        _cleanup_(backend_freep) struct backend *backend = NULL;
        _cleanup_(model_freep) struct model *m = NULL;
        const char *path = tiny_write(&(struct tiny){.architecture = NULL});
        static const enum quant_type types[] = {QUANT_F16, QUANT_BF16, QUANT_F32};
        struct forecast_options of = options;
        struct model_forecast f;

        assert_se(backend_ref_new(&backend) == 0);
        for (size_t i = 0; i < ELEMENTS(types); i++) {
                of.model.kv_type = types[i];
                assert_se(model_open(&m, backend, path, &of.model, NULL) == 0);
                assert_se(model_forecast(&f, path, &of, NULL) == 0);
                assert_se(f.kv_token == model_info(m)->kv_bytes_per_token && f.context == model_info(m)->context);
                assert_se(f.file_bytes == model_info(m)->file_bytes && f.rows == 64);
                assert_se(f.step > 0 && f.scratch > 0);
                model_free(m);
                m = NULL;
        }
}

static uint64_t heap_used(void) {
        struct mallinfo2 info = mallinfo2();

        return info.uordblks + info.hblkhd;
}

/* A prompt of `rows` rows that ends in logits. */
static void run_prompt(struct step *step, struct model *m, uint32_t rows) {
        _cleanup_(sequence_freep) struct sequence *sequence = NULL;
        int32_t tokens[64] = { 0 };
        uint32_t allowances[64];

        for (unsigned i = 0; i < ELEMENTS(allowances); i++)
                allowances[i] = TINY_LAYERS * TINY_EXPERTS_USED;
        assert_se(rows <= ELEMENTS(tokens) && sequence_new(&sequence, m) == 0 && sequence_reserve(sequence, rows) == 0);
        assert_se(step_run(step, &(struct step_part) { .sequence = sequence, .tokens = tokens, .allowances = allowances,
                                                       .count = rows, .logits = true }, 1) == 0);
}

/* What a daemon has on its heap for a model when a prompt has run through it, on a backend that keeps no scratch. */
TEST(forecast_is_what_is_taken) {
        enum { ROUNDING = 8192 };
        _cleanup_(backend_freep) struct backend *backend = NULL;
        _cleanup_(sampler_scratch_freep) struct sampler_scratch *sampler = NULL;
        _cleanup_(model_freep) struct model *m = NULL;
        _cleanup_(step_freep) struct step *step = NULL;
        const char *path = tiny_write(&(struct tiny){.architecture = NULL});
        uint64_t before, taken, foreseen;
        struct model_forecast f;

        assert_se(backend_ref_new(&backend) == 0);
        before = heap_used();
        assert_se(model_open(&m, backend, path, &options.model, NULL) == 0);
        assert_se(step_new(&step, m) == 0 && sampler_scratch_new(&sampler, model_info(m)->vocab) == 0);
        run_prompt(step, m, options.rows);
        taken = heap_used() - before;
        if (taken == 0)
                test_skip("this allocator does not tell what is used");
        assert_se(model_forecast(&f, path, &options, NULL) == 0);
        foreseen = f.tables + f.step + f.kv_token * KV_PAGE_TOKENS * model_info(m)->kv_pages;
        assert_se(taken <= foreseen + ROUNDING && foreseen <= taken + ROUNDING);
}

TEST(more_rows_take_more_scratch) {
        const char *path = tiny_write(&(struct tiny){.architecture = NULL});
        struct forecast_options more = options;
        struct model_forecast a, b;

        more.rows = 8;
        assert_se(model_forecast(&a, path, &more, NULL) == 0);
        assert_se(model_forecast(&b, path, &options, NULL) == 0);
        assert_se(a.rows == 8 && a.step < b.step && a.scratch < b.scratch && a.kv_token == b.kv_token);
        more.rows = 1000;
        assert_se(model_forecast(&a, path, &more, NULL) == 0);
        assert_se(a.rows == 64); /* rows_max */
}

TEST(larger_steps_have_as_many_rows_as_memory_is_given_for) {
        const char *path = tiny_write(&(struct tiny){.architecture = NULL});
        struct forecast_options larger = options;
        struct model_forecast none, all, half;

        assert_se(model_forecast(&none, path, &larger, NULL) == 0 && none.long_rows == 0);
        larger.model.rows_max = larger.rows = 8;
        larger.long_steps = 3;
        larger.long_rows = 64;
        larger.long_bytes = UINT64_MAX;
        assert_se(model_forecast(&all, path, &larger, NULL) == 0 && all.long_rows == 64 && all.rows == 8);
        larger.long_rows = 32;
        assert_se(model_forecast(&half, path, &larger, NULL) == 0 && half.long_rows == 32 && half.step < all.step);
        larger.long_rows = 64;
        larger.long_bytes = (all.step + all.scratch + half.step + half.scratch) / 2;
        assert_se(model_forecast(&half, path, &larger, NULL) == 0 && half.long_rows == 32);
        assert_se(half.step + half.scratch <= larger.long_bytes);
        larger.long_bytes = 0;
        assert_se(model_forecast(&none, path, &larger, NULL) == 0 && none.long_rows == 0);
}

TEST(context_shrinks_to_what_the_arena_holds) {
        const char *path = tiny_write(&(struct tiny){.architecture = NULL});
        struct forecast_options small = options;
        struct model_forecast f;

        assert_se(model_forecast(&f, path, &options, NULL) == 0);
        small.model.kv_bytes = f.kv_token * KV_PAGE_TOKENS * 2;
        assert_se(model_forecast(&f, path, &small, NULL) == 0);
        assert_se(f.context == 2 * KV_PAGE_TOKENS && f.rows == 64);
        small.model.kv_bytes = f.kv_token * KV_PAGE_TOKENS;
        assert_se(model_forecast(&f, path, &small, NULL) == 0);
        assert_se(f.context == KV_PAGE_TOKENS && f.rows == KV_PAGE_TOKENS);
}

TEST(what_cannot_run_is_refused_with_its_name) {
        struct reason reason = REASON_INIT;
        struct model_forecast f;

        assert_se(model_forecast(&f, tiny_write(&(struct tiny){.omit_tensor = "blk.1.attn_q.weight"}),
                                 &options, &reason) == ENGINE_E_MODEL);
        assert_se(strstr(reason.text, "blk.1.attn_q.weight"));
        assert_se(model_forecast(&f, "/nonexistent/x.gguf", &options, &reason) == -ENOENT);
}
