/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/thread.h"
#include "worker.h"

static struct job *worker_pop(struct list *list) {
        struct job *job;

        if (list_empty(list))
                return NULL;
        job = list_entry(list->next, struct job, link);
        list_unlink(&job->link);
        return job;
}

static void *worker_main(void *userdata) {
        struct worker *worker = userdata;
        struct job *job;

        /* Not the least there is: what it holds (the lock of the address space) others may come to wait for. */
        if (worker->idle)
                (void) setpriority(PRIO_PROCESS, (id_t) gettid(), 10);
        pthread_mutex_lock(&worker->lock);
        while (!worker->stopping) {
                job = worker_pop(&worker->queued);
                if (!job) {
                        pthread_cond_wait(&worker->wake, &worker->lock);
                        continue;
                }
                pthread_mutex_unlock(&worker->lock);
                job->run(job);
                pthread_mutex_lock(&worker->lock);
                list_append(&worker->done, &job->link);
                /* Cannot fail but for a full counter, and then it is readable anyway. */
                (void) !eventfd_write(worker->fd, 1);
        }
        pthread_mutex_unlock(&worker->lock);
        return NULL;
}

int worker_init(struct worker *worker, bool idle) {
        int r;

        *worker = (struct worker) { .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .idle = idle };
        if (worker->fd < 0)
                return -errno;
        list_init(&worker->queued);
        list_init(&worker->done);
        pthread_mutex_init(&worker->lock, NULL);
        pthread_cond_init(&worker->wake, NULL);
        r = thread_start(&worker->thread, worker_main, worker);
        if (r != 0) {
                worker->fd = close_fd(worker->fd);
                return -r;
        }
        worker->running = true;
        return 0;
}

void worker_deinit(struct worker *worker) {
        if (!worker->running)
                return;
        pthread_mutex_lock(&worker->lock);
        worker->stopping = true;
        pthread_cond_signal(&worker->wake);
        pthread_mutex_unlock(&worker->lock);
        pthread_join(worker->thread, NULL);
        pthread_mutex_destroy(&worker->lock);
        pthread_cond_destroy(&worker->wake);
        worker->fd = close_fd(worker->fd);
        worker->running = false;
}

void worker_submit(struct worker *worker, struct job *job) {
        pthread_mutex_lock(&worker->lock);
        list_append(&worker->queued, &job->link);
        pthread_cond_signal(&worker->wake);
        pthread_mutex_unlock(&worker->lock);
}

struct job *worker_take(struct worker *worker) {
        struct job *job;

        pthread_mutex_lock(&worker->lock);
        job = worker_pop(&worker->done);
        pthread_mutex_unlock(&worker->lock);
        return job;
}

struct job *worker_take_any(struct worker *worker) {
        struct job *job;

        if (!worker->queued.next)
                return NULL;
        job = worker_pop(&worker->queued);
        return job ? job : worker_pop(&worker->done);
}
