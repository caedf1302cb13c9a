/* SPDX-License-Identifier: MIT */
#pragma once

/* A model in several files: NAME-00001-of-00003.gguf and so on. The first has the metadata; each says which part it is,
 * and holds tensors of its own (keys split.*: github.com/ggml-org/llama.cpp, gguf-split). */

#include "gguf.h"

enum { GGUF_SPLIT_MAX = 4096 };

struct gguf_split {
        uint32_t number, count; /* from 0; 1: a model in one file */
        uint32_t tensors;       /* of all files together; UINT32_MAX: not said */
};

/* What a file says of itself. 0 or GGUF_E_INVALID. */
int gguf_split_read(struct gguf_split *ret, const struct gguf *g, struct reason *reason);

/* The path of part `number`, from that of the first part; the caller's to free(). GGUF_E_INVALID: `path` is not named
 * as a first part of so many is; -ENOMEM. */
int gguf_split_path(char **ret, const char *path, uint32_t number, uint32_t count, struct reason *reason);
