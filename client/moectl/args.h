/* SPDX-License-Identifier: MIT */
#pragma once

/* Command lines by table: one row an option, from which come parsing, `--help` and nothing else. Options and
 * operands may be mixed; `--` ends the options; `-` is an operand. `--name=value`, `--name value`, `-n
 * value`, `-nvalue`. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/reason.h"

enum arg_kind {
        ARG_FLAG,   /* bool */
        ARG_TEXT,   /* const char * */
        ARG_TEXTS,  /* struct texts: given several times */
        ARG_U32,    /* uint32_t */
        ARG_U64,    /* uint64_t */
        ARG_FLOAT,  /* float */
        ARG_DOUBLE, /* double */
};

struct texts {
        const char **items; /* owned; the strings are argv's */
        size_t n;
};

struct arg {
        const char *name;   /* without the dashes; NULL ends the table */
        char letter;        /* 0: none */
        enum arg_kind kind;
        void *to;
        const char *value;  /* what --help calls the value; NULL for flags */
        const char *help;
        double min, max;    /* of numbers */
};

enum {
        _ARGS_E_SUCCESS,
        ARGS_E_USAGE, /* the reason says what is wrong */
};

/* Reads argv[0] … argv[argc - 1]. Operands end up at the front of argv, *n says how many. With `first_only`
 * it stops at the first operand: what follows is behind it, untouched. Tables are searched in turn; `b` may
 * be NULL. Returns 0, ARGS_E_USAGE, or -ENOMEM. */
int args_parse(const struct arg *a, const struct arg *b, bool first_only, int argc, char **argv, int *n,
               struct reason *reason);

/* Prints the rows as --help does, to stdout. */
void args_print(const struct arg *args);

/* One number, whole text: 0 or ARGS_E_USAGE. */
int args_number(const char *text, double min, double max, double *ret);
int args_u64(const char *text, uint64_t max, uint64_t *ret);

/* Reads "1,2,3" (spaces allowed) into a malloc()ed array. 0, ARGS_E_USAGE, -ENOMEM. */
int args_tokens(const char *text, int32_t **ret, size_t *n, struct reason *reason);
