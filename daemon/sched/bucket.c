/* SPDX-License-Identifier: MIT */
#include <math.h>

#include "base/util.h"
#include "bucket.h"

uint32_t share_settle(uint32_t current, double value) {
        value = MIN(MAX(value, 0.0), (double) SHARE_FULL);
        if (fabs(value - current) < 0.75 * SHARE_STEP && value > 0 && value < SHARE_FULL)
                return current;
        return (uint32_t) lrint(value / SHARE_STEP) * SHARE_STEP;
}

/* Rates up to 2^62 fit; nobody computes so fast. */
static int64_t bucket_size(uint64_t rate, uint64_t burst) {
        return (int64_t) MIN(burst ? burst : rate, UINT64_C(1) << 62);
}

int64_t bucket_level(struct bucket *bucket, uint64_t rate, uint64_t burst, uint64_t now) {
        int64_t size = bucket_size(rate, burst);
        unsigned __int128 earned;

        if (!bucket->begun) {
                *bucket = (struct bucket) { .level = size, .stamp = now, .begun = true, .share = SHARE_FULL };
                return size;
        }
        /* Whole activations only; the time that the next one has waited already stays. */
        earned = (unsigned __int128) rate * (now - bucket->stamp) / NSEC_PER_SEC;
        if (bucket->level >= size || earned >= (uint64_t) (size - bucket->level)) {
                bucket->level = size;
                bucket->stamp = now;
        } else {
                bucket->level += (int64_t) earned;
                bucket->stamp += (uint64_t) (earned * NSEC_PER_SEC / rate);
        }
        return bucket->level;
}

void bucket_take(struct bucket *bucket, uint64_t rate, uint64_t burst, uint64_t used) {
        int64_t size = bucket_size(rate, burst), least = bucket->level + size;

        /* level + size is what can be taken until the debt is a whole bucket's. */
        bucket->level -= MIN((int64_t) MIN(used, UINT64_C(1) << 62), MAX(least, INT64_C(0)));
}

uint32_t bucket_share(struct bucket *bucket, uint64_t rate, uint64_t burst, uint64_t now) {
        int64_t level = bucket_level(bucket, rate, burst, now), size = bucket_size(rate, burst);

        bucket->share = share_settle(bucket->share, SHARE_FULL * (double) level / (double) MAX(size, INT64_C(1)));
        return bucket->share;
}

uint64_t bucket_ready_at(struct bucket *bucket, uint64_t rate, uint64_t burst, uint64_t wanted, uint64_t now) {
        int64_t level = bucket_level(bucket, rate, burst, now);
        int64_t goal = MIN(bucket_size(rate, burst), (int64_t) MIN(wanted, UINT64_C(1) << 62));
        unsigned __int128 wait;

        if (level >= goal)
                return now;
        wait = ((unsigned __int128) (uint64_t) (goal - level) * NSEC_PER_SEC + rate - 1) / rate;
        return bucket->stamp + (uint64_t) MIN(wait, (unsigned __int128) (UINT64_MAX - bucket->stamp));
}
