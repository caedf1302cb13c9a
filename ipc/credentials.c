/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "credentials.h"

/* Since Linux 6.5; the headers of Debian 12 don't have it. */
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

/* Room for the usual few; the kernel says how much it needs when that is not enough. */
enum { GROUPS_GUESS = 32 };

static int read_groups(struct credentials *credentials, int fd) {
        _cleanup_(freep) gid_t *groups = NULL;
        socklen_t size = GROUPS_GUESS * sizeof(*groups);

        for (;;) {
                gid_t *grown = realloc(groups, size ? size : sizeof(*groups));

                if (!grown)
                        return -ENOMEM;
                groups = grown;
                if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) == 0)
                        break;
                if (errno != ERANGE)
                        return -errno;
        }
        credentials->n_groups = size / sizeof(*groups);
        credentials->groups = steal_ptr(groups);
        return 0;
}

/* A process without a parent to wait for it is gone at once, with its number; who has that number next is another. */
static int read_pidfd(struct credentials *credentials, int fd) {
        int pidfd;
        socklen_t size = sizeof(pidfd);

        if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) == 0) {
                credentials->pidfd = pidfd;
                return 0;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
                return -errno;
        credentials->gone = errno != ENOPROTOOPT;
        return 0;
}

int credentials_read(struct credentials *ret, int socket_fd) {
        struct credentials c = CREDENTIALS_NULL;
        struct ucred ucred;
        socklen_t size = sizeof(ucred);
        int r;

        if (getsockopt(socket_fd, SOL_SOCKET, SO_PEERCRED, &ucred, &size) < 0)
                return -errno;
        c.pid = ucred.pid;
        c.uid = ucred.uid;
        c.gid = ucred.gid;
        r = read_groups(&c, socket_fd);
        if (r == 0)
                r = read_pidfd(&c, socket_fd);
        if (r < 0) {
                credentials_deinit(&c);
                return r;
        }
        *ret = c;
        return 0;
}

void credentials_deinit(struct credentials *credentials) {
        free(credentials->groups);
        close_fd(credentials->pidfd);
        *credentials = CREDENTIALS_NULL;
}

bool credentials_has_gid(const struct credentials *credentials, gid_t gid) {
        if (credentials->gid == gid)
                return true;
        for (size_t i = 0; i < credentials->n_groups; i++)
                if (credentials->groups[i] == gid)
                        return true;
        return false;
}
