/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "offer.h"
#include "pages.h"
#include "peer.h"
#include "prefixes.h"
#include "quota.h"
#include "stream.h"

/* Tokens from the beginning whose pages may be another's: where prompts have an arithmetic of their own, a page with
 * rows that were generated is nobody's prompt. */
static uint32_t sharable(const struct stream *stream) {
        bool differ = stream->offer->server->backend->flags & BACKEND_PROMPTS;

        return differ ? stream->n_prompt : (uint32_t) stream->tokens.n;
}

/* Pages that need not be computed. One row always is, for its logits; of a text that is scored all are whose logits
 * nobody has been told. */
static uint32_t pages_to_follow(const struct stream *stream) {
        uint32_t rows = stream_scores(stream) ? stream->n_generated : (uint32_t) stream->tokens.n - 1;

        return MIN(rows, sharable(stream)) / KV_PAGE_TOKENS;
}

static void make_key(const struct stream *stream, struct prefix_key *ret) {
        struct step_budget budgets[KV_PAGE_TOKENS];
        uint32_t allowances[KV_PAGE_TOKENS];
        struct step_part part;

        stream_describe(stream, stream->prefix.pages * KV_PAGE_TOKENS, KV_PAGE_TOKENS, allowances, budgets, &part);
        prefix_key_init(ret, stream->offer->prefixes, &part);
}

/* The stream's tenant's; NULL when there is no memory for one. */
static struct prefix_account *get_account(struct stream *stream) {
        struct offer *offer = stream->offer;
        struct prefix_account *account;

        list_for_each(account, &offer->accounts, link)
                if (account->tenant == stream->tenant)
                        return account;
        account = malloc(sizeof(*account));
        if (!account)
                return NULL;
        account->tenant = tenant_ref(stream->tenant);
        prefix_owner_init(&account->owner);
        list_append(&offer->accounts, &account->link);
        return account;
}

static void free_account(struct prefix_account *account) {
        list_unlink(&account->link);
        tenant_unref(account->tenant);
        free(account);
}

static void follow(struct stream *stream, struct sequence *sequence) {
        uint32_t pages = pages_to_follow(stream);
        struct prefix_account *account = NULL;
        struct prefix_key key;

        if (!stream->prefix.at || stream->prefix.pages >= pages)
                return;
        /* Rows have the cap that they would be computed under now. */
        if (stream_update_cap(stream) == 0)
                account = get_account(stream);
        while (account && stream->prefix.pages < pages) {
                make_key(stream, &key);
                if (prefix_follow(&stream->prefix, &key, sequence, &account->owner) != 0)
                        return;
        }
}

void prefixes_count(struct stream *stream) {
        uint32_t length = sequence_length(stream->sequence), cached;

        if (length <= stream->rows_seen)
                return;
        cached = length - stream->rows_seen;
        stream->offer->server->metrics.prefix_hits += stream->n_cached == 0;
        stream->rows_seen = length;
        stream->n_cached += cached;
        stream->tenant->tokens_cached += cached;
        stream->offer->server->metrics.tokens_cached += cached;
        if (stream->peer)
                stream->peer->tokens_cached += cached;
}

void prefixes_begin(struct stream *stream, struct sequence *sequence) {
        struct offer *offer = stream->offer;
        /* What rides depends on its company: its pages are nobody else's, and nobody else's are its own. */
        bool shares = offer->shares_prefixes && stream->ride_experts == 0;

        if (shares && prefix_enter(&stream->prefix, offer->prefixes, stream->user->uid) == 0)
                follow(stream, sequence);
}

void prefixes_go_on(struct stream *stream) {
        if (stream->prefix.pages != sequence_length(stream->sequence) / KV_PAGE_TOKENS)
                return;
        follow(stream, stream->sequence);
        prefixes_count(stream);
}

void prefixes_store(struct stream *stream) {
        uint32_t rows = MIN(sequence_length(stream->sequence), sharable(stream));
        struct prefix_account *account;
        struct prefix_key key;

        if (!stream->prefix.at || stream->prefix.pages >= rows / KV_PAGE_TOKENS)
                return;
        account = get_account(stream);
        while (account && stream->prefix.pages < rows / KV_PAGE_TOKENS) {
                make_key(stream, &key);
                if (prefix_store(&stream->prefix, &key, stream->sequence, &account->owner) < 0)
                        return;
        }
}

void prefixes_leave(struct stream *stream) {
        struct prefix_account *account, *next;

        prefix_leave(&stream->prefix);
        quota_trim(stream->offer->server, stream->tenant);
        list_for_each_safe(account, next, &stream->offer->accounts, link)
                if (account->owner.pages == 0)
                        free_account(account);
}

/* Of two at the same page the one that has got further in it goes first, then the older. */
static bool is_ahead(const struct stream *a, const struct stream *b) {
        uint32_t length = sequence_length(a->sequence), other = sequence_length(b->sequence);

        return length > other || (length == other && a->serial < b->serial);
}

/* Whether it will make the page whole that it has begun; one that cannot go on, as its client does not read, may
 * not. */
static bool is_making(const struct stream *stream) {
        uint32_t end = (stream->prefix.pages + 1) * KV_PAGE_TOKENS;

        return end <= MIN(stream->n_prompt, sharable(stream)) && !stream->cancelled &&
               (stream->sched.pending > 0 || stream->rows_flying > 0);
}

bool prefixes_behind(const struct stream *stream) {
        struct prefix_key key, other_key;
        struct stream *other;

        if (!stream->prefix.at || stream->prefix.pages >= pages_to_follow(stream))
                return false;
        list_for_each(other, &stream->offer->running, place) {
                if (other->prefix.at != stream->prefix.at || other->tenant != stream->tenant ||
                    !is_ahead(other, stream) || !is_making(other))
                        continue;
                make_key(stream, &key);
                make_key(other, &other_key);
                if (memcmp(&key, &other_key, sizeof(key)) == 0)
                        return true;
        }
        return false;
}

static struct prefix_account *greediest(struct offer *offer) {
        struct prefix_account *account, *most = NULL;

        pages_count(offer);
        list_for_each(account, &offer->accounts, link)
                if (account->owner.idle > 0 && (!most || account->tenant->pages > most->tenant->pages))
                        most = account;
        return most;
}

static uint32_t evict(struct offer *offer, struct prefix_account *account, uint32_t pages) {
        uint32_t n = prefix_evict(&account->owner, pages);

        offer->server->metrics.prefix_evictions += n;
        offer->admit |= n > 0;
        if (account->owner.pages == 0)
                free_account(account);
        return n;
}

uint32_t prefix_cache_evict(struct offer *offer, struct tenant *tenant, uint32_t pages) {
        struct prefix_account *account, *next;
        uint32_t n = 0;

        list_for_each_safe(account, next, &offer->accounts, link)
                if (account->tenant == tenant)
                        return evict(offer, account, pages);
        if (tenant)
                return 0;
        while (n < pages && (account = greediest(offer)))
                n += evict(offer, account, 1);
        return n;
}

uint32_t prefixes_idle(const struct offer *offer) {
        return prefix_cache_idle(offer->prefixes);
}

uint32_t prefixes_pages(const struct offer *offer) {
        return prefix_cache_pages(offer->prefixes);
}

void prefixes_clear(struct offer *offer) {
        struct prefix_account *account, *next;

        prefix_cache_clear(offer->prefixes);
        list_for_each_safe(account, next, &offer->accounts, link)
                free_account(account);
}
