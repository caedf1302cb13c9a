/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "base/util.h"
#include "offer.h"
#include "pages.h"
#include "quota.h"
#include "stream.h"

struct tenant *pages_count(struct offer *offer) {
        struct tenant *most = NULL;
        struct stream *stream;

        list_for_each(stream, &offer->running, place)
                stream->tenant->pages = 0;
        list_for_each(stream, &offer->waiting, place)
                stream->tenant->pages = 0;
        list_for_each(stream, &offer->running, place) {
                stream->tenant->pages += sequence_pages(stream->sequence);
                if (!most || stream->tenant->pages > most->pages)
                        most = stream->tenant;
        }
        return most;
}

/* Of those that no forward pass holds; NULL: all are held. */
static struct stream *pages_youngest(struct offer *offer, const struct tenant *tenant) {
        struct stream *stream, *youngest = NULL;

        list_for_each(stream, &offer->running, place)
                if (stream->tenant == tenant && stream->rows_flying == 0 &&
                    (!youngest || stream->serial > youngest->serial))
                        youngest = stream;
        return youngest;
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
                if (!next || stream->tenant->pages < next->tenant->pages)
                        next = stream;
        }
        return next;
}

/* One page for each stream that runs is left over: else the next token of one of them would undo the admission. */
static bool pages_suffice(struct offer *offer, struct sequence *sequence, uint32_t tokens, int *ret_error) {
        int r;

        r = sequence_reserve(sequence, tokens);
        *ret_error = r < 0 ? r : 0;
        if (r != 0)
                return false;
        return offer->n_running == 0 || model_kv_pages_free(offer->model) >= offer->n_running;
}

/* Whether the tenant that holds most keeps at least as much as the other will have: else two would evict each other in
 * turn. What the newcomer will need is told by what the victim needed for its tokens. */
static bool pages_may_take(const struct stream *victim, const struct stream *newcomer) {
        uint64_t held = sequence_pages(victim->sequence), length = MAX(sequence_length(victim->sequence), 1u);
        uint64_t need = DIV_ROUND_UP(newcomer->tokens.n * held, length);

        return victim->tenant != newcomer->tenant && victim->rows_flying == 0 &&
               victim->tenant->pages >= held + newcomer->tenant->pages + need;
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
        stream_schedule(stream);
}

/* 1: it runs; 0: it has to wait. */
static int pages_try(struct stream *stream) {
        _cleanup_(sequence_freep) struct sequence *sequence = NULL;
        struct offer *offer = stream->offer;
        struct stream *victim;
        struct tenant *most;
        int r;

        r = sequence_new(&sequence, offer->model);
        if (r != 0)
                return r < 0 ? r : 0;
        while (!pages_suffice(offer, sequence, (uint32_t) stream->tokens.n, &r)) {
                if (r < 0)
                        return r;
                sequence_truncate(sequence, 0);
                most = pages_count(offer);
                victim = most ? pages_youngest(offer, most) : NULL;
                if (!victim || !pages_may_take(victim, stream))
                        return 0;
                stream_evict(victim);
        }
        pages_start(stream, steal_ptr(sequence));
        return 1;
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
                if (r < 0)
                        stream_fail(stream, -r, "the daemon has no memory to begin this request");
                else if (r == 0)
                        break;
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
                victim = pages_youngest(offer, pages_count(offer));
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
        return true;
}

uint32_t pages_position(const struct stream *stream) {
        uint32_t position = 1;
        struct stream *other;

        list_for_each(other, &stream->offer->waiting, place) {
                if (other == stream)
                        break;
                position++;
        }
        return position;
}
