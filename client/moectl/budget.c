/* SPDX-License-Identifier: MIT */
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <string.h>

#include "base/util.h"
#include "cells.h"
#include "cli.h"
#include "json.h"

/* "ExpertsMax=2 Weight=300": what rules set. */
static void policy_cell(struct table *table, const struct json *budget) {
        char text[512] = "";
        size_t used = 0;

        json_for_each(key, json_get(budget, "keys"))
                if (used < sizeof(text))
                        used += (size_t) snprintf(text + used, sizeof(text) - used, "%s%s=%s", used ? " " : "",
                                                  json_get_text(key, "key", ""), json_get_text(key, "value", ""));
        table_cell(table, "%s", text[0] ? text : "-");
}

static int print_budgets(const struct json *reply) {
        static const struct table_column columns[] = {
                { "PRINCIPAL" },         { "STREAMS", true }, { "PROMPT", true }, { "GENERATED", true },
                { "ACTIVATIONS", true }, { "POLICY" },
        };
        _cleanup_(table_deinit) struct table table = {};

        table_init(&table, columns, ELEMENTS(columns));
        json_for_each(budget, json_get(reply, "budgets")) {
                text_cell(&table, budget, "principal");
                whole_cell(&table, budget, "streams");
                count_cell(&table, budget, "prompt");
                count_cell(&table, budget, "generated");
                count_cell(&table, budget, "activations");
                policy_cell(&table, budget);
        }
        return table_finish(&table);
}

/* A line for each key, with the name of whose it is in the first. */
static void key_rows(struct table *table, const struct json *of, bool with_rule) {
        const struct json *keys = json_get(of, "keys");
        const char *name = json_get_text(of, "principal", "");

        json_for_each(key, keys) {
                table_cell(table, "%s", name);
                table_cell(table, "%s", json_get_text(key, "key", ""));
                table_cell(table, "%s", json_get_text(key, "value", ""));
                if (with_rule)
                        table_cell(table, "%s", json_get_text(key, "rule", "-"));
                table_cell(table, "%s", json_get_text(key, "source", "the default"));
                name = "";
        }
        if (!keys || keys->length == 0)
                for (int i = 0; i < 4 + with_rule; i++)
                        table_cell(table, "%s", i == 0 ? name : "-");
}

static int print_rules(const struct json *reply) {
        static const struct table_column columns[] = { { "RULE" }, { "KEY" }, { "VALUE" }, { "SOURCE" } };
        _cleanup_(table_deinit) struct table table = {};
        const struct json *list = json_get(reply, "rules");

        if (!list || list->length == 0)
                return 0;
        putchar('\n');
        table_init(&table, columns, ELEMENTS(columns));
        json_for_each(rule, list)
                key_rows(&table, rule, false);
        return table_finish(&table);
}

/* Of one principal all keys, and the rule that gives each. */
static int print_keys(const struct json *reply) {
        static const struct table_column columns[] = {
                { "PRINCIPAL" }, { "KEY" }, { "VALUE" }, { "RULE" }, { "SOURCE" },
        };
        _cleanup_(table_deinit) struct table table = {};

        table_init(&table, columns, ELEMENTS(columns));
        json_for_each(budget, json_get(reply, "budgets"))
                key_rows(&table, budget, true);
        return table_finish(&table);
}

static int budget_print(struct moed *m, const struct cli *cli, const char *arguments, bool one) {
        _cleanup_(json_freep) struct json *reply = NULL;
        uint64_t omitted;
        int code;

        if (cli->json)
                return cli_query_print(m, "budget", arguments);
        code = cli_query(m, "budget", arguments, &reply);
        if (code == 0)
                code = one ? print_keys(reply) : print_budgets(reply);
        if (code == 0)
                code = print_rules(reply);
        omitted = json_get_uint(reply, "omitted", 0);
        if (code == 0 && omitted > 0)
                cli_note("%" PRIu64 " more; ask for one: moectl budget show PRINCIPAL", omitted);
        return code;
}

/* The daemon knows the keys, and what each may be. */
static int write_keys(struct json_writer *w, const struct verb *verb, char **assignments, int n) {
        for (int i = 0; i < n; i++) {
                char *equals = strchr(assignments[i], '=');

                if (!equals || equals == assignments[i])
                        return cli_usage(verb, "'%s': it is KEY=VALUE", assignments[i]);
                *equals = '\0';
                json_key(w, assignments[i]);
                json_text(w, equals + 1);
        }
        return 0;
}

static bool is_number(const char *text) {
        return *text && text[strspn(text, "0123456789")] == '\0';
}

/* "uid:alice" as "uid:1000", in which the daemon speaks of users and groups; the rest as it is. 0 or an exit code. */
static int write_principal(struct json_writer *w, const char *text) {
        bool user = strncmp(text, "uid:", 4) == 0, group = strncmp(text, "gid:", 4) == 0;
        const struct passwd *passwd = NULL;
        const struct group *entry = NULL;
        char number[32];

        if (!(user || group) || is_number(text + 4)) {
                json_text(w, text);
                return 0;
        }
        if (user)
                passwd = getpwnam(text + 4);
        else
                entry = getgrnam(text + 4);
        if (!passwd && !entry) {
                cli_complain("there is no %s '%s' on this system", user ? "user" : "group", text + 4);
                return EX_USAGE;
        }
        snprintf(number, sizeof(number), "%.4s%" PRIu32, text, user ? passwd->pw_uid : entry->gr_gid);
        json_text(w, number);
        return 0;
}

/* The control message's arguments; NULL for a mere `show`. 0 or an exit code. */
static int budget_arguments(const struct verb *verb, char **operands, int n, bool save, char **ret) {
        _cleanup_(json_writer_deinit) struct json_writer w = JSON_WRITER_INIT;
        const char *action = n > 0 ? operands[0] : "show";
        bool set = strcmp(action, "set") == 0, reset = strcmp(action, "reset") == 0, show = strcmp(action, "show") == 0;
        int code = 0;

        if (show && save)
                return cli_usage(verb, "--save belongs to 'set' and 'reset'");
        if (show && n < 2)
                return 0;
        if (!(set && n >= 3) && !((reset || show) && n == 2))
                return cli_usage(verb, "it is 'show [PRINCIPAL]', 'set PRINCIPAL KEY=VALUE...' or 'reset PRINCIPAL'");
        json_open(&w, '{');
        json_key(&w, show ? "principal" : action);
        if (set)
                json_open(&w, '{');
        if (set)
                json_key(&w, "principal");
        code = write_principal(&w, operands[1]);
        if (set && code == 0)
                code = write_keys(&w, verb, operands + 2, n - 2);
        if (set)
                json_close(&w, '}');
        if (save) {
                json_key(&w, "save");
                json_bool(&w, true);
        }
        json_close(&w, '}');
        return code ? code : cli_exit_code(json_writer_take(&w, ret));
}

int verb_budget(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        _cleanup_(freep) char *arguments = NULL;
        _cleanup_(moed_closep) struct moed *m = NULL;
        bool save = false;
        const struct arg args[] = {
                { "save", 0, ARG_FLAG, &save, NULL, "set, reset: also for the next start of the daemon" },
                {},
        };
        int n, code;

        code = cli_parse(cli, verb, args, argc, argv, &n);
        if (code != CLI_DONE)
                return code;
        code = budget_arguments(verb, argv, n, save, &arguments);
        if (code)
                return code;
        code = cli_connect(cli, &m);
        return code ? code : budget_print(m, cli, arguments, arguments && n == 2 && strcmp(argv[0], "show") == 0);
}
