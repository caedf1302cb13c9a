/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/util.h"
#include "pool.h"

enum {
        SPIN_NSEC =
                40 *
                1000, /* longer than the gap between two operations, shorter than a neighbour would notice */
        SPIN_ROUND = 32, /* looks between two readings of the clock */
        CACHE_LINE = 64,
};

struct worker {
        struct pool *pool;
        pthread_t thread;
        unsigned index;
};

struct pool {
        struct worker *workers; /* all but the caller */
        unsigned n_workers;

        /* The loop; written by the caller while it is closed and nobody is active. */
        pool_fn *fn;
        void *arg;
        uint64_t n, grain;

        _Alignas(CACHE_LINE) _Atomic uint64_t next; /* first item not handed out */
        _Alignas(CACHE_LINE) _Atomic uint32_t
                generation; /* loops begun; what idle workers watch and sleep on */
        _Atomic uint32_t open, sleepers, quit;
        _Alignas(CACHE_LINE) _Atomic uint32_t
                active;           /* workers that may read the loop; the caller sleeps on it */
        _Atomic uint32_t waiting; /* the caller sleeps, or is about to */
};

static void relax(void) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
}

static void futex_wait(_Atomic uint32_t *word, uint32_t value) {
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n) {
        syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

/* Waits a little for the word to change from `value`; false: it did not. */
static bool spin_while(_Atomic uint32_t *word, uint32_t value) {
        uint64_t end = now_nsec() + SPIN_NSEC;

        do {
                for (unsigned i = 0; i < SPIN_ROUND; i++) {
                        if (atomic_load_explicit(word, memory_order_acquire) != value)
                                return true;
                        relax();
                }
        } while (now_nsec() < end);
        return false;
}

static void take_pieces(struct pool *p, unsigned worker) {
        for (;;) {
                uint64_t begin = atomic_fetch_add_explicit(&p->next, p->grain, memory_order_relaxed);

                if (begin >= p->n)
                        return;
                p->fn(p->arg, begin, MIN(begin + p->grain, p->n), worker);
        }
}

/* Pairs with pool_run(): either we see the loop closed, or the caller sees us active and waits. Both sides
 * write their word before they read the other's; sequential consistency keeps that order. */
static void worker_join(struct worker *w) {
        struct pool *p = w->pool;

        atomic_fetch_add(&p->active, 1);
        if (atomic_load(&p->open))
                take_pieces(p, w->index);
        if (atomic_fetch_sub(&p->active, 1) == 1 && atomic_load(&p->waiting))
                futex_wake(&p->active, 1);
}

static void *worker_main(void *arg) {
        struct worker *w = arg;
        struct pool *p = w->pool;
        uint32_t seen = 0;

        while (!atomic_load(&p->quit)) {
                if (!spin_while(&p->generation, seen)) {
                        /* The kernel compares again: a loop begun since is not slept through. */
                        atomic_fetch_add(&p->sleepers, 1);
                        futex_wait(&p->generation, seen);
                        atomic_fetch_sub(&p->sleepers, 1);
                }
                seen = atomic_load(&p->generation);
                worker_join(w);
        }
        return NULL;
}

static void begin_generation(struct pool *p) {
        atomic_fetch_add(&p->generation, 1);
        if (atomic_load(&p->sleepers) > 0)
                futex_wake(&p->generation, INT_MAX);
}

static void wait_until_alone(struct pool *p) {
        uint64_t end = now_nsec() + SPIN_NSEC;
        uint32_t active;

        while ((active = atomic_load(&p->active)) != 0 && now_nsec() < end)
                relax();
        if (active == 0)
                return;
        atomic_store(&p->waiting, 1);
        while ((active = atomic_load(&p->active)) != 0)
                futex_wait(&p->active, active);
        atomic_store(&p->waiting, 0);
}

void pool_run(struct pool *p, uint64_t n, uint64_t grain, pool_fn *fn, void *arg) {
        if (n == 0)
                return;
        if (n <= grain || p->n_workers == 0) {
                fn(arg, 0, n, 0);
                return;
        }
        p->fn = fn;
        p->arg = arg;
        p->n = n;
        p->grain = grain ? grain : 1;
        atomic_store(&p->next, 0);
        atomic_store(&p->open, 1);
        begin_generation(p);
        take_pieces(p, 0);
        atomic_store(&p->open, 0);
        wait_until_alone(p);
}

unsigned pool_threads(const struct pool *p) {
        return p->n_workers + 1;
}

void pool_free(struct pool *p) {
        if (!p)
                return;
        atomic_store(&p->quit, 1);
        begin_generation(p);
        for (unsigned i = 0; i < p->n_workers; i++)
                pthread_join(p->workers[i].thread, NULL);
        free(p->workers);
        free(p);
}

/* Workers take no signals: those belong to whoever reads them. */
static int worker_start(struct worker *w, struct pool *p, unsigned index) {
        sigset_t all, before;
        int r;

        *w = (struct worker){.pool = p, .index = index};
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        r = pthread_create(&w->thread, NULL, worker_main, w);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (r == 0)
                pthread_setname_np(w->thread, "moed-worker");
        return -r;
}

int pool_new(struct pool **ret, unsigned threads) {
        struct pool *p = aligned_alloc(CACHE_LINE, sizeof(*p));
        int r = 0;

        if (!p)
                return -ENOMEM;
        *p = (struct pool){.workers = calloc(MAX(threads, 1U), sizeof(*p->workers))};
        if (!p->workers)
                r = -ENOMEM;
        while (r == 0 && p->n_workers + 1 < threads) {
                r = worker_start(&p->workers[p->n_workers], p, p->n_workers + 1);
                p->n_workers += r == 0;
        }
        if (r) {
                pool_free(p);
                return r;
        }
        *ret = p;
        return 0;
}
