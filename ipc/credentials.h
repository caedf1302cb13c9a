/* SPDX-License-Identifier: MIT */
#pragma once

/* Who is at the other end of a Unix socket, from the kernel, as of its connect(). */

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct credentials {
        pid_t pid;
        uid_t uid;
        gid_t gid;
        gid_t *groups; /* supplementary groups; owned */
        size_t n_groups;
        int pidfd; /* of the process that connected, whoever has its pid by now; owned. -1: see `gone` */
        bool gone; /* it has ended. False with pidfd -1: the kernel has no SO_PEERPIDFD (before 6.5) and can't tell */
};
#define CREDENTIALS_NULL ((struct credentials) { .uid = (uid_t) -1, .gid = (gid_t) -1, .pidfd = -1 })

/* Returns 0 or a negative errno. Thread-safe. */
int credentials_read(struct credentials *ret, int socket_fd);
void credentials_deinit(struct credentials *credentials);
/* Whether `gid` is the peer's own or one of its supplementary groups. */
bool credentials_has_gid(const struct credentials *credentials, gid_t gid);
