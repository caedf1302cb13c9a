/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/util.h"
#include "iterate.h"
#include "long-pass.h"
#include "server.h"
#include "stream.h"

struct long_pass {
        struct sched_pass sched;
        struct offer *offer;
        struct tenant *tenant; /* whose it is: referred to, for its streams may move to another meanwhile */
        struct step *step;     /* NULL until it is needed first */
        uint32_t *allowances;  /* [rows_max] */
        struct step_budget *budgets; /* [rows_max] */
        struct sched_pick picks[LONG_PASS_STREAMS];
        struct step_part parts[LONG_PASS_STREAMS];
        struct stream *streams[LONG_PASS_STREAMS];
        uint32_t n_parts;
        uint64_t nsec;         /* computing, so far */
};

int long_passes_new(struct offer *offer, uint32_t rows_max) {
        offer->sched.long_rows_max = rows_max;
        if (rows_max == 0)
                return 0;
        offer->passes = calloc(LONG_PASSES, sizeof(*offer->passes));
        if (!offer->passes)
                return -ENOMEM;
        for (int i = 0; i < LONG_PASSES; i++) {
                offer->passes[i].offer = offer;
                sched_pass_init(&offer->passes[i].sched, &offer->sched);
        }
        return 0;
}

static void pass_rest(struct long_pass *pass) {
        step_free(pass->step);
        pass->step = NULL;
        free(pass->allowances);
        pass->allowances = NULL;
        free(pass->budgets);
        pass->budgets = NULL;
}

void long_passes_rest(struct offer *offer) {
        for (int i = 0; i < LONG_PASSES && offer->passes; i++)
                pass_rest(&offer->passes[i]);
}

void long_passes_free(struct offer *offer) {
        long_passes_rest(offer);
        free(offer->passes);
        offer->passes = NULL;
}

/* It is over, one way or the other; its streams are free for the next. */
static void pass_land(struct server *server, struct long_pass *pass) {
        server->n_long--;
        server->stepping = server->n_long > 0;
        sched_pass_end(&server->scheduler, &pass->sched);
        pass->offer->admit = true; /* its streams' pages can be had again */
        pass->tenant = tenant_unref(pass->tenant);
}

static int pass_prepare(struct long_pass *pass) {
        uint32_t rows = pass->offer->sched.long_rows_max;
        int r = 0;

        if (!pass->allowances)
                pass->allowances = calloc(rows, sizeof(*pass->allowances));
        if (!pass->budgets)
                pass->budgets = calloc(rows, sizeof(*pass->budgets));
        if (!pass->step)
                r = step_new_beside(&pass->step, pass->offer->step, rows);
        return pass->allowances && pass->budgets ? r : -ENOMEM;
}

static void pass_give_up(struct server *server, struct long_pass *pass) {
        uint32_t layers = model_info(pass->offer->model)->layers;

        if (pass->step)
                step_give_up(pass->step);
        for (uint32_t i = 0; i < pass->n_parts; i++)
                stream_given_up(pass->streams[i], layers - MIN(layers, pass->sched.layers_left));
        pass_land(server, pass);
}

/* Without memory the machine is not made for so many rows: prompts go through short passes from now on. */
static void pass_retire(struct server *server, struct long_pass *pass) {
        log_warning("model %s: no memory for %u rows of prompts at once", pass->offer->name,
                    pass->offer->sched.long_rows_max);
        pass_give_up(server, pass);
        sched_pass_deinit(&pass->sched);
        pass_rest(pass);
}

static int pass_begin(struct server *server, struct long_pass *pass) {
        uint32_t rows = 0, n;
        int r;

        n = scheduler_pick_long(&server->scheduler, &pass->sched, pass->picks, LONG_PASS_STREAMS);
        server->n_long++;
        pass->n_parts = 0;
        pass->nsec = 0;
        pass->tenant = tenant_ref(container_of(pass->sched.principal, struct tenant, principal));
        for (uint32_t i = 0; i < n; i++)
                pass->streams[pass->n_parts++] = container_of(pass->picks[i].stream, struct stream, sched);
        r = pass_prepare(pass);
        for (uint32_t i = 0; i < n && r == 0; i++) {
                stream_part(pass->streams[i], pass->picks[i].rows, pass->allowances + rows, pass->budgets + rows,
                            &pass->parts[i]);
                rows += pass->picks[i].rows;
        }
        if (r)
                return r;
        streams_group(pass->streams, pass->parts, n);
        return step_begin(pass->step, pass->parts, n);
}

static void pass_finish(struct server *server, struct long_pass *pass, int error) {
        struct cost *cost = &pass->offer->sched.cost;
        uint64_t rows = 0;

        for (uint32_t i = 0; i < pass->n_parts; i++)
                rows += pass->parts[i].count;
        if (error == 0)
                cost_observe(cost, &pass->sched.load, step_experts_read(pass->step), pass->nsec, false);
        metrics_count_pass(&server->metrics, rows);
        pass_land(server, pass);
        iterate_finish(pass->offer, pass->streams, pass->parts, pass->n_parts, error);
}

static bool pass_is_wanted(const struct long_pass *pass) {
        for (uint32_t i = 0; i < pass->n_parts; i++)
                if (!pass->streams[i]->cancelled)
                        return true;
        return false;
}

static int pass_advance(struct server *server, struct long_pass *pass) {
        uint64_t begin = now_nsec(), nsec;
        int r;

        sched_pass_layer(&server->scheduler, &pass->sched);
        server->stepping = true;
        r = step_advance(pass->step);
        if (r > 0 && pass->sched.layers_left == 0)
                r = step_advance(pass->step);
        nsec = now_nsec() - begin;
        pass->nsec += nsec;
        server->metrics.step_nsec += nsec;
        return r;
}

void long_pass_run(struct server *server, struct sched_pass *sched, bool begin) {
        struct long_pass *pass = container_of(sched, struct long_pass, sched);
        int r;

        if (begin) {
                r = pass_begin(server, pass);
                if (r == -ENOMEM) {
                        pass_retire(server, pass);
                        return;
                }
                if (r != 0) {
                        pass_finish(server, pass, r < 0 ? r : -EINVAL);
                        return;
                }
        }
        if (!pass_is_wanted(pass)) {
                pass_give_up(server, pass);
                return;
        }
        r = pass_advance(server, pass);
        if (r <= 0)
                pass_finish(server, pass, r);
}

void long_passes_give_up(struct server *server) {
        struct offer *offer;

        list_for_each(offer, &server->offers, link)
                for (int i = 0; i < LONG_PASSES && offer->passes; i++)
                        if (offer->passes[i].tenant)
                                pass_give_up(server, &offer->passes[i]);
}
