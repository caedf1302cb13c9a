/* SPDX-License-Identifier: MIT */
#include "convert.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "gguf-put.h"
#include "new-file.h"
#include "quant.h"

/* Numbers of general.file_type (github.com/ggml-org/ggml, docs/gguf.md). */
static const struct {
        uint32_t type, file_type;
} targets[] = {
        {QUANT_F32, 0},
        {QUANT_F16, 1},
        {QUANT_Q8_0, 7},
        {QUANT_BF16, 32},
};

struct convert {
        const struct gguf *g;
        uint32_t type, file_type;
        FILE *out;
        const atomic_bool *stop;
        struct reason *reason;
        float *values; /* of the longest row */
        void *made;
};

int convert_type(const char *name, uint32_t *ret, struct reason *reason) {
        char known[64] = "";
        size_t n = 0;

        for (size_t i = 0; i < ELEMENTS(targets); i++) {
                const char *is = quant_info(targets[i].type)->name;

                if (strcasecmp(name, is) == 0) {
                        *ret = targets[i].type;
                        return 0;
                }
                n += (size_t) snprintf(known + n, sizeof(known) - n, "%s%s", i ? ", " : "", is);
        }
        return reason_return(reason, CONVERT_E_REFUSED,
                             "this build does not make the type %.40s; it makes %s", name, known);
}

static uint64_t scalar_bytes(enum gguf_type type) {
        static const uint8_t bytes[_GGUF_TYPE_MAX] = {
                [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_BOOL] = 1, [GGUF_U16] = 2,
                [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,  [GGUF_F32] = 4,
                [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
        };

        return bytes[type];
}

static uint64_t load_u64(const uint8_t *at) {
        uint64_t value;

        memcpy(&value, at, sizeof(value));
        return value;
}

/* How a value lies in the file, which has been checked. */
static uint64_t value_bytes(const uint8_t *at, enum gguf_type type) {
        uint64_t n, size = 12;
        uint32_t element;

        if (type == GGUF_STRING)
                return 8 + load_u64(at);
        if (type != GGUF_ARRAY)
                return scalar_bytes(type);
        memcpy(&element, at, sizeof(element));
        n = load_u64(at + 4);
        if (element != GGUF_STRING)
                return size + n * scalar_bytes((enum gguf_type) element);
        for (uint64_t i = 0; i < n; i++)
                size += 8 + load_u64(at + size);
        return size;
}

static bool is_of_split(struct gguf_string key) {
        return key.size > 6 && memcmp(key.data, "split.", 6) == 0;
}

static int put_pair(struct convert *c, struct gguf_string key, enum gguf_type type) {
        const uint8_t *value = (const uint8_t *) key.data + key.size + 4;
        int r = gguf_put_string(c->out, key);

        if (!r)
                r = gguf_put_u32(c->out, type);
        if (!r && type == GGUF_U32 && gguf_string_equal(key, "general.file_type"))
                return gguf_put_u32(c->out, c->file_type);
        return r ? r : gguf_put(c->out, value, value_bytes(value, type));
}

static int put_metadata(struct convert *c) {
        uint64_t n = 0;
        enum gguf_type type;
        int r;

        for (size_t i = 0; i < gguf_n_keys(c->g); i++)
                n += !is_of_split(gguf_key(c->g, i, &type));
        r = gguf_put_header(c->out, gguf_n_tensors(c->g), n);
        for (size_t i = 0; i < gguf_n_keys(c->g) && !r; i++) {
                struct gguf_string key = gguf_key(c->g, i, &type);

                if (!is_of_split(key))
                        r = put_pair(c, key, type);
        }
        return r;
}

/* Routers, tables of positions, and the small matrices that mix streams: what they would save is little, and
 * every expert's choice hangs on them. */
static const char *const precise[] = {"ffn_gate_inp", "_norm", "_ape", "hc_"};

static bool is_precise(const struct gguf_tensor *t) {
        static const char ending[] = ".weight";
        size_t n = sizeof(ending) - 1;

        if (t->n_dims < 2 || t->name.size < n || memcmp(t->name.data + t->name.size - n, ending, n) != 0)
                return true;
        for (size_t i = 0; i < ELEMENTS(precise); i++)
                if (memmem(t->name.data, t->name.size, precise[i], strlen(precise[i])))
                        return true;
        return false;
}

/* Which type a tensor gets. What is not dequantised, whole numbers, stays. */
static uint32_t type_of(const struct convert *c, const struct gguf_tensor *t) {
        const struct quant_info *from = quant_info(t->type);

        if (from && !from->dequantize)
                return t->type;
        if (is_precise(t))
                return QUANT_F32;
        return t->dims[0] % quant_info(c->type)->block_values == 0 ? c->type : QUANT_F16;
}

static uint64_t rows_of(const struct gguf_tensor *t) {
        return t->dims[1] * t->dims[2] * t->dims[3];
}

static uint64_t bytes_of(const struct convert *c, const struct gguf_tensor *t) {
        return quant_row_bytes(quant_info(type_of(c, t)), t->dims[0]) * rows_of(t);
}

static int refuse(struct convert *c, const struct gguf_tensor *t, const char *why) {
        return reason_return(c->reason, CONVERT_E_REFUSED, "%.80s: tensor %.*s %s", gguf_name(c->g),
                             (int) MIN(t->name.size, UINT64_C(64)), t->name.data, why);
}

static int put_tensor_list(struct convert *c) {
        uint64_t offset = 0;
        int r = 0;

        for (size_t i = 0; i < gguf_n_tensors(c->g) && !r; i++) {
                const struct gguf_tensor *t = gguf_tensor_at(c->g, i);

                if (!quant_info(t->type))
                        return refuse(c, t, "has a type that this build cannot read");
                r = gguf_put_string(c->out, t->name);
                if (!r)
                        r = gguf_put_u32(c->out, t->n_dims);
                for (uint32_t d = 0; d < t->n_dims && !r; d++)
                        r = gguf_put_u64(c->out, t->dims[d]);
                if (!r)
                        r = gguf_put_u32(c->out, type_of(c, t));
                if (!r)
                        r = gguf_put_u64(c->out, offset);
                if (!align_u64(offset + bytes_of(c, t), gguf_alignment(c->g), &offset))
                        return refuse(c, t, "is too large");
        }
        return r;
}

static int check_values(struct convert *c, const struct gguf_tensor *t, const struct quant_info *to) {
        for (uint64_t i = 0; i < t->dims[0]; i++)
                if (!(fabsf(c->values[i]) <= to->max))
                        return refuse(c, t,
                                      isfinite(c->values[i]) ? "has a value that is too large for the type"
                                                             : "has a value that is no finite number");
        return 0;
}

static int put_tensor(struct convert *c, const struct gguf_tensor *t) {
        const struct quant_info *from = quant_info(t->type), *to = quant_info(type_of(c, t));
        size_t step = quant_row_bytes(from, t->dims[0]), made = quant_row_bytes(to, t->dims[0]);
        int r = 0;

        if (from == to)
                return gguf_put(c->out, t->data, t->size);
        for (uint64_t row = 0; row < rows_of(t) && !r; row++) {
                if (atomic_load_explicit(c->stop, memory_order_relaxed))
                        return -EINTR;
                from->dequantize(c->values, (const char *) t->data + row * step, t->dims[0]);
                r = check_values(c, t, to);
                if (r)
                        return r;
                to->quantize(c->made, c->values, t->dims[0]);
                r = gguf_put(c->out, c->made, made);
        }
        return r;
}

static int put_tensors(struct convert *c) {
        int r = 0;

        for (size_t i = 0; i < gguf_n_tensors(c->g) && !r; i++) {
                const struct gguf_tensor *t = gguf_tensor_at(c->g, i);

                r = put_tensor(c, t);
                if (!r)
                        r = gguf_put_padding(c->out, bytes_of(c, t), gguf_alignment(c->g));
        }
        return r;
}

static int put_all(struct convert *c) {
        off_t at;
        int r;

        r = put_metadata(c);
        if (!r)
                r = put_tensor_list(c);
        if (r)
                return r;
        at = ftello(c->out);
        if (at < 0)
                return -errno;
        r = gguf_put_padding(c->out, (uint64_t) at, gguf_alignment(c->g));
        if (!r)
                r = put_tensors(c);
        return !r && fflush(c->out) != 0 ? -errno : r;
}

int convert_write(const struct gguf *g, uint32_t type, FILE *out, const atomic_bool *stop,
                  struct reason *reason) {
        struct convert c = {.g = g, .type = type, .out = out, .stop = stop, .reason = reason};
        _cleanup_(freep) void *values = NULL, *made = NULL;
        uint64_t longest = 1;

        for (size_t i = 0; i < gguf_n_tensors(g); i++)
                longest = MAX(longest, gguf_tensor_at(g, i)->dims[0]);
        for (size_t i = 0; i < ELEMENTS(targets); i++)
                if (targets[i].type == type)
                        c.file_type = targets[i].file_type;
        c.values = values = calloc(longest, sizeof(float));
        c.made = made = calloc(longest, sizeof(float));
        if (!values || !made)
                return -ENOMEM;
        errno = 0;
        return put_all(&c);
}

static int convert_into(FILE *out, void *userdata) {
        struct convert *c = userdata;

        return convert_write(c->g, c->type, out, c->stop, c->reason);
}

int convert_file(const struct gguf *g, uint32_t type, const char *path, bool replace, const atomic_bool *stop,
                 struct reason *reason) {
        struct convert c = { .g = g, .type = type, .stop = stop, .reason = reason };

        return new_file_write(path, replace, convert_into, &c);
}
