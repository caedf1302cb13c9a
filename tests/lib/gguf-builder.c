/* SPDX-License-Identifier: MIT */
#include "gguf-builder.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

void bytes_append(struct bytes *b, const void *data, size_t n) {
        if (b->capacity - b->size < n) {
                b->capacity = MAX(b->capacity * 2, b->size + n);
                b->data = realloc(b->data, b->capacity);
                if (!b->data)
                        abort();
        }
        if (n > 0)
                memcpy(b->data + b->size, data, n);
        b->size += n;
}

void bytes_u8(struct bytes *b, uint8_t value) {
        bytes_append(b, &value, sizeof(value));
}

void bytes_u32(struct bytes *b, uint32_t value) {
        value = htole32(value);
        bytes_append(b, &value, sizeof(value));
}

void bytes_u64(struct bytes *b, uint64_t value) {
        value = htole64(value);
        bytes_append(b, &value, sizeof(value));
}

void bytes_f32(struct bytes *b, float value) {
        uint32_t raw;

        memcpy(&raw, &value, sizeof(raw));
        bytes_u32(b, raw);
}

void bytes_string(struct bytes *b, const char *text) {
        bytes_u64(b, strlen(text));
        bytes_append(b, text, strlen(text));
}

void bytes_deinit(struct bytes *b) {
        free(b->data);
        *b = (struct bytes) { .data = NULL };
}

void gguf_builder_key(struct gguf_builder *b, const char *key, uint32_t type) {
        bytes_string(&b->pairs, key);
        bytes_u32(&b->pairs, type);
        b->n_pairs++;
}

void gguf_builder_u32(struct gguf_builder *b, const char *key, uint32_t value) {
        gguf_builder_key(b, key, GGUF_U32);
        bytes_u32(&b->pairs, value);
}

void gguf_builder_f32(struct gguf_builder *b, const char *key, float value) {
        gguf_builder_key(b, key, GGUF_F32);
        bytes_f32(&b->pairs, value);
}

void gguf_builder_bool(struct gguf_builder *b, const char *key, bool value) {
        gguf_builder_key(b, key, GGUF_BOOL);
        bytes_u8(&b->pairs, value);
}

void gguf_builder_string(struct gguf_builder *b, const char *key, const char *value) {
        gguf_builder_key(b, key, GGUF_STRING);
        bytes_string(&b->pairs, value);
}

static void builder_array(struct gguf_builder *b, const char *key, uint32_t type, uint64_t n) {
        gguf_builder_key(b, key, GGUF_ARRAY);
        bytes_u32(&b->pairs, type);
        bytes_u64(&b->pairs, n);
}

void gguf_builder_strings(struct gguf_builder *b, const char *key, const char *const *values, size_t n) {
        builder_array(b, key, GGUF_STRING, n);
        for (size_t i = 0; i < n; i++)
                bytes_string(&b->pairs, values[i]);
}

void gguf_builder_i32s(struct gguf_builder *b, const char *key, const int32_t *values, size_t n) {
        builder_array(b, key, GGUF_I32, n);
        for (size_t i = 0; i < n; i++)
                bytes_u32(&b->pairs, (uint32_t) values[i]);
}

void gguf_builder_f32s(struct gguf_builder *b, const char *key, const float *values, size_t n) {
        builder_array(b, key, GGUF_F32, n);
        for (size_t i = 0; i < n; i++)
                bytes_f32(&b->pairs, values[i]);
}

static void pad(struct bytes *b, uint64_t alignment) {
        while (b->size % alignment != 0)
                bytes_u8(b, 0);
}

void gguf_builder_tensor(struct gguf_builder *b, const char *name, uint32_t type, uint32_t n_dims,
                         const uint64_t *dims, const void *data, size_t size) {
        pad(&b->data, b->alignment);
        bytes_string(&b->tensors, name);
        bytes_u32(&b->tensors, n_dims);
        for (uint32_t i = 0; i < n_dims; i++)
                bytes_u64(&b->tensors, dims[i]);
        bytes_u32(&b->tensors, type);
        bytes_u64(&b->tensors, b->data.size);
        bytes_append(&b->data, data, size);
        b->n_tensors++;
}

uint8_t *gguf_builder_finish(struct gguf_builder *b, size_t *ret_size) {
        struct bytes file = { .data = NULL };
        uint8_t *out;

        bytes_append(&file, "GGUF", 4);
        bytes_u32(&file, b->version);
        bytes_u64(&file, b->n_tensors);
        bytes_u64(&file, b->n_pairs);
        bytes_append(&file, b->pairs.data, b->pairs.size);
        bytes_append(&file, b->tensors.data, b->tensors.size);
        if (b->n_tensors > 0)
                pad(&file, b->alignment);
        bytes_append(&file, b->data.data, b->data.size);
        out = aligned_alloc(64, (file.size + 63) / 64 * 64);
        if (!out)
                abort();
        memcpy(out, file.data, file.size);
        *ret_size = file.size;
        bytes_deinit(&file);
        gguf_builder_deinit(b);
        return out;
}

void gguf_builder_deinit(struct gguf_builder *b) {
        bytes_deinit(&b->pairs);
        bytes_deinit(&b->tensors);
        bytes_deinit(&b->data);
        *b = (struct gguf_builder) GGUF_BUILDER_INIT;
}
