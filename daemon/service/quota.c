/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>

#include "account.h"
#include "base/util.h"
#include "config-value.h"
#include "offer.h"
#include "pages.h"
#include "peer.h"
#include "prefixes.h"
#include "quota.h"
#include "stream.h"

static uint64_t page_bytes(const struct offer *offer) {
        return model_info(offer->model)->kv_bytes_per_token * KV_PAGE_TOKENS;
}

static uint64_t tokens_bytes(const struct offer *offer, size_t tokens) {
        return DIV_ROUND_UP((uint64_t) tokens, (uint64_t) KV_PAGE_TOKENS) * page_bytes(offer);
}

/* No limit on what nobody reads any more: it is about to end. */
static uint64_t kv_max(const struct stream *stream) {
        uint64_t max = stream->peer ? stream->peer->policy.kv_max : 0;

        return max ? max : UINT64_MAX;
}

void quota_count(const struct server *server, struct offer *offer) {
        struct tenant *tenant;
        struct offer *other;

        list_for_each(tenant, &server->tenants.list, link)
                tenant->kv_bytes = tenant->kv_idle = 0;
        list_for_each(other, &server->offers, link) {
                /* Those that have nothing of this model are not looked at by pages_count(). */
                list_for_each(tenant, &server->tenants.list, link)
                        tenant->pages = tenant->pages_idle = 0;
                pages_count(other);
                list_for_each(tenant, &server->tenants.list, link) {
                        tenant->kv_bytes += (tenant->pages - tenant->pages_idle) * page_bytes(other);
                        tenant->kv_idle += tenant->pages_idle * page_bytes(other);
                }
        }
        if (offer)
                pages_count(offer);
}

bool quota_applies(const struct offer *offer) {
        struct stream *stream;

        list_for_each(stream, &offer->waiting, place)
                if (kv_max(stream) != UINT64_MAX)
                        return true;
        return false;
}

static uint64_t tenant_running(const struct offer *offer, const struct tenant *tenant) {
        struct stream *stream;
        uint64_t n = 0;

        list_for_each(stream, &offer->running, place)
                n += stream->tenant == tenant;
        return n;
}

bool quota_kv_fits(const struct stream *stream) {
        const struct offer *offer = stream->offer;
        uint64_t max = kv_max(stream), need;

        if (max == UINT64_MAX)
                return true;
        need = tokens_bytes(offer, stream->tokens.n) + tenant_running(offer, stream->tenant) * page_bytes(offer);
        return stream->tenant->kv_bytes <= max && need <= max - stream->tenant->kv_bytes;
}

static void explain(const struct stream *stream, enum policy_key key, struct reason *ret) {
        struct policy_match match;

        account_match_peer(stream->peer, &match);
        policy_match_explain(&match, key, ret);
}

/* Whether anything but this stream, that could end and make room, counts against the quota. */
static bool shares(const struct stream *stream) {
        return stream->tenant->kv_bytes > sequence_pages(stream->sequence) * page_bytes(stream->offer);
}

/* It fills the quota alone: nothing that could end would make room for another token. */
static void end_full(struct stream *stream) {
        struct reason rule, reason;

        explain(stream, POLICY_KEY_KV_MAX, &rule);
        reason_set(&reason, "there is no room for another token within %s", rule.text);
        stream_end_full(stream, reason.text);
}

bool quota_kv_extend(struct stream *stream) {
        uint64_t max = kv_max(stream), page = page_bytes(stream->offer);
        struct stream *victim;

        if (max == UINT64_MAX || stream->tokens.n <= (uint64_t) sequence_pages(stream->sequence) * KV_PAGE_TOKENS)
                return true;
        for (;;) {
                quota_count(stream->offer->server, NULL);
                if (stream->tenant->kv_bytes <= max && page <= max - stream->tenant->kv_bytes)
                        return true;
                victim = pages_youngest(stream->offer, stream->tenant);
                if (victim == stream && !shares(stream)) {
                        end_full(stream);
                        return false;
                }
                stream_evict(victim);
                if (victim == stream)
                        return false;
        }
}

static uint32_t evict_one(const struct server *server, struct tenant *tenant) {
        struct offer *offer;
        uint32_t n = 0;

        list_for_each(offer, &server->offers, link)
                if (n == 0)
                        n = prefix_cache_evict(offer, tenant, 1);
        return n;
}

void quota_trim(const struct server *server, struct tenant *tenant) {
        uint64_t max = tenant->principal.policy.kv_max;

        if (max == 0)
                return;
        do
                quota_count(server, NULL);
        while (tenant->kv_bytes + tenant->kv_idle > max && evict_one(server, tenant) > 0);
}

/* Never while others of its principal are there or not: its tokens alone are too many. */
static bool refuse_too_large(struct stream *stream) {
        uint64_t need = tokens_bytes(stream->offer, stream->tokens.n);
        struct reason rule, reason;
        char bytes[32];

        if (need <= kv_max(stream))
                return false;
        if (stream->n_generated > 0) {
                end_full(stream);
                return true;
        }
        config_format_size(need, bytes, sizeof(bytes));
        explain(stream, POLICY_KEY_KV_MAX, &rule);
        reason_set(&reason, "the prompt's %zu tokens need %s bytes of memory; allowed is %s", stream->tokens.n, bytes,
                   rule.text);
        stream_fail(stream, EDQUOT, reason.text);
        return true;
}

/* What was put back has its place; it is not asking for one. */
static bool queues(const struct stream *stream) {
        return stream->state == STREAM_WAITING && stream->trace.started == 0;
}

static uint32_t queue_length(const struct server *server, const struct tenant *tenant) {
        struct stream *stream;
        struct offer *offer;
        uint32_t n = 0;

        list_for_each(offer, &server->offers, link)
                list_for_each(stream, &offer->waiting, place)
                        n += stream->tenant == tenant && queues(stream);
        return n;
}

static bool refuse_excess(struct stream *stream) {
        uint32_t max = stream->peer ? stream->peer->policy.queue_max : 0;
        struct reason rule, reason;

        if (max == 0 || !queues(stream) || queue_length(stream->offer->server, stream->tenant) <= max)
                return false;
        explain(stream, POLICY_KEY_QUEUE_MAX, &rule);
        reason_set(&reason, "%" PRIu32 " requests of %s wait already; allowed is %s", max, stream->tenant->name,
                   rule.text);
        stream_fail(stream, EDQUOT, reason.text);
        return true;
}

void quota_refuse(struct offer *offer) {
        struct list *at, *before;

        /* From the end: the queue is in the order of age. */
        for (at = offer->waiting.prev; at != &offer->waiting; at = before) {
                struct stream *stream = list_entry(at, struct stream, place);
                struct peer *peer = stream->peer;

                before = at->prev;
                if ((refuse_too_large(stream) || refuse_excess(stream)) && peer)
                        peer_publish(peer);
        }
}
