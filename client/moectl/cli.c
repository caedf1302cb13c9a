/* SPDX-License-Identifier: MIT */
#include "cli.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "escape.h"
#include "json.h"

enum { ARENA_ENOUGH = 1024 * 1024 };

static volatile sig_atomic_t interrupts, interrupt_signal;

/* What came from a daemon or a command line must not move the terminal's cursor. */
static void complain(const char *prefix, const char *format, va_list args) {
        _cleanup_(freep) char *escaped = NULL;
        char text[1024];

        vsnprintf(text, sizeof(text), format, args);
        escaped = escape(text);
        fprintf(stderr, "%s%s\n", prefix, escaped ? escaped : "");
}

void cli_complain(const char *format, ...) {
        va_list args;

        va_start(args, format);
        complain("moectl: ", format, args);
        va_end(args);
}

void cli_note(const char *format, ...) {
        va_list args;

        va_start(args, format);
        complain("", format, args);
        va_end(args);
}

int cli_usage(const struct verb *verb, const char *format, ...) {
        va_list args;

        va_start(args, format);
        complain("moectl: ", format, args);
        va_end(args);
        if (verb)
                fprintf(stderr, "See 'moectl %s --help'.\n", verb->name);
        else
                fputs("See 'moectl --help'.\n", stderr);
        return EX_USAGE;
}

int cli_exit_code(int error) {
        switch (-error) {
        case 0:
                return EX_OK;
        case ENOENT:
        case ECONNREFUSED:
        case EPROTOTYPE:
                return EX_UNAVAILABLE;
        case EACCES:
        case EPERM:
                return EX_NOPERM;
        case EAGAIN:
        case EBUSY:
        case EDQUOT:
        case ETIMEDOUT:
        case ECONNRESET:
        case ESHUTDOWN:
                return EX_TEMPFAIL;
        case EPROTO:
        case EPROTONOSUPPORT:
                return EX_PROTOCOL;
        case EINVAL:
        case ENAMETOOLONG:
                return EX_USAGE;
        case E2BIG:
        case EMSGSIZE:
        case EILSEQ:
                return EX_DATAERR;
        case ENOMEM:
        case EMFILE:
        case ENFILE:
                return EX_OSERR;
        case EINTR:
        case ECANCELED:
                return CLI_INTERRUPTED;
        case EIO:
        case EPIPE:
        case ENOSPC:
                return EX_IOERR;
        default:
                return EX_SOFTWARE;
        }
}

int cli_failed(struct moed *m, int error) {
        const char *sentence = moed_error(m);

        cli_complain("%s", sentence[0] ? sentence : strerror(-error));
        return cli_exit_code(error);
}

void moed_closep(struct moed **m) {
        moed_close(*m);
}

/* Room for the prompt, and for what travels with it; 0 (the default) where that is enough. */
static uint32_t arena_for(size_t prompt) {
        return prompt > ARENA_ENOUGH / 2 ? (uint32_t) MIN(prompt + ARENA_ENOUGH, (size_t) UINT32_MAX) : 0;
}

int cli_connect(const struct cli *cli, struct moed **ret) {
        struct moed_options options = MOED_OPTIONS_INIT;
        struct moed *m;
        int r, code;

        options.socket = cli->socket;
        options.arena = arena_for(cli->arena);
        r = moed_connect(&m, &options);
        if (r == 0) {
                *ret = m;
                return 0;
        }
        code = cli_failed(m, r);
        if (code == EX_UNAVAILABLE)
                cli_note("'moectl doctor' says what is missing.");
        moed_close(m);
        return code;
}

static int model_unknown(struct moed *m, const char *name) {
        char sentence[256];
        const struct moed_model *models;
        int n;

        snprintf(sentence, sizeof(sentence), "%s", moed_error(m));
        n = moed_models(m, &models);
        if (n < 0)
                return cli_failed(m, n);
        cli_complain("%s", sentence);
        if (n == 0)
                cli_note("The daemon serves no model; see Model sections in moed.conf(5).");
        for (int i = 0; i < n; i++)
                cli_note("%s %s", i == 0 ? "It serves:" : "          ", models[i].name);
        return name ? EX_USAGE : EX_UNAVAILABLE;
}

int cli_model(struct moed *m, const char *name, struct moed_model *ret) {
        const struct moed_model *models;
        uint32_t handle;
        int n;

        n = moed_model_find(m, name, &handle);
        if (n == -ENOENT)
                return model_unknown(m, name);
        if (n < 0)
                return cli_failed(m, n);
        n = moed_models(m, &models);
        if (n < 0)
                return cli_failed(m, n);
        for (int i = 0; i < n; i++)
                if (models[i].handle == handle) {
                        *ret = models[i];
                        return 0;
                }
        cli_complain("the model was unloaded just now");
        return EX_TEMPFAIL;
}

/* Here -ENOENT is not a daemon that is missing, but something that the command line named. */
static int query_failed(struct moed *m, int error) {
        int code = cli_failed(m, error);

        return error == -ENOENT ? EX_USAGE : code;
}

int cli_query_print(struct moed *m, const char *verb, const char *arguments) {
        _cleanup_(freep) char *text = NULL;
        int r;

        r = moed_query(m, verb, arguments, &text);
        if (r < 0)
                return query_failed(m, r);
        puts(text);
        return cli_flush();
}

int cli_query(struct moed *m, const char *verb, const char *arguments, struct json **ret) {
        _cleanup_(freep) char *text = NULL;
        struct reason reason = REASON_INIT;
        int r;

        r = moed_query(m, verb, arguments, &text);
        if (r < 0)
                return query_failed(m, r);
        r = json_parse(ret, text, strlen(text), &reason);
        if (r < 0)
                cli_complain("%s: %s", verb, r == -ENOMEM ? "out of memory" : reason.text);
        return cli_exit_code(r);
}

int cli_flush(void) {
        if (fflush(stdout) == 0 && !ferror(stdout))
                return EX_OK;
        cli_complain("cannot write to standard output: %s", strerror(errno));
        return EX_IOERR;
}

static void print_help(const struct verb *verb, const struct arg *own, const struct arg *common) {
        printf("usage: moectl %s [OPTION...]%s%s\n\n%s\n\n", verb->name, verb->operands[0] ? " " : "",
               verb->operands, verb->summary);
        if (own)
                args_print(own);
        args_print(common);
        if (verb->details)
                printf("\n%s\n", verb->details);
}

int cli_parse(struct cli *cli, const struct verb *verb, const struct arg *args, int argc, char **argv,
              int *n) {
        const struct arg common[] = {
                { "json", 0, ARG_FLAG, &cli->json, NULL, "print JSON, for programs" },
                { "socket", 0, ARG_TEXT, &cli->socket, "PATH", "the daemon's socket" },
                { "help", 'h', ARG_FLAG, &cli->help, NULL, "print this" },
                {},
        };
        struct reason reason = REASON_INIT;
        int r;

        r = args_parse(args, common, false, argc, argv, n, &reason);
        if (cli->help) {
                print_help(verb, args, common);
                return cli_flush();
        }
        if (r == ARGS_E_USAGE)
                return cli_usage(verb, "%s", reason.text);
        if (r < 0) {
                cli_complain("%s", strerror(-r));
                return cli_exit_code(r);
        }
        return CLI_DONE;
}

int cli_parse_options(struct cli *cli, const struct verb *verb, const struct arg *args, int argc, char **argv) {
        int n, code;

        code = cli_parse(cli, verb, args, argc, argv, &n);
        if (code == CLI_DONE && n > 0)
                return cli_usage(verb, "'%s' is more than this takes", argv[0]);
        return code;
}

static void on_interrupt(int signal) {
        interrupt_signal = signal;
        interrupts = interrupts + 1;
}

static void interrupt_set(void (*handler)(int)) {
        /* No SA_RESTART: what sleeps wakes up. */
        struct sigaction action = { .sa_handler = handler };

        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);
}

void interrupt_catch(void) {
        interrupts = 0;
        interrupt_set(on_interrupt);
}

void interrupt_release(void) {
        interrupt_set(SIG_DFL);
}

int interrupt_count(void) {
        return interrupts;
}

static void interrupt_block(sigset_t *before) {
        sigset_t caught;

        sigemptyset(&caught);
        sigaddset(&caught, SIGINT);
        sigaddset(&caught, SIGTERM);
        sigprocmask(SIG_BLOCK, &caught, before);
}

int interrupt_take(void) {
        sigset_t before;
        int n;

        interrupt_block(&before);
        n = interrupts;
        interrupts = 0;
        sigprocmask(SIG_SETMASK, &before, NULL);
        return n;
}

int interrupt_wait_input(void) {
        struct pollfd p = { .fd = STDIN_FILENO, .events = POLLIN };
        sigset_t before;
        int r = 0;

        /* Blocked until the sleep itself, so that none falls between the look and the sleep. */
        interrupt_block(&before);
        if (interrupts > 0 || (ppoll(&p, 1, NULL, &before) < 0 && errno == EINTR))
                r = -EINTR;
        sigprocmask(SIG_SETMASK, &before, NULL);
        return r;
}

int interrupt_exit_code(void) {
        return 128 + interrupt_signal;
}
