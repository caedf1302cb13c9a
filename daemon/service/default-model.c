/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "default-model.h"

/* In a build tree the program is BUILD/daemon/service/moed. An installed one is in no folder of that name. */
static int build_tree_file(char **ret) {
        static const char place[] = "/daemon/service/moed";
        const ssize_t tail = sizeof(place) - 1;
        char self[PATH_MAX];
        ssize_t n;

        n = readlink("/proc/self/exe", self, sizeof(self));
        if (n < tail || n == (ssize_t) sizeof(self) || memcmp(self + n - tail, place, tail) != 0)
                return 0;
        if (asprintf(ret, "%.*s/daemon/demo/demo.gguf", (int) (n - tail), self) < 0) {
                *ret = NULL;
                return -ENOMEM;
        }
        return 0;
}

int default_model_find(char **ret) {
        _cleanup_(freep) char *built = NULL;
        const char *file = MOED_DATADIR "/demo.gguf";
        char *copy;
        int r;

        r = build_tree_file(&built);
        if (r < 0)
                return r;
        if (built && access(built, F_OK) == 0)
                file = built;
        if (access(file, F_OK) < 0) {
                *ret = NULL;
                return 0;
        }
        copy = strdup(file);
        if (!copy)
                return -ENOMEM;
        *ret = copy;
        return 0;
}
