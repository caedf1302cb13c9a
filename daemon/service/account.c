/* SPDX-License-Identifier: MIT */
#include "account.h"
#include "peer.h"
#include "stream.h"
#include "tenant.h"

/* By its own identity, whoever else is booked with it. */
static void own_match(const struct peer *peer, struct policy_match *ret) {
        _Static_assert(sizeof(gid_t) == sizeof(uint32_t), "groups are passed as they are");
        const struct credentials *c = &peer->credentials;
        struct policy_identity identity = {
                .unit = peer->unit[0] ? peer->unit : NULL,
                .uid = c->uid, .gid = c->gid, .groups = c->groups, .n_groups = c->n_groups,
        };

        policy_book_lookup(&peer->server->policies, &identity, ret);
}

bool account_match(const struct tenant *tenant, struct policy_match *ret) {
        struct policy_match match;
        struct peer *peer;
        bool found = false;

        list_for_each(peer, &tenant->peers, fellows) {
                if (peer->dead)
                        continue;
                own_match(peer, &match);
                if (found)
                        policy_match_join(ret, &match);
                else
                        *ret = match;
                found = true;
        }
        return found;
}

void account_match_peer(const struct peer *peer, struct policy_match *ret) {
        struct policy_match account;

        own_match(peer, ret);
        if (account_match(peer->tenant, &account))
                policy_match_share(ret, &account);
}

int account_enter(struct peer *peer) {
        struct policy_match match;
        struct tenant *tenant;
        struct stream *stream;
        int r;

        own_match(peer, &match);
        r = tenants_get(&peer->server->tenants, &match, &tenant);
        if (r < 0)
                return r;
        account_leave(peer);
        peer->tenant = tenant;
        list_append(&tenant->peers, &peer->fellows);
        tenant->n_connections++;
        list_for_each(stream, &peer->streams, link)
                stream_move(stream, tenant);
        return 0;
}

void account_leave(struct peer *peer) {
        if (!peer->tenant)
                return;
        list_unlink(&peer->fellows);
        peer->tenant->n_connections--;
        peer->tenant = tenant_unref(peer->tenant);
}

static int update_peer(struct peer *peer, const struct policy_match *account) {
        struct policy_match match;
        struct trace_rules rules;
        struct stream *stream;
        int r;

        own_match(peer, &match);
        policy_match_share(&match, account);
        peer->policy = match.policy;
        r = trace_rules_init(&rules, &match);
        if (r < 0)
                return r;
        trace_rules_deinit(&peer->rules);
        peer->rules = rules;
        list_for_each(stream, &peer->streams, link) {
                r = stream_update_policy(stream);
                if (r < 0)
                        return r;
        }
        return 0;
}

int account_update(struct tenant *tenant) {
        struct policy_match account;
        struct peer *peer;
        int r;

        if (!account_match(tenant, &account))
                return 0;
        tenant->principal.policy = account.policy;
        list_for_each(peer, &tenant->peers, fellows) {
                r = peer->dead ? 0 : update_peer(peer, &account);
                if (r < 0)
                        return r;
        }
        return 0;
}
