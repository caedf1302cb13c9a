/* SPDX-License-Identifier: MIT */
#include "tool.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

atomic_bool tool_stop;

static volatile sig_atomic_t tool_signal;

static void on_signal(int number) {
        tool_signal = number;
        atomic_store(&tool_stop, true);
}

void tool_catch_signals(void) {
        struct sigaction action = {.sa_handler = on_signal};

        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);
}

int tool_failed(const char *path, int error, const struct reason *reason) {
        if (error == -EINTR && atomic_load(&tool_stop))
                return 128 + tool_signal;
        if (error == -EEXIST)
                fprintf(stderr, "moed: %s is there already; --force replaces it\n", path);
        else if (reason->text[0])
                fprintf(stderr, "moed: %s\n", reason->text);
        else
                fprintf(stderr, "moed: %s: %s\n", path, strerror(-error));
        switch (error) {
        case -EEXIST:
        case -EISDIR:
        case -EROFS:
                return EX_CANTCREAT;
        case -ENOENT:
        case -ENOTDIR:
                return EX_NOINPUT;
        case -EACCES:
        case -EPERM:
                return EX_NOPERM;
        case -ENOMEM:
                return EX_OSERR;
        default:
                return error < 0 ? EX_IOERR : EX_DATAERR;
        }
}
