/* SPDX-License-Identifier: MIT */
#include "fixture-model.h"

#include "arch.h"
#include "gguf.h"
#include "quant.h"

int fixture_model_check(const char *path, bool *ret_rounded, struct reason *reason) {
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        struct gguf_string name;
        bool rounded = false;

        if (gguf_open(&g, path, reason) || gguf_get_string(g, "general.architecture", &name, reason))
                return FIXTURE_MODEL_BROKEN;
        if (!arch_find(name))
                return reason_return(reason, FIXTURE_MODEL_UNSUPPORTED, "architecture %.*s", (int) name.size,
                                     name.data);
        for (size_t i = 0; i < gguf_n_tensors(g); i++) {
                const struct gguf_tensor *t = gguf_tensor_at(g, i);
                const struct quant_info *info = quant_info(t->type);

                if (!info)
                        return reason_return(reason, FIXTURE_MODEL_UNSUPPORTED, "type %s of tensor %.*s",
                                             gguf_tensor_type(t->type)->name, (int) t->name.size,
                                             t->name.data);
                rounded |= info->block_values > 1;
        }
        *ret_rounded = rounded;
        return FIXTURE_MODEL_RUNS;
}
