/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#include "base/util.h"
#include "cells.h"
#include "cli.h"
#include "json.h"
#include "monitor.h"
#if HAVE_NCURSES
#include "screen.h"
#endif

struct top {
        const struct cli *cli;
        struct moed *m; /* NULL: the daemon is gone, and looked for at each look */
        double seconds;
        struct monitor_sample before, now;
        struct reason reason; /* why there is no answer */
};

static void top_deinit(struct top *t) {
        monitor_sample_deinit(&t->before);
        monitor_sample_deinit(&t->now);
        moed_close(t->m);
}

/* Nothing is printed: that would go over a drawing. Negative errno, with the reason. */
static int ask(struct top *t, const char *verb, const char *arguments, struct json **ret) {
        _cleanup_(freep) char *text = NULL;
        int r;

        r = moed_query(t->m, verb, arguments, &text);
        if (r < 0)
                return reason_return(&t->reason, r, "%s", moed_error(t->m));
        r = json_parse(ret, text, strlen(text), NULL);
        return r < 0 ? reason_return(&t->reason, r, "the daemon's answer: %s", strerror(-r)) : 0;
}

static int sample(struct top *t, struct monitor_sample *ret) {
        int r;

        ret->at = now_nsec();
        r = ask(t, "stats", NULL, &ret->stats);
        if (r == 0)
                r = ask(t, "models", NULL, &ret->models);
        if (r == 0)
                r = ask(t, "budget", NULL, &ret->budget);
        return r == 0 ? ask(t, "ps", NULL, &ret->ps) : r;
}

/* Takes a sample; what was there before is what rates are told from. On failure all stays as it is. */
static int look(struct top *t) {
        struct monitor_sample next = { .at = 0 };
        int r = sample(t, &next);

        if (r < 0) {
                monitor_sample_deinit(&next);
                return r;
        }
        monitor_sample_deinit(&t->before);
        t->before = t->now;
        t->now = next;
        return 0;
}

static int print_pane(struct pane *pane, size_t column, bool falling) {
        _cleanup_(table_deinit) struct table table = {};
        struct table_column columns[PANE_COLUMNS_MAX];

        for (size_t c = 0; c < pane->n_columns; c++)
                columns[c] = (struct table_column) { pane->columns[c].title, pane->columns[c].right };
        pane_sort(pane, column, falling);
        table_init(&table, columns, pane->n_columns);
        for (size_t i = 0; i < pane->n_rows; i++)
                for (size_t c = 0; c < pane->n_columns; c++)
                        table_cell(&table, "%s", pane->rows[i].cells[c].text);
        putchar('\n');
        return table_finish(&table);
}

static int print(const struct top *t) {
        _cleanup_(monitor_deinit) struct monitor monitor;
        int code;

        monitor_init(&monitor, &t->before, &t->now);
        for (int i = 0; i < MONITOR_LINES; i++)
                puts(monitor.lines[i]);
        code = print_pane(&monitor.principals, MONITOR_PRINCIPALS_SHARE, true);
        if (!code)
                code = print_pane(&monitor.requests, MONITOR_REQUESTS_NUMBER, false);
        putchar('\n');
        return code ? code : cli_flush();
}

static int failed(const struct top *t, int error) {
        cli_complain("%s", t->reason.text);
        return cli_exit_code(error);
}

/* The first look is not printed: there is nothing to tell rates from. */
static int run_batch(struct top *t, uint64_t times) {
        struct timespec pause = { (time_t) t->seconds, (long) ((t->seconds - (double) (time_t) t->seconds) * 1e9) };
        int r, code = 0;

        r = look(t);
        for (uint64_t i = 0; (times == 0 || i < times) && r == 0 && !code; i++) {
                nanosleep(&pause, NULL);
                r = look(t);
                if (r == 0)
                        code = print(t);
        }
        return r < 0 ? failed(t, r) : code;
}

#if HAVE_NCURSES
static void say(struct screen *screen, const char *format, ...) _printf_(2, 3);
static void say(struct screen *screen, const char *format, ...) {
        char text[MONITOR_LINE_MAX];
        va_list args;

        va_start(args, format);
        vsnprintf(text, sizeof(text), format, args);
        va_end(args);
        screen_say(screen, text);
}

/* "KEY=VALUE KEY=VALUE" of a principal. -EINVAL: it is not that. */
static int write_set(struct json_writer *w, const char *principal, char *text) {
        char *save = NULL;

        json_key(w, "set");
        json_open(w, '{');
        json_key(w, "principal");
        json_text(w, principal);
        for (char *word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
                char *equals = strchr(word, '=');

                if (!equals || equals == word)
                        return -EINVAL;
                *equals = '\0';
                json_key(w, word);
                json_text(w, equals + 1);
        }
        json_close(w, '}');
        return 0;
}

static int write_wish(struct json_writer *w, struct screen_event *event) {
        int r = 0;

        json_open(w, '{');
        if (event->wish == SCREEN_CANCEL) {
                json_key(w, "number");
                json_uint(w, event->number);
        } else if (event->wish == SCREEN_RESET) {
                json_key(w, "reset");
                json_text(w, event->principal);
        } else {
                r = write_set(w, event->principal, event->text);
        }
        json_close(w, '}');
        return r;
}

/* Asks the daemon for what was wished. */
static void fulfil(struct top *t, struct screen *screen, struct screen_event *event) {
        _cleanup_(json_writer_deinit) struct json_writer w = JSON_WRITER_INIT;
        _cleanup_(json_freep) struct json *reply = NULL;
        _cleanup_(freep) char *arguments = NULL;
        const struct json *found;
        int r;

        if (!t->m)
                return;
        if (write_wish(&w, event) < 0)
                return say(screen, "It is KEY=VALUE, with spaces between several.");
        r = json_writer_take(&w, &arguments);
        if (r < 0)
                return say(screen, "%s", strerror(-r));
        if (ask(t, event->wish == SCREEN_CANCEL ? "cancel" : "budget", arguments, &reply) < 0)
                return say(screen, "%s", t->reason.text);
        found = json_get(reply, "found");
        if (event->wish != SCREEN_CANCEL)
                say(screen, "The budget of %s was %s.", event->principal, event->wish == SCREEN_SET ? "set" : "reset");
        else if (found && found->boolean)
                say(screen, "Request %" PRIu64 " was cancelled.", event->number);
        else
                say(screen, "There is no request %" PRIu64 " that you may cancel.", event->number);
}

/* A daemon that went away may come back: what was seen last stays until then. */
static void look_again(struct top *t, struct screen *screen) {
        struct moed_options options = MOED_OPTIONS_INIT;
        bool lost = !t->m;
        int r = 0;

        options.socket = t->cli->socket;
        if (lost)
                r = moed_connect(&t->m, &options);
        if (r < 0)
                reason_set(&t->reason, "%s", moed_error(t->m));
        else
                r = look(t);
        if (r == 0 && lost)
                say(screen, "The daemon is there again.");
        if (r == 0)
                return;
        say(screen, "No answer, looking again: %s", t->reason.text);
        moed_close(t->m);
        t->m = NULL;
}

/* Waits for the next look, doing what is wished meanwhile; false: to leave. */
static bool attend(struct top *t, struct screen *screen) {
        uint64_t until = now_nsec() + (uint64_t) (t->seconds * 1e9), now;

        while ((now = now_nsec()) < until) {
                struct screen_event event;

                screen_wait(screen, (int) DIV_ROUND_UP(until - now, NSEC_PER_MSEC), &event);
                switch (event.wish) {
                case SCREEN_NOTHING:
                        break;
                case SCREEN_QUIT:
                        return false;
                case SCREEN_REFRESH:
                        return true;
                case SCREEN_INTERVAL:
                        t->seconds = event.seconds;
                        return true;
                default:
                        fulfil(t, screen, &event);
                        return true;
                }
        }
        return true;
}

static int run_screen(struct top *t) {
        _cleanup_(screen_freep) struct screen *screen = NULL;
        bool stays = true;
        int r;

        r = look(t);
        if (r < 0)
                return failed(t, r);
        r = screen_new(&screen);
        if (r == -ENOTTY) {
                cli_complain("this is no terminal that can be drawn on; --batch prints instead");
                return EX_UNAVAILABLE;
        }
        if (r < 0)
                return cli_exit_code(r);
        while (stays) {
                struct monitor monitor;

                monitor_init(&monitor, &t->before, &t->now);
                screen_show(screen, &monitor);
                stays = attend(t, screen);
                monitor_deinit(&monitor);
                if (stays)
                        look_again(t, screen);
        }
        return EX_OK;
}
#else
static int run_screen(struct top *t) {
        cli_complain("this moectl was built without ncurses; --batch prints instead");
        return EX_UNAVAILABLE;
}
#endif

int verb_top(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        _cleanup_(top_deinit) struct top t = { .cli = cli, .seconds = 2 };
        uint64_t times = 0;
        bool batch = false;
        const struct arg args[] = {
                { "delay", 'd', ARG_DOUBLE, &t.seconds, "SECONDS", "between two looks; default 2", 0.1, 3600 },
                { "batch", 'b', ARG_FLAG, &batch, NULL, "print, for pipes and simple terminals" },
                { "times", 'n', ARG_U64, &times, "N", "with --batch: so many times, then leave", 1, 1e18 },
                {},
        };
        int code;

        code = cli_parse_options(cli, verb, args, argc, argv);
        if (code != CLI_DONE)
                return code;
        if (cli->json)
                return cli_usage(verb, "'stats', 'ps' and 'budget' have --json");
        if (times > 0 && !batch)
                return cli_usage(verb, "--times belongs to --batch");
        code = cli_connect(cli, &t.m);
        if (code)
                return code;
        return batch ? run_batch(&t, times) : run_screen(&t);
}
