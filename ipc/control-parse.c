/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <msgpack.h>
#include <string.h>

#include "base/util.h"
#include "control.h"

/* What follows the first byte of an encoding, for 0xc0 to 0xdf; the other first bytes carry their count in
 * them. (msgpack specification, "Formats") */
enum form {
        FORM_REFUSED, /* never used, or an extension type */
        FORM_FIXED,   /* `bytes` of value */
        FORM_SIZED,   /* `bytes` of length, then as many bytes */
        FORM_ARRAY,   /* `bytes` of count, then as many values */
        FORM_MAP,     /* `bytes` of count, then as many pairs */
};
struct encoding {
        uint8_t form, bytes;
};
static const struct encoding encodings[32] = {
        [0x00] = { FORM_FIXED, 0 }, /* nil */
        [0x02] = { FORM_FIXED, 0 }, /* false, true */
        [0x03] = { FORM_FIXED, 0 },
        [0x04] = { FORM_SIZED, 1 }, /* bin 8, 16, 32 */
        [0x05] = { FORM_SIZED, 2 },
        [0x06] = { FORM_SIZED, 4 },
        [0x0a] = { FORM_FIXED, 4 }, /* float 32, 64 */
        [0x0b] = { FORM_FIXED, 8 },
        [0x0c] = { FORM_FIXED, 1 }, /* uint 8 to 64 */
        [0x0d] = { FORM_FIXED, 2 },
        [0x0e] = { FORM_FIXED, 4 },
        [0x0f] = { FORM_FIXED, 8 },
        [0x10] = { FORM_FIXED, 1 }, /* int 8 to 64 */
        [0x11] = { FORM_FIXED, 2 },
        [0x12] = { FORM_FIXED, 4 },
        [0x13] = { FORM_FIXED, 8 },
        [0x19] = { FORM_SIZED, 1 }, /* str 8, 16, 32 */
        [0x1a] = { FORM_SIZED, 2 },
        [0x1b] = { FORM_SIZED, 4 },
        [0x1c] = { FORM_ARRAY, 2 }, /* array 16, 32 */
        [0x1d] = { FORM_ARRAY, 4 },
        [0x1e] = { FORM_MAP, 2 }, /* map 16, 32 */
        [0x1f] = { FORM_MAP, 4 },
};

struct walk {
        const uint8_t *data;
        size_t size, offset;
        unsigned depth;
        uint64_t missing[CONTROL_DEPTH_MAX + 1]; /* values still to come at each depth */
};

static int walk_refuse(const struct walk *walk, struct reason *reason, const char *what) {
        return reason_return(reason, CONTROL_E_REFUSED, "control message: %s at byte %zu", what,
                             walk->offset);
}

/* Big-endian; the caller has checked that the bytes are there. */
static uint64_t walk_number(const struct walk *walk, unsigned bytes) {
        uint64_t n = 0;

        for (unsigned i = 0; i < bytes; i++)
                n = n << 8 | walk->data[walk->offset + i];
        return n;
}

static struct encoding walk_encoding(uint8_t first, uint64_t *count) {
        *count = 0;
        if (first >= 0xc0 && first <= 0xdf)
                return encodings[first - 0xc0];
        if (first < 0x80 || first >= 0xe0) /* small integers */
                return (struct encoding) { FORM_FIXED, 0 };
        *count = first & (first >= 0xa0 ? 0x1f : 0x0f);
        return (struct encoding) { first >= 0xa0 ? FORM_SIZED : first >= 0x90 ? FORM_ARRAY : FORM_MAP, 0 };
}

/* Every value that is still to come takes a byte at least, so a count beyond that is a lie. */
static int walk_enter(struct walk *walk, enum form form, uint64_t count, struct reason *reason) {
        if (form == FORM_MAP && count > CONTROL_KEYS_MAX)
                return walk_refuse(walk, reason, "a map with too many keys");
        if (form == FORM_MAP)
                count *= 2;
        if (count > walk->size - walk->offset)
                return walk_refuse(walk, reason, "an array or map that ends after the packet");
        if (walk->depth == CONTROL_DEPTH_MAX)
                return walk_refuse(walk, reason, "values nested too deeply");
        walk->missing[++walk->depth] = count;
        return 0;
}

static int walk_value(struct walk *walk, struct reason *reason) {
        struct encoding encoding;
        uint64_t count;

        if (walk->offset == walk->size)
                return walk_refuse(walk, reason, "a value that is missing");
        encoding = walk_encoding(walk->data[walk->offset], &count);
        if (encoding.form == FORM_REFUSED)
                return walk_refuse(walk, reason, "a type that is not supported");
        walk->offset++;
        if (encoding.bytes > walk->size - walk->offset)
                return walk_refuse(walk, reason, "a value that ends after the packet");
        if (encoding.form != FORM_FIXED && encoding.bytes > 0)
                count = walk_number(walk, encoding.bytes);
        walk->offset += encoding.bytes;

        if (encoding.form == FORM_ARRAY || encoding.form == FORM_MAP)
                return walk_enter(walk, encoding.form, count, reason);
        if (count > walk->size - walk->offset)
                return walk_refuse(walk, reason, "a text that ends after the packet");
        walk->offset += count;
        return 0;
}

/* Whether the packet is exactly one value within the limits. */
static int walk_packet(const void *data, size_t size, struct reason *reason) {
        struct walk walk = { .data = data, .size = size, .missing = { 1 } };
        int r;

        if (size > CONTROL_MESSAGE_MAX)
                return walk_refuse(&walk, reason, "too large");
        for (;;) {
                while (walk.missing[walk.depth] == 0) {
                        if (walk.depth-- > 0)
                                continue;
                        return walk.offset == size ? 0
                                                   : walk_refuse(&walk, reason, "something behind its end");
                }
                walk.missing[walk.depth]--;
                r = walk_value(&walk, reason);
                if (r)
                        return r;
        }
}

static int text_compare(const void *a, const void *b) {
        const msgpack_object_str *x = *(const msgpack_object_str *const *) a;
        const msgpack_object_str *y = *(const msgpack_object_str *const *) b;

        if (x->size != y->size)
                return x->size < y->size ? -1 : 1;
        return memcmp(x->ptr, y->ptr, x->size);
}

/* Sorted rather than each with each: a packet has room for many maps full of keys. */
static int keys_check(const msgpack_object_map *map, struct reason *reason) {
        const msgpack_object_str *keys[CONTROL_KEYS_MAX];

        for (uint32_t i = 0; i < map->size; i++) {
                if (map->ptr[i].key.type != MSGPACK_OBJECT_STR)
                        return reason_return(reason, CONTROL_E_REFUSED,
                                             "control message: a key that is not a string");
                keys[i] = &map->ptr[i].key.via.str;
        }
        qsort(keys, map->size, sizeof(keys[0]), text_compare);
        for (uint32_t i = 1; i < map->size; i++)
                if (text_compare(&keys[i - 1], &keys[i]) == 0)
                        return reason_return(reason, CONTROL_E_REFUSED,
                                             "control message: key '%.*s' is there twice",
                                             (int) MIN(keys[i]->size, 64U), keys[i]->ptr);
        return 0;
}

/* Recursion is bounded by CONTROL_DEPTH_MAX, which walk_packet() has checked. */
static int maps_check(const msgpack_object *object, struct reason *reason) {
        int r;

        if (object->type == MSGPACK_OBJECT_ARRAY) {
                for (uint32_t i = 0; i < object->via.array.size; i++) {
                        r = maps_check(&object->via.array.ptr[i], reason);
                        if (r)
                                return r;
                }
        } else if (object->type == MSGPACK_OBJECT_MAP) {
                r = keys_check(&object->via.map, reason);
                if (r)
                        return r;
                for (uint32_t i = 0; i < object->via.map.size; i++) {
                        r = maps_check(&object->via.map.ptr[i].val, reason);
                        if (r)
                                return r;
                }
        }
        return 0;
}

int control_parse(struct control_message *ret, const void *data, size_t size, struct reason *reason) {
        msgpack_unpacked unpacked;
        msgpack_unpack_return u;
        size_t offset = 0;
        int r;

        r = walk_packet(data, size, reason);
        if (r)
                return r;

        msgpack_unpacked_init(&unpacked);
        u = msgpack_unpack_next(&unpacked, data, size, &offset);
        if (u == MSGPACK_UNPACK_NOMEM_ERROR)
                r = -ENOMEM;
        else if (u != MSGPACK_UNPACK_SUCCESS || unpacked.data.type != MSGPACK_OBJECT_MAP)
                r = reason_return(reason, CONTROL_E_REFUSED, "control message: not a map");
        else
                r = maps_check(&unpacked.data, reason);
        if (r) {
                msgpack_unpacked_destroy(&unpacked);
                return r;
        }
        *ret = (struct control_message) {
                .root = { .entries = unpacked.data.via.map.ptr, .size = unpacked.data.via.map.size },
                .zone = msgpack_unpacked_release_zone(&unpacked),
        };
        return 0;
}

void control_message_deinit(struct control_message *message) {
        if (message->zone)
                msgpack_zone_free(message->zone);
        *message = CONTROL_MESSAGE_NULL;
}

int control_get(struct control_map map, const char *key, struct control_value *ret) {
        size_t size = strlen(key);

        for (uint32_t i = 0; i < map.size; i++) {
                const msgpack_object_kv *entry = &map.entries[i];

                if (entry->key.via.str.size != size || memcmp(entry->key.via.str.ptr, key, size) != 0)
                        continue;
                if (entry->val.type == MSGPACK_OBJECT_NIL)
                        return CONTROL_E_ABSENT;
                *ret = (struct control_value) { &entry->val };
                return 0;
        }
        return CONTROL_E_ABSENT;
}

int control_array_at(struct control_array array, uint32_t i, struct control_value *ret) {
        if (i >= array.size)
                return CONTROL_E_ABSENT;
        *ret = (struct control_value) { &array.items[i] };
        return 0;
}

int control_map_at(struct control_map map, uint32_t i, struct control_text *ret_key,
                   struct control_value *ret) {
        if (i >= map.size)
                return CONTROL_E_ABSENT;
        *ret_key = (struct control_text) { map.entries[i].key.via.str.ptr, map.entries[i].key.via.str.size };
        *ret = (struct control_value) { &map.entries[i].val };
        return 0;
}

enum control_type control_type(struct control_value value) {
        switch (value.object->type) {
        case MSGPACK_OBJECT_BOOLEAN:
                return CONTROL_BOOL;
        case MSGPACK_OBJECT_POSITIVE_INTEGER:
                return CONTROL_UNSIGNED;
        case MSGPACK_OBJECT_NEGATIVE_INTEGER:
                return CONTROL_NEGATIVE;
        case MSGPACK_OBJECT_FLOAT32:
        case MSGPACK_OBJECT_FLOAT64:
                return CONTROL_DOUBLE;
        case MSGPACK_OBJECT_STR:
                return CONTROL_STRING;
        case MSGPACK_OBJECT_BIN:
                return CONTROL_BINARY;
        case MSGPACK_OBJECT_ARRAY:
                return CONTROL_ARRAY;
        case MSGPACK_OBJECT_MAP:
                return CONTROL_MAP;
        default: /* extensions have been refused */
                return CONTROL_NIL;
        }
}

int control_as_u64(struct control_value value, uint64_t *ret) {
        if (value.object->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
                return CONTROL_E_TYPE;
        *ret = value.object->via.u64;
        return 0;
}

int control_as_u32(struct control_value value, uint32_t *ret) {
        uint64_t n;
        int r;

        r = control_as_u64(value, &n);
        if (r)
                return r;
        if (n > UINT32_MAX)
                return CONTROL_E_TYPE;
        *ret = (uint32_t) n;
        return 0;
}

int control_as_i64(struct control_value value, int64_t *ret) {
        if (value.object->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
                *ret = value.object->via.i64;
        else if (value.object->type == MSGPACK_OBJECT_POSITIVE_INTEGER && value.object->via.u64 <= INT64_MAX)
                *ret = (int64_t) value.object->via.u64;
        else
                return CONTROL_E_TYPE;
        return 0;
}

int control_as_double(struct control_value value, double *ret) {
        switch (value.object->type) {
        case MSGPACK_OBJECT_FLOAT32:
        case MSGPACK_OBJECT_FLOAT64:
                *ret = value.object->via.f64;
                return 0;
        case MSGPACK_OBJECT_POSITIVE_INTEGER:
                *ret = (double) value.object->via.u64;
                return 0;
        case MSGPACK_OBJECT_NEGATIVE_INTEGER:
                *ret = (double) value.object->via.i64;
                return 0;
        default:
                return CONTROL_E_TYPE;
        }
}

int control_as_bool(struct control_value value, bool *ret) {
        if (value.object->type != MSGPACK_OBJECT_BOOLEAN)
                return CONTROL_E_TYPE;
        *ret = value.object->via.boolean;
        return 0;
}

int control_as_string(struct control_value value, struct control_text *ret) {
        if (value.object->type != MSGPACK_OBJECT_STR)
                return CONTROL_E_TYPE;
        *ret = (struct control_text) { value.object->via.str.ptr, value.object->via.str.size };
        return 0;
}

int control_as_binary(struct control_value value, struct control_text *ret) {
        if (value.object->type != MSGPACK_OBJECT_BIN)
                return CONTROL_E_TYPE;
        *ret = (struct control_text) { value.object->via.bin.ptr, value.object->via.bin.size };
        return 0;
}

int control_as_array(struct control_value value, struct control_array *ret) {
        if (value.object->type != MSGPACK_OBJECT_ARRAY)
                return CONTROL_E_TYPE;
        *ret = (struct control_array) { value.object->via.array.ptr, value.object->via.array.size };
        return 0;
}

int control_as_map(struct control_value value, struct control_map *ret) {
        if (value.object->type != MSGPACK_OBJECT_MAP)
                return CONTROL_E_TYPE;
        *ret = (struct control_map) { value.object->via.map.ptr, value.object->via.map.size };
        return 0;
}

#define CONTROL_GETTER(_name, _type)                                                                         \
        int control_get_##_name(struct control_map map, const char *key, _type *ret) {                       \
                struct control_value value;                                                                  \
                int r = control_get(map, key, &value);                                                       \
                                                                                                             \
                return r ? r : control_as_##_name(value, ret);                                               \
        }
CONTROL_GETTER(u32, uint32_t)
CONTROL_GETTER(u64, uint64_t)
CONTROL_GETTER(i64, int64_t)
CONTROL_GETTER(double, double)
CONTROL_GETTER(bool, bool)
CONTROL_GETTER(string, struct control_text)
CONTROL_GETTER(binary, struct control_text)
CONTROL_GETTER(array, struct control_array)
CONTROL_GETTER(map, struct control_map)

int control_get_name(struct control_map map, const char *key, char *ret, size_t size) {
        struct control_text text;
        int r;

        r = control_get_string(map, key, &text);
        if (r)
                return r;
        if (text.size >= size || memchr(text.data, 0, text.size))
                return CONTROL_E_TYPE;
        memcpy(ret, text.data, text.size);
        ret[text.size] = '\0';
        return 0;
}
