/* SPDX-License-Identifier: MIT */
#pragma once

/* Programs that measure cases by name. With --json each line of the input names a case, which is run once and
 * answered with a line of JSON: so a driver can take turns between the cases of several programs. Without it
 * the cases that the arguments name are run in rounds, and a table shows their medians. The case "limits" is
 * what the machine can do. */

#include <stdbool.h>
#include <stdint.h>

#include "base/reason.h"

/* One run of a case. What is 0 is not known of it. */
struct case_run {
        double seconds, tokens;
        double bytes;    /* that it reads from memory at least */
        double products; /* multiply-adds of weights, or of keys and values */
};

enum {
        _CASE_E_SUCCESS,
        CASE_E_NONE, /* no such case, or this machine can't run it; the reason says why */
};

/* An option of one program: --NAME N, with its default in *value. */
struct case_option {
        const char *name;
        uint32_t *value, least, most;
};

struct case_program {
        /* 0, CASE_E_NONE, negative errno. */
        int (*run)(void *context, const char *name, struct case_run *ret, struct reason *reason);
        void *context;
        void (*usage)(void);
        struct case_option options[4]; /* beside those of all programs; the first without a name ends them */
        int operands;                  /* arguments before the names of cases */

        /* What cases_parse() finds. */
        uint64_t read_bytes; /* over so much the read bandwidth is measured */
        bool json;
        unsigned rounds;
};

enum { CASE_ROUNDS = 5, CASE_ROUNDS_MAX = 99 };

/* The lines of usage() about the options of all programs; the second may stand behind others. */
#define CASE_USAGE_RUN                                                                                       \
        "  --json          run the case that each line of the input names, answer with a line\n"             \
        "  --rounds N      of all cases (default: 5)\n"
#define CASE_USAGE_READ "  --read-bytes N  over which the read bandwidth is measured (default: 4 GiB)\n"

/* Reads the options; *argv then begins with the operands. True: go on. False: usage was shown, *ret_status is how the
 * program ends. */
bool cases_parse(struct case_program *program, int *argc, char ***argv, int *ret_status);

/* Runs what the input, or else the arguments name; the program's exit status. */
int cases_main(const struct case_program *program, char **names, int n);

/* Of 1 to CASE_ROUNDS_MAX values. The spread is (largest - smallest) / median; may be NULL. */
double cases_median(const double *values, unsigned n, double *ret_spread);
