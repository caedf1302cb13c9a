/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "cli.h"
#include "input.h"
#include "json.h"

struct tokenize {
        const char *model, *decode;
        bool special, no_bos, pieces;
};

static int print_tokens(const struct cli *cli, const int32_t *tokens, int n) {
        _cleanup_(json_writer_deinit) struct json_writer w = JSON_WRITER_INIT;

        if (!cli->json) {
                for (int i = 0; i < n; i++)
                        printf("%s%d", i > 0 ? "," : "", tokens[i]);
                putchar('\n');
                return cli_flush();
        }
        json_open(&w, '{');
        json_key(&w, "tokens");
        json_open(&w, '[');
        for (int i = 0; i < n; i++)
                json_int(&w, tokens[i]);
        json_close(&w, ']');
        json_close(&w, '}');
        if (w.error < 0)
                return cli_exit_code(w.error);
        puts(w.data);
        return cli_flush();
}

/* A line a token: its id and its bytes as a JSON string. */
static int print_pieces(struct moed *m, uint32_t model, const int32_t *tokens, int n) {
        for (int i = 0; i < n; i++) {
                _cleanup_(json_writer_deinit) struct json_writer w = JSON_WRITER_INIT;
                _cleanup_(freep) char *piece = NULL;
                int length;

                length = moed_detokenize(m, model, &tokens[i], 1, &piece);
                if (length < 0)
                        return cli_failed(m, length);
                json_string(&w, piece, (size_t) length);
                if (w.error < 0)
                        return cli_exit_code(w.error);
                printf("%7d %s\n", tokens[i], w.data);
        }
        return cli_flush();
}

static int encode(struct moed *m, const struct cli *cli, const struct tokenize *t, uint32_t model,
                  const char *text, size_t length) {
        _cleanup_(freep) int32_t *tokens = NULL;
        int n;

        n = moed_tokenize(m, model, text, length,
                          (t->special ? MOED_SPECIAL : 0) | (t->no_bos ? MOED_NO_BOS : 0), &tokens);
        if (n < 0)
                return cli_failed(m, n);
        return t->pieces && !cli->json ? print_pieces(m, model, tokens, n) : print_tokens(cli, tokens, n);
}

static int decode(struct moed *m, const struct cli *cli, uint32_t model, const int32_t *tokens, size_t n) {
        _cleanup_(json_writer_deinit) struct json_writer w = JSON_WRITER_INIT;
        _cleanup_(freep) char *text = NULL;
        int length;

        length = moed_detokenize(m, model, tokens, n, &text);
        if (length < 0)
                return cli_failed(m, length);
        if (!cli->json) {
                fwrite(text, 1, (size_t) length, stdout);
                return cli_flush();
        }
        json_open(&w, '{');
        json_key(&w, "text");
        json_string(&w, text, (size_t) length);
        json_close(&w, '}');
        if (w.error < 0)
                return cli_exit_code(w.error);
        puts(w.data);
        return cli_flush();
}

static int tokenize_connected(const struct cli *cli, const struct tokenize *t, const char *text,
                              size_t length, const int32_t *tokens, size_t n) {
        _cleanup_(moed_closep) struct moed *m = NULL;
        struct moed_model model;
        int code;

        code = cli_connect(cli, &m);
        if (code)
                return code;
        code = cli_model(m, t->model, &model);
        if (code)
                return code;
        return tokens ? decode(m, cli, model.handle, tokens, n)
                      : encode(m, cli, t, model.handle, text, length);
}

int verb_tokenize(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        _cleanup_(freep) char *text = NULL;
        _cleanup_(freep) int32_t *tokens = NULL;
        struct reason reason = REASON_INIT;
        struct tokenize t = {};
        const struct arg args[] = {
                { "model", 'm', ARG_TEXT, &t.model, "NAME", "which model's tokens (default: the daemon's)" },
                { "special", 0, ARG_FLAG, &t.special, NULL, "recognise special tokens in the text" },
                { "no-bos", 0, ARG_FLAG, &t.no_bos, NULL, "no begin-of-text token" },
                { "pieces", 'p', ARG_FLAG, &t.pieces, NULL, "a line a token, with its text" },
                { "decode", 'd', ARG_TEXT, &t.decode, "N,N,...",
                  "the other way: print the text of these ids" },
                {},
        };
        size_t length = 0, n_tokens = 0;
        int n, r;

        r = cli_parse(cli, verb, args, argc, argv, &n);
        if (r != CLI_DONE)
                return r;
        if (!t.decode == (n == 0))
                return cli_usage(verb,
                                 t.decode ? "--decode and a text exclude each other" : "a text is missing");
        r = t.decode ? args_tokens(t.decode, &tokens, &n_tokens, &reason)
                     : input_text(argv, n, &text, &length);
        if (r > 0)
                return cli_usage(verb, "%s", reason.text);
        if (r < 0) {
                cli_complain("%s", strerror(-r));
                return cli_exit_code(r);
        }
        return tokenize_connected(cli, &t, text, length, tokens, n_tokens);
}
