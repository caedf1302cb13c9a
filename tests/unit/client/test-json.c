/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "json.h"
#include "test.h"
#include "utf8-check.h"

static bool string_becomes(const char *bytes, size_t n, const char *json) {
        struct json_writer w = JSON_WRITER_INIT;
        bool same;

        json_string(&w, bytes, n);
        same = w.error == 0 && strcmp(w.data, json) == 0;
        json_writer_deinit(&w);
        return same;
}

TEST(strings_are_escaped) {
        assert_se(string_becomes("", 0, "\"\""));
        assert_se(string_becomes("a\"b\\c/\n\r\t\b\f", 11, "\"a\\\"b\\\\c/\\n\\r\\t\\b\\f\""));
        assert_se(string_becomes("\0\x1f\x7f", 3, "\"\\u0000\\u001f\\u007f\""));
        assert_se(string_becomes("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", 9,
                                 "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\""));
}

#define R "\xef\xbf\xbd"

/* The maximal-subpart rule of Unicode 15, section 3.9, table 3-8 and its neighbours. */
TEST(bytes_that_are_no_utf8_become_replacement_characters) {
        assert_se(string_becomes("\x80", 1, "\"" R "\""));
        assert_se(string_becomes("a\xffz", 3, "\"a" R "z\""));
        assert_se(string_becomes("\xc0\xaf", 2, "\"" R R "\""));                  /* overlong */
        assert_se(string_becomes("\xed\xa0\x80", 3, "\"" R R R "\""));            /* a surrogate */
        assert_se(string_becomes("\xf4\x90\x80\x80", 4, "\"" R R R R "\""));      /* above U+10FFFF */
        assert_se(string_becomes("\xe2\x82", 2, "\"" R "\""));                    /* cut off */
        assert_se(string_becomes("\xf0\x9f\x98!", 4, "\"" R "!\""));
        assert_se(string_becomes("\xe2\x82\xe2\x82\xac", 5, "\"" R "\xe2\x82\xac\""));
}

TEST(open_tail_is_what_further_bytes_can_complete) {
        assert_se(utf8_open_tail("", 0) == 0);
        assert_se(utf8_open_tail("abc", 3) == 0);
        assert_se(utf8_open_tail("a\xc3", 2) == 1);
        assert_se(utf8_open_tail("a\xc3\xa4", 3) == 0);
        assert_se(utf8_open_tail("\xe2\x82", 2) == 2);
        assert_se(utf8_open_tail("\xf0\x9f\x98", 3) == 3);
        assert_se(utf8_open_tail("\xf0\x9f\x98\x80", 4) == 0);
        assert_se(utf8_open_tail("\x80\x80\x80", 3) == 0);
        assert_se(utf8_open_tail("\xff", 1) == 0);
        assert_se(utf8_open_tail("\xed\xa0", 2) == 0); /* nothing makes that a character */
}

TEST(commas_and_colons_come_by_themselves) {
        struct json_writer w = JSON_WRITER_INIT;
        char *text;

        json_open(&w, '{');
        json_key(&w, "a");
        json_open(&w, '[');
        json_int(&w, -1);
        json_uint(&w, UINT64_MAX);
        json_null(&w);
        json_bool(&w, true);
        json_open(&w, '{');
        json_close(&w, '}');
        json_close(&w, ']');
        json_key(&w, "b{");
        json_text(&w, "[");
        json_key(&w, "c");
        json_double(&w, 0.1);
        json_key(&w, "d");
        json_double(&w, NAN);
        json_key(&w, "e");
        json_float(&w, 0.1f);
        json_close(&w, '}');
        assert_se(json_writer_take(&w, &text) == 0);
        assert_se(strcmp(text,
                         "{\"a\":[-1,18446744073709551615,null,true,{}],\"b{\":\"[\",\"c\":0.1,\"d\":null,"
                         "\"e\":0.1}") == 0);
        free(text);
}

TEST(doubles_read_back_equal) {
        static const double values[] = { 0.1, 1.0 / 3.0, 1e300, -5e-324, 123456789012345680.0, 2.5 };

        for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
                struct json_writer w = JSON_WRITER_INIT;
                struct json *json;

                json_double(&w, values[i]);
                assert_se(json_parse(&json, w.data, w.length, NULL) == 0);
                assert_se(json_as_double(json, 0) == values[i]);
                json_free(json);
                json_writer_deinit(&w);
        }
}

static int parse(const char *text) {
        struct reason reason = REASON_INIT;
        struct json *json = NULL;
        int r;

        r = json_parse(&json, text, strlen(text), &reason);
        assert_se(r == 0 || reason.text[0]);
        json_free(json);
        return r;
}

TEST(well_formed_json_is_read) {
        struct json *json;
        const struct json *b;
        static const char text[] =
                " { \"a\" : [ 1 , -2 , 2.5e1 , true , null ] , \"b\" : \"x\\u00e4\\ud83d\\ude00\\n\\/\" } ";

        assert_se(json_parse(&json, text, sizeof(text) - 1, NULL) == 0);
        assert_se(json->type == JSON_OBJECT && json->length == 2);
        assert_se(json_get(json, "a")->length == 5);
        assert_se(json_get(json, "a")->child->uint == 1);
        assert_se(json_get(json, "a")->child->next->sint == -2);
        assert_se(json_as_double(json_get(json, "a")->child->next->next, 0) == 25.0);
        b = json_get(json, "b");
        assert_se(b->length == 9 && strcmp(b->string, "x\xc3\xa4\xf0\x9f\x98\x80\n/") == 0);
        assert_se(!json_get(json, "c") && !json_get(b, "c") && !json_get(NULL, "c"));
        assert_se(json_get_uint(json, "b", 7) == 7);
        json_free(json);
        assert_se(parse("0") == 0 && parse("-0.0e-5") == 0 && parse("\"\"") == 0 && parse("[]") == 0 &&
                  parse("{}") == 0);
}

TEST(malformed_json_is_refused_with_a_reason) {
        static const char *const bad[] = {
                "", " ", "{", "}", "[1,]", "[1 2]", "{\"a\"}", "{\"a\":}", "{a:1}", "{\"a\":1,}", "01",
                "1.", ".5", "1e", "+1", "-", "\"", "\"\\x\"", "\"\\u12\"", "\"\\ud800\"", "\"\\udc00\"",
                "\"\\ud800\\u0041\"", "\"\n\"", "\"\xff\"", "\"\\", "\"\\\"", "nul", "truex", "1 2",
                "[1]]", "{\"a\\u0000b\":1}", "NaN",
        };

        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
                assert_se(parse(bad[i]) == -EINVAL);
}

TEST(nesting_is_limited_exactly) {
        char text[2 * JSON_DEPTH_MAX + 4] = "";

        memset(text, '[', JSON_DEPTH_MAX);
        memset(text + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
        assert_se(parse(text) == 0);
        memset(text, '[', JSON_DEPTH_MAX + 1);
        memset(text + JSON_DEPTH_MAX + 1, ']', JSON_DEPTH_MAX + 1);
        assert_se(parse(text) == -EINVAL);
}

/* Every prefix and every changed byte of a text is either read or refused, never read beyond. */
TEST(damaged_json_does_no_harm) {
        static const char good[] =
                "{\"k\":[1,-2.5e3,\"\\ud83d\\ude00x\",{\"n\":null,\"t\":true}],\"z\":\"\xe2\x82\xac\"}";

        for (size_t n = 0; n < sizeof(good) - 1; n++) {
                char *copy = malloc(n + 1); /* exact, so that a sanitizer sees a byte too far */
                struct json *json = NULL;

                memcpy(copy, good, n);
                assert_se(json_parse(&json, copy, n, NULL) == -EINVAL);
                free(copy);
                for (unsigned byte = 0; byte < 256; byte++) {
                        copy = malloc(sizeof(good) - 1);
                        memcpy(copy, good, sizeof(good) - 1);
                        copy[n] = (char) byte;
                        json = NULL;
                        if (json_parse(&json, copy, sizeof(good) - 1, NULL) == 0)
                                json_free(json);
                        free(copy);
                }
        }
}
