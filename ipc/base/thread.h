/* SPDX-License-Identifier: MIT */
#pragma once

/* Threads that only work. */

#include <pthread.h>
#include <signal.h>

/* As pthread_create(), but the thread takes no signals, which belong to whoever reads them. Only what it may raise
 * itself and live on is not blocked: SIGBUS, of a mapped file that is gone. Returns 0 or a positive errno. */
static inline int thread_start(pthread_t *ret, void *(*run)(void *), void *argument) {
        sigset_t all, before;
        int r;

        sigfillset(&all);
        sigdelset(&all, SIGBUS);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        r = pthread_create(ret, NULL, run, argument);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        return r;
}
