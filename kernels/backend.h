/* SPDX-License-Identifier: MIT */
#pragma once

/* The only door to a device: its memory, its streams, its operations. Operations are enqueued on a stream and run in
 * the order of their enqueuing; nothing is awaited but by stream_sync(), so that a forward pass needs no host round
 * trip. A backend that computes on the calling thread (ref, cpu) runs an operation to its end before it returns.
 *
 * All calls of one backend come from one thread at a time. Errors: 0 or negative errno (-ENOMEM, -EIO: the device is
 * lost, -EOPNOTSUPP: not this type or shape); an error of an enqueued operation may appear at a later call on the
 * same stream, at stream_sync() at the latest. */

#include <stddef.h>
#include <stdint.h>

#include "op.h"

struct backend;
struct buffer; /* memory of the device */
struct stream;

enum {
        /* capabilities */
        BACKEND_HOST_MEMORY = 1 << 0, /* device addresses are host addresses: nothing need be copied from or to it */
        BACKEND_ASYNC = 1 << 1,       /* operations may still run when the enqueuing call has returned */
        /* Rows of prompts are computed in a way of their own (op.h), and some hundred of them take little longer than
         * some dozens. Without it their bits are those of any other row. */
        BACKEND_PROMPTS = 1 << 2,
};

struct backend_ops {
        const char *name;
        void (*free)(struct backend *b);

        /* New zeroed memory, aligned to 64 bytes at least. `dense`: what of it is used at all lies side by side, so
         * that it may be taken from the system in large pieces. */
        int (*buffer_new)(struct backend *b, uint64_t size, bool dense, struct buffer **ret);
        /* Makes `size` bytes of host memory (weights of a mapped file) readable for operations: in place where the
         * backend has BACKEND_HOST_MEMORY, else by an upload. The host memory must outlive the buffer if in place. */
        int (*buffer_import)(struct backend *b, const void *host, uint64_t size, struct buffer **ret);
        void (*buffer_free)(struct buffer *buffer);
        struct device_ptr (*buffer_address)(struct buffer *buffer);

        int (*stream_new)(struct backend *b, struct stream **ret);
        void (*stream_free)(struct stream *s);
        /* Waits until everything enqueued has run; the first error of any of it. */
        int (*stream_sync)(struct stream *s);

        /* Copies enqueued like operations. The host side must stay untouched until stream_sync(). */
        int (*upload)(struct stream *s, struct device_ptr dst, const void *src, uint64_t size);
        int (*download)(struct stream *s, void *dst, struct device_ptr src, uint64_t size);
        int (*fill_zero)(struct stream *s, struct device_ptr dst, uint64_t size);

        int (*embed)(struct stream *s, const struct op_embed *op);
        int (*rms_norm)(struct stream *s, const struct op_rms_norm *op);
        int (*layer_norm)(struct stream *s, const struct op_layer_norm *op);
        int (*matmul)(struct stream *s, const struct op_matmul *op);
        int (*head_matmul)(struct stream *s, const struct op_head_matmul *op);
        int (*copy)(struct stream *s, const struct op_copy *op);
        int (*rope)(struct stream *s, const struct op_rope *op);
        int (*kv_store)(struct stream *s, const struct op_kv_store *op);
        int (*attention)(struct stream *s, const struct op_attention *op);
        int (*index)(struct stream *s, const struct op_index *op);
        int (*sparse_attention)(struct stream *s, const struct op_sparse_attention *op);
        int (*compress)(struct stream *s, const struct op_compress *op);
        int (*hyper_mix)(struct stream *s, const struct op_hyper *op);
        int (*hyper_in)(struct stream *s, const struct op_hyper *op);
        int (*hyper_out)(struct stream *s, const struct op_hyper *op);
        int (*glu)(struct stream *s, const struct op_glu *op);
        int (*add)(struct stream *s, const struct op_add *op);
        int (*gather)(struct stream *s, const struct op_gather *op);
        int (*route)(struct stream *s, const struct op_route *op);
        int (*moe)(struct stream *s, const struct op_moe *op);
};

/* Every backend's object begins with this. */
struct backend {
        const struct backend_ops *ops;
        uint32_t flags;
        enum quant_type kv_type; /* what keys and values are best kept as, F16 or BF16 */
};

/* The plain C definition of every operation; one thread. For tests and for machines that nothing else suits. */
int backend_ref_new(struct backend **ret);

struct backend_cpu_options {
        uint32_t threads; /* including the caller; 0: the cores that the affinity mask and the cgroup's quota allow */
        /* "c", "avx2", "avx512", "amx"; on aarch64 "c", "neon", "i8mm": at most this; NULL: the best this machine has
         * (MOED_ISA overrides). */
        const char *isa;
};

/* All cores of this machine; -EINVAL for an unknown isa name. */
int backend_cpu_new(struct backend **ret, const struct backend_cpu_options *options);

/* What it chose: "avx512-vnni, 2 threads". The string lives as long as the backend. */
const char *backend_cpu_describe(struct backend *b);

/* What keys and values are best kept as by the backend that backend_cpu_new() makes of NULL options. */
enum quant_type backend_cpu_kv_type(void);

/* Bytes of memory that are free for this process, or would be if the page cache gave them back; 0: unknown. */
uint64_t backend_cpu_memory(void);

/* Bytes per second that `threads` threads (0: as above) read from memory together: the best of a few looks at more of
 * it than caches hold. Takes some tenths of a second. 0 or negative errno. */
int backend_cpu_bandwidth(uint32_t threads, uint64_t *ret);

/* What calls cost that the cpu backend would do. */
struct backend_cost {
        uint64_t memory, imported; /* bytes of the buffers that there are: new ones, and host memory in use */
        uint64_t scratch;          /* the most that an operation needs beside them */
        uint64_t weights, kv;      /* bytes that the operations read so far, of weights and of keys and values */
};

/* The cpu backend with `threads` threads (0: as above) that computes nothing and reserves no memory: models are opened
 * and steps run on it as on any other, to learn their cost. No address that it gives may be followed, what is
 * downloaded is undefined. */
int backend_plan_new(struct backend **ret, uint32_t threads);
/* Of the calls so far, on a backend of backend_plan_new(). */
struct backend_cost backend_plan_cost(struct backend *b);

static inline void backend_freep(struct backend **b) {
        if (*b)
                (*b)->ops->free(*b);
}
