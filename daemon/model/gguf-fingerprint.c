/* SPDX-License-Identifier: MIT */
#include "base/hash.h"
#include "base/util.h"
#include "gguf.h"

enum {
        SAMPLES = 64, /* of a file's data, evenly spread */
        SAMPLE_BYTES = 4096,
};

/* Where the data of the tensors in file `i` begins. */
static uint64_t data_begin(const struct gguf *g, size_t i) {
        uint64_t begin = gguf_file(g, i)->size;

        for (size_t n = 0; n < gguf_n_tensors(g); n++)
                if (gguf_tensor_at(g, n)->file == i)
                        begin = MIN(begin, gguf_tensor_at(g, n)->offset);
        return begin;
}

static uint64_t mix_file(uint64_t hash, const struct gguf *g, size_t i) {
        const struct gguf_file *file = gguf_file(g, i);
        uint64_t begin = data_begin(g, i), pages = (file->size - begin) / SAMPLE_BYTES;

        hash = hash_mix_u64(hash, file->size);
        hash = hash_mix(hash, file->data, begin);
        for (uint64_t n = 0; n < MIN(pages, (uint64_t) SAMPLES); n++) {
                uint64_t page = pages <= SAMPLES ? n : n * (pages / SAMPLES);

                hash = hash_mix(hash, file->data + begin + page * SAMPLE_BYTES, SAMPLE_BYTES);
        }
        return hash;
}

uint64_t gguf_fingerprint(const struct gguf *g) {
        uint64_t hash = gguf_n_files(g);

        for (size_t i = 0; i < gguf_n_files(g); i++)
                hash = mix_file(hash, g, i);
        return hash;
}
