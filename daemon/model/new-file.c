/* SPDX-License-Identifier: MIT */
#include "new-file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

/* Under its own name at once; another file of that name is left or replaced. */
static int publish(const char *temporary, const char *path, bool replace) {
        if (replace)
                return rename(temporary, path) < 0 ? -errno : 0;
        if (renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_NOREPLACE) == 0)
                return 0;
        /* A file system without it has hard links, which do not replace either. */
        if (errno != EINVAL)
                return -errno;
        if (link(temporary, path) < 0)
                return -errno;
        return unlink(temporary) < 0 ? -errno : 0;
}

static int write_and_sync(int fd, int (*write)(FILE *out, void *userdata), void *userdata) {
        mode_t mask = umask(0);
        FILE *out = fdopen(fd, "w");
        int r;

        umask(mask);
        if (!out) {
                close(fd);
                return -ENOMEM;
        }
        errno = 0;
        r = fchmod(fd, 0666 & ~mask) < 0 ? -errno : write(out, userdata);
        if (!r && fflush(out) != 0)
                r = -errno;
        if (!r && fsync(fd) < 0)
                r = -errno;
        if (fclose(out) != 0 && !r)
                r = -errno;
        return r;
}

int new_file_write(const char *path, bool replace, int (*write)(FILE *out, void *userdata), void *userdata) {
        _cleanup_(freep) char *temporary = NULL;
        int fd, r;

        if (!replace && access(path, F_OK) == 0)
                return -EEXIST;
        if (asprintf(&temporary, "%s.XXXXXX", path) < 0) {
                temporary = NULL;
                return -ENOMEM;
        }
        fd = mkostemp(temporary, O_CLOEXEC);
        if (fd < 0)
                return -errno;
        r = write_and_sync(fd, write, userdata);
        if (!r)
                r = publish(temporary, path, replace);
        if (r)
                unlink(temporary);
        return r;
}
