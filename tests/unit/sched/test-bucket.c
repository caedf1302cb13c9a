/* SPDX-License-Identifier: MIT */
#include "base/util.h"
#include "bucket.h"
#include "latency.h"
#include "test.h"

TEST(a_bucket_refills_to_its_burst_and_no_further) {
        struct bucket b = { 0 };

        assert_se(bucket_level(&b, 100, 50, 7) == 50);
        bucket_take(&b, 100, 50, 50);
        assert_se(bucket_level(&b, 100, 50, 7) == 0);
        assert_se(bucket_level(&b, 100, 50, 7 + NSEC_PER_SEC / 4) == 25);
        assert_se(bucket_level(&b, 100, 50, 7 + NSEC_PER_SEC * 3600) == 50);
}

TEST(no_part_of_an_activation_is_lost_however_often_one_looks) {
        struct bucket b = { 0 };
        uint64_t now = 0;

        bucket_level(&b, 3, 1000, now);
        bucket_take(&b, 3, 1000, 1000);
        for (int i = 0; i < 1000 * 1000; i++)
                bucket_level(&b, 3, 1000, now += 100 * 1000 + 7); /* 100.007 s */
        assert_se(b.level == 300);
}

TEST(over_an_hour_no_more_is_used_than_rate_and_burst_allow) {
        struct bucket b = { 0 };
        uint64_t used = 0, now = 0, rate = 12345, burst = 40000;

        while (now < 3600 * NSEC_PER_SEC) {
                now = bucket_ready_at(&b, rate, burst, 700, now);
                assert_se(bucket_level(&b, rate, burst, now) >= 700);
                bucket_take(&b, rate, burst, 700);
                used += 700;
        }
        assert_se(used <= rate * 3601 + burst && used >= rate * 3600);
}

TEST(a_debt_is_never_more_than_a_bucket) {
        struct bucket b = { 0 };

        bucket_level(&b, 10, 100, 0);
        bucket_take(&b, 10, 100, UINT64_MAX);
        assert_se(b.level == -100);
        bucket_take(&b, 10, 100, 5);
        assert_se(b.level == -100);
        assert_se(bucket_ready_at(&b, 10, 100, 1, 0) == NSEC_PER_SEC * 101 / 10);
}

TEST(what_a_bucket_cannot_hold_is_given_when_it_is_full) {
        struct bucket b = { 0 };

        bucket_level(&b, 10, 100, 0);
        bucket_take(&b, 10, 100, 100);
        assert_se(bucket_ready_at(&b, 10, 100, 5000, 0) == NSEC_PER_SEC * 10);
}

TEST(the_largest_rates_do_not_wrap) {
        struct bucket b = { 0 };

        assert_se(bucket_level(&b, UINT64_MAX, UINT64_MAX, 1) == INT64_C(1) << 62);
        bucket_take(&b, UINT64_MAX, UINT64_MAX, UINT64_MAX);
        assert_se(bucket_level(&b, UINT64_MAX, UINT64_MAX, UINT64_MAX) == INT64_C(1) << 62);
        assert_se(bucket_share(&b, 1, UINT64_MAX, UINT64_MAX) <= SHARE_FULL);
}

TEST(the_share_sinks_smoothly_as_a_bucket_drains_and_changes_seldom) {
        struct bucket b = { 0 };
        uint32_t last = SHARE_FULL, changes = 0;

        for (int i = 0; i <= 1000; i++) {
                uint32_t share = bucket_share(&b, 1, 1000, 1);

                assert_se(share <= last && last - share <= SHARE_STEP && share % SHARE_STEP == 0);
                changes += share != last;
                last = share;
                bucket_take(&b, 1, 1000, 1);
        }
        assert_se(last == 0 && changes == SHARE_FULL / SHARE_STEP);
}

TEST(a_share_does_not_go_back_and_forth_between_two_steps) {
        uint32_t share = SHARE_FULL, changes = 0;

        for (int i = 0; i < 10000; i++) {
                uint32_t next = share_settle(share, 525.0 + (i % 2 ? 12.0 : -12.0));

                changes += next != share;
                share = next;
        }
        assert_se(changes == 1 && share >= 500 && share <= 550);
}

/* A pass that takes longer the more experts the principal uses, beside what others do. */
static uint64_t plant(const struct latency *latency, double others) {
        return (uint64_t) (NSEC_PER_MSEC * (others + 20.0 + 60.0 * latency->share / SHARE_FULL));
}

TEST(late_tokens_lower_the_experts_at_once_and_they_come_back_smoothly) {
        struct latency latency;
        uint64_t target = 70 * NSEC_PER_MSEC, passes = 0, changes = 0;
        uint32_t last;

        latency_init(&latency);
        while (plant(&latency, 10.0) > target) {
                latency_update(&latency, plant(&latency, 10.0), target, plant(&latency, 10.0));
                assert_se(++passes < 10);
        }
        assert_se(latency.share > 400);
        /* It stays there. */
        last = latency.share;
        for (int i = 0; i < 10000; i++) {
                latency_update(&latency, plant(&latency, 10.0), target, plant(&latency, 10.0));
                changes += latency.share != last;
                last = latency.share;
        }
        assert_se(changes == 0);
        /* The others go: some steps up, each small, none down. */
        for (int i = 0; i < 1000; i++) {
                latency_update(&latency, plant(&latency, -30.0), target, plant(&latency, -30.0));
                assert_se(latency.share >= last && latency.share - last <= SHARE_STEP);
                last = latency.share;
        }
        assert_se(latency.share == SHARE_FULL);
}

TEST(a_target_that_cannot_be_met_leaves_the_least_and_none_gives_all_back) {
        struct latency latency;

        latency_init(&latency);
        for (int i = 0; i < 100; i++)
                latency_update(&latency, NSEC_PER_SEC, NSEC_PER_MSEC, NSEC_PER_MSEC);
        assert_se(latency.share == 0);
        for (int i = 0; i < 100; i++)
                latency_update(&latency, NSEC_PER_SEC, 0, NSEC_PER_SEC);
        assert_se(latency.share == SHARE_FULL);
}
