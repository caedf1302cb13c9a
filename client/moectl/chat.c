/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "generate.h"
#include "outcome.h"

struct chat {
        struct sampling sampling;
        const char *system;
        bool stats;
        struct moed_model model;

        struct moed_message *history; /* the texts are owned */
        size_t n_history;
};

static void chat_reset(struct chat *chat) {
        for (size_t i = 0; i < chat->n_history; i++)
                free((char *) chat->history[i].text);
        free(chat->history);
        chat->history = NULL;
        chat->n_history = 0;
}

static int chat_remember(struct chat *chat, enum moed_role role, const char *text, size_t length) {
        struct moed_message *history = reallocarray(chat->history, chat->n_history + 1, sizeof(*history));
        char *copy;

        if (!history)
                return -ENOMEM;
        chat->history = history;
        copy = malloc(length + 1);
        if (!copy)
                return -ENOMEM;
        memcpy(copy, text, length);
        copy[length] = 0;
        chat->history[chat->n_history++] =
                (struct moed_message) { .role = role, .text = copy, .length = length };
        return 0;
}

/* An answer that failed leaves the question out of the history, too: it can be asked again. */
static void chat_forget(struct chat *chat, size_t n_history) {
        while (chat->n_history > n_history)
                free((char *) chat->history[--chat->n_history].text);
}

static int chat_ask(struct chat *chat, const char *line, size_t length) {
        int r = 0;

        if (chat->n_history == 0 && chat->system)
                r = chat_remember(chat, MOED_SYSTEM, chat->system, strlen(chat->system));
        return r < 0 ? r : chat_remember(chat, MOED_USER, line, length);
}

static int chat_generate(struct chat *chat, struct moed *m, const struct cli *cli, struct generation *g) {
        struct moed_request q = MOED_REQUEST_INIT;
        int r;

        /* It may have been replaced since the last line. */
        r = moed_model_find(m, chat->sampling.model, &q.model);
        if (r < 0)
                return r;
        q.flags = cli->json ? MOED_LOGPROBS : 0;
        q.messages = chat->history;
        q.n_messages = chat->n_history;
        sampling_apply(&chat->sampling, &q);
        return generate(m, &q, !cli->json, g);
}

/* One line of the person and the answer to it: 0, or an exit code that ends the conversation. */
static int chat_turn(struct chat *chat, struct moed *m, const struct cli *cli, const char *line,
                     size_t length) {
        _cleanup_(generation_deinit) struct generation g = GENERATION_INIT;
        size_t n_history = chat->n_history;
        int r;

        r = chat_ask(chat, line, length);
        if (r == 0)
                r = chat_generate(chat, m, cli, &g);
        if (r == 0)
                r = chat_remember(chat, MOED_ASSISTANT, g.text ? g.text : "", g.text_length);
        if (r == 0) {
                if (!cli->json)
                        putchar('\n');
                if (chat->stats)
                        report_stats(&chat->model, &g, false);
                return cli->json ? report_json(&chat->model, &g) : cli_flush();
        }
        chat_forget(chat, n_history);
        if (r == -ENOMEM || g.unwritable) {
                cli_complain("%s", strerror(-r));
                return cli_exit_code(r);
        }
        cli_failed(m, r);
        if (r == -E2BIG || r == -EMSGSIZE)
                cli_note("/reset starts anew.");
        return r == -ECONNRESET || r == -EPROTO || r == -EINTR ? cli_exit_code(r) : 0;
}

static void print_commands(void) {
        cli_note("/reset forgets what was said, /quit leaves; a line that ends in \\ goes on in the next.");
}

enum { LINE_ASK, LINE_EMPTY, LINE_LEAVE };

static int chat_command(struct chat *chat, const char *line) {
        if (line[0] != '/')
                return line[0] ? LINE_ASK : LINE_EMPTY;
        if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0)
                return LINE_LEAVE;
        if (strcmp(line, "/reset") == 0)
                chat_reset(chat);
        else
                print_commands();
        return LINE_EMPTY;
}

/* Reads a line, and the next ones while they end in a backslash. Returns its length without the newline, -1
 * at the end of input, -EINTR when a signal came. */
static ssize_t read_line(char **line, size_t *size, bool prompt) {
        _cleanup_(freep) char *part = NULL;
        size_t part_size = 0, length = 0;
        ssize_t n;

        for (;;) {
                if (prompt) {
                        fputs(length > 0 ? ". " : "> ", stdout);
                        fflush(stdout);
                        /* A terminal hands over a line at a time: nothing waits in stdin's buffer. */
                        if (interrupt_wait_input() < 0)
                                return -EINTR;
                }
                if (interrupt_count() > 0)
                        return -EINTR;
                errno = 0;
                n = getline(&part, &part_size, stdin);
                if (n < 0) {
                        int error = errno;

                        clearerr(stdin);
                        return error == EINTR ? -EINTR : -1;
                }
                if (length + (size_t) n + 1 > *size) {
                        char *grown = realloc(*line, length + (size_t) n + 1);

                        if (!grown)
                                return -1;
                        *line = grown;
                        *size = length + (size_t) n + 1;
                }
                if (part[n - 1] == '\n')
                        n--;
                memcpy(*line + length, part, (size_t) n);
                length += (size_t) n;
                (*line)[length] = 0;
                if (length == 0 || (*line)[length - 1] != '\\')
                        return (ssize_t) length;
                (*line)[length - 1] = '\n';
        }
}

static int chat_loop(struct chat *chat, struct moed *m, const struct cli *cli) {
        bool person = isatty(STDIN_FILENO) && !cli->json, warned = false;
        _cleanup_(freep) char *line = NULL;
        size_t size = 0;
        int code = 0;

        interrupt_catch();
        while (code == 0) {
                ssize_t n = read_line(&line, &size, person);

                if (n == -EINTR) {
                        if (interrupt_take() > 1 || warned || !person ||
                            interrupt_exit_code() != CLI_INTERRUPTED)
                                return interrupt_exit_code();
                        fputc('\n', stderr);
                        cli_note("Once more to leave.");
                        warned = true;
                        continue;
                }
                if (n < 0)
                        break;
                warned = false;
                switch (chat_command(chat, line)) {
                case LINE_ASK:
                        code = chat_turn(chat, m, cli, line, (size_t) n);
                        interrupt_take(); /* those that ended the answer */
                        break;
                case LINE_LEAVE:
                        return 0;
                }
        }
        return code;
}

static int chat_main(struct chat *chat, struct cli *cli, const struct verb *verb, int argc, char **argv) {
        _cleanup_(moed_closep) struct moed *m = NULL;
        const struct arg args[] = {
                SAMPLING_ARGS(&chat->sampling),
                { "system", 0, ARG_TEXT, &chat->system, "TEXT", "what the model is told before all else" },
                { "stats", 0, ARG_FLAG, &chat->stats, NULL,
                  "print a line of figures to stderr after each answer" },
                {},
        };
        int code;

        code = cli_parse_options(cli, verb, args, argc, argv);
        if (code != CLI_DONE)
                return code;
        code = cli_connect(cli, &m);
        if (code)
                return code;
        code = cli_model(m, chat->sampling.model, &chat->model);
        if (code)
                return code;
        if (!chat->model.chat_template[0])
                cli_note("%s has no chat template that moed knows: it reads what is said as plain text, line "
                         "by line.",
                         chat->model.name);
        else if (isatty(STDIN_FILENO) && !cli->json)
                print_commands();
        return chat_loop(chat, m, cli);
}

int verb_chat(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        struct chat chat = { .sampling = SAMPLING_INIT };
        int code;

        code = chat_main(&chat, cli, verb, argc, argv);
        interrupt_release();
        chat_reset(&chat);
        sampling_deinit(&chat.sampling);
        return code;
}
