/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <msgpack.h>
#include <string.h>

#include "base/util.h"
#include "control.h"

enum {
        BUILDER_FIRST = 512, /* bytes; most packets fit */
        COUNT_OFFSET = 1,    /* of the 32-bit count in the header of a map or an array */
};

static int builder_write(void *userdata, const char *data, size_t size) {
        struct control_builder *b = userdata;

        if (b->error)
                return -1;
        if (size > CONTROL_MESSAGE_MAX - b->size) {
                b->error = CONTROL_E_REFUSED;
                return -1;
        }
        if (size > b->allocated - b->size) {
                size_t allocated = MAX(MAX(b->allocated * 2, b->size + size), (size_t) BUILDER_FIRST);
                uint8_t *grown = realloc(b->data, allocated);

                if (!grown) {
                        b->error = -ENOMEM;
                        return -1;
                }
                b->data = grown;
                b->allocated = allocated;
        }
        if (size > 0)
                memcpy(b->data + b->size, data, size);
        b->size += size;
        return 0;
}

static msgpack_packer builder_packer(struct control_builder *b) {
        msgpack_packer packer;

        msgpack_packer_init(&packer, b, builder_write);
        return packer;
}

static void pack_text(msgpack_packer *packer, const void *data, size_t size) {
        msgpack_pack_str(packer, size);
        msgpack_pack_str_body(packer, data, size);
}

/* Opens a map or an array with the widest header; the count is known when it is closed. */
static void builder_open(struct control_builder *b, bool is_map) {
        msgpack_packer packer = builder_packer(b);

        if (b->depth == CONTROL_DEPTH_MAX)
                b->error = -EINVAL;
        if (b->error)
                return;
        b->open[b->depth].offset = b->size;
        b->open[b->depth].count = 0;
        b->open[b->depth].is_map = is_map;
        b->depth++;
        if (is_map)
                msgpack_pack_map(&packer, UINT32_MAX);
        else
                msgpack_pack_array(&packer, UINT32_MAX);
}

static void builder_close(struct control_builder *b) {
        uint8_t *count = b->data + b->open[b->depth - 1].offset + COUNT_OFFSET;

        for (unsigned i = 0; i < 4; i++)
                count[i] = (uint8_t) (b->open[b->depth - 1].count >> (24 - 8 * i));
        b->depth--;
}

/* Before each value: its key in a map, none in an array. */
static msgpack_packer builder_value(struct control_builder *b, const char *key) {
        msgpack_packer packer = builder_packer(b);

        if (b->depth == 0 || b->open[b->depth - 1].is_map != (key != NULL))
                b->error = -EINVAL;
        if (b->error)
                return packer;
        if (++b->open[b->depth - 1].count > CONTROL_KEYS_MAX && key)
                b->error = CONTROL_E_REFUSED;
        if (key)
                pack_text(&packer, key, strlen(key));
        return packer;
}

void control_builder_init(struct control_builder *ret) {
        *ret = (struct control_builder) {};
        builder_open(ret, true);
}

void control_builder_deinit(struct control_builder *builder) {
        free(builder->data);
        *builder = (struct control_builder) { .error = -EINVAL };
}

void control_put_nil(struct control_builder *builder, const char *key) {
        msgpack_packer packer = builder_value(builder, key);

        msgpack_pack_nil(&packer);
}

void control_put_u64(struct control_builder *builder, const char *key, uint64_t value) {
        msgpack_packer packer = builder_value(builder, key);

        msgpack_pack_uint64(&packer, value);
}

void control_put_i64(struct control_builder *builder, const char *key, int64_t value) {
        msgpack_packer packer = builder_value(builder, key);

        msgpack_pack_int64(&packer, value);
}

void control_put_double(struct control_builder *builder, const char *key, double value) {
        msgpack_packer packer = builder_value(builder, key);

        msgpack_pack_double(&packer, value);
}

void control_put_bool(struct control_builder *builder, const char *key, bool value) {
        msgpack_packer packer = builder_value(builder, key);

        if (value)
                msgpack_pack_true(&packer);
        else
                msgpack_pack_false(&packer);
}

void control_put_string(struct control_builder *builder, const char *key, const char *value) {
        if (value)
                control_put_text(builder, key, value, strlen(value));
        else
                control_put_nil(builder, key);
}

void control_put_text(struct control_builder *builder, const char *key, const void *data, size_t size) {
        msgpack_packer packer = builder_value(builder, key);

        pack_text(&packer, data, size);
}

void control_put_binary(struct control_builder *builder, const char *key, const void *data, size_t size) {
        msgpack_packer packer = builder_value(builder, key);

        msgpack_pack_bin(&packer, size);
        msgpack_pack_bin_body(&packer, data, size);
}

void control_begin_map(struct control_builder *builder, const char *key) {
        builder_value(builder, key);
        builder_open(builder, true);
}

void control_begin_array(struct control_builder *builder, const char *key) {
        builder_value(builder, key);
        builder_open(builder, false);
}

void control_end(struct control_builder *builder) {
        if (builder->depth < 2 && !builder->error)
                builder->error = -EINVAL;
        if (!builder->error)
                builder_close(builder);
}

int control_builder_finish(struct control_builder *builder, const void **ret, size_t *ret_size) {
        if (builder->depth != 1 && !builder->error)
                builder->error = -EINVAL;
        if (builder->error)
                return builder->error;
        builder_close(builder);
        *ret = builder->data;
        *ret_size = builder->size;
        return 0;
}
