/* SPDX-License-Identifier: MIT */
#pragma once

/* One thread for what would keep the loop from its clients: tokenising long prompts. Jobs run in order. */

#include <pthread.h>
#include <stdbool.h>

#include "base/list.h"

/* Embedded in what it works on, which stays in place until the job is done. */
struct job {
        struct list link;
        void (*run)(struct job *job); /* on the worker's thread */
};

struct worker {
        pthread_t thread;
        pthread_mutex_t lock;
        pthread_cond_t wake;
        struct list queued, done;
        int fd; /* eventfd: readable when jobs are done */
        bool running, stopping, idle;
};

/* Starts the thread; an idle one leaves the cores to others. Negative errno. */
int worker_init(struct worker *worker, bool idle);
/* Waits for the job that runs; those that had not begun are neither run nor touched. Safe on a zeroed worker. */
void worker_deinit(struct worker *worker);
void worker_submit(struct worker *worker, struct job *job);
/* A job that is done, which is the caller's again, or NULL. Reset the eventfd first, then take until NULL. */
struct job *worker_take(struct worker *worker);
/* After worker_deinit(): any job that is left, run or not; NULL when none is. */
struct job *worker_take_any(struct worker *worker);
