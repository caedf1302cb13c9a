/* SPDX-License-Identifier: MIT */
#pragma once

/* The inside of a model file, for the files of this folder. */

#include <stdatomic.h>
#include <sys/stat.h>

#include "arch.h"
#include "calibration.h"
#include "engine.h"
#include "gguf.h"

/* Bytes that one file has in common with an older one. */
struct model_file_share {
        uint64_t serial, bytes;
};

/* Whose pages hold the content of a tensor. */
struct model_file_origin {
        struct model_file *file;
        uint32_t tensor;
};

struct model_file_root {
        struct model_file *file; /* a reference */
        struct model_file_root *next;
};

struct model_file {
        _Atomic uint32_t references;
        uint64_t serial; /* by age; never reused */
        struct gguf *gguf;
        struct arch_model arch;
        struct tokenizer *tokenizer;
        const struct chat_template *chat_template;
        uint64_t bytes, weight_bytes; /* of all its files; of their tensors */

        struct calibration calibration;    /* without shares when there is none that can be used */
        struct reason calibration_refused; /* empty, or why one is not used */
        struct stat calibration_state;     /* of the file that it is in; st_nlink 0: there was none */

        /* Shared by all models of the file that are awake. */
        struct backend *backend;
        struct buffer **buffers; /* [gguf_n_files()] the weights, imported; NULL while `n_awake` is 0 */
        uint32_t n_awake;

        /* What was found by content, once: [gguf_n_tensors()], its own where `file` is NULL. An origin is always its
         * own. The loader's alone, but for the files of the origins, and the shares up to their number. */
        struct model_file_origin *origins;
        struct model_file_root *_Atomic roots;
        struct model_file_share *shares;
        _Atomic uint32_t n_shares;
};

/* The one that has a byte of them all, each cut to whole units, one after the other; *offset becomes the byte's place
 * in it. NULL: there are not so many. */
const struct gguf_file *model_file_at(const struct model_file *file, uint64_t unit, uint64_t *offset);

/* For each model that is awake: the first imports the weights, with the last they go. */
int model_file_import(struct model_file *file, struct backend *backend);
void model_file_release(struct model_file *file);
