/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <pwd.h>
#include <string.h>

#include "base/util.h"
#include "cli.h"
#include "json.h"
#include "table.h"

static int table_finish(const struct table *table) {
        int r = table_print(table);

        if (r < 0) {
                cli_complain("%s", strerror(-r));
                return cli_exit_code(r);
        }
        return cli_flush();
}

static int no_operands(const struct verb *verb, char **argv, int n) {
        return n > 0 ? cli_usage(verb, "'%s' is more than this takes", argv[0]) : 0;
}

/* For verbs that only ask: parses, connects, prints the answer as is with --json. CLI_DONE: *m is there. */
static int show_open(struct cli *cli, const struct verb *verb, const char *control, int argc, char **argv,
                     struct moed **m) {
        int n, code;

        code = cli_parse(cli, verb, NULL, argc, argv, &n);
        if (code != CLI_DONE)
                return code;
        code = no_operands(verb, argv, n);
        if (code)
                return code;
        code = cli_connect(cli, m);
        if (code)
                return code;
        return cli->json ? cli_query_print(*m, control, NULL) : CLI_DONE;
}

static void user_cell(struct table *table, uint64_t uid) {
        const struct passwd *user = uid <= UINT32_MAX ? getpwuid((uid_t) uid) : NULL;

        if (user)
                table_cell(table, "%s", user->pw_name);
        else
                table_cell(table, "%" PRIu64, uid);
}

static void milli_cell(struct table *table, const struct json *json, const char *key) {
        uint64_t milli = json_get_uint(json, key, 0);

        if (milli > 0)
                table_cell(table, "%.2f", (double) milli / 1000.0);
        else
                table_cell(table, "-");
}

static void count_cell(struct table *table, const struct json *json, const char *key) {
        char count[16];

        table_cell(table, "%s", format_count(count, json_get_uint(json, key, 0)));
}

static void whole_cell(struct table *table, const struct json *json, const char *key) {
        table_cell(table, "%" PRIu64, json_get_uint(json, key, 0));
}

static void text_cell(struct table *table, const struct json *json, const char *key) {
        const char *text = json_get_text(json, key, "");

        table_cell(table, "%s", text[0] ? text : "-");
}

static void shared_cell(struct table *table, const struct json *model) {
        char text[512] = "", bytes[16];
        size_t used = 0;

        json_for_each(share, json_get(model, "shared"))
                if (used < sizeof(text))
                        used += (size_t) snprintf(text + used, sizeof(text) - used, "%s%s with %s", used ? ", " : "",
                                                  format_bytes(bytes, json_get_uint(share, "bytes", 0)),
                                                  json_get_text(share, "model", ""));
        table_cell(table, "%s", text[0] ? text : "-");
}

static void models_row(struct table *table, const struct json *model) {
        uint64_t experts = json_get_uint(model, "experts", 0);
        char bytes[16];

        text_cell(table, model, "name");
        text_cell(table, model, "architecture");
        count_cell(table, model, "parameters");
        table_cell(table, "%s", format_bytes(bytes, json_get_uint(model, "size", 0)));
        whole_cell(table, model, "context");
        whole_cell(table, model, "layers");
        if (experts > 0)
                table_cell(table, "%" PRIu64 " of %" PRIu64, json_get_uint(model, "experts_used", 0), experts);
        else
                table_cell(table, "-");
        text_cell(table, model, "template");
        text_cell(table, model, "calibration");
        text_cell(table, model, "state");
        whole_cell(table, model, "streams");
        shared_cell(table, model);
        text_cell(table, model, "file");
}

int verb_models(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        static const struct table_column columns[] = {
                { "NAME" },         { "ARCHITECTURE" },  { "PARAMETERS", true }, { "SIZE", true }, { "CONTEXT", true },
                { "LAYERS", true }, { "EXPERTS", true }, { "CHAT" },             { "CALIBRATION" }, { "STATE" },
                { "STREAMS", true }, { "SHARED" },       { "FILE" },
        };
        _cleanup_(table_deinit) struct table table = {};
        _cleanup_(json_freep) struct json *reply = NULL;
        _cleanup_(moed_closep) struct moed *m = NULL;
        int code;

        code = show_open(cli, verb, "models", argc, argv, &m);
        if (code != CLI_DONE)
                return code;
        code = cli_query(m, "models", NULL, &reply);
        if (code)
                return code;
        table_init(&table, columns, ELEMENTS(columns));
        json_for_each(model, json_get(reply, "models"))
                models_row(&table, model);
        return table_finish(&table);
}

static void ps_row(struct table *table, const struct json *peer) {
        whole_cell(table, peer, "pid");
        user_cell(table, json_get_uint(peer, "uid", UINT64_MAX));
        text_cell(table, peer, "unit");
        text_cell(table, peer, "name");
        whole_cell(table, peer, "streams");
        whole_cell(table, peer, "queued");
        count_cell(table, peer, "prompt");
        count_cell(table, peer, "generated");
        count_cell(table, peer, "activations");
        milli_cell(table, peer, "experts_milli");
        milli_cell(table, peer, "cap_milli");
        whole_cell(table, peer, "weight");
        whole_cell(table, peer, "kv_pages");
}

int verb_ps(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        static const struct table_column columns[] = {
                { "PID", true },         { "USER" },          { "UNIT" },         { "NAME" },
                { "RUNNING", true },     { "QUEUED", true },  { "PROMPT", true }, { "GENERATED", true },
                { "ACTIVATIONS", true }, { "EXPERTS", true }, { "CAP", true },    { "WEIGHT", true },
                { "KV-PAGES", true },
        };
        _cleanup_(table_deinit) struct table table = {};
        _cleanup_(json_freep) struct json *reply = NULL;
        _cleanup_(moed_closep) struct moed *m = NULL;
        int code;

        code = show_open(cli, verb, "ps", argc, argv, &m);
        if (code != CLI_DONE)
                return code;
        code = cli_query(m, "ps", NULL, &reply);
        if (code)
                return code;
        table_init(&table, columns, ELEMENTS(columns));
        json_for_each(peer, json_get(reply, "peers"))
                ps_row(&table, peer);
        return table_finish(&table);
}

static void value_cell(struct table *table, const struct json *value) {
        switch (value->type) {
        case JSON_UINT:
                table_cell(table, "%" PRIu64, value->uint);
                break;
        case JSON_STRING:
                table_cell(table, "%s", value->string);
                break;
        case JSON_BOOL:
                table_cell(table, "%s", value->boolean ? "yes" : "no");
                break;
        case JSON_INT:
        case JSON_DOUBLE:
                table_cell(table, "%.6g", json_as_double(value, 0));
                break;
        default:
                table_cell(table, "-");
        }
}

int verb_stats(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        static const struct table_column columns[] = { { "COUNTER" }, { "VALUE", true } };
        _cleanup_(table_deinit) struct table table = {};
        _cleanup_(json_freep) struct json *reply = NULL;
        _cleanup_(moed_closep) struct moed *m = NULL;
        int code;

        code = show_open(cli, verb, "stats", argc, argv, &m);
        if (code != CLI_DONE)
                return code;
        code = cli_query(m, "stats", NULL, &reply);
        if (code)
                return code;
        table_init(&table, columns, ELEMENTS(columns));
        json_for_each(counter, reply) {
                table_cell(&table, "%s", counter->key);
                value_cell(&table, counter);
        }
        return table_finish(&table);
}

int verb_reload(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        _cleanup_(moed_closep) struct moed *m = NULL;
        _cleanup_(json_freep) struct json *reply = NULL;
        int code;

        code = show_open(cli, verb, "reload", argc, argv, &m);
        return code == CLI_DONE ? cli_query(m, "reload", NULL, &reply) : code;
}

static void budget_row(struct table *table, const struct json *budget) {
        text_cell(table, budget, "principal");
        milli_cell(table, budget, "experts_max_milli");
        whole_cell(table, budget, "weight");
        count_cell(table, budget, "activations");
        text_cell(table, budget, "source");
}

static void rule_row(struct table *table, const struct json *rule) {
        const char *experts = json_get_text(rule, "experts_max_source", ""),
                   *weight = json_get_text(rule, "weight_source", "");
        uint64_t value = json_get_uint(rule, "weight", 0);

        text_cell(table, rule, "principal");
        milli_cell(table, rule, "experts_max_milli");
        if (value > 0)
                table_cell(table, "%" PRIu64, value);
        else
                table_cell(table, "-");
        table_cell(table, "%s%s%s", experts, experts[0] && weight[0] && strcmp(experts, weight) ? ", " : "",
                   strcmp(experts, weight) ? weight : "");
}

/* What is in force for those who are here, then the rules that there are. */
static int budget_tables(const struct json *reply) {
        static const struct table_column columns[] = {
                { "PRINCIPAL" },         { "EXPERTSMAX", true }, { "WEIGHT", true },
                { "ACTIVATIONS", true }, { "SOURCE" },
        };
        static const struct table_column rule_columns[] = {
                { "RULE" }, { "EXPERTSMAX", true }, { "WEIGHT", true }, { "SOURCE" },
        };
        _cleanup_(table_deinit) struct table table = {}, rules = {};
        const struct json *list = json_get(reply, "rules");
        int code;

        table_init(&table, columns, ELEMENTS(columns));
        json_for_each(budget, json_get(reply, "budgets"))
                budget_row(&table, budget);
        code = table_finish(&table);
        if (code || !list || list->length == 0)
                return code;
        putchar('\n');
        table_init(&rules, rule_columns, ELEMENTS(rule_columns));
        json_for_each(rule, list)
                rule_row(&rules, rule);
        return table_finish(&rules);
}

static int budget_print(struct moed *m, const struct cli *cli, const char *arguments) {
        _cleanup_(json_freep) struct json *reply = NULL;
        int code;

        if (cli->json)
                return cli_query_print(m, "budget", arguments);
        code = cli_query(m, "budget", arguments, &reply);
        return code ? code : budget_tables(reply);
}

/* Keys as moed.conf(5) spells them, and the control message's key for each. */
static const struct budget_key {
        const char *name, *key;
        double factor, min, max;
} budget_keys[] = {
        { "ExpertsMax", "experts_max_milli", 1000, 0.001, 1024 },
        { "Weight", "weight", 1, 1, 10000 },
};

static int budget_key_write(struct json_writer *w, const struct verb *verb, const char *assignment) {
        size_t length = strcspn(assignment, "=");

        for (size_t i = 0; i < ELEMENTS(budget_keys); i++) {
                const struct budget_key *k = &budget_keys[i];
                double value;

                if (strlen(k->name) != length || strncasecmp(k->name, assignment, length) != 0 ||
                    !assignment[length])
                        continue;
                if (args_number(assignment + length + 1, k->min, k->max, &value) ||
                    (k->factor == 1 && value != (double) (uint64_t) value))
                        return cli_usage(verb, "%s: a%s number from %g to %g is needed", k->name,
                                         k->factor == 1 ? " whole" : "", k->min, k->max);
                json_key(w, k->key);
                /* Never rounded up: a cap is a cap. */
                json_uint(w, (uint64_t) (value * k->factor + 1e-6));
                return 0;
        }
        return cli_usage(verb, "'%s': known are ExpertsMax=N and Weight=N", assignment);
}

/* The control message's arguments for `set` and `reset`; NULL for `show`. 0 or an exit code. */
static int budget_arguments(const struct verb *verb, char **operands, int n, char **ret) {
        _cleanup_(json_writer_deinit) struct json_writer w = JSON_WRITER_INIT;
        bool set = n > 0 && strcmp(operands[0], "set") == 0,
             reset = n > 0 && strcmp(operands[0], "reset") == 0;
        int code;

        if (n == 0 || (n == 1 && strcmp(operands[0], "show") == 0))
                return 0;
        if (!(set && n >= 3) && !(reset && n == 2))
                return cli_usage(verb, "it is 'show', 'set PRINCIPAL KEY=VALUE...' or 'reset PRINCIPAL'");
        json_open(&w, '{');
        json_key(&w, operands[0]);
        if (set)
                json_open(&w, '{');
        if (set)
                json_key(&w, "principal");
        json_text(&w, operands[1]);
        for (int i = 2; i < n; i++) {
                code = budget_key_write(&w, verb, operands[i]);
                if (code)
                        return code;
        }
        if (set)
                json_close(&w, '}');
        json_close(&w, '}');
        return cli_exit_code(json_writer_take(&w, ret));
}

int verb_budget(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        _cleanup_(freep) char *arguments = NULL;
        _cleanup_(moed_closep) struct moed *m = NULL;
        int n, code;

        code = cli_parse(cli, verb, NULL, argc, argv, &n);
        if (code != CLI_DONE)
                return code;
        code = budget_arguments(verb, argv, n, &arguments);
        if (code)
                return code;
        code = cli_connect(cli, &m);
        return code ? code : budget_print(m, cli, arguments);
}
