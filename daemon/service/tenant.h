/* SPDX-License-Identifier: MIT */
#pragma once

/* The accounting identities in use: each wraps one principal of the scheduler, a unit or a uid, with the policy that
 * holds for it. Its totals last as long as somebody refers to it, and a while longer (TENANTS_IDLE_MAX), so that
 * reconnecting does not reset them. One thread. */

#include "base/list.h"
#include "policy.h"

enum { TENANTS_IDLE_MAX = 1024 };

struct tenants {
        struct list list;
        unsigned n_idle; /* without a reference */
};

struct tenant {
        struct tenants *tenants;
        struct list link;
        unsigned n_ref;
        struct policy_principal who;
        char name[POLICY_NAME_MAX];
        struct principal principal;
        uint64_t row_layers; /* rows computed for it, times the layers with experts that each went through */
        struct list peers; /* that are booked on it */
        uint32_t n_connections;
        uint32_t n_streams; /* waiting ones included */
        uint32_t pages, pages_idle; /* scratch of pages.c */
        double answer_share[2]; /* of what its requests may generate, how much they do; 0: not known. Of those without a
                                 * limit of their own, and of those with one */
        uint64_t tokens_cached; /* rows of its streams that came from the prefix cache */
        uint64_t kv_bytes, kv_idle; /* scratch of quota.c */
};

void tenants_init(struct tenants *tenants);
/* Frees all; nobody may hold a reference. */
void tenants_deinit(struct tenants *tenants);
/* The tenant that this match is booked on, with a reference for the caller. A new one has the match's policy.
 * -ENOMEM. */
int tenants_get(struct tenants *tenants, const struct policy_match *match, struct tenant **ret);

struct tenant *tenant_ref(struct tenant *tenant);
/* Takes NULL, returns NULL. */
struct tenant *tenant_unref(struct tenant *tenant);
