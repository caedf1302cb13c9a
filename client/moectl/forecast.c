/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "cli.h"
#include "daemon.h"
#include "doctor.h"
#include "json.h"
#include "table.h"

/* The file of a model that the daemon serves, copied for the caller to free. 0 or an exit code. */
static int file_of(const struct cli *cli, const char *name, char **ret) {
        _cleanup_(moed_closep) struct moed *m = NULL;
        struct moed_model model;
        int code;

        code = cli_connect(cli, &m);
        if (code)
                return code;
        code = cli_model(m, name, &model);
        if (code)
                return code;
        *ret = strdup(model.file);
        return *ret ? 0 : EX_OSERR;
}

int forecast_ask(const struct cli *cli, const char *model_or_file, struct json **ret) {
        _cleanup_(freep) char *file = NULL;
        int code;

        if (strchr(model_or_file, '/') || access(model_or_file, F_OK) == 0) {
                file = strdup(model_or_file);
                code = file ? 0 : EX_OSERR;
        } else {
                code = file_of(cli, model_or_file, &file);
        }
        if (code)
                return code;
        return daemon_ask((char *[]){NULL, (char *) "--inspect", file, (char *) "--json", NULL}, ret);
}

static uint64_t figure(const struct json *inspection, const char *object, const char *key) {
        return json_get_uint(json_get(inspection, object), key, 0);
}

static void find_fit(struct finding *ret, const struct json *inspection) {
        const char *fits = json_get_text(json_get(inspection, "machine"), "fits", "unknown");
        uint64_t available = figure(inspection, "machine", "memory_available");
        char a[16], b[16];

        find(ret, strcmp(fits, "yes") == 0 || strcmp(fits, "unknown") == 0 ? HEALTH_OK : HEALTH_NOTE,
             strcmp(fits, "no") == 0
                     ? "This machine has less memory than that: weights will be read from the disk again and "
                       "again. A smaller model or type, or a shorter context, is faster."
                     : "Other programs hold memory that this needs.",
             "%s in all, %s available", format_bytes(a, figure(inspection, "forecast", "total")),
             format_bytes(b, available));
}

size_t forecast_find(struct finding *ret, const struct json *inspection) {
        static const char *const names[FORECAST_FINDINGS] = {"model", "weights", "KV", "scratch", "fits"};
        const struct json *supported = json_get(inspection, "supported");
        char a[16], b[16];

        for (size_t i = 0; i < FORECAST_FINDINGS; i++)
                ret[i].name = names[i];
        if (!supported || supported->type != JSON_BOOL || !supported->boolean) {
                find(&ret[0], HEALTH_BAD, json_get_text(inspection, "why_not", ""), "not supported");
                return 1;
        }
        find(&ret[0], HEALTH_OK, "", "%s, %s parameters", json_get_text(inspection, "architecture", ""),
             format_count(a, json_get_uint(inspection, "parameters", 0)));
        find(&ret[1], HEALTH_OK, "", "%s, mapped from the file",
             format_bytes(a, figure(inspection, "forecast", "weights")));
        find(&ret[2], HEALTH_OK, "", "%s per 1,000 tokens, %s for a context of %" PRIu64,
             format_bytes(a, figure(inspection, "forecast", "kv_per_1000_tokens")),
             format_bytes(b, figure(inspection, "forecast", "kv")),
             figure(inspection, "forecast", "context"));
        find(&ret[3], HEALTH_OK, "", "%s, and %s of tables",
             format_bytes(a, figure(inspection, "forecast", "scratch")),
             format_bytes(b, figure(inspection, "forecast", "tables")));
        find_fit(&ret[4], inspection);
        return FORECAST_FINDINGS;
}

void forecast_json(struct json_writer *w, const struct json *inspection) {
        json_key(w, "model");
        json_text(w, json_get_text(inspection, "file", ""));
        json_key(w, "forecast");
        json_open(w, '{');
        json_for_each(value, json_get(inspection, "forecast")) {
                json_key(w, value->key);
                if (value->type == JSON_UINT)
                        json_uint(w, value->uint);
                else
                        json_text(w, value->string ? value->string : "");
        }
        json_close(w, '}');
}
