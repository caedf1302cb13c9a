/* SPDX-License-Identifier: MIT */
#pragma once

/* A backend with a stream and the buffers of one trial, used only as any caller of backend.h may. */

#include "backend.h"

struct device {
        struct backend *backend;
        const struct backend_ops *ops;
        struct stream *stream;
        struct buffer *buffers[64];
        unsigned n_buffers;
};

/* Takes the backend over; device_deinit() frees it. */
void device_init(struct device *d, struct backend *backend);
void device_deinit(struct device *d);
/* Frees the buffers of a trial. */
void device_clear(struct device *d);

/* New memory with these contents; `data` NULL: zeros. */
struct device_ptr device_put(struct device *d, const void *data, size_t bytes);
/* Same, and frees `data`. */
struct device_ptr device_take(struct device *d, void *data, size_t bytes);
void device_get(struct device *d, void *dst, struct device_ptr src, size_t bytes);
