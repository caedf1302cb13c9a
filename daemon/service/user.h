/* SPDX-License-Identifier: MIT */
#pragma once

/* What one uid may hold of the daemon, and what it holds. A charge is an object that undoes itself, so that nothing
 * stays charged to a user whose connection died halfway through anything. One thread. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"
#include "base/reason.h"

enum user_slot {
        USER_CONNECTIONS,
        USER_REQUESTS, /* generations that run or wait */
        USER_ARENA,    /* bytes of shared memory for prompts in transit, and of long prompts that are tokenised */
        _USER_SLOTS,
};

enum {
        _USER_E_SUCCESS,
        USER_E_QUOTA, /* a limit of this user would be passed; the reason says which, its value, and what was asked */
};

struct user_limits {
        uint64_t max[_USER_SLOTS];
};

/* All users that hold something; embedded in the server. */
struct users {
        struct list list;
        struct user_limits limits;
};

struct user {
        struct users *users;
        struct list link;
        unsigned n_ref;
        uid_t uid;
        uint64_t used[_USER_SLOTS];
        uint32_t n_running; /* of the requests, those that hold KV pages */
        uint32_t n_played; /* scratch of estimate.c */
        bool told; /* that it met a limit: logged once until it holds nothing any more */
};

struct user_charge {
        struct user *user;
        enum user_slot slot;
        uint64_t amount;
};
#define USER_CHARGE_NULL { .user = NULL }

void users_init(struct users *users, const struct user_limits *limits);
/* Changed limits apply to what is charged from then on. */
void users_set_limits(struct users *users, const struct user_limits *limits);
/* The user of this uid, with a reference for the caller. -ENOMEM. */
int users_get(struct users *users, uid_t uid, struct user **ret);

struct user *user_ref(struct user *user);
/* Frees the user with its last reference; charges hold references. Takes NULL, returns NULL. */
struct user *user_unref(struct user *user);

/* 0 or USER_E_QUOTA. `charge` must be USER_CHARGE_NULL. */
int user_charge(struct user *user, struct user_charge *charge, enum user_slot slot, uint64_t amount,
                struct reason *reason);
void user_charge_deinit(struct user_charge *charge);
