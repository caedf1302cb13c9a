/* SPDX-License-Identifier: MIT */
#pragma once

/* What a model file is, whether this build runs it, what it will cost and what this machine can do with it;
 * for people and for programs, without a daemon. */

#include <stdbool.h>
#include <stdio.h>

#include "config.h"
#include "forecast.h"
#include "gguf.h"

enum { INSPECT_TYPES_MAX = 64 };

/* Tensors of one type. */
struct inspect_type {
        const char *name;
        uint64_t tensors, values, bytes;
};

struct inspection {
        struct gguf *gguf;
        const char *path;
        struct gguf_string architecture, name, tokenizer, pre_tokenizer; /* empty: the file does not say */
        const char
                *chat_template; /* a family's name; "" when the file has none, "unknown" when it is of none */
        uint64_t layers, hidden, context, experts, experts_used, experts_shared, capacity_window,
                vocabulary; /* 0: it does not say */
        float capacity_factor; /* of experts, in each window of tokens; 0: it says none */
        uint64_t file_bytes, weight_bytes, parameters;
        struct inspect_type types[INSPECT_TYPES_MAX];
        size_t n_types;

        bool supported;
        struct reason why; /* it is not */

        /* of a supported one */
        struct model_forecast forecast;
        const char *kv_type;
        uint64_t program; /* bytes that the daemon has before it opens a model */
        uint64_t memory_total, memory_available, bandwidth; /* of this machine; 0: unknown */
};

#define INSPECTION_NULL                                                                                      \
        { .gguf = NULL }

/* Keys and values for the forecast's context. */
uint64_t inspection_kv(const struct inspection *i);
/* Resident memory of a daemon that serves this model alone and whose texts fill that context together. */
uint64_t inspection_total(const struct inspection *i);
/* Tokens per second that reading the weights of each token from memory allows; 0: unknown. */
double inspection_speed(const struct inspection *i);

void inspection_print(const struct inspection *i, FILE *out);
void inspection_print_json(const struct inspection *i, FILE *out);

/* Inspects the file under the configuration's settings and prints it to standard output. Returns an exit
 * status, after a sentence on standard error when it is not EX_OK: EX_DATAERR for a file that is no valid
 * GGUF, EX_NOINPUT and EX_NOPERM for one that cannot be opened. A valid file that this build does not support
 * is EX_OK. */
int inspect_main(const struct config *config, const char *path, bool json);
