/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <stdio.h>
#include <unistd.h>

#include "account.h"
#include "base/util.h"
#include "chat.h"
#include "estimate.h"
#include "offer.h"
#include "peer.h"
#include "prefixes.h"
#include "quota.h"
#include "report.h"
#include "stream.h"

enum {
        REPORT_SHARED_MAX = 4,
        REPORT_FULL = CONTROL_MESSAGE_MAX - 16 * 1024, /* bytes, from which on nothing more is put into a list */
};

/* Whether another map may be added; those that find no room are counted. */
static bool report_room(const struct control_builder *reply, uint64_t *omitted) {
        bool room = reply->size < REPORT_FULL;

        *omitted += !room;
        return room;
}

/* The weights that it has in common with other models on offer. All pairs would be more than a message holds. */
static void report_shared(struct control_builder *reply, const struct offer *offer) {
        struct offer *other;
        unsigned n = 0;

        control_begin_array(reply, "shared");
        list_for_each(other, &offer->server->offers, link) {
                uint64_t bytes = model_file_shared(model_file(offer->model), model_file(other->model));

                if (other == offer || other->retired || bytes == 0 || n++ >= REPORT_SHARED_MAX)
                        continue;
                control_begin_map(reply, NULL);
                control_put_string(reply, "model", other->name);
                control_put_u64(reply, "bytes", bytes);
                control_end(reply);
        }
        control_end(reply);
}

static void report_calibration(struct control_builder *reply, const struct offer *offer) {
        static const char *const names[] = {
                [MODEL_CALIBRATION_REFUSED] = "refused",
                [MODEL_CALIBRATION_PLAN] = "layers",
                [MODEL_CALIBRATION_PREDICTOR] = "predictor",
        };
        const char *why, *name = names[model_file_calibration(model_file(offer->model), &why)];

        if (name)
                control_put_string(reply, "calibration", name);
}

void report_model(struct control_builder *reply, const struct offer *offer) {
        const struct model_info *info = model_info(offer->model);
        const struct chat_template *chat = model_chat_template(offer->model);

        control_put_string(reply, "name", offer->name);
        control_put_u64(reply, "handle", offer->handle);
        control_put_string(reply, "architecture", info->architecture);
        control_put_string(reply, "file", offer->file);
        control_put_string(reply, "state", offer_state_name(offer));
        control_put_u64(reply, "streams", offer->n_running + offer->n_waiting);
        control_put_u64(reply, "parameters", info->parameters);
        control_put_u64(reply, "size", info->file_bytes);
        control_put_u64(reply, "context", info->context);
        control_put_u64(reply, "vocab", info->vocab);
        control_put_u64(reply, "layers", info->layers);
        control_put_u64(reply, "moe_layers", info->moe_layers);
        control_put_u64(reply, "experts", info->experts);
        control_put_u64(reply, "experts_used", info->experts_used);
        control_put_u64(reply, "kv_pages", info->kv_pages);
        control_put_u64(reply, "kv_bytes_per_token", info->kv_bytes_per_token);
        report_shared(reply, offer);
        if (chat)
                control_put_string(reply, "template", chat_template_name(chat));
        report_calibration(reply, offer);
}

static void report_request(struct control_builder *reply, const struct stream *stream) {
        uint64_t row_layers = (uint64_t) stream->rows_seen * model_info(stream->offer->model)->moe_layers;
        const struct stream_cap *cap = &stream->caps[stream->n_caps - 1];

        control_put_u64(reply, "number", stream->serial);
        control_put_string(reply, "model", stream->offer->name);
        control_put_string(reply, "state", stream_state_name(stream));
        control_put_u64(reply, "prompt", stream->n_prompt);
        control_put_u64(reply, "prompt_done", MIN(stream->rows_seen, stream->n_prompt));
        control_put_u64(reply, "generated", stream->n_generated);
        control_put_u64(reply, "activations", stream->activations);
        control_put_u64(reply, "experts_milli", row_layers ? 1000 * stream->activations / row_layers : 0);
        control_put_u64(reply, "cap_milli", cap->cap_milli);
        control_put_string(reply, "rule", trace_rule_name(cap->rule));
        control_put_u64(reply, "kv_pages", stream->sequence ? sequence_pages(stream->sequence) : 0);
        if (stream->state != STREAM_WAITING)
                return;
        control_put_u64(reply, "position", stream->position);
        if (stream->begins != UINT64_MAX)
                control_put_u64(reply, "estimate_nsec", stream->begins);
}

static void report_requests(struct control_builder *reply, const struct peer *peer, uint64_t *omitted) {
        struct stream *stream;

        control_begin_array(reply, "requests");
        list_for_each(stream, &peer->streams, link) {
                if (!list_empty(&stream->grave) || !report_room(reply, omitted))
                        continue;
                control_begin_map(reply, NULL);
                report_request(reply, stream);
                control_end(reply);
        }
        control_end(reply);
}

static void report_peer(struct control_builder *reply, const struct peer *peer, uint64_t *omitted) {
        uint64_t queued = 0, pages = 0, cap = 0, position = 0;
        struct stream *stream;

        list_for_each(stream, &peer->streams, link) {
                queued += stream->state == STREAM_WAITING || stream->state == STREAM_TOKENIZING;
                if (stream->sequence)
                        pages += sequence_pages(stream->sequence);
                cap = MAX(cap, (uint64_t) stream_cap_milli(stream));
                if (stream->state == STREAM_WAITING && position == 0)
                        position = stream->position;
        }
        control_put_u64(reply, "pid", (uint64_t) peer->credentials.pid);
        control_put_u64(reply, "uid", peer->credentials.uid);
        control_put_string(reply, "unit", peer->unit);
        control_put_string(reply, "name", peer->name);
        control_put_string(reply, "principal", peer->tenant->name);
        control_put_u64(reply, "connections", 1);
        control_put_u64(reply, "streams", peer->n_streams);
        control_put_u64(reply, "queued", queued);
        if (position > 0)
                control_put_u64(reply, "position", position);
        control_put_u64(reply, "kv_pages", pages);
        control_put_u64(reply, "generated", peer->tokens_generated);
        control_put_u64(reply, "prompt", peer->tokens_prompt);
        control_put_u64(reply, "cached", peer->tokens_cached);
        control_put_u64(reply, "activations", peer->activations);
        control_put_u64(reply, "experts_milli", peer->row_layers ? 1000 * peer->activations / peer->row_layers : 0);
        control_put_u64(reply, "cap_milli", cap ? cap : peer->policy.experts_max_milli);
        control_put_u64(reply, "weight", peer->tenant->principal.policy.weight);
        report_requests(reply, peer, omitted);
}

void report_peers(struct control_builder *reply, const struct server *server, const struct user *only) {
        uint64_t omitted = 0;
        struct peer *peer;

        estimate_waiting(server);
        control_begin_array(reply, "peers");
        list_for_each(peer, &server->peers, link) {
                if (peer->dead || (only && peer->user != only) || !report_room(reply, &omitted))
                        continue;
                control_begin_map(reply, NULL);
                report_peer(reply, peer, &omitted);
                control_end(reply);
        }
        control_end(reply);
        if (omitted > 0)
                control_put_u64(reply, "omitted", omitted);
}

static uint64_t count_descriptors(void) {
        struct dirent *entry;
        uint64_t n = 0;
        DIR *dir = opendir("/proc/self/fd");

        if (!dir)
                return 0;
        while ((entry = readdir(dir)))
                n += entry->d_name[0] != '.';
        closedir(dir);
        return n - 1; /* without the one just used */
}

static uint64_t resident_bytes(void) {
        _cleanup_(fclosep) FILE *f = fopen("/proc/self/statm", "re");
        unsigned long long size, resident;

        if (!f || fscanf(f, "%llu %llu", &size, &resident) != 2)
                return 0;
        return resident * (uint64_t) sysconf(_SC_PAGESIZE);
}

struct counter {
        const char *name;
        size_t offset; /* in struct metrics */
};

#define COUNTER(field) { #field, offsetof(struct metrics, field) }

static const struct counter counters_of_daemon[] = {
        COUNTER(iterations), COUNTER(rows), COUNTER(rows_max), COUNTER(busy_nsec), COUNTER(step_nsec),
        COUNTER(requests), COUNTER(requests_done), COUNTER(requests_cancelled), COUNTER(requests_refused),
        COUNTER(requests_failed), COUNTER(evictions), COUNTER(stalls), COUNTER(wakeups), COUNTER(sleeps),
        COUNTER(connections), COUNTER(connections_refused), COUNTER(connections_dropped), COUNTER(echoes),
};

/* Of all users together, so for administrators alone: how long a text is, how many experts it took and what of it is in
 * the cache tells of the text. */
static const struct counter counters_of_texts[] = {
        COUNTER(tokens_prompt), COUNTER(tokens_generated), COUNTER(tokens_recomputed), COUNTER(tokens_cached),
        COUNTER(activations), COUNTER(prefix_hits), COUNTER(prefix_evictions),
};

#undef COUNTER

static void report_each(struct control_builder *reply, const struct metrics *m, const struct counter *counters,
                        size_t n) {
        for (size_t i = 0; i < n; i++)
                control_put_u64(reply, counters[i].name,
                                *(const uint64_t *) ((const char *) m + counters[i].offset));
}

static void report_counters(struct control_builder *reply, const struct metrics *m) {
        report_each(reply, m, counters_of_daemon, ELEMENTS(counters_of_daemon));
        control_put_double(reply, "mean_rows", m->iterations ? (double) m->rows / (double) m->iterations : 0.0);
}

static void report_texts(struct control_builder *reply, const struct server *server) {
        uint64_t pages = 0, idle = 0;
        struct offer *offer;

        list_for_each(offer, &server->offers, link) {
                pages += prefixes_pages(offer);
                idle += prefixes_idle(offer);
        }
        control_put_u64(reply, "prefix_pages", pages);
        control_put_u64(reply, "prefix_pages_idle", idle);
        report_each(reply, &server->metrics, counters_of_texts, ELEMENTS(counters_of_texts));
}

void report_stats(struct control_builder *reply, const struct server *server, bool all) {
        uint64_t pages = 0, pages_free = 0, running = 0, waiting = 0, models = 0, users = 0;
        struct offer *offer;
        struct user *user;

        list_for_each(offer, &server->offers, link) {
                pages += model_awake(offer->model) ? model_info(offer->model)->kv_pages : 0;
                pages_free += model_kv_pages_free(offer->model) + prefixes_idle(offer) + offer->trial_pages;
                running += offer->n_running;
                waiting += offer->n_waiting;
                models += !offer->retired;
        }
        list_for_each(user, &server->users.list, link)
                users++;
        control_put_string(reply, "version", MOED_VERSION);
        control_put_u64(reply, "pid", (uint64_t) getpid());
        control_put_string(reply, "backend", server->backend_name);
        control_put_u64(reply, "uptime_msec", (now_nsec() - server->started) / NSEC_PER_MSEC);
        control_put_u64(reply, "models", models);
        control_put_u64(reply, "peers", server->n_peers);
        control_put_u64(reply, "users", users);
        control_put_u64(reply, "streams", server->n_streams);
        control_put_u64(reply, "streams_running", running);
        control_put_u64(reply, "streams_waiting", waiting);
        control_put_u64(reply, "kv_pages", pages);
        control_put_u64(reply, "kv_pages_free", pages_free);
        control_put_u64(reply, "descriptors", count_descriptors());
        control_put_u64(reply, "resident_bytes", resident_bytes());
        control_put_bool(reply, "draining", server->draining);
        report_counters(reply, &server->metrics);
        if (all)
                report_texts(reply, server);
}

static void report_key(struct control_builder *reply, enum policy_key key, const struct policy *policy,
                       const struct policy_rule *rule) {
        char value[POLICY_VALUE_MAX];

        policy_key_format(key, policy_key_get(policy, key), value);
        control_begin_map(reply, NULL);
        control_put_string(reply, "key", policy_key_name(key));
        control_put_string(reply, "value", value);
        if (rule) {
                control_put_string(reply, "rule", rule->name);
                control_put_string(reply, "source", rule->sources[key]);
        }
        control_end(reply);
}

/* Every key as a number for programs; and in words those that a rule sets, with the rule, or `all`. */
static void report_policy(struct control_builder *reply, const struct policy_match *match, bool all) {
        for (enum policy_key key = 0; key < _POLICY_KEY_N; key++)
                control_put_u64(reply, policy_key_field(key), policy_key_get(&match->policy, key));
        control_begin_array(reply, "keys");
        for (enum policy_key key = 0; key < _POLICY_KEY_N; key++)
                if (all || match->rules[key])
                        report_key(reply, key, &match->policy, match->rules[key]);
        control_end(reply);
}

static void report_tenant(struct control_builder *reply, const struct tenant *tenant, bool all) {
        const struct principal *p = &tenant->principal;
        struct policy_match match = { .policy = p->policy };

        /* Of a principal without a connection the rules are not known: those of its groups could count. */
        (void) account_match(tenant, &match);
        control_begin_map(reply, NULL);
        control_put_string(reply, "principal", tenant->name);
        report_policy(reply, &match, all);
        control_put_u64(reply, "activations", p->activations);
        control_put_u64(reply, "row_layers", tenant->row_layers);
        control_put_u64(reply, "served_nsec", p->served_nsec);
        control_put_u64(reply, "prompt", p->rows_prompt);
        control_put_u64(reply, "cached", tenant->tokens_cached);
        control_put_u64(reply, "generated", p->rows_generated);
        control_put_u64(reply, "connections", tenant->n_connections);
        control_put_u64(reply, "streams", tenant->n_streams);
        control_put_u64(reply, "kv_bytes", tenant->kv_bytes);
        control_end(reply);
}

static void report_rule(struct control_builder *reply, const struct policy_rule *rule) {
        control_begin_map(reply, NULL);
        control_put_string(reply, "principal", rule->name);
        control_begin_array(reply, "keys");
        for (enum policy_key key = 0; key < _POLICY_KEY_N; key++)
                if (rule->keys & (1u << key))
                        report_key(reply, key, &rule->policy, rule);
        control_end(reply);
        control_end(reply);
}

static void report_rules(struct control_builder *reply, const struct policy_table *table,
                         const struct policy_principal *one, uint64_t *omitted) {
        control_begin_array(reply, "rules");
        for (size_t i = 0; i < table->n_rules; i++)
                if ((!one || policy_principal_equal(&table->rules[i].principal, one)) && report_room(reply, omitted))
                        report_rule(reply, &table->rules[i]);
        control_end(reply);
}

void report_budgets(struct control_builder *reply, const struct server *server, const struct policy_principal *one,
                    const struct tenant *only) {
        struct tenant *tenant;
        uint64_t omitted = 0;

        quota_count(server, NULL);
        control_begin_array(reply, "budgets");
        list_for_each(tenant, &server->tenants.list, link)
                if ((!only || tenant == only) && (!one || policy_principal_equal(&tenant->who, one)) &&
                    report_room(reply, &omitted))
                        report_tenant(reply, tenant, one != NULL);
        control_end(reply);
        if (!only)
                report_rules(reply, policy_book_rules(&server->policies), one, &omitted);
        if (omitted > 0)
                control_put_u64(reply, "omitted", omitted);
}
