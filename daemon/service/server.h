/* SPDX-License-Identifier: MIT */
#pragma once

/* All objects of the daemon and the turn of its loop. One thread owns everything: it forms a batch, runs it layer by
 * layer and looks at its other work (connects, control messages, cancels) between the layers. While a forward pass
 * runs, objects that a part of it refers to are only marked; they are freed when it has ended (server_reap()). Long
 * passes are interrupted between layers by all other work, also by other passes (long-pass.h). */

#include "backend.h"
#include "config.h"
#include "engine.h"
#include "history.h"
#include "loop.h"
#include "metrics.h"
#include "policy.h"
#include "scheduler.h"
#include "tenant.h"
#include "user.h"
#include "worker.h"

struct change;
struct listener;
struct long_pass;
struct prefix_cache;
struct sampler_scratch;
struct stream;

enum {
        SERVER_BATCH_ROWS_MAX = 4096, /* of one iteration */
};

/* A job of the loader's or the sharer's thread; `done` is called on the loop's thread. */
struct loader_job {
        struct job job;
        void (*done)(struct loader_job *job);
        void (*drop)(struct loader_job *job); /* instead, when the daemon ends; NULL: somebody else frees it */
};

enum offer_state {
        OFFER_READY,
        OFFER_IDLE,    /* gave its memory back; the next request wakes it */
        OFFER_LOADING, /* the loader fetches its file */
};

/* A model that clients can ask for. */
struct offer {
        struct server *server;
        struct list link;
        char *name, *file; /* as it was named */
        uint32_t handle; /* from 1, never reused */
        enum offer_state state;
        bool retired;    /* replaced or removed: ends what it has, and is found no more */
        uint32_t n_users; /* streams; one more while the loader has it */
        uint64_t idle_nsec, used; /* unused for so long it goes idle (0: never); when the last user went */
        struct loader_job fetch;
        int fetch_result;
        struct model *model;
        struct step *step; /* NULL unless OFFER_READY */
        struct sampler_scratch *scratch;
        struct sched_model sched;
        struct long_pass *passes; /* [LONG_PASSES], or NULL */
        uint32_t n_trials;        /* passes that were measured at the start, two of each kind; */
        uint64_t trial_nsec;      /* what the first of the two took */
        uint32_t trial_pages;     /* KV pages that the one under way has: as good as free, it gives way to anybody */
        struct list running; /* streams that have a sequence */
        struct list waiting; /* streams that need KV pages first, oldest first */
        uint32_t n_running, n_waiting;
        uint32_t n_scoring; /* of the running ones */
        bool behind; /* streams are held back while others compute what they have in common */
        struct prefix_cache *prefixes;
        bool shares_prefixes; /* else nothing is put into it, and nothing looked for */
        struct list accounts; /* struct prefix_account */
        bool admit; /* a stream or pages came: waiting ones may have a chance */
        struct step_part *parts; /* of the iteration that is being formed or run: [rows_max] */
        struct stream **streams; /* whose they are */
        uint32_t n_parts;
};

struct server {
        struct config *config;
        struct policy_book policies;
        struct loop loop;
        struct worker worker;
        struct loop_source worker_source;
        struct worker loader; /* opens and fetches model files: that may take seconds */
        struct worker sharer; /* reads them ahead and compares them, when there is nothing better to do: that may take
                               * minutes */
        struct loop_source loader_source, sharer_source;
        _Atomic bool loader_stop; /* what takes long shall end */
        struct list changes; /* of the models, in the order of their asking; the first is under way */
        uint32_t n_changes;
        struct list saves; /* of budgets, on their way to the disk */
        uint64_t n_saves;  /* that ever were */
        struct listener *listener;
        struct backend *backend;
        const char *backend_name; /* what it chose of this machine */
        struct users users;
        struct tenants tenants;
        struct scheduler scheduler;
        struct list offers; /* the default first */
        uint32_t n_offers, n_retired; /* all; those of them that are retired */
        struct list peers;
        struct list graves; /* streams that have ended */
        uint32_t n_peers, n_streams;
        uint32_t n_long; /* long passes that are under way */
        uint32_t n_warming; /* models whose weights are being read ahead */
        bool memory_short;  /* there are models whose weights do not all fit */
        uint64_t serials; /* of streams, by age; what people call them by */
        struct history history;
        uint32_t handles; /* of models */
        struct metrics metrics;

        struct sched_pick *picks; /* [rows_max] */
        uint32_t *allowances;     /* [rows_max], of the running iteration */
        struct step_budget *budgets; /* [rows_max], of the same */
        uint32_t rows_max, prompt_rows_max;

        uint64_t started;   /* nsec */
        _Atomic bool stepping; /* a forward pass is running; the sharer looks at it, too */
        int trouble;        /* negative errno that came up meanwhile */
        bool reapable;      /* a peer was marked */
        bool draining;      /* no new work is taken */
        bool stopping;      /* leave the loop now */
        uint64_t drain_until;
        uint64_t computed; /* nsec: when the latest iteration ended */
        /* Set by main: reads the configuration anew, on any thread. A positive errno with a reason, negative errno. */
        int (*read_config)(struct server *server, struct config **ret, struct reason *reason);
};

/* Takes `config`, which server_deinit() frees. Opens the backend and the models: negative errno or a positive
 * SERVER_E_*. */
enum {
        _SERVER_E_SUCCESS,
        SERVER_E_MODEL, /* a model is refused; the reason names it */
};
int server_init(struct server *server, struct config *config, struct reason *reason);
void server_deinit(struct server *server);

/* Runs until it is told to stop. 0, or the negative errno of our own trouble. */
int server_run(struct server *server);
/* Looks after everything but the forward pass, from memory: completions of the loop, rings of peers. Returns whether
 * anything was there, or negative errno. */
int server_poll(struct server *server);
/* Frees what was marked. Not between the layers of a short pass; a long one refers to streams that are in no grave. */
void server_reap(struct server *server);

/* First call: take no new work, end when the generations have, at the latest after the configured time. Second: now. */
void server_drain(struct server *server);
/* Puts a new configuration in force, but for its models: limits, policies, log level; its saved budgets if they are
 * newer than those in force. What needs a restart is told in the log. The old one is the caller's then; -ENOMEM: it
 * stays, and `config` is the caller's. */
int server_reconfigure(struct server *server, struct config *config, bool newer_saved);
/* The policies have changed: every peer and stream gets what is theirs now. */
int server_apply_policies(struct server *server);

/* By handle (0: the default) or by name (NULL: the default); NULL when there is none. Never a retired one. */
struct offer *server_offer(struct server *server, uint32_t handle);
struct offer *server_offer_named(struct server *server, const char *name);
