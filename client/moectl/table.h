/* SPDX-License-Identifier: MIT */
#pragma once

/* Columns of text, as wide as what is in them. Numbers to the right, words to the left. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

struct table_column {
        const char *title;
        bool right;
};

struct table {
        const struct table_column *columns;
        size_t n_columns;
        char **cells; /* row by row, the titles first */
        size_t n_cells, allocated;
        int error;    /* 0 or -ENOMEM; kept until table_print() */
};

void table_init(struct table *ret, const struct table_column *columns, size_t n_columns);
void table_deinit(struct table *table);
/* The next cell, escaped: it may come from other users' programs. */
void table_cell(struct table *table, const char *format, ...) _printf_(2, 3);
/* Prints to stdout. 0 or -ENOMEM. */
int table_print(const struct table *table);

/* "1.5 GiB", "28.3 M"; at most 15 characters with the terminator. */
const char *format_bytes(char ret[static 16], uint64_t bytes);
const char *format_count(char ret[static 16], uint64_t count);
