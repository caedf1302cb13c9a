/* SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "cli.h"
#include "daemon.h"

int verb_convert(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        const char *type = NULL;
        bool force = false;
        const struct arg args[] = {
                {"type", 't', ARG_TEXT, &type, "TYPE", "of the matrices: F32, F16, BF16 or Q8_0"},
                {"force", 'f', ARG_FLAG, &force, NULL, "replace a file that is there already"},
                {},
        };
        char *call[8] = {NULL, (char *) "--convert"};
        int n, code, at = 2;

        code = cli_parse(cli, verb, args, argc, argv, &n);
        if (code != CLI_DONE)
                return code;
        if (n != 2 || !type)
                return cli_usage(verb, "it takes --type TYPE, a file to read and one to write");
        call[at++] = (char *) type;
        if (force)
                call[at++] = (char *) "--force";
        call[at++] = (char *) "--";
        call[at++] = argv[0];
        call[at] = argv[1];
        return daemon_become(call);
}
