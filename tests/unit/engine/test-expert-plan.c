/* SPDX-License-Identifier: MIT */
#include "expert-plan.h"

#include "base/util.h"
#include "test.h"

/* Of three layers and two experts: the first layer's share comes first, then the last's; the order of the middle of the
 * plan is the other one, as of layers whose error falls in steps. */
static uint16_t shares[][3] = {
        { 8, 8, 8 },   { 11, 8, 8 },   { 14, 8, 8 },   { 16, 8, 9 },    { 8, 12, 16 },
        { 8, 15, 16 }, { 12, 14, 16 }, { 15, 14, 16 }, { 16, 16, 16 },
};
static const struct expert_plan plan = { .layers = 3, .experts_used = 2, .shares = &shares[0][0] };

TEST(without_a_plan_every_layer_gets_the_mean) {
        static const struct expert_plan none = EXPERT_PLAN_NULL;

        for (uint32_t layer = 0; layer < 3; layer++) {
                assert_se(expert_plan_milli(NULL, 0, layer) == 0 && expert_plan_milli(NULL, 1501, layer) == 1501);
                assert_se(expert_plan_milli(&none, 1501, layer) == 1501);
        }
}

TEST(shares_sum_to_the_budget_exactly) {
        assert_se(ELEMENTS(shares) == expert_plan_lines(2));
        for (uint32_t cap = 0; cap <= 2000; cap++) {
                uint32_t sum = 0;

                for (uint32_t layer = 0; layer < 3; layer++)
                        sum += expert_plan_milli(&plan, cap, layer);
                assert_se(sum == 3 * cap);
        }
}

TEST(no_layer_gets_less_than_one_expert_of_a_budget_that_has_them_nor_more_than_there_are) {
        for (uint32_t cap = 0; cap <= 2000; cap++)
                for (uint32_t layer = 0; layer < 3; layer++) {
                        uint32_t share = expert_plan_milli(&plan, cap, layer);

                        assert_se(share >= MIN(cap, 1000u) && share <= 2000);
                }
}

TEST(lines_of_the_plan_are_what_it_says_and_between_them_it_is_mixed) {
        assert_se(expert_plan_milli(&plan, 1375, 0) == 2000 && expert_plan_milli(&plan, 1375, 1) == 1000);
        assert_se(expert_plan_milli(&plan, 1500, 0) == 1000 && expert_plan_milli(&plan, 1500, 2) == 2000);
        assert_se(expert_plan_milli(&plan, 1376, 0) == 1992 && expert_plan_milli(&plan, 1376, 2) == 1125 + 7);
}

TEST(a_budget_beyond_the_model_is_the_models) {
        for (uint32_t layer = 0; layer < 3; layer++) {
                assert_se(expert_plan_milli(&plan, 2001, layer) == 2000);
                assert_se(expert_plan_milli(&plan, UINT32_MAX, layer) == 2000);
        }
}

TEST(a_floor_holds_in_every_layer_and_the_sum_is_never_passed) {
        int32_t dealt[2 * 3];

        for (uint32_t cap = 0; cap <= 2000; cap++)
                for (uint32_t floor = 0; floor <= 2000; floor += 250) {
                        uint32_t sum = 0;

                        expert_plan_deal(&plan, cap, floor, 3, dealt, 2);
                        for (uint32_t layer = 0; layer < 3; layer++) {
                                assert_se(dealt[2 * layer] >= (int32_t) MIN(cap, floor) && dealt[2 * layer] <= 2000);
                                sum += (uint32_t) dealt[2 * layer];
                        }
                        assert_se(sum <= 3 * cap && sum + 3 > 3 * cap);
                }
}

TEST(without_need_a_floor_changes_nothing) {
        int32_t dealt[3];

        expert_plan_deal(&plan, 1375, 1000, 3, dealt, 1);
        assert_se(dealt[0] == 2000 && dealt[1] == 1000 && dealt[2] == 1125);
}
