/* SPDX-License-Identifier: MIT */
#pragma once

/* Memory and streams of a backend that computes on the calling thread: device addresses are host addresses, a
 * copy is done when the call returns, stream_sync() has nothing to wait for. ref/ and cpu/ fill their tables
 * with these. */

#include "backend.h"

struct stream {
        struct backend *backend;
};

static inline void *host_address(struct device_ptr p) {
        return (void *) (uintptr_t) p.address;
}

static inline struct device_ptr host_device_ptr(const void *p) {
        return (struct device_ptr){(uintptr_t) p};
}

enum { HOST_HUGE_PAGE = 2 << 20 };

/* Asks for huge pages in the part of a range that holds whole ones: streaming and scattered reads of the same memory
 * are 5 to 13 % faster. Whatever the kernel says to it. */
void host_prefer_huge_pages(void *data, size_t size);

int host_buffer_new(struct backend *b, uint64_t size, bool dense, struct buffer **ret);
int host_buffer_import(struct backend *b, const void *host, uint64_t size, struct buffer **ret);
void host_buffer_free(struct buffer *buffer);
struct device_ptr host_buffer_address(struct buffer *buffer);

int host_stream_new(struct backend *b, struct stream **ret);
void host_stream_free(struct stream *s);
int host_stream_sync(struct stream *s);

int host_upload(struct stream *s, struct device_ptr dst, const void *src, uint64_t size);
int host_download(struct stream *s, void *dst, struct device_ptr src, uint64_t size);
int host_fill_zero(struct stream *s, struct device_ptr dst, uint64_t size);

/* The memory part of a struct backend_ops. */
#define HOST_MEMORY_OPS                                                                                      \
        .buffer_new = host_buffer_new, .buffer_import = host_buffer_import, .buffer_free = host_buffer_free, \
        .buffer_address = host_buffer_address, .stream_new = host_stream_new,                                \
        .stream_free = host_stream_free, .stream_sync = host_stream_sync, .upload = host_upload,             \
        .download = host_download, .fill_zero = host_fill_zero

/* Whether the arithmetic here can do these shapes and types: 0 or -EOPNOTSUPP. */
int host_check_embed(const struct op_embed *op);
int host_check_matmul(const struct op_matmul *op);
int host_check_head_matmul(const struct op_head_matmul *op);
int host_check_sparse_attention(const struct op_sparse_attention *op);
int host_check_attention(const struct op_attention *op);
int host_check_kv(const struct kv_layer *kv);
int host_check_hyper(const struct op_hyper *op);
int host_check_route(const struct op_route *op);
/* The last thing an op_route does: adds the rows' choices to its tally. */
void host_tally(const struct op_route *op);
int host_check_moe(const struct op_moe *op);
