/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "base/util.h"
#include "inspect.h"
#include "utf8.h"

/* A line for people, but for what came from the file: a terminal's cursor must not be moved by it. */
static void line(FILE *out, const char *title, const char *format, ...) _printf_(3, 4);
static void line(FILE *out, const char *title, const char *format, ...) {
        struct reason clean;
        char text[400];
        va_list args;

        va_start(args, format);
        vsnprintf(text, sizeof(text), format, args);
        va_end(args);
        reason_set(&clean, "%s", text);
        fprintf(out, "%-14s %s\n", title, clean.text);
}

static const char *bytes_text(char ret[static 24], uint64_t bytes) {
        static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
        double value = (double) bytes;
        size_t unit = 0;

        while (value >= 1000 && unit + 1 < ELEMENTS(units)) {
                value /= 1024;
                unit++;
        }
        snprintf(ret, 24, unit == 0 || value >= 100 ? "%.0f %s" : "%.1f %s", value, units[unit]);
        return ret;
}

/* Text of the file, as much as a line holds. */
#define TEXT(_s) (int) MIN((_s).size, UINT64_C(120)), (_s).data ? (_s).data : ""

static void print_tensors(const struct inspection *i, FILE *out) {
        char a[24], b[24];

        line(out, "size", "%s, of which tensors %s; %.*f M parameters", bytes_text(a, i->file_bytes),
             bytes_text(b, i->weight_bytes), i->parameters < 100000000 ? 1 : 0, (double) i->parameters / 1e6);
        for (size_t t = 0; t < i->n_types; t++) {
                const struct inspect_type *type = &i->types[t];

                line(out, t == 0 ? "tensors" : "", "%-8s %5" PRIu64 " tensors  %s", type->name, type->tensors,
                     bytes_text(a, type->bytes));
        }
}

static void print_identity(const struct inspection *i, FILE *out) {
        line(out, "file", "%s", i->path);
        line(out, "name", "%.*s", TEXT(i->name));
        line(out, "architecture", "%.*s", TEXT(i->architecture));
        print_tensors(i, out);
        line(out, "layers", "%" PRIu64 ", of %" PRIu64 " values", i->layers, i->hidden);
        if (i->experts > 0)
                line(out, "experts", "%" PRIu64 " of %" PRIu64 " used for each token, %" PRIu64 " shared",
                     i->experts_used, i->experts, i->experts_shared);
        if (i->capacity_window > 0)
                line(out, "capacity", "%g times its share of each %" PRIu64 " tokens for every expert",
                     (double) i->capacity_factor, i->capacity_window);
        line(out, "context", "%" PRIu64 " tokens", i->context);
        line(out, "tokenizer", "%.*s%s%.*s, %" PRIu64 " tokens", TEXT(i->tokenizer),
             i->pre_tokenizer.size ? ", " : "", TEXT(i->pre_tokenizer), i->vocabulary);
        line(out, "chat template", "%s",
             strcmp(i->chat_template, "unknown") == 0 ? "unknown: conversations are given as plain text"
             : i->chat_template[0]                    ? i->chat_template
                                                      : "none: conversations are given as plain text");
}

static const char *fits(const struct inspection *i) {
        if (i->memory_total == 0)
                return "unknown";
        if (inspection_total(i) <= i->memory_available)
                return "yes";
        return inspection_total(i) <= i->memory_total ? "crowded" : "no";
}

static void print_forecast(const struct inspection *i, FILE *out) {
        const struct model_forecast *f = &i->forecast;
        char a[24], b[24];

        line(out, "weights", "%s, mapped from the file", bytes_text(a, f->file_bytes));
        line(out, "KV", "%s per 1,000 tokens as %s, %s for a context of %u",
             bytes_text(a, f->kv_token * 1000), i->kv_type, bytes_text(b, inspection_kv(i)), f->context);
        line(out, "scratch", "%s for %u rows at once, and %s of tables", bytes_text(a, f->step + f->scratch),
             MAX(f->rows, f->long_rows), bytes_text(b, f->tables));
        line(out, "memory", "%s in all, the daemon's own %s included", bytes_text(a, inspection_total(i)),
             bytes_text(b, i->program));
}

static void print_machine(const struct inspection *i, FILE *out) {
        const char *answer = fits(i);
        char a[24], b[24];

        if (strcmp(answer, "yes") == 0)
                line(out, "fits", "yes: %s are available", bytes_text(a, i->memory_available));
        else if (strcmp(answer, "crowded") == 0)
                line(out, "fits", "not now: %s of %s are available", bytes_text(a, i->memory_available),
                     bytes_text(b, i->memory_total));
        else if (strcmp(answer, "no") == 0)
                line(out, "fits",
                     "no: this machine has %s; weights would be read from the disk again and again",
                     bytes_text(a, i->memory_total));
        if (i->bandwidth > 0)
                line(out, "speed",
                     "at most about %.3g tokens/s, an estimate: a token alone reads %s of weights, and "
                     "memory "
                     "gives %s/s now",
                     inspection_speed(i), bytes_text(a, i->forecast.token_weights),
                     bytes_text(b, i->bandwidth));
}

void inspection_print(const struct inspection *i, FILE *out) {
        print_identity(i, out);
        line(out, "supported", "%s%s", i->supported ? "yes" : "no: ", i->supported ? "" : i->why.text);
        if (!i->supported)
                return;
        print_forecast(i, out);
        print_machine(i, out);
}

static void json_text(FILE *out, const char *text, size_t size) {
        putc('"', out);
        for (size_t at = 0, length; at < size; at += length) {
                unsigned char c = (unsigned char) text[at];
                uint32_t code;

                length = utf8_decode(text + at, size - at, &code);
                if (length == 0) {
                        length = 1;
                        fputs("\\ufffd", out);
                } else if (c == '"' || c == '\\') {
                        fprintf(out, "\\%c", c);
                } else if (c < ' ') {
                        fprintf(out, "\\u%04x", c);
                } else {
                        fwrite(text + at, 1, length, out);
                }
        }
        putc('"', out);
}

static void string_pair(FILE *out, const char *key, const char *text, size_t size) {
        fprintf(out, ",\"%s\":", key);
        json_text(out, text ? text : "", text ? size : 0);
}

static void number_pair(FILE *out, const char *key, uint64_t value) {
        fprintf(out, ",\"%s\":%" PRIu64, key, value);
}

static void json_identity(const struct inspection *i, FILE *out) {
        string_pair(out, "name", i->name.data, i->name.size);
        string_pair(out, "architecture", i->architecture.data, i->architecture.size);
        number_pair(out, "file_bytes", i->file_bytes);
        number_pair(out, "weight_bytes", i->weight_bytes);
        number_pair(out, "parameters", i->parameters);
        number_pair(out, "layers", i->layers);
        number_pair(out, "hidden", i->hidden);
        number_pair(out, "context", i->context);
        number_pair(out, "experts", i->experts);
        number_pair(out, "experts_used", i->experts_used);
        number_pair(out, "experts_shared", i->experts_shared);
        fprintf(out, ",\"expert_capacity_factor\":%g", (double) i->capacity_factor);
        number_pair(out, "expert_capacity_window", i->capacity_window);
        string_pair(out, "tokenizer", i->tokenizer.data, i->tokenizer.size);
        string_pair(out, "pre_tokenizer", i->pre_tokenizer.data, i->pre_tokenizer.size);
        number_pair(out, "vocabulary", i->vocabulary);
        string_pair(out, "chat_template", i->chat_template, strlen(i->chat_template));
        fputs(",\"types\":[", out);
        for (size_t t = 0; t < i->n_types; t++) {
                fprintf(out, "%s{\"type\":\"%s\"", t ? "," : "", i->types[t].name);
                number_pair(out, "tensors", i->types[t].tensors);
                number_pair(out, "parameters", i->types[t].values);
                number_pair(out, "bytes", i->types[t].bytes);
                putc('}', out);
        }
        putc(']', out);
}

static void json_forecast(const struct inspection *i, FILE *out) {
        const struct model_forecast *f = &i->forecast;

        fprintf(out, ",\"forecast\":{\"kv_type\":\"%s\"", i->kv_type);
        number_pair(out, "context", f->context);
        number_pair(out, "rows", f->rows);
        number_pair(out, "long_rows", f->long_rows);
        number_pair(out, "weights", f->file_bytes);
        number_pair(out, "kv_per_1000_tokens", f->kv_token * 1000);
        number_pair(out, "kv", inspection_kv(i));
        number_pair(out, "scratch", f->step + f->scratch);
        number_pair(out, "tables", f->tables);
        number_pair(out, "program", i->program);
        number_pair(out, "total", inspection_total(i));
        fprintf(out, "},\"machine\":{\"fits\":\"%s\"", fits(i));
        number_pair(out, "memory_total", i->memory_total);
        number_pair(out, "memory_available", i->memory_available);
        number_pair(out, "bytes_read_per_token", f->token_weights);
        number_pair(out, "bytes_per_second", i->bandwidth);
        fprintf(out, ",\"tokens_per_second_estimate\":%.3f}", inspection_speed(i));
}

void inspection_print_json(const struct inspection *i, FILE *out) {
        fputs("{\"file\":", out);
        json_text(out, i->path, strlen(i->path));
        json_identity(i, out);
        fprintf(out, ",\"supported\":%s", i->supported ? "true" : "false");
        string_pair(out, "why_not", i->why.text, i->supported ? 0 : strlen(i->why.text));
        if (i->supported)
                json_forecast(i, out);
        fputs("}\n", out);
}
