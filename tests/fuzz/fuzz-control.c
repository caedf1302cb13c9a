/* SPDX-License-Identifier: MIT */
/* A control packet: everything that can be asked of one that parses, and what is built again from it. */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "control.h"
#include "fuzz.h"

/* Whether all keys could be built again: one with a NUL inside cannot. */
static bool exact;

static void check(bool holds) {
        if (!holds)
                abort();
}

static bool same_text(struct control_text a, struct control_text b) {
        return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

/* Each getter agrees with the type. */
static void ask(struct control_value v) {
        enum control_type type = control_type(v);
        struct control_array array;
        struct control_text text;
        struct control_map map;
        uint64_t u64 = 0;
        uint32_t u32 = 0;
        int64_t i64 = 0;
        double number;
        bool flag;

        check((control_as_u64(v, &u64) == 0) == (type == CONTROL_UNSIGNED));
        check((control_as_u32(v, &u32) == 0) == (type == CONTROL_UNSIGNED && u64 <= UINT32_MAX) &&
              u32 <= u64);
        check((control_as_i64(v, &i64) == 0) ==
              (type == CONTROL_NEGATIVE || (type == CONTROL_UNSIGNED && u64 <= INT64_MAX)));
        check((i64 < 0) == (type == CONTROL_NEGATIVE));
        check((control_as_double(v, &number) == 0) ==
              (type == CONTROL_DOUBLE || type == CONTROL_UNSIGNED || type == CONTROL_NEGATIVE));
        check((control_as_bool(v, &flag) == 0) == (type == CONTROL_BOOL));
        check((control_as_string(v, &text) == 0) == (type == CONTROL_STRING));
        check((control_as_binary(v, &text) == 0) == (type == CONTROL_BINARY));
        check((control_as_array(v, &array) == 0) == (type == CONTROL_ARRAY));
        check((control_as_map(v, &map) == 0) == (type == CONTROL_MAP));
}

static void rebuild_map(struct control_builder *b, struct control_map map);

static void rebuild(struct control_builder *b, const char *key, struct control_value v) {
        struct control_array array;
        struct control_value item;
        struct control_text text;
        struct control_map map;
        uint64_t u64;
        int64_t i64;
        double number;
        bool flag;

        ask(v);
        if (control_as_u64(v, &u64) == 0) {
                control_put_u64(b, key, u64);
        } else if (control_as_i64(v, &i64) == 0) {
                control_put_i64(b, key, i64);
        } else if (control_as_double(v, &number) == 0) {
                control_put_double(b, key, number);
        } else if (control_as_bool(v, &flag) == 0) {
                control_put_bool(b, key, flag);
        } else if (control_as_string(v, &text) == 0) {
                control_put_text(b, key, text.data, text.size);
        } else if (control_as_binary(v, &text) == 0) {
                control_put_binary(b, key, text.data, text.size);
        } else if (control_as_array(v, &array) == 0) {
                control_begin_array(b, key);
                for (uint32_t i = 0; control_array_at(array, i, &item) == 0; i++)
                        rebuild(b, NULL, item);
                control_end(b);
        } else if (control_as_map(v, &map) == 0) {
                control_begin_map(b, key);
                rebuild_map(b, map);
                control_end(b);
        } else {
                check(control_type(v) == CONTROL_NIL);
                control_put_nil(b, key);
        }
}

static void rebuild_map(struct control_builder *b, struct control_map map) {
        struct control_value v, found;
        struct control_text key;

        for (uint32_t i = 0; control_map_at(map, i, &key, &v) == 0; i++) {
                _cleanup_(freep) char *name = strndup(key.data, key.size);

                check(name);
                /* Keys are different from each other, so the one that is found is this one. */
                if (strlen(name) != key.size)
                        exact = false;
                else if (control_type(v) != CONTROL_NIL)
                        check(control_get(map, name, &found) == 0 && found.object == v.object);
                rebuild(b, name, v);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct control_message m = CONTROL_MESSAGE_NULL, again = CONTROL_MESSAGE_NULL;
        struct reason reason = REASON_INIT;
        struct control_text a, b;
        struct control_builder builder;
        const void *built;
        size_t built_size;
        int r;

        r = control_parse(&m, data, size, &reason);
        check(r == 0 || r == CONTROL_E_REFUSED);
        check((r == CONTROL_E_REFUSED) == (reason.text[0] != '\0'));
        if (r)
                return 0;
        exact = true;
        control_builder_init(&builder);
        rebuild_map(&builder, m.root);
        r = control_builder_finish(&builder, &built, &built_size);
        /* Headers are wider in what we build, so the largest do not fit any more. */
        check(r == 0 || (r == CONTROL_E_REFUSED && size > CONTROL_MESSAGE_MAX / 5));
        if (r == 0 && exact) {
                check(control_parse(&again, built, built_size, NULL) == 0 && again.root.size == m.root.size);
                if (control_get_string(m.root, "verb", &a) == 0)
                        check(control_get_string(again.root, "verb", &b) == 0 && same_text(a, b));
        }
        control_message_deinit(&again);
        control_builder_deinit(&builder);
        control_message_deinit(&m);
        return 0;
}

static void put_some(struct control_builder *b, unsigned number) {
        control_put_string(b, "verb", number == 0 ? "hello" : number == 1 ? "budget" : "tokenize");
        control_put_u64(b, "id", number);
        if (number == 0) {
                control_put_u64(b, "version", 1);
                control_put_string(b, "name", "fuzz");
                control_put_u64(b, "arena", 1 << 20);
        } else if (number == 1) {
                control_begin_map(b, "set");
                control_put_string(b, "principal", "uid:1000");
                control_put_i64(b, "weight", -5);
                control_put_double(b, "share", 0.5);
                control_put_bool(b, "now", true);
                control_put_nil(b, "nothing");
                control_end(b);
        } else {
                control_put_binary(b, "text", "\0\1\2", 3);
                control_begin_array(b, "tokens");
                for (unsigned i = 0; i < 20; i++)
                        control_put_u64(b, NULL, UINT64_C(1) << (3 * i));
                control_begin_map(b, NULL);
                control_end(b);
                control_end(b);
        }
}

uint8_t *fuzz_seed(unsigned number, size_t *ret_size) {
        struct control_builder b;
        const void *data;
        uint8_t *seed;

        if (number > 2)
                return NULL;
        control_builder_init(&b);
        put_some(&b, number);
        check(control_builder_finish(&b, &data, ret_size) == 0);
        seed = malloc(*ret_size);
        check(seed);
        memcpy(seed, data, *ret_size);
        control_builder_deinit(&b);
        return seed;
}
