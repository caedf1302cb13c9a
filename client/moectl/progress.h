/* SPDX-License-Identifier: MIT */
#pragma once

/* A bar on stderr while a long prompt is read; nothing when stderr is not a terminal. */

#include <stdbool.h>
#include <stdint.h>

struct progress {
        uint32_t total; /* prompt tokens; 0: not started */
        uint64_t start; /* nsec */
        bool shown;
};
#define PROGRESS_INIT { .total = 0 }

void progress_start(struct progress *progress, uint32_t total);
/* `done` of the total; shown once it has lasted long enough for a person to wonder. */
void progress_show(struct progress *progress, uint32_t done);
/* Wipes the line. */
void progress_clear(struct progress *progress);
