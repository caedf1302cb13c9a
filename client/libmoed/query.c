/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "connection.h"
#include "json.h"

static void write_value(struct json_writer *w, struct control_value value);

/* Depth is bounded: control_parse() refuses more than CONTROL_DEPTH_MAX. */
static void write_map(struct json_writer *w, struct control_map map, const char *without) {
        json_open(w, '{');
        for (uint32_t i = 0; i < map.size; i++) {
                struct control_value value;
                struct control_text key;

                if (control_map_at(map, i, &key, &value))
                        continue;
                if (without && key.size == strlen(without) && memcmp(key.data, without, key.size) == 0)
                        continue;
                json_string(w, key.data, key.size);
                json_colon(w);
                write_value(w, value);
        }
        json_close(w, '}');
}

static void write_array(struct json_writer *w, struct control_array array) {
        json_open(w, '[');
        for (uint32_t i = 0; i < array.size; i++) {
                struct control_value value;

                if (control_array_at(array, i, &value) == 0)
                        write_value(w, value);
        }
        json_close(w, ']');
}

static void write_value(struct json_writer *w, struct control_value value) {
        struct control_array array;
        struct control_text text;
        struct control_map map;
        uint64_t u;
        int64_t i;
        double d;
        bool b;

        if (control_as_bool(value, &b) == 0)
                json_bool(w, b);
        else if (control_as_u64(value, &u) == 0)
                json_uint(w, u);
        else if (control_as_i64(value, &i) == 0)
                json_int(w, i);
        else if (control_as_double(value, &d) == 0)
                json_double(w, d);
        else if (control_as_string(value, &text) == 0 || control_as_binary(value, &text) == 0)
                json_string(w, text.data, text.size);
        else if (control_as_array(value, &array) == 0)
                write_array(w, array);
        else if (control_as_map(value, &map) == 0)
                write_map(w, map, NULL);
        else
                json_null(w);
}

static void put_value(struct control_builder *b, const char *key, const struct json *json) {
        switch (json->type) {
        case JSON_NULL:
                return control_put_nil(b, key);
        case JSON_BOOL:
                return control_put_bool(b, key, json->boolean);
        case JSON_UINT:
                return control_put_u64(b, key, json->uint);
        case JSON_INT:
                return control_put_i64(b, key, json->sint);
        case JSON_DOUBLE:
                return control_put_double(b, key, json->real);
        case JSON_STRING:
                return control_put_text(b, key, json->string, json->length);
        case JSON_ARRAY:
        case JSON_OBJECT:
                if (json->type == JSON_OBJECT)
                        control_begin_map(b, key);
                else
                        control_begin_array(b, key);
                json_for_each(pos, json)
                        put_value(b, pos->key, pos);
                control_end(b);
        }
}

/* "verb" and "id" are the library's own. */
static int put_arguments(struct moed *m, struct control_builder *b, const char *arguments) {
        _cleanup_(json_freep) struct json *json = NULL;
        int r;

        r = json_parse(&json, arguments, strlen(arguments), &m->reason);
        if (r < 0)
                return r;
        if (json->type != JSON_OBJECT)
                return reason_return(&m->reason, -EINVAL, "the arguments are not a JSON object");
        if (json_get(json, "verb") || json_get(json, "id"))
                return reason_return(&m->reason, -EINVAL, "the arguments may not have the keys verb and id");
        json_for_each(pos, json)
                put_value(b, pos->key, pos);
        return 0;
}

int moed_query(struct moed *m, const char *verb, const char *arguments, char **ret) {
        _cleanup_(control_message_deinit) struct control_message reply = CONTROL_MESSAGE_NULL;
        struct json_writer w = JSON_WRITER_INIT;
        struct control_builder b;
        int r;

        if (strcmp(verb, "hello") == 0)
                return reason_return(&m->reason, -EINVAL, "hello is said once, by moed_connect()");
        control_request_init(&b, verb);
        r = arguments ? put_arguments(m, &b, arguments) : 0;
        if (r < 0) {
                control_builder_deinit(&b);
                return r;
        }
        r = control_exchange(m, &b, &reply, NULL);
        if (r < 0)
                return r;
        write_map(&w, reply.root, "id");
        r = json_writer_take(&w, ret);
        return r < 0 ? reason_return(&m->reason, r, "out of memory") : 0;
}
