/* SPDX-License-Identifier: MIT */
#pragma once

/* What `moectl doctor` finds. */

#include <stddef.h>

#include "base/cleanup.h"

struct cli;
struct json;
struct json_writer;

enum health {
        HEALTH_OK,
        HEALTH_NOTE, /* works, and could work better */
        HEALTH_BAD,  /* moed does not work like this */
};

struct finding {
        const char *name;
        enum health health;
        char value[128], remedy[256];
};

/* Fills in all but the name; the remedy only where one is needed. */
void find(struct finding *ret, enum health health, const char *remedy, const char *format, ...)
        _printf_(4, 5);

enum { FORECAST_FINDINGS = 5 };

/* What `moed --inspect` says of a file, or of a model that the daemon serves. 0 or an exit code, after a
 * complaint. */
int forecast_ask(const struct cli *cli, const char *model_or_file, struct json **ret);
/* Turns it into at most FORECAST_FINDINGS findings; returns how many. Their names live as long as the
 * program. */
size_t forecast_find(struct finding *ret, const struct json *inspection);
/* The figures of it, as pairs "model" and "forecast" of the object that is being written. */
void forecast_json(struct json_writer *w, const struct json *inspection);
