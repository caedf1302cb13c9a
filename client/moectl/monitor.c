/* SPDX-License-Identifier: MIT */
#include "monitor.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "base/util.h"
#include "escape.h"
#include "table.h"

static const struct pane_column principal_columns[] = {
        { "PRINCIPAL" },       { "CONN", true },  { "RUN", true },   { "WAIT", true },     { "EXPERTS", true },
        { "CAP", true },       { "WEIGHT", true }, { "SHARE", true }, { "TOKENS/S", true }, { "PROMPT/S", true },
        { "CACHED", true },    { "KV-PAGES", true },
};

static const struct pane_column request_columns[] = {
        { "NUMBER", true },    { "PRINCIPAL" },     { "NAME" },          { "MODEL" },      { "STATE" },
        { "PROMPT", true },    { "TOKENS", true },  { "TOKENS/S", true }, { "EXPERTS", true }, { "CAP", true },
        { "KV-PAGES", true },
};

void monitor_sample_deinit(struct monitor_sample *sample) {
        json_free(sample->stats);
        json_free(sample->models);
        json_free(sample->budget);
        json_free(sample->ps);
        *sample = (struct monitor_sample) { .at = 0 };
}

/* A counter in two answers. It begins anew when the daemon does: then what there is came since. NAN: not known. */
static double grown(const struct json *before, const struct json *now, const char *key) {
        uint64_t a = json_get_uint(before, key, 0), b = json_get_uint(now, key, 0);

        if (!before || !json_get(now, key))
                return NAN;
        return b >= a ? (double) (b - a) : (double) b;
}

static double seconds_between(const struct monitor_sample *before, const struct monitor_sample *now) {
        return before->at > 0 && now->at > before->at ? (double) (now->at - before->at) / 1e9 : NAN;
}

/* "12.3", "4.5 k"; "-" when it is not known. */
static const char *format_rate(char ret[static 16], double rate) {
        if (isnan(rate))
                return "-";
        if (rate >= 10000)
                return format_count(ret, (uint64_t) rate);
        snprintf(ret, 16, "%.1f", rate);
        return ret;
}

static void number_cell(struct pane *pane, const struct json *json, const char *key) {
        uint64_t n = json_get_uint(json, key, 0);

        pane_number(pane, (double) n, "%" PRIu64, n);
}

static void rate_cell(struct pane *pane, double rate) {
        char text[16];

        pane_number(pane, isnan(rate) ? -1 : rate, "%s", format_rate(text, rate));
}

/* Experts, from thousandths; `none` for 0. */
static void milli_cell(struct pane *pane, const struct json *json, const char *key, double none) {
        uint64_t milli = json_get_uint(json, key, 0);

        if (milli > 0)
                pane_number(pane, (double) milli, "%.2f", (double) milli / 1000);
        else
                pane_number(pane, none, "-");
}

/* Of all prompt tokens, how many came from the prefix cache: in percent, NAN when there were none. */
static double cached_share(const struct json *json, const char *cached, const char *computed) {
        double found = (double) json_get_uint(json, cached, 0), all = found + (double) json_get_uint(json, computed, 0);

        return json_get(json, cached) && all > 0 ? 100 * found / all : NAN;
}

static void cached_cell(struct pane *pane, const struct json *budget) {
        double share = cached_share(budget, "cached", "prompt");

        if (isnan(share))
                pane_number(pane, -1, "-");
        else
                pane_number(pane, share, "%.0f%%", share);
}

static void line(struct monitor *m, unsigned i, const char *format, ...) _printf_(3, 4);
static void line(struct monitor *m, unsigned i, const char *format, ...) {
        _cleanup_(freep) char *escaped = NULL;
        char text[MONITOR_LINE_MAX];
        va_list args;

        va_start(args, format);
        vsnprintf(text, sizeof(text), format, args);
        va_end(args);
        escaped = escape(text);
        snprintf(m->lines[i], MONITOR_LINE_MAX, "%s", escaped ? escaped : "");
}

static void line_work(struct monitor *m, const struct monitor_sample *before, const struct monitor_sample *now) {
        double seconds = seconds_between(before, now), passes = grown(before->stats, now->stats, "iterations");
        double rows = grown(before->stats, now->stats, "rows"), busy = grown(before->stats, now->stats, "busy_nsec");
        char generated[16], prompt[16], mean[16], rate[16], share[16] = "-";

        if (!isnan(busy) && !isnan(seconds))
                snprintf(share, sizeof(share), "%.0f%%", fmin(100.0, busy / seconds / 1e7));
        line(m, 1, "%s tokens/s generated, %s prompt; %s passes/s of %s rows; computes %s of the time",
             format_rate(generated, grown(before->stats, now->stats, "tokens_generated") / seconds),
             format_rate(prompt, grown(before->stats, now->stats, "tokens_prompt") / seconds),
             format_rate(rate, passes / seconds), format_rate(mean, passes > 0 ? rows / passes : NAN), share);
}

static void line_load(struct monitor *m, const struct json *stats) {
        uint64_t pages = json_get_uint(stats, "kv_pages", 0), free_pages = json_get_uint(stats, "kv_pages_free", 0);
        uint64_t used = pages - MIN(pages, free_pages);
        double share = cached_share(stats, "tokens_cached", "tokens_prompt");
        char cached[48] = "";

        if (!isnan(share))
                snprintf(cached, sizeof(cached), "; %.0f%% of prompts from the cache", share);
        line(m, 2, "%" PRIu64 " requests run, %" PRIu64 " wait; %" PRIu64 " connections of %" PRIu64 " users; "
             "KV %" PRIu64 " of %" PRIu64 " pages (%.1f%%)%s",
             json_get_uint(stats, "streams_running", 0), json_get_uint(stats, "streams_waiting", 0),
             json_get_uint(stats, "peers", 0), json_get_uint(stats, "users", 0), used, pages,
             pages ? 100.0 * (double) used / (double) pages : 0.0, cached);
}

static void line_models(struct monitor *m, const struct json *models) {
        char text[MONITOR_LINE_MAX] = "";
        size_t used = 0;

        json_for_each(model, json_get(models, "models"))
                if (used < sizeof(text))
                        used += (size_t) snprintf(text + used, sizeof(text) - used, "%s%s (%s, %" PRIu64 ")",
                                                  used ? ", " : "", json_get_text(model, "name", ""),
                                                  json_get_text(model, "state", ""),
                                                  json_get_uint(model, "streams", 0));
        line(m, 3, "models: %s", text[0] ? text : "none");
}

static void lines(struct monitor *m, const struct monitor_sample *before, const struct monitor_sample *now) {
        uint64_t up = json_get_uint(now->stats, "uptime_msec", 0) / 1000;

        line(m, 0, "moed %s, %s, up %" PRIu64 ":%02" PRIu64 ":%02" PRIu64 "%s",
             json_get_text(now->stats, "version", "?"), json_get_text(now->stats, "backend", "?"), up / 3600,
             up / 60 % 60, up % 60, json_get_uint(now->stats, "models", 1) == 0 ? ", serves no model" : "");
        line_work(m, before, now);
        line_load(m, now->stats);
        line_models(m, now->models);
}

/* Of a principal's requests. */
struct tally {
        uint64_t running, waiting, kv_pages;
};

static struct tally tally_of(const struct json *ps, const char *principal) {
        struct tally t = { 0 };

        json_for_each(peer, json_get(ps, "peers")) {
                if (strcmp(json_get_text(peer, "principal", ""), principal) != 0)
                        continue;
                t.waiting += json_get_uint(peer, "queued", 0);
                t.running += json_get_uint(peer, "streams", 0) - MIN(json_get_uint(peer, "queued", 0),
                                                                    json_get_uint(peer, "streams", 0));
                t.kv_pages += json_get_uint(peer, "kv_pages", 0);
        }
        return t;
}

static const struct json *budget_named(const struct json *budget, const char *name) {
        json_for_each(b, json_get(budget, "budgets"))
                if (strcmp(json_get_text(b, "principal", ""), name) == 0)
                        return b;
        return NULL;
}

/* What it got of the machine: time by the daemon's own account, where it tells it, else rows. One who was not there
 * before got all of it since. */
static double service(const struct monitor_sample *before, const struct json *now) {
        static const struct json nothing = { .type = JSON_OBJECT };
        const struct json *old = budget_named(before->budget, json_get_text(now, "principal", ""));

        if (before->at == 0)
                return 0;
        old = old ? old : &nothing;
        if (json_get(now, "served_nsec"))
                return grown(old, now, "served_nsec");
        return grown(old, now, "prompt") + grown(old, now, "generated");
}

/* What all got. Who sees only himself is compared with what the daemon did. */
static double service_of_all(const struct monitor_sample *before, const struct monitor_sample *now) {
        const struct json *budgets = json_get(now->budget, "budgets");
        bool timed = budgets && json_get(budgets->child, "served_nsec");
        double sum = 0;

        json_for_each(budget, budgets)
                sum += service(before, budget);
        if (json_get(now->budget, "rules"))
                return sum;
        return fmax(sum, grown(before->stats, now->stats, timed ? "busy_nsec" : "rows"));
}

static void principal_row(struct pane *pane, const struct monitor_sample *before, const struct monitor_sample *now,
                          const struct json *budget, double all) {
        const char *name = json_get_text(budget, "principal", "");
        const struct json *old = budget_named(before->budget, name);
        struct tally t = tally_of(now->ps, name);
        double seconds = seconds_between(before, now);
        double rows = grown(old, budget, "row_layers"), activations = grown(old, budget, "activations");
        double share = all > 0 ? 100 * service(before, budget) / all : 0;

        pane_row(pane, name, name);
        pane_text(pane, name);
        number_cell(pane, budget, "connections");
        pane_number(pane, (double) t.running, "%" PRIu64, t.running);
        pane_number(pane, (double) t.waiting, "%" PRIu64, t.waiting);
        if (rows > 0)
                pane_number(pane, activations / rows, "%.2f", activations / rows);
        else
                pane_number(pane, -1, "-");
        milli_cell(pane, budget, "experts_max_milli", INFINITY);
        number_cell(pane, budget, "weight");
        pane_number(pane, share, "%.1f%%", share);
        rate_cell(pane, grown(old, budget, "generated") / seconds);
        rate_cell(pane, grown(old, budget, "prompt") / seconds);
        cached_cell(pane, budget);
        pane_number(pane, (double) t.kv_pages, "%" PRIu64, t.kv_pages);
}

static void principals(struct pane *pane, const struct monitor_sample *before, const struct monitor_sample *now) {
        double all = service_of_all(before, now);

        json_for_each(budget, json_get(now->budget, "budgets"))
                if (json_get_uint(budget, "connections", 0) > 0 || service(before, budget) > 0)
                        principal_row(pane, before, now, budget, all);
}

/* The tokens that each request had, by its number. */
struct generated {
        uint64_t number, tokens;
};

struct generated_list {
        struct generated *items;
        size_t n;
};

static int compare_numbers(const void *a, const void *b) {
        const struct generated *x = a, *y = b;

        return x->number < y->number ? -1 : x->number > y->number;
}

static void generated_list_init(struct generated_list *ret, const struct json *ps) {
        size_t n = 0;

        *ret = (struct generated_list) { .items = NULL };
        json_for_each(peer, json_get(ps, "peers")) {
                const struct json *requests = json_get(peer, "requests");

                n += requests ? requests->length : 0;
        }
        ret->items = calloc(n + 1, sizeof(*ret->items));
        json_for_each(peer, json_get(ps, "peers"))
                json_for_each(request, json_get(peer, "requests"))
                        if (ret->items && ret->n < n)
                                ret->items[ret->n++] = (struct generated) { json_get_uint(request, "number", 0),
                                                                            json_get_uint(request, "generated", 0) };
        if (ret->items)
                qsort(ret->items, ret->n, sizeof(*ret->items), compare_numbers);
}

/* NAN: it is new. */
static double tokens_before(const struct generated_list *list, uint64_t number) {
        const struct generated key = { .number = number }, *found = NULL;

        if (list->n > 0)
                found = bsearch(&key, list->items, list->n, sizeof(key), compare_numbers);
        return found ? (double) found->tokens : NAN;
}

static void prompt_cell(struct pane *pane, const struct json *request) {
        uint64_t done = json_get_uint(request, "prompt_done", 0), all = json_get_uint(request, "prompt", 0);

        if (done < all)
                pane_number(pane, (double) all, "%" PRIu64 "/%" PRIu64, done, all);
        else
                pane_number(pane, (double) all, "%" PRIu64, all);
}

/* "waiting, 2, 1.5 s": behind how many, and for how long at a guess. */
static void state_cell(struct pane *pane, const struct json *request) {
        uint64_t position = json_get_uint(request, "position", 0);
        uint64_t estimate = json_get_uint(request, "estimate_nsec", 0);
        char text[64];
        size_t used = 0;

        used += (size_t) snprintf(text, sizeof(text), "%.16s", json_get_text(request, "state", ""));
        if (position > 0)
                used += (size_t) snprintf(text + used, sizeof(text) - used, ", %" PRIu64, position);
        if (estimate > 0)
                snprintf(text + used, sizeof(text) - used, ", %.1f s", (double) estimate / 1e9);
        pane_text(pane, text);
}

static void request_row(struct pane *pane, const struct json *peer, const struct json *request,
                        const struct generated_list *before, double seconds) {
        uint64_t number = json_get_uint(request, "number", 0);
        double fresh = (double) json_get_uint(request, "generated", 0) - tokens_before(before, number);
        char id[24];

        snprintf(id, sizeof(id), "%" PRIu64, number);
        pane_row(pane, id, json_get_text(peer, "principal", ""));
        pane_number(pane, (double) number, "%s", id);
        pane_text(pane, json_get_text(peer, "principal", ""));
        pane_text(pane, json_get_text(peer, "name", ""));
        pane_text(pane, json_get_text(request, "model", ""));
        state_cell(pane, request);
        prompt_cell(pane, request);
        number_cell(pane, request, "generated");
        rate_cell(pane, fresh < 0 ? 0 : fresh / seconds);
        milli_cell(pane, request, "experts_milli", -1);
        milli_cell(pane, request, "cap_milli", INFINITY);
        number_cell(pane, request, "kv_pages");
}

static void requests(struct pane *pane, const struct monitor_sample *before, const struct monitor_sample *now) {
        double seconds = seconds_between(before, now);
        struct generated_list list;

        generated_list_init(&list, before->ps);
        json_for_each(peer, json_get(now->ps, "peers"))
                json_for_each(request, json_get(peer, "requests"))
                        request_row(pane, peer, request, &list, seconds);
        free(list.items);
}

void monitor_init(struct monitor *ret, const struct monitor_sample *before, const struct monitor_sample *now) {
        lines(ret, before, now);
        pane_init(&ret->principals, principal_columns, ELEMENTS(principal_columns));
        pane_init(&ret->requests, request_columns, ELEMENTS(request_columns));
        principals(&ret->principals, before, now);
        requests(&ret->requests, before, now);
}

void monitor_deinit(struct monitor *monitor) {
        pane_deinit(&monitor->principals);
        pane_deinit(&monitor->requests);
}
