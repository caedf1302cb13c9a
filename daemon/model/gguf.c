/* SPDX-License-Identifier: MIT */
#include "gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

#include "base/util.h"
#include "cursor.h"
#include "gguf-split.h"
#include "mapped.h"
#include "strmap.h"

/* The fewest bytes that a key with its value, and a tensor's description, take in the file: what bounds their
 * counts before anything is allocated. */
#define PAIR_BYTES_MIN   (sizeof(uint64_t) + 1 + sizeof(uint32_t) + 1)
#define TENSOR_BYTES_MIN (sizeof(uint64_t) + 1 + 2 * sizeof(uint32_t) + 2 * sizeof(uint64_t))

struct gguf_pair {
        struct gguf_string key;
        enum gguf_type type;
        const uint8_t *scalar;
        struct gguf_string string;
        struct gguf_array array;
        uint64_t *index; /* what array.index points to; ours to free */
};

struct gguf {
        char *path;
        const char *name; /* in path */
        struct gguf_file file;
        struct mapped mapped; /* zeros: bytes in memory */
        uint32_t version;
        uint64_t alignment, n_pairs, n_tensors;
        struct gguf_pair *pairs;
        struct gguf_tensor *tensors;
        struct strmap keys, names;
        struct gguf **parts; /* [n_parts] the other files of a split model, in order */
        size_t n_parts;
};

/* What is being parsed, for the messages. */
struct parser {
        struct gguf *g;
        struct cursor at;
        struct reason *reason;
};

#define NAME_SHOWN 80
#define SHOWN(s)   (int) MIN((s).size, (uint64_t) NAME_SHOWN), (s).data

#define refuse(p, where, format, ...)                                                                        \
        reason_return((p)->reason, GGUF_E_INVALID, "%.60s: " format " (byte %" PRIu64 ")", (p)->g->name,     \
                      ##__VA_ARGS__, (uint64_t) (where))

static uint32_t scalar_size(enum gguf_type type) {
        static const uint8_t sizes[_GGUF_TYPE_MAX] = {
                [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2, [GGUF_I16] = 2,
                [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1,
                [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
        };

        return (unsigned) type < _GGUF_TYPE_MAX ? sizes[type] : 0;
}

bool gguf_string_equal(struct gguf_string s, const char *text) {
        return s.size == strlen(text) && memcmp(s.data, text, s.size) == 0;
}

static bool read_string(struct cursor *c, struct gguf_string *ret) {
        struct cursor next = *c;
        const uint8_t *data;
        uint64_t size;

        if (!cursor_u64(&next, &size))
                return false;
        data = cursor_take(&next, size);
        if (!data)
                return false;
        *ret = (struct gguf_string) { .data = (const char *) data, .size = size };
        *c = next;
        return true;
}

/* A key or a tensor's name. */
static int read_name(struct parser *p, const char *what, uint64_t number, struct gguf_string *ret) {
        const uint64_t where = p->at.offset;
        struct gguf_string s;

        if (!read_string(&p->at, &s))
                return refuse(p, where, "the name of %s %" PRIu64 " runs past the end of the file", what,
                              number);
        if (s.size == 0 || s.size > GGUF_NAME_MAX)
                return refuse(p, where, "the name of %s %" PRIu64 " has %" PRIu64 " bytes, not 1 to %d", what,
                              number, s.size, GGUF_NAME_MAX);
        if (memchr(s.data, '\0', s.size))
                return refuse(p, where, "the name of %s %" PRIu64 " contains a zero byte", what, number);
        *ret = s;
        return 0;
}

static int check_bools(struct parser *p, const struct gguf_pair *pair, const uint8_t *data, uint64_t n) {
        for (uint64_t i = 0; i < n; i++)
                if (data[i] > 1)
                        return refuse(p, data + i - p->at.base, "'%.*s' holds %u where a bool is 0 or 1",
                                      SHOWN(pair->key), data[i]);
        return 0;
}

/* Each string takes at least its length field, so the index is no larger than the array's part of the file.
 */
static int read_string_array(struct parser *p, struct gguf_pair *pair) {
        struct gguf_array *a = &pair->array;

        if (a->n > cursor_left(&p->at) / sizeof(uint64_t))
                return refuse(p, p->at.offset,
                              "'%.*s' announces %" PRIu64 " strings, more than the file can hold",
                              SHOWN(pair->key), a->n);
        a->index = pair->index = malloc((a->n + 1) * sizeof(*pair->index));
        if (!pair->index)
                return -ENOMEM;
        for (uint64_t i = 0; i < a->n; i++) {
                const uint64_t where = p->at.offset;
                struct gguf_string s;

                pair->index[i] = (uint64_t) (p->at.base + where - a->data);
                if (!read_string(&p->at, &s))
                        return refuse(p, where, "string %" PRIu64 " of '%.*s' runs past the end of the file",
                                      i, SHOWN(pair->key));
        }
        pair->index[a->n] = (uint64_t) (p->at.base + p->at.offset - a->data);
        return 0;
}

static int read_array(struct parser *p, struct gguf_pair *pair) {
        struct gguf_array *a = &pair->array;
        const uint64_t where = p->at.offset;
        uint32_t type;

        if (!cursor_u32(&p->at, &type) || !cursor_u64(&p->at, &a->n))
                return refuse(p, where, "the array '%.*s' runs past the end of the file", SHOWN(pair->key));
        if (type >= _GGUF_TYPE_MAX || type == GGUF_ARRAY)
                return refuse(p, where,
                              "the array '%.*s' has elements of type %u (%s), not a scalar or string",
                              SHOWN(pair->key), type, gguf_type_name(type));
        a->type = type;
        a->data = p->at.base + p->at.offset;
        if (type == GGUF_STRING)
                return read_string_array(p, pair);
        if (a->n > cursor_left(&p->at) / scalar_size(type))
                return refuse(p, where,
                              "'%.*s' announces %" PRIu64 " elements of %s, more than the file can hold",
                              SHOWN(pair->key), a->n, gguf_type_name(type));
        cursor_take(&p->at, a->n * scalar_size(type));
        return type == GGUF_BOOL ? check_bools(p, pair, a->data, a->n) : 0;
}

static int read_value(struct parser *p, struct gguf_pair *pair) {
        const uint64_t where = p->at.offset;
        uint32_t type;

        if (!cursor_u32(&p->at, &type))
                return refuse(p, where, "the type of '%.*s' runs past the end of the file", SHOWN(pair->key));
        if (type >= _GGUF_TYPE_MAX)
                return refuse(p, where, "'%.*s' has a value of unknown type %u", SHOWN(pair->key), type);
        pair->type = type;
        if (type == GGUF_ARRAY)
                return read_array(p, pair);
        if (type == GGUF_STRING) {
                if (!read_string(&p->at, &pair->string))
                        return refuse(p, where, "the string '%.*s' runs past the end of the file",
                                      SHOWN(pair->key));
                return 0;
        }
        pair->scalar = cursor_take(&p->at, scalar_size(type));
        if (!pair->scalar)
                return refuse(p, where, "the value of '%.*s' runs past the end of the file",
                              SHOWN(pair->key));
        return type == GGUF_BOOL ? check_bools(p, pair, pair->scalar, 1) : 0;
}

static int read_pairs(struct parser *p) {
        struct gguf *g = p->g;
        const uint64_t n = g->n_pairs;
        int r;

        g->n_pairs = 0;
        if (n > cursor_left(&p->at) / PAIR_BYTES_MIN || n > UINT32_MAX)
                return refuse(p, 16, "the header announces %" PRIu64 " keys, more than the file can hold", n);
        g->pairs = calloc(MAX(n, UINT64_C(1)), sizeof(*g->pairs));
        if (!g->pairs)
                return -ENOMEM;
        r = strmap_init(&g->keys, n);
        if (r)
                return r;
        for (uint64_t i = 0; i < n; i++) {
                struct gguf_pair *pair = &g->pairs[g->n_pairs++];
                const uint64_t where = p->at.offset;

                r = read_name(p, "key", i, &pair->key);
                if (r)
                        return r;
                if (!strmap_add(&g->keys, pair->key.data, (uint32_t) pair->key.size, (uint32_t) i))
                        return refuse(p, where, "the key '%.*s' is there twice", SHOWN(pair->key));
                r = read_value(p, pair);
                if (r)
                        return r;
        }
        return 0;
}

static int read_alignment(struct parser *p) {
        uint32_t alignment;
        int r;

        r = gguf_get_u32_or(p->g, "general.alignment", GGUF_ALIGNMENT_DEFAULT, &alignment, p->reason);
        if (r)
                return GGUF_E_INVALID;
        /* A multiple of 8, as the format demands, also keeps every number of a tensor on its natural
         * boundary. */
        if (!is_power_of_two(alignment) || alignment < 8 || alignment > GGUF_ALIGNMENT_MAX)
                return refuse(p, p->at.offset, "'general.alignment' is %u, not a power of two from 8 to %d",
                              alignment, GGUF_ALIGNMENT_MAX);
        p->g->alignment = alignment;
        return 0;
}

static int read_dims(struct parser *p, struct gguf_tensor *t) {
        const uint64_t where = p->at.offset;
        uint64_t product = 1;

        if (!cursor_u32(&p->at, &t->n_dims))
                return refuse(p, where, "the tensor '%.*s' runs past the end of the file", SHOWN(t->name));
        if (t->n_dims == 0 || t->n_dims > GGUF_DIMS_MAX)
                return refuse(p, where, "the tensor '%.*s' has %u dimensions, not 1 to %d", SHOWN(t->name),
                              t->n_dims, GGUF_DIMS_MAX);
        for (uint32_t i = 0; i < GGUF_DIMS_MAX; i++) {
                t->dims[i] = 1;
                if (i < t->n_dims && !cursor_u64(&p->at, &t->dims[i]))
                        return refuse(p, where, "the tensor '%.*s' runs past the end of the file",
                                      SHOWN(t->name));
                if (t->dims[i] == 0)
                        return refuse(p, where, "dimension %u of the tensor '%.*s' is 0", i, SHOWN(t->name));
                if (!mul_u64(product, t->dims[i], &product) || product > INT64_MAX)
                        return refuse(p, where, "the dimensions of the tensor '%.*s' overflow",
                                      SHOWN(t->name));
        }
        return 0;
}

static int read_tensor(struct parser *p, uint64_t number, struct gguf_tensor *t) {
        const struct gguf_tensor_type *type;
        uint64_t where, blocks;
        int r;

        r = read_name(p, "tensor", number, &t->name);
        if (r)
                return r;
        r = read_dims(p, t);
        if (r)
                return r;
        where = p->at.offset;
        if (!cursor_u32(&p->at, &t->type) || !cursor_u64(&p->at, &t->offset))
                return refuse(p, where, "the tensor '%.*s' runs past the end of the file", SHOWN(t->name));
        type = gguf_tensor_type(t->type);
        if (!type)
                return refuse(p, where, "the tensor '%.*s' has the unknown type %u", SHOWN(t->name), t->type);
        if (t->dims[0] % type->block_values != 0)
                return refuse(p, where,
                              "the tensor '%.*s' has rows of %" PRIu64 " values, not a multiple of %s's %u",
                              SHOWN(t->name), t->dims[0], type->name, type->block_values);
        blocks = t->dims[0] / type->block_values * t->dims[1] * t->dims[2] * t->dims[3];
        if (!mul_u64(blocks, type->block_bytes, &t->size))
                return refuse(p, where, "the size of the tensor '%.*s' overflows", SHOWN(t->name));
        if (t->offset % p->g->alignment != 0)
                return refuse(p, where,
                              "the data of the tensor '%.*s' is at %" PRIu64 ", not a multiple of %" PRIu64,
                              SHOWN(t->name), t->offset, p->g->alignment);
        return 0;
}

/* Offsets count from the first aligned byte after the descriptions; now that it is known, make them the
 * file's. */
static int place_tensors(struct parser *p) {
        struct gguf *g = p->g;
        uint64_t start;

        if (g->n_tensors == 0)
                return 0;
        if (!align_u64(p->at.offset, g->alignment, &start) || start > p->at.size)
                return refuse(p, p->at.offset, "the file ends before the tensors' data");
        for (uint64_t i = 0; i < g->n_tensors; i++) {
                struct gguf_tensor *t = &g->tensors[i];
                const uint64_t left = p->at.size - start;

                if (t->offset > left || t->size > left - t->offset)
                        return refuse(p, start,
                                      "the tensor '%.*s' needs %" PRIu64 " bytes at %" PRIu64
                                      " after the start of the data, but only %" PRIu64
                                      " are left: incomplete file?",
                                      SHOWN(t->name), t->size, t->offset, left);
                t->offset += start;
                t->data = p->at.base + t->offset;
        }
        return 0;
}

static int read_tensors(struct parser *p) {
        struct gguf *g = p->g;
        const uint64_t n = g->n_tensors;
        int r;

        g->n_tensors = 0;
        if (n > cursor_left(&p->at) / TENSOR_BYTES_MIN || n > UINT32_MAX)
                return refuse(p, 8, "the header announces %" PRIu64 " tensors, more than the file can hold",
                              n);
        g->tensors = calloc(MAX(n, UINT64_C(1)), sizeof(*g->tensors));
        if (!g->tensors)
                return -ENOMEM;
        r = strmap_init(&g->names, n);
        if (r)
                return r;
        for (; g->n_tensors < n; g->n_tensors++) {
                struct gguf_tensor *t = &g->tensors[g->n_tensors];
                const uint64_t where = p->at.offset;

                r = read_tensor(p, g->n_tensors, t);
                if (r)
                        return r;
                if (!strmap_add(&g->names, t->name.data, (uint32_t) t->name.size, (uint32_t) g->n_tensors))
                        return refuse(p, where, "the tensor '%.*s' is there twice", SHOWN(t->name));
        }
        return place_tensors(p);
}

static int read_header(struct parser *p) {
        const uint8_t *magic = cursor_take(&p->at, 4);

        if (!magic || memcmp(magic, "GGUF", 4) != 0)
                return refuse(p, 0, "not a GGUF file: it does not start with 'GGUF'");
        if (!cursor_u32(&p->at, &p->g->version))
                return refuse(p, 4, "the file ends within its header");
        if ((p->g->version & 0xffff) == 0 && p->g->version != 0)
                return refuse(p, 4, "a big-endian GGUF file; convert it to little-endian");
        if (p->g->version != 2 && p->g->version != 3)
                return refuse(p, 4, "GGUF version %u; known are 2 and 3", p->g->version);
        if (!cursor_u64(&p->at, &p->g->n_tensors) || !cursor_u64(&p->at, &p->g->n_pairs))
                return refuse(p, 8, "the file ends within its header");
        return 0;
}

static int gguf_parse(struct gguf *g, struct reason *reason) {
        struct parser p = {
                .g = g,
                .at = { .base = g->file.data, .size = g->file.size },
                .reason = reason,
        };
        int r;

        r = read_header(&p);
        if (r == 0)
                r = read_pairs(&p);
        if (r == 0)
                r = read_alignment(&p);
        if (r == 0)
                r = read_tensors(&p);
        return r;
}

static int gguf_new(struct gguf **ret, const char *path) {
        _cleanup_(gguf_freep) struct gguf *g = calloc(1, sizeof(*g));
        const char *slash;

        if (!g)
                return -ENOMEM;
        g->path = strdup(path);
        if (!g->path)
                return -ENOMEM;
        slash = strrchr(g->path, '/');
        g->name = slash ? slash + 1 : g->path;
        g->file.path = g->path;
        g->file.fd = -1;
        *ret = steal_ptr(g);
        return 0;
}

static int gguf_map(struct gguf *g, struct reason *reason) {
        _cleanup_(closep) int fd = -1;
        struct stat st;
        int r;

        /* O_NONBLOCK: a pipe in the place of a file must not hold us up until somebody writes to it. */
        fd = open(g->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (fd < 0 || fstat(fd, &st) < 0)
                return reason_return(reason, -errno, "%.160s: cannot open: %s", g->path, strerror(errno));
        if (!S_ISREG(st.st_mode))
                return reason_return(reason, GGUF_E_INVALID, "%.160s: not a regular file", g->path);
        if (st.st_size == 0)
                return reason_return(reason, GGUF_E_INVALID, "%.160s: the file is empty", g->path);
        r = mapped_init(&g->mapped, fd, (uint64_t) st.st_size);
        if (r)
                return reason_return(reason, r, "%.160s: cannot map: %s", g->path, strerror(-r));
        g->file.data = g->mapped.data;
        g->file.size = (uint64_t) st.st_size;
        g->file.device = st.st_dev;
        g->file.inode = st.st_ino;
        g->file.modified = st.st_mtim;
        g->file.fd = steal_fd(&fd);
        return 0;
}

bool gguf_file_is(const struct gguf_file *file, const struct stat *st) {
        return file->fd >= 0 && file->device == st->st_dev && file->inode == st->st_ino &&
               file->size == (uint64_t) st->st_size && file->modified.tv_sec == st->st_mtim.tv_sec &&
               file->modified.tv_nsec == st->st_mtim.tv_nsec;
}

bool gguf_file_same(const struct gguf_file *a, const struct gguf_file *b) {
        const struct stat st = { .st_dev = b->device, .st_ino = b->inode, .st_size = (off_t) b->size,
                                 .st_mtim = b->modified };

        return b->fd >= 0 && gguf_file_is(a, &st);
}

bool gguf_lost(const struct gguf *g) {
        bool lost = g->mapped.lost;

        for (size_t i = 0; i < g->n_parts; i++)
                lost |= g->parts[i]->mapped.lost;
        return lost;
}

static bool was_written_to(const struct gguf_file *file) {
        struct stat st;

        return file->fd >= 0 && (fstat(file->fd, &st) < 0 || !gguf_file_is(file, &st));
}

bool gguf_intact(const struct gguf *g) {
        for (size_t i = 0; i < gguf_n_files(g); i++)
                if (was_written_to(gguf_file(g, i)))
                        return false;
        return !gguf_lost(g);
}

static int open_one(struct gguf **ret, const char *path, struct reason *reason) {
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        int r;

        r = gguf_new(&g, path);
        if (r)
                return r;
        r = gguf_map(g, reason);
        if (r)
                return r;
        r = gguf_parse(g, reason);
        if (r)
                return r;
        *ret = steal_ptr(g);
        return 0;
}

static int open_part(struct gguf *g, const struct gguf_split *split, uint32_t number, struct reason *reason) {
        _cleanup_(gguf_freep) struct gguf *part = NULL;
        _cleanup_(freep) char *path = NULL;
        struct gguf_split own;
        int r;

        r = gguf_split_path(&path, g->path, number, split->count, reason);
        if (r)
                return r;
        r = open_one(&part, path, reason);
        if (r == -ENOENT)
                return reason_return(reason, GGUF_E_INVALID,
                                     "%.160s: part %u of %u is missing; put it beside the others", path, number + 1,
                                     split->count);
        if (!r)
                r = gguf_split_read(&own, part, reason);
        if (r)
                return r;
        if (own.number != number || own.count != split->count)
                return reason_return(reason, GGUF_E_INVALID,
                                     "%.60s: says that it is part %u of %u, its name %u of %u", part->name,
                                     own.number + 1, own.count, number + 1, split->count);
        g->parts[g->n_parts++] = steal_ptr(part);
        return 0;
}

static int add_tensors(struct gguf *g, const struct gguf *part, uint32_t file, struct reason *reason) {
        for (uint64_t i = 0; i < part->n_tensors; i++) {
                struct gguf_tensor *t = &g->tensors[g->n_tensors];

                *t = part->tensors[i];
                t->file = file;
                if (!strmap_add(&g->names, t->name.data, (uint32_t) t->name.size, (uint32_t) g->n_tensors))
                        return reason_return(reason, GGUF_E_INVALID, "%.60s: the tensor '%.*s' is in another part, too",
                                             part->name, SHOWN(t->name));
                g->n_tensors++;
        }
        return 0;
}

/* The tensors of all parts, as if they were of one file. */
static int merge_tensors(struct gguf *g, const struct gguf_split *split, struct reason *reason) {
        uint64_t total = g->n_tensors;
        struct gguf_tensor *tensors;
        int r;

        for (size_t i = 0; i < g->n_parts; i++)
                total += g->parts[i]->n_tensors;
        if (total > UINT32_MAX || (split->tensors != UINT32_MAX && total != split->tensors))
                return reason_return(reason, GGUF_E_INVALID,
                                     "%.60s: the %u parts have %" PRIu64 " tensors, 'split.tensors.count' says %u",
                                     g->name, split->count, total, split->tensors);
        tensors = realloc(g->tensors, MAX(total, UINT64_C(1)) * sizeof(*tensors));
        if (!tensors)
                return -ENOMEM;
        g->tensors = tensors;
        strmap_deinit(&g->names);
        r = strmap_init(&g->names, total);
        for (uint64_t i = 0; !r && i < g->n_tensors; i++)
                strmap_add(&g->names, tensors[i].name.data, (uint32_t) tensors[i].name.size, (uint32_t) i);
        for (size_t i = 0; !r && i < g->n_parts; i++)
                r = add_tensors(g, g->parts[i], (uint32_t) i + 1, reason);
        return r;
}

static int open_parts(struct gguf *g, struct reason *reason) {
        struct gguf_split split;
        int r;

        r = gguf_split_read(&split, g, reason);
        if (r || split.count == 1)
                return r;
        if (split.number > 0)
                return reason_return(reason, GGUF_E_INVALID, "%.60s: part %u of %u; open the first one, the others are "
                                     "found beside it", g->name, split.number + 1, split.count);
        g->parts = calloc(split.count - 1, sizeof(*g->parts));
        if (!g->parts)
                return -ENOMEM;
        for (uint32_t i = 1; i < split.count; i++) {
                r = open_part(g, &split, i, reason);
                if (r)
                        return r;
        }
        return merge_tensors(g, &split, reason);
}

int gguf_open(struct gguf **ret, const char *path, struct reason *reason) {
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        int r;

        r = open_one(&g, path, reason);
        if (!r)
                r = open_parts(g, reason);
        if (!r)
                *ret = steal_ptr(g);
        return r;
}

int gguf_open_memory(struct gguf **ret, const void *data, size_t size, const char *name,
                     struct reason *reason) {
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        struct gguf_split split;
        int r;

        if ((uintptr_t) data % 64 != 0)
                return -EINVAL;
        r = gguf_new(&g, name);
        if (r)
                return r;
        g->file.data = data;
        g->file.size = size;
        r = gguf_parse(g, reason);
        if (r)
                return r;
        r = gguf_split_read(&split, g, reason);
        if (r)
                return r;
        if (split.count > 1)
                return reason_return(reason, GGUF_E_INVALID, "%.60s: one of %u files, which has no others beside it",
                                     g->name, split.count);
        *ret = steal_ptr(g);
        return 0;
}

void gguf_free(struct gguf *g) {
        if (!g)
                return;
        for (size_t i = 0; i < g->n_parts; i++)
                gguf_free(g->parts[i]);
        free(g->parts);
        for (uint64_t i = 0; i < g->n_pairs; i++)
                free(g->pairs[i].index);
        free(g->pairs);
        free(g->tensors);
        strmap_deinit(&g->keys);
        strmap_deinit(&g->names);
        mapped_deinit(&g->mapped);
        close_fd(g->file.fd);
        free(g->path);
        free(g);
}

void gguf_freep(struct gguf **g) {
        gguf_free(*g);
}

const char *gguf_name(const struct gguf *g) {
        return g->name;
}

size_t gguf_n_files(const struct gguf *g) {
        return 1 + g->n_parts;
}

const struct gguf_file *gguf_file(const struct gguf *g, size_t i) {
        return i == 0 ? &g->file : &g->parts[i - 1]->file;
}

uint32_t gguf_version(const struct gguf *g) {
        return g->version;
}

uint64_t gguf_alignment(const struct gguf *g) {
        return g->alignment;
}

size_t gguf_n_keys(const struct gguf *g) {
        return g->n_pairs;
}

struct gguf_string gguf_key(const struct gguf *g, size_t i, enum gguf_type *ret_type) {
        *ret_type = g->pairs[i].type;
        return g->pairs[i].key;
}

static const struct gguf_pair *gguf_pair(const struct gguf *g, const char *key) {
        uint32_t i;

        return strmap_get(&g->keys, key, strlen(key), &i) ? &g->pairs[i] : NULL;
}

bool gguf_has(const struct gguf *g, const char *key) {
        return gguf_pair(g, key) != NULL;
}

/* An integer as its magnitude and sign, since u64 and i64 have no common type. */
static bool load_integer(enum gguf_type type, const uint8_t *p, uint64_t *ret, bool *ret_negative) {
        const uint32_t size = scalar_size(type);
        uint64_t raw = 0;

        if (type == GGUF_F32 || type == GGUF_F64 || type == GGUF_BOOL || size == 0)
                return false;
        memcpy(&raw, p, size);
        raw = le64toh(raw);
        *ret_negative = false;
        if (type == GGUF_I8 || type == GGUF_I16 || type == GGUF_I32 || type == GGUF_I64) {
                const unsigned shift = 64 - 8 * size;
                const int64_t value = (int64_t) (raw << shift) >> shift;

                *ret_negative = value < 0;
                raw = value < 0 ? -(uint64_t) value : (uint64_t) value;
        }
        *ret = raw;
        return true;
}

static bool load_u64(enum gguf_type type, const uint8_t *p, uint64_t *ret) {
        uint64_t value;
        bool negative;

        if (!load_integer(type, p, &value, &negative) || negative)
                return false;
        *ret = value;
        return true;
}

static bool load_i64(enum gguf_type type, const uint8_t *p, int64_t *ret) {
        uint64_t value;
        bool negative;

        if (!load_integer(type, p, &value, &negative) || value > (uint64_t) INT64_MAX + negative)
                return false;
        *ret = negative ? (int64_t) -value : (int64_t) value;
        return true;
}

static bool load_f64(enum gguf_type type, const uint8_t *p, double *ret) {
        uint64_t value, raw64;
        uint32_t raw32;
        float f32;
        bool negative;

        if (type == GGUF_F32) {
                memcpy(&raw32, p, sizeof(raw32));
                raw32 = le32toh(raw32);
                memcpy(&f32, &raw32, sizeof(f32));
                *ret = f32;
                return true;
        }
        if (type == GGUF_F64) {
                memcpy(&raw64, p, sizeof(raw64));
                raw64 = le64toh(raw64);
                memcpy(ret, &raw64, sizeof(*ret));
                return true;
        }
        if (!load_integer(type, p, &value, &negative))
                return false;
        *ret = negative ? -(double) value : (double) value;
        return true;
}

/* Finds a key whose value must be a scalar of the kind `wanted` names. */
static int find_scalar(const struct gguf *g, const char *key, const char *wanted,
                       const struct gguf_pair **ret, struct reason *reason) {
        const struct gguf_pair *pair = gguf_pair(g, key);

        if (!pair)
                return reason_return(reason, GGUF_E_MISSING, "%.60s: the key '%s' is missing", g->name, key);
        if (!pair->scalar)
                return reason_return(reason, GGUF_E_TYPE, "%.60s: '%s' is of type %s where %s is needed",
                                     g->name, key, gguf_type_name(pair->type), wanted);
        *ret = pair;
        return 0;
}

static int wrong_scalar(const struct gguf *g, const struct gguf_pair *pair, const char *wanted,
                        struct reason *reason) {
        uint64_t value;
        bool negative;

        if (load_integer(pair->type, pair->scalar, &value, &negative))
                return reason_return(reason, GGUF_E_TYPE,
                                     "%.60s: '%.*s' is %s%" PRIu64 ", which does not fit %s", g->name,
                                     SHOWN(pair->key), negative ? "-" : "", value, wanted);
        return reason_return(reason, GGUF_E_TYPE, "%.60s: '%.*s' is of type %s where %s is needed", g->name,
                             SHOWN(pair->key), gguf_type_name(pair->type), wanted);
}

int gguf_get_u64(const struct gguf *g, const char *key, uint64_t *ret, struct reason *reason) {
        const struct gguf_pair *pair;
        int r;

        r = find_scalar(g, key, "an unsigned integer", &pair, reason);
        if (r)
                return r;
        if (!load_u64(pair->type, pair->scalar, ret))
                return wrong_scalar(g, pair, "an unsigned integer", reason);
        return 0;
}

int gguf_get_u32(const struct gguf *g, const char *key, uint32_t *ret, struct reason *reason) {
        static const char wanted[] = "an unsigned 32-bit integer";
        const struct gguf_pair *pair;
        uint64_t value;
        int r;

        r = find_scalar(g, key, wanted, &pair, reason);
        if (r)
                return r;
        if (!load_u64(pair->type, pair->scalar, &value) || value > UINT32_MAX)
                return wrong_scalar(g, pair, wanted, reason);
        *ret = (uint32_t) value;
        return 0;
}

int gguf_get_i64(const struct gguf *g, const char *key, int64_t *ret, struct reason *reason) {
        const struct gguf_pair *pair;
        int r;

        r = find_scalar(g, key, "an integer", &pair, reason);
        if (r)
                return r;
        if (!load_i64(pair->type, pair->scalar, ret))
                return wrong_scalar(g, pair, "a signed integer", reason);
        return 0;
}

int gguf_get_f32(const struct gguf *g, const char *key, float *ret, struct reason *reason) {
        const struct gguf_pair *pair;
        double value;
        int r;

        r = find_scalar(g, key, "a number", &pair, reason);
        if (r)
                return r;
        if (!load_f64(pair->type, pair->scalar, &value))
                return wrong_scalar(g, pair, "a number", reason);
        *ret = (float) value;
        return 0;
}

int gguf_get_bool(const struct gguf *g, const char *key, bool *ret, struct reason *reason) {
        const struct gguf_pair *pair;
        int r;

        r = find_scalar(g, key, "a bool", &pair, reason);
        if (r)
                return r;
        if (pair->type != GGUF_BOOL)
                return wrong_scalar(g, pair, "a bool", reason);
        *ret = pair->scalar[0] != 0;
        return 0;
}

/* A string or an array. */
static int find_other(const struct gguf *g, const char *key, enum gguf_type type,
                      const struct gguf_pair **ret, struct reason *reason) {
        const struct gguf_pair *pair = gguf_pair(g, key);

        if (!pair)
                return reason_return(reason, GGUF_E_MISSING, "%.60s: the key '%s' is missing", g->name, key);
        if (pair->type != type)
                return reason_return(reason, GGUF_E_TYPE, "%.60s: '%s' is of type %s where %s is needed",
                                     g->name, key, gguf_type_name(pair->type), gguf_type_name(type));
        *ret = pair;
        return 0;
}

int gguf_get_string(const struct gguf *g, const char *key, struct gguf_string *ret, struct reason *reason) {
        const struct gguf_pair *pair;
        int r;

        r = find_other(g, key, GGUF_STRING, &pair, reason);
        if (r == 0)
                *ret = pair->string;
        return r;
}

int gguf_get_array(const struct gguf *g, const char *key, struct gguf_array *ret, struct reason *reason) {
        const struct gguf_pair *pair;
        int r;

        r = find_other(g, key, GGUF_ARRAY, &pair, reason);
        if (r == 0)
                *ret = pair->array;
        return r;
}

#define DEFINE_OR(_name, _type)                                                                              \
        int gguf_get_##_name##_or(const struct gguf *g, const char *key, _type otherwise, _type *ret,        \
                                  struct reason *reason) {                                                   \
                if (!gguf_has(g, key)) {                                                                     \
                        *ret = otherwise;                                                                    \
                        return 0;                                                                            \
                }                                                                                            \
                return gguf_get_##_name(g, key, ret, reason);                                                \
        }

DEFINE_OR(u32, uint32_t)
DEFINE_OR(f32, float)
DEFINE_OR(bool, bool)

struct gguf_string gguf_array_string(const struct gguf_array *a, uint64_t i) {
        const uint64_t start = a->index[i] + sizeof(uint64_t);

        /* Not the length in the file: that was checked once, and the file may have been written to since. */
        return (struct gguf_string) { .data = (const char *) a->data + start,
                                     .size = a->index[i + 1] - start };
}

bool gguf_array_i64(const struct gguf_array *a, uint64_t i, int64_t *ret) {
        return load_i64(a->type, a->data + i * scalar_size(a->type), ret);
}

bool gguf_array_f64(const struct gguf_array *a, uint64_t i, double *ret) {
        return load_f64(a->type, a->data + i * scalar_size(a->type), ret);
}

bool gguf_array_bool(const struct gguf_array *a, uint64_t i, bool *ret) {
        if (a->type != GGUF_BOOL)
                return false;
        *ret = a->data[i] != 0;
        return true;
}

size_t gguf_n_tensors(const struct gguf *g) {
        return g->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i) {
        return &g->tensors[i];
}

const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name) {
        uint32_t i;

        return strmap_get(&g->names, name, strlen(name), &i) ? &g->tensors[i] : NULL;
}
