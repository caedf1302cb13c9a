/* SPDX-License-Identifier: MIT */
#include "args.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

int args_number(const char *text, double min, double max, double *ret) {
        double value;
        char *end;

        if (!text[0] || isspace((unsigned char) text[0]))
                return ARGS_E_USAGE;
        errno = 0;
        value = strtod(text, &end);
        /* A comparison with NaN is false. */
        if (*end || errno == ERANGE || !isfinite(value) || !(value >= min && value <= max))
                return ARGS_E_USAGE;
        *ret = value;
        return 0;
}

int args_u64(const char *text, uint64_t max, uint64_t *ret) {
        unsigned long long value;
        char *end;

        if (!isdigit((unsigned char) text[0]))
                return ARGS_E_USAGE;
        errno = 0;
        value = strtoull(text, &end, 10);
        if (*end || errno == ERANGE || value > max)
                return ARGS_E_USAGE;
        *ret = value;
        return 0;
}

static int texts_add(struct texts *texts, const char *item) {
        const char **items = reallocarray(texts->items, texts->n + 1, sizeof(*items));

        if (!items)
                return -ENOMEM;
        texts->items = items;
        texts->items[texts->n++] = item;
        return 0;
}

static int arg_store_whole(const struct arg *arg, const char *value, struct reason *reason) {
        uint64_t max = arg->kind == ARG_U32 ? UINT32_MAX : UINT64_MAX, u;

        if (arg->max > 0)
                max = (uint64_t) arg->max;
        if (args_u64(value, max, &u))
                return reason_return(reason, ARGS_E_USAGE, "--%s: '%s' is not a whole number from 0 to %llu",
                                     arg->name, value, (unsigned long long) max);
        if (u < (uint64_t) arg->min)
                return reason_return(reason, ARGS_E_USAGE, "--%s: at least %.0f is needed", arg->name,
                                     arg->min);
        if (arg->kind == ARG_U32)
                *(uint32_t *) arg->to = (uint32_t) u;
        else
                *(uint64_t *) arg->to = u;
        return 0;
}

static int arg_store_real(const struct arg *arg, const char *value, struct reason *reason) {
        double d;

        if (args_number(value, arg->min, arg->max, &d))
                return reason_return(reason, ARGS_E_USAGE, "--%s: '%s' is not a number from %g to %g",
                                     arg->name, value, arg->min, arg->max);
        if (arg->kind == ARG_FLOAT)
                *(float *) arg->to = (float) d;
        else
                *(double *) arg->to = d;
        return 0;
}

static int arg_store(const struct arg *arg, const char *value, struct reason *reason) {
        switch (arg->kind) {
        case ARG_FLAG:
                *(bool *) arg->to = true;
                return 0;
        case ARG_TEXT:
                *(const char **) arg->to = value;
                return 0;
        case ARG_TEXTS:
                return texts_add(arg->to, value);
        case ARG_U32:
        case ARG_U64:
                return arg_store_whole(arg, value, reason);
        default:
                return arg_store_real(arg, value, reason);
        }
}

static const struct arg *arg_find(const struct arg *args, const char *name, size_t length, char letter) {
        for (; args && args->name; args++)
                if (letter ? args->letter == letter
                           : strlen(args->name) == length && memcmp(args->name, name, length) == 0)
                        return args;
        return NULL;
}

static const struct arg *arg_find_any(const struct arg *a, const struct arg *b, const char *name,
                                      size_t length, char letter) {
        const struct arg *arg = arg_find(a, name, length, letter);

        return arg ? arg : arg_find(b, name, length, letter);
}

/* `text` is "--name" or "--name=value". *value: NULL when it has none. */
static const struct arg *arg_split_long(const struct arg *a, const struct arg *b, const char *text,
                                        const char **value) {
        size_t length = strcspn(text + 2, "=");

        *value = text[2 + length] == '=' ? text + 2 + length + 1 : NULL;
        return arg_find_any(a, b, text + 2, length, 0);
}

/* One option at argv[*i]; *i moves to the last argument that it used. */
static int arg_take(const struct arg *a, const struct arg *b, int argc, char **argv, int *i,
                    struct reason *reason) {
        const char *text = argv[*i], *value;
        const struct arg *arg;
        int r;

        if (text[1] == '-') {
                arg = arg_split_long(a, b, text, &value);
                if (arg && arg->kind == ARG_FLAG && value)
                        return reason_return(reason, ARGS_E_USAGE, "--%s takes no value", arg->name);
        } else {
                arg = arg_find_any(a, b, NULL, 0, text[1]);
                value = text[2] ? text + 2 : NULL;
        }
        if (!arg)
                return reason_return(reason, ARGS_E_USAGE, "unknown option '%s'", text);
        if (arg->kind == ARG_FLAG) {
                r = arg_store(arg, NULL, reason);
                if (text[1] != '-' && value)
                        return reason_return(reason, ARGS_E_USAGE, "-%c takes no value: '%s'", text[1], text);
                return r;
        }
        if (!value && *i + 1 >= argc)
                return reason_return(reason, ARGS_E_USAGE, "--%s needs a value: %s", arg->name, arg->value);
        if (!value)
                value = argv[++*i];
        return arg_store(arg, value, reason);
}

int args_parse(const struct arg *a, const struct arg *b, bool first_only, int argc, char **argv, int *n,
               struct reason *reason) {
        bool options = true;
        int i, r;

        *n = 0;
        for (i = 0; i < argc; i++) {
                if (options && strcmp(argv[i], "--") == 0) {
                        options = false;
                        continue;
                }
                if (options && argv[i][0] == '-' && argv[i][1]) {
                        r = arg_take(a, b, argc, argv, &i, reason);
                        if (r)
                                return r;
                        continue;
                }
                if (first_only)
                        break;
                argv[(*n)++] = argv[i];
        }
        if (first_only) {
                *n = argc - i;
                memmove(argv, argv + i, (size_t) *n * sizeof(*argv));
        }
        return 0;
}

void args_print(const struct arg *args) {
        for (; args->name; args++) {
                char left[64];

                snprintf(left, sizeof(left), "%c%c%s --%s%s%s", args->letter ? '-' : ' ',
                         args->letter ? args->letter : ' ', args->letter ? "," : " ", args->name,
                         args->value ? " " : "", args->value ? args->value : "");
                printf("  %-30s %s\n", left, args->help);
        }
}

int args_tokens(const char *text, int32_t **ret, size_t *n, struct reason *reason) {
        _cleanup_(freep) int32_t *tokens = NULL;
        size_t count = 0, commas = 1;

        for (const char *c = text; *c; c++)
                commas += *c == ',';
        tokens = calloc(commas, sizeof(*tokens));
        if (!tokens)
                return -ENOMEM;
        for (const char *at = text;; at++) {
                unsigned long value;
                char *end;

                at += strspn(at, " ");
                errno = 0;
                value = isdigit((unsigned char) *at) ? strtoul(at, &end, 10) : ULONG_MAX;
                if (value > INT32_MAX)
                        return reason_return(reason, ARGS_E_USAGE,
                                             "numbers with commas between are needed, as "
                                             "'1,2,3', not '%s'",
                                             text);
                tokens[count++] = (int32_t) value;
                at = end + strspn(end, " ");
                if (*at == 0)
                        break;
                if (*at != ',')
                        return reason_return(reason, ARGS_E_USAGE, "'%s' where a comma was expected", at);
        }
        *ret = steal_ptr(tokens);
        *n = count;
        return 0;
}
