/* SPDX-License-Identifier: MIT */
#pragma once

/* A model file with its matrices in another type. Metadata is copied as it is, but for what it says of the
 * type and of split files; vectors (norms, biases), routers and the like become F32, and whole numbers stay.
 * Rows that are no multiple of the type's block become F16. */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>

#include "gguf.h"

enum {
        _CONVERT_E_SUCCESS,
        CONVERT_E_REFUSED, /* the file holds what cannot be converted; the reason names the tensor */
};

/* The type of that name, in any case, which this build can make: 0; CONVERT_E_REFUSED with the list of those.
 */
int convert_type(const char *name, uint32_t *ret, struct reason *reason);

/* Writes the converted file to `out`, from its start. -EINTR soon after *stop became true; negative errno
 * when it cannot be written. Memory for a row at a time. */
int convert_write(const struct gguf *g, uint32_t type, FILE *out, const atomic_bool *stop,
                  struct reason *reason);

/* The same into a new file, which appears under its name only when it is complete and on the disk. -EEXIST
 * when there is one already, unless `replace`. */
int convert_file(const struct gguf *g, uint32_t type, const char *path, bool replace, const atomic_bool *stop,
                 struct reason *reason);
