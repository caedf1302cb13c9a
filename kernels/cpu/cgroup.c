/* SPDX-License-Identifier: MIT */
#include "cgroup.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"

bool cgroup_read_line(const char *folder, const char *name, char line[static 64]) {
        _cleanup_(fclosep) FILE *f = NULL;
        char path[PATH_MAX];

        if ((size_t) snprintf(path, sizeof(path), "%s/%s", folder, name) >= sizeof(path))
                return false;
        f = fopen(path, "re");
        return f && fgets(line, 64, f);
}

/* The least of `path` below `root` and all above it. `path` is cut in place. */
static uint64_t path_least(const char *root, char *path, uint64_t (*limit)(const char *folder)) {
        uint64_t least = CGROUP_NO_LIMIT;

        for (;;) {
                char folder[PATH_MAX], *slash;

                if ((size_t) snprintf(folder, sizeof(folder), "%s%s", root, path) < sizeof(folder))
                        least = MIN(least, limit(folder));
                slash = strrchr(path, '/');
                if (!slash)
                        return least;
                *slash = '\0';
        }
}

/* Whether `controllers` ("cpu,cpuacct") names one. */
static bool names(const char *controllers, const char *controller) {
        size_t n = strlen(controller);

        for (const char *c = controllers; c; c = strchr(c, ',') ? strchr(c, ',') + 1 : NULL)
                if (strncmp(c, controller, n) == 0 && (c[n] == '\0' || c[n] == ','))
                        return true;
        return false;
}

uint64_t cgroup_least(const char *cgroup_file, const char *cgroup_root, const char *controller,
                      uint64_t (*limit)(const char *folder)) {
        _cleanup_(fclosep) FILE *f = fopen(cgroup_file, "re");
        uint64_t least = CGROUP_NO_LIMIT;
        char line[PATH_MAX];

        /* "0::/user.slice/…" (v2), "4:cpu,cpuacct:/user.slice/…" (v1) */
        while (f && fgets(line, sizeof(line), f)) {
                char root[PATH_MAX], *controllers = strchr(line, ':'), *path = NULL;

                line[strcspn(line, "\n")] = '\0';
                if (controllers)
                        path = strchr(++controllers, ':');
                if (!path)
                        continue;
                *path++ = '\0';
                if (*controllers && !names(controllers, controller))
                        continue;
                if ((size_t) snprintf(root, sizeof(root), "%s/%s", cgroup_root, *controllers ? controller : "") <
                    sizeof(root))
                        least = MIN(least, path_least(root, path, limit));
        }
        return least;
}
