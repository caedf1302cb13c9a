/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>

#include "cli.h"
#include "daemon.h"

int verb_inspect(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        uint32_t context = 0;
        const char *kv_type = NULL;
        const struct arg args[] = {
                {"context", 0, ARG_U32, &context, "N", "forecast memory for N tokens of text", 16, 1 << 24},
                {"kv-type", 0, ARG_TEXT, &kv_type, "TYPE", "auto, f16, bf16 or f32: how keys and values are kept"},
                {},
        };
        char number[16];
        char *call[12] = {NULL, (char *) "--inspect"};
        int n, code, at = 3;

        code = cli_parse(cli, verb, args, argc, argv, &n);
        if (code != CLI_DONE)
                return code;
        if (n != 1)
                return cli_usage(verb, n == 0 ? "which file?" : "one file at a time");
        call[2] = argv[0];
        if (cli->json)
                call[at++] = (char *) "--json";
        if (context > 0) {
                snprintf(number, sizeof(number), "%" PRIu32, context);
                call[at++] = (char *) "--context";
                call[at++] = number;
        }
        if (kv_type) {
                call[at++] = (char *) "--kv-type";
                call[at++] = (char *) kv_type;
        }
        return daemon_become(call);
}
