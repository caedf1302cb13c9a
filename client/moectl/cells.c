/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <pwd.h>
#include <string.h>

#include "cells.h"
#include "cli.h"

int table_finish(const struct table *table) {
        int r = table_print(table);

        if (r < 0) {
                cli_complain("%s", strerror(-r));
                return cli_exit_code(r);
        }
        return cli_flush();
}

void user_cell(struct table *table, uint64_t uid) {
        const struct passwd *user = uid <= UINT32_MAX ? getpwuid((uid_t) uid) : NULL;

        if (user)
                table_cell(table, "%s", user->pw_name);
        else
                table_cell(table, "%" PRIu64, uid);
}

void milli_cell(struct table *table, const struct json *json, const char *key) {
        uint64_t milli = json_get_uint(json, key, 0);

        if (milli > 0)
                table_cell(table, "%.2f", (double) milli / 1000.0);
        else
                table_cell(table, "-");
}

void count_cell(struct table *table, const struct json *json, const char *key) {
        char count[16];

        table_cell(table, "%s", format_count(count, json_get_uint(json, key, 0)));
}

void whole_cell(struct table *table, const struct json *json, const char *key) {
        table_cell(table, "%" PRIu64, json_get_uint(json, key, 0));
}

void text_cell(struct table *table, const struct json *json, const char *key) {
        const char *text = json_get_text(json, key, "");

        table_cell(table, "%s", text[0] ? text : "-");
}
