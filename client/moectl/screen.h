/* SPDX-License-Identifier: MIT */
#pragma once

/* The terminal of `moectl top`: draws a monitor, reads keys. */

#include <stdbool.h>
#include <stdint.h>

#include "monitor.h"

enum screen_wish {
        SCREEN_NOTHING,   /* the time is over, or the terminal has another size now */
        SCREEN_QUIT,
        SCREEN_REFRESH,
        SCREEN_SET,       /* `principal` and `text`: KEY=VALUE… */
        SCREEN_RESET,     /* `principal` */
        SCREEN_CANCEL,    /* `number` */
        SCREEN_INTERVAL,  /* `seconds` */
};

enum { SCREEN_TEXT_MAX = 120 };

/* What the person at the terminal wants. */
struct screen_event {
        enum screen_wish wish;
        char principal[256], text[SCREEN_TEXT_MAX];
        uint64_t number;
        double seconds;
};

struct screen;

/* Takes over the terminal on standard output. -ENOTTY: it cannot be drawn on; -ENOMEM. */
int screen_new(struct screen **ret);
/* Gives it back as it was. Takes NULL. */
void screen_free(struct screen *screen);
void screen_freep(struct screen **screen);

/* What is drawn from now on; must live until the next one. It gets sorted. */
void screen_show(struct screen *screen, struct monitor *monitor);
/* One line above the keys, until the next. */
void screen_say(struct screen *screen, const char *sentence);
/* Draws, and waits for what is typed, at most so long. */
void screen_wait(struct screen *screen, int msec, struct screen_event *ret);
