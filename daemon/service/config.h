/* SPDX-License-Identifier: MIT */
#pragma once

/* moed.conf(5): read whole, checked whole, into a struct that never changes afterwards; a reload makes a new one. Every
 * mistake is reported, not only the first, as `file:line: Key=value: what is allowed`. The files belong to the
 * administrator (or the user, in a user instance) but are read as carefully as if they did not. One thread. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/reason.h"
#include "policy.h"
#include "quant.h"

enum {
        CONFIG_FILE_MAX = 1024 * 1024, /* bytes of one file */
        CONFIG_LINE_MAX = 8192,
        CONFIG_MODELS_MAX = 256,
        CONFIG_MODEL_NAME_MAX = 64,    /* bytes, letters digits and . _ - : */
        CONFIG_THREADS_MAX = 1024,
        CONFIG_CONTEXT_MIN = 16,       /* tokens */
        CONFIG_CONTEXT_MAX = 1 << 24,
        CONFIG_MESSAGES_MAX = 100,     /* kept by a report; further ones are counted */
};

#define CONFIG_ADMIN_GROUP "moed-admin"
#define CONFIG_IDLE_UNLOAD_MAX (30 * UINT64_C(86400) * NSEC_PER_SEC)

enum {
        _CONFIG_E_SUCCESS,
        CONFIG_E_INVALID, /* the report has at least one error */
};

enum config_scope {
        CONFIG_SYSTEM, /* /etc/moed, /run/moed, /usr/lib/moed; state in /var/lib/moed */
        CONFIG_USER,   /* $XDG_CONFIG_HOME/moed, else ~/.config/moed; $XDG_STATE_HOME/moed, else ~/.local/state/moed */
};

enum config_kv_type {
        CONFIG_KV_AUTO, /* what the backend likes best */
        CONFIG_KV_F16,
        CONFIG_KV_BF16,
        CONFIG_KV_F32,
        _CONFIG_KV_N,
};

/* What one uid may hold, over all its connections unless it says otherwise. */
struct config_limits {
        uint32_t connections_max;
        uint32_t streams_max;      /* generations running at once */
        uint32_t queue_max;        /* generations waiting for a place among them or for KV pages */
        uint32_t ring_entries_max; /* of one connection's rings; a power of two is the most that is used of it */
        uint64_t arena_max;        /* bytes */
        uint64_t prompt_bytes_max; /* bytes of one request's prompt */
        uint32_t prompt_max;       /* tokens of it; 0: as many as the context holds */
};

struct config_model {
        char *name, *file; /* file: absolute */
        char *source;      /* where it was first named: "/etc/moed/moed.conf:12", "--model" */
        bool is_default;   /* of exactly one, if there are any */
        bool has_prefix_cache, prefix_cache; /* else the daemon's holds */
        bool has_idle_unload; /* as well */
        uint64_t idle_unload_nsec;
};

struct config {
        char *source;                /* the main file; NULL: there was none, all is default */
        char *socket;                /* NULL: the instance's own place */
        mode_t socket_mode;
        uint32_t threads;            /* 0: as many as the machine has to give */
        uint64_t kv_memory;          /* bytes of KV pages per model */
        enum config_kv_type kv_type;
        uint32_t rows_max, prompt_rows_max; /* 0: as many as are computed in a short time */
        uint32_t long_rows_max;      /* 0: none */
        uint32_t context_max;        /* tokens; 0: the model's own */
        bool context_extend;         /* context_max may be more than that */
        bool prefix_cache;           /* requests of a user share what their prompts have in common */
        uint32_t spin_usec;
        uint64_t drain_timeout_nsec;
        uint64_t idle_unload_nsec;   /* a model unused for so long gives its memory back; 0: never */
        int log_level;               /* LOG_ERR … LOG_DEBUG */
        gid_t admin_gid;             /* CONFIG_ADMIN_GROUP; -1: there is no such group */
        struct config_limits limits;
        struct config_model *models; /* in order of appearance */
        size_t n_models;
        struct policy_table budgets;
        char *saved_path;            /* what `moectl budget set --save` writes; NULL: there is no place for it */
        struct policy_table saved;   /* and what it said */
};

/* What was found on the way. */
struct config_report {
        struct config_message {
                bool error; /* else a warning */
                char *text; /* one line, "file:line: …" */
        } *messages;
        size_t n_messages;
        size_t n_errors, n_warnings; /* also those that found no place */
};

#define CONFIG_REPORT_NULL { .messages = NULL }

void config_report_deinit(struct config_report *report);

/* Defaults only. -ENOMEM. */
int config_new(struct config **ret);
/* Reads the main file and its drop-ins: `path`, and `path`.d/ *.conf; or with path NULL the first moed.conf of the
 * scope's folders, and moed.conf.d/ *.conf of all of them (of two with one name the earlier folder's; in the order of
 * their names); then the saved budgets: budget.conf in $STATE_DIRECTORY, else `path`.saved, else in the scope's state
 * folder. A path that is given must exist; without one, no file at all gives the defaults. Names of users and groups are
 * looked up, which takes as long as whoever knows them. Every message goes to `report`. Any thread. CONFIG_E_INVALID;
 * negative errno: no memory. */
int config_load(struct config **ret, const char *path, enum config_scope scope, struct config_report *report);
/* Takes NULL. */
void config_free(struct config *config);
void config_freep(struct config **config);

/* `--model NAME=FILE` of the command line: adds a model or replaces the file of one with that name; the first added
 * becomes the default when no section says Default=yes. A relative file is taken from the working directory.
 * CONFIG_E_INVALID with a reason; negative errno. */
int config_add_model(struct config *config, const char *name, const char *file, struct reason *reason);
/* By name, or NULL. */
const struct config_model *config_find_model(const struct config *config, const char *name);
/* How long it may be unused; 0: for ever. `model` may be NULL: one that the configuration does not name. */
uint64_t config_idle_unload(const struct config *config, const struct config_model *model);
/* Whether its requests share what their prompts have in common; `model` may be NULL as well. */
bool config_prefix_cache(const struct config *config, const struct config_model *model);
/* By its name, as in moed.conf and on the command line. CONFIG_E_INVALID with a reason. */
int config_kv_type_parse(const char *name, enum config_kv_type *ret, struct reason *reason);
/* What keys and values are kept as; `best`: what the backend likes best. */
enum quant_type config_kv_quant(enum config_kv_type type, enum quant_type best);
/* The default, or NULL when there is none. */
const struct config_model *config_default_model(const struct config *config);
