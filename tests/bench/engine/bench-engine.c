/* SPDX-License-Identifier: MIT */
/* Whole forward passes of a model file, by name: see usage(). A pass is all that step_begin() and
 * step_advance() do; the model is open and its weights are in memory. Tokens are random, of a fixed seed,
 * others in every stream. The bytes of a pass are those of the weights that it touches: of experts those that
 * its rows chose, each once. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "cases.h"
#include "engine.h"
#include "model-file.h"

enum {
        CASES_MAX = 64,
        STREAMS_MAX = 256,
        ROWS_MAX = 512,   /* of a pass: what the daemon has by default, too */
        CONTEXT = 32,     /* tokens before what is measured, where a name says no other */
        KV_TOKENS = 8192, /* of all cases together */
        DECODED = 16,     /* passes of a run */
};

/* What forward passes read and multiply of a model's weights, by its tensors. */
struct weights {
        uint64_t always_bytes, always_products; /* the last: of a row */
        uint64_t head_bytes, embedding_row;     /* of a pass that ends in logits; of a row */
        struct weights_expert {
                uint64_t bytes, products;
        } * experts; /* [layers] of one of them */
};

struct bench_case {
        char name[32];
        bool prefill;
        uint32_t streams, tokens, context, experts; /* tokens: of a stream in a run */
        struct sequence **sequences;                /* [streams] */
        struct step_part *parts;                    /* [streams] */
        int32_t *ids;                               /* [streams][context + tokens] */
        uint32_t *allowances;                       /* [context + tokens] */
        double bytes, products;                     /* of a run, once it has been looked at */
};

struct bench {
        struct backend *backend;
        struct model_file *file;
        struct model *model;
        struct step *step;
        const struct model_info *info;
        struct weights weights;
        uint32_t rows_max;
        struct bench_case cases[CASES_MAX];
        unsigned n_cases;
};

/* --- weights
 * ------------------------------------------------------------------------------------------------ */

static uint64_t products_of(const struct gguf_tensor *t) {
        return t->n_dims > 1 ? t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3] : 0;
}

static int weights_init(struct weights *w, const struct model_file *file) {
        static const enum arch_layer_tensor of_experts[] = {ARCH_FFN_GATE_EXPS, ARCH_FFN_UP_EXPS,
                                                            ARCH_FFN_DOWN_EXPS};
        const struct arch_model *arch = &file->arch;
        const struct gguf_tensor *embedding = arch->tensors[ARCH_TOKEN_EMBD],
                                 *head = arch->tensors[ARCH_OUTPUT];

        w->experts = calloc(arch->params.layers, sizeof(*w->experts));
        if (!w->experts)
                return -ENOMEM;
        for (size_t i = 0; i < gguf_n_tensors(file->gguf); i++) {
                const struct gguf_tensor *t = gguf_tensor_at(file->gguf, i);

                if (t != embedding && t != head) {
                        w->always_bytes += t->size;
                        w->always_products += products_of(t);
                }
        }
        w->head_bytes = head->size;
        w->embedding_row = embedding->size / embedding->dims[1];
        for (uint32_t l = 0; l < arch->params.layers; l++)
                for (unsigned i = 0; i < ELEMENTS(of_experts); i++) {
                        const struct gguf_tensor *t = arch->layers[l].tensors[of_experts[i]];

                        if (!t)
                                continue;
                        w->always_bytes -= t->size;
                        w->always_products -= products_of(t);
                        w->experts[l].bytes += t->size / arch->params.experts;
                        w->experts[l].products += products_of(t) / arch->params.experts;
                }
        return 0;
}

/* Adds up what the layers of a pass choose. */
struct observer {
        const struct weights *weights;
        uint32_t experts;
        bool *seen; /* [experts] */
        double bytes, products;
};

static void observe_layer(const struct step_view *view, void *context) {
        struct observer *o = context;
        const struct weights_expert *expert = &o->weights->experts[view->layer];

        memset(o->seen, 0, o->experts * sizeof(*o->seen));
        for (uint32_t row = 0; view->k > 0 && row < view->rows; row++)
                for (int32_t j = 0; j < view->expert_counts[row]; j++) {
                        bool *seen = &o->seen[view->expert_ids[row * view->k + (uint32_t) j]];

                        o->bytes += *seen ? 0.0 : (double) expert->bytes;
                        o->products += (double) expert->products;
                        *seen = true;
                }
}

/* --- passes
 * ------------------------------------------------------------------------------------------------- */

static int pass(struct bench *b, struct step_part *parts, uint32_t n) {
        int r = step_begin(b->step, parts, n);

        while (r == 0) {
                r = step_advance(b->step);
                if (r <= 0)
                        return r;
                r = 0;
        }
        return r;
}

/* The next tokens of a stream; at most `most`, none of them past `end`. */
static struct step_part next_part(const struct bench_case *c, uint32_t stream, uint32_t most, uint32_t end) {
        uint32_t at = sequence_length(c->sequences[stream]);

        return (struct step_part){
                .sequence = c->sequences[stream],
                .tokens = c->ids + (size_t) stream * (c->context + c->tokens) + at,
                .allowances = c->allowances + at,
                .count = MIN(most, end - at),
        };
}

static int feed(struct bench *b, struct bench_case *c, uint32_t stream, uint32_t end) {
        int r = 0;

        while (r == 0 && sequence_length(c->sequences[stream]) < end) {
                struct step_part part = next_part(c, stream, b->rows_max, end);

                part.prompt = part.count;
                part.logits = sequence_length(c->sequences[stream]) + part.count == end;
                r = pass(b, &part, 1);
        }
        return r;
}

static int decode(struct bench *b, struct bench_case *c) {
        uint32_t end = c->context + c->tokens;
        int r = 0;

        for (uint32_t i = 0; r == 0 && i < c->tokens; i++) {
                for (uint32_t s = 0; s < c->streams; s++) {
                        c->parts[s] = next_part(c, s, 1, end);
                        c->parts[s].logits = 1;
                }
                r = pass(b, c->parts, c->streams);
        }
        return r;
}

static int run_passes(struct bench *b, struct bench_case *c) {
        return c->prefill ? feed(b, c, 0, c->context + c->tokens) : decode(b, c);
}

/* Back to where a run begins. */
static int rewind_case(struct bench *b, struct bench_case *c) {
        int r = 0;

        for (uint32_t s = 0; r == 0 && s < c->streams; s++) {
                sequence_truncate(c->sequences[s], c->context);
                r = sequence_reserve(c->sequences[s],
                                     c->context + c->tokens - sequence_length(c->sequences[s]));
                if (!r)
                        r = feed(b, c, s, c->context);
        }
        return r;
}

/* One run that is not timed: what it touches. */
static int look(struct bench *b, struct bench_case *c) {
        uint32_t rows = c->streams * c->tokens,
                 passes = c->prefill ? DIV_ROUND_UP(c->tokens, b->rows_max) : c->tokens;
        struct observer o = {.weights = &b->weights, .experts = MAX(b->info->experts, UINT32_C(1))};
        struct step_observer observer = {.layer = observe_layer, .context = &o};
        int r;

        o.seen = calloc(o.experts, sizeof(*o.seen));
        if (!o.seen)
                return -ENOMEM;
        r = step_observe(b->step, &observer);
        if (!r)
                r = run_passes(b, c);
        step_observe(b->step, NULL);
        free(o.seen);
        c->products = o.products + (double) b->weights.always_products * rows;
        c->bytes = o.bytes + (double) b->weights.always_bytes * passes +
                   (double) b->weights.embedding_row * rows +
                   (double) b->weights.head_bytes * (c->prefill ? 1 : passes);
        return r ? r : rewind_case(b, c);
}

/* --- cases
 * -------------------------------------------------------------------------------------------------- */

/* KIND-N[@CONTEXT][/EXPERTS] */
static bool parse_name(const struct bench *b, const char *name, struct bench_case *c) {
        unsigned n, context = 0, experts = b->info->experts_used;
        char kind[8], rest[24] = "", end;

        if (strlen(name) >= sizeof(c->name) || sscanf(name, "%7[a-z]-%u%23s", kind, &n, rest) < 2)
                return false;
        *c = (struct bench_case){.prefill = strcmp(kind, "prefill") == 0};
        if (!c->prefill && strcmp(kind, "decode") != 0)
                return false;
        if (!c->prefill)
                context = CONTEXT;
        if (*rest && sscanf(rest, "@%u%c", &context, &end) != 1 &&
            sscanf(rest, "/%u%c", &experts, &end) != 1 &&
            sscanf(rest, "@%u/%u%c", &context, &experts, &end) != 2)
                return false;
        strcpy(c->name, name);
        c->streams = c->prefill ? 1 : n;
        c->tokens = c->prefill ? n : DECODED;
        c->context = context;
        c->experts = experts;
        return n > 0 && c->streams <= STREAMS_MAX && c->streams <= b->rows_max &&
               context < b->info->context && c->tokens <= b->info->context - context;
}

/* Ordinary tokens: neither the first nor the last quarter of the vocabulary. */
static void draw_tokens(const struct bench *b, struct bench_case *c) {
        uint32_t low = b->info->vocab / 4, range = MAX(b->info->vocab / 2, UINT32_C(1)), state = 1;

        for (size_t i = 0; i < (size_t) c->streams * (c->context + c->tokens); i++) {
                state = state * 1664525u + 1013904223u;
                c->ids[i] = (int32_t) (low + (state >> 8) % range);
        }
        for (uint32_t i = 0; i < c->context + c->tokens; i++)
                c->allowances[i] = b->info->moe_layers * MIN(c->experts, b->info->experts_used);
}

static int init_case(struct bench *b, struct bench_case *c) {
        size_t length = c->context + c->tokens;
        int r = 0;

        c->sequences = calloc(c->streams, sizeof(*c->sequences));
        c->parts = calloc(c->streams, sizeof(*c->parts));
        c->ids = calloc(c->streams * length, sizeof(*c->ids));
        c->allowances = calloc(length, sizeof(*c->allowances));
        if (!c->sequences || !c->parts || !c->ids || !c->allowances)
                return -ENOMEM;
        draw_tokens(b, c);
        for (uint32_t s = 0; r == 0 && s < c->streams; s++)
                r = sequence_new(&c->sequences[s], b->model);
        if (!r)
                r = rewind_case(b, c);
        return r ? r : look(b, c);
}

static void deinit_case(struct bench_case *c) {
        for (uint32_t s = 0; c->sequences && s < c->streams; s++)
                sequence_free(c->sequences[s]);
        free(c->sequences);
        free(c->parts);
        free(c->ids);
        free(c->allowances);
}

static int find_case(struct bench *b, const char *name, struct bench_case **ret, struct reason *reason) {
        struct bench_case *c = &b->cases[b->n_cases];
        int r;

        for (unsigned i = 0; i < b->n_cases; i++)
                if (strcmp(b->cases[i].name, name) == 0) {
                        *ret = &b->cases[i];
                        return 0;
                }
        if (b->n_cases == CASES_MAX || !parse_name(b, name, c))
                return reason_return(reason, CASE_E_NONE, "'%s' is no case of this model", name);
        r = init_case(b, c);
        if (r)
                deinit_case(c);
        if (r == ENGINE_E_PAGES || r == ENGINE_E_CONTEXT)
                return reason_return(reason, CASE_E_NONE,
                                     "there is no room for its keys and values: see --kv-tokens");
        if (r)
                return r < 0 ? r : -EINVAL;
        b->n_cases++;
        *ret = c;
        return 0;
}

static int run(void *context, const char *name, struct case_run *ret, struct reason *reason) {
        struct bench *b = context;
        struct bench_case *c;
        uint64_t begin;
        int r;

        r = find_case(b, name, &c, reason);
        if (r)
                return r;
        begin = now_nsec();
        r = run_passes(b, c);
        *ret = (struct case_run){
                .seconds = (double) (now_nsec() - begin) / NSEC_PER_SEC,
                .tokens = c->streams * c->tokens,
                .bytes = c->bytes,
                .products = c->products,
        };
        return r ? r : rewind_case(b, c);
}

/* --- the model
 * ---------------------------------------------------------------------------------------------- */

static int bench_open(struct bench *b, const char *path, uint32_t kv_tokens, struct reason *reason) {
        struct model_options options = {.kv_bytes = UINT64_C(1) << 30, .rows_max = b->rows_max};
        struct model_file_enlarging enlarging = {0};
        _Atomic bool stop = false;
        int r;

        r = backend_cpu_new(&b->backend, &(struct backend_cpu_options){0});
        if (!r)
                r = model_file_open(&b->file, path, reason);
        if (!r)
                r = model_file_fetch(b->file, &stop);
        if (!r)
                r = weights_init(&b->weights, b->file);
        if (r)
                return r;
        options.kv_type = b->backend->kv_type;
        /* A first look says what a token takes. */
        r = model_new(&b->model, b->backend, b->file, &options, reason);
        if (r)
                return r;
        options.kv_bytes = model_info(b->model)->kv_bytes_per_token * kv_tokens;
        model_free(b->model);
        b->model = NULL;
        r = model_new(&b->model, b->backend, b->file, &options, reason);
        if (r)
                return r;
        /* Pages as a daemon has them after a while, however the file came into the page cache. */
        while (model_file_enlarge_part(b->file, &enlarging) > 0)
                ;
        b->info = model_info(b->model);
        return step_new(&b->step, b->model);
}

static void bench_close(struct bench *b) {
        for (unsigned i = 0; i < b->n_cases; i++)
                deinit_case(&b->cases[i]);
        step_free(b->step);
        model_free(b->model);
        model_file_unref(b->file);
        backend_freep(&b->backend);
        free(b->weights.experts);
}

static void usage(void) {
        printf("usage: bench-engine [OPTION...] FILE.gguf CASE...\n"
               CASE_USAGE_RUN
               "  --rows N        of a pass at most (default: %d)\n"
               "  --kv-tokens N   room for keys and values of all cases together (default: %d)\n"
               CASE_USAGE_READ
               "Cases, with @T in the end behind T tokens (default: %d to decode, 0 to prefill), then with "
               "/E with E experts:\n"
               "  decode-N        N streams, %d tokens each\n"
               "  prefill-N       a prompt of N tokens\n"
               "  limits          the machine's\n",
               ROWS_MAX, KV_TOKENS, CONTEXT, DECODED);
}

int main(int argc, char **argv) {
        struct bench b = {.rows_max = ROWS_MAX};
        uint32_t kv_tokens = KV_TOKENS;
        struct case_program program = {
                .run = run,
                .context = &b,
                .usage = usage,
                .options = {{"rows", &b.rows_max, 1, 4096}, {"kv-tokens", &kv_tokens, 0, UINT32_MAX}},
                .operands = 1,
        };
        struct reason reason = REASON_INIT;
        int r, status;

        if (!cases_parse(&program, &argc, &argv, &status))
                return status;
        r = bench_open(&b, argv[0], kv_tokens, &reason);
        if (r)
                fprintf(stderr, "bench-engine: %s: %s\n", argv[0], r < 0 ? strerror(-r) : reason.text);
        status = r ? EXIT_FAILURE : cases_main(&program, argv + 1, argc - 1);
        bench_close(&b);
        return status;
}
