/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "generate.h"
#include "input.h"
#include "outcome.h"

struct run {
        struct sampling sampling;
        bool chat, special, logprobs, ignore_eog, stats;
        const char *tokens, *system;
};

/* What the prompt is made of; owned. */
struct prompt {
        char *text;
        size_t length;
        int32_t *tokens;
        size_t n_tokens;
};

static void prompt_deinit(struct prompt *prompt) {
        free(prompt->text);
        free(prompt->tokens);
}

static int prompt_read(struct prompt *ret, const struct run *run, const struct verb *verb, char **operands,
                       int n) {
        struct reason reason = REASON_INIT;
        int r;

        if (run->tokens && n > 0)
                return cli_usage(verb, "--tokens and a prompt in words exclude each other");
        if (run->tokens && (run->chat || run->system))
                return cli_usage(verb, "--tokens and --chat exclude each other");
        if (!run->tokens && n == 0)
                return cli_usage(verb, "a prompt is missing ('-' reads it from standard input)");
        if (run->tokens)
                r = args_tokens(run->tokens, &ret->tokens, &ret->n_tokens, &reason);
        else
                r = input_text(operands, n, &ret->text, &ret->length);
        if (r > 0)
                return cli_usage(verb, "%s", reason.text);
        if (r < 0)
                cli_complain("prompt: %s", strerror(-r));
        return cli_exit_code(r);
}

static int run_report(struct moed *m, const struct cli *cli, const struct run *run,
                      const struct moed_model *model, const struct generation *g, int error) {
        int code;

        if (g->unwritable) {
                cli_complain("cannot write to standard output");
                return EX_IOERR;
        }
        if (cli->json && g->done == 0)
                code = EX_OK;
        else
                code = cli->json ? report_json(model, g) : report_text_end(g);
        if (error < 0)
                return error == -EINTR ? interrupt_exit_code() : cli_failed(m, error);
        if (run->stats)
                report_stats(model, g, run->logprobs);
        if (interrupt_count() > 0)
                return interrupt_exit_code();
        return code;
}

/* The prompt as it is, or as what a person says to the model. */
static void run_request(const struct run *run, const struct prompt *prompt, struct moed_message messages[2],
                        struct moed_request *q) {
        size_t n = 0;

        if (!run->chat && !run->system) {
                q->prompt = prompt->text;
                q->prompt_length = prompt->length;
                q->tokens = prompt->tokens;
                q->n_tokens = prompt->n_tokens;
                return;
        }
        if (run->system)
                messages[n++] = (struct moed_message) { .role = MOED_SYSTEM, .text = run->system };
        messages[n++] =
                (struct moed_message) { .role = MOED_USER, .text = prompt->text, .length = prompt->length };
        q->messages = messages;
        q->n_messages = n;
}

static int run_connected(const struct cli *cli, const struct run *run, const struct prompt *prompt,
                         struct moed *m) {
        _cleanup_(generation_deinit) struct generation g = GENERATION_INIT;
        struct moed_request q = MOED_REQUEST_INIT;
        struct moed_message messages[2];
        struct moed_model model;
        int r;

        r = cli_model(m, run->sampling.model, &model);
        if (r)
                return r;
        q.model = model.handle;
        q.flags = (run->special ? MOED_SPECIAL : 0) | (cli->json || run->logprobs ? MOED_LOGPROBS : 0) |
                  (run->ignore_eog ? MOED_IGNORE_EOG : 0);
        run_request(run, prompt, messages, &q);
        if (q.messages && !model.chat_template[0])
                cli_note("%s has no chat template that moed knows: it reads the question as plain text.", model.name);
        sampling_apply(&run->sampling, &q);
        interrupt_catch();
        r = generate(m, &q, !cli->json, &g);
        interrupt_release();
        return run_report(m, cli, run, &model, &g, r);
}

static int run_main(struct cli *cli, struct run *run, const struct verb *verb, int argc, char **argv) {
        _cleanup_(prompt_deinit) struct prompt prompt = {};
        _cleanup_(moed_closep) struct moed *m = NULL;
        const struct arg args[] = {
                SAMPLING_ARGS(&run->sampling),
                { "chat", 'c', ARG_FLAG, &run->chat, NULL,
                  "the prompt is a question: through the chat template" },
                { "system", 0, ARG_TEXT, &run->system, "TEXT",
                  "what the model is told before that; implies --chat" },
                { "ignore-eog", 0, ARG_FLAG, &run->ignore_eog, NULL, "go on past the model's end of text" },
                { "special", 0, ARG_FLAG, &run->special, NULL, "recognise special tokens in the prompt" },
                { "tokens", 0, ARG_TEXT, &run->tokens, "N,N,...", "token ids instead of a prompt in words" },
                { "logprobs", 0, ARG_FLAG, &run->logprobs, NULL,
                  "with --stats: the mean log-probability (--json has them all)" },
                { "stats", 0, ARG_FLAG, &run->stats, NULL, "print a line of figures to stderr at the end" },
                {},
        };
        int n, code;

        code = cli_parse(cli, verb, args, argc, argv, &n);
        if (code != CLI_DONE)
                return code;
        code = prompt_read(&prompt, run, verb, argv, n);
        if (code)
                return code;
        cli->arena = prompt.length + (run->system ? strlen(run->system) : 0) +
                     prompt.n_tokens * sizeof(*prompt.tokens);
        code = cli_connect(cli, &m);
        return code ? code : run_connected(cli, run, &prompt, m);
}

int verb_run(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        struct run run = { .sampling = SAMPLING_INIT };
        int code;

        code = run_main(cli, &run, verb, argc, argv);
        sampling_deinit(&run.sampling);
        return code;
}
