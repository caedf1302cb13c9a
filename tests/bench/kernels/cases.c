/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "cases.h"
#include "limits.h"

static int compare(const void *a, const void *b) {
        double x = *(const double *) a, y = *(const double *) b;

        return (x > y) - (x < y);
}

double cases_median(const double *values, unsigned n, double *ret_spread) {
        double sorted[CASE_ROUNDS_MAX];

        memcpy(sorted, values, n * sizeof(*sorted));
        qsort(sorted, n, sizeof(*sorted), compare);
        if (ret_spread)
                *ret_spread = (sorted[n - 1] - sorted[0]) / sorted[n / 2];
        return sorted[n / 2];
}

static int run_case(const struct case_program *p, const char *name, struct case_run *ret,
                    struct reason *reason) {
        int r;

        *ret = (struct case_run){0};
        r = p->run(p->context, name, ret, reason);
        if (r < 0)
                reason_set(reason, "%s", strerror(-r));
        return r;
}

/* --- a line for a line -------------------------------------------------------------------------------------
 */

static void answer_error(const char *text) {
        printf("{\"error\":\"");
        for (; *text; text++)
                printf(*text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
        printf("\"}\n");
}

static void answer_limits(const struct case_program *p) {
        struct limits l;
        int r = limits_measure(&l, p->read_bytes);

        if (r < 0)
                answer_error(strerror(-r));
        else
                printf("{\"read_one\":%.0f,\"read_all\":%.0f,\"bf16\":%.0f,\"int8\":%.0f,\"matrix\":%s,"
                       "\"threads\":%u}\n",
                       l.read_one, l.read_all, l.bf16, l.int8, l.matrix ? "true" : "false", l.threads);
}

static void answer_case(const struct case_program *p, const char *name) {
        struct reason reason = REASON_INIT;
        struct case_run run;

        if (run_case(p, name, &run, &reason))
                answer_error(reason.text);
        else
                printf("{\"seconds\":%.9f,\"tokens\":%.0f,\"bytes\":%.0f,\"products\":%.0f}\n", run.seconds,
                       run.tokens, run.bytes, run.products);
}

static int answer_lines(const struct case_program *p) {
        char line[128];

        while (fgets(line, sizeof(line), stdin)) {
                line[strcspn(line, "\n")] = '\0';
                if (strcmp(line, "limits") == 0)
                        answer_limits(p);
                else
                        answer_case(p, line);
                if (fflush(stdout) == EOF)
                        return EXIT_FAILURE;
        }
        return EXIT_SUCCESS;
}

/* --- a table
 * ------------------------------------------------------------------------------------------------ */

struct samples {
        struct case_run last;
        double seconds[CASE_ROUNDS_MAX];
        bool failed;
};

static void table_row(const char *name, struct samples *s, unsigned rounds, const struct limits *l) {
        double spread, seconds = cases_median(s->seconds, rounds, &spread);
        const struct case_run *run = &s->last;

        printf("%-28s %10.3f ms %5.0f%%", name, seconds * 1e3, 100.0 * spread);
        if (run->tokens > 0.0)
                printf("  %8.1f tokens/s", run->tokens / seconds);
        if (run->bytes > 0.0)
                printf("  %6.2f GB/s, %3.0f%% of reading", run->bytes / seconds / 1e9,
                       100.0 * run->bytes / seconds / l->read_all);
        if (run->products > 0.0)
                printf("  %6.3f Tflop/s, %3.0f%% of bf16, %3.0f%% of int8",
                       2.0 * run->products / seconds / 1e12, 100.0 * run->products / seconds / l->bf16,
                       100.0 * run->products / seconds / l->int8);
        putchar('\n');
}

static int measure_limits(const struct case_program *p, struct limits *best) {
        struct limits l;
        int r = limits_measure(&l, p->read_bytes);

        if (r < 0) {
                fprintf(stderr, "the machine's limits: %s\n", strerror(-r));
                return r;
        }
        l.read_one = MAX(l.read_one, best->read_one);
        l.read_all = MAX(l.read_all, best->read_all);
        l.bf16 = MAX(l.bf16, best->bf16);
        l.int8 = MAX(l.int8, best->int8);
        *best = l;
        return 0;
}

static int print_table(const struct case_program *p, char **names, int n) {
        struct samples *samples = calloc((size_t) MAX(n, 1), sizeof(*samples));
        struct limits limits = {0};
        bool failed = false;

        if (!samples)
                return EXIT_FAILURE;
        for (unsigned round = 0; round < p->rounds; round++) {
                failed |= measure_limits(p, &limits) < 0;
                for (int i = 0; i < n; i++) {
                        struct reason reason = REASON_INIT;

                        if (samples[i].failed)
                                continue;
                        if (run_case(p, names[i], &samples[i].last, &reason)) {
                                printf("%-28s %s\n", names[i], reason.text);
                                samples[i].failed = failed = true;
                        }
                        samples[i].seconds[round] = samples[i].last.seconds;
                }
        }
        printf("%u threads read %.2f GB/s (one %.2f); %s: %.3f Tflop/s of bf16, %.3f Top/s of int8\n",
               limits.threads, limits.read_all / 1e9, limits.read_one / 1e9,
               limits.matrix ? "AMX" : "no AMX, vectors of float32 and int8", 2.0 * limits.bf16 / 1e12,
               2.0 * limits.int8 / 1e12);
        for (int i = 0; i < n; i++)
                if (!samples[i].failed)
                        table_row(names[i], &samples[i], p->rounds, &limits);
        free(samples);
        return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* --- options
 * ------------------------------------------------------------------------------------------------ */

#define READ_BYTES (UINT64_C(4) << 30)

enum { OPTION_OWN = 256 }; /* and up: the program's */

static const struct option common[] = {
        {"json", no_argument, NULL, 'j'},
        {"rounds", required_argument, NULL, 'r'},
        {"read-bytes", required_argument, NULL, 'b'},
        {"help", no_argument, NULL, 'h'},
};

static void list_options(const struct case_program *p, struct option *ret) {
        unsigned n = ELEMENTS(common);

        memcpy(ret, common, sizeof(common));
        for (unsigned i = 0; i < ELEMENTS(p->options) && p->options[i].name; i++)
                ret[n++] = (struct option){p->options[i].name, required_argument, NULL, (int) (OPTION_OWN + i)};
}

static void take_option(struct case_program *p, int option) {
        if (option == 'j')
                p->json = true;
        else if (option == 'r')
                p->rounds = (unsigned) atoi(optarg);
        else if (option == 'b')
                p->read_bytes = strtoull(optarg, NULL, 10);
        else
                *p->options[option - OPTION_OWN].value = (uint32_t) atoi(optarg);
}

static bool in_range(const struct case_program *p) {
        bool fit = p->rounds >= 1 && p->rounds <= CASE_ROUNDS_MAX && p->read_bytes >= 1 << 20;

        for (unsigned i = 0; i < ELEMENTS(p->options) && p->options[i].name; i++)
                fit = fit && *p->options[i].value >= p->options[i].least && *p->options[i].value <= p->options[i].most;
        return fit;
}

bool cases_parse(struct case_program *p, int *argc, char ***argv, int *ret_status) {
        struct option options[ELEMENTS(common) + ELEMENTS(p->options) + 1] = {0};
        int c;

        p->rounds = CASE_ROUNDS;
        p->read_bytes = READ_BYTES;
        list_options(p, options);
        while ((c = getopt_long(*argc, *argv, "h", options, NULL)) != -1) {
                if (c == 'h' || c == '?') {
                        p->usage();
                        *ret_status = c == 'h' ? EXIT_SUCCESS : EXIT_FAILURE;
                        return false;
                }
                take_option(p, c);
        }
        *argc -= optind;
        *argv += optind;
        if (!in_range(p) || *argc < p->operands + !p->json) {
                p->usage();
                *ret_status = EXIT_FAILURE;
                return false;
        }
        return true;
}

int cases_main(const struct case_program *program, char **names, int n) {
        return program->json ? answer_lines(program) : print_table(program, names, n);
}
