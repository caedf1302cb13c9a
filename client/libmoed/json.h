/* SPDX-License-Identifier: MIT */
#pragma once

/* JSON (RFC 8259), written into a growing buffer and read into a tree. Both take any bytes: what is written
 * is always valid UTF-8, what is read is refused unless it is well-formed. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/reason.h"

/* The buffer is malloc()ed and always terminated. Out of memory is remembered in `error`, once and for all,
 * so that only the end has to look. Commas and colons come by themselves. */
struct json_writer {
        char *data;
        size_t length, size;
        int error; /* 0 or -ENOMEM */
};
#define JSON_WRITER_INIT { .data = NULL }

void json_writer_deinit(struct json_writer *w);
/* Hands the text over to the caller, who frees it; the writer is empty then. -ENOMEM when anything before
 * failed. */
int json_writer_take(struct json_writer *w, char **ret);

void json_open(struct json_writer *w, char bracket);  /* '{' or '[' */
void json_close(struct json_writer *w, char bracket); /* '}' or ']' */
void json_key(struct json_writer *w, const char *key);
/* Makes the string just written a key. */
void json_colon(struct json_writer *w);
void json_null(struct json_writer *w);
void json_bool(struct json_writer *w, bool value);
void json_uint(struct json_writer *w, uint64_t value);
void json_int(struct json_writer *w, int64_t value);
/* The shortest of 15 and 17 digits that reads back equal; null when not finite. */
void json_double(struct json_writer *w, double value);
/* As json_double() for a number that was a float: 6 to 9 digits. */
void json_float(struct json_writer *w, float value);
/* Any bytes; what is not UTF-8 becomes U+FFFD. */
void json_string(struct json_writer *w, const char *s, size_t length);
void json_text(struct json_writer *w, const char *terminated);

enum json_type {
        JSON_NULL,
        JSON_BOOL,
        JSON_UINT,
        JSON_INT,
        JSON_DOUBLE,
        JSON_STRING,
        JSON_ARRAY,
        JSON_OBJECT
};

struct json {
        enum json_type type;
        struct json *next;  /* the next element of the array or object that this one is in */
        struct json *child; /* ARRAY, OBJECT: the first element */
        char *key;          /* in an object; terminated */
        char *string;       /* STRING: terminated, and may contain zero bytes */
        size_t length;      /* STRING: bytes; ARRAY, OBJECT: elements */
        union {
                bool boolean;
                uint64_t uint; /* UINT: whole and not negative */
                int64_t sint;  /* INT: whole and negative */
                double real;
        };
};

enum { JSON_DEPTH_MAX = 32 };

/* One value and nothing behind it. -EINVAL with where and why in `reason`, -ENOMEM. */
int json_parse(struct json **ret, const char *text, size_t length, struct reason *reason);
void json_free(struct json *json);
void json_freep(struct json **json);

/* All take NULL and values of another type, and return the fallback then. */
const struct json *json_get(const struct json *object, const char *key); /* NULL: not there */
uint64_t json_get_uint(const struct json *object, const char *key, uint64_t fallback);
double json_get_double(const struct json *object, const char *key, double fallback);
const char *json_get_text(const struct json *object, const char *key, const char *fallback);
double json_as_double(const struct json *json, double fallback);

#define json_for_each(pos, container)                                                                        \
        for (const struct json *pos = (container) ? (container)->child : NULL; pos; pos = pos->next)
