/* SPDX-License-Identifier: MIT */
#include "stats.h"

#include <inttypes.h>
#include <string.h>

#include "base/util.h"
#include "cells.h"
#include "json.h"
#include "table.h"

struct options {
        bool experts, cost, prometheus;
        const char *model;
        uint32_t layer;
};

enum { LAYER_NONE = UINT32_MAX };

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

static int print_counters(struct moed *m, const struct cli *cli) {
        static const struct table_column columns[] = { { "COUNTER" }, { "VALUE", true } };
        _cleanup_(table_deinit) struct table table = {};
        _cleanup_(json_freep) struct json *reply = NULL;
        int code;

        if (cli->json)
                return cli_query_print(m, "stats", NULL);
        code = cli_query(m, "stats", NULL, &reply);
        if (code)
                return code;
        table_init(&table, columns, ELEMENTS(columns));
        json_for_each(counter, reply) {
                if (counter->type == JSON_ARRAY || counter->type == JSON_OBJECT)
                        continue;
                table_cell(&table, "%s", counter->key);
                value_cell(&table, counter);
        }
        return table_finish(&table);
}

static int print(struct moed *m, const struct cli *cli, const struct options *o) {
        if (o->prometheus)
                return stats_prometheus(m, o->experts);
        if (o->cost)
                return stats_cost(m, cli);
        if (o->experts)
                return stats_experts(m, cli, o->model, o->layer == LAYER_NONE ? NULL : &o->layer);
        return print_counters(m, cli);
}

int verb_stats(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        struct options o = { .layer = LAYER_NONE };
        const struct arg args[] = {
                { "experts", 0, ARG_FLAG, &o.experts, NULL, "draw how much each expert is used; needs root" },
                { "model", 'm', ARG_TEXT, &o.model, "NAME", "with --experts: of this model" },
                { "layer", 0, ARG_U32, &o.layer, "N", "with --experts: one layer, a line an expert", 0,
                  LAYER_NONE - 1 },
                { "cost", 0, ARG_FLAG, &o.cost, NULL, "what passes cost; needs root or moed-admin" },
                { "prometheus", 0, ARG_FLAG, &o.prometheus, NULL, "all counters in the text format of Prometheus" },
                {},
        };
        _cleanup_(moed_closep) struct moed *m = NULL;
        int code;

        code = cli_parse_options(cli, verb, args, argc, argv);
        if (code != CLI_DONE)
                return code;
        if (!o.experts && (o.model || o.layer != LAYER_NONE))
                return cli_usage(verb, "--model and --layer belong to --experts");
        if (o.cost && (o.experts || o.prometheus))
                return cli_usage(verb, "--cost stands alone");
        if (o.prometheus && (o.model || o.layer != LAYER_NONE || cli->json))
                return cli_usage(verb, "--prometheus takes no more than --experts");
        code = cli_connect(cli, &m);
        return code ? code : print(m, cli, &o);
}
