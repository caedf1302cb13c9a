/* SPDX-License-Identifier: MIT */
#include "progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"

enum { BAR_WIDTH = 30, WONDER_MSEC = 150 };

void progress_start(struct progress *progress, uint32_t total) {
        const char *term = getenv("TERM");

        if (!isatty(STDERR_FILENO) || !term || strcmp(term, "dumb") == 0)
                return;
        *progress = (struct progress) { .total = total, .start = now_nsec() };
}

void progress_show(struct progress *progress, uint32_t done) {
        char bar[BAR_WIDTH + 1];
        int filled;

        if (progress->total == 0 || now_nsec() - progress->start < WONDER_MSEC * NSEC_PER_MSEC)
                return;
        done = MIN(done, progress->total);
        filled = (int) ((uint64_t) done * BAR_WIDTH / progress->total);
        memset(bar, '.', BAR_WIDTH);
        memset(bar, '#', (size_t) filled);
        bar[BAR_WIDTH] = 0;
        fprintf(stderr, "\rprompt [%s] %u/%u tokens\033[K", bar, done, progress->total);
        fflush(stderr);
        progress->shown = true;
}

void progress_clear(struct progress *progress) {
        if (progress->shown)
                fputs("\r\033[K", stderr);
        progress->shown = false;
}
