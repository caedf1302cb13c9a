/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/util.h"
#include "change.h"
#include "forecast.h"
#include "long-pass.h"
#include "offer.h"
#include "peer.h"
#include "prefixes.h"
#include "sampler.h"
#include "stream.h"
#include "warming.h"

static const char *log_fields(const struct offer *offer) {
        static char fields[CONFIG_MODEL_NAME_MAX + 16];

        snprintf(fields, sizeof(fields), "MODEL=%s", offer->name);
        return fields;
}

const char *offer_state_name(const struct offer *offer) {
        static const char *const names[] = {
                [OFFER_READY] = "ready", [OFFER_IDLE] = "idle", [OFFER_LOADING] = "loading",
        };

        if (!model_file_intact(model_file(offer->model)))
                return "stale";
        return names[offer->state];
}

void offer_free(struct offer *offer) {
        if (!offer)
                return;
        if (!list_empty(&offer->link)) {
                offer->server->n_offers--;
                offer->server->n_retired -= offer->retired;
        }
        list_unlink(&offer->link);
        long_passes_free(offer);
        step_free(offer->step);
        sampler_scratch_free(offer->scratch);
        if (offer->prefixes)
                prefixes_clear(offer);
        prefix_cache_free(offer->prefixes);
        model_free(offer->model);
        free(offer->parts);
        free(offer->streams);
        free(offer->name);
        free(offer->file);
        free(offer);
}

/* Whatever the matter is, the sentence begins with whose it is. */
static int explain(const struct config_model *model, int r, const struct reason *why, struct reason *reason) {
        if (why->text[0])
                reason_set(reason, "model %s: %s", model->name, why->text);
        else
                reason_set(reason, "model %s: %s: %s", model->name, model->file, strerror(r < 0 ? -r : EINVAL));
        return SERVER_E_MODEL;
}

int offer_open_file(struct model_file **ret, const struct config_model *model, struct reason *reason) {
        struct reason why = REASON_INIT;
        int r;

        r = model_file_open(ret, model->file, &why);
        return r != 0 ? explain(model, r, &why, reason) : 0;
}

/* Two names for one file share what is open already. */
static struct model_file *find_same(struct server *server, struct model_file *file) {
        struct offer *offer;

        list_for_each(offer, &server->offers, link)
                if (model_file_same(model_file(offer->model), file))
                        return model_file(offer->model);
        return file;
}

static void offer_init_sched(struct offer *offer) {
        const struct model_info *info = model_info(offer->model);
        struct cost_shape shape = {
                .layers = info->layers,
                .moe_layers = info->moe_layers,
                .experts = info->experts,
                .experts_used = info->experts_used,
                .weight_bytes = info->weight_bytes,
        };

        sched_model_init(&offer->sched, &shape, 0);
        offer->sched.short_rows_max = offer->server->config->prompt_rows_max;
}

/* As many rows of a long pass as the configuration wants, or as memory should be given for. Asks of a file that no
 * model uses yet. */
static int offer_long_rows(const struct offer *offer, struct model_file *file, const struct model_options *model,
                           uint32_t *ret) {
        const struct config *config = offer->server->config;
        struct forecast_options options = {
                .model = *model,
                .threads = config->threads,
                .rows = model->rows_max,
                .long_steps = LONG_PASSES,
                .long_rows = config->long_rows_max,
                .long_bytes = LONG_PASS_BYTES,
        };
        struct model_forecast forecast = {};
        int r = 0;

        if (config->long_rows_max > model->rows_max)
                r = model_file_forecast(&forecast, file, &options);
        *ret = forecast.long_rows;
        return r;
}

static int offer_open(struct offer *offer, struct model_file *file, const struct config_model *model,
                      struct reason *reason) {
        const struct config *config = offer->server->config;
        struct model_options options = {
                .kv_type = config_kv_quant(config->kv_type, offer->server->backend->kv_type),
                .kv_bytes = config->kv_memory,
                .rows_max = offer->server->rows_max,
                .context_max = config->context_max,
                .context_extend = config->context_extend,
        };
        struct reason why = REASON_INIT;
        uint32_t long_rows;
        int r;

        r = offer_long_rows(offer, file, &options, &long_rows);
        if (r == 0)
                r = model_new(&offer->model, offer->server->backend, find_same(offer->server, file), &options, &why);
        if (r == 0)
                r = step_new(&offer->step, offer->model);
        if (r == 0)
                r = sampler_scratch_new(&offer->scratch, model_info(offer->model)->vocab);
        if (r == 0)
                r = prefix_cache_new(&offer->prefixes, offer->model);
        if (r == 0) {
                offer_init_sched(offer);
                r = long_passes_new(offer, long_rows);
        }
        return r != 0 ? explain(model, r, &why, reason) : 0;
}

static int offer_init(struct offer *offer, struct server *server, const struct config_model *model) {
        *offer = (struct offer) {
                .server = server,
                .handle = ++server->handles,
                .used = now_nsec(),
        };
        list_init(&offer->running);
        list_init(&offer->waiting);
        list_init(&offer->accounts);
        list_init(&offer->link);
        list_init(&offer->fetch.job.link);
        offer->name = strdup(model->name);
        offer->file = strdup(model->file);
        offer->parts = calloc(server->rows_max, sizeof(*offer->parts));
        offer->streams = calloc(server->rows_max, sizeof(*offer->streams));
        return offer->name && offer->file && offer->parts && offer->streams ? 0 : -ENOMEM;
}

int offer_new(struct offer **ret, struct server *server, const struct config_model *model, struct model_file *file,
              struct reason *reason) {
        struct offer *offer = malloc(sizeof(*offer));
        int r;

        if (!offer)
                return -ENOMEM;
        r = offer_init(offer, server, model);
        if (r == 0)
                r = offer_open(offer, file, model, reason);
        if (r != 0) {
                offer_free(offer);
                return r;
        }
        *ret = offer;
        return 0;
}

static void offer_log_calibration(const struct offer *offer) {
        const char *why;

        switch (model_file_calibration(model_file(offer->model), &why)) {
        case MODEL_CALIBRATION_NONE:
                return;
        case MODEL_CALIBRATION_REFUSED:
                log_line(LOG_WARNING, log_fields(offer), "model %s: served without the calibration beside it: %s",
                         offer->name, why);
                return;
        case MODEL_CALIBRATION_PLAN:
        case MODEL_CALIBRATION_PREDICTOR:
                log_line(LOG_INFO, log_fields(offer), "model %s: calibrated", offer->name);
                return;
        }
}

static void offer_log(const struct offer *offer) {
        const struct model_info *info = model_info(offer->model);

        log_line(LOG_INFO, log_fields(offer),
                 "model %s: %s, %.1f M parameters, %u layers, %u of %u experts, context %u, %u KV pages, %s",
                 offer->name, info->architecture, (double) info->parameters / 1e6, info->layers, info->experts_used,
                 info->experts, info->context, info->kv_pages, offer->file);
        offer_log_calibration(offer);
}

/* A file that is compared to all others. */
struct sharing {
        struct loader_job job;
        struct server *server;
        struct model_file *file;
        int result;
        size_t n;
        struct model_file *others[];
};

static void sharing_run(struct job *job) {
        struct sharing *sharing = container_of(job, struct sharing, job.job);

        sharing->result = model_file_share(sharing->file, sharing->others, sharing->n, &sharing->server->loader_stop);
}

static void sharing_drop(struct loader_job *job) {
        struct sharing *sharing = container_of(job, struct sharing, job);

        for (size_t i = 0; i < sharing->n; i++) {
                model_file_rest(sharing->others[i]);
                model_file_unref(sharing->others[i]);
        }
        model_file_rest(sharing->file);
        model_file_unref(sharing->file);
        free(sharing);
}

static void sharing_done(struct loader_job *job) {
        struct sharing *sharing = container_of(job, struct sharing, job);

        if (sharing->result < 0)
                log_warning("not all that models have in common is shared: %s", strerror(-sharing->result));
        sharing_drop(job);
}

static bool sharing_has(const struct sharing *sharing, const struct model_file *file) {
        for (size_t i = 0; i < sharing->n; i++)
                if (sharing->others[i] == file)
                        return true;
        return sharing->file == file;
}

/* Begins to look for what its file has in common with others. */
static int offer_share(struct offer *offer) {
        struct server *server = offer->server;
        struct sharing *sharing;
        struct offer *other;

        if (!(server->backend->flags & BACKEND_HOST_MEMORY) || server->n_offers < 2)
                return 0;
        sharing = calloc(1, sizeof(*sharing) + server->n_offers * sizeof(sharing->others[0]));
        if (!sharing)
                return -ENOMEM;
        sharing->server = server;
        sharing->file = model_file_ref(model_file(offer->model));
        sharing->job = (struct loader_job) { .job.run = sharing_run, .done = sharing_done, .drop = sharing_drop };
        list_init(&sharing->job.job.link);
        list_for_each(other, &server->offers, link)
                if (!sharing_has(sharing, model_file(other->model)))
                        sharing->others[sharing->n++] = model_file_ref(model_file(other->model));
        worker_submit(&server->sharer, &sharing->job.job);
        return 0;
}

void offer_set_default(struct offer *offer) {
        list_unlink(&offer->link);
        list_append(offer->server->offers.next, &offer->link);
}

void offer_retire(struct offer *offer) {
        offer->retired = true;
        offer->server->n_retired++;
        log_line(LOG_INFO, log_fields(offer), "model %s from %s is no longer offered; %u requests use it", offer->name,
                 offer->file, offer->n_users);
}

void offer_install(struct offer *offer, bool is_default) {
        struct offer *old = server_offer_named(offer->server, offer->name);

        offer->server->n_offers++;
        list_append(old ? &old->link : &offer->server->offers, &offer->link);
        if (old)
                offer_retire(old);
        if (is_default)
                offer_set_default(offer);
        offer_log(offer);
        if (warming_begin(offer) < 0)
                log_line(LOG_WARNING, log_fields(offer), "no memory to read model %s ahead", offer->name);
        if (offer_share(offer) < 0)
                log_line(LOG_WARNING, log_fields(offer), "no memory to find what model %s shares with others",
                         offer->name);
}

void offer_use(struct offer *offer) {
        offer->n_users++;
}

void offer_unuse(struct offer *offer) {
        offer->n_users--;
        offer->used = now_nsec();
}

static void offer_fetch(struct job *job) {
        struct offer *offer = container_of(job, struct offer, fetch.job);

        offer->fetch_result = model_file_fetch(model_file(offer->model), &offer->server->loader_stop);
}

static int offer_ready(struct offer *offer) {
        int r = offer->fetch_result;

        if (r == 0)
                r = model_wake(offer->model);
        if (r == 0)
                r = step_new(&offer->step, offer->model);
        if (r != 0)
                model_sleep(offer->model);
        return r;
}

static void offer_refuse_waiting(struct offer *offer, int error) {
        struct stream *stream, *next;

        log_line(LOG_ERR, log_fields(offer), "model %s cannot be loaded again: %s", offer->name, strerror(error));
        list_for_each_safe(stream, next, &offer->waiting, place) {
                stream_fail(stream, ENODEV, "the model was idle and cannot be loaded again");
                if (stream->peer)
                        peer_publish(stream->peer);
        }
        offer->admit = false;
}

static void offer_fetched(struct loader_job *job) {
        struct offer *offer = container_of(job, struct offer, fetch);
        int r;

        r = offer_ready(offer);
        offer->state = r == 0 ? OFFER_READY : OFFER_IDLE;
        offer->admit = true;
        if (r != 0)
                offer_refuse_waiting(offer, -r);
        if (!model_file_intact(model_file(offer->model)))
                change_reopen(offer);
        offer_unuse(offer);
}

void offer_wake(struct offer *offer) {
        if (offer->state != OFFER_IDLE)
                return;
        offer->state = OFFER_LOADING;
        offer->fetch.job.run = offer_fetch;
        offer->fetch.done = offer_fetched;
        offer_use(offer);
        worker_submit(&offer->server->loader, &offer->fetch.job);
}

static void offer_sleep(struct offer *offer) {
        prefixes_clear(offer);
        long_passes_rest(offer);
        step_free(offer->step);
        offer->step = NULL;
        model_sleep(offer->model);
        offer->state = OFFER_IDLE;
        log_line(LOG_INFO, log_fields(offer), "model %s is idle: its memory is given back until the next request",
                 offer->name);
}

void offers_admit(struct server *server) {
        struct offer *offer;

        list_for_each(offer, &server->offers, link)
                offer->admit = true;
}

void offers_configure(struct server *server) {
        const struct config *config = server->config;
        struct offer *offer;

        list_for_each(offer, &server->offers, link) {
                const struct config_model *model = config_find_model(config, offer->name);

                offer->idle_nsec = config_idle_unload(config, model);
                offer->shares_prefixes = config_prefix_cache(config, model);
                if (!offer->shares_prefixes)
                        prefix_cache_evict(offer, NULL, UINT32_MAX);
        }
}

void offers_reap(struct server *server) {
        struct offer *offer, *next;

        if (server->n_retired == 0)
                return;
        list_for_each_safe(offer, next, &server->offers, link)
                if (offer->retired && offer->n_users == 0)
                        offer_free(offer);
}

uint64_t offers_rest(struct server *server, uint64_t now) {
        uint64_t first = UINT64_MAX;
        struct offer *offer;

        list_for_each(offer, &server->offers, link) {
                if (offer->idle_nsec == 0 || offer->n_users > 0 || offer->state != OFFER_READY)
                        continue;
                if (now >= offer->used + offer->idle_nsec)
                        offer_sleep(offer);
                else
                        first = MIN(first, offer->used + offer->idle_nsec - now);
        }
        return first;
}
