/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <string.h>

#include "base/util.h"
#include "cells.h"
#include "escape.h"
#include "json.h"
#include "stats.h"

static void span_cell(struct table *table, double nsec) {
        if (nsec < 1e3)
                table_cell(table, "%.1f ns", nsec);
        else if (nsec < 1e6)
                table_cell(table, "%.1f us", nsec / 1e3);
        else
                table_cell(table, "%.1f ms", nsec / 1e6);
}

static int print_model(const struct json *model) {
        static const struct table_column columns[] = { { "OF EACH" }, { "COSTS", true } };
        _cleanup_(freep) char *name = escape(json_get_text(model, "model", ""));
        _cleanup_(table_deinit) struct table table = {};
        uint64_t passes = json_get_uint(model, "passes", 0);

        printf("%s: ", name ? name : "");
        if (passes == 0)
                puts("no pass was measured yet, these are guesses");
        else
                printf("%" PRIu64 " passes; of the latest, forecast / actual is %.3f in the median, off by %.1f%%\n",
                       passes, json_get_double(model, "ratio", 0), 100 * json_get_double(model, "error", 0));
        table_init(&table, columns, ELEMENTS(columns));
        json_for_each(term, json_get(model, "nsec")) {
                table_cell(&table, "%s", term->key);
                span_cell(&table, json_as_double(term, 0));
        }
        return table_finish(&table);
}

int stats_cost(struct moed *m, const struct cli *cli) {
        _cleanup_(json_freep) struct json *reply = NULL;
        int code;

        if (cli->json)
                return cli_query_print(m, "stats", "{\"cost\": true}");
        code = cli_query(m, "stats", "{\"cost\": true}", &reply);
        json_for_each(model, json_get(reply, "cost")) {
                if (code)
                        break;
                code = print_model(model);
                if (model->next)
                        putchar('\n');
        }
        return code;
}
