/* SPDX-License-Identifier: MIT */
#include "gguf-put.h"

#include <errno.h>
#include <string.h>

#include "base/util.h"

int gguf_put(FILE *out, const void *data, size_t size) {
        return size == 0 || fwrite(data, size, 1, out) == 1 ? 0 : -(errno ? errno : EIO);
}

int gguf_put_u32(FILE *out, uint32_t value) {
        return gguf_put(out, &value, sizeof(value));
}

int gguf_put_u64(FILE *out, uint64_t value) {
        return gguf_put(out, &value, sizeof(value));
}

int gguf_put_string(FILE *out, struct gguf_string s) {
        int r = gguf_put_u64(out, s.size);

        return r ? r : gguf_put(out, s.data, s.size);
}

int gguf_put_padding(FILE *out, uint64_t at, uint64_t alignment) {
        static const char zeros[256];
        uint64_t left = (alignment - at % alignment) % alignment;
        int r = 0;

        for (; left > 0 && !r; left -= MIN(left, sizeof(zeros)))
                r = gguf_put(out, zeros, MIN(left, sizeof(zeros)));
        return r;
}

int gguf_put_header(FILE *out, uint64_t n_tensors, uint64_t n_keys) {
        int r = gguf_put(out, "GGUF", 4);

        if (!r)
                r = gguf_put_u32(out, 3);
        if (!r)
                r = gguf_put_u64(out, n_tensors);
        return r ? r : gguf_put_u64(out, n_keys);
}

static int put_key(FILE *out, const char *key, enum gguf_type type) {
        int r = gguf_put_string(out, (struct gguf_string) { .data = key, .size = strlen(key) });

        return r ? r : gguf_put_u32(out, type);
}

int gguf_put_key_u32(FILE *out, const char *key, uint32_t value) {
        int r = put_key(out, key, GGUF_U32);

        return r ? r : gguf_put_u32(out, value);
}

int gguf_put_key_u64(FILE *out, const char *key, uint64_t value) {
        int r = put_key(out, key, GGUF_U64);

        return r ? r : gguf_put_u64(out, value);
}

int gguf_put_key_string(FILE *out, const char *key, const char *value) {
        int r = put_key(out, key, GGUF_STRING);

        return r ? r : gguf_put_string(out, (struct gguf_string) { .data = value, .size = strlen(value) });
}
