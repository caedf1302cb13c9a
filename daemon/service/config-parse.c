/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "config-parse.h"
#include "config-value.h"
#include "wire.h"

enum section {
        SECTION_NONE,    /* before the first header */
        SECTION_SKIPPED, /* a header that was refused: its keys are passed over, one message is enough */
        SECTION_DAEMON,
        SECTION_LIMITS,
        SECTION_MODEL,
        SECTION_BUDGET,
        _SECTION_N,
};

static const char *const section_names[_SECTION_N] = {
        [SECTION_DAEMON] = "Daemon",
        [SECTION_LIMITS] = "Limits",
        [SECTION_MODEL] = "Model",
        [SECTION_BUDGET] = "Budget",
};

/* Where the reader stands. */
struct parser {
        struct config *config;
        struct config_report *report;
        const char *file;
        unsigned line;
        struct policy_table *budgets;       /* where those of [Budget] go */
        bool only_budgets;                  /* no other section may stand here */
        enum section section;
        size_t model;                       /* SECTION_MODEL: its index */
        struct policy_principal principal;  /* SECTION_BUDGET */
        bool unknown;                       /* SECTION_BUDGET: of nobody on this system; values are checked all the
                                             * same */
        char *name;                         /* SECTION_BUDGET: as written */
};

enum value_type {
        VALUE_U32,
        VALUE_SIZE,
        VALUE_USEC,
        VALUE_SPAN,
        VALUE_MODE,
        VALUE_KV_TYPE,
        VALUE_LOG_LEVEL,
        VALUE_SOCKET,
        VALUE_BOOL,
};

/* The keys that are plain members of struct config. `zero`: a word for 0, beside the range. */
static const struct key {
        enum section section;
        const char *name;
        enum value_type type;
        size_t offset;
        uint64_t min, max;
        const char *zero;
} keys[] = {
#define KEY(_section, _name, _type, _member, ...)                                                            \
        { SECTION_##_section, _name, VALUE_##_type, offsetof(struct config, _member), __VA_ARGS__ }
        KEY(DAEMON, "Socket", SOCKET, socket, 0, 0),
        KEY(DAEMON, "SocketMode", MODE, socket_mode, 0, 0),
        KEY(DAEMON, "Threads", U32, threads, 1, CONFIG_THREADS_MAX, "auto"),
        KEY(DAEMON, "KvMemory", SIZE, kv_memory, UINT64_C(1) << 20, UINT64_C(1) << 44),
        KEY(DAEMON, "KvType", KV_TYPE, kv_type, 0, 0),
        KEY(DAEMON, "RowsMax", U32, rows_max, 1, 4096),
        KEY(DAEMON, "LongRowsMax", U32, long_rows_max, 0, 65536),
        KEY(DAEMON, "PromptRowsMax", U32, prompt_rows_max, 0, 4096),
        KEY(DAEMON, "ContextMax", U32, context_max, CONFIG_CONTEXT_MIN, CONFIG_CONTEXT_MAX, "model"),
        KEY(DAEMON, "ContextExtend", BOOL, context_extend, 0, 0),
        KEY(DAEMON, "PrefixCache", BOOL, prefix_cache, 0, 0),
        KEY(DAEMON, "SpinUsec", USEC, spin_usec, 0, 1000000),
        KEY(DAEMON, "DrainTimeoutSec", SPAN, drain_timeout_nsec, 0, 3600 * NSEC_PER_SEC),
        KEY(DAEMON, "IdleUnloadSec", SPAN, idle_unload_nsec, 0, CONFIG_IDLE_UNLOAD_MAX),
        KEY(DAEMON, "LogLevel", LOG_LEVEL, log_level, 0, 0),
        KEY(LIMITS, "ConnectionsMax", U32, limits.connections_max, 1, 65536),
        KEY(LIMITS, "StreamsMax", U32, limits.streams_max, 1, 65536),
        KEY(LIMITS, "QueueMax", U32, limits.queue_max, 0, 1 << 20),
        KEY(LIMITS, "RingEntriesMax", U32, limits.ring_entries_max, WIRE_ENTRIES_MIN, WIRE_ENTRIES_MAX),
        KEY(LIMITS, "ArenaMax", SIZE, limits.arena_max, 65536, UINT64_C(1) << 40),
        KEY(LIMITS, "PromptBytesMax", SIZE, limits.prompt_bytes_max, 1024, UINT64_C(1) << 32),
        KEY(LIMITS, "PromptMax", U32, limits.prompt_max, 1, CONFIG_CONTEXT_MAX, "infinity"),
#undef KEY
};

static const struct key *key_find(enum section section, const char *name) {
        for (size_t i = 0; i < ELEMENTS(keys); i++)
                if (keys[i].section == section && strcmp(keys[i].name, name) == 0)
                        return &keys[i];
        return NULL;
}

static size_t value_size(enum value_type type) {
        switch (type) {
        case VALUE_U32:
        case VALUE_USEC:
                return sizeof(uint32_t);
        case VALUE_SIZE:
        case VALUE_SPAN:
                return sizeof(uint64_t);
        case VALUE_MODE:
                return sizeof(mode_t);
        case VALUE_KV_TYPE:
                return sizeof(enum config_kv_type);
        case VALUE_LOG_LEVEL:
                return sizeof(int);
        case VALUE_SOCKET:
                return sizeof(char *);
        case VALUE_BOOL:
                return sizeof(bool);
        }
        return 0;
}

static int read_u32(const struct key *key, const char *value, uint32_t *ret, struct reason *reason) {
        uint64_t n = 0, max = key->max * (key->type == VALUE_USEC ? NSEC_PER_USEC : 1);
        struct reason range;
        int r = 0;

        if (key->zero && strcmp(value, key->zero) == 0)
                *ret = 0;
        else if (key->type == VALUE_USEC)
                r = config_value_span(value, NSEC_PER_USEC, key->min, max, &n, reason);
        else
                r = config_value_number(value, key->min, max, &n, &range);
        if (r && key->type != VALUE_USEC)
                reason_set(reason, "%s%s%s", range.text, key->zero ? ", or " : "", key->zero ? key->zero : "");
        if (r == 0)
                *ret = (uint32_t) (key->type == VALUE_USEC ? n / NSEC_PER_USEC : n);
        return r;
}

static int read_socket(const char *value, char **member, struct reason *reason) {
        char *copy;
        int r = config_value_path(value, sizeof(((struct sockaddr_un *) 0)->sun_path), reason);

        if (r)
                return r;
        copy = strdup(value);
        if (!copy)
                return -ENOMEM;
        free(*member);
        *member = copy;
        return 0;
}

/* 0, a positive number with a reason, -ENOMEM. */
static int read_value(const struct key *key, const char *value, void *member, struct reason *reason) {
        switch (key->type) {
        case VALUE_U32:
        case VALUE_USEC:
                return read_u32(key, value, member, reason);
        case VALUE_SIZE:
                return config_value_size(value, key->min, key->max, member, reason);
        case VALUE_SPAN:
                return config_value_span(value, NSEC_PER_SEC, key->min, key->max, member, reason);
        case VALUE_MODE:
                return config_value_mode(value, member, reason);
        case VALUE_KV_TYPE:
                return config_kv_type_parse(value, member, reason);
        case VALUE_LOG_LEVEL:
                return config_value_log_level(value, member, reason);
        case VALUE_SOCKET:
                return read_socket(value, member, reason);
        case VALUE_BOOL:
                return config_value_bool(value, member, reason);
        }
        return -EINVAL;
}

/* `Key=` without a value takes back what an earlier line or file said. */
static void reset_value(const struct key *key, struct config *config) {
        char *member = (char *) config + key->offset;

        if (key->type == VALUE_SOCKET)
                free(*(char **) member);
        memcpy(member, (const char *) &config_defaults + key->offset, value_size(key->type));
}

/* One line for people: where it stands, what it says, what is wrong. */
static void complain(struct parser *p, bool error, const char *key, const char *value, const char *why) {
        config_report_add(p->report, error, "%s:%u: %s=%.100s%s: %s", p->file, p->line, key, value,
                          strlen(value) > 100 ? "…" : "", why);
}

static void complain_unknown_key(struct parser *p, const char *name, const char *known) {
        char list[400] = "";
        size_t used = 0;

        for (size_t i = 0; !known && i < ELEMENTS(keys); i++)
                if (keys[i].section == p->section && used < sizeof(list))
                        used += (size_t) snprintf(list + used, sizeof(list) - used, "%s%s", used ? ", " : "",
                                                  keys[i].name);
        config_report_add(p->report, true, "%s:%u: %.64s=: not a key of [%s]; it knows %s", p->file, p->line, name,
                          section_names[p->section], known ? known : list);
}

static int parse_plain_key(struct parser *p, const char *name, const char *value) {
        const struct key *key = key_find(p->section, name);
        struct reason reason = REASON_INIT;
        int r;

        if (!key) {
                complain_unknown_key(p, name, NULL);
                return 0;
        }
        if (!*value) {
                reset_value(key, p->config);
                return 0;
        }
        r = read_value(key, value, (char *) p->config + key->offset, &reason);
        if (r > 0)
                complain(p, true, name, value, reason.text);
        return r < 0 ? r : 0;
}

static int parse_model_file(struct parser *p, struct config_model *model, const char *value) {
        struct reason reason = REASON_INIT;
        char *copy = NULL;

        if (*value && config_value_path(value, PATH_MAX, &reason)) {
                complain(p, true, "File", value, reason.text);
                return 0;
        }
        if (*value) {
                copy = strdup(value);
                if (!copy)
                        return -ENOMEM;
        }
        free(model->file);
        model->file = copy;
        return 0;
}

/* Without a value it is the daemon's again. */
static void parse_model_idle(struct parser *p, struct config_model *model, const char *value) {
        struct reason reason = REASON_INIT;
        uint64_t nsec = 0;

        if (*value && config_value_span(value, NSEC_PER_SEC, 0, CONFIG_IDLE_UNLOAD_MAX, &nsec, &reason)) {
                complain(p, true, "IdleUnloadSec", value, reason.text);
                return;
        }
        model->has_idle_unload = *value != 0;
        model->idle_unload_nsec = nsec;
}

/* As well. */
static void parse_model_prefix_cache(struct parser *p, struct config_model *model, const char *value) {
        struct reason reason = REASON_INIT;

        if (*value && config_value_bool(value, &model->prefix_cache, &reason))
                complain(p, true, "PrefixCache", value, reason.text);
        else
                model->has_prefix_cache = *value != 0;
}

static int parse_model_key(struct parser *p, const char *name, const char *value) {
        struct config_model *model = &p->config->models[p->model];
        struct reason reason = REASON_INIT;
        bool is_default = false;

        if (strcmp(name, "File") == 0)
                return parse_model_file(p, model, value);
        if (strcmp(name, "IdleUnloadSec") == 0) {
                parse_model_idle(p, model, value);
                return 0;
        }
        if (strcmp(name, "PrefixCache") == 0) {
                parse_model_prefix_cache(p, model, value);
                return 0;
        }
        if (strcmp(name, "Default") != 0) {
                complain_unknown_key(p, name, "File, Default, IdleUnloadSec, PrefixCache");
                return 0;
        }
        if (*value && config_value_bool(value, &is_default, &reason))
                complain(p, true, name, value, reason.text);
        else if (is_default)
                config_model_set_default(p->config, model);
        else
                model->is_default = false;
        return 0;
}

static int parse_budget_key(struct parser *p, const char *name, const char *value) {
        _cleanup_(freep) char *source = NULL;
        struct reason reason = REASON_INIT;
        char list[POLICY_LIST_MAX];
        enum policy_key key;
        uint64_t n;

        /* Of a key in the wrong case, too, it says how it is spelled. */
        if (policy_key_find(name, &key) || strcmp(policy_key_name(key), name) != 0) {
                policy_key_list(list);
                complain_unknown_key(p, name, list);
                return 0;
        }
        if (*value && policy_key_parse(key, value, &n, &reason)) {
                complain(p, true, name, value, reason.text);
                return 0;
        }
        if (p->unknown)
                return 0;
        if (!*value) {
                policy_table_clear(p->budgets, &p->principal, key);
                return 0;
        }
        if (policy_key_no_effect(key, n))
                complain(p, false, name, value, policy_key_no_effect(key, n));
        if (asprintf(&source, "%s:%u", p->file, p->line) < 0) {
                source = NULL;
                return -ENOMEM;
        }
        return policy_table_set(p->budgets, &p->principal, p->name, key, n, source);
}

static int begin_model(struct parser *p, const char *name) {
        _cleanup_(freep) char *source = NULL;
        struct reason reason = REASON_INIT;
        struct config_model *model;
        int r;

        if (config_model_name_check(name, &reason)) {
                config_report_add(p->report, true, "%s:%u: [Model %.64s]: %s", p->file, p->line, name, reason.text);
                return 0;
        }
        if (asprintf(&source, "%s:%u", p->file, p->line) < 0) {
                source = NULL;
                return -ENOMEM;
        }
        r = config_model_get(p->config, name, source, &model);
        if (r == CONFIG_E_INVALID)
                config_report_add(p->report, true, "%s:%u: [Model %s]: more than %d models", p->file, p->line, name,
                                  CONFIG_MODELS_MAX);
        if (r)
                return r < 0 ? r : 0;
        p->model = (size_t) (model - p->config->models);
        p->section = SECTION_MODEL;
        return 0;
}

static int begin_budget(struct parser *p, const char *name) {
        struct reason reason = REASON_INIT;
        int r;

        free(p->name);
        p->name = strdup(name);
        if (!p->name)
                return -ENOMEM;
        r = policy_principal_parse(&p->principal, name, &reason);
        p->unknown = r == POLICY_E_UNKNOWN;
        if (r)
                config_report_add(p->report, !p->unknown, "%s:%u: [Budget %.64s]: %s", p->file, p->line, name,
                                  reason.text);
        else
                r = policy_table_add(p->budgets, &p->principal, name);
        if (r < 0)
                return r;
        if (r == POLICY_E_FULL)
                config_report_add(p->report, true, "%s:%u: [Budget %s]: more than %d budgets", p->file, p->line, name,
                                  POLICY_RULES_MAX);
        if (r == 0 || p->unknown)
                p->section = SECTION_BUDGET;
        return 0;
}

/* `header` is what stands between the brackets. */
static int parse_header(struct parser *p, char *header) {
        char *argument = header + strcspn(header, " \t");

        if (*argument) {
                *argument++ = '\0';
                argument += strspn(argument, " \t");
        }
        p->section = SECTION_SKIPPED;
        if (strcmp(header, "Budget") == 0)
                return begin_budget(p, argument);
        if (p->only_budgets)
                config_report_add(p->report, true, "%s:%u: [%.64s]: only [Budget PRINCIPAL] may stand in this file",
                                  p->file, p->line, header);
        else if (strcmp(header, "Model") == 0)
                return begin_model(p, argument);
        else if (strcmp(header, "Daemon") == 0 && !*argument)
                p->section = SECTION_DAEMON;
        else if (strcmp(header, "Limits") == 0 && !*argument)
                p->section = SECTION_LIMITS;
        else
                config_report_add(p->report, true,
                                  "%s:%u: [%.64s%s%.64s]: no such section; there are [Daemon], [Limits], [Model NAME], "
                                  "[Budget PRINCIPAL]",
                                  p->file, p->line, header, *argument ? " " : "", argument);
        return 0;
}

static char *trim(char *text) {
        size_t length;

        text += strspn(text, " \t\r");
        length = strlen(text);
        while (length > 0 && strchr(" \t\r", text[length - 1]))
                length--;
        text[length] = '\0';
        return text;
}

static int parse_assignment(struct parser *p, char *line) {
        char *equals = strchr(line, '='), *name, *value;

        if (!equals) {
                config_report_add(p->report, true, "%s:%u: '%.100s': neither [Section] nor Key=value nor a # comment",
                                  p->file, p->line, line);
                return 0;
        }
        *equals = '\0';
        name = trim(line);
        value = trim(equals + 1);
        switch (p->section) {
        case SECTION_NONE:
                config_report_add(p->report, true, "%s:%u: %.64s=: stands before the first [Section]", p->file, p->line,
                                  name);
                return 0;
        case SECTION_DAEMON:
        case SECTION_LIMITS:
                return parse_plain_key(p, name, value);
        case SECTION_MODEL:
                return parse_model_key(p, name, value);
        case SECTION_BUDGET:
                return parse_budget_key(p, name, value);
        default:
                return 0;
        }
}

static int parse_line(struct parser *p, const char *text, size_t length) {
        char line[CONFIG_LINE_MAX + 1], *start;
        size_t n;

        if (length > CONFIG_LINE_MAX) {
                config_report_add(p->report, true, "%s:%u: a line of %zu bytes; at most %d are allowed", p->file,
                                  p->line, length, CONFIG_LINE_MAX);
                return 0;
        }
        if (memchr(text, '\0', length)) {
                config_report_add(p->report, true, "%s:%u: a NUL byte; this is not a text file", p->file, p->line);
                return 0;
        }
        memcpy(line, text, length);
        line[length] = '\0';
        start = trim(line);
        n = strlen(start);
        if (n == 0 || *start == '#' || *start == ';')
                return 0;
        if (*start != '[')
                return parse_assignment(p, start);
        if (start[n - 1] == ']') {
                start[n - 1] = '\0';
                return parse_header(p, trim(start + 1));
        }
        p->section = SECTION_SKIPPED;
        config_report_add(p->report, true, "%s:%u: '%.100s': lacks its ]", p->file, p->line, start);
        return 0;
}

static int parse_text(struct parser *p, const char *text, size_t length) {
        int r = 0;

        while (length > 0 && r == 0) {
                const char *end = memchr(text, '\n', length);
                size_t n = end ? (size_t) (end - text) : length, step = end ? n + 1 : n;

                p->line++;
                r = parse_line(p, text, n);
                text += step;
                length -= step;
        }
        free(p->name);
        return r;
}

int config_parse(struct config *config, const char *file, const char *text, size_t length,
                 struct config_report *report) {
        struct parser p = { .config = config, .report = report, .file = file, .budgets = &config->budgets };

        return parse_text(&p, text, length);
}

int config_parse_saved(struct config *config, const char *file, const char *text, size_t length,
                       struct config_report *report) {
        struct parser p = {
                .config = config, .report = report, .file = file, .budgets = &config->saved, .only_budgets = true,
        };

        return parse_text(&p, text, length);
}

void config_parse_finish(struct config *config, struct config_report *report) {
        for (size_t i = 0; i < config->n_models; i++)
                if (!config->models[i].file)
                        config_report_add(report, true, "%s: [Model %s]: lacks File=, the path of a GGUF file",
                                          config->models[i].source, config->models[i].name);
        if (config->n_models > 0 && !config_default_model(config))
                config->models[0].is_default = true;
}
