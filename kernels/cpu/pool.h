/* SPDX-License-Identifier: MIT */
#pragma once

/* Worker threads that share one loop. The caller is one of them; the others spin for some microseconds after
 * a loop, as the next one usually follows at once, and then sleep on a futex.
 *
 * Work is handed out in pieces to whoever asks for one. So the caller waits for pieces that are being
 * computed, never for a worker that still sleeps or was kept off its core: beside a busy neighbour a loop
 * costs what the cores present can do. */

#include <stdint.h>

struct pool;

/* Computes the items [begin, end). `worker` is below pool_threads(): the index of scratch that no other
 * thread uses. */
typedef void pool_fn(void *arg, uint64_t begin, uint64_t end, unsigned worker);

/* A pool of `threads` ≥ 1 threads, the caller included. -ENOMEM, -EAGAIN: they could not be started. */
int pool_new(struct pool **ret, unsigned threads);
void pool_free(struct pool *p);
unsigned pool_threads(const struct pool *p);

struct pool_phase {
        uint64_t n, grain;
        pool_fn *fn;
        void *arg;
};

/* Loops one after the other, as by pool_run(): each begins when every item of the one before is done, and sees all that
 * was written in it. Cheaper than as many calls: whoever ends a loop begins the next one, so that nothing has to come
 * back to the caller in between. A loop of at most one piece runs on the thread that gets there, which need not be
 * the caller's. The list stays the caller's; a loop may change those behind it. */
void pool_run_phases(struct pool *p, const struct pool_phase *phases, unsigned n);

/* Hands out [0, n) in pieces of `grain` to all threads and returns when every item is done; all that they
 * wrote is visible to the caller then. A loop of at most one piece runs on the caller alone. One loop at a
 * time. */
void pool_run(struct pool *p, uint64_t n, uint64_t grain, pool_fn *fn, void *arg);
