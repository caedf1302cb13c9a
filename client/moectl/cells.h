/* SPDX-License-Identifier: MIT */
#pragma once

/* Cells of a table, from what the daemon answered. A key that is not there shows as 0 or as "-". */

#include <stdint.h>

#include "json.h"
#include "table.h"

/* The name of the user, else the number. */
void user_cell(struct table *table, uint64_t uid);
/* Thousandths: "2.50", and "-" for 0. */
void milli_cell(struct table *table, const struct json *json, const char *key);
/* "1.2 M". */
void count_cell(struct table *table, const struct json *json, const char *key);
void whole_cell(struct table *table, const struct json *json, const char *key);
void text_cell(struct table *table, const struct json *json, const char *key);

/* Prints the table: an exit code. */
int table_finish(const struct table *table);
