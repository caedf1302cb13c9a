/* SPDX-License-Identifier: MIT */
#include "table.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "base/util.h"
#include "escape.h"

enum { GAP = 2 };

void table_init(struct table *ret, const struct table_column *columns, size_t n_columns) {
        *ret = (struct table) { .columns = columns, .n_columns = n_columns };
        for (size_t i = 0; i < n_columns; i++)
                table_cell(ret, "%s", columns[i].title);
}

void table_deinit(struct table *table) {
        for (size_t i = 0; i < table->n_cells; i++)
                free(table->cells[i]);
        free(table->cells);
}

static bool table_reserve(struct table *table) {
        size_t allocated = MAX(table->allocated * 2, (size_t) 64);
        char **cells;

        if (table->error < 0)
                return false;
        if (table->n_cells < table->allocated)
                return true;
        cells = reallocarray(table->cells, allocated, sizeof(*cells));
        if (!cells) {
                table->error = -ENOMEM;
                return false;
        }
        table->cells = cells;
        table->allocated = allocated;
        return true;
}

void table_cell(struct table *table, const char *format, ...) {
        _cleanup_(freep) char *text = NULL;
        va_list args;
        char *cell = NULL;

        if (!table_reserve(table))
                return;
        va_start(args, format);
        if (vasprintf(&text, format, args) < 0)
                text = NULL;
        va_end(args);
        if (text)
                cell = escape(text);
        if (cell)
                table->cells[table->n_cells++] = cell;
        else
                table->error = -ENOMEM;
}

/* Characters, not bytes: continuation bytes of UTF-8 take no room. */
static size_t cell_width(const char *cell) {
        size_t width = 0;

        for (; *cell; cell++)
                width += ((unsigned char) *cell & 0xc0) != 0x80;
        return width;
}

static size_t column_width(const struct table *table, size_t column) {
        size_t width = 0;

        for (size_t i = column; i < table->n_cells; i += table->n_columns)
                width = MAX(width, cell_width(table->cells[i]));
        return width;
}

int table_print(const struct table *table) {
        _cleanup_(freep) size_t *widths = NULL;

        if (table->error < 0)
                return table->error;
        widths = calloc(table->n_columns, sizeof(*widths));
        if (!widths)
                return -ENOMEM;
        for (size_t i = 0; i < table->n_columns; i++)
                widths[i] = column_width(table, i);
        for (size_t i = 0; i < table->n_cells; i++) {
                size_t column = i % table->n_columns;
                bool last = column + 1 == table->n_columns;
                int pad = (int) (widths[column] - cell_width(table->cells[i]));

                if (table->columns[column].right)
                        printf("%*s%s%s", pad, "", table->cells[i], last ? "\n" : "  ");
                else
                        printf("%s%*s", table->cells[i], last ? 0 : pad + GAP, "");
                if (last && !table->columns[column].right)
                        putchar('\n');
        }
        return 0;
}

static const char *format_scaled(char ret[static 16], uint64_t value, unsigned step,
                                 const char *const units[]) {
        double scaled = (double) value;
        size_t unit = 0;

        while (scaled >= step && units[unit + 1]) {
                scaled /= step;
                unit++;
        }
        snprintf(ret, 16, unit == 0 ? "%.0f%s" : "%.1f%s", scaled, units[unit]);
        return ret;
}

const char *format_bytes(char ret[static 16], uint64_t bytes) {
        static const char *const units[] = { " B", " KiB", " MiB", " GiB", " TiB", " PiB", NULL };

        return format_scaled(ret, bytes, 1024, units);
}

const char *format_count(char ret[static 16], uint64_t count) {
        static const char *const units[] = { "", " k", " M", " G", " T", " P", NULL };

        return format_scaled(ret, count, 1000, units);
}
