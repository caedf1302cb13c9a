/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "tenant.h"
#include "test.h"

static struct policy_match match(uint32_t uid, uint32_t weight) {
        return (struct policy_match) { .policy = { .weight = weight },
                                       .principal = { .kind = POLICY_KIND_UID, .id = uid } };
}

TEST(one_uid_is_one_tenant_whoever_asks) {
        struct policy_match a = match(5, 100), b = match(5, 300), c = match(6, 100);
        struct tenant *first, *second, *other;
        struct tenants tenants;

        tenants_init(&tenants);
        assert_se(tenants_get(&tenants, &a, &first) == 0);
        assert_se(tenants_get(&tenants, &b, &second) == 0 && second == first);
        assert_se(first->principal.policy.weight == 100);
        assert_se(tenants_get(&tenants, &c, &other) == 0 && other != first);
        assert_se(strcmp(first->name, "uid:5") == 0);
        tenant_unref(first);
        tenant_unref(second);
        tenant_unref(other);
        tenants_deinit(&tenants);
}

TEST(totals_outlive_a_connection) {
        struct policy_match a = match(5, 100);
        struct tenant *tenant;
        struct tenants tenants;

        tenants_init(&tenants);
        assert_se(tenants_get(&tenants, &a, &tenant) == 0);
        tenant->principal.activations = 42;
        tenant_unref(tenant);
        assert_se(tenants_get(&tenants, &a, &tenant) == 0);
        assert_se(tenant->principal.activations == 42 && tenants.n_idle == 0);
        tenant_unref(tenant);
        tenants_deinit(&tenants);
}

TEST(of_idle_tenants_only_the_latest_are_kept) {
        struct tenant *tenant, *busy;
        struct tenants tenants;
        struct policy_match m = match(0, 100);
        unsigned n = 0;

        tenants_init(&tenants);
        assert_se(tenants_get(&tenants, &m, &busy) == 0);
        for (uint32_t uid = 1; uid <= TENANTS_IDLE_MAX + 10; uid++) {
                m = match(uid, 100);
                assert_se(tenants_get(&tenants, &m, &tenant) == 0);
                tenant_unref(tenant);
        }
        assert_se(tenants.n_idle == TENANTS_IDLE_MAX);
        list_for_each(tenant, &tenants.list, link) {
                assert_se(tenant == busy || tenant->who.id > 10);
                n++;
        }
        assert_se(n == TENANTS_IDLE_MAX + 1);
        tenant_unref(busy);
        tenants_deinit(&tenants);
}
