/* SPDX-License-Identifier: MIT */
/* What lies beside a model and says how many experts its layers get: whatever is taken keeps every budget. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "calibration.h"
#include "fuzz.h"
#include "gguf-builder.h"

enum { LAYERS = 2, USED = 2, LINES = 9, WIDTH = 4, FINGERPRINT = 1 };

static const struct arch_model arch = {
        .moe_layers = LAYERS, .params = { .layers = 3, .hidden = WIDTH, .experts_used = USED },
};

static void check(bool holds) {
        if (!holds)
                abort();
}

static void check_plan(const struct expert_plan *plan) {
        for (uint32_t cap = 0; cap <= 1000 * USED + 1; cap++) {
                uint32_t sum = 0;

                for (uint32_t l = 0; l < LAYERS; l++)
                        sum += expert_plan_milli(plan, cap, l);
                check(sum == LAYERS * (cap > 1000 * USED ? 1000 * USED : cap));
        }
}

static void check_predictor(const struct predictor *p) {
        if (!p->weight)
                return;
        check(p->layer < arch.params.layers && p->width == WIDTH);
        for (uint32_t i = 0; i < WIDTH * LAYERS; i++)
                check(isfinite(p->weight[i]));
        for (uint32_t i = 0; i < LAYERS; i++)
                check(isfinite(p->bias[i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct calibration c = CALIBRATION_NULL;
        struct gguf *g;
        void *copy;

        check(posix_memalign(&copy, 64, size > 0 ? size : 1) == 0);
        memcpy(copy, data, size);
        if (gguf_open_memory(&g, copy, size, "fuzz", NULL) == 0) {
                if (calibration_read(&c, g, FINGERPRINT, &arch, NULL) == 0) {
                        check_plan(&c.plan);
                        check_predictor(&c.predictor);
                }
                gguf_free(g);
        }
        calibration_deinit(&c);
        free(copy);
        return 0;
}

uint8_t *fuzz_seed(unsigned number, size_t *ret_size) {
        static const uint64_t plan_dims[] = { LAYERS, LINES }, weight_dims[] = { WIDTH, LAYERS },
                              bias_dims[] = { LAYERS, 1 };
        static const float zeros[LINES * LAYERS];
        struct gguf_builder b = GGUF_BUILDER_INIT;
        uint16_t shares[LINES][LAYERS];

        if (number > 1)
                return NULL;
        for (uint16_t i = 0; i < LINES; i++)
                shares[i][0] = shares[i][1] = (uint16_t) (8 + i);
        gguf_builder_u32(&b, "calibration.version", 1);
        gguf_builder_u32(&b, "calibration.model", FINGERPRINT);
        gguf_builder_u32(&b, "calibration.moe_layers", LAYERS);
        gguf_builder_u32(&b, "calibration.experts_used", USED);
        gguf_builder_u32(&b, "calibration.tokens", 1);
        gguf_builder_tensor(&b, "plan", CALIBRATION_TYPE_SHARES, 2, plan_dims, shares, sizeof(shares));
        gguf_builder_tensor(&b, "error", 0, 2, plan_dims, zeros, sizeof(zeros));
        if (number == 1) {
                gguf_builder_u32(&b, "calibration.predictor.layer", 1);
                gguf_builder_tensor(&b, "predictor.weight", 0, 2, weight_dims, zeros, WIDTH * LAYERS * sizeof(float));
                gguf_builder_tensor(&b, "predictor.bias", 0, 2, bias_dims, zeros, LAYERS * sizeof(float));
        }
        return gguf_builder_finish(&b, ret_size);
}
