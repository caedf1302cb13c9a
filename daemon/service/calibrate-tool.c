/* SPDX-License-Identifier: MIT */
#include "calibrate-tool.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "base/util.h"
#include "calibrate-print.h"
#include "calibrate.h"
#include "engine.h"
#include "gguf.h"
#include "tokenizer.h"
#include "tool.h"

enum { TOKEN_BYTES = 16 }; /* of the text that are read for a token: more than any has in the mean */

/* Address space for keys and values; of memory it takes what CALIBRATE_ROWS tokens need. */
#define KV_BYTES (UINT64_C(1) << 30)

struct calibrating {
        const struct calibrate_call *call;
        struct backend *backend;
        struct model *model;
        struct token_list tokens;
        struct calibration calibration;
        struct calibrate_report report;
};

static void calibrating_deinit(struct calibrating *c) {
        calibration_deinit(&c->calibration);
        token_list_deinit(&c->tokens);
        model_free(c->model);
        if (c->backend)
                c->backend->ops->free(c->backend);
}

/* `n` without the last character, if that is more than a byte: it may be cut. */
static size_t whole_characters(const char *text, size_t n) {
        while (n > 0 && (text[n - 1] & 0xc0) == 0x80)
                n--;
        return n > 0 && (text[n - 1] & 0x80) ? n - 1 : n;
}

/* The first `size` bytes, or what there is; where that ends within a character, without it. */
static int read_text(const char *path, size_t size, char **ret, size_t *ret_size) {
        _cleanup_(freep) char *text = malloc(size);
        _cleanup_(fclosep) FILE *f = NULL;
        size_t n;

        if (!text)
                return -ENOMEM;
        errno = 0;
        f = strcmp(path, "-") == 0 ? fdopen(dup(STDIN_FILENO), "r") : fopen(path, "re");
        if (!f)
                return -errno;
        n = fread(text, 1, size, f);
        if (ferror(f))
                return errno ? -errno : -EIO;
        *ret_size = n == size ? whole_characters(text, n) : n;
        *ret = steal_ptr(text);
        return 0;
}

static int read_tokens(struct calibrating *c, struct reason *reason) {
        const struct tokenizer *t = model_tokenizer(c->model);
        _cleanup_(freep) char *text = NULL;
        size_t size = 0;
        int r;

        if (!t)
                return reason_return(reason, ENGINE_E_MODEL, "%s: without a vocabulary no text can be read for it",
                                     c->call->model);
        r = read_text(c->call->text, (size_t) c->call->tokens * TOKEN_BYTES, &text, &size);
        if (r)
                return reason_return(reason, r, "%s: %s", c->call->text, strerror(-r));
        r = tokenizer_encode(t, text, size, TOKENIZE_BOS | (c->call->special ? TOKENIZE_SPECIAL : 0), &c->tokens);
        if (r > 0)
                return reason_return(reason, ENGINE_E_TOKEN, "%s: the model's vocabulary cannot express this text",
                                     c->call->text);
        c->tokens.n = MIN(c->tokens.n, (size_t) c->call->tokens);
        return r;
}

static int open_model(struct calibrating *c, struct reason *reason) {
        const struct backend_cpu_options cpu = { .threads = c->call->threads };
        struct model_options options = {
                .kv_bytes = KV_BYTES, .rows_max = CALIBRATE_ROWS, .context_max = CALIBRATE_WINDOW,
        };
        int r;

        r = backend_cpu_new(&c->backend, &cpu);
        if (r)
                return r;
        options.kv_type = c->backend->kv_type;
        r = model_open(&c->model, c->backend, c->call->model, &options, reason);
        if (!r && model_info(c->model)->moe_layers == 0)
                r = reason_return(reason, ENGINE_E_MODEL, "%s: no layer of this model has experts", c->call->model);
        return r;
}

static void show_progress(uint32_t tokens, uint32_t of, void *userdata) {
        if (isatty(STDERR_FILENO))
                fprintf(stderr, "\r%" PRIu32 " of %" PRIu32 " tokens%s", tokens, of, tokens == of ? "\n" : "");
}

static int run(struct calibrating *c, struct reason *reason) {
        struct calibrate_options options = {
                .predictor = c->call->predictor, .stop = &tool_stop, .progress = show_progress,
        };
        int r;

        r = open_model(c, reason);
        if (!r)
                r = read_tokens(c, reason);
        if (r)
                return r;
        r = calibrate(&c->calibration, &c->report, c->model, c->tokens.ids, (uint32_t) c->tokens.n, &options);
        if (r == CALIBRATE_E_TEXT)
                reason_set(reason, "%s: %zu tokens of text are too few to measure anything", c->call->text,
                           c->tokens.n);
        return r;
}

/* The file as it is on the disk, in all its parts. */
static int fingerprint(const char *path, uint64_t *ret, struct reason *reason) {
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        int r;

        r = gguf_open(&g, path, reason);
        if (!r)
                *ret = gguf_fingerprint(g);
        return r;
}

static int calibrate_into(struct calibrating *c, const char *out) {
        struct reason reason = REASON_INIT;
        uint64_t model;
        int r;

        if (!c->call->force && access(out, F_OK) == 0)
                return tool_failed(out, -EEXIST, &reason);
        r = fingerprint(c->call->model, &model, &reason);
        if (!r)
                r = run(c, &reason);
        if (r)
                return tool_failed(c->call->model, r, &reason);
        r = calibration_write(&c->calibration, model, out, c->call->force);
        if (r)
                return tool_failed(out, r, &reason);
        calibrate_print(&c->calibration, &c->report, out, c->call->json, stdout);
        if (fflush(stdout) == 0 && !ferror(stdout))
                return EX_OK;
        fprintf(stderr, "moed: cannot write to standard output: %s\n", strerror(errno));
        return EX_IOERR;
}

int calibrate_main(const struct calibrate_call *call) {
        _cleanup_(calibrating_deinit) struct calibrating c = {
                .call = call, .tokens = TOKEN_LIST_NULL, .calibration = CALIBRATION_NULL,
        };
        _cleanup_(freep) char *beside = calibration_path(call->model);

        if (!beside)
                return tool_failed(call->model, -ENOMEM, &(struct reason) REASON_INIT);
        tool_catch_signals();
        return calibrate_into(&c, call->out ? call->out : beside);
}
