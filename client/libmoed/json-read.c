/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "json.h"
#include "utf8-check.h"

struct json_reader {
        const char *text;
        size_t length, at;
        struct reason *reason;
};

static int json_read_value(struct json_reader *r, unsigned depth, struct json **ret);

void json_free(struct json *json) {
        struct json *next;

        /* Elements are a list and depth is limited, so this does not go deep. */
        for (; json; json = next) {
                next = json->next;
                json_free(json->child);
                free(json->key);
                free(json->string);
                free(json);
        }
}

void json_freep(struct json **json) {
        json_free(*json);
}

static int json_refuse(struct json_reader *r, const char *what) {
        return reason_return(r->reason, -EINVAL, "JSON: %s at byte %zu", what, r->at);
}

static char json_peek(struct json_reader *r) {
        return r->at < r->length ? r->text[r->at] : 0;
}

static char json_skip_space(struct json_reader *r) {
        while (r->at < r->length && strchr(" \t\n\r", r->text[r->at]) && r->text[r->at])
                r->at++;
        return json_peek(r);
}

static int json_read_hex(struct json_reader *r, uint32_t *ret) {
        uint32_t value = 0;

        for (unsigned i = 0; i < 4; i++, r->at++) {
                char c = json_peek(r);

                if (!isxdigit((unsigned char) c))
                        return json_refuse(r, "\\u needs four hexadecimal digits");
                value = value * 16 + (uint32_t) (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
        }
        *ret = value;
        return 0;
}

static size_t json_put_utf8(char *to, uint32_t c) {
        if (c < 0x80) {
                to[0] = (char) c;
                return 1;
        }
        if (c < 0x800) {
                to[0] = (char) (0xc0 | c >> 6);
                to[1] = (char) (0x80 | (c & 0x3f));
                return 2;
        }
        if (c < 0x10000) {
                to[0] = (char) (0xe0 | c >> 12);
                to[1] = (char) (0x80 | (c >> 6 & 0x3f));
                to[2] = (char) (0x80 | (c & 0x3f));
                return 3;
        }
        to[0] = (char) (0xf0 | c >> 18);
        to[1] = (char) (0x80 | (c >> 12 & 0x3f));
        to[2] = (char) (0x80 | (c >> 6 & 0x3f));
        to[3] = (char) (0x80 | (c & 0x3f));
        return 4;
}

/* Behind "\u": one character, from one escape or from a pair of surrogates. */
static int json_read_unicode(struct json_reader *r, char *to, size_t *n) {
        uint32_t c, low;
        int k;

        k = json_read_hex(r, &c);
        if (k < 0)
                return k;
        if (c >= 0xd800 && c < 0xdc00) {
                if (r->length - r->at < 2 || memcmp(r->text + r->at, "\\u", 2) != 0)
                        return json_refuse(r, "half of a surrogate pair");
                r->at += 2;
                k = json_read_hex(r, &low);
                if (k < 0)
                        return k;
                if (low < 0xdc00 || low > 0xdfff)
                        return json_refuse(r, "half of a surrogate pair");
                c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
        } else if (c >= 0xdc00 && c < 0xe000)
                return json_refuse(r, "half of a surrogate pair");
        *n += json_put_utf8(to + *n, c);
        return 0;
}

static int json_read_escape(struct json_reader *r, char *to, size_t *n) {
        static const char letters[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
        char c = json_peek(r);

        r->at++;
        if (c == 'u')
                return json_read_unicode(r, to, n);
        for (size_t i = 0; i + 1 < sizeof(letters); i += 2)
                if (letters[i] == c) {
                        to[(*n)++] = letters[i + 1];
                        return 0;
                }
        r->at--;
        return json_refuse(r, "unknown escape");
}

/* At the opening quote. An escape is never shorter than what it stands for, so the rest of the text is room
 * enough. */
static int json_read_string(struct json_reader *r, char **ret, size_t *length) {
        _cleanup_(freep) char *s = NULL;
        const char *end = r->text + r->at + 1;
        size_t n = 0, step;
        int k;

        for (; end < r->text + r->length && *end != '"'; end++)
                if (*end == '\\')
                        end++;
        s = malloc((size_t) (end - (r->text + r->at)) + 1);
        if (!s)
                return -ENOMEM;
        for (r->at++; r->at < r->length && r->text[r->at] != '"';) {
                if ((unsigned char) r->text[r->at] < 0x20)
                        return json_refuse(r, "control character in a string");
                if (!utf8_next(r->text + r->at, r->length - r->at, &step))
                        return json_refuse(r, "not UTF-8");
                if (r->text[r->at] != '\\') {
                        memcpy(s + n, r->text + r->at, step);
                        n += step;
                        r->at += step;
                        continue;
                }
                r->at++;
                k = json_read_escape(r, s, &n);
                if (k < 0)
                        return k;
        }
        if (r->at >= r->length)
                return json_refuse(r, "string without an end");
        r->at++;
        s[n] = 0;
        *ret = steal_ptr(s);
        *length = n;
        return 0;
}

static size_t json_digits(struct json_reader *r) {
        size_t from = r->at;

        while (isdigit((unsigned char) json_peek(r)))
                r->at++;
        return r->at - from;
}

/* Finds the end of the number by its grammar; *whole: it has neither fraction nor exponent. */
static int json_scan_number(struct json_reader *r, bool *whole) {
        *whole = true;
        if (json_peek(r) == '-')
                r->at++;
        if (json_peek(r) == '0')
                r->at++;
        else if (json_digits(r) == 0)
                return json_refuse(r, "no value");
        if (json_peek(r) == '.') {
                *whole = false;
                r->at++;
                if (json_digits(r) == 0)
                        return json_refuse(r, "number without digits");
        }
        if (json_peek(r) == 'e' || json_peek(r) == 'E') {
                *whole = false;
                r->at++;
                if (json_peek(r) == '+' || json_peek(r) == '-')
                        r->at++;
                if (json_digits(r) == 0)
                        return json_refuse(r, "number without digits");
        }
        return 0;
}

static int json_read_number(struct json_reader *r, struct json *json) {
        size_t from = r->at;
        char text[64];
        bool whole;
        int k;

        k = json_scan_number(r, &whole);
        if (k < 0)
                return k;
        if (r->at - from >= sizeof(text))
                return json_refuse(r, "number of more than 63 characters");
        memcpy(text, r->text + from, r->at - from);
        text[r->at - from] = 0;
        errno = 0;
        if (whole && text[0] == '-') {
                json->type = JSON_INT;
                json->sint = strtoll(text, NULL, 10);
        } else if (whole) {
                json->type = JSON_UINT;
                json->uint = strtoull(text, NULL, 10);
        }
        if (!whole || errno == ERANGE) {
                json->type = JSON_DOUBLE;
                json->real = strtod(text, NULL);
        }
        return 0;
}

static int json_read_word(struct json_reader *r, const char *word) {
        size_t n = strlen(word);

        if (r->length - r->at < n || memcmp(r->text + r->at, word, n) != 0)
                return json_refuse(r, "no value");
        r->at += n;
        return 0;
}

static int json_read_key(struct json_reader *r, char **ret) {
        size_t length;
        int k;

        if (json_skip_space(r) != '"')
                return json_refuse(r, "expected a key");
        k = json_read_string(r, ret, &length);
        if (k < 0)
                return k;
        if (strlen(*ret) != length || json_skip_space(r) != ':') {
                freep(ret);
                *ret = NULL;
                return json_refuse(r, "expected a key and a colon");
        }
        r->at++;
        return 0;
}

/* At the opening bracket. */
static int json_read_elements(struct json_reader *r, unsigned depth, struct json *json) {
        char close = json->type == JSON_OBJECT ? '}' : ']';
        struct json **tail = &json->child;
        int k;

        if (depth >= JSON_DEPTH_MAX)
                return json_refuse(r, "nested too deeply");
        r->at++;
        if (json_skip_space(r) == close) {
                r->at++;
                return 0;
        }
        for (;;) {
                _cleanup_(freep) char *key = NULL;

                if (json->type == JSON_OBJECT) {
                        k = json_read_key(r, &key);
                        if (k < 0)
                                return k;
                }
                k = json_read_value(r, depth + 1, tail);
                if (k < 0)
                        return k;
                (*tail)->key = steal_ptr(key);
                tail = &(*tail)->next;
                json->length++;
                if (json_skip_space(r) == close)
                        break;
                if (json_peek(r) != ',')
                        return json_refuse(r, "expected a comma or the closing bracket");
                r->at++;
        }
        r->at++;
        return 0;
}

static int json_read_value(struct json_reader *r, unsigned depth, struct json **ret) {
        _cleanup_(json_freep) struct json *json = calloc(1, sizeof(*json));
        char c = json_skip_space(r);
        int k;

        if (!json)
                return -ENOMEM;
        switch (c) {
        case '{':
        case '[':
                json->type = c == '{' ? JSON_OBJECT : JSON_ARRAY;
                k = json_read_elements(r, depth, json);
                break;
        case '"':
                json->type = JSON_STRING;
                k = json_read_string(r, &json->string, &json->length);
                break;
        case 't':
        case 'f':
                json->type = JSON_BOOL;
                json->boolean = c == 't';
                k = json_read_word(r, c == 't' ? "true" : "false");
                break;
        case 'n':
                k = json_read_word(r, "null");
                break;
        default:
                k = json_read_number(r, json);
        }
        if (k < 0)
                return k;
        *ret = steal_ptr(json);
        return 0;
}

int json_parse(struct json **ret, const char *text, size_t length, struct reason *reason) {
        struct json_reader r = { .text = text, .length = length, .reason = reason };
        _cleanup_(json_freep) struct json *json = NULL;
        int k;

        k = json_read_value(&r, 0, &json);
        if (k < 0)
                return k;
        json_skip_space(&r);
        if (r.at < r.length)
                return json_refuse(&r, "something behind the value");
        *ret = steal_ptr(json);
        return 0;
}

const struct json *json_get(const struct json *object, const char *key) {
        if (!object || object->type != JSON_OBJECT)
                return NULL;
        json_for_each(pos, object)
                if (strcmp(pos->key, key) == 0)
                        return pos;
        return NULL;
}

uint64_t json_get_uint(const struct json *object, const char *key, uint64_t fallback) {
        const struct json *json = json_get(object, key);

        return json && json->type == JSON_UINT ? json->uint : fallback;
}

double json_as_double(const struct json *json, double fallback) {
        if (!json)
                return fallback;
        switch (json->type) {
        case JSON_UINT:
                return (double) json->uint;
        case JSON_INT:
                return (double) json->sint;
        case JSON_DOUBLE:
                return json->real;
        default:
                return fallback;
        }
}

double json_get_double(const struct json *object, const char *key, double fallback) {
        return json_as_double(json_get(object, key), fallback);
}

const char *json_get_text(const struct json *object, const char *key, const char *fallback) {
        const struct json *json = json_get(object, key);

        return json && json->type == JSON_STRING ? json->string : fallback;
}
