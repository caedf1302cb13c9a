/* SPDX-License-Identifier: MIT */
#pragma once

/* The pieces of a GGUF file (gguf.h), written one after the other. Each returns 0 or a negative errno. */

#include <stdio.h>

#include "gguf.h"

int gguf_put(FILE *out, const void *data, size_t size);
int gguf_put_u32(FILE *out, uint32_t value);
int gguf_put_u64(FILE *out, uint64_t value);
int gguf_put_string(FILE *out, struct gguf_string s);
/* Zeros from `at` to the next multiple of `alignment`. */
int gguf_put_padding(FILE *out, uint64_t at, uint64_t alignment);

/* What the file starts with. */
int gguf_put_header(FILE *out, uint64_t n_tensors, uint64_t n_keys);
/* Keys with their values. */
int gguf_put_key_u32(FILE *out, const char *key, uint32_t value);
int gguf_put_key_u64(FILE *out, const char *key, uint64_t value);
int gguf_put_key_string(FILE *out, const char *key, const char *value);
