/* SPDX-License-Identifier: MIT */
#pragma once

/* GGUF, the model file: metadata (key → value) and tensors, read in place from a read-only mapping. Versions
 * 2 and 3, little-endian (github.com/ggml-org/ggml, docs/gguf.md).
 *
 * The file is hostile input. gguf_open() checks every count, length, type and offset against the bytes that
 * there are, before anything is allocated; memory used is bounded by a small multiple of the size of the
 * file's header. What it returned needs no further check: every string, array and tensor lies inside the
 * mapping. Tensors may overlap: nothing is ever written.
 *
 * The weights are used where they are mapped. So replace model files by renaming a new one over the old, never
 * by writing into them: what was checked stays safe to use, but its content is another then (gguf_intact()),
 * and a page that is gone raises SIGBUS (mapped.h).
 *
 * A struct gguf never changes once opened and may be read by any number of threads. Everything that it hands
 * out (strings, arrays, tensors) points into it and lives as long. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

#include "base/reason.h"

enum {
        _GGUF_E_SUCCESS,
        GGUF_E_INVALID, /* the file breaks a rule of the format, or uses a part of it that is unknown */
        GGUF_E_MISSING, /* no such key */
        GGUF_E_TYPE,    /* the key has a value of another type, or one that does not fit */
};

/* Numbers of the format. */
enum gguf_type {
        GGUF_U8,
        GGUF_I8,
        GGUF_U16,
        GGUF_I16,
        GGUF_U32,
        GGUF_I32,
        GGUF_F32,
        GGUF_BOOL,
        GGUF_STRING,
        GGUF_ARRAY,
        GGUF_U64,
        GGUF_I64,
        GGUF_F64,
        _GGUF_TYPE_MAX,
};

enum {
        GGUF_DIMS_MAX = 4,
        GGUF_NAME_MAX = UINT16_MAX, /* bytes of a key or of a tensor's name */
        GGUF_ALIGNMENT_DEFAULT = 32,
        GGUF_ALIGNMENT_MAX = 1024 * 1024,
};

struct gguf;

/* Text of the file: any bytes, not terminated. Keys and tensor names contain no NUL. */
struct gguf_string {
        const char *data;
        uint64_t size;
};

/* A view of an array of scalars or strings; read it by the gguf_array_*() functions, the numbers are
 * unaligned. */
struct gguf_array {
        enum gguf_type type; /* of the elements; never GGUF_ARRAY */
        uint64_t n;
        const uint8_t *data;
        const uint64_t
                *index; /* strings only: [n + 1] where each one's length field is, from data, and the end */
};

struct gguf_tensor {
        struct gguf_string name;
        uint32_t type;                /* ggml type number, one of gguf_tensor_type()'s */
        uint32_t n_dims;              /* 1 … GGUF_DIMS_MAX */
        uint64_t dims[GGUF_DIMS_MAX]; /* dims[0] is a row's length and a multiple of the block; those past
                                         n_dims are 1 */
        uint32_t file;                /* where it is: number of the file, */
        uint64_t offset, size;        /* and bytes in it; the offset is a multiple of the alignment */
        const void *data;             /* the same, mapped */
};

/* How values of a tensor type lie in the file. Every type of the format, also those no kernel computes with.
 */
struct gguf_tensor_type {
        const char *name;
        uint32_t block_values, block_bytes;
};

/* One mapped file of the model. */
struct gguf_file {
        const char *path;
        const uint8_t *data;
        uint64_t size;
        int fd; /* what is mapped; -1: bytes in memory */
        dev_t device; /* which file that was, and its state when it was opened */
        ino_t inode;
        struct timespec modified;
};

/* Opens and checks a file, and those beside it when it is the first of several (gguf-split.h). 0, GGUF_E_INVALID, or a
 * negative errno of opening, mapping or allocating; `reason` (may be NULL) names the file, the field and the offset.
 * The new object is the caller's: gguf_free(). */
int gguf_open(struct gguf **ret, const char *path, struct reason *reason);

/* The same for bytes in memory, which stay the caller's and must outlive the object. `data` is aligned to 64
 * bytes (else -EINVAL); `name` stands for the path in messages. */
int gguf_open_memory(struct gguf **ret, const void *data, size_t size, const char *name,
                     struct reason *reason);

void gguf_free(struct gguf *g);
void gguf_freep(struct gguf **g);

/* The path's last component (or the name given), for messages. */
const char *gguf_name(const struct gguf *g);
/* At least one; number 0 holds the metadata. `i` must be below gguf_n_files(). */
size_t gguf_n_files(const struct gguf *g);
const struct gguf_file *gguf_file(const struct gguf *g, size_t i);
/* Whether `st` is of that file, unchanged; whether both are. Bytes in memory are never the same. */
bool gguf_file_is(const struct gguf_file *file, const struct stat *st);
bool gguf_file_same(const struct gguf_file *a, const struct gguf_file *b);
/* Whether something of the files that was touched could not be read (mapped.h). */
bool gguf_lost(const struct gguf *g);
/* Whether that is not so, and no file has been written to since it was opened. A system call for each. */
bool gguf_intact(const struct gguf *g);
/* A number for what the files are: of their sizes, of everything before the tensors' data, and of some pages of that,
 * so that a large model is not read through. Not for files that somebody made to be taken for another. */
uint64_t gguf_fingerprint(const struct gguf *g);
uint32_t gguf_version(const struct gguf *g);
uint64_t gguf_alignment(const struct gguf *g);

/* Metadata by position, for listing; `i` must be below gguf_n_keys(). */
size_t gguf_n_keys(const struct gguf *g);
struct gguf_string gguf_key(const struct gguf *g, size_t i, enum gguf_type *ret_type);
bool gguf_has(const struct gguf *g, const char *key);

/* Values by key. 0, GGUF_E_MISSING or GGUF_E_TYPE; the latter two set `reason` (may be NULL). Integers are
 * taken from any integer type when the value fits; floats from F32 and F64 (and from integers); a bool from a
 * bool only. */
int gguf_get_u32(const struct gguf *g, const char *key, uint32_t *ret, struct reason *reason);
int gguf_get_u64(const struct gguf *g, const char *key, uint64_t *ret, struct reason *reason);
int gguf_get_i64(const struct gguf *g, const char *key, int64_t *ret, struct reason *reason);
int gguf_get_f32(const struct gguf *g, const char *key, float *ret, struct reason *reason);
int gguf_get_bool(const struct gguf *g, const char *key, bool *ret, struct reason *reason);
int gguf_get_string(const struct gguf *g, const char *key, struct gguf_string *ret, struct reason *reason);
int gguf_get_array(const struct gguf *g, const char *key, struct gguf_array *ret, struct reason *reason);

/* The same with a value for a key that is absent: 0 or GGUF_E_TYPE. */
int gguf_get_u32_or(const struct gguf *g, const char *key, uint32_t otherwise, uint32_t *ret,
                    struct reason *reason);
int gguf_get_f32_or(const struct gguf *g, const char *key, float otherwise, float *ret,
                    struct reason *reason);
int gguf_get_bool_or(const struct gguf *g, const char *key, bool otherwise, bool *ret, struct reason *reason);

/* Elements of an array; `i` must be below n. The string one is for arrays of strings; the numeric ones return
 * false when the element's type is no number, or the value does not fit. */
struct gguf_string gguf_array_string(const struct gguf_array *a, uint64_t i);
bool gguf_array_i64(const struct gguf_array *a, uint64_t i, int64_t *ret);
bool gguf_array_f64(const struct gguf_array *a, uint64_t i, double *ret);
bool gguf_array_bool(const struct gguf_array *a, uint64_t i, bool *ret);

/* Tensors in the file's order, and by name (NULL when there is none). */
size_t gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i);
const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name);

/* NULL for a number that the format does not define. */
const struct gguf_tensor_type *gguf_tensor_type(uint32_t type);
/* "u32", "string"…; "unknown" for a number that is none. */
const char *gguf_type_name(enum gguf_type type);

/* True when both are the same bytes. */
bool gguf_string_equal(struct gguf_string s, const char *text);
