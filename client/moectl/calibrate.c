/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>

#include "cli.h"
#include "daemon.h"

int verb_calibrate(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        const char *text = NULL, *out = NULL;
        uint32_t tokens = 0, threads = 0;
        bool predictor = false, special = false, force = false;
        const struct arg args[] = {
                { "text", 0, ARG_TEXT, &text, "FILE", "text like that which the model is for; '-': standard input" },
                { "tokens", 'n', ARG_U32, &tokens, "N", "use no more of it than that (8192)", 64, 1 << 20 },
                { "special", 0, ARG_FLAG, &special, NULL, "control tokens may be spelled in the text" },
                { "predictor", 0, ARG_FLAG, &predictor, NULL,
                  "also learn to tell what a token needs from its first layers" },
                { "out", 'o', ARG_TEXT, &out, "FILE", "write that file, not the one that is found with the model" },
                { "threads", 0, ARG_U32, &threads, "N", "that compute (all cores)", 1, 4096 },
                { "force", 'f', ARG_FLAG, &force, NULL, "replace a calibration that is there already" },
                {},
        };
        char tokens_text[16], threads_text[16];
        char *call[20] = { NULL, (char *) "--calibrate" };
        int n, code, at = 3;

        code = cli_parse(cli, verb, args, argc, argv, &n);
        if (code != CLI_DONE)
                return code;
        if (n != 1 || !text)
                return cli_usage(verb, "it takes one model file and --text FILE");
        call[2] = argv[0];
        call[at++] = (char *) "--text";
        call[at++] = (char *) text;
        if (out) {
                call[at++] = (char *) "--out";
                call[at++] = (char *) out;
        }
        if (tokens > 0) {
                snprintf(tokens_text, sizeof(tokens_text), "%" PRIu32, tokens);
                call[at++] = (char *) "--tokens";
                call[at++] = tokens_text;
        }
        if (threads > 0) {
                snprintf(threads_text, sizeof(threads_text), "%" PRIu32, threads);
                call[at++] = (char *) "--threads";
                call[at++] = threads_text;
        }
        if (special)
                call[at++] = (char *) "--special";
        if (predictor)
                call[at++] = (char *) "--predictor";
        if (force)
                call[at++] = (char *) "--force";
        if (cli->json)
                call[at++] = (char *) "--json";
        return daemon_become(call);
}
