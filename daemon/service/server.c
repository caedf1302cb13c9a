/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "account.h"
#include "base/log.h"
#include "base/util.h"
#include "change.h"
#include "iterate.h"
#include "listener.h"
#include "long-pass.h"
#include "measure.h"
#include "offer.h"
#include "peer.h"
#include "server.h"
#include "stream.h"

/* How long a daemon that drains waits for clients to read, with nothing to compute. */
#define DRAIN_IDLE_NSEC (2 * NSEC_PER_SEC)

static struct user_limits server_limits(const struct config *config) {
        const struct config_limits *limits = &config->limits;
        struct user_limits ret = {};

        ret.max[USER_CONNECTIONS] = limits->connections_max;
        ret.max[USER_REQUESTS] = (uint64_t) limits->streams_max + limits->queue_max;
        ret.max[USER_ARENA] = limits->arena_max;
        return ret;
}

static int server_on_worker(void *userdata, int result) {
        struct server *server = userdata;
        struct job *job;
        uint64_t n;

        (void) !read(server->worker.fd, &n, sizeof(n));
        while ((job = worker_take(&server->worker))) {
                struct stream *stream = container_of(job, struct stream, job);

                stream_tokenized(stream);
                if (stream->peer)
                        peer_publish(stream->peer);
        }
        return 0;
}

static int server_on_loader(void *userdata, int result) {
        struct worker *worker = userdata;
        struct job *job;
        uint64_t n;

        (void) !read(worker->fd, &n, sizeof(n));
        while ((job = worker_take(worker))) {
                struct loader_job *loaded = container_of(job, struct loader_job, job);

                loaded->done(loaded);
        }
        return 0;
}

/* What it had, done or not begun, is nobody's any more. */
static void server_stop_loader(struct worker *worker) {
        struct job *job;

        worker_deinit(worker);
        while ((job = worker_take_any(worker))) {
                struct loader_job *loaded = container_of(job, struct loader_job, job);

                if (loaded->drop)
                        loaded->drop(loaded);
        }
}

static int server_init_backend(struct server *server, struct reason *reason) {
        struct backend_cpu_options options = { .threads = server->config->threads };
        int r;

        r = backend_cpu_new(&server->backend, &options);
        if (r < 0) {
                reason_set(reason, "the CPU backend cannot be used: %s", strerror(-r));
                return r;
        }
        server->backend_name = backend_cpu_describe(server->backend);
        log_info("computing with %s", server->backend_name);
        return 0;
}

static int server_init_models(struct server *server, struct reason *reason) {
        int r;

        for (size_t i = 0; i < server->config->n_models; i++) {
                const struct config_model *model = &server->config->models[i];
                _cleanup_(model_file_unrefp) struct model_file *file = NULL;
                struct offer *offer;

                r = offer_open_file(&file, model, reason);
                if (r == 0)
                        r = offer_new(&offer, server, model, file, reason);
                if (r != 0)
                        return r;
                offer_install(offer, model->is_default);
        }
        offers_configure(server);
        return 0;
}

static int server_init_loop(struct server *server, struct reason *reason) {
        int r;

        r = loop_init(&server->loop);
        if (r < 0) {
                reason_set(reason,
                           "io_uring cannot be used: %s; moed needs Linux 6.1 and kernel.io_uring_disabled=0, and a "
                           "container must allow it", strerror(-r));
                return r;
        }
        r = worker_init(&server->worker, false);
        if (r == 0)
                r = worker_init(&server->loader, false);
        if (r == 0)
                r = loop_watch(&server->loop, &server->worker_source, server->worker.fd, server_on_worker, server);
        if (r == 0)
                r = worker_init(&server->sharer, true);
        if (r == 0)
                r = loop_watch(&server->loop, &server->loader_source, server->loader.fd, server_on_loader,
                               &server->loader);
        if (r == 0)
                r = loop_watch(&server->loop, &server->sharer_source, server->sharer.fd, server_on_loader,
                               &server->sharer);
        return r;
}

static uint32_t server_prompt_rows(const struct server *server, const struct config *config) {
        return config->prompt_rows_max ? MIN(config->prompt_rows_max, server->rows_max) : server->rows_max;
}

static int server_init_batch(struct server *server) {
        server->rows_max = MIN(server->config->rows_max, (uint32_t) SERVER_BATCH_ROWS_MAX);
        server->prompt_rows_max = server_prompt_rows(server, server->config);
        server->picks = calloc(server->rows_max, sizeof(*server->picks));
        server->allowances = calloc(server->rows_max, sizeof(*server->allowances));
        server->budgets = calloc(server->rows_max, sizeof(*server->budgets));
        return server->picks && server->allowances && server->budgets ? 0 : -ENOMEM;
}

/* -1 when there is none. */
int server_init(struct server *server, struct config *config, struct reason *reason) {
        struct user_limits limits = server_limits(config);
        int r;

        *server = (struct server) { .config = config, .policies = POLICY_BOOK_NULL, .started = now_nsec() };
        list_init(&server->offers);
        list_init(&server->changes);
        list_init(&server->saves);
        list_init(&server->peers);
        list_init(&server->graves);
        users_init(&server->users, &limits);
        tenants_init(&server->tenants);
        history_init(&server->history);
        scheduler_init(&server->scheduler);
        server->scheduler.credit_nsec = SCHED_CREDIT_NSEC;
        r = policy_book_load(&server->policies, &config->budgets, &config->saved);
        /* The backend first: it decides for all threads where memory comes from. */
        if (r == 0)
                r = server_init_backend(server, reason);
        if (r == 0)
                r = server_init_batch(server);
        if (r == 0)
                r = server_init_loop(server, reason);
        if (r == 0)
                r = server_init_models(server, reason);
        return r;
}

static void server_free_graves(struct server *server) {
        struct stream *stream, *next;

        list_for_each_safe(stream, next, &server->graves, grave)
                stream_free(stream);
}

void server_deinit(struct server *server) {
        struct offer *offer, *next_offer;
        struct peer *peer, *next_peer;
        struct job *job;

        listener_free(server->listener);
        long_passes_give_up(server);
        list_for_each_safe(peer, next_peer, &server->peers, link) {
                peer_farewell(peer, "the daemon was stopped");
                peer_free(peer);
        }
        loop_source_remove(&server->worker_source);
        loop_source_remove(&server->loader_source);
        loop_source_remove(&server->sharer_source);
        atomic_store(&server->loader_stop, true);
        server_stop_loader(&server->loader);
        server_stop_loader(&server->sharer);
        changes_free(server);
        worker_deinit(&server->worker);
        /* What the worker had, done or not begun, is nobody's any more. */
        while ((job = worker_take_any(&server->worker)))
                stream_tokenized(container_of(job, struct stream, job));
        server_free_graves(server);
        list_for_each_safe(offer, next_offer, &server->offers, link)
                offer_free(offer);
        backend_freep(&server->backend);
        tenants_deinit(&server->tenants);
        history_deinit(&server->history);
        policy_book_deinit(&server->policies);
        loop_deinit(&server->loop);
        free(server->picks);
        free(server->allowances);
        free(server->budgets);
        config_free(server->config);
}

void server_reap(struct server *server) {
        struct peer *peer, *next;

        if (server->reapable) {
                server->reapable = false;
                list_for_each_safe(peer, next, &server->peers, link)
                        if (peer->dead)
                                peer_free(peer);
                listener_resume(server->listener);
        }
        server_free_graves(server);
        offers_reap(server);
}

int server_poll(struct server *server) {
        struct peer *peer, *next;
        int busy = 0, r;

        r = loop_dispatch(&server->loop);
        if (r < 0)
                return r;
        list_for_each_safe(peer, next, &server->peers, link)
                busy |= peer_poll(peer);
        return busy;
}

static bool server_idle(struct server *server) {
        struct peer *peer;

        list_for_each(peer, &server->peers, link)
                if (peer_ready(peer))
                        return false;
        return true;
}

/* Looks a little longer before it sleeps: a client that asks again at once then needs no bell. */
static bool server_spin(struct server *server) {
        uint64_t until;

        if (server->config->spin_usec == 0 || list_empty(&server->peers))
                return false;
        until = now_nsec() + server->config->spin_usec * NSEC_PER_USEC;
        do {
                if (!server_idle(server) || loop_pending(&server->loop))
                        return true;
                notify_pause();
        } while (now_nsec() < until);
        return false;
}

/* When a daemon that drains stops: at the time limit, or when all that is left waits for clients that don't read. */
static uint64_t server_drain_end(const struct server *server) {
        return MIN(server->drain_until, server->computed + DRAIN_IDLE_NSEC);
}

/* At most `timeout` nanoseconds. */
static int server_sleep(struct server *server, uint64_t timeout) {
        uint64_t now = now_nsec();
        struct peer *peer;
        int r = 0;

        if (server_spin(server))
                return 0;
        if (server->draining)
                timeout = MIN(timeout, server_drain_end(server) > now ? server_drain_end(server) - now : 0);
        list_for_each(peer, &server->peers, link)
                if (peer->greeted)
                        notify_sleeper_arm(&peer->sleeper);
        /* Either a client sees that we sleep and rings, or we see here what it has published. */
        full_fence();
        if (server_idle(server)) {
                server->metrics.sleeps++;
                r = loop_sleep(&server->loop, timeout);
        }
        list_for_each(peer, &server->peers, link)
                if (peer->greeted)
                        notify_sleeper_disarm(&peer->sleeper);
        return r;
}

static bool server_drained(const struct server *server) {
        return server->draining && (server->n_streams == 0 || now_nsec() >= server_drain_end(server));
}

/* Until a bucket lets somebody on that nothing else holds back. */
static uint64_t server_bucket_wait(const struct server *server) {
        uint64_t now = now_nsec(), then = server->scheduler.wake_at;

        return then == UINT64_MAX ? UINT64_MAX : then > now ? then - now : 0;
}

int server_run(struct server *server) {
        uint64_t timeout;
        int busy, r;

        while (!server->stopping && !server_drained(server)) {
                busy = server_poll(server);
                if (busy < 0)
                        return busy;
                server_reap(server);
                r = server_iterate(server);
                if (r < 0)
                        return r;
                if (r == 0 && !busy)
                        r = measure_run(server);
                if (r < 0)
                        return r;
                server_reap(server);
                timeout = MIN(offers_rest(server, now_nsec()), server_bucket_wait(server));
                if (!busy && r == 0 && list_empty(&server->graves) && !server->reapable) {
                        r = server_sleep(server, timeout);
                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

void server_drain(struct server *server) {
        if (server->draining) {
                log_info("stopping at once");
                server->stopping = true;
                return;
        }
        log_info("stopping when %u generations have ended, at the latest in %llu s", server->n_streams,
                 (unsigned long long) (server->config->drain_timeout_nsec / NSEC_PER_SEC));
        server->draining = true;
        server->computed = now_nsec();
        server->drain_until = server->computed + server->config->drain_timeout_nsec;
        listener_free(server->listener);
        server->listener = NULL;
}

int server_apply_policies(struct server *server) {
        struct tenant *tenant;
        struct peer *peer;
        int r;

        offers_admit(server);
        list_for_each(peer, &server->peers, link) {
                r = peer->dead ? 0 : account_enter(peer);
                if (r < 0)
                        return r;
        }
        list_for_each(tenant, &server->tenants.list, link) {
                r = account_update(tenant);
                if (r < 0)
                        return r;
        }
        return 0;
}

int server_reconfigure(struct server *server, struct config *config, bool newer_saved) {
        const struct config *old = server->config;
        struct user_limits limits = server_limits(config);
        enum quant_type best = server->backend->kv_type;
        struct offer *offer;
        int r;

        r = policy_book_load(&server->policies, &config->budgets, newer_saved ? &config->saved : NULL);
        if (r < 0)
                return r;
        if (old->threads != config->threads || old->rows_max != config->rows_max)
                log_warning("Threads= and RowsMax= take effect at the next start");
        if (old->kv_memory != config->kv_memory || old->long_rows_max != config->long_rows_max ||
            config_kv_quant(old->kv_type, best) != config_kv_quant(config->kv_type, best) ||
            old->context_max != config->context_max || old->context_extend != config->context_extend)
                log_warning("KvMemory=, KvType=, LongRowsMax=, ContextMax= and ContextExtend= are those of models that "
                            "are loaded from now on");
        server->prompt_rows_max = server_prompt_rows(server, config);
        list_for_each(offer, &server->offers, link)
                offer->sched.short_rows_max = config->prompt_rows_max;
        users_set_limits(&server->users, &limits);
        log_set_level(config->log_level);
        server->config = config;
        r = server_apply_policies(server);
        if (r < 0)
                log_error("no memory to give every connection its new policy: %s", strerror(-r));
        return 0;
}

struct offer *server_offer(struct server *server, uint32_t handle) {
        struct offer *offer;

        list_for_each(offer, &server->offers, link)
                if (!offer->retired && (handle == 0 || offer->handle == handle))
                        return offer;
        return NULL;
}

struct offer *server_offer_named(struct server *server, const char *name) {
        struct offer *offer;

        list_for_each(offer, &server->offers, link)
                if (!offer->retired && (!name || strcmp(offer->name, name) == 0))
                        return offer;
        return NULL;
}
