/* SPDX-License-Identifier: MIT */
#include "inspect.h"
#include "long-pass.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sysexits.h>

#include "base/util.h"
#include "chat.h"

static void inspection_deinit(struct inspection *i) {
        gguf_free(i->gguf);
}

static void read_text(const struct gguf *g, const char *key, struct gguf_string *ret) {
        (void) gguf_get_string(g, key, ret, NULL);
}

/* `ARCHITECTURE.suffix`, also of architectures that are unknown here. */
static const char *key_of(const struct inspection *i, const char *suffix, char key[static 160]) {
        snprintf(key, 160, "%.*s.%s", (int) MIN(i->architecture.size, UINT64_C(64)), i->architecture.data, suffix);
        return key;
}

static uint64_t read_number(const struct inspection *i, const char *suffix) {
        uint64_t value = 0;
        char key[160];

        (void) gguf_get_u64(i->gguf, key_of(i, suffix, key), &value, NULL);
        return value;
}

static float read_capacity(const struct inspection *i) {
        float value = 0.0f;
        char key[160];

        (void) gguf_get_f32(i->gguf, key_of(i, "expert_capacity_factor", key), &value, NULL);
        return isfinite(value) ? value : 0.0f;
}

static struct inspect_type *type_of(struct inspection *i, uint32_t number) {
        const char *name = gguf_tensor_type(number)->name;

        for (size_t t = 0; t < i->n_types; t++)
                if (i->types[t].name == name)
                        return &i->types[t];
        i->types[i->n_types] = (struct inspect_type){.name = name};
        return &i->types[i->n_types++];
}

static void read_tensors(struct inspection *i) {
        for (size_t n = 0; n < gguf_n_files(i->gguf); n++)
                i->file_bytes += gguf_file(i->gguf, n)->size;
        for (size_t n = 0; n < gguf_n_tensors(i->gguf); n++) {
                const struct gguf_tensor *t = gguf_tensor_at(i->gguf, n);
                uint64_t values = t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
                struct inspect_type *type = type_of(i, t->type);

                type->tensors++;
                type->values += values;
                type->bytes += t->size;
                i->parameters += values;
                i->weight_bytes += t->size;
        }
}

static void read_chat_template(struct inspection *i) {
        const struct chat_template *family;
        struct gguf_string text;

        i->chat_template = "";
        if (gguf_get_string(i->gguf, "tokenizer.chat_template", &text, NULL))
                return;
        family = chat_template_detect(text.data, text.size);
        i->chat_template = family ? chat_template_name(family) : "unknown";
}

static void read_metadata(struct inspection *i) {
        struct gguf_array tokens;

        read_text(i->gguf, "general.architecture", &i->architecture);
        read_text(i->gguf, "general.name", &i->name);
        read_text(i->gguf, "tokenizer.ggml.model", &i->tokenizer);
        read_text(i->gguf, "tokenizer.ggml.pre", &i->pre_tokenizer);
        i->layers = read_number(i, "block_count");
        i->hidden = read_number(i, "embedding_length");
        i->context = read_number(i, "context_length");
        i->experts = read_number(i, "expert_count");
        i->experts_used = read_number(i, "expert_used_count");
        i->experts_shared = read_number(i, "expert_shared_count");
        i->capacity_factor = read_capacity(i);
        i->capacity_window = read_number(i, "expert_capacity_window");
        if (gguf_get_array(i->gguf, "tokenizer.ggml.tokens", &tokens, NULL) == 0)
                i->vocabulary = tokens.n;
        read_chat_template(i);
        read_tensors(i);
}

/* What this process has now; later, what the daemon's program has beside its models. */
static uint64_t resident_bytes(void) {
        _cleanup_(fclosep) FILE *f = fopen("/proc/self/statm", "re");
        uint64_t pages = 0;

        if (!f || fscanf(f, "%*u %" SCNu64, &pages) != 1)
                return 0;
        return pages * (uint64_t) sysconf(_SC_PAGESIZE);
}

static void read_machine(struct inspection *i, uint32_t threads) {
        _cleanup_(fclosep) FILE *f = fopen("/proc/meminfo", "re");
        char line[128];

        while (f && fgets(line, sizeof(line), f))
                if (sscanf(line, "MemTotal: %" SCNu64, &i->memory_total) == 1)
                        i->memory_total *= 1024;
        i->memory_available = backend_cpu_memory();
        if (backend_cpu_bandwidth(threads, &i->bandwidth))
                i->bandwidth = 0;
}

static int forecast(struct inspection *i, const struct config *config, const char *path) {
        struct forecast_options options = {
                .model =
                        {
                                .kv_type = config_kv_quant(config->kv_type, backend_cpu_kv_type()),
                                .kv_bytes = config->kv_memory,
                                .rows_max = config->rows_max,
                                .context_max = config->context_max,
                                .context_extend = config->context_extend,
                        },
                .threads = config->threads,
                .rows = config->rows_max,
                .long_steps = config->long_rows_max > config->rows_max ? LONG_PASSES : 0,
                .long_rows = config->long_rows_max,
                .long_bytes = LONG_PASS_BYTES,
        };
        int r;

        i->kv_type = quant_info(options.model.kv_type)->name;
        r = model_forecast(&i->forecast, path, &options, &i->why);
        i->supported = r == 0;
        return r < 0 ? r : 0;
}

uint64_t inspection_kv(const struct inspection *i) {
        return i->forecast.kv_token * i->forecast.context;
}

uint64_t inspection_total(const struct inspection *i) {
        const struct model_forecast *f = &i->forecast;

        return i->program + f->file_bytes + f->tables + inspection_kv(i) + f->step + f->scratch;
}

double inspection_speed(const struct inspection *i) {
        return i->forecast.token_weights ? (double) i->bandwidth / (double) i->forecast.token_weights : 0.0;
}

static int refuse(int error, const char *path, const struct reason *reason) {
        if (reason->text[0])
                fprintf(stderr, "moed: %s\n", reason->text);
        else
                fprintf(stderr, "moed: %s: %s\n", path, strerror(-error));
        switch (error) {
        case -ENOENT:
        case -ENOTDIR:
        case -EISDIR:
                return EX_NOINPUT;
        case -EACCES:
        case -EPERM:
                return EX_NOPERM;
        default:
                return error < 0 ? EX_OSERR : EX_DATAERR;
        }
}

int inspect_main(const struct config *config, const char *path, bool json) {
        _cleanup_(inspection_deinit) struct inspection i = INSPECTION_NULL;
        struct reason reason = REASON_INIT;
        int r;

        i.program = resident_bytes();
        i.path = path;
        r = gguf_open(&i.gguf, path, &reason);
        if (r)
                return refuse(r, path, &reason);
        read_metadata(&i);
        r = forecast(&i, config, path);
        if (r < 0)
                return refuse(r, path, &i.why);
        if (i.supported)
                read_machine(&i, config->threads);
        if (json)
                inspection_print_json(&i, stdout);
        else
                inspection_print(&i, stdout);
        if (fflush(stdout) == 0 && !ferror(stdout))
                return EX_OK;
        fprintf(stderr, "moed: cannot write to standard output: %s\n", strerror(errno));
        return EX_IOERR;
}
