/* SPDX-License-Identifier: MIT */
#pragma once

/* Makes GGUF files in memory for tests: whole ones, and broken ones by writing their parts by hand. Ends the
 * process when memory is out. */

#include <stddef.h>
#include <stdint.h>

#include "gguf.h"

struct bytes {
        uint8_t *data;
        size_t size, capacity;
};

void bytes_append(struct bytes *b, const void *data, size_t n);
void bytes_u8(struct bytes *b, uint8_t value);
void bytes_u32(struct bytes *b, uint32_t value);
void bytes_u64(struct bytes *b, uint64_t value);
void bytes_f32(struct bytes *b, float value);
/* As the format writes strings: length, then bytes. */
void bytes_string(struct bytes *b, const char *text);
void bytes_deinit(struct bytes *b);

struct gguf_builder {
        uint32_t version;
        uint64_t alignment; /* of the tensors' data; the key is not written by itself */
        uint64_t n_pairs, n_tensors;
        struct bytes pairs, tensors, data; /* as in the file; may be appended to by hand */
};

#define GGUF_BUILDER_INIT                                                                                    \
        { .version = 3, .alignment = 32 }

void gguf_builder_u32(struct gguf_builder *b, const char *key, uint32_t value);
void gguf_builder_f32(struct gguf_builder *b, const char *key, float value);
void gguf_builder_bool(struct gguf_builder *b, const char *key, bool value);
void gguf_builder_string(struct gguf_builder *b, const char *key, const char *value);
void gguf_builder_strings(struct gguf_builder *b, const char *key, const char *const *values, size_t n);
void gguf_builder_i32s(struct gguf_builder *b, const char *key, const int32_t *values, size_t n);
void gguf_builder_f32s(struct gguf_builder *b, const char *key, const float *values, size_t n);
/* The key and type of a value that follows by hand. */
void gguf_builder_key(struct gguf_builder *b, const char *key, uint32_t type);
/* `size` bytes of data at the next aligned offset; only the description is checked by nobody. */
void gguf_builder_tensor(struct gguf_builder *b, const char *name, uint32_t type, uint32_t n_dims,
                         const uint64_t *dims, const void *data, size_t size);

/* The whole file, aligned to 64 bytes, the caller's to free(); the builder is empty afterwards. */
uint8_t *gguf_builder_finish(struct gguf_builder *b, size_t *ret_size);
void gguf_builder_deinit(struct gguf_builder *b);
