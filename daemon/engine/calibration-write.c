/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "calibration.h"
#include "gguf-put.h"
#include "new-file.h"
#include "quant.h"

enum { TENSORS_MAX = 4 };

struct piece {
        const char *name;
        uint32_t type;
        uint64_t cols, rows;
        const void *data;
        uint64_t size;
};

struct pieces {
        struct piece items[TENSORS_MAX];
        uint32_t n;
};

struct writer {
        const struct calibration *c;
        uint64_t fingerprint;
};

static void add(struct pieces *p, const char *name, uint32_t type, uint64_t cols, uint64_t rows, const void *data) {
        uint32_t size = gguf_tensor_type(type)->block_bytes;

        p->items[p->n++] = (struct piece) { name, type, cols, rows, data, cols * rows * size };
}

static struct pieces pieces_of(const struct calibration *c) {
        uint32_t layers = c->plan.layers, lines = expert_plan_lines(c->plan.experts_used);
        struct pieces p = { .n = 0 };

        add(&p, "plan", CALIBRATION_TYPE_SHARES, layers, lines, c->plan.shares);
        add(&p, "error", QUANT_F32, layers, lines, c->error);
        if (c->predictor.weight) {
                add(&p, "predictor.weight", QUANT_F32, c->predictor.width, layers, c->predictor.weight);
                add(&p, "predictor.bias", QUANT_F32, layers, 1, c->predictor.bias);
        }
        return p;
}

static int put_keys(FILE *out, const struct writer *w) {
        const struct calibration *c = w->c;
        int r;

        r = gguf_put_key_string(out, "general.architecture", "moed-calibration");
        if (!r)
                r = gguf_put_key_u32(out, "calibration.version", 1);
        if (!r)
                r = gguf_put_key_u64(out, "calibration.model", w->fingerprint);
        if (!r)
                r = gguf_put_key_u32(out, "calibration.moe_layers", c->plan.layers);
        if (!r)
                r = gguf_put_key_u32(out, "calibration.experts_used", c->plan.experts_used);
        if (!r)
                r = gguf_put_key_u32(out, "calibration.tokens", c->tokens);
        if (!r && c->predictor.weight)
                r = gguf_put_key_u32(out, "calibration.predictor.layer", c->predictor.layer);
        return r;
}

static int put_list(FILE *out, const struct pieces *p) {
        uint64_t offset = 0;
        int r = 0;

        for (uint32_t i = 0; i < p->n && !r; i++) {
                const struct piece *t = &p->items[i];

                r = gguf_put_string(out, (struct gguf_string) { .data = t->name, .size = strlen(t->name) });
                if (!r)
                        r = gguf_put_u32(out, 2);
                if (!r)
                        r = gguf_put_u64(out, t->cols);
                if (!r)
                        r = gguf_put_u64(out, t->rows);
                if (!r)
                        r = gguf_put_u32(out, t->type);
                if (!r)
                        r = gguf_put_u64(out, offset);
                (void) align_u64(offset + t->size, GGUF_ALIGNMENT_DEFAULT, &offset);
        }
        return r;
}

static int put_data(FILE *out, const struct pieces *p) {
        off_t at = ftello(out);
        int r;

        if (at < 0)
                return -errno;
        r = gguf_put_padding(out, (uint64_t) at, GGUF_ALIGNMENT_DEFAULT);
        for (uint32_t i = 0; i < p->n && !r; i++) {
                r = gguf_put(out, p->items[i].data, p->items[i].size);
                if (!r)
                        r = gguf_put_padding(out, p->items[i].size, GGUF_ALIGNMENT_DEFAULT);
        }
        return r;
}

static int put_all(FILE *out, void *userdata) {
        const struct writer *w = userdata;
        struct pieces p = pieces_of(w->c);
        int r;

        r = gguf_put_header(out, p.n, w->c->predictor.weight ? 7 : 6);
        if (!r)
                r = put_keys(out, w);
        if (!r)
                r = put_list(out, &p);
        return r ? r : put_data(out, &p);
}

int calibration_write(const struct calibration *c, uint64_t fingerprint, const char *path, bool replace) {
        struct writer w = { .c = c, .fingerprint = fingerprint };

        return new_file_write(path, replace, put_all, &w);
}
