/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "reference.h"

enum { DOT_ROWS = 24, DOT_COLS = 512, DOT_INPUTS = 8 };

/* Values that the definition of the format gives, compared bit by bit. */
static void check_values(struct reference *r, const char *path, const char *type,
                         const struct quant_info *info, const json_t *entry) {
        size_t blocks = (size_t) json_int(entry, "blocks", 0), n = blocks * info->block_values;
        _cleanup_(freep) uint32_t *expected = NULL, *got = NULL;
        _cleanup_(freep) void *raw = NULL;
        char file[64], name[80];
        size_t wrong = 0;

        snprintf(name, sizeof(name), "blocks/%s", type);
        snprintf(file, sizeof(file), "%s.bin", type);
        raw = file_read_exactly(path, file, blocks * info->block_bytes);
        snprintf(file, sizeof(file), "%s.f32", type);
        expected = file_read_exactly(path, file, n * sizeof(float));
        got = calloc(n, sizeof(*got));
        if (!raw || !expected || !got || n == 0 ||
            json_int(entry, "block_values", 0) != info->block_values ||
            json_int(entry, "block_bytes", 0) != info->block_bytes) {
                say(r, false, name, "files or sizes are not as index.json says");
                return;
        }
        info->dequantize((float *) got, raw, n);
        for (size_t i = 0; i < n; i++)
                wrong += got[i] != expected[i];
        say(r, wrong == 0, name, "%zu of %zu values equal", n - wrong, n);
}

static double norm(const float *x, size_t n) {
        double sum = 0.0;

        for (size_t i = 0; i < n; i++)
                sum += (double) x[i] * x[i];
        return sqrt(sum);
}

/* y = x Wᵀ on the backend. */
static int multiply(struct backend *b, enum quant_type type, const void *w, size_t w_size, const float *x,
                    float *y) {
        struct buffer *weights = NULL, *memory = NULL;
        struct stream *stream = NULL;
        struct device_ptr in, out;
        int r;

        r = b->ops->buffer_import(b, w, w_size, &weights);
        if (!r)
                r = b->ops->buffer_new(b, DOT_INPUTS * (DOT_COLS + DOT_ROWS) * sizeof(float), true, &memory);
        if (!r)
                r = b->ops->stream_new(b, &stream);
        if (r)
                goto finish;
        in = b->ops->buffer_address(memory);
        out = device_offset(in, DOT_INPUTS * DOT_COLS * sizeof(float));
        r = b->ops->upload(stream, in, x, DOT_INPUTS * DOT_COLS * sizeof(float));
        if (!r)
                r = b->ops->matmul(stream, &(struct op_matmul) {
                        .n = DOT_INPUTS, .x = in, .x_stride = DOT_COLS, .count = 1,
                        .out[0] = {
                                .w = { b->ops->buffer_address(weights), type, DOT_ROWS, DOT_COLS, 1 },
                                .y = out, .y_stride = DOT_ROWS,
                        },
                });
        if (!r)
                r = b->ops->download(stream, y, out, DOT_INPUTS * DOT_ROWS * sizeof(float));
        if (!r)
                r = b->ops->stream_sync(stream);
finish:
        if (stream)
                b->ops->stream_free(stream);
        b->ops->buffer_free(memory);
        b->ops->buffer_free(weights);
        return r;
}

/* The largest error over |w||x|. */
static double dot_error(const float *w, const float *x, const float *got, const float *expected) {
        double worst = 0.0;

        for (size_t t = 0; t < DOT_INPUTS; t++)
                for (size_t i = 0; i < DOT_ROWS; i++) {
                        double scale = norm(w + i * DOT_COLS, DOT_COLS) * norm(x + t * DOT_COLS, DOT_COLS);
                        double error = fabs((double) got[t * DOT_ROWS + i] - expected[t * DOT_ROWS + i]);

                        /* A zero row must give zero. */
                        worst = fmax(worst, error == 0.0 ? 0.0 : error / scale);
                }
        return worst;
}

static void check_dot(struct reference *r, const char *path, const char *type, const struct quant_info *info,
                      uint32_t number) {
        size_t size = DOT_ROWS * quant_row_bytes(info, DOT_COLS);
        _cleanup_(freep) float *x = NULL, *expected = NULL, *w = NULL;
        _cleanup_(freep) void *raw = NULL;
        float got[DOT_INPUTS * DOT_ROWS];
        double error, tolerance = info->block_values == 1 ? 1e-5 : 1e-2;
        char file[64], name[80];
        int error_code;

        snprintf(name, sizeof(name), "blocks/dot/%s", type);
        snprintf(file, sizeof(file), "dot/%s.bin", type);
        raw = file_read_exactly(path, file, size);
        if (!raw)
                return;
        snprintf(file, sizeof(file), "dot/%s.f32", type);
        expected = file_read_exactly(path, file, sizeof(got));
        x = file_read_exactly(path, "dot/activations.f32", DOT_INPUTS * DOT_COLS * sizeof(float));
        w = calloc(DOT_ROWS * DOT_COLS, sizeof(float));
        if (!expected || !x || !w) {
                say(r, false, name, "%s or activations.f32 cannot be read, or has another size", file);
                return;
        }
        info->dequantize(w, raw, DOT_ROWS * DOT_COLS);
        error_code = multiply(r->backend, (enum quant_type) number, raw, size, x, got);
        if (error_code) {
                say(r, false, name, "the backend failed: %s", strerror(-error_code));
                return;
        }
        error = dot_error(w, x, got, expected);
        say(r, error <= tolerance, name, "error %.2g |w||x| (tolerance %.0g)", error, tolerance);
}

void run_blocks(struct reference *r, const char *path, const char *name) {
        _cleanup_(json_decrefp) json_t *index = file_json(path, "index.json");
        const char *type;
        json_t *entry;

        if (!index) {
                say(r, false, name, "index.json cannot be read");
                return;
        }
        json_object_foreach(index, type, entry) {
                uint32_t number = (uint32_t) json_int(entry, "ggml_type", UINT32_MAX);
                const struct quant_info *info = quant_info(number);
                char what[80];

                if (!info) {
                        snprintf(what, sizeof(what), "%s/%s", name, type);
                        say_skip(r, what, "this build does not know the format");
                        continue;
                }
                check_values(r, path, type, info, entry);
                check_dot(r, path, type, info, number);
        }
}
