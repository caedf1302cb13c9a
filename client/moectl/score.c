/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "cli.h"
#include "generate.h"
#include "input.h"
#include "outcome.h"

struct score_options {
        const char *model, *tokens;
        double experts;
        bool special, no_bos;
};

static int score_connected(struct cli *cli, const struct score_options *options, struct moed_request *q) {
        _cleanup_(generation_deinit) struct generation g = GENERATION_INIT;
        _cleanup_(moed_closep) struct moed *m = NULL;
        struct moed_model model;
        int r;

        r = cli_connect(cli, &m);
        if (r == 0)
                r = cli_model(m, options->model, &model);
        if (r)
                return r;
        q->model = model.handle;
        q->experts = options->experts;
        q->flags = MOED_SCORE | (options->special ? MOED_SPECIAL : 0) | (options->no_bos ? MOED_NO_BOS : 0);
        interrupt_catch();
        r = generate(m, q, false, &g);
        interrupt_release();
        if (r < 0)
                return r == -EINTR ? interrupt_exit_code() : cli_failed(m, r);
        r = report_score(&model, &g, cli->json);
        return interrupt_count() > 0 ? interrupt_exit_code() : r;
}

int verb_score(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        struct score_options options = {};
        const struct arg args[] = {
                { "model", 'm', ARG_TEXT, &options.model, "NAME", "which model (default: the daemon's)" },
                { "experts", 'e', ARG_DOUBLE, &options.experts, "N",
                  "mean experts per token at most; fractions allowed", 0, 1e6 },
                { "special", 0, ARG_FLAG, &options.special, NULL, "recognise special tokens in the text" },
                { "no-bos", 0, ARG_FLAG, &options.no_bos, NULL, "no begin-of-text token" },
                { "tokens", 0, ARG_TEXT, &options.tokens, "N,N,...", "token ids instead of a text" },
                {},
        };
        struct moed_request q = MOED_REQUEST_INIT;
        struct reason reason = REASON_INIT;
        _cleanup_(freep) int32_t *tokens = NULL;
        _cleanup_(freep) char *text = NULL;
        int n, r;

        r = cli_parse(cli, verb, args, argc, argv, &n);
        if (r != CLI_DONE)
                return r;
        if (!options.tokens == (n == 0))
                return cli_usage(verb, n > 0 ? "--tokens and a text exclude each other" : "a text is missing");
        r = options.tokens ? args_tokens(options.tokens, &tokens, &q.n_tokens, &reason)
                           : input_text(argv, n, &text, &q.prompt_length);
        if (r > 0)
                return cli_usage(verb, "%s", reason.text);
        if (r < 0) {
                cli_complain("%s", strerror(-r));
                return cli_exit_code(r);
        }
        q.tokens = tokens;
        q.prompt = text;
        cli->arena = q.prompt_length + q.n_tokens * sizeof(*tokens);
        return score_connected(cli, &options, &q);
}
