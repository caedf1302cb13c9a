/* SPDX-License-Identifier: MIT */
#pragma once

/* What `moectl top` shows, from what the daemon answered at two times. Asks nobody, draws nothing. */

#include "json.h"
#include "pane.h"

/* The answers of one time; NULL where there is none. */
struct monitor_sample {
        uint64_t at; /* nsec */
        struct json *stats, *models, *budget, *ps;
};

void monitor_sample_deinit(struct monitor_sample *sample);

enum { MONITOR_LINES = 4, MONITOR_LINE_MAX = 240 };

struct monitor {
        char lines[MONITOR_LINES][MONITOR_LINE_MAX]; /* of the whole: escaped */
        struct pane principals, requests;
};

/* Columns that are sorted by at first. */
enum { MONITOR_PRINCIPALS_SHARE = 7, MONITOR_REQUESTS_NUMBER = 0 };

/* Rates are those since `before`, which may be empty: then they are not known. */
void monitor_init(struct monitor *ret, const struct monitor_sample *before, const struct monitor_sample *now);
void monitor_deinit(struct monitor *monitor);
