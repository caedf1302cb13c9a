/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <string.h>

#include "base/util.h"
#include "cells.h"
#include "cli.h"
#include "json.h"
#include "table.h"

/* For verbs that only ask: parses, connects, prints the answer as is with --json. CLI_DONE: *m is there. */
static int show_open(struct cli *cli, const struct verb *verb, const char *control, int argc, char **argv,
                     struct moed **m) {
        int code;

        code = cli_parse_options(cli, verb, NULL, argc, argv);
        if (code != CLI_DONE)
                return code;
        code = cli_connect(cli, m);
        if (code)
                return code;
        return cli->json ? cli_query_print(*m, control, NULL) : CLI_DONE;
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

static void request_row(struct table *table, const struct json *peer, const struct json *request) {
        const char *rule = json_get_text(request, "rule", "");

        whole_cell(table, request, "number");
        text_cell(table, peer, "principal");
        text_cell(table, request, "model");
        text_cell(table, request, "state");
        if (json_get(request, "position"))
                table_cell(table, "%" PRIu64, json_get_uint(request, "position", 0));
        else
                table_cell(table, "-");
        if (json_get(request, "estimate_nsec"))
                table_cell(table, "%.1f s",
                           (double) json_get_uint(request, "estimate_nsec", 0) / (double) NSEC_PER_SEC);
        else
                table_cell(table, "-");
        count_cell(table, request, "prompt");
        count_cell(table, request, "generated");
        milli_cell(table, request, "cap_milli");
        table_cell(table, "%s", rule);
}

/* A line for each request that waits or runs; nothing when none does. */
static int ps_requests(const struct json *reply) {
        static const struct table_column columns[] = {
                { "REQUEST", true },  { "PRINCIPAL" },    { "MODEL" },           { "STATE" },     { "POSITION", true },
                { "BEGINS-IN", true }, { "PROMPT", true }, { "GENERATED", true }, { "CAP", true }, { "RULE" },
        };
        _cleanup_(table_deinit) struct table table = {};
        bool any = false;

        table_init(&table, columns, ELEMENTS(columns));
        json_for_each(peer, json_get(reply, "peers"))
                json_for_each(request, json_get(peer, "requests")) {
                        request_row(&table, peer, request);
                        any = true;
                }
        if (!any)
                return cli_flush();
        putchar('\n');
        return table_finish(&table);
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
        code = table_finish(&table);
        return code ? code : ps_requests(reply);
}

int verb_reload(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        _cleanup_(moed_closep) struct moed *m = NULL;
        _cleanup_(json_freep) struct json *reply = NULL;
        int code;

        code = show_open(cli, verb, "reload", argc, argv, &m);
        return code == CLI_DONE ? cli_query(m, "reload", NULL, &reply) : code;
}
