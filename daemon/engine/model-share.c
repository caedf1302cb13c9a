/* SPDX-License-Identifier: MIT */
#include "model-file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "base/util.h"

enum {
        /* An exchanged range is a mapping of its own, of which a process has 65530: smaller ones are not worth it. */
        SHARE_BYTES_MIN = 16 * 1024,
        /* Tensors with one fingerprint that are compared in full: a hostile file has many. */
        SHARE_TRIES_MAX = 4,
};

/* Compared at a time, so that whoever wants it to end does not wait long. */
#define SHARE_CHUNK (UINT64_C(16) << 20)

/* The whole pages of a tensor. What is left over at both ends shares its page with other tensors. */
struct range {
        uint64_t offset, size;
        uint64_t fingerprint; /* of the first and the last page, and of where they are */
        uint32_t tensor;
};

struct ranges {
        struct range *items; /* by fingerprint */
        size_t n;
};

static void ranges_deinit(struct ranges *r) {
        free(r->items);
}

/* A file of an idle model may have been cut since: then its pages are not to be touched. `data` begins a page. */
static bool readable(const uint8_t *data, uint64_t size) {
        return madvise((void *) data, size, MADV_POPULATE_READ) == 0;
}

static bool whole_pages(const struct gguf_tensor *t, uint64_t page, struct range *ret) {
        uint64_t begin = (t->offset + page - 1) & ~(page - 1), end = (t->offset + t->size) & ~(page - 1);
        const uint8_t *data = (const uint8_t *) t->data + (begin - t->offset);

        if (end < begin || end - begin < SHARE_BYTES_MIN || !readable(data, page) ||
            !readable(data + (end - begin) - page, page))
                return false;
        *ret = (struct range) { .offset = begin, .size = end - begin };
        ret->fingerprint = hash_mix_u64(t->size, begin - t->offset);
        ret->fingerprint = hash_mix(ret->fingerprint, data, page);
        ret->fingerprint = hash_mix(ret->fingerprint, data + ret->size - page, page);
        return true;
}

static int range_compare(const void *a, const void *b) {
        const struct range *x = a, *y = b;

        return x->fingerprint < y->fingerprint ? -1 : x->fingerprint > y->fingerprint;
}

static int ranges_init(struct ranges *ret, const struct model_file *f, const _Atomic bool *stop) {
        uint64_t page = (uint64_t) sysconf(_SC_PAGESIZE);
        size_t n = gguf_n_tensors(f->gguf);

        ret->items = calloc(n + 1, sizeof(*ret->items));
        if (!ret->items)
                return -ENOMEM;
        for (size_t i = 0; i < n && !atomic_load(stop); i++)
                if (whole_pages(gguf_tensor_at(f->gguf, i), page, &ret->items[ret->n]))
                        ret->items[ret->n++].tensor = (uint32_t) i;
        qsort(ret->items, ret->n, sizeof(*ret->items), range_compare);
        return 0;
}

static const uint8_t *range_data(const struct model_file *f, const struct range *range) {
        const struct gguf_tensor *t = gguf_tensor_at(f->gguf, range->tensor);

        return (const uint8_t *) t->data + (range->offset - t->offset);
}

static bool range_equal(const uint8_t *a, const uint8_t *b, uint64_t size, const _Atomic bool *stop) {
        for (uint64_t at = 0; at < size; at += SHARE_CHUNK) {
                uint64_t n = MIN(SHARE_CHUNK, size - at);

                if (atomic_load(stop) || !readable(a + at, n) || !readable(b + at, n) || memcmp(a + at, b + at, n) != 0)
                        return false;
        }
        return true;
}

static struct model_file_origin origin_of(struct model_file *f, uint32_t tensor) {
        if (f->origins && f->origins[tensor].file)
                return f->origins[tensor];
        return (struct model_file_origin) { .file = f, .tensor = tensor };
}

static bool origin_equal(struct model_file_origin a, struct model_file_origin b) {
        return a.file == b.file && a.tensor == b.tensor;
}

static bool has_root(const struct model_file *f, const struct model_file *root) {
        for (const struct model_file_root *r = f->roots; r; r = r->next)
                if (r->file == root)
                        return true;
        return false;
}

/* Its descriptor is needed for as long as others find the content here. */
static int add_root(struct model_file *f, struct model_file *file) {
        struct model_file_root *root;

        if (has_root(f, file))
                return 0;
        root = malloc(sizeof(*root));
        if (!root)
                return -ENOMEM;
        *root = (struct model_file_root) { .file = model_file_ref(file), .next = f->roots };
        f->roots = root;
        return 0;
}

/* From here on the range shows the pages of the other file. The kernel exchanges a mapping as a whole, so whoever reads
 * meanwhile finds the one or the other, and the bytes are the same. */
static int exchange(struct model_file *f, const struct range *range, struct model_file_origin origin) {
        const struct gguf_tensor *mine = gguf_tensor_at(f->gguf, range->tensor),
                                 *other = gguf_tensor_at(origin.file->gguf, origin.tensor);
        uint64_t at = other->offset + (range->offset - mine->offset);
        int r;

        r = add_root(f, origin.file);
        if (r)
                return r;
        if (mmap((void *) range_data(f, range), range->size, PROT_READ, MAP_SHARED | MAP_FIXED,
                 gguf_file(origin.file->gguf, other->file)->fd, (off_t) at) == MAP_FAILED)
                return -errno;
        f->origins[range->tensor] = origin;
        return 0;
}

/* The first of those with the fingerprint. */
static const struct range *range_find(const struct ranges *ranges, uint64_t fingerprint) {
        size_t low = 0, high = ranges->n;

        while (low < high) {
                size_t middle = low + (high - low) / 2;

                if (ranges->items[middle].fingerprint < fingerprint)
                        low = middle + 1;
                else
                        high = middle;
        }
        return ranges->items + low;
}

/* Whether a range shows the same pages as one of the other file, after an exchange if it has to be: 1 or 0. */
static int share_range(struct model_file *f, const struct range *range, struct model_file *other,
                       const struct ranges *theirs, const _Atomic bool *stop) {
        const struct range *end = theirs->items + theirs->n, *candidate = range_find(theirs, range->fingerprint);
        struct model_file_origin mine = origin_of(f, range->tensor);
        int r;

        for (int i = 0; i < SHARE_TRIES_MAX && candidate < end && candidate->fingerprint == range->fingerprint;
             i++, candidate++) {
                struct model_file_origin origin = origin_of(other, candidate->tensor);

                if (origin_equal(mine, origin))
                        return 1;
                if (mine.file != f || candidate->size != range->size ||
                    !range_equal(range_data(f, range), range_data(other, candidate), range->size, stop))
                        continue;
                r = exchange(f, range, origin);
                return r < 0 ? r : 1;
        }
        return 0;
}

static int share_with(struct model_file *f, const struct ranges *mine, struct model_file *other, uint64_t *ret_bytes,
                      const _Atomic bool *stop) {
        _cleanup_(ranges_deinit) struct ranges theirs = {};
        int r;

        r = ranges_init(&theirs, other, stop);
        for (size_t i = 0; i < mine->n && r >= 0 && !atomic_load(stop); i++) {
                r = share_range(f, &mine->items[i], other, &theirs, stop);
                if (r > 0)
                        *ret_bytes += mine->items[i].size;
        }
        return r < 0 ? r : 0;
}

int model_file_share(struct model_file *f, struct model_file *const *others, size_t n, const _Atomic bool *stop) {
        _cleanup_(ranges_deinit) struct ranges mine = {};
        int r;

        if (f->origins)
                return 0;
        f->origins = calloc(gguf_n_tensors(f->gguf) + 1, sizeof(*f->origins));
        f->shares = calloc(n + 1, sizeof(*f->shares));
        if (!f->origins || !f->shares)
                return -ENOMEM;
        r = ranges_init(&mine, f, stop);
        for (size_t i = 0; i < n && r == 0; i++) {
                struct model_file_share *share = &f->shares[f->n_shares];

                if (others[i]->serial >= f->serial || !model_file_intact(others[i]))
                        continue;
                r = share_with(f, &mine, others[i], &share->bytes, stop);
                share->serial = others[i]->serial;
                /* Whoever sees the number sees what is in them. */
                if (share->bytes > 0)
                        atomic_fetch_add(&f->n_shares, 1);
        }
        return r;
}

static uint64_t shared_with(const struct model_file *f, uint64_t serial) {
        uint32_t n = atomic_load(&f->n_shares);

        for (uint32_t i = 0; i < n; i++)
                if (f->shares[i].serial == serial)
                        return f->shares[i].bytes;
        return 0;
}

uint64_t model_file_shared(const struct model_file *a, const struct model_file *b) {
        if (a == b)
                return a->weight_bytes;
        return a->serial > b->serial ? shared_with(a, b->serial) : shared_with(b, a->serial);
}
