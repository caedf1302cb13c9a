/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tenant.h"

void tenants_init(struct tenants *tenants) {
        list_init(&tenants->list);
        tenants->n_idle = 0;
}

static void tenant_free(struct tenant *tenant) {
        list_unlink(&tenant->link);
        free(tenant);
}

void tenants_deinit(struct tenants *tenants) {
        struct tenant *tenant, *next;

        list_for_each_safe(tenant, next, &tenants->list, link)
                tenant_free(tenant);
}

/* Forgets the one that has been idle for longest: each goes to the tail of the list when its last reference goes. */
static void tenants_trim(struct tenants *tenants) {
        struct tenant *tenant, *next;

        list_for_each_safe(tenant, next, &tenants->list, link) {
                if (tenants->n_idle <= TENANTS_IDLE_MAX)
                        return;
                if (tenant->n_ref > 0)
                        continue;
                tenant_free(tenant);
                tenants->n_idle--;
        }
}

int tenants_get(struct tenants *tenants, const struct policy_match *match, struct tenant **ret) {
        struct tenant *tenant;

        list_for_each(tenant, &tenants->list, link)
                if (policy_principal_equal(&tenant->who, &match->principal)) {
                        *ret = tenant_ref(tenant);
                        return 0;
                }
        tenant = calloc(1, sizeof(*tenant));
        if (!tenant)
                return -ENOMEM;
        tenant->tenants = tenants;
        tenant->n_ref = 1;
        tenant->who = match->principal;
        list_init(&tenant->peers);
        policy_principal_format(&tenant->who, tenant->name);
        principal_init(&tenant->principal, &match->policy);
        list_append(&tenants->list, &tenant->link);
        *ret = tenant;
        return 0;
}

struct tenant *tenant_ref(struct tenant *tenant) {
        if (tenant->n_ref++ == 0)
                tenant->tenants->n_idle--;
        return tenant;
}

struct tenant *tenant_unref(struct tenant *tenant) {
        if (!tenant || --tenant->n_ref > 0)
                return NULL;
        list_unlink(&tenant->link);
        list_append(&tenant->tenants->list, &tenant->link);
        tenant->tenants->n_idle++;
        tenants_trim(tenant->tenants);
        return NULL;
}
