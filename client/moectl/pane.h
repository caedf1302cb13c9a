/* SPDX-License-Identifier: MIT */
#pragma once

/* Rows of cells that can be sorted by any column: what a screen shows a part of. Texts are escaped when they come
 * in. */

#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"

enum { PANE_COLUMNS_MAX = 16 };

struct pane_column {
        const char *title;
        bool right;
};

struct pane_cell {
        char *text;
        double key; /* what it is sorted by; NAN: by the text */
};

struct pane_row {
        char *id;        /* tells rows apart over time, as it came */
        char *principal; /* whose it is, as it came */
        size_t n_cells;
        struct pane_cell cells[PANE_COLUMNS_MAX];
};

struct pane {
        const struct pane_column *columns;
        size_t n_columns;
        struct pane_row *rows;
        size_t n_rows, allocated;
        int error; /* 0 or -ENOMEM; a pane with an error has no rows */
};

void pane_init(struct pane *ret, const struct pane_column *columns, size_t n_columns);
void pane_deinit(struct pane *pane);

/* Begins a row; its cells follow, one for each column. */
void pane_row(struct pane *pane, const char *id, const char *principal);
void pane_text(struct pane *pane, const char *text);
/* A cell that is sorted by `key`. */
void pane_number(struct pane *pane, double key, const char *format, ...) _printf_(3, 4);

/* Rows that are equal in that column stay in the order of their ids: numbers by size, words by the alphabet. */
void pane_sort(struct pane *pane, size_t column, bool falling);
/* The row with that id; n_rows: none has it. */
size_t pane_find(const struct pane *pane, const char *id);
