/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "base/log.h"
#include "base/util.h"
#include "measure.h"
#include "server.h"

enum { TRIAL_ROWS = 256, TRIAL_SEQUENCES = 16 };

/* Rows of as many sequences, each behind `position` tokens that were never computed. `part`: of the model's experts. */
struct trial {
        uint32_t sequences, rows, position;
        bool prompt;
        uint32_t part;
};

/* Enough to tell all terms of struct cost apart. Small ones first, in case that somebody comes. */
static const struct trial trials[] = {
        { 1, 1, 32, false, 1 },   { 4, 1, 32, false, 1 },   { 1, 16, 0, true, 1 },   { 1, 1, 32, false, 2 },
        { 16, 1, 32, false, 1 },  { 1, 64, 0, true, 1 },    { 8, 1, 512, false, 1 }, { 1, 1, 1024, false, 1 },
        { 1, 64, 0, true, 2 },    { 16, 1, 32, false, 2 },  { 1, 256, 0, true, 1 },  { 1, 128, 512, true, 1 },
};

struct trial_pass {
        const struct trial *trial;
        struct offer *offer;
        struct sequence *sequences[TRIAL_SEQUENCES];
        struct step_part parts[TRIAL_SEQUENCES];
        int32_t tokens[TRIAL_ROWS + TRIAL_SEQUENCES];
        uint32_t allowances[TRIAL_ROWS];
        struct cost_load load;
};

static void trial_deinit(struct trial_pass *pass) {
        for (uint32_t i = 0; i < TRIAL_SEQUENCES; i++)
                sequence_free(pass->sequences[i]);
        pass->offer->trial_pages = 0;
}

static int trial_add(struct trial_pass *pass, uint32_t i) {
        const struct model_info *info = model_info(pass->offer->model);
        const struct trial *trial = pass->trial;
        struct cost_rows rows = {
                .rows = trial->rows, .position = trial->position, .prompt = trial->prompt, .logits = 1,
                .cap_milli = info->experts_used * 1000 / trial->part,
        };
        int r;

        r = sequence_new(&pass->sequences[i], pass->offer->model);
        if (r == 0)
                r = sequence_skip(pass->sequences[i], trial->position);
        if (r == 0)
                r = sequence_reserve(pass->sequences[i], trial->rows);
        if (pass->sequences[i])
                pass->offer->trial_pages += sequence_pages(pass->sequences[i]);
        pass->parts[i] = (struct step_part) {
                .sequence = pass->sequences[i],
                .tokens = pass->tokens + i,
                .allowances = pass->allowances,
                .count = trial->rows,
                .prompt = trial->prompt ? trial->rows : 0,
                .logits = 1,
        };
        cost_load_add(&pass->offer->sched.cost, &pass->load, &rows);
        return r;
}

/* 1: there is no room for it just now, or the model has none at all. */
static int trial_init(struct trial_pass *pass, struct offer *offer, const struct trial *trial) {
        const struct model_info *info = model_info(offer->model);
        int r = 0;

        *pass = (struct trial_pass) { .trial = trial, .offer = offer };
        if (trial->position + trial->rows > info->context || trial->sequences * trial->rows > offer->server->rows_max)
                return 1;
        for (uint32_t i = 0; i < ELEMENTS(pass->tokens); i++)
                pass->tokens[i] = (int32_t) (i * UINT64_C(2654435761) % info->vocab);
        for (uint32_t i = 0; i < TRIAL_ROWS; i++)
                pass->allowances[i] = info->moe_layers * info->experts_used / trial->part;
        for (uint32_t i = 0; i < trial->sequences && r == 0; i++)
                r = trial_add(pass, i);
        return r;
}

/* 1: somebody came; 0, negative errno. */
static int trial_compute(struct trial_pass *pass, struct server *server, uint64_t *ret_nsec) {
        struct step *step = pass->offer->step;
        uint64_t begin = now_nsec();
        int r, error;

        *ret_nsec = 0;
        step_set_trial(step, true);
        r = step_begin(step, pass->parts, pass->trial->sequences);
        server->stepping = r == 0;
        while (r == 0 && (r = step_advance(step)) > 0) {
                *ret_nsec += now_nsec() - begin;
                error = server_poll(server);
                if (error < 0)
                        server->trouble = error;
                r = 0;
                if (server->n_streams > 0 || server->draining || server->stopping) {
                        step_give_up(step);
                        r = 1;
                        break;
                }
                begin = now_nsec();
        }
        *ret_nsec += now_nsec() - begin;
        server->stepping = false;
        step_set_trial(step, false);
        return r;
}

/* Of two the faster one tells: the other may have waited for a page or for a processor. */
static void measure_note(struct trial_pass *pass, uint64_t nsec) {
        struct offer *offer = pass->offer;

        if (offer->n_trials % 2 == 0)
                offer->trial_nsec = nsec;
        else
                cost_observe(&offer->sched.cost, &pass->load, step_experts_read(offer->step),
                             MIN(nsec, offer->trial_nsec), true);
}

static int measure_trial(struct server *server, struct offer *offer) {
        struct trial_pass pass;
        uint64_t nsec;
        int r;

        r = trial_init(&pass, offer, &trials[offer->n_trials / 2]);
        if (r == 0)
                r = trial_compute(&pass, server, &nsec);
        if (r == 0)
                measure_note(&pass, nsec);
        trial_deinit(&pass);
        return r;
}

int measure_run(struct server *server) {
        struct offer *offer;
        int r;

        if (server->n_streams > 0 || server->n_warming > 0 || server->memory_short || server->draining)
                return 0;
        list_for_each(offer, &server->offers, link) {
                if (offer->retired || offer->state != OFFER_READY || offer->n_trials >= 2 * ELEMENTS(trials))
                        continue;
                r = measure_trial(server, offer);
                if (r < 0 && r != -ESTALE)
                        log_warning("model %s: its passes cannot be measured: errno %d", offer->name, -r);
                /* What was interrupted is done again; what cannot be is left out. (A file of which something is lost is
                 * opened anew with the next request.) */
                if (server->n_streams == 0)
                        offer->n_trials++;
                return server->trouble < 0 ? server->trouble : 1;
        }
        return 0;
}
