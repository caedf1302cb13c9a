/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"
#include "host.h"

struct buffer {
        void *data;
        void *allocation; /* NULL: imported */
        size_t mapped;    /* 0: it is from calloc() */
};

enum { HOST_ALIGN = 64 };

/* Huge pages are taken whole where a byte is written. An arena of KV, which is not dense, is written in as many places
 * at once as it has planes; from this size on what that may waste (240 MiB with 60 layers) is little of it. */
#define HUGE_WORTH (UINT64_C(2) << 30)

static void *align_up(void *data, uintptr_t align) {
        return (void *) (((uintptr_t) data + align - 1) & ~(align - 1));
}

void host_prefer_huge_pages(void *data, size_t size) {
        uintptr_t begin = (uintptr_t) align_up(data, HOST_HUGE_PAGE);
        uintptr_t end = ((uintptr_t) data + size) & ~(uintptr_t) (HOST_HUGE_PAGE - 1);

        if (begin < end)
                (void) madvise((void *) begin, end - begin, MADV_HUGEPAGE);
}

static int map_large(struct buffer *buffer, uint64_t size) {
        buffer->mapped = size + HOST_HUGE_PAGE;
        buffer->allocation = mmap(NULL, buffer->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                                  -1, 0);
        if (buffer->allocation == MAP_FAILED)
                return -ENOMEM;
        buffer->data = align_up(buffer->allocation, HOST_HUGE_PAGE);
        host_prefer_huge_pages(buffer->data, size);
        return 0;
}

static int allocate(struct buffer *buffer, uint64_t size, bool dense) {
        if (size > PTRDIFF_MAX - HOST_HUGE_PAGE)
                return -ENOMEM;
        if (size >= (dense ? (uint64_t) HOST_HUGE_PAGE : HUGE_WORTH))
                return map_large(buffer, size);
        /* calloc() takes large blocks fresh from the kernel: an arena costs memory only where it was written.
         */
        buffer->allocation = calloc(1, size + HOST_ALIGN);
        if (!buffer->allocation)
                return -ENOMEM;
        buffer->data = align_up(buffer->allocation, HOST_ALIGN);
        return 0;
}

int host_buffer_new(struct backend *b, uint64_t size, bool dense, struct buffer **ret) {
        struct buffer *buffer = calloc(1, sizeof(*buffer));
        int r;

        if (!buffer)
                return -ENOMEM;
        r = allocate(buffer, size, dense);
        if (r) {
                free(buffer);
                return r;
        }
        *ret = buffer;
        return 0;
}

int host_buffer_import(struct backend *b, const void *host, uint64_t size, struct buffer **ret) {
        struct buffer *buffer = malloc(sizeof(*buffer));

        if (!buffer)
                return -ENOMEM;
        /* Nothing writes through it: imported memory is only ever weights. */
        *buffer = (struct buffer){.data = (void *) host};
        *ret = buffer;
        return 0;
}

void host_buffer_free(struct buffer *buffer) {
        if (!buffer)
                return;
        if (buffer->mapped)
                munmap(buffer->allocation, buffer->mapped);
        else
                free(buffer->allocation);
        free(buffer);
}

struct device_ptr host_buffer_address(struct buffer *buffer) {
        return host_device_ptr(buffer->data);
}

int host_stream_new(struct backend *b, struct stream **ret) {
        struct stream *s = malloc(sizeof(*s));

        if (!s)
                return -ENOMEM;
        s->backend = b;
        *ret = s;
        return 0;
}

void host_stream_free(struct stream *s) {
        free(s);
}

int host_stream_sync(struct stream *s) {
        return 0;
}

int host_upload(struct stream *s, struct device_ptr dst, const void *src, uint64_t size) {
        if (size)
                memcpy(host_address(dst), src, size);
        return 0;
}

int host_download(struct stream *s, void *dst, struct device_ptr src, uint64_t size) {
        if (size)
                memcpy(dst, host_address(src), size);
        return 0;
}

int host_fill_zero(struct stream *s, struct device_ptr dst, uint64_t size) {
        if (size)
                memset(host_address(dst), 0, size);
        return 0;
}

static bool weight_supported(const struct weight *w) {
        const struct quant_info *info = quant_info(w->type);

        return info && info->weights && w->cols % info->block_values == 0;
}

int host_check_embed(const struct op_embed *op) {
        return weight_supported(&op->table) ? 0 : -EOPNOTSUPP;
}

int host_check_matmul(const struct op_matmul *op) {
        if (op->count < 1 || op->count > ELEMENTS(op->out))
                return -EOPNOTSUPP;
        for (uint32_t i = 0; i < op->count; i++)
                if (!weight_supported(&op->out[i].w) || op->out[i].w.cols != op->out[0].w.cols)
                        return -EOPNOTSUPP;
        return 0;
}

int host_check_head_matmul(const struct op_head_matmul *op) {
        return weight_supported(&op->w) && op->head_rows >= op->w.rows ? 0 : -EOPNOTSUPP;
}

int host_check_kv(const struct kv_layer *kv) {
        bool supported = (kv->type == QUANT_F16 || kv->type == QUANT_BF16 || kv->type == QUANT_F32) &&
                         kv->kv_heads > 0 &&
                         (kv->ratio == 0 || (kv->kv_heads == 1 && (KV_PAGE_TOKENS % kv->ratio == 0 ||
                                                                   kv->ratio % KV_PAGE_TOKENS == 0))) &&
                         (kv->v.address || kv->v_dim <= kv->k_dim);

        return supported ? 0 : -EOPNOTSUPP;
}

int host_check_sparse_attention(const struct op_sparse_attention *op) {
        const struct kv_layer *planes[] = { &op->kv, &op->entries };

        for (unsigned i = 0; i < ELEMENTS(planes); i++)
                if (planes[i]->k.address && (host_check_kv(planes[i]) || planes[i]->v.address ||
                                             planes[i]->kv_heads != 1 || planes[i]->k_dim != op->kv.k_dim ||
                                             planes[i]->v_dim != op->kv.v_dim))
                        return -EOPNOTSUPP;
        return op->window == 0 || op->kv.k.address ? 0 : -EOPNOTSUPP;
}

int host_check_attention(const struct op_attention *op) {
        int r = host_check_kv(&op->kv);

        if (r == 0 && op->heads % op->kv.kv_heads != 0)
                r = -EOPNOTSUPP;
        return r;
}

int host_check_hyper(const struct op_hyper *op) {
        return op->streams <= HYPER_STREAMS_MAX ? 0 : -EOPNOTSUPP;
}

int host_check_route(const struct op_route *op) {
        bool supported = op->experts <= ROUTE_EXPERTS_MAX && op->k <= op->experts &&
                         op->groups_used <= op->groups && (op->groups == 0 || op->experts % op->groups == 0);

        if (supported && op->capacity.most > 0)
                supported = op->capacity.window > 0 && op->budget.state.address;
        if (supported && op->groups > 0)
                supported = op->k <= op->experts / op->groups * op->groups_used;
        return supported ? 0 : -EOPNOTSUPP;
}

void host_tally(const struct op_route *op) {
        const int32_t *ids = host_address(op->ids), *counts = host_address(op->counts);
        uint32_t *tally = host_address(op->tally);

        for (uint32_t t = 0; t < op->n && tally; t++)
                for (int32_t j = 0; j < counts[t]; j++)
                        tally[ids[(size_t) t * op->k + (uint32_t) j]]++;
}

int host_check_moe(const struct op_moe *op) {
        bool supported = weight_supported(&op->gate) && weight_supported(&op->up) &&
                         weight_supported(&op->down) && op->gate.cols == op->up.cols &&
                         op->gate.rows == op->up.rows && op->down.cols == op->gate.rows &&
                         op->down.rows == op->gate.cols;

        return supported ? 0 : -EOPNOTSUPP;
}
