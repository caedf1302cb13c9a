/* SPDX-License-Identifier: MIT */
/* To be preloaded: a directory of users that knows one. It makes the folder $MOED_TEST_ASKED when it is asked for them,
 * and answers when that is gone. */

#include <errno.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT int getpwnam_r(const char *name, struct passwd *entry, char *buffer, size_t size, struct passwd **ret) {
        *ret = NULL;
        if (strcmp(name, "somebody") != 0)
                return ENOENT;
        (void) mkdir(getenv("MOED_TEST_ASKED"), 0700);
        while (access(getenv("MOED_TEST_ASKED"), F_OK) == 0)
                usleep(10000);
        *entry = (struct passwd) { .pw_uid = 12345 };
        *ret = entry;
        return 0;
}
