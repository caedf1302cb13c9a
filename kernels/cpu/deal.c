/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/util.h"
#include "cpu.h"

/* A line of its own for each thread: it is written for every item. */
struct share {
        _Alignas(64) _Atomic uint64_t taken;
        uint64_t begin, n;
};

struct deal {
        unsigned threads;
        struct share shares[];
};

int deal_new(struct deal **ret, unsigned threads) {
        struct deal *d = aligned_alloc(64, sizeof(*d) + threads * sizeof(d->shares[0]));

        if (!d)
                return -ENOMEM;
        *d = (struct deal) { .threads = threads };
        *ret = d;
        return 0;
}

void deal_free(struct deal *d) {
        free(d);
}

void deal_out(struct deal *d, uint64_t n) {
        for (unsigned i = 0; i < d->threads; i++) {
                struct share *s = &d->shares[i];

                s->begin = n * i / d->threads;
                s->n = n * (i + 1) / d->threads - s->begin;
                atomic_store_explicit(&s->taken, 0, memory_order_relaxed);
        }
}

uint64_t deal_next(struct deal *d, unsigned worker) {
        for (unsigned i = worker;; i = (i + 1) % d->threads) {
                struct share *s = &d->shares[i];
                uint64_t at;

                if (atomic_load_explicit(&s->taken, memory_order_relaxed) >= s->n)
                        continue;
                at = atomic_fetch_add_explicit(&s->taken, 1, memory_order_relaxed);
                if (at < s->n)
                        return s->begin + at;
        }
}
