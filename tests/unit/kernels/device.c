/* SPDX-License-Identifier: MIT */
#include "base/util.h"
#include "device.h"
#include "test.h"

void device_init(struct device *d, struct backend *backend) {
        *d = (struct device){.backend = backend, .ops = backend->ops};
        assert_se(d->ops->stream_new(backend, &d->stream) == 0);
}

void device_clear(struct device *d) {
        while (d->n_buffers > 0)
                d->ops->buffer_free(d->buffers[--d->n_buffers]);
}

void device_deinit(struct device *d) {
        if (!d->backend)
                return;
        device_clear(d);
        d->ops->stream_free(d->stream);
        d->ops->free(d->backend);
        d->backend = NULL;
}

struct device_ptr device_put(struct device *d, const void *data, size_t bytes) {
        struct device_ptr p;

        assert_se(d->n_buffers < ELEMENTS(d->buffers));
        assert_se(d->ops->buffer_new(d->backend, bytes, true, &d->buffers[d->n_buffers]) == 0);
        p = d->ops->buffer_address(d->buffers[d->n_buffers++]);
        assert_se(p.address % 64 == 0);
        if (data)
                assert_se(d->ops->upload(d->stream, p, data, bytes) == 0);
        assert_se(d->ops->stream_sync(d->stream) == 0);
        return p;
}

struct device_ptr device_take(struct device *d, void *data, size_t bytes) {
        struct device_ptr p = device_put(d, data, bytes);

        free(data);
        return p;
}

void device_get(struct device *d, void *dst, struct device_ptr src, size_t bytes) {
        assert_se(d->ops->download(d->stream, dst, src, bytes) == 0);
        assert_se(d->ops->stream_sync(d->stream) == 0);
}
