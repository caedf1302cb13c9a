/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <sys/timerfd.h>
#include <unistd.h>

#if HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#include "base/cleanup.h"
#include "base/util.h"
#include "manager.h"
#include "server.h"

#if HAVE_SYSTEMD

int manager_listen_fd(int *ret_fd, struct reason *reason) {
        int n = sd_listen_fds(1);

        if (n < 0)
                return reason_return(reason, n, "the service manager's sockets cannot be taken over");
        if (n > 1)
                return reason_return(reason, -EINVAL, "the service manager passed %d sockets, one is used", n);
        *ret_fd = n == 1 ? SD_LISTEN_FDS_START : -1;
        return 0;
}

static int manager_on_watchdog(void *userdata, int result) {
        struct manager *manager = userdata;
        uint64_t n;

        (void) !read(manager->watchdog, &n, sizeof(n));
        sd_notifyf(0, "WATCHDOG=1\nSTATUS=Serving %u connections, %u generations", manager->server->n_peers,
                   manager->server->n_streams);
        return 0;
}

int manager_init(struct manager *manager, struct server *server) {
        struct itimerspec timer = {};
        uint64_t usec, half;

        *manager = (struct manager) { .server = server, .watchdog = -1 };
        if (sd_watchdog_enabled(0, &usec) <= 0)
                return 0;
        half = usec / 2 * NSEC_PER_USEC;
        timer.it_interval.tv_sec = timer.it_value.tv_sec = (time_t) (half / NSEC_PER_SEC);
        timer.it_interval.tv_nsec = timer.it_value.tv_nsec = (long) (half % NSEC_PER_SEC);
        manager->watchdog = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        if (manager->watchdog < 0 || timerfd_settime(manager->watchdog, 0, &timer, NULL) < 0)
                return -errno;
        return loop_watch(&server->loop, &manager->watchdog_source, manager->watchdog, manager_on_watchdog, manager);
}

void manager_ready(const char *status) {
        sd_notifyf(0, "READY=1\nSTATUS=%s", status);
}

void manager_reloading(void) {
        sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long) (now_nsec() / NSEC_PER_USEC));
}

void manager_stopping(const char *status) {
        sd_notifyf(0, "STOPPING=1\nSTATUS=%s", status);
}

#else

int manager_listen_fd(int *ret_fd, struct reason *reason) {
        *ret_fd = -1;
        return 0;
}

int manager_init(struct manager *manager, struct server *server) {
        *manager = (struct manager) { .server = server, .watchdog = -1 };
        return 0;
}

void manager_ready(const char *status) {
}

void manager_reloading(void) {
}

void manager_stopping(const char *status) {
}

#endif

void manager_deinit(struct manager *manager) {
        loop_source_remove(&manager->watchdog_source);
        manager->watchdog = close_fd(manager->watchdog);
}
