/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/util.h"
#include "json.h"
#include "utf8-check.h"

void json_writer_deinit(struct json_writer *w) {
        free(w->data);
        *w = (struct json_writer) JSON_WRITER_INIT;
}

int json_writer_take(struct json_writer *w, char **ret) {
        int r = w->error;

        if (r < 0) {
                json_writer_deinit(w);
                return r;
        }
        *ret = steal_ptr(w->data);
        json_writer_deinit(w);
        return 0;
}

static bool json_reserve(struct json_writer *w, size_t more) {
        size_t size = MAX(w->size, (size_t) 256);
        char *data;

        if (w->error < 0)
                return false;
        if (more < w->size - w->length)
                return true;
        if (more > SIZE_MAX / 4 - w->length) {
                w->error = -ENOMEM;
                return false;
        }
        while (size - w->length <= more)
                size *= 2;
        data = realloc(w->data, size);
        if (!data) {
                w->error = -ENOMEM;
                return false;
        }
        w->data = data;
        w->size = size;
        return true;
}

static void json_append(struct json_writer *w, const char *s, size_t n) {
        if (!json_reserve(w, n))
                return;
        memcpy(w->data + w->length, s, n);
        w->length += n;
        w->data[w->length] = 0;
}

/* A value is about to be written. A string ends with its quote, so these characters are never its own. */
static void json_comma(struct json_writer *w) {
        if (w->length > 0 && !strchr("{[:", w->data[w->length - 1]))
                json_append(w, ",", 1);
}

void json_open(struct json_writer *w, char bracket) {
        json_comma(w);
        json_append(w, &bracket, 1);
}

void json_close(struct json_writer *w, char bracket) {
        json_append(w, &bracket, 1);
}

void json_colon(struct json_writer *w) {
        json_append(w, ":", 1);
}

void json_key(struct json_writer *w, const char *key) {
        json_text(w, key);
        json_colon(w);
}

static void json_word(struct json_writer *w, const char *word) {
        json_comma(w);
        json_append(w, word, strlen(word));
}

void json_null(struct json_writer *w) {
        json_word(w, "null");
}

void json_bool(struct json_writer *w, bool value) {
        json_word(w, value ? "true" : "false");
}

void json_uint(struct json_writer *w, uint64_t value) {
        char text[24];

        snprintf(text, sizeof(text), "%" PRIu64, value);
        json_word(w, text);
}

void json_int(struct json_writer *w, int64_t value) {
        char text[24];

        snprintf(text, sizeof(text), "%" PRId64, value);
        json_word(w, text);
}

void json_double(struct json_writer *w, double value) {
        char text[40];

        if (!isfinite(value))
                return json_null(w);
        snprintf(text, sizeof(text), "%.15g", value);
        if (strtod(text, NULL) != value)
                snprintf(text, sizeof(text), "%.17g", value);
        json_word(w, text);
}

void json_float(struct json_writer *w, float value) {
        char text[40];

        if (!isfinite(value))
                return json_null(w);
        snprintf(text, sizeof(text), "%.6g", (double) value);
        if (strtof(text, NULL) != value)
                snprintf(text, sizeof(text), "%.9g", (double) value);
        json_word(w, text);
}

static void json_escape(struct json_writer *w, char c) {
        static const char letters[] = "\bb\tt\nn\ff\rr\"\"\\\\";
        char text[8];

        for (size_t i = 0; i + 1 < sizeof(letters); i += 2)
                if (letters[i] == c) {
                        text[0] = '\\';
                        text[1] = letters[i + 1];
                        return json_append(w, text, 2);
                }
        snprintf(text, sizeof(text), "\\u%04x", (unsigned) (unsigned char) c);
        json_append(w, text, 6);
}

void json_string(struct json_writer *w, const char *s, size_t length) {
        size_t n;

        json_comma(w);
        json_append(w, "\"", 1);
        for (size_t i = 0; i < length; i += n) {
                if (!utf8_next(s + i, length - i, &n))
                        json_append(w, "\xef\xbf\xbd", 3);
                else if (n == 1 &&
                         ((unsigned char) s[i] < 0x20 || s[i] == '"' || s[i] == '\\' || s[i] == 0x7f))
                        json_escape(w, s[i]);
                else
                        json_append(w, s + i, n);
        }
        json_append(w, "\"", 1);
}

void json_text(struct json_writer *w, const char *terminated) {
        json_string(w, terminated, strlen(terminated));
}
