/* SPDX-License-Identifier: MIT */
#include "base/util.h"
#include "bucket.h"
#include "latency.h"

/* From here to the target nothing is changed: wider than what one step of the share does to a pass. */
static const double RELAXED = 0.88;
/* What a late token takes at most; how long it takes to be given all back, in seconds. */
static const double LOWER_MOST = 0.3, RECOVERY = 5.0;

void latency_init(struct latency *latency) {
        *latency = (struct latency) { .wanted = SHARE_FULL, .share = SHARE_FULL };
}

static void latency_lower(struct latency *latency, double excess) {
        double step = MAX(MIN(excess, LOWER_MOST) * latency->wanted, (double) SHARE_STEP);

        latency->wanted = MAX(latency->wanted - step, 0.0);
}

static void latency_recover(struct latency *latency, uint64_t elapsed) {
        double step = SHARE_FULL * (double) elapsed / (RECOVERY * NSEC_PER_SEC);

        latency->wanted = MIN(latency->wanted + MIN(step, (double) SHARE_STEP), (double) SHARE_FULL);
}

void latency_update(struct latency *latency, uint64_t forecast, uint64_t target, uint64_t elapsed) {
        double late = target ? (double) forecast / (double) target : 0.0;

        if (late > 1.0)
                latency_lower(latency, 1.0 - 1.0 / late);
        else if (late < RELAXED)
                latency_recover(latency, elapsed);
        latency->share = share_settle(latency->share, latency->wanted);
}
