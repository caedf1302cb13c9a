/* SPDX-License-Identifier: MIT */
#pragma once

/* What the daemon tells its service manager (sd_notify(3)) and gets from it. Without one, or built without libsystemd,
 * nothing happens. */

#include "base/reason.h"
#include "loop.h"

struct server;

struct manager {
        struct server *server;
        struct loop_source watchdog_source;
        int watchdog; /* timerfd, or -1 */
};
#define MANAGER_NULL { .watchdog = -1 }

/* The listening socket that it passed in *ret_fd, or -1. -EINVAL when there are several. */
int manager_listen_fd(int *ret_fd, struct reason *reason);
/* Keeps its watchdog quiet from the loop, if it has one: a loop that hangs is restarted. Negative errno. */
int manager_init(struct manager *manager, struct server *server);
void manager_deinit(struct manager *manager);

void manager_ready(const char *status);
void manager_reloading(void);
void manager_stopping(const char *status);
