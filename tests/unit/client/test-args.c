/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "args.h"
#include "table.h"
#include "test.h"

struct values {
        bool flag, other;
        const char *text;
        struct texts texts;
        uint32_t u32;
        uint64_t u64;
        double real;
        float small;
};

static int parse_n(struct values *v, bool first_only, int argc, char **argv, int *n, struct reason *reason) {
        const struct arg own[] = {
                { "flag", 'f', ARG_FLAG, &v->flag },
                { "text", 't', ARG_TEXT, &v->text, "T" },
                { "texts", 0, ARG_TEXTS, &v->texts, "T" },
                { "u32", 'u', ARG_U32, &v->u32, "N" },
                { "u64", 0, ARG_U64, &v->u64, "N", NULL, 1, 10 },
                { "real", 'r', ARG_DOUBLE, &v->real, "R", NULL, -1, 1 },
                { "small", 0, ARG_FLOAT, &v->small, "R", NULL, 0, 100 },
                {},
        };
        const struct arg common[] = { { "other", 'o', ARG_FLAG, &v->other }, {} };

        return args_parse(own, common, first_only, argc, argv, n, reason);
}

#define PARSE(_v, ...) \
        ({ \
                char *_argv[] = { __VA_ARGS__, NULL }; \
                struct reason _reason = REASON_INIT; \
                int _n, _r = parse_n((_v), false, (int) (sizeof(_argv) / sizeof(_argv[0])) - 1, _argv, &_n, \
                                     &_reason); \
                assert_se(_r == 0 || _reason.text[0]); \
                _r == 0 ? _n : -1; \
        })
#define S(_text) ((char *) (_text))

TEST(options_in_every_spelling) {
        struct values v = {};

        assert_se(PARSE(&v, S("--flag"), S("--text=a=b"), S("--u32"), S("7"), S("-r"), S("0.5"), S("-o")) ==
                  0);
        assert_se(v.flag && v.other && strcmp(v.text, "a=b") == 0 && v.u32 == 7 && v.real == 0.5);
        assert_se(PARSE(&v, S("-tx"), S("-u"), S("8"), S("--small=2.5")) == 0);
        assert_se(strcmp(v.text, "x") == 0 && v.u32 == 8 && v.small == 2.5f);
        assert_se(PARSE(&v, S("--text"), S("")) == 0 && v.text[0] == 0);
        assert_se(PARSE(&v, S("--text="), S("x")) == 1 && v.text[0] == 0);
        assert_se(PARSE(&v, S("-r"), S("-0.5")) == 0 && v.real == -0.5);
}

TEST(operands_stay_in_order_among_options) {
        struct values v = {};
        char *argv[] = { S("a"), S("--flag"), S("-"), S("--"), S("--text"), S("-f"), NULL };
        struct reason reason;
        int n;

        assert_se(parse_n(&v, false, 6, argv, &n, &reason) == 0);
        assert_se(n == 4 && v.flag && !v.text);
        assert_se(strcmp(argv[0], "a") == 0 && strcmp(argv[1], "-") == 0 && strcmp(argv[2], "--text") == 0 &&
                  strcmp(argv[3], "-f") == 0);
}

TEST(verb_takes_what_is_behind_it) {
        struct values v = {};
        char *argv[] = { S("-f"), S("run"), S("--unknown"), S("x"), NULL };
        struct reason reason;
        int n;

        assert_se(parse_n(&v, true, 4, argv, &n, &reason) == 0);
        assert_se(n == 3 && v.flag && strcmp(argv[0], "run") == 0 && strcmp(argv[1], "--unknown") == 0);
}

TEST(texts_add_up_and_others_take_the_last) {
        struct values v = {};

        assert_se(PARSE(&v, S("--texts"), S("a"), S("--texts=b"), S("-u1"), S("-u2")) == 0);
        assert_se(v.texts.n == 2 && strcmp(v.texts.items[1], "b") == 0 && v.u32 == 2);
        free(v.texts.items);
}

TEST(mistakes_are_refused) {
        struct values v = {};

        assert_se(PARSE(&v, S("--nope")) < 0);
        assert_se(PARSE(&v, S("-x")) < 0);
        assert_se(PARSE(&v, S("--fla")) < 0); /* no abbreviations: a later option could make them ambiguous */
        assert_se(PARSE(&v, S("--flag=1")) < 0);
        assert_se(PARSE(&v, S("-fo")) < 0);
        assert_se(PARSE(&v, S("--text")) < 0);
        assert_se(PARSE(&v, S("-u")) < 0);
        assert_se(PARSE(&v, S("-u"), S("4294967296")) < 0);
        assert_se(PARSE(&v, S("-u"), S("-1")) < 0);
        assert_se(PARSE(&v, S("-u"), S("1x")) < 0);
        assert_se(PARSE(&v, S("-u"), S("")) < 0);
        assert_se(PARSE(&v, S("-u"), S(" 1")) < 0);
        assert_se(PARSE(&v, S("-u"), S("99999999999999999999999")) < 0);
        assert_se(PARSE(&v, S("--u64"), S("0")) < 0);
        assert_se(PARSE(&v, S("--u64"), S("11")) < 0);
        assert_se(PARSE(&v, S("-r"), S("1.01")) < 0);
        assert_se(PARSE(&v, S("-r"), S("nan")) < 0);
        assert_se(PARSE(&v, S("-r"), S("inf")) < 0);
        assert_se(PARSE(&v, S("-r"), S("0.5x")) < 0);
        assert_se(PARSE(&v, S("-r"), S("")) < 0);
}

TEST(limits_are_inclusive) {
        struct values v = {};

        assert_se(PARSE(&v, S("-u"), S("4294967295"), S("--u64"), S("10"), S("-r"), S("1")) == 0);
        assert_se(v.u32 == UINT32_MAX && v.u64 == 10 && v.real == 1.0);
        assert_se(PARSE(&v, S("-u"), S("0"), S("--u64"), S("1"), S("-r"), S("-1")) == 0);
}

static int tokens(const char *text, size_t expect, int32_t last) {
        struct reason reason = REASON_INIT;
        int32_t *ids = NULL;
        size_t n = 0;
        int r;

        r = args_tokens(text, &ids, &n, &reason);
        assert_se(r == 0 || reason.text[0]);
        if (r == 0)
                assert_se(n == expect && ids[n - 1] == last);
        free(ids);
        return r;
}

TEST(token_lists) {
        assert_se(tokens("7", 1, 7) == 0);
        assert_se(tokens("1,2,3", 3, 3) == 0);
        assert_se(tokens(" 1 , 2 ", 2, 2) == 0);
        assert_se(tokens("0,2147483647", 2, INT32_MAX) == 0);
        assert_se(tokens("", 0, 0) == ARGS_E_USAGE);
        assert_se(tokens(",", 0, 0) == ARGS_E_USAGE);
        assert_se(tokens("1,", 0, 0) == ARGS_E_USAGE);
        assert_se(tokens("1,,2", 0, 0) == ARGS_E_USAGE);
        assert_se(tokens("1 2", 0, 0) == ARGS_E_USAGE);
        assert_se(tokens("-1", 0, 0) == ARGS_E_USAGE);
        assert_se(tokens("2147483648", 0, 0) == ARGS_E_USAGE);
        assert_se(tokens("99999999999999999999", 0, 0) == ARGS_E_USAGE);
}

TEST(sizes_for_people) {
        char text[16];

        assert_se(strcmp(format_bytes(text, 0), "0 B") == 0);
        assert_se(strcmp(format_bytes(text, 1023), "1023 B") == 0);
        assert_se(strcmp(format_bytes(text, 1024), "1.0 KiB") == 0);
        assert_se(strcmp(format_bytes(text, UINT64_MAX), "16384.0 PiB") == 0);
        assert_se(strcmp(format_count(text, 999), "999") == 0);
        assert_se(strcmp(format_count(text, 28300000), "28.3 M") == 0);
}
