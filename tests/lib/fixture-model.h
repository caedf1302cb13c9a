/* SPDX-License-Identifier: MIT */
#pragma once

/* What can be known of a fixture's model file before the engine sees it. */

#include <stdbool.h>

#include "base/reason.h"

enum {
        FIXTURE_MODEL_RUNS,
        FIXTURE_MODEL_UNSUPPORTED, /* an architecture or tensor type that this build does not have; reason:
                                      which */
        FIXTURE_MODEL_BROKEN,      /* no GGUF file */
};

/* `ret_rounded`: its matrices are of a type that is multiplied with activations rounded to 8 bits. */
int fixture_model_check(const char *path, bool *ret_rounded, struct reason *reason);
