/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "unit.h"

enum { TEXT_MAX = 64 * 1024 };

static bool has_suffix(const char *name, size_t length, const char *suffix) {
        size_t n = strlen(suffix);

        return length > n && memcmp(name + length - n, suffix, n) == 0;
}

/* The path in the unified hierarchy, or NULL. Other lines may have any text in their paths. */
static const char *unified_path(const char *cgroup) {
        while (cgroup && strncmp(cgroup, "0::/", 4) != 0) {
                cgroup = strchr(cgroup, '\n');
                cgroup = cgroup ? cgroup + 1 : NULL;
        }
        return cgroup ? cgroup + 4 : NULL;
}

void unit_from_cgroup(const char *cgroup, char ret[static UNIT_NAME_MAX + 1]) {
        const char *path = unified_path(cgroup);

        ret[0] = '\0';
        while (path && *path && *path != '\n') {
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

/* The whole file, "" when it can't be read: of a process in many old hierarchies the line that counts comes last. */
static int read_text(int folder, const char *name, char **ret) {
        _cleanup_(closep) int fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
        _cleanup_(freep) char *text = malloc(TEXT_MAX);
        size_t length = 0;
        ssize_t n;

        if (!text)
                return -ENOMEM;
        while (fd >= 0 && length < TEXT_MAX - 1 && (n = read(fd, text + length, TEXT_MAX - 1 - length)) > 0)
                length += (size_t) n;
        text[length] = '\0';
        *ret = steal_ptr(text);
        return 0;
}

/* Not the owner of the folder: that is root's for a process that may not be dumped. */
static bool is_of(const char *status, uid_t uid) {
        const char *line = strstr(status, "\nUid:\t");
        unsigned real, effective;

        return line && sscanf(line, "\nUid:\t%u\t%u", &real, &effective) == 2 && effective == uid;
}

/* A folder that was opened stays that of its process: what is read in it never belongs to a later one. */
static int read_unit(const struct credentials *credentials, int pidfd, bool attested,
                     char ret[static UNIT_NAME_MAX + 1]) {
        _cleanup_(freep) char *cgroup = NULL, *status = NULL;
        _cleanup_(closep) int folder = -1;
        char path[32];
        int r;

        snprintf(path, sizeof(path), "/proc/%d", (int) credentials->pid);
        folder = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        r = read_text(folder, "cgroup", &cgroup);
        if (r == 0)
                r = read_text(folder, "status", &status);
        if (r < 0)
                return r;
        if (!pidfd_alive(pidfd) || (!attested && !is_of(status, credentials->uid)))
                return UNIT_E_GONE;
        unit_from_cgroup(cgroup, ret);
        return 0;
}

int unit_of_peer(const struct credentials *credentials, char ret[static UNIT_NAME_MAX + 1]) {
        _cleanup_(closep) int opened = -1;

        ret[0] = '\0';
        if (credentials->gone)
                return UNIT_E_GONE;
        if (credentials->pid <= 0) /* in a pid namespace that is not ours */
                return 0;
        if (credentials->pidfd >= 0)
                return read_unit(credentials, credentials->pidfd, true, ret);
        opened = (int) syscall(SYS_pidfd_open, credentials->pid, 0);
        if (opened < 0)
                return errno == ESRCH ? UNIT_E_GONE : -errno;
        return read_unit(credentials, opened, false, ret);
}
