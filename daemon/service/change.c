/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/util.h"
#include "change.h"
#include "manager.h"
#include "offer.h"
#include "peer.h"
#include "report.h"
#include "verbs.h"

enum { CHANGES_MAX = 16 };

/* A model to be opened. */
struct change_item {
        const struct config_model *model; /* the change's config's */
        struct model_file *file;
        struct offer *offer;
};

struct change {
        struct server *server;
        struct list link; /* in server->changes */
        struct loader_job reading, opening;
        struct peer *peer; /* who waits for a reply to `id`; NULL: nobody */
        uint64_t id;
        bool reload;
        bool by_signal;
        struct config *config; /* reload: to be put in force, once it is read; else only its one model counts */
        uint64_t n_saves;      /* the server's when it began to be read */
        struct change_item *items;
        size_t n_items;
        int result; /* of the reading, then of the opening */
        struct reason reason;
};

static void change_free(struct change *change) {
        list_unlink(&change->link);
        change->server->n_changes--;
        for (size_t i = 0; i < change->n_items; i++) {
                model_file_unref(change->items[i].file);
                offer_free(change->items[i].offer);
        }
        free(change->items);
        config_free(change->config);
        free(change);
}

/* Whether a reload has to open this model: it is new, or its section or its file has changed. What was loaded or
 * unloaded at run time stays as long as its section does. */
static bool must_open(struct server *server, const struct config_model *model) {
        const struct config_model *old = config_find_model(server->config, model->name);
        const struct offer *offer = server_offer_named(server, model->name);

        if (!old || strcmp(old->file, model->file) != 0)
                return true;
        return offer && strcmp(offer->file, model->file) == 0 &&
               model_file_changed(model_file(offer->model), offer->file);
}

static void change_read(struct job *job) {
        struct change *change = container_of(job, struct change, reading.job);

        change->result = change->server->read_config(change->server, &change->config, &change->reason);
}

static void change_open(struct job *job) {
        struct change *change = container_of(job, struct change, opening.job);

        for (size_t i = 0; i < change->n_items && change->result == 0; i++)
                change->result = offer_open_file(&change->items[i].file, change->items[i].model, &change->reason);
}

static int make_offers(struct change *change) {
        int r = 0;

        if (change->server->n_offers + change->n_items > CONFIG_MODELS_MAX)
                return reason_return(&change->reason, SERVER_E_MODEL,
                                     "%zu models more would be too many: at most %u are there at a time, with those "
                                     "that end what they have", change->n_items, (unsigned) CONFIG_MODELS_MAX);
        for (size_t i = 0; i < change->n_items && r == 0; i++)
                r = offer_new(&change->items[i].offer, change->server, change->items[i].model, change->items[i].file,
                              &change->reason);
        return r;
}

static void install_offers(struct change *change) {
        for (size_t i = 0; i < change->n_items; i++) {
                offer_install(change->items[i].offer, change->items[i].model->is_default && !change->reload);
                change->items[i].offer = NULL;
        }
}

/* What the old configuration offered and the new one does not. */
static void retire_absent(struct server *server, const struct config *old) {
        for (size_t i = 0; i < old->n_models; i++) {
                struct offer *offer = server_offer_named(server, old->models[i].name);

                if (offer && strcmp(offer->file, old->models[i].file) == 0 &&
                    !config_find_model(server->config, offer->name))
                        offer_retire(offer);
        }
}

static void update_default(struct server *server, const struct config *old) {
        const struct config_model *was = config_default_model(old), *is = config_default_model(server->config);
        struct offer *offer = is ? server_offer_named(server, is->name) : NULL;

        if (offer && (!was || strcmp(was->name, is->name) != 0))
                offer_set_default(offer);
}

static int put_in_force(struct change *change) {
        struct server *server = change->server;
        struct config *old = server->config;
        int r;

        if (!change->reload) {
                install_offers(change);
                return 0;
        }
        /* What was saved since is in force, and was not read. */
        r = server_reconfigure(server, change->config, server->n_saves == change->n_saves);
        if (r < 0)
                return r;
        retire_absent(server, old);
        install_offers(change);
        update_default(server, old);
        change->config = NULL;
        config_free(old);
        return 0;
}

static void reply(struct change *change, int error) {
        struct control_builder builder;
        struct offer *offer = NULL;

        if (!change->peer || change->peer->dead)
                return;
        control_builder_init(&builder);
        if (error == 0 && !change->reload)
                offer = server_offer_named(change->server, change->config->models[0].name);
        if (offer)
                report_model(&builder, offer);
        verbs_reply(change->peer, change->id, &builder, error, &change->reason);
        control_builder_deinit(&builder);
}

static void change_tell(struct change *change, int r) {
        if (r < 0)
                reason_set(&change->reason, "the daemon cannot do this now: %s", strerror(-r));
        if (r != 0)
                log_error("%s: %s", change->reload ? "configuration not reloaded, the old one stays" : "not loaded",
                          change->reason.text);
        else if (change->reload)
                log_info("configuration reloaded");
        if (change->by_signal)
                manager_ready("Serving");
        reply(change, r < 0 ? -r : r > 0 ? EINVAL : 0);
}

static void changes_begin(struct server *server);

static void change_end(struct change *change, int r) {
        struct server *server = change->server;

        change_tell(change, r);
        change_free(change);
        changes_begin(server);
}

static void change_opened(struct loader_job *job) {
        struct change *change = container_of(job, struct change, opening);
        int r = change->result;

        if (r == 0)
                r = make_offers(change);
        if (r == 0)
                r = put_in_force(change);
        if (r == 0)
                offers_configure(change->server);
        change_end(change, r);
}

/* Only now is it known what the changes before this one have left. */
static int begin_opening(struct change *change) {
        const struct config *config = change->config;

        change->items = calloc(config->n_models + 1, sizeof(*change->items));
        if (!change->items)
                return -ENOMEM;
        for (size_t i = 0; i < config->n_models; i++)
                if (!change->reload || must_open(change->server, &config->models[i]))
                        change->items[change->n_items++].model = &config->models[i];
        worker_submit(&change->server->loader, &change->opening.job);
        return 0;
}

static void change_was_read(struct loader_job *job) {
        struct change *change = container_of(job, struct change, reading);
        int r = change->result;

        if (r == 0)
                r = begin_opening(change);
        if (r != 0)
                change_end(change, r);
}

static void changes_begin(struct server *server) {
        struct change *change;
        int r;

        if (list_empty(&server->changes))
                return;
        change = list_entry(server->changes.next, struct change, link);
        if (change->reload) {
                change->n_saves = server->n_saves;
                worker_submit(&server->loader, &change->reading.job);
                return;
        }
        r = begin_opening(change);
        if (r != 0)
                change_end(change, r);
}

/* Takes `config`, also on failure; NULL: a reload. */
static int change_start(struct server *server, struct peer *peer, uint64_t id, struct config *config,
                        struct reason *reason) {
        _cleanup_(config_freep) struct config *taken = config;
        struct change *change;

        if (server->n_changes == CHANGES_MAX)
                return reason_return(reason, EBUSY, "%u changes of the models are still under way",
                                     (unsigned) CHANGES_MAX);
        change = malloc(sizeof(*change));
        if (!change)
                return -ENOMEM;
        *change = (struct change) {
                .server = server, .peer = peer, .id = id, .config = steal_ptr(taken),
                .reload = !config, .by_signal = !config && !peer,
                .reading = { .job.run = change_read, .done = change_was_read },
                .opening = { .job.run = change_open, .done = change_opened },
        };
        list_init(&change->reading.job.link);
        list_init(&change->opening.job.link);
        list_append(&server->changes, &change->link);
        server->n_changes++;
        if (server->n_changes == 1)
                changes_begin(server);
        return 0;
}

int change_load(struct server *server, struct peer *peer, uint64_t id, const char *name, const char *file,
                bool is_default, struct reason *reason) {
        struct config *config;
        int r;

        if (server->draining)
                return reason_return(reason, ESHUTDOWN, "the daemon is stopping and loads no model");
        r = config_new(&config);
        if (r < 0)
                return r;
        r = config_add_model(config, name, file, reason);
        if (r != 0) {
                config_free(config);
                return r < 0 ? r : EINVAL;
        }
        config->models[0].is_default = is_default;
        return change_start(server, peer, id, config, reason);
}

int change_reload(struct server *server, struct peer *peer, uint64_t id, struct reason *reason) {
        return change_start(server, peer, id, NULL, reason);
}

static bool is_being_loaded(const struct offer *offer) {
        const struct change *change;

        list_for_each(change, &offer->server->changes, link)
                if (!change->reload && strcmp(change->config->models[0].name, offer->name) == 0)
                        return true;
        return false;
}

void change_reopen(struct offer *offer) {
        struct reason reason = REASON_INIT;
        int r;

        if (offer->retired || offer->server->draining || is_being_loaded(offer))
                return;
        log_error("model %s: its file was written to or cut short while in use, or cannot be read: opening %s anew",
                  offer->name, offer->file);
        r = change_load(offer->server, NULL, 0, offer->name, offer->file, false, &reason);
        if (r != 0)
                log_error("model %s: not opened anew: %s", offer->name,
                          reason.text[0] ? reason.text : strerror(-r));
}

void changes_forget(struct server *server, const struct peer *peer) {
        struct change *change;

        list_for_each(change, &server->changes, link)
                if (change->peer == peer)
                        change->peer = NULL;
}

void changes_free(struct server *server) {
        struct change *change, *next;

        if (!server->changes.next)
                return;
        list_for_each_safe(change, next, &server->changes, link)
                change_free(change);
}
