/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/util.h"
#include "control.h"
#include "new-file.h"
#include "peer.h"
#include "report.h"
#include "save.h"
#include "verbs.h"

struct save {
        struct server *server;
        struct list link; /* in server->saves */
        struct loader_job writing;
        struct peer *peer; /* who waits for a reply to `id`; NULL: nobody */
        uint64_t id;
        char *path, *text;
        int result;
};

static void save_free(struct save *save) {
        list_unlink(&save->link);
        free(save->path);
        free(save->text);
        free(save);
}

/* The folders that the file lies in: a user's state folder need not be there yet. */
static int make_folders(const char *path) {
        _cleanup_(freep) char *folder = strdup(path);

        if (!folder)
                return -ENOMEM;
        for (char *slash = strchr(folder + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
                *slash = '\0';
                if (mkdir(folder, 0700) < 0 && errno != EEXIST)
                        return -errno;
                *slash = '/';
        }
        return 0;
}

static int write_text(FILE *out, void *userdata) {
        return fputs(userdata, out) < 0 ? -errno : 0;
}

static void save_write(struct job *job) {
        struct save *save = container_of(job, struct save, writing.job);

        save->result = make_folders(save->path);
        if (save->result == 0)
                save->result = new_file_write(save->path, true, write_text, save->text);
}

static void save_done(struct loader_job *job) {
        struct save *save = container_of(job, struct save, writing);
        struct reason reason = REASON_INIT;
        struct control_builder reply;

        control_builder_init(&reply);
        if (save->result < 0) {
                reason_set(&reason, "it is in force, but not saved: %s: %s", save->path, strerror(-save->result));
                log_error("budgets are not saved: %s: %s", save->path, strerror(-save->result));
        }
        if (save->peer && !save->peer->dead) {
                report_budgets(&reply, save->server, NULL, NULL);
                verbs_reply(save->peer, save->id, &reply, -save->result, &reason);
        }
        control_builder_deinit(&reply);
        save_free(save);
}

/* The daemon ends before the loader came to it. */
static void save_drop(struct loader_job *job) {
        struct save *save = container_of(job, struct save, writing);

        save_write(&save->writing.job);
        save_free(save);
}

int save_check(const struct server *server, struct reason *reason) {
        if (server->config->saved_path)
                return 0;
        return reason_return(reason, ENOENT,
                             "there is no folder to save it in: neither STATE_DIRECTORY nor HOME is set");
}

int save_budgets(struct server *server, struct peer *peer, uint64_t id) {
        struct save *save = calloc(1, sizeof(*save));
        int r = -ENOMEM;

        if (!save)
                return r;
        list_init(&save->link);
        save->path = strdup(server->config->saved_path);
        if (save->path)
                r = policy_table_write(&server->policies.layers[POLICY_LAYER_SAVED], &save->text);
        if (r < 0) {
                save_free(save);
                return r;
        }
        save->server = server;
        save->peer = peer;
        save->id = id;
        save->writing = (struct loader_job) { .job.run = save_write, .done = save_done, .drop = save_drop };
        list_init(&save->writing.job.link);
        list_append(&server->saves, &save->link);
        server->n_saves++;
        worker_submit(&server->loader, &save->writing.job);
        return 0;
}

void saves_forget(struct server *server, const struct peer *peer) {
        struct save *save;

        list_for_each(save, &server->saves, link)
                if (save->peer == peer)
                        save->peer = NULL;
}
