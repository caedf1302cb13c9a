/* SPDX-License-Identifier: MIT */
#include "warming.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "base/log.h"

struct warming {
        struct loader_job job;
        struct server *server;
        struct model_file *file;
        char name[CONFIG_MODEL_NAME_MAX + 1];
        uint64_t bytes; /* of all models that are awake */
        int result; /* of a part of it: 1 while there is more */
        struct model_file_enlarging enlarging;
};

/* The page cache counts as free, and the weights that are in it with it. What does not fit is left to be read when it
 * is needed: whoever reads ahead then pushes out what was read before. */
static bool warming_fits(const struct warming *warming) {
        return warming->bytes + warming->bytes / 16 <= backend_cpu_memory();
}

/* Pages that this thread had to wait for until now. */
static long pages_waited_for(void) {
        struct rusage usage;

        return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_majflt : 0;
}

/* Whether it has. */
static bool rest_beside_a_step(const struct server *server) {
        const struct timespec rest = { .tv_nsec = 100 * NSEC_PER_MSEC };

        if (!atomic_load(&server->stepping))
                return false;
        (void) nanosleep(&rest, NULL);
        return true;
}

/* Parts that the disk gave follow each other at once. One that was there already had only to be mapped, which costs
 * nothing but the time of a core; all cores compute while a forward pass runs, and each of its loops ends when the last
 * of them has. */
static void warming_rest(const struct warming *warming, long *waited_for) {
        long before = *waited_for;

        *waited_for = pages_waited_for();
        if (*waited_for == before)
                (void) rest_beside_a_step(warming->server);
}

static bool warming_goes_on(const struct warming *warming) {
        return !atomic_load(&warming->server->loader_stop) && model_file_wanted(warming->file) && warming_fits(warming);
}

static void warming_run(struct job *job) {
        struct warming *warming = container_of(job, struct warming, job.job);
        long waited_for = pages_waited_for();
        uint64_t at = 0;
        int r = 1;

        while (r > 0 && warming_goes_on(warming)) {
                r = model_file_fetch_part(warming->file, &at);
                warming_rest(warming, &waited_for);
        }
        warming->result = r;
}

/* A forward pass would wait for the disk where it needs what is being read anew, so this is done between them; while one
 * runs, what else this thread has to do goes first. */
static void enlarging_run(struct job *job) {
        struct warming *warming = container_of(job, struct warming, job.job);

        while (warming->result > 0 && warming_goes_on(warming) && !rest_beside_a_step(warming->server))
                warming->result = model_file_enlarge_part(warming->file, &warming->enlarging);
}

static void warming_drop(struct loader_job *job) {
        struct warming *warming = container_of(job, struct warming, job);

        warming->server->n_warming--;
        model_file_rest(warming->file);
        model_file_unref(warming->file);
        free(warming);
}

static void enlarging_done(struct loader_job *job) {
        struct warming *warming = container_of(job, struct warming, job);

        if (warming->result > 0 && warming_goes_on(warming)) {
                worker_submit(&warming->server->sharer, &warming->job.job);
                return;
        }
        if (warming->enlarging.enlarged > 0)
                log_info("model %s: %u times 2 MiB were cached in small pages and lie in huge ones now", warming->name,
                         warming->enlarging.enlarged);
        warming_drop(job);
}

static void warming_done(struct loader_job *job) {
        struct warming *warming = container_of(job, struct warming, job);

        if (warming->result > 0 && model_file_wanted(warming->file)) {
                log_info("memory is short: weights that are not there are read when they are needed");
                warming->server->memory_short = true;
        }
        if (warming->result != 0) {
                warming_drop(job);
                return;
        }
        warming->result = 1;
        warming->job.job.run = enlarging_run;
        warming->job.done = enlarging_done;
        worker_submit(&warming->server->sharer, &warming->job.job);
}

int warming_begin(struct offer *offer) {
        struct server *server = offer->server;
        struct warming *warming;
        struct offer *other;

        if (!(server->backend->flags & BACKEND_HOST_MEMORY))
                return 0;
        warming = calloc(1, sizeof(*warming));
        if (!warming)
                return -ENOMEM;
        warming->server = server;
        warming->file = model_file_ref(model_file(offer->model));
        snprintf(warming->name, sizeof(warming->name), "%s", offer->name);
        warming->job = (struct loader_job) { .job.run = warming_run, .done = warming_done, .drop = warming_drop };
        list_init(&warming->job.job.link);
        list_for_each(other, &server->offers, link)
                if (other->state == OFFER_READY)
                        warming->bytes += model_info(other->model)->file_bytes;
        server->n_warming++;
        worker_submit(&server->sharer, &warming->job.job);
        return 0;
}
