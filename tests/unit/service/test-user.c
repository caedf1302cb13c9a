/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "base/log.h"
#include "test.h"
#include "user.h"

static const struct user_limits limits = {
        .max = { [USER_CONNECTIONS] = 3, [USER_REQUESTS] = 2, [USER_ARENA] = 4096 },
};

TEST(the_limit_itself_passes_and_one_more_does_not) {
        struct user_charge a = USER_CHARGE_NULL, b = USER_CHARGE_NULL;
        struct reason reason = REASON_INIT;
        struct users users;
        struct user *user;

        log_set_level(LOG_ERR);
        users_init(&users, &limits);
        assert_se(users_get(&users, 1000, &user) == 0);
        assert_se(user_charge(user, &a, USER_ARENA, 4096, &reason) == 0);
        assert_se(user_charge(user, &b, USER_ARENA, 1, &reason) == USER_E_QUOTA);
        assert_se(strstr(reason.text, "user 1000 may have 4096") && strstr(reason.text, "asks for 1 more"));
        assert_se(strstr(reason.text, "ArenaMax="));
        assert_se(user_charge(user, &b, USER_ARENA, UINT64_MAX, &reason) == USER_E_QUOTA);
        user_charge_deinit(&a);
        assert_se(user_charge(user, &b, USER_ARENA, 4096, &reason) == 0);
        user_charge_deinit(&b);
        user_unref(user);
        assert_se(list_empty(&users.list));
}

TEST(charges_keep_their_user_and_undo_themselves) {
        struct user_charge charge = USER_CHARGE_NULL;
        struct users users;
        struct user *user, *again;

        users_init(&users, &limits);
        assert_se(users_get(&users, 7, &user) == 0);
        assert_se(user_charge(user, &charge, USER_REQUESTS, 2, NULL) == 0);
        user_unref(user);
        assert_se(users_get(&users, 7, &again) == 0 && again == user && again->used[USER_REQUESTS] == 2);
        user_unref(again);
        user_charge_deinit(&charge);
        user_charge_deinit(&charge);
        assert_se(list_empty(&users.list));
}

TEST(a_lowered_limit_refuses_what_is_new) {
        struct user_charge a = USER_CHARGE_NULL, b = USER_CHARGE_NULL;
        struct user_limits lower = limits;
        struct users users;
        struct user *user;

        log_set_level(LOG_ERR);
        users_init(&users, &limits);
        assert_se(users_get(&users, 7, &user) == 0);
        assert_se(user_charge(user, &a, USER_CONNECTIONS, 3, NULL) == 0);
        lower.max[USER_CONNECTIONS] = 1;
        users_set_limits(&users, &lower);
        assert_se(user_charge(user, &b, USER_CONNECTIONS, 1, NULL) == USER_E_QUOTA);
        user_charge_deinit(&a);
        assert_se(user_charge(user, &b, USER_CONNECTIONS, 1, NULL) == 0);
        user_charge_deinit(&b);
        user_unref(user);
}

TEST(users_do_not_share) {
        struct user_charge a = USER_CHARGE_NULL, b = USER_CHARGE_NULL;
        struct user *one, *two;
        struct users users;

        users_init(&users, &limits);
        assert_se(users_get(&users, 1, &one) == 0 && users_get(&users, 2, &two) == 0 && one != two);
        assert_se(user_charge(one, &a, USER_REQUESTS, 2, NULL) == 0);
        assert_se(user_charge(two, &b, USER_REQUESTS, 2, NULL) == 0);
        user_charge_deinit(&a);
        user_charge_deinit(&b);
        user_unref(one);
        user_unref(two);
        assert_se(list_empty(&users.list));
}
