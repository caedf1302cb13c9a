/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "engine.h"
#include "fixture-model.h"
#include "prefix.h"
#include "test.h"
#include "tiny.h"

/* Promise P2 over every model of the reference fixtures: the logits of a sequence are the same bits whatever
 * else is in the batch, however its prompt is cut, and however many threads compute. */

enum {
        PROMPT = 77,       /* longer than two pages and than the largest chunk */
        PROMPT_LONG = 140, /* longer than what the largest compressed entry is made of */
        DECODED = 4,       /* tokens fed one at a time after it */
        TOKENS_MAX = PROMPT_LONG + DECODED,
        NEIGHBOURS = 15,
        ROWS = 256,
};

/* Of the model that is being tried. */
static uint32_t prompt = PROMPT;

static uint32_t tokens_of_all(void) {
        return prompt + DECODED;
}

struct way {
        const char *name;
        uint32_t chunk;
        bool neighbours;
        uint32_t again; /* not 0: in the end all is computed once more, so many rows at a time */
        bool beside;    /* neighbours are in a larger step that is under way at the same time */
        bool shared;    /* goes on from whole pages of its prompt that another sequence has computed */
};

static const struct way ways[] = {
        { "whole, alone", PROMPT_LONG, false },
        { "chunks of 1", 1, false },
        { "chunks of 7", 7, false },
        { "chunks of 32", 32, false },
        { "whole, 15 neighbours", PROMPT_LONG, true },
        { "chunks of 7, 15 neighbours", 7, true },
        { "again in chunks of 11", PROMPT_LONG, false, 11 },
        { "again as a whole", PROMPT_LONG, false, TOKENS_MAX },
        { "whole, between the layers of another step", PROMPT_LONG, .beside = true },
        { "chunks of 7, between the layers of another step", 7, .beside = true },
        { "from shared pages", PROMPT_LONG, .shared = true },
        { "from shared pages in chunks of 7, 15 neighbours", 7, true, .shared = true },
};

/* What a backend is made of; the reference when there is no isa. */
struct machine {
        const char *isa;
        uint32_t threads;
        enum quant_type kv_type;
};

static const struct machine machines[] = {
        { NULL, 0, QUANT_F16 },     { "c", 2, QUANT_F16 },      { "avx2", 2, QUANT_BF16 },
        { "avx512", 1, QUANT_F16 }, { "avx512", 2, QUANT_F16 }, { "amx", 2, QUANT_F16 },
        { "amx", 1, QUANT_BF16 },   { "amx", 2, QUANT_BF16 },   { "amx", 3, QUANT_BF16 },
};

struct subject {
        int32_t tokens[TOKENS_MAX];
        uint32_t allowances[TOKENS_MAX];
        struct step_budget budgets[TOKENS_MAX];
};

/* Tokens, allowances and budgets that differ from one sequence to the next; of 24 rows 8 have allowances, the others
 * share a budget that changes in between. */
static void make_subject(struct subject *s, const struct model_info *info, uint32_t seed) {
        for (uint32_t i = 0, cap = 0; i < TOKENS_MAX; i++) {
                seed = seed * 1664525u + 1013904223u;
                s->tokens[i] = (int32_t) ((seed >> 8) % info->vocab);
                s->allowances[i] = (seed >> 4) % (info->moe_layers * info->experts_used + 1);
                if (i % 8 == 0)
                        cap = (seed >> 6) % (1000 * info->experts_used + 500);
                s->budgets[i] = (struct step_budget) { i % 24 < 8 ? STEP_BUDGET_NONE : cap, 1000 * (i / 16 % 3) };
        }
}

static struct sequence *new_sequence(struct model *model) {
        struct sequence *s;

        assert_se(sequence_new(&s, model) == 0);
        assert_se(sequence_reserve(s, tokens_of_all()) == 0);
        return s;
}

static struct step_part next_part(struct sequence *sequence, const struct subject *s, uint32_t chunk) {
        uint32_t at = sequence_length(sequence);

        return (struct step_part) {
                .sequence = sequence, .tokens = s->tokens + at, .allowances = s->allowances + at,
                .budgets = s->budgets + at,
                .count = at < prompt ? MIN(chunk, prompt - at) : 1, .prompt = at < prompt ? MIN(chunk, prompt - at) : 0,
                .logits = 1,
        };
}

static void run(struct step *step, struct step_part *parts, uint32_t n) {
        int r;

        assert_se(step_begin(step, parts, n) == 0);
        do
                r = step_advance(step);
        while (r > 0);
        assert_se(r == 0);
}

/* Forgets the sequence and computes it again: some parts end the prompt in their midst. Returns the last logits. */
static const float *compute_again(struct step *step, struct sequence *sequence, const struct subject *s,
                                  uint32_t chunk) {
        struct step_part part = { .sequence = sequence, .logits = 1 };

        sequence_truncate(sequence, 0);
        assert_se(sequence_reserve(sequence, tokens_of_all()) == 0);
        for (uint32_t at = 0; at < tokens_of_all(); at += part.count) {
                part.tokens = s->tokens + at;
                part.allowances = s->allowances + at;
                part.budgets = s->budgets + at;
                part.count = MIN(chunk, tokens_of_all() - at);
                part.prompt = at < prompt ? MIN(part.count, prompt - at) : 0;
                run(step, &part, 1);
        }
        return part.logits_out;
}

/* Neighbours stand on both sides, are at other positions each, and take turns with prompts of several
 * rows. */
static uint32_t add_neighbours(struct step_part *parts, struct sequence **sequences,
                               const struct subject *subjects, uint32_t from, uint32_t to, uint32_t round) {
        uint32_t n = 0;

        for (uint32_t i = from; i < to; i++) {
                if (sequence_length(sequences[i]) == tokens_of_all()) {
                        sequence_truncate(sequences[i], i);
                        assert_se(sequence_reserve(sequences[i],
                                                   tokens_of_all() - sequence_length(sequences[i])) == 0);
                }
                parts[n++] = next_part(sequences[i], &subjects[i], (round + i) % 4 == 0 ? 5 : 1);
        }
        return n;
}

/* A sequence that has the same prompt but for its last token, stored page by page, and went on otherwise. */
struct elder {
        struct prefix_cache *cache;
        struct prefix_owner owner;
        struct prefix_cursor cursor;
        struct sequence *sequence;
        struct subject subject;
};

static void key_of(const struct elder *e, const struct subject *s, uint32_t page, struct prefix_key *ret) {
        uint32_t at = page * KV_PAGE_TOKENS;

        prefix_key_init(ret, e->cache, &(struct step_part) {
                .tokens = s->tokens + at, .allowances = s->allowances + at, .budgets = s->budgets + at,
                .count = KV_PAGE_TOKENS, .prompt = KV_PAGE_TOKENS,
        });
}

static void make_elder(struct elder *e, struct step *step, struct model *model, const struct subject *s) {
        uint32_t last = prompt - 1;
        struct prefix_key key;

        assert_se(prefix_cache_new(&e->cache, model) == 0 && prefix_enter(&e->cursor, e->cache, 0) == 0);
        prefix_owner_init(&e->owner);
        e->sequence = new_sequence(model);
        e->subject = *s;
        e->subject.tokens[last] = (s->tokens[last] + 1) % (int32_t) model_info(model)->vocab;
        while (sequence_length(e->sequence) < tokens_of_all()) {
                struct step_part part = next_part(e->sequence, &e->subject, 11);

                run(step, &part, 1);
                while ((e->cursor.pages + 1) * KV_PAGE_TOKENS <= MIN(last, sequence_length(e->sequence))) {
                        key_of(e, &e->subject, e->cursor.pages, &key);
                        assert_se(prefix_store(&e->cursor, &key, e->sequence, &e->owner) == 0);
                }
        }
}

/* The sequence begins with all of the elder's pages, which then goes. */
static void follow_elder(struct elder *e, struct sequence *sequence, const struct subject *s) {
        struct prefix_cursor cursor;
        struct prefix_key key;

        assert_se(prefix_enter(&cursor, e->cache, 0) == 0);
        while (cursor.pages < (prompt - 1) / KV_PAGE_TOKENS) {
                key_of(e, s, cursor.pages, &key);
                assert_se(prefix_follow(&cursor, &key, sequence, &e->owner) == 0);
        }
        prefix_leave(&cursor);
        prefix_leave(&e->cursor);
        sequence_free(e->sequence);
        prefix_cache_free(e->cache);
        assert_se(sequence_length(sequence) > 0);
}

/* Both at once, layer by layer in turn. */
static void run_beside(struct step *step, struct step_part *parts, uint32_t n, struct step *larger,
                       struct step_part *others, uint32_t n_others) {
        int r = 1, r_larger = 1;

        assert_se(n_others > 0 && step_begin(larger, others, n_others) == 0 && step_begin(step, parts, n) == 0);
        while (r > 0 || r_larger > 0) {
                if (r_larger > 0)
                        assert_se((r_larger = step_advance(larger)) >= 0);
                if (r > 0)
                        assert_se((r = step_advance(step)) >= 0);
        }
}

/* The logits after the prompt and after each decoded token: [DECODED + 1][vocab]. */
static float *logits_of(struct model *model, const struct way *way) {
        uint32_t vocab = model_info(model)->vocab, kept = 0;
        struct sequence *sequences[NEIGHBOURS + 1];
        struct subject subjects[NEIGHBOURS + 1];
        struct step_part parts[NEIGHBOURS + 1];
        float *logits = calloc((DECODED + 1) * (size_t) vocab, sizeof(*logits));
        struct step_part others[NEIGHBOURS];
        struct elder elder;
        struct step *step, *larger;

        assert_se(logits && step_new(&step, model) == 0 && step_new_beside(&larger, step, 2 * ROWS) == 0);
        for (uint32_t i = 0; i <= NEIGHBOURS; i++) {
                make_subject(&subjects[i], model_info(model), i + 1);
                sequences[i] = new_sequence(model);
        }
        if (way->shared) {
                make_elder(&elder, step, model, &subjects[0]);
                follow_elder(&elder, sequences[0], &subjects[0]);
        }
        for (uint32_t round = 0; sequence_length(sequences[0]) < tokens_of_all(); round++) {
                uint32_t n = way->neighbours ? add_neighbours(parts, sequences, subjects, 1, 8, round) : 0,
                         own = n++;

                parts[own] = next_part(sequences[0], &subjects[0], way->chunk);
                if (way->neighbours)
                        n += add_neighbours(parts + n, sequences, subjects, 8, NEIGHBOURS + 1, round);
                if (way->beside)
                        run_beside(step, parts, n, larger, others,
                                   add_neighbours(others, sequences, subjects, 1, NEIGHBOURS + 1, round));
                else
                        run(step, parts, n);
                if (sequence_length(sequences[0]) >= prompt)
                        memcpy(logits + (size_t) kept++ * vocab, parts[own].logits_out,
                               vocab * sizeof(*logits));
        }
        assert_se(kept == DECODED + 1);
        if (way->again)
                memcpy(logits + DECODED * (size_t) vocab,
                       compute_again(step, sequences[0], &subjects[0], way->again), vocab * sizeof(*logits));
        for (uint32_t i = 0; i <= NEIGHBOURS; i++)
                sequence_free(sequences[i]);
        step_free(step);
        step_free(larger);
        return logits;
}

static struct model *open_model(struct backend *backend, const char *path, enum quant_type kv_type) {
        struct model_options options = { .kv_type = kv_type, .kv_bytes = 32 << 20, .rows_max = ROWS };
        struct reason reason = REASON_INIT;
        struct model *model;

        if (model_open(&model, backend, path, &options, &reason)) {
                fprintf(stderr, "%s\n", reason.text);
                assert_se(!"the model opens");
        }
        return model;
}

/* Every way on one machine against the first; returns that. */
static float *check_machine(struct backend *backend, const char *path, enum quant_type kv_type, const char *machine,
                            size_t *ret_size) {
        struct model *model = open_model(backend, path, kv_type);
        size_t size = (DECODED + 1) * (size_t) model_info(model)->vocab * sizeof(float);
        float *first = logits_of(model, &ways[0]);

        for (size_t i = 1; i < ELEMENTS(ways); i++) {
                _cleanup_(freep) float *logits = logits_of(model, &ways[i]);

                if (memcmp(first, logits, size) != 0)
                        fprintf(stderr, "%s, %s: %s differs\n", path, machine, ways[i].name);
                assert_se(memcmp(first, logits, size) == 0);
        }
        model_free(model);
        *ret_size = size;
        return first;
}

static void check_model(const char *path) {
        _cleanup_(freep) float *before = NULL;
        char name[64];

        for (size_t i = 0; i < ELEMENTS(machines); i++) {
                const struct machine *m = &machines[i], *previous = i > 0 ? m - 1 : NULL;
                struct backend *backend;
                float *logits;
                size_t size;

                if (!m->isa)
                        assert_se(backend_ref_new(&backend) == 0);
                else
                        assert_se(backend_cpu_new(&backend, &(struct backend_cpu_options) {
                                .threads = m->threads, .isa = m->isa }) == 0);
                snprintf(name, sizeof(name), "%.40s, %s", m->isa ? backend_cpu_describe(backend) : "ref",
                         quant_info(m->kv_type)->name);
                logits = check_machine(backend, path, m->kv_type, name, &size);
                /* More threads: the same bits, too. */
                if (previous && previous->isa && strcmp(previous->isa, m->isa) == 0 &&
                    previous->kv_type == m->kv_type)
                        assert_se(memcmp(before, logits, size) == 0);
                free(before);
                before = logits;
                backend->ops->free(backend);
        }
}

static int visible(const struct dirent *entry) {
        return entry->d_name[0] != '.';
}

static unsigned check_folder(const char *root, const char *kind) {
        char folder[2048], path[4096];
        struct dirent **entries;
        unsigned checked = 0;
        int n;

        snprintf(folder, sizeof(folder), "%s/%s", root, kind);
        n = scandir(folder, &entries, visible, alphasort);
        for (int i = 0; i < n; i++) {
                bool rounded;

                snprintf(path, sizeof(path), "%s/%s/model.gguf", folder, entries[i]->d_name);
                if (fixture_model_check(path, &rounded, NULL) == FIXTURE_MODEL_RUNS) {
                        check_model(path);
                        checked++;
                }
                free(entries[i]);
        }
        if (n >= 0)
                free(entries);
        return checked;
}

TEST(logits_do_not_depend_on_neighbours_chunks_or_threads) {
        const char *root = getenv("MOED_FIXTURES");

        assert_se(check_folder(root ? root : REFERENCE_DATA, "models") > 0);
        assert_se(check_folder(root ? root : REFERENCE_DATA, "quant-models") > 0);
}

/* Kinds of attention that the committed models do not have. The last compresses 128 tokens to one. */
TEST(latent_sparse_and_compressed_attention_do_not_either) {
        static const char *const names[] = {
                "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa", "deepseek_v4",
        };
        const char *root = getenv("MOED_FIXTURES");
        unsigned checked = 0;
        char path[4096];

        for (size_t i = 0; i < ELEMENTS(names); i++) {
                snprintf(path, sizeof(path), "%s/models/%s/model.gguf", root ? root : SHARED_FIXTURES, names[i]);
                if (access(path, R_OK))
                        continue;
                prompt = strcmp(names[i], "deepseek_v4") ? PROMPT : PROMPT_LONG;
                check_model(path);
                checked++;
        }
        if (checked == 0)
                test_skip("no fixtures: set MOED_FIXTURES");
}

/* Windows of tokens that end within pages. */
TEST(experts_with_a_capacity_do_not_either) {
        prompt = PROMPT;
        check_model(tiny_write(&(struct tiny) { .capacity_factor = 1.0f, .capacity_window = 40 }));
        check_model(tiny_write(&(struct tiny) { .capacity_factor = 0.5f, .capacity_window = 7 }));
}

/* The path of a shared fixture's model; skips the test without. */
static const char *shared_model(const char *name) {
        static char path[4096];
        const char *root = getenv("MOED_FIXTURES");

        snprintf(path, sizeof(path), "%s/models/%s/model.gguf", root ? root : SHARED_FIXTURES, name);
        if (access(path, R_OK))
                test_skip("no fixtures: set MOED_FIXTURES");
        return path;
}

/* Feeds what is missing up to `end`, and keeps the last logits. */
static void feed_to(struct step *step, struct sequence *q, const struct subject *subject, uint32_t end,
                    float *logits, uint32_t vocab) {
        uint32_t at = sequence_length(q);
        struct step_part part = { .sequence = q, .tokens = subject->tokens + at,
                                  .allowances = subject->allowances + at, .budgets = subject->budgets + at,
                                  .count = end - at, .logits = true };

        assert_se(sequence_reserve(q, end - at) == 0);
        run(step, &part, 1);
        memcpy(logits, part.logits_out, vocab * sizeof(*logits));
}

TEST(a_compressed_sequence_is_cut_to_whole_pages_and_goes_on_as_if_never_longer) {
        static const uint32_t cuts[] = { 139, 128, 127, 97, 33, 31 };
        const char *path = shared_model("deepseek_v4");
        _cleanup_(freep) float *expected = NULL, *got = NULL;
        struct backend *backend;
        struct sequence *q;
        struct subject subject;
        struct model *model;
        struct step *step;
        uint32_t vocab;

        assert_se(backend_cpu_new(&backend, NULL) == 0);
        model = open_model(backend, path, backend->kv_type);
        vocab = model_info(model)->vocab;
        expected = calloc(vocab, sizeof(*expected));
        got = calloc(vocab, sizeof(*got));
        assert_se(expected && got && step_new(&step, model) == 0 && sequence_new(&q, model) == 0);
        make_subject(&subject, model_info(model), 7);
        feed_to(step, q, &subject, PROMPT_LONG, expected, vocab);
        for (size_t i = 0; i < ELEMENTS(cuts); i++) {
                sequence_truncate(q, cuts[i]);
                assert_se(sequence_length(q) == cuts[i] / KV_PAGE_TOKENS * KV_PAGE_TOKENS);
                feed_to(step, q, &subject, PROMPT_LONG, got, vocab);
                assert_se(memcmp(got, expected, vocab * sizeof(*got)) == 0);
        }
        sequence_free(q);
        step_free(step);
        model_free(model);
        backend->ops->free(backend);
}

/* `moe_layers` keep what is left of a budget as well. */
static void check_kv(const char *name, enum quant_type type, uint32_t moe_layers, uint64_t expected) {
        struct model_options options = { .kv_type = type, .kv_bytes = 32 << 20, .rows_max = 1 };
        struct backend *backend;
        struct model *model;

        assert_se(backend_ref_new(&backend) == 0);
        assert_se(model_open(&model, backend, shared_model(name), &options, NULL) == 0);
        assert_se(model_info(model)->kv_bytes_per_token == expected + moe_layers * 8);
        model_free(model);
        backend->ops->free(backend);
}

TEST(a_token_costs_its_latent_and_the_key_of_an_indexer) {
        /* Latent 32 and rope 8; three layers. */
        check_kv("deepseek_v3", QUANT_F16, 2, 3 * 40 * 2);
        check_kv("deepseek_v3", QUANT_BF16, 2, 3 * 40 * 2);
        check_kv("deepseek_v3", QUANT_F32, 2, 3 * 40 * 4);
        check_kv("deepseek_v32", QUANT_F16, 2, 3 * (40 + 64) * 2);
        /* The third of four layers has none. */
        check_kv("glm_moe_dsa", QUANT_F16, 3, 4 * 40 * 2 + 3 * 64 * 2);
        /* Keys of 32; two layers with an entry a page and sums of one, two with 8 entries a page and sums of
         * two, and the same for an indexer of 64. */
        check_kv("deepseek_v4", QUANT_F16, 5,
                 5 * 32 * 2 + 2 * (32 * 2 + 3 * 32 * 4) / 32 + 2 * ((32 + 64) * 8 * 2 + 2 * 3 * (32 + 64) * 4) / 32);
}
