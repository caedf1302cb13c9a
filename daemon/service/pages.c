/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "base/util.h"
#include "offer.h"
#include "pages.h"
#include "peer.h"
#include "prefixes.h"
#include "quota.h"
#include "stream.h"

/* Pages that nobody else has, and nobody pays for but this stream's tenant. */
static uint32_t pages_own(const struct stream *stream) {
        return sequence_pages(stream->sequence) - stream->prefix.pages;
}

void pages_count(struct offer *offer) {
        struct prefix_account *account;
        struct stream *stream;

        list_for_each(stream, &offer->running, place)
                stream->tenant->pages = stream->tenant->pages_idle = 0;
        list_for_each(stream, &offer->waiting, place)
                stream->tenant->pages = stream->tenant->pages_idle = 0;
        list_for_each(account, &offer->accounts, link) {
                account->tenant->pages = account->owner.pages;
                account->tenant->pages_idle = account->owner.idle;
        }
        list_for_each(stream, &offer->running, place)
                stream->tenant->pages += pages_own(stream);
}

struct stream *pages_youngest(const struct offer *offer, const struct tenant *tenant) {
        struct stream *stream, *youngest = NULL;

        list_for_each(stream, &offer->running, place)
                if (stream->tenant == tenant && stream->rows_flying == 0 &&
                    (!youngest || stream->serial > youngest->serial))
                        youngest = stream;
        return youngest;
}

/* What nobody uses of a tenant's pages is anybody's. */
static uint32_t pages_used(const struct tenant *tenant) {
        return tenant->pages - tenant->pages_idle;
}

static struct stream *pages_next(struct offer *offer) {
        uint32_t running_max = offer->server->config->limits.streams_max;
        struct stream *stream, *next = NULL;

        if (quota_applies(offer))
                quota_count(offer->server, offer);
        else
                pages_count(offer);
        list_for_each(stream, &offer->waiting, place) {
                if (stream->user->n_running >= running_max || !quota_kv_fits(stream))
                        continue;
                if (!next || pages_used(stream->tenant) < pages_used(next->tenant))
                        next = stream;
        }
        return next;
}

/* Gives a sequence room for all of `tokens`, if need be at the cost of what only the prefix cache has, but of that
 * nothing in vain. One page for each stream that runs is left over: else the next token of one of them would undo the
 * admission. */
static bool pages_suffice(struct offer *offer, struct sequence *sequence, uint32_t tokens, int *ret_error) {
        uint32_t need = DIV_ROUND_UP(tokens, (uint32_t) KV_PAGE_TOKENS) - sequence_pages(sequence);
        uint32_t n_free = model_kv_pages_free(offer->model);

        *ret_error = 0;
        if (n_free + prefixes_idle(offer) < (uint64_t) need + offer->n_running)
                return false;
        if (need > n_free)
                prefix_cache_evict(offer, NULL, need - n_free);
        *ret_error = sequence_reserve(sequence, tokens - sequence_length(sequence));
        return *ret_error == 0;
}

/* Whether the victim's tenant keeps at least as much as the other will have: else two would evict each other in turn.
 * What the newcomer will need is told by what the victim was given for its tokens. */
static bool pages_may_take(const struct stream *victim, const struct stream *newcomer) {
        uint64_t held = sequence_pages(victim->sequence);
        uint64_t need = DIV_ROUND_UP(newcomer->tokens.n * held, MAX(victim->tokens.n, (size_t) 1));

        return victim->tenant != newcomer->tenant && victim->rows_flying == 0 &&
               pages_used(victim->tenant) >= pages_own(victim) + pages_used(newcomer->tenant) + need;
}

/* The youngest of the tenant that uses most, of those that may be taken from: what others have may all be in passes.
 * Without a newcomer it is for one that runs itself. */
static struct stream *pages_victim(struct offer *offer, const struct stream *newcomer) {
        struct stream *stream, *victim = NULL;

        pages_count(offer);
        list_for_each(stream, &offer->running, place)
                if ((newcomer ? pages_may_take(stream, newcomer) : stream->rows_flying == 0) &&
                    (!victim || pages_used(stream->tenant) > pages_used(victim->tenant) ||
                     (stream->tenant == victim->tenant && stream->serial > victim->serial)))
                        victim = stream;
        return victim;
}

static void pages_start(struct stream *stream, struct sequence *sequence) {
        struct offer *offer = stream->offer;

        list_unlink(&stream->place);
        list_append(&offer->running, &stream->place);
        offer->n_waiting--;
        offer->n_running++;
        offer->n_scoring += stream_scores(stream);
        stream->user->n_running++;
        stream->sequence = sequence;
        stream->state = STREAM_RUNNING;
        if (stream->trace.started == 0)
                stream->trace.started = now_nsec();
        prefixes_count(stream);
        if (stream->n_cached > 0)
                stream_tell_progress(stream);
        quota_trim(offer->server, stream->tenant);
        stream_schedule(stream);
}

static int pages_give_up(struct stream *stream, int error) {
        prefixes_leave(stream);
        return MIN(error, 0);
}

/* 1: it runs; 0: it has to wait. */
static int pages_try(struct stream *stream) {
        _cleanup_(sequence_freep) struct sequence *sequence = NULL;
        struct offer *offer = stream->offer;
        struct stream *victim;
        int r;

        r = model_file_intact(model_file(offer->model)) ? sequence_new(&sequence, offer->model) : -ESTALE;
        if (r != 0)
                return r < 0 ? r : 0;
        prefixes_begin(stream, sequence);
        while (!pages_suffice(offer, sequence, (uint32_t) stream->tokens.n, &r)) {
                if (r != 0)
                        return pages_give_up(stream, r);
                victim = pages_victim(offer, stream);
                if (!victim)
                        return pages_give_up(stream, 0);
                stream_evict(victim);
        }
        pages_start(stream, steal_ptr(sequence));
        return 1;
}

static void pages_refuse(struct stream *stream, int error) {
        if (error == -ESTALE)
                stream_fail_stale(stream);
        else
                stream_fail(stream, -error, "the daemon has no memory to begin this request");
        if (stream->peer)
                peer_publish(stream->peer);
}

void pages_admit(struct offer *offer) {
        struct stream *stream;
        int r;

        if (!offer->admit)
                return;
        if (offer->state != OFFER_READY) {
                quota_refuse(offer);
                if (offer->n_waiting > 0)
                        offer_wake(offer);
                return;
        }
        offer->admit = false;
        while ((stream = pages_next(offer))) {
                r = pages_try(stream);
                if (r == 0)
                        break;
                if (r < 0)
                        pages_refuse(stream, r);
        }
        quota_refuse(offer);
}

bool pages_extend(struct stream *stream) {
        struct offer *offer = stream->offer;
        uint32_t need = (uint32_t) stream->tokens.n - sequence_length(stream->sequence);
        struct stream *victim;
        int r;

        if (!quota_kv_extend(stream))
                return false;
        while ((r = sequence_reserve(stream->sequence, need)) == ENGINE_E_PAGES) {
                if (prefix_cache_evict(offer, NULL, 1) > 0)
                        continue;
                victim = pages_victim(offer, NULL);
                if (!victim)
                        victim = stream;
                stream_evict(victim);
                if (victim == stream)
                        return false;
        }
        if (r != 0) {
                stream_fail(stream, r < 0 ? -r : EIO, "the daemon has no memory for the next token");
                return false;
        }
        quota_trim(offer->server, stream->tenant);
        return true;
}
