/* SPDX-License-Identifier: MIT */
#pragma once

/* What every verb of moectl shares: the options that all have, the way to the daemon, messages and exit
 * codes. */

#include <stdbool.h>
#include <stdint.h>
#include <sysexits.h>

#include "args.h"
#include "moed.h"

struct cli {
        const char *socket;
        bool json, help;
        size_t arena; /* bytes of the longest prompt to come; set before cli_connect() */
};

/* A verb reads its own options with cli_parse() and returns an exit code. */
struct verb {
        const char *name, *operands, *summary;
        int (*run)(struct cli *cli, const struct verb *verb, int argc, char **argv);
        const char *details; /* printed by --help behind the options; NULL: nothing */
};

enum {
        CLI_DONE = -1,       /* go on */
        CLI_INTERRUPTED = 130,
};

/* Parses a verb's options; answers --help. Returns CLI_DONE to go on, or the exit code to leave with. */
int cli_parse(struct cli *cli, const struct verb *verb, const struct arg *args, int argc, char **argv,
              int *n);
/* The same for a verb that takes options alone. */
int cli_parse_options(struct cli *cli, const struct verb *verb, const struct arg *args, int argc, char **argv);
/* A mistake in the command line: says so, points to --help. Returns EX_USAGE. */
int cli_usage(const struct verb *verb, const char *format, ...) _printf_(2, 3);
/* One line on stderr, "moectl: …". */
void cli_complain(const char *format, ...) _printf_(1, 2);
void cli_note(const char *format, ...) _printf_(1, 2);
/* The sysexits(3) code for a negative errno. */
int cli_exit_code(int error);
/* Prints the connection's sentence and returns the code for `error`. */
int cli_failed(struct moed *m, int error);

/* Connects, or complains: 0 and *ret, or an exit code. */
int cli_connect(const struct cli *cli, struct moed **ret);
void moed_closep(struct moed **m);

/* The model of that name (NULL: the default), copied shallowly: strings live until the next moed_models(). 0
 * or an exit code; an unknown name is EX_USAGE, with the names that there are. */
int cli_model(struct moed *m, const char *name, struct moed_model *ret);

/* Asks the daemon by a verb and prints its answer as is; or gives it as a tree. 0 or an exit code. */
int cli_query_print(struct moed *m, const char *verb, const char *arguments);
struct json;
int cli_query(struct moed *m, const char *verb, const char *arguments, struct json **ret);

/* Flushes stdout: EX_OK, or EX_IOERR after complaining. */
int cli_flush(void);

/* From interrupt_catch() to interrupt_release() Ctrl-C and SIGTERM are counted and end nothing. */
void interrupt_catch(void);
void interrupt_release(void);
int interrupt_count(void);
/* How many came since the last time that this was asked; the count begins anew. */
int interrupt_take(void);
/* Sleeps until standard input can be read, or a signal came, also one that came just before: 0 or -EINTR. */
int interrupt_wait_input(void);
/* 130 for Ctrl-C, 143 for SIGTERM. */
int interrupt_exit_code(void);

int verb_run(struct cli *cli, const struct verb *verb, int argc, char **argv);
int verb_chat(struct cli *cli, const struct verb *verb, int argc, char **argv);
int verb_score(struct cli *cli, const struct verb *verb, int argc, char **argv);
int verb_load(struct cli *cli, const struct verb *verb, int argc, char **argv);
int verb_unload(struct cli *cli, const struct verb *verb, int argc, char **argv);
int verb_models(struct cli *cli, const struct verb *verb, int argc, char **argv);
int verb_ps(struct cli *cli, const struct verb *verb, int argc, char **argv);
int verb_cancel(struct cli *cli, const struct verb *verb, int argc, char **argv);
int verb_stats(struct cli *cli, const struct verb *verb, int argc, char **argv);
int verb_budget(struct cli *cli, const struct verb *verb, int argc, char **argv);
int verb_explain(struct cli *cli, const struct verb *verb, int argc, char **argv);
int verb_top(struct cli *cli, const struct verb *verb, int argc, char **argv);
int verb_tokenize(struct cli *cli, const struct verb *verb, int argc, char **argv);
int verb_reload(struct cli *cli, const struct verb *verb, int argc, char **argv);
int verb_bench(struct cli *cli, const struct verb *verb, int argc, char **argv);
int verb_calibrate(struct cli *cli, const struct verb *verb, int argc, char **argv);
int verb_convert(struct cli *cli, const struct verb *verb, int argc, char **argv);
int verb_inspect(struct cli *cli, const struct verb *verb, int argc, char **argv);
int verb_doctor(struct cli *cli, const struct verb *verb, int argc, char **argv);
