/* SPDX-License-Identifier: MIT */
#include "pane.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "base/util.h"
#include "escape.h"

void pane_init(struct pane *ret, const struct pane_column *columns, size_t n_columns) {
        *ret = (struct pane) { .columns = columns, .n_columns = n_columns };
}

static void row_deinit(struct pane_row *row) {
        for (size_t i = 0; i < row->n_cells; i++)
                free(row->cells[i].text);
        free(row->id);
        free(row->principal);
}

static void pane_clear(struct pane *pane) {
        for (size_t i = 0; i < pane->n_rows; i++)
                row_deinit(&pane->rows[i]);
        pane->n_rows = 0;
}

void pane_deinit(struct pane *pane) {
        pane_clear(pane);
        free(pane->rows);
        pane->rows = NULL;
        pane->allocated = 0;
}

static void pane_fail(struct pane *pane) {
        pane->error = -ENOMEM;
        pane_clear(pane);
}

static bool pane_reserve(struct pane *pane) {
        size_t allocated = MAX(pane->allocated * 2, (size_t) 16);
        struct pane_row *rows;

        if (pane->n_rows < pane->allocated)
                return true;
        rows = reallocarray(pane->rows, allocated, sizeof(*rows));
        if (!rows)
                return false;
        pane->rows = rows;
        pane->allocated = allocated;
        return true;
}

void pane_row(struct pane *pane, const char *id, const char *principal) {
        struct pane_row *row;

        if (pane->error < 0)
                return;
        if (!pane_reserve(pane))
                return pane_fail(pane);
        row = &pane->rows[pane->n_rows++];
        *row = (struct pane_row) { .id = strdup(id), .principal = strdup(principal) };
        if (!row->id || !row->principal)
                pane_fail(pane);
}

/* Takes the text over. */
static void put(struct pane *pane, char *text, double key) {
        struct pane_row *row;

        if (pane->error < 0) {
                free(text);
                return;
        }
        if (!text)
                return pane_fail(pane);
        row = &pane->rows[pane->n_rows - 1];
        row->cells[row->n_cells++] = (struct pane_cell) { text, key };
}

void pane_text(struct pane *pane, const char *text) {
        put(pane, escape(text), NAN);
}

void pane_number(struct pane *pane, double key, const char *format, ...) {
        va_list args;
        char *text;
        int n;

        va_start(args, format);
        n = vasprintf(&text, format, args);
        va_end(args);
        put(pane, n < 0 ? NULL : text, key);
}

struct order {
        size_t column;
        bool falling;
};

static int compare_ids(const char *a, const char *b) {
        size_t x = strlen(a), y = strlen(b);
        bool numbers = a[strspn(a, "0123456789")] == '\0' && b[strspn(b, "0123456789")] == '\0';

        return numbers && x != y ? (x < y ? -1 : 1) : strcmp(a, b);
}

static int compare_cells(const struct pane_cell *a, const struct pane_cell *b) {
        if (isnan(a->key) || isnan(b->key))
                return strcmp(a->text, b->text);
        return a->key < b->key ? -1 : a->key > b->key;
}

static int compare_rows(const void *a, const void *b, void *context) {
        const struct pane_row *x = a, *y = b;
        const struct order *order = context;
        int r = compare_cells(&x->cells[order->column], &y->cells[order->column]);

        if (r == 0)
                return compare_ids(x->id, y->id);
        return order->falling ? -r : r;
}

void pane_sort(struct pane *pane, size_t column, bool falling) {
        struct order order = { column, falling };

        if (pane->n_rows > 1)
                qsort_r(pane->rows, pane->n_rows, sizeof(*pane->rows), compare_rows, &order);
}

size_t pane_find(const struct pane *pane, const char *id) {
        size_t i = 0;

        while (i < pane->n_rows && strcmp(pane->rows[i].id, id) != 0)
                i++;
        return i;
}
