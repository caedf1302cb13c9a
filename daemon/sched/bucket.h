/* SPDX-License-Identifier: MIT */
#pragma once

/* Token bucket of activations. It never reads the clock: callers pass `now`, in nanoseconds that do not run backwards,
 * so a test lives through a week in a microsecond. Rate and burst are the policy's and may be others at every call. */

#include <stdbool.h>
#include <stdint.h>

struct bucket {
        int64_t level;  /* activations left as of `stamp`; below 0: used before it was known how many */
        uint64_t stamp;
        bool begun;     /* else it is full */
        uint32_t share; /* see bucket_share() */
};

/* Thousandths, and what a share is rounded to: each change of a cap begins a new stretch of its sequence. */
enum { SHARE_FULL = 1000, SHARE_STEP = 50 };

/* What is in it at `now`. rate > 0; burst 0: one second's. */
int64_t bucket_level(struct bucket *bucket, uint64_t rate, uint64_t burst, uint64_t now);
/* Takes what was used; not below an empty bucket once over, so that a debt has an end. */
void bucket_take(struct bucket *bucket, uint64_t rate, uint64_t burst, uint64_t used);
/* How full it is, 0 to SHARE_FULL in steps of SHARE_STEP, without going back and forth between two. */
uint32_t bucket_share(struct bucket *bucket, uint64_t rate, uint64_t burst, uint64_t now);
/* When it will hold `wanted` activations, as far as it can hold so many. `now` if it does. */
uint64_t bucket_ready_at(struct bucket *bucket, uint64_t rate, uint64_t burst, uint64_t wanted, uint64_t now);

/* A value between 0 and SHARE_FULL as a multiple of SHARE_STEP: the one that holds, `current`, until it is off by most
 * of a step. */
uint32_t share_settle(uint32_t current, double value);
