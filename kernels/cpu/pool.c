/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fence.h"
#include "base/thread.h"
#include "base/util.h"
#include "pool.h"

/* A phase is a ticket: its serial number, and how many pieces of it nobody has taken. Whoever takes a piece exchanges
 * the ticket that it has seen for one with a piece less, so it never gets one of a phase that it has not seen: a worker
 * that was kept off its core in between finds another serial. What the phase consists of lies beside the ticket,
 * written before it, and only when every piece of the phase before is done. So what was read after a ticket with pieces
 * left belongs to it if the exchange succeeds; of a ticket without any, nothing may be believed. The thread that ends
 * the last piece opens the next phase. */

enum {
        PIECE_BITS = 24,
        SPIN_NSEC = 40 * 1000, /* longer than the gap between two operations, shorter than a neighbour would notice */
        SPIN_ROUND = 32,       /* looks between two readings of the clock */
        CACHE_LINE = 64,
};

#define PIECES_MAX ((UINT64_C(1) << PIECE_BITS) - 1)

struct worker {
        struct pool *pool;
        pthread_t thread;
        unsigned index;
};

struct pool {
        struct worker *workers; /* all but the caller */
        unsigned n_workers;
        const struct pool_phase *phases; /* not opened yet; belongs to whoever opens the next */
        unsigned n_phases;

        /* All that a loop changes, in one line: it goes from core to core as seldom as can be. */
        _Alignas(CACHE_LINE) _Atomic uint64_t ticket;
        _Atomic uint64_t n, grain, pieces;
        _Atomic(pool_fn *) fn;
        _Atomic(void *) arg;
        _Atomic uint32_t left;    /* pieces of the phase that are not done */
        _Atomic uint32_t running; /* 0: the last phase has ended */

        /* Changes only when somebody sleeps. */
        _Alignas(CACHE_LINE) _Atomic uint32_t sleeping; /* workers may sleep since the last `woken` */
        _Atomic uint32_t woken;   /* what workers sleep on */
        _Atomic uint32_t waiting; /* the caller sleeps on it while it is 1 */
        _Atomic uint32_t quit;
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

static uint64_t serial_of(uint64_t ticket) {
        return ticket >> PIECE_BITS;
}

static bool is_over(struct pool *p) {
        return !atomic_load_explicit(&p->running, memory_order_acquire);
}

/* Returns the ticket when it is of another loop than `seen`, or, for the caller, when the last phase has ended. */
static bool look(struct pool *p, uint64_t seen, bool caller, uint64_t *ret) {
        *ret = atomic_load_explicit(&p->ticket, memory_order_acquire);
        return serial_of(*ret) != seen || (caller && is_over(p));
}

static bool spin(struct pool *p, uint64_t seen, bool caller, uint64_t *ret) {
        uint64_t end = 0;

        do {
                for (unsigned i = 0; i < SPIN_ROUND; i++) {
                        if (look(p, seen, caller, ret))
                                return true;
                        relax();
                }
                /* Most loops end before the clock is read for the first time. */
                end = end ? end : now_nsec() + SPIN_NSEC;
        } while (now_nsec() < end);
        return false;
}

/* Who goes to sleep says so and then looks for work; who has some (a ticket, an end, `quit`) publishes it and then
 * looks for sleepers. Both have a full fence in between, so either the one sees the work or the other the sleeper. A
 * sleeper that was seen waits on a word that the other changes before it wakes: a wait that begins too late does not
 * begin. */
static void worker_sleep(struct pool *p, uint64_t seen) {
        /* Acquire: whoever sees the word of a later wake-up sees its ticket, too. */
        uint32_t woken = atomic_load_explicit(&p->woken, memory_order_acquire);

        atomic_store_explicit(&p->sleeping, 1, memory_order_relaxed);
        full_fence();
        if (serial_of(atomic_load_explicit(&p->ticket, memory_order_relaxed)) == seen &&
            !atomic_load_explicit(&p->quit, memory_order_relaxed))
                futex_wait(&p->woken, woken);
}

static void caller_sleep(struct pool *p, uint64_t seen) {
        atomic_store_explicit(&p->waiting, 1, memory_order_relaxed);
        full_fence();
        if (serial_of(atomic_load_explicit(&p->ticket, memory_order_relaxed)) == seen &&
            atomic_load_explicit(&p->running, memory_order_relaxed))
                futex_wait(&p->waiting, 1);
        atomic_store_explicit(&p->waiting, 0, memory_order_relaxed);
}

/* After full_fence(). Only the opener of a phase and pool_free() come here, one after the other. */
static void wake_workers(struct pool *p) {
        if (!atomic_load_explicit(&p->sleeping, memory_order_relaxed))
                return;
        atomic_store_explicit(&p->sleeping, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(&p->woken, 1, memory_order_release);
        futex_wake(&p->woken, INT_MAX);
}

/* After full_fence(). */
static void wake_caller(struct pool *p) {
        if (atomic_load_explicit(&p->waiting, memory_order_relaxed) &&
            atomic_exchange_explicit(&p->waiting, 0, memory_order_relaxed))
                futex_wake(&p->waiting, 1);
}

/* Publishes a phase of `pieces` whose first one is the opener's. Returns its ticket. */
static uint64_t open_phase(struct pool *p, const struct pool_phase *phase, uint64_t grain, uint64_t pieces) {
        uint64_t serial = serial_of(atomic_load_explicit(&p->ticket, memory_order_relaxed)) + 1;
        uint64_t ticket = serial << PIECE_BITS | (pieces - 1);

        atomic_store_explicit(&p->n, phase->n, memory_order_relaxed);
        atomic_store_explicit(&p->grain, grain, memory_order_relaxed);
        atomic_store_explicit(&p->pieces, pieces, memory_order_relaxed);
        atomic_store_explicit(&p->fn, phase->fn, memory_order_relaxed);
        atomic_store_explicit(&p->arg, phase->arg, memory_order_relaxed);
        atomic_store_explicit(&p->left, (uint32_t) pieces, memory_order_relaxed);
        atomic_store_explicit(&p->running, 1, memory_order_relaxed);
        atomic_store_explicit(&p->ticket, ticket, memory_order_release);
        full_fence();
        wake_workers(p);
        wake_caller(p);
        return ticket;
}

/* Takes pieces of the phase of `ticket`, of which `mine` are done already; true: the last that was left was ours. */
static bool take_pieces(struct pool *p, unsigned worker, uint64_t ticket, uint32_t mine) {
        uint64_t n = atomic_load_explicit(&p->n, memory_order_relaxed);
        uint64_t grain = atomic_load_explicit(&p->grain, memory_order_relaxed);
        uint64_t pieces = atomic_load_explicit(&p->pieces, memory_order_relaxed);
        pool_fn *fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
        void *arg = atomic_load_explicit(&p->arg, memory_order_relaxed);
        uint64_t serial = serial_of(ticket), begin;

        while (serial_of(ticket) == serial && (ticket & PIECES_MAX) > 0) {
                if (!atomic_compare_exchange_weak_explicit(&p->ticket, &ticket, ticket - 1, memory_order_acq_rel,
                                                           memory_order_acquire))
                        continue;
                begin = (pieces - (ticket & PIECES_MAX)) * grain;
                fn(arg, begin, MIN(begin + grain, n), worker);
                mine++;
                ticket = atomic_load_explicit(&p->ticket, memory_order_acquire);
        }
        return mine > 0 && atomic_fetch_sub_explicit(&p->left, mine, memory_order_acq_rel) == mine;
}

/* Runs the phases that are next and have one piece, and opens the first that has more; false: there is none. */
static bool next_phase(struct pool *p, unsigned worker, uint64_t *ret_ticket) {
        while (p->n_phases > 0) {
                const struct pool_phase *phase = p->phases++;
                uint64_t grain = MAX(MAX(phase->grain, UINT64_C(1)), phase->n / PIECES_MAX + 1);

                p->n_phases--;
                if (phase->n > grain && p->n_workers > 0) {
                        *ret_ticket = open_phase(p, phase, grain, DIV_ROUND_UP(phase->n, grain));
                        phase->fn(phase->arg, 0, grain, worker);
                        return true;
                }
                if (phase->n > 0)
                        phase->fn(phase->arg, 0, phase->n, worker);
        }
        return false;
}

/* Takes part in the phases from `ticket` on for as long as it is we who end them. */
static void work(struct pool *p, unsigned worker, uint64_t ticket, uint32_t mine) {
        while (take_pieces(p, worker, ticket, mine)) {
                if (!next_phase(p, worker, &ticket)) {
                        atomic_store_explicit(&p->running, 0, memory_order_release);
                        full_fence();
                        wake_caller(p);
                        return;
                }
                mine = 1;
        }
}

static void *worker_main(void *arg) {
        struct worker *w = arg;
        struct pool *p = w->pool;
        uint64_t ticket, seen = 0;

        while (!atomic_load_explicit(&p->quit, memory_order_acquire)) {
                if (!spin(p, seen, false, &ticket)) {
                        worker_sleep(p, seen);
                        continue;
                }
                work(p, w->index, ticket, 0);
                seen = serial_of(ticket);
        }
        return NULL;
}

void pool_run_phases(struct pool *p, const struct pool_phase *phases, unsigned n) {
        uint64_t ticket, seen;

        p->phases = phases;
        p->n_phases = n;
        if (!next_phase(p, 0, &ticket))
                return;
        work(p, 0, ticket, 1);
        for (seen = serial_of(ticket); !is_over(p); seen = serial_of(ticket)) {
                if (!spin(p, seen, true, &ticket)) {
                        caller_sleep(p, seen);
                        continue;
                }
                if (serial_of(ticket) != seen)
                        work(p, 0, ticket, 0);
        }
}

void pool_run(struct pool *p, uint64_t n, uint64_t grain, pool_fn *fn, void *arg) {
        pool_run_phases(p, &(struct pool_phase) { .n = n, .grain = grain, .fn = fn, .arg = arg }, 1);
}

unsigned pool_threads(const struct pool *p) {
        return p->n_workers + 1;
}

void pool_free(struct pool *p) {
        if (!p)
                return;
        atomic_store_explicit(&p->quit, 1, memory_order_release);
        full_fence();
        wake_workers(p);
        for (unsigned i = 0; i < p->n_workers; i++)
                pthread_join(p->workers[i].thread, NULL);
        free(p->workers);
        free(p);
}

static int worker_start(struct worker *w, struct pool *p, unsigned index) {
        int r;

        *w = (struct worker){.pool = p, .index = index};
        r = thread_start(&w->thread, worker_main, w);
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
