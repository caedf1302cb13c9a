/* SPDX-License-Identifier: MIT */
#pragma once

/* What the daemon counts about itself; `moectl stats` shows it. All since start. */

#include <stdint.h>

struct metrics {
        uint64_t iterations;       /* forward passes */
        uint64_t rows;             /* rows of them; rows / iterations is the mean batch */
        uint64_t rows_max;         /* of one iteration */
        uint64_t busy_nsec;        /* time in them, with what comes before and after each and between its layers */
        uint64_t step_nsec;        /* time in the forward passes alone */
        uint64_t tokens_prompt;    /* rows that were prompt */
        uint64_t tokens_generated; /* tokens sent */
        uint64_t tokens_cached;    /* rows that came from the prefix cache instead */
        uint64_t tokens_recomputed; /* rows computed once more after their pages had been taken */
        uint64_t activations;
        uint64_t requests, requests_done, requests_cancelled, requests_refused, requests_failed;
        uint64_t evictions;        /* streams whose pages were taken for another */
        uint64_t prefix_hits;      /* requests that began with pages of the prefix cache */
        uint64_t prefix_evictions; /* pages that it gave back for others */
        uint64_t stalls;           /* times that a stream stopped because its client did not read */
        uint64_t wakeups;          /* clients woken by a system call */
        uint64_t sleeps;           /* of the daemon */
        uint64_t connections, connections_refused, connections_dropped;
        uint64_t echoes;
};

static inline void metrics_count_pass(struct metrics *metrics, uint64_t rows) {
        metrics->iterations++;
        metrics->rows += rows;
        if (rows > metrics->rows_max)
                metrics->rows_max = rows;
}
