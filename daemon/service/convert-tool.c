/* SPDX-License-Identifier: MIT */
#include "convert-tool.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sysexits.h>

#include "base/util.h"
#include "convert.h"

static atomic_bool stop;

static void on_signal(int number) {
        atomic_store(&stop, true);
}

static int failed(const char *path, int error, const struct reason *reason) {
        if (error == -EINTR && atomic_load(&stop))
                return 128 + SIGINT;
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

int convert_main(const char *type, const char *in, const char *out, bool force) {
        struct sigaction action = {.sa_handler = on_signal};
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        struct reason reason = REASON_INIT;
        uint32_t number;
        int r;

        if (convert_type(type, &number, &reason)) {
                fprintf(stderr, "moed: %s\n", reason.text);
                return EX_USAGE;
        }
        r = gguf_open(&g, in, &reason);
        if (r)
                return failed(in, r, &reason);
        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);
        r = convert_file(g, number, out, force, &stop, &reason);
        return r ? failed(out, r, &reason) : EX_OK;
}
