/* SPDX-License-Identifier: MIT */
#pragma once

/* Worker threads that share one loop. The caller is one of them; the others spin for some microseconds after
 * a loop, as the next one usually follows at once, and then sleep on a futex.
 *
 * A loop is open while its items are being handed out. A worker takes part only while it is counted in
 * `active`, and the caller waits for those that are, never for one that still sleeps or was kept off its
 * core: beside a busy neighbour a loop costs what the cores present can do. */

#include <stdint.h>

struct pool;

/* Computes the items [begin, end). `worker` is below pool_threads(): the index of scratch that no other
 * thread uses. */
typedef void pool_fn(void *arg, uint64_t begin, uint64_t end, unsigned worker);

/* A pool of `threads` ≥ 1 threads, the caller included. -ENOMEM, -EAGAIN: they could not be started. */
int pool_new(struct pool **ret, unsigned threads);
void pool_free(struct pool *p);
unsigned pool_threads(const struct pool *p);

/* Hands out [0, n) in pieces of `grain` to all threads and returns when every item is done; all that they
 * wrote is visible to the caller then. A loop of at most one piece runs on the caller alone. One loop at a
 * time. */
void pool_run(struct pool *p, uint64_t n, uint64_t grain, pool_fn *fn, void *arg);
