/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "user.h"

static const struct {
        const char *name, *setting;
} user_slots[_USER_SLOTS] = {
        [USER_CONNECTIONS] = { "connections", "ConnectionsMax=" },
        [USER_REQUESTS] = { "running and waiting requests", "StreamsMax= or QueueMax=" },
        [USER_ARENA] = { "bytes of prompts in transit", "ArenaMax=" },
};

void users_init(struct users *users, const struct user_limits *limits) {
        list_init(&users->list);
        users->limits = *limits;
}

void users_set_limits(struct users *users, const struct user_limits *limits) {
        users->limits = *limits;
}

int users_get(struct users *users, uid_t uid, struct user **ret) {
        struct user *user;

        list_for_each(user, &users->list, link)
                if (user->uid == uid) {
                        *ret = user_ref(user);
                        return 0;
                }
        user = calloc(1, sizeof(*user));
        if (!user)
                return -ENOMEM;
        *user = (struct user) { .users = users, .n_ref = 1, .uid = uid };
        list_append(&users->list, &user->link);
        *ret = user;
        return 0;
}

struct user *user_ref(struct user *user) {
        user->n_ref++;
        return user;
}

struct user *user_unref(struct user *user) {
        if (!user || --user->n_ref > 0)
                return NULL;
        list_unlink(&user->link);
        free(user);
        return NULL;
}

int user_charge(struct user *user, struct user_charge *charge, enum user_slot slot, uint64_t amount,
                struct reason *reason) {
        uint64_t max = user->users->limits.max[slot];

        /* used + amount > max, spelled so that it cannot wrap; used may be above a limit that was lowered. */
        if (user->used[slot] > max || amount > max - user->used[slot]) {
                reason_set(reason,
                           "user %u may have %llu %s, has %llu and asks for %llu more; wait for some to end, or raise "
                           "%s in moed.conf",
                           (unsigned) user->uid, (unsigned long long) max, user_slots[slot].name,
                           (unsigned long long) user->used[slot], (unsigned long long) amount,
                           user_slots[slot].setting);
                if (!user->told)
                        log_warning("user %u reached a limit: %llu %s in use, %llu asked, at most %llu",
                                    (unsigned) user->uid, (unsigned long long) user->used[slot],
                                    user_slots[slot].name, (unsigned long long) amount, (unsigned long long) max);
                user->told = true;
                return USER_E_QUOTA;
        }
        user->used[slot] += amount;
        *charge = (struct user_charge) { .user = user_ref(user), .slot = slot, .amount = amount };
        return 0;
}

void user_charge_deinit(struct user_charge *charge) {
        if (!charge->user)
                return;
        charge->user->used[charge->slot] -= charge->amount;
        user_unref(charge->user);
        *charge = (struct user_charge) USER_CHARGE_NULL;
}
