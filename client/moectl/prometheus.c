/* SPDX-License-Identifier: MIT */
/* The daemon's counters in the text format of Prometheus, version 0.0.4. A row of a table says what a key of an answer
 * is; a number without a row, of a daemon newer than this, is told all the same, without a type. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/util.h"
#include "escape.h"
#include "experts.h"
#include "json.h"
#include "stats.h"

struct metric {
        const char *key;  /* of the answer; NULL: the sample is 1, its labels are what it says */
        const char *name; /* without the prefix; NULL: not told */
        const char *type, *help;
        double unit;      /* the answer's, in the metric's; 0: 1 */
        const char *labels[4]; /* keys that are labels, beside those of the list */
};

#define SECONDS_OF_NSEC 1e-9
#define COUNTER(_key, _help) { #_key, #_key "_total", "counter", _help }
#define GAUGE(_key, _help) { #_key, #_key, "gauge", _help }

static const struct metric daemon_metrics[] = {
        { NULL, "info", "gauge", "Version of the daemon, and the instructions it chose.", 0, { "version", "backend" } },
        { "uptime_msec", "uptime_seconds", "gauge", "Time since the daemon started.", 1e-3 },
        GAUGE(models, "Models on offer."),
        { "peers", "connections", "gauge", "Programs that are connected." },
        GAUGE(users, "Users that hold anything of the daemon."),
        GAUGE(streams, "Generations, waiting ones included."),
        GAUGE(streams_running, "Generations that hold pages of keys and values."),
        GAUGE(streams_waiting, "Generations that wait for pages, or for their turn among their user's."),
        GAUGE(kv_pages, "Pages for keys and values, of all models that are awake."),
        GAUGE(kv_pages_free, "Pages that no generation holds."),
        { "descriptors", "open_descriptors", "gauge", "File descriptors that the daemon has open." },
        GAUGE(resident_bytes, "Memory of the daemon that is resident, mapped weights included."),
        GAUGE(prefix_pages, "Pages that the prefix cache keeps."),
        GAUGE(prefix_pages_idle, "Of these, those that no generation uses."),
        GAUGE(draining, "1 while the daemon ends."),
        COUNTER(iterations, "Forward passes."),
        COUNTER(rows, "Rows of all forward passes."),
        GAUGE(rows_max, "Most rows of one forward pass so far."),
        { "busy_nsec", "busy_seconds_total", "counter", "Time in forward passes and around them.", SECONDS_OF_NSEC },
        { "step_nsec", "step_seconds_total", "counter", "Time in forward passes alone.", SECONDS_OF_NSEC },
        COUNTER(tokens_prompt, "Rows that were prompt."),
        COUNTER(tokens_generated, "Tokens sent."),
        COUNTER(tokens_recomputed, "Rows computed once more after their pages had been taken."),
        COUNTER(tokens_cached, "Prompt tokens found in the prefix cache instead of being computed."),
        COUNTER(prefix_hits, "Requests that began with pages of the prefix cache."),
        COUNTER(prefix_evictions, "Pages that the prefix cache gave back for others."),
        COUNTER(activations, "Experts evaluated, over rows and layers."),
        COUNTER(requests, "Requests taken."),
        COUNTER(requests_done, "Requests that came to their end."),
        COUNTER(requests_cancelled, "Requests that were cancelled."),
        COUNTER(requests_refused, "Requests that were refused."),
        COUNTER(requests_failed, "Requests that failed."),
        COUNTER(evictions, "Streams whose pages were taken for another."),
        COUNTER(stalls, "Times that a stream stopped because its client did not read."),
        COUNTER(wakeups, "Clients woken by a system call."),
        COUNTER(sleeps, "Sleeps of the daemon."),
        { "connections", "connections_made_total", "counter", "Connections made." },
        COUNTER(connections_refused, "Connections turned away for a limit."),
        COUNTER(connections_dropped, "Connections ended because the client broke the protocol."),
        COUNTER(echoes, "Submissions of that kind."),
        { "pid" },
        { "mean_rows" }, /* rows over iterations */
};

static const struct metric model_metrics[] = {
        { NULL, "info", "gauge", "What the model is.", 0, { "architecture", "file" } },
        { NULL, "state", "gauge", "Whether the model is ready, idle, loading or stale.", 0, { "state" } },
        GAUGE(streams, "Generations of the model."),
        GAUGE(parameters, "Parameters."),
        { "size", "file_bytes", "gauge", "Size of its file." },
        { "context", "context_tokens", "gauge", "Longest text." },
        GAUGE(kv_pages, "Pages for keys and values."),
        GAUGE(kv_bytes_per_token, "Keys and values of a token."),
        GAUGE(layers, "Layers."),
        GAUGE(moe_layers, "Layers that have experts."),
        GAUGE(experts, "Experts of such a layer."),
        GAUGE(experts_used, "Experts that a row uses at most."),
        GAUGE(vocab, "Tokens that it knows."),
        { "handle" },
};

static const struct metric principal_metrics[] = {
        COUNTER(activations, "Experts evaluated for the principal, over rows and layers."),
        COUNTER(row_layers, "Its rows times layers with experts: activations over this are the mean of experts."),
        { "served_nsec", "served_seconds_total", "counter", "Computing time that it was charged.", SECONDS_OF_NSEC },
        { "prompt", "tokens_prompt_total", "counter", "Its rows that were prompt." },
        { "cached", "tokens_cached_total", "counter", "Its tokens that were found in the prefix cache." },
        { "generated", "tokens_generated_total", "counter", "Its rows that were generated." },
        GAUGE(connections, "Its programs that are connected."),
        GAUGE(kv_bytes, "What it holds of the memory for keys and values."),
        GAUGE(streams, "Its generations, waiting ones included."),
        { "experts_max_milli", "experts_max", "gauge", "ExpertsMax=; 0: no limit.", 1e-3 },
        { "experts_min_milli", "experts_min", "gauge", "ExpertsMin=.", 1e-3 },
        GAUGE(weight, "Weight=."),
        { "latency_target_nsec", "latency_target_seconds", "gauge", "LatencyTarget=; 0: none.", SECONDS_OF_NSEC },
        GAUGE(activation_rate, "ActivationRate=, per second; 0: no limit."),
        GAUGE(activation_burst, "ActivationBurst=; 0: one second's."),
        { "kv_max", "kv_max_bytes", "gauge", "KvMax=; 0: no limit." },
        GAUGE(queue_max, "QueueMax=; 0: no limit but the user's."),
        { "session_max", "session_max_bytes", "gauge", "SessionMax=; 0: no limit." },
        { "class", "class", "gauge", "Class=: 0 interactive, 1 batch, 2 idle." },
        GAUGE(on_empty, "OnEmpty=: 0 degrade, 1 wait."),
        GAUGE(adaptive, "Adaptive=."),
};

/* Things of one kind, a sample each. */
struct family {
        const char *prefix;
        const struct metric *metrics;
        size_t n_metrics;
        const struct json *items;      /* an array of maps */
        const char *label, *label_key; /* what tells them apart, if there can be several */
};

/* The value is escaped for terminals first, which leaves no newline in it. */
static void print_label(const char *name, const char *value, bool *first) {
        _cleanup_(freep) char *escaped = escape(value);

        printf("%s%s=\"", *first ? "{" : ",", name);
        for (const char *c = escaped ? escaped : ""; *c; c++)
                printf("%s%c", *c == '"' || *c == '\\' ? "\\" : "", *c);
        putchar('"');
        *first = false;
}

static void print_number(const struct json *value, double unit) {
        if (!value)
                printf(" 1\n");
        else if (value->type == JSON_BOOL)
                printf(" %d\n", value->boolean);
        else if (value->type == JSON_UINT && (unit == 0 || unit == 1))
                printf(" %" PRIu64 "\n", value->uint);
        else
                printf(" %.15g\n", json_as_double(value, 0) * (unit == 0 ? 1 : unit));
}

static bool is_number(const struct json *value) {
        return value && (value->type == JSON_UINT || value->type == JSON_INT || value->type == JSON_DOUBLE ||
                         value->type == JSON_BOOL);
}

static bool has_sample(const struct metric *metric, const struct json *item) {
        return metric->key ? is_number(json_get(item, metric->key)) : json_get(item, metric->labels[0]) != NULL;
}

static void print_head(const char *prefix, const char *name, const char *type, const char *help) {
        printf("# HELP %s%s %s\n# TYPE %s%s %s\n", prefix, name, help, prefix, name, type);
}

static void print_sample(const struct family *f, const struct metric *metric, const struct json *item) {
        bool first = true;

        printf("%s%s", f->prefix, metric->name);
        if (f->label)
                print_label(f->label, json_get_text(item, f->label_key, ""), &first);
        for (size_t i = 0; i < ELEMENTS(metric->labels) && metric->labels[i]; i++)
                print_label(metric->labels[i], json_get_text(item, metric->labels[i], ""), &first);
        if (!first)
                putchar('}');
        print_number(metric->key ? json_get(item, metric->key) : NULL, metric->unit);
}

static void print_metric(const struct family *f, const struct metric *metric) {
        bool head = false;

        json_for_each(item, f->items) {
                if (!has_sample(metric, item))
                        continue;
                if (!head)
                        print_head(f->prefix, metric->name, metric->type, metric->help);
                head = true;
                print_sample(f, metric, item);
        }
}

static bool is_listed(const struct family *f, const char *key) {
        for (size_t i = 0; i < f->n_metrics; i++)
                if (f->metrics[i].key && strcmp(f->metrics[i].key, key) == 0)
                        return true;
        return false;
}

/* Of what has no row, as many as the first item has: all items are alike. */
static void print_unlisted(const struct family *f) {
        json_for_each(value, f->items->child) {
                char name[64];
                struct metric metric = { value->key, name, "untyped", "See moed-protocol(7)." };

                if (!is_number(value) || is_listed(f, value->key))
                        continue;
                snprintf(name, sizeof(name), "%s", value->key);
                for (char *c = name; *c; c++)
                        if (!strchr("abcdefghijklmnopqrstuvwxyz0123456789_", *c))
                                *c = '_';
                print_metric(f, &metric);
        }
}

static void print_family(const struct family *f) {
        for (size_t i = 0; i < f->n_metrics; i++)
                if (f->metrics[i].name)
                        print_metric(f, &f->metrics[i]);
        print_unlisted(f);
}

static int print_daemon(struct moed *m) {
        _cleanup_(json_freep) struct json *reply = NULL;
        struct json list = { .type = JSON_ARRAY };
        struct family f = { "moed_", daemon_metrics, ELEMENTS(daemon_metrics), &list };
        int code;

        code = cli_query(m, "stats", NULL, &reply);
        list.child = reply;
        if (!code)
                print_family(&f);
        return code;
}

static int print_list(struct moed *m, const char *verb, struct family *f) {
        _cleanup_(json_freep) struct json *reply = NULL;
        int code;

        code = cli_query(m, verb, NULL, &reply);
        f->items = json_get(reply, strcmp(verb, "budget") == 0 ? "budgets" : verb);
        if (!code && f->items)
                print_family(f);
        return code;
}

static void print_expert(const struct expert_uses *u, uint32_t layer, uint32_t expert) {
        bool first = true;

        printf("moed_expert_rows_total");
        print_label("model", u->model, &first);
        printf(",layer=\"%" PRIu32 "\",expert=\"%" PRIu32 "\"} %" PRIu64 "\n", layer, expert,
               u->counts[(size_t) layer * u->experts + expert]);
}

static int print_experts(struct moed *m) {
        const struct moed_model *models;
        int n = moed_models(m, &models), code = 0;

        if (n < 0)
                return cli_failed(m, n);
        for (int i = 0; i < n && !code; i++) {
                _cleanup_(expert_uses_deinit) struct expert_uses u = {};

                code = expert_uses_ask(&u, m, models[i].name);
                if (!code && i == 0)
                        print_head("moed_", "expert_rows_total", "counter", "Rows that chose the expert, in a layer.");
                for (uint32_t l = 0; l < u.layers && !code; l++)
                        for (uint32_t e = 0; e < u.experts; e++)
                                print_expert(&u, l, e);
        }
        return code;
}

int stats_prometheus(struct moed *m, bool experts) {
        struct family models = { "moed_model_", model_metrics, ELEMENTS(model_metrics), NULL, "model", "name" };
        struct family principals = { "moed_principal_", principal_metrics, ELEMENTS(principal_metrics), NULL,
                                     "principal", "principal" };
        int code;

        code = experts ? print_experts(m) : 0; /* first: where they are refused, nothing is printed */
        if (!code)
                code = print_daemon(m);
        if (!code)
                code = print_list(m, "models", &models);
        if (!code)
                code = print_list(m, "budget", &principals);
        return code ? code : cli_flush();
}
