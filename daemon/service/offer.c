/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "offer.h"

void offer_free(struct offer *offer) {
        if (!offer)
                return;
        list_unlink(&offer->link);
        step_free(offer->step);
        model_free(offer->model);
        free(offer->parts);
        free(offer->streams);
        free(offer->name);
        free(offer);
}

static int offer_open(struct offer *offer, const char *file, struct reason *reason) {
        const struct config *config = offer->server->config;
        struct model_options options = {
                .kv_type = config->kv_type == CONFIG_KV_F32 ? QUANT_F32 : QUANT_F16,
                .kv_bytes = config->kv_memory,
                .rows_max = offer->server->rows_max,
                .context_max = config->context_max,
        };
        struct reason why = REASON_INIT;
        int r;

        r = model_open(&offer->model, offer->server->backend, file, &options, &why);
        if (r != 0) {
                if (why.text[0])
                        reason_set(reason, "model %s: %s", offer->name, why.text);
                else
                        reason_set(reason, "model %s: %s: %s", offer->name, file, strerror(r < 0 ? -r : EINVAL));
                return SERVER_E_MODEL;
        }
        return step_new(&offer->step, offer->model);
}

static void offer_log(const struct offer *offer) {
        const struct model_info *info = model_info(offer->model);
        char fields[CONFIG_MODEL_NAME_MAX + 16];

        snprintf(fields, sizeof(fields), "MODEL=%s", offer->name);
        log_line(LOG_INFO, fields,
                 "model %s: %s, %.1f M parameters, %u layers, %u of %u experts, context %u, %u KV pages, %s", offer->name,
                 info->architecture, (double) info->parameters / 1e6, info->layers, info->experts_used, info->experts,
                 info->context, info->kv_pages, info->file);
}

int offer_new(struct server *server, const struct config_model *model, struct reason *reason) {
        struct offer *offer = calloc(1, sizeof(*offer));
        int r = -ENOMEM;

        if (!offer)
                return -ENOMEM;
        offer->server = server;
        list_init(&offer->running);
        list_init(&offer->waiting);
        list_init(&offer->link);
        offer->handle = ++server->handles;
        offer->name = strdup(model->name);
        offer->parts = calloc(server->rows_max, sizeof(*offer->parts));
        offer->streams = calloc(server->rows_max, sizeof(*offer->streams));
        if (offer->name && offer->parts && offer->streams)
                r = offer_open(offer, model->file, reason);
        if (r != 0) {
                offer_free(offer);
                return r;
        }
        if (model->is_default)
                list_append(server->offers.next, &offer->link);
        else
                list_append(&server->offers, &offer->link);
        offer_log(offer);
        return 0;
}
