/* SPDX-License-Identifier: MIT */
#include "calibration.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "quant.h"

/* What is being read, and of which model it must be. */
struct reader {
        struct calibration *c;
        const struct gguf *g;
        const struct arch_model *arch;
        struct reason *reason;
};

#define refuse(r, format, ...)                                                                                         \
        reason_return((r)->reason, CALIBRATION_E_REFUSED, "%.60s: " format, gguf_name((r)->g), ##__VA_ARGS__)

void calibration_deinit(struct calibration *c) {
        expert_plan_deinit(&c->plan);
        free(c->error);
        free(c->predictor.weight);
        free(c->predictor.bias);
        *c = (struct calibration) CALIBRATION_NULL;
}

uint32_t calibration_width(const struct arch_model *arch) {
        return arch->params.hidden * MAX(arch->params.streams, 1u);
}

char *calibration_path(const char *path) {
        static const char ending[] = ".gguf";
        size_t n = strlen(path), e = sizeof(ending) - 1;
        char *ret;

        if (n > e && strcmp(path + n - e, ending) == 0)
                n -= e;
        return asprintf(&ret, "%.*s.calibration.gguf", (int) n, path) < 0 ? NULL : ret;
}

static int check_number(const struct reader *r, const char *key, uint64_t expected) {
        uint64_t value;

        if (gguf_get_u64(r->g, key, &value, r->reason))
                return CALIBRATION_E_REFUSED;
        if (value != expected)
                return refuse(r, "'%s' is %" PRIu64 " where the model has %" PRIu64, key, value, expected);
        return 0;
}

static int check_model(const struct reader *r, uint64_t fingerprint) {
        uint64_t version, model;
        int q;

        if (gguf_get_u64(r->g, "calibration.version", &version, r->reason) ||
            gguf_get_u64(r->g, "calibration.model", &model, r->reason))
                return CALIBRATION_E_REFUSED;
        if (version != 1)
                return refuse(r, "a calibration of version %" PRIu64 "; known is 1", version);
        if (model != fingerprint)
                return refuse(r, "it was made for another model file");
        q = check_number(r, "calibration.moe_layers", r->arch->moe_layers);
        if (!q)
                q = check_number(r, "calibration.experts_used", r->arch->params.experts_used);
        if (q)
                return q;
        return gguf_get_u32(r->g, "calibration.tokens", &r->c->tokens, r->reason) ? CALIBRATION_E_REFUSED : 0;
}

/* A copy of a tensor that must be there, of that type and of `rows` rows of `cols` values. */
static int copy_tensor(const struct reader *r, const char *name, uint32_t type, uint64_t cols, uint64_t rows,
                       void *ret) {
        const struct gguf_tensor *t = gguf_tensor(r->g, name);
        void *copy;

        if (!t)
                return refuse(r, "the tensor '%s' is missing", name);
        if (t->type != type || t->dims[0] != cols || t->dims[1] != rows || t->dims[2] != 1 || t->dims[3] != 1)
                return refuse(r, "the tensor '%s' is not %s [%" PRIu64 ", %" PRIu64 "]", name,
                              gguf_tensor_type(type)->name, cols, rows);
        copy = malloc(t->size);
        if (!copy)
                return -ENOMEM;
        memcpy(copy, t->data, t->size);
        *(void **) ret = copy;
        return 0;
}

static int copy_floats(const struct reader *r, const char *name, uint64_t cols, uint64_t rows, float **ret) {
        int q;

        q = copy_tensor(r, name, QUANT_F32, cols, rows, ret);
        for (uint64_t i = 0; !q && i < cols * rows; i++)
                if (!isfinite((*ret)[i]))
                        q = refuse(r, "the tensor '%s' has a value that is no finite number", name);
        return q;
}

/* What expert_plan_milli() relies on. */
static int check_line(const struct reader *r, uint32_t line) {
        const struct expert_plan *p = &r->c->plan;
        const uint16_t *shares = p->shares + (size_t) line * p->layers;
        uint64_t sum = 0;

        for (uint32_t l = 0; l < p->layers; l++) {
                if (shares[l] < EXPERT_PLAN_PARTS || shares[l] > EXPERT_PLAN_PARTS * p->experts_used)
                        return refuse(r, "line %u of the plan gives a layer %u eighths of an expert, not %d to %u",
                                      line, shares[l], EXPERT_PLAN_PARTS, EXPERT_PLAN_PARTS * p->experts_used);
                sum += shares[l];
        }
        if (sum != (uint64_t) (EXPERT_PLAN_PARTS + line) * p->layers)
                return refuse(r, "line %u of the plan deals %" PRIu64 " eighths of an expert, not %" PRIu64, line, sum,
                              (uint64_t) (EXPERT_PLAN_PARTS + line) * p->layers);
        return 0;
}

static int read_plan(const struct reader *r) {
        struct expert_plan *p = &r->c->plan;
        uint32_t lines;
        int q;

        p->layers = r->arch->moe_layers;
        p->experts_used = r->arch->params.experts_used;
        lines = expert_plan_lines(p->experts_used);
        q = copy_tensor(r, "plan", CALIBRATION_TYPE_SHARES, p->layers, lines, &p->shares);
        for (uint32_t i = 0; !q && i < lines; i++)
                q = check_line(r, i);
        return q ? q : copy_floats(r, "error", p->layers, lines, &r->c->error);
}

static int read_predictor(const struct reader *r) {
        struct predictor *p = &r->c->predictor;
        int q;

        if (!gguf_tensor(r->g, "predictor.weight"))
                return 0;
        if (gguf_get_u32(r->g, "calibration.predictor.layer", &p->layer, r->reason))
                return CALIBRATION_E_REFUSED;
        if (p->layer >= r->arch->params.layers)
                return refuse(r, "'calibration.predictor.layer' is %u of %u", p->layer, r->arch->params.layers);
        p->width = calibration_width(r->arch);
        q = copy_floats(r, "predictor.weight", p->width, r->arch->moe_layers, &p->weight);
        return q ? q : copy_floats(r, "predictor.bias", r->arch->moe_layers, 1, &p->bias);
}

int calibration_read(struct calibration *ret, const struct gguf *g, uint64_t fingerprint, const struct arch_model *arch,
                     struct reason *reason) {
        _cleanup_(calibration_deinit) struct calibration c = CALIBRATION_NULL;
        const struct reader r = { .c = &c, .g = g, .arch = arch, .reason = reason };
        int q;

        if (arch->moe_layers == 0)
                return refuse(&r, "the model has no layer with experts");
        q = check_model(&r, fingerprint);
        if (!q)
                q = read_plan(&r);
        if (!q)
                q = read_predictor(&r);
        if (q)
                return q;
        *ret = c;
        c = (struct calibration) CALIBRATION_NULL;
        return 0;
}
