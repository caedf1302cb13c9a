/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "iterate.h"
#include "long-pass.h"
#include "pages.h"
#include "peer.h"
#include "prefixes.h"
#include "stream.h"

/* Turns the scheduler's choice into the parts of each model's forward pass; returns the rows. */
static uint32_t iterate_form(struct server *server, uint32_t n_picks) {
        uint32_t rows = 0;
        struct offer *offer;

        list_for_each(offer, &server->offers, link)
                offer->n_parts = 0;
        for (uint32_t i = 0; i < n_picks; i++) {
                struct stream *stream = container_of(server->picks[i].stream, struct stream, sched);

                offer = stream->offer;
                offer->streams[offer->n_parts] = stream;
                stream_part(stream, server->picks[i].rows, server->allowances + rows, server->budgets + rows,
                            &offer->parts[offer->n_parts++]);
                rows += server->picks[i].rows;
        }
        return rows;
}

/* The forward pass, with a look at everything else after each layer. */
static int iterate_run(struct server *server, struct offer *offer) {
        uint64_t begin = now_nsec(), before = server->metrics.step_nsec;
        int r, error;

        streams_group(offer->streams, offer->parts, offer->n_parts);
        r = step_begin(offer->step, offer->parts, offer->n_parts);
        if (r != 0)
                return r < 0 ? r : -EINVAL;
        server->stepping = true;
        while ((r = step_advance(offer->step)) > 0) {
                server->metrics.step_nsec += now_nsec() - begin;
                error = server_poll(server);
                /* Our own trouble ends the daemon, but not in the middle of a forward pass. */
                if (error < 0)
                        server->trouble = error;
                begin = now_nsec();
        }
        server->metrics.step_nsec += now_nsec() - begin;
        server->stepping = server->n_long > 0;
        if (r == 0)
                cost_observe(&offer->sched.cost, &offer->sched.load, step_experts_read(offer->step),
                             server->metrics.step_nsec - before, false);
        return r;
}

/* Results first, then room for the next rows: making room may take pages from a stream whose result is still out. */
void iterate_finish(struct offer *offer, struct stream **streams, struct step_part *parts, uint32_t n, int error) {
        if (error < 0)
                log_error("the forward pass of model %s failed: %s", offer->name, strerror(-error));
        else
                streams_count_pass(streams, parts, n);
        for (uint32_t i = 0; i < n; i++) {
                if (error < 0)
                        stream_not_advanced(streams[i], -error);
                else
                        stream_advance(streams[i], &parts[i]);
        }
        for (uint32_t i = 0; i < n; i++) {
                struct stream *stream = streams[i];

                if (stream->state == STREAM_RUNNING && pages_extend(stream)) {
                        prefixes_go_on(stream);
                        stream_schedule(stream);
                }
                if (stream->peer)
                        peer_publish(stream->peer);
        }
}

/* Streams that were held back while others computed the same: those may have done so, or have stopped. */
static void iterate_catch_up(struct offer *offer) {
        struct stream *stream;

        if (!offer->behind)
                return;
        offer->behind = false;
        list_for_each(stream, &offer->running, place)
                if (stream->rows_flying == 0 && stream->sched.pending == 0) {
                        prefixes_go_on(stream);
                        stream_schedule(stream);
                }
}

/* 1, or 0 when there were no rows for it. */
static int iterate_short(struct server *server) {
        struct sched_limits limits = { .rows_max = server->rows_max, .prompt_max = server->prompt_rows_max };
        struct offer *offer;
        uint32_t n, rows;
        int r;

        n = scheduler_pick(&server->scheduler, &limits, server->picks, server->rows_max);
        if (n == 0)
                return 0;
        rows = iterate_form(server, n);
        list_for_each(offer, &server->offers, link) {
                if (offer->n_parts == 0)
                        continue;
                r = iterate_run(server, offer);
                iterate_finish(offer, offer->streams, offer->parts, offer->n_parts, r);
                offer->n_parts = 0;
        }
        metrics_count_pass(&server->metrics, rows);
        return 1;
}

static int iterate_turn(struct server *server) {
        struct sched_pass *pass;

        switch (scheduler_turn(&server->scheduler, &pass)) {
        case SCHED_TURN_SHORT:
                return iterate_short(server);
        case SCHED_TURN_BEGIN:
                long_pass_run(server, pass, true);
                return 1;
        case SCHED_TURN_LAYER:
                long_pass_run(server, pass, false);
                return 1;
        case SCHED_TURN_NONE:
                break;
        }
        return 0;
}

int server_iterate(struct server *server) {
        struct offer *offer;
        uint64_t begin;

        list_for_each(offer, &server->offers, link) {
                pages_admit(offer);
                iterate_catch_up(offer);
        }
        server->scheduler.now = begin = now_nsec();
        if (iterate_turn(server) == 0)
                return 0;
        server->computed = now_nsec();
        server->metrics.busy_nsec += server->computed - begin;
        return server->trouble < 0 ? server->trouble : 1;
}
