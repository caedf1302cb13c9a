/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <string.h>

#include "base/util.h"
#include "cells.h"
#include "cli.h"

static double milli(const struct json *json, const char *key) {
        return (double) json_get_uint(json, key, 0) / 1000.0;
}

static double msec(const struct json *json, const char *key) {
        return (double) json_get_uint(json, key, 0) / (double) NSEC_PER_MSEC;
}

static void msec_cell(struct table *table, const struct json *json, const char *key) {
        if (json_get(json, key))
                table_cell(table, "%.0f", msec(json, key));
        else
                table_cell(table, "-");
}

static int print_list(const struct json *reply) {
        static const struct table_column columns[] = {
                { "REQUEST", true },   { "PRINCIPAL" },         { "NAME" },          { "MODEL" },
                { "OUTCOME" },         { "PROMPT", true },      { "GENERATED", true }, { "CAP", true },
                { "EXPERTS", true },   { "ACTIVATIONS", true }, { "WAIT-MS", true }, { "FIRST-MS", true },
                { "TOTAL-MS", true },
        };
        _cleanup_(table_deinit) struct table table = {};

        table_init(&table, columns, ELEMENTS(columns));
        json_for_each(request, json_get(reply, "requests")) {
                whole_cell(&table, request, "number");
                text_cell(&table, request, "principal");
                text_cell(&table, request, "name");
                text_cell(&table, request, "model");
                text_cell(&table, request, "outcome");
                whole_cell(&table, request, "prompt");
                whole_cell(&table, request, "generated");
                milli_cell(&table, request, "cap_milli");
                milli_cell(&table, request, "experts_milli");
                count_cell(&table, request, "activations");
                msec_cell(&table, request, "wait_nsec");
                msec_cell(&table, request, "first_nsec");
                msec_cell(&table, request, "total_nsec");
        }
        return table_finish(&table);
}

static void print_times(const struct json *r) {
        printf("time         waited %.0f ms to begin", msec(r, "wait_nsec"));
        if (json_get(r, "first_nsec"))
                printf(", first token after %.0f ms", msec(r, "first_nsec"));
        printf(", %.0f ms in all\n", msec(r, "total_nsec"));
}

static void print_use(const struct json *r) {
        uint64_t rows = json_get_uint(r, "rows", 0), passes = json_get_uint(r, "passes", 0),
                 batch = json_get_uint(r, "batch_rows", 0);

        printf("activations  %" PRIu64 " in %" PRIu64 " rows: %.2f experts per token and layer\n",
               json_get_uint(r, "activations", 0), rows, milli(r, "experts_milli"));
        if (passes > 0 && batch > 0)
                printf("batches      %" PRIu64 ", of %.1f rows in the mean; %.1f %% of them its own\n", passes,
                       (double) batch / (double) passes, 100.0 * (double) rows / (double) batch);
        if (json_get_uint(r, "evictions", 0) > 0)
                printf("paused       %" PRIu64 " times for want of KV pages; %" PRIu64 " rows were computed again\n",
                       json_get_uint(r, "evictions", 0), json_get_uint(r, "recomputed", 0));
}

/* Of the model's cap and the request's own, the words are ours. */
static void why_cell(struct table *table, const struct json *stretch) {
        const char *rule = json_get_text(stretch, "rule", ""), *why = json_get_text(stretch, "why", NULL);

        if (why)
                table_cell(table, "%s", why);
        else if (strcmp(rule, "request") == 0)
                table_cell(table, "the request asked for it");
        else
                table_cell(table, "the model uses no more");
}

/* A stretch is in force until the next one begins. */
static int print_stretches(const struct json *r) {
        static const struct table_column columns[] = { { "ROWS", true }, { "CAP", true }, { "RULE" }, { "WHY" } };
        uint64_t omitted = json_get_uint(r, "stretches_omitted", 0);
        _cleanup_(table_deinit) struct table table = {};

        table_init(&table, columns, ELEMENTS(columns));
        json_for_each(stretch, json_get(r, "stretches")) {
                table_cell(&table, "from %" PRIu64, json_get_uint(stretch, "row", 0));
                milli_cell(&table, stretch, "cap_milli");
                text_cell(&table, stretch, "rule");
                why_cell(&table, stretch);
        }
        if (omitted > 0)
                cli_note("%" PRIu64 " stretches in the middle were left out", omitted);
        return table_finish(&table);
}

static int print_request(const struct json *r) {
        const char *name = json_get_text(r, "name", ""), *reason = json_get_text(r, "reason", NULL);

        printf("request      %" PRIu64 " of %s%s%s%s to %s: %s%s%s\n", json_get_uint(r, "number", 0),
               json_get_text(r, "principal", ""), name[0] ? " (" : "", name, name[0] ? ")" : "",
               json_get_text(r, "model", ""), json_get_text(r, "outcome", ""), reason ? ": " : "",
               reason ? reason : "");
        printf("tokens       %" PRIu64 " of the prompt, %" PRIu64 " generated\n", json_get_uint(r, "prompt", 0),
               json_get_uint(r, "generated", 0));
        print_times(r);
        print_use(r);
        if (json_get_uint(r, "asked_milli", 0) > 0)
                printf("asked for    %.2f experts per token at most\n", milli(r, "asked_milli"));
        putchar('\n');
        return print_stretches(r);
}

static int explain(struct moed *m, const struct cli *cli, const char *arguments, bool one) {
        _cleanup_(json_freep) struct json *reply = NULL;
        int code;

        if (cli->json)
                return cli_query_print(m, "explain", arguments);
        code = cli_query(m, "explain", arguments, &reply);
        return code ? code : one ? print_request(reply) : print_list(reply);
}

int verb_explain(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        _cleanup_(moed_closep) struct moed *m = NULL;
        uint32_t limit = 20;
        const struct arg args[] = {
                { "limit", 'n', ARG_U32, &limit, "N", "without a request: list so many", 0, UINT32_MAX },
                {},
        };
        uint64_t number;
        char arguments[64];
        int n, code;

        code = cli_parse(cli, verb, args, argc, argv, &n);
        if (code != CLI_DONE)
                return code;
        if (n > 1 || (n == 1 && args_u64(argv[0], UINT64_MAX, &number)))
                return cli_usage(verb, "it takes the number of one request, as 'moectl ps' shows it");
        if (n == 1)
                snprintf(arguments, sizeof(arguments), "{\"number\":%" PRIu64 "}", number);
        else
                snprintf(arguments, sizeof(arguments), "{\"limit\":%" PRIu32 "}", limit);
        code = cli_connect(cli, &m);
        return code ? code : explain(m, cli, arguments, n == 1);
}
