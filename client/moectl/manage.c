/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "cli.h"
#include "json.h"

/* "NAME=FILE", or "FILE", whose name is then its last component without .gguf. The daemon has another working
 * directory: a relative path is told from ours. 0 or an exit code. */
static int load_arguments(const struct verb *verb, const char *operand, bool is_default, char **ret) {
        _cleanup_(json_writer_deinit) struct json_writer w = JSON_WRITER_INIT;
        const char *equals = strchr(operand, '='), *slash = strchr(operand, '/'), *file = operand, *name = operand;
        _cleanup_(freep) char *absolute = NULL;
        char folder[PATH_MAX] = "";
        size_t length;

        if (equals && (!slash || equals < slash)) {
                length = (size_t) (equals - operand);
                file = equals + 1;
        } else {
                name = strrchr(operand, '/') ? strrchr(operand, '/') + 1 : operand;
                length = strlen(name);
                if (length > 5 && strcmp(name + length - 5, ".gguf") == 0)
                        length -= 5;
        }
        if (length == 0 || !*file)
                return cli_usage(verb, "'%s': it is NAME=FILE", operand);
        if (*file != '/' && !getcwd(folder, sizeof(folder))) {
                cli_complain("the working directory is not known: %s", strerror(errno));
                return EX_OSERR;
        }
        if (asprintf(&absolute, "%s%s%s", folder, *file == '/' ? "" : "/", file) < 0) {
                absolute = NULL;
                return cli_exit_code(-ENOMEM);
        }
        json_open(&w, '{');
        json_key(&w, "name");
        json_string(&w, name, length);
        json_key(&w, "file");
        json_text(&w, absolute);
        json_key(&w, "default");
        json_bool(&w, is_default);
        json_close(&w, '}');
        return cli_exit_code(json_writer_take(&w, ret));
}

/* Sends it; prints the answer with --json. */
static int manage(struct cli *cli, const char *control, const char *arguments) {
        _cleanup_(json_freep) struct json *reply = NULL;
        _cleanup_(moed_closep) struct moed *m = NULL;
        int code;

        code = cli_connect(cli, &m);
        if (code)
                return code;
        return cli->json ? cli_query_print(m, control, arguments) : cli_query(m, control, arguments, &reply);
}

int verb_load(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        _cleanup_(freep) char *arguments = NULL;
        bool is_default = false;
        const struct arg args[] = {
                { "default", 0, ARG_FLAG, &is_default, NULL, "requests that name no model get it" },
                {},
        };
        int n, code;

        code = cli_parse(cli, verb, args, argc, argv, &n);
        if (code != CLI_DONE)
                return code;
        if (n != 1)
                return cli_usage(verb, "which model? It is NAME=FILE");
        code = load_arguments(verb, argv[0], is_default, &arguments);
        return code ? code : manage(cli, "load", arguments);
}

int verb_unload(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        _cleanup_(json_writer_deinit) struct json_writer w = JSON_WRITER_INIT;
        _cleanup_(freep) char *arguments = NULL;
        int n, code;

        code = cli_parse(cli, verb, NULL, argc, argv, &n);
        if (code != CLI_DONE)
                return code;
        if (n != 1)
                return cli_usage(verb, "which model? Its name is needed");
        json_open(&w, '{');
        json_key(&w, "name");
        json_text(&w, argv[0]);
        json_close(&w, '}');
        code = cli_exit_code(json_writer_take(&w, &arguments));
        return code ? code : manage(cli, "unload", arguments);
}

static int cancel(struct moed *m, uint64_t number) {
        _cleanup_(json_writer_deinit) struct json_writer w = JSON_WRITER_INIT;
        _cleanup_(freep) char *arguments = NULL;
        _cleanup_(json_freep) struct json *reply = NULL;
        const struct json *found;
        int code;

        json_open(&w, '{');
        json_key(&w, "number");
        json_uint(&w, number);
        json_close(&w, '}');
        code = cli_exit_code(json_writer_take(&w, &arguments));
        if (!code)
                code = cli_query(m, "cancel", arguments, &reply);
        if (code)
                return code;
        found = json_get(reply, "found");
        if (found && found->type == JSON_BOOL && found->boolean)
                return EX_OK;
        cli_complain("there is no request %" PRIu64 " that you may cancel", number);
        return EX_USAGE;
}

int verb_cancel(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        _cleanup_(moed_closep) struct moed *m = NULL;
        int n, code, worst = EX_OK;
        uint64_t number;

        code = cli_parse(cli, verb, NULL, argc, argv, &n);
        if (code != CLI_DONE)
                return code;
        if (n == 0)
                return cli_usage(verb, "which request? 'moectl ps' shows their numbers");
        for (int i = 0; i < n; i++)
                if (args_u64(argv[i], UINT64_MAX, &number))
                        return cli_usage(verb, "'%s' is no number of a request", argv[i]);
        code = cli_connect(cli, &m);
        if (code)
                return code;
        for (int i = 0; i < n; i++) {
                args_u64(argv[i], UINT64_MAX, &number);
                code = cancel(m, number);
                worst = MAX(worst, code);
        }
        return worst;
}
