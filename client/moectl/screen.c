/* SPDX-License-Identifier: MIT */
#define NCURSES_WIDECHAR 1

#include "screen.h"

#include <curses.h>
#include <errno.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include "args.h"
#include "base/util.h"
#include "escape.h"
#include "terminal.h"

enum {
        GAP = 2,
        KEY_CTRL_C = 3,
        KEY_CTRL_Z = 26,
        KEY_ESCAPE = 27,
        LINE_WIDTH_MAX = 512,
};

enum which {
        PRINCIPALS,
        REQUESTS,
        _WHICH_N,
};

/* Where somebody is in one of the panes. */
struct place {
        size_t column; /* that it is sorted by */
        bool falling;
        char *id;      /* of the selected row; NULL: the first */
        size_t row;    /* where it was last */
        size_t top;    /* the first row that is seen */
};

struct screen {
        SCREEN *terminal;
        struct monitor *monitor;
        struct place places[_WHICH_N];
        enum which focus;
        bool help;
        char message[MONITOR_LINE_MAX];
};

int screen_new(struct screen **ret) {
        struct screen *s;

        if (!isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO) || !terminal_can_draw())
                return -ENOTTY;
        s = calloc(1, sizeof(*s));
        if (!s)
                return -ENOMEM;
        setlocale(LC_CTYPE, "");
        s->terminal = newterm(NULL, stdout, stdin);
        if (!s->terminal) {
                screen_free(s);
                return -ENOTTY;
        }
        raw(); /* Ctrl-C is a key: it may not come between two halves of an escape sequence */
        noecho();
        nonl();
        keypad(stdscr, TRUE);
        set_escdelay(50);
        curs_set(0);
        s->places[PRINCIPALS] = (struct place) { .column = MONITOR_PRINCIPALS_SHARE, .falling = true };
        s->places[REQUESTS] = (struct place) { .column = MONITOR_REQUESTS_NUMBER };
        *ret = s;
        return 0;
}

void screen_free(struct screen *s) {
        if (!s)
                return;
        if (s->terminal) {
                endwin();
                delscreen(s->terminal);
        }
        for (enum which w = 0; w < _WHICH_N; w++)
                free(s->places[w].id);
        free(s);
}

void screen_freep(struct screen **s) {
        screen_free(*s);
}

static struct pane *pane_of(const struct screen *s, enum which which) {
        return which == PRINCIPALS ? &s->monitor->principals : &s->monitor->requests;
}

static struct pane *focused(const struct screen *s) {
        return pane_of(s, s->focus);
}

/* Puts the selection on its row, or, when that has gone, on what is now where it was. */
static void place_find(struct place *p, const struct pane *pane) {
        size_t row = p->id ? pane_find(pane, p->id) : 0;

        p->row = row < pane->n_rows ? row : MIN(p->row, pane->n_rows ? pane->n_rows - 1 : 0);
}

static void place_select(struct place *p, const struct pane *pane, size_t row) {
        free(p->id);
        p->row = MIN(row, pane->n_rows ? pane->n_rows - 1 : 0);
        p->id = p->row < pane->n_rows ? strdup(pane->rows[p->row].id) : NULL;
}

static void sort(struct screen *s) {
        for (enum which w = 0; w < _WHICH_N; w++) {
                pane_sort(pane_of(s, w), s->places[w].column, s->places[w].falling);
                place_find(&s->places[w], pane_of(s, w));
        }
}

void screen_show(struct screen *s, struct monitor *monitor) {
        s->monitor = monitor;
        sort(s);
}

void screen_say(struct screen *s, const char *sentence) {
        _cleanup_(freep) char *escaped = escape(sentence);

        snprintf(s->message, sizeof(s->message), "%s", escaped ? escaped : "");
}

/* The text as the terminal's characters, cut to `width` columns. Returns how many columns it takes. What the locale
 * cannot say is a question mark. */
static int to_wide(const char *text, int width, wchar_t ret[static LINE_WIDTH_MAX]) {
        mbstate_t state = { 0 };
        size_t n = 0;
        int used = 0;

        while (*text && n < LINE_WIDTH_MAX - 1) {
                wchar_t c;
                size_t bytes = mbrtowc(&c, text, strlen(text), &state);
                int columns = bytes == 0 || bytes > strlen(text) ? -1 : wcwidth(c);

                if (columns < 0) {
                        c = L'?';
                        columns = 1;
                        bytes = bytes == 0 || bytes > strlen(text) ? 1 : bytes;
                        state = (mbstate_t) { 0 };
                }
                if (used + columns > width)
                        break;
                ret[n++] = c;
                used += columns;
                text += bytes;
        }
        ret[n] = L'\0';
        return used;
}

static int text_width(const char *text) {
        wchar_t wide[LINE_WIDTH_MAX];

        return to_wide(text, LINE_WIDTH_MAX, wide);
}

/* At a place, within so many columns, to one side of them. */
static void put(int y, int x, int width, bool right, const char *text) {
        wchar_t wide[LINE_WIDTH_MAX];
        int used;

        width = MIN(width, COLS - x);
        if (width <= 0 || y < 0 || y >= LINES)
                return;
        used = to_wide(text, width, wide);
        mvaddwstr(y, x + (right ? width - used : 0), wide);
}

/* A line from border to border. */
static void put_line(int y, attr_t attributes, const char *text) {
        attron(attributes);
        mvhline(y, 0, ' ' | attributes, COLS);
        put(y, 0, COLS, false, text);
        attroff(attributes);
}

static int column_width(const struct pane *pane, size_t column, bool sorted) {
        int width = text_width(pane->columns[column].title) + sorted;

        for (size_t i = 0; i < pane->n_rows; i++)
                width = MAX(width, text_width(pane->rows[i].cells[column].text));
        return width;
}

/* Of a row, or the titles where `row` is NULL. */
static void put_cells(int y, const struct pane *pane, const int *widths, const struct pane_row *row,
                      const struct place *p) {
        int x = 0;

        for (size_t c = 0; c < pane->n_columns; c++) {
                char title[32];

                if (row) {
                        put(y, x, widths[c], pane->columns[c].right, row->cells[c].text);
                } else {
                        snprintf(title, sizeof(title), "%s%s", pane->columns[c].title,
                                 c != p->column ? "" : p->falling ? "-" : "+");
                        put(y, x, widths[c], pane->columns[c].right, title);
                }
                x += widths[c] + GAP;
        }
}

/* The titles and as many rows as there is room for, the selected one among them. */
static void draw_pane(struct screen *s, enum which which, int y, int height) {
        const struct pane *pane = pane_of(s, which);
        struct place *p = &s->places[which];
        int widths[PANE_COLUMNS_MAX];
        size_t shown = (size_t) MAX(height - 1, 0);

        if (height < 1)
                return;
        for (size_t c = 0; c < pane->n_columns; c++)
                widths[c] = column_width(pane, c, c == p->column);
        p->top = MIN(p->top, p->row);
        if (p->row >= p->top + shown && shown > 0)
                p->top = p->row - shown + 1;
        put_line(y, A_REVERSE, "");
        attron(A_REVERSE);
        put_cells(y, pane, widths, NULL, p);
        attroff(A_REVERSE);
        for (size_t i = 0; i < shown && p->top + i < pane->n_rows; i++) {
                attr_t attributes = s->focus == which && p->top + i == p->row ? A_BOLD | A_UNDERLINE : A_NORMAL;
                int at = y + 1 + (int) i;

                put_line(at, attributes, "");
                attron(attributes);
                put_cells(at, pane, widths, &pane->rows[p->top + i], p);
                attroff(attributes);
        }
        if (pane->n_rows == 0 && shown > 0)
                put(y + 1, 0, COLS, false, which == PRINCIPALS ? "nobody is connected" : "nothing is asked");
}

static void draw_help(void) {
        static const char *const texts[] = {
                "Tab             the other table",
                "Up Down j k     select; also PgUp, PgDn, Home, End",
                "< >             sort by the column to the left, to the right",
                "r               the other way around",
                "c               cap: change the budget of the selected principal, or of the selected request's",
                "u               undo what `budget set` did to it",
                "x               cancel the selected request",
                "d               seconds between two looks",
                "Space           look now",
                "q               leave",
                "",
                "EXPERTS is the mean per token and layer, SHARE what a principal got of all that was computed, since",
                "the last look. Only root and members of moed-admin may change budgets and cancel what is not their",
                "own. See moectl(1).",
        };

        for (size_t i = 0; i < ELEMENTS(texts); i++)
                put((int) i + 1, 2, COLS - 2, false, texts[i]);
}

static void draw(struct screen *s) {
        int room, wanted;

        erase();
        if (s->help) {
                draw_help();
                put_line(LINES - 1, A_REVERSE, " any key: back");
                refresh();
                return;
        }
        for (int i = 0; i < MONITOR_LINES; i++)
                put(i, 0, COLS, false, s->monitor->lines[i]);
        /* Principals have what they need, at most half of it. */
        room = MAX(LINES - MONITOR_LINES - 2, 0);
        wanted = 1 + (int) MIN(MAX(s->monitor->principals.n_rows, (size_t) 1), (size_t) room);
        wanted = MIN(wanted, room / 2);
        draw_pane(s, PRINCIPALS, MONITOR_LINES, wanted);
        draw_pane(s, REQUESTS, MONITOR_LINES + wanted, room - wanted);
        put(LINES - 2, 0, COLS, false, s->message);
        put_line(LINES - 1, A_REVERSE, " Tab table  < > r sort  c cap  u undo  x cancel  d delay  h help  q quit");
        refresh();
}

/* Lets a line be typed below `title`; false: it was given up. */
static bool ask(struct screen *s, const char *title, const char *begin, char *ret, size_t size) {
        size_t n = (size_t) snprintf(ret, size, "%s", begin);
        bool done = false, kept = false;

        curs_set(1);
        timeout(-1);
        while (!done) {
                int c;

                draw(s);
                put_line(LINES - 2, A_NORMAL, title);
                put_line(LINES - 1, A_NORMAL, ret);
                move(LINES - 1, MIN((int) n, COLS - 1));
                c = getch();
                if (c == KEY_ESCAPE || c == KEY_CTRL_C || c == ERR)
                        done = true;
                else if (c == '\r' || c == '\n' || c == KEY_ENTER)
                        done = kept = true;
                else if ((c == KEY_BACKSPACE || c == 127 || c == '\b') && n > 0)
                        ret[--n] = '\0';
                else if (c >= ' ' && c < 127 && n + 1 < size) {
                        ret[n++] = (char) c;
                        ret[n] = '\0';
                }
        }
        curs_set(0);
        return kept && n > 0;
}

/* One key, y for yes. */
static bool confirm(struct screen *s, const char *question) {
        draw(s);
        put_line(LINES - 2, A_BOLD, question);
        timeout(-1);
        return getch() == 'y';
}

static const struct pane_row *selected(const struct screen *s) {
        const struct pane *pane = focused(s);
        size_t row = s->places[s->focus].row;

        return row < pane->n_rows ? &pane->rows[row] : NULL;
}

static void wish_set(struct screen *s, struct screen_event *ret) {
        const struct pane_row *row = selected(s);
        char title[sizeof(ret->principal) + 80];

        if (!row)
                return screen_say(s, "Nobody is selected.");
        snprintf(ret->principal, sizeof(ret->principal), "%s", row->principal);
        snprintf(title, sizeof(title), "Budget of %s: KEY=VALUE..., keys of moed.conf(5). Esc gives up.",
                 row->principal);
        screen_say(s, title);
        snprintf(title, sizeof(title), "%s", s->message);
        s->message[0] = '\0';
        if (ask(s, title, "ExpertsMax=", ret->text, sizeof(ret->text)))
                ret->wish = SCREEN_SET;
}

static void wish_reset(struct screen *s, struct screen_event *ret) {
        const struct pane_row *row = selected(s);

        if (!row)
                return screen_say(s, "Nobody is selected.");
        snprintf(ret->principal, sizeof(ret->principal), "%s", row->principal);
        ret->wish = SCREEN_RESET;
}

static void wish_cancel(struct screen *s, struct screen_event *ret) {
        const struct pane_row *row = s->focus == REQUESTS ? selected(s) : NULL;
        char question[80];

        if (!row)
                return screen_say(s, "No request is selected: Tab leads to them.");
        if (args_u64(row->id, UINT64_MAX, &ret->number))
                return;
        snprintf(question, sizeof(question), "Cancel request %s? y or n", row->id);
        if (confirm(s, question))
                ret->wish = SCREEN_CANCEL;
}

static void wish_interval(struct screen *s, struct screen_event *ret) {
        char text[16];

        if (!ask(s, "Seconds between two looks, 0.1 to 3600:", "", text, sizeof(text)))
                return;
        if (args_number(text, 0.1, 3600, &ret->seconds))
                return screen_say(s, "That is no number from 0.1 to 3600.");
        ret->wish = SCREEN_INTERVAL;
}

static void change_column(struct screen *s, int by) {
        struct place *p = &s->places[s->focus];
        size_t n = focused(s)->n_columns;

        p->column = (p->column + n + (size_t) by) % n;
        sort(s);
}

static void step(struct screen *s, long by) {
        struct place *p = &s->places[s->focus];
        long row = (long) p->row + by;

        place_select(p, focused(s), row < 0 ? 0 : (size_t) row);
}

static void key(struct screen *s, int c, struct screen_event *ret) {
        switch (c) {
        case 'q':
        case 'Q':
        case KEY_CTRL_C:
                ret->wish = SCREEN_QUIT;
                break;
        case KEY_CTRL_Z:
                raise(SIGTSTP);
                break;
        case ' ':
                ret->wish = SCREEN_REFRESH;
                break;
        case '\t':
                s->focus = s->focus == PRINCIPALS ? REQUESTS : PRINCIPALS;
                break;
        case KEY_UP:
        case 'k':
                step(s, -1);
                break;
        case KEY_DOWN:
        case 'j':
                step(s, 1);
                break;
        case KEY_PPAGE:
                step(s, -LINES / 2);
                break;
        case KEY_NPAGE:
                step(s, LINES / 2);
                break;
        case KEY_HOME:
                step(s, -(long) focused(s)->n_rows);
                break;
        case KEY_END:
                step(s, (long) focused(s)->n_rows);
                break;
        case '<':
                change_column(s, -1);
                break;
        case '>':
                change_column(s, 1);
                break;
        case 'r':
                s->places[s->focus].falling = !s->places[s->focus].falling;
                sort(s);
                break;
        case 'c':
                wish_set(s, ret);
                break;
        case 'u':
                wish_reset(s, ret);
                break;
        case 'x':
                wish_cancel(s, ret);
                break;
        case 'd':
                wish_interval(s, ret);
                break;
        case 'h':
        case '?':
                s->help = true;
                break;
        }
}

/* A terminal that was hung up can be read without end. */
static bool is_gone(void) {
        struct pollfd p = { .fd = STDIN_FILENO, .events = POLLIN };

        return poll(&p, 1, 0) > 0 && p.revents & (POLLHUP | POLLERR | POLLNVAL);
}

void screen_wait(struct screen *s, int msec, struct screen_event *ret) {
        int c;

        *ret = (struct screen_event) { .wish = SCREEN_NOTHING };
        draw(s);
        timeout(msec);
        c = getch();
        if (c == ERR && is_gone())
                ret->wish = SCREEN_QUIT;
        if (c == ERR || c == KEY_RESIZE)
                return;
        s->message[0] = '\0';
        if (s->help)
                s->help = false;
        else
                key(s, c, ret);
}
