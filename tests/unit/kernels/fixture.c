/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "fixture.h"
#include "test.h"

static bool try_folder(char path[PATH_MAX], const char *root, const char *below) {
        return root && snprintf(path, PATH_MAX, "%s/%s", root, below) < PATH_MAX && access(path, R_OK) == 0;
}

void fixture_blocks(char path[PATH_MAX]) {
        if (try_folder(path, getenv("MOED_FIXTURES"), "blocks") ||
            try_folder(path, SOURCE_ROOT, "../shared/fixtures/blocks") ||
            try_folder(path, SOURCE_ROOT, "tests/reference/data/blocks"))
                return;
        test_skip("no fixtures: set MOED_FIXTURES");
}

void *fixture_read(const char *folder, const char *name, const char *suffix, size_t *ret_bytes) {
        _cleanup_(fclosep) FILE *f = NULL;
        char path[PATH_MAX];
        void *data;
        long size;

        assert_se((size_t) snprintf(path, sizeof(path), "%s/%s%s", folder, name, suffix) < sizeof(path));
        f = fopen(path, "rbe");
        if (!f)
                return NULL;
        assert_se(fseek(f, 0, SEEK_END) == 0);
        size = ftell(f);
        assert_se(size > 0);
        rewind(f);
        data = malloc(size);
        assert_se(data && fread(data, 1, size, f) == (size_t) size);
        *ret_bytes = size;
        return data;
}
