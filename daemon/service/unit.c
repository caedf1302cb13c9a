/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "unit.h"

static bool has_suffix(const char *name, size_t length, const char *suffix) {
        size_t n = strlen(suffix);

        return length > n && memcmp(name + length - n, suffix, n) == 0;
}

void unit_from_cgroup(const char *cgroup, char ret[static UNIT_NAME_MAX + 1]) {
        const char *path = strstr(cgroup, "0::/");

        ret[0] = '\0';
        if (!path || (path != cgroup && path[-1] != '\n'))
                return;
        path += 4;
        while (*path && *path != '\n') {
                size_t length = strcspn(path, "/\n");

                if (!has_suffix(path, length, ".slice")) {
                        /* systemd puts an underscore before names that the kernel might take for its own files. */
                        if (*path == '_') {
                                path++;
                                length--;
                        }
                        if (length > UNIT_NAME_MAX)
                                return;
                        if (has_suffix(path, length, ".service") || has_suffix(path, length, ".scope")) {
                                memcpy(ret, path, length);
                                ret[length] = '\0';
                        }
                        return;
                }
                path += length;
                if (*path == '/')
                        path++;
        }
}

static bool pidfd_alive(int pidfd) {
        struct pollfd p = { .fd = pidfd, .events = POLLIN };

        return poll(&p, 1, 0) == 0;
}

void unit_of_peer(const struct credentials *credentials, char ret[static UNIT_NAME_MAX + 1]) {
        _cleanup_(closep) int opened = -1, folder = -1, fd = -1;
        int pidfd = credentials->pidfd;
        char path[32], text[4096];
        struct stat st;
        ssize_t n;

        ret[0] = '\0';
        if (credentials->pid <= 0)
                return;
        if (pidfd < 0)
                pidfd = opened = (int) syscall(SYS_pidfd_open, credentials->pid, 0);
        if (pidfd < 0)
                return;
        snprintf(path, sizeof(path), "/proc/%d", (int) credentials->pid);
        folder = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (folder < 0)
                return;
        fd = openat(folder, "cgroup", O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return;
        n = read(fd, text, sizeof(text) - 1);
        if (n <= 0 || !pidfd_alive(pidfd))
                return;
        if (opened >= 0 && (fstat(folder, &st) < 0 || st.st_uid != credentials->uid))
                return;
        text[n] = '\0';
        unit_from_cgroup(text, ret);
}
