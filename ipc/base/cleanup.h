/* SPDX-License-Identifier: MIT */
#pragma once

/* Scope-bound release of resources: `_cleanup_(freep) char *p = NULL;`. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))
#define _printf_(fmt, first) __attribute__((format(printf, fmt, first)))

#define steal_ptr(ptr)                                                                                       \
        ({                                                                                                   \
                __typeof__(ptr) _steal = (ptr);                                                              \
                (ptr) = NULL;                                                                                \
                _steal;                                                                                      \
        })

static inline int steal_fd(int *fd) {
        int r = *fd;

        *fd = -1;
        return r;
}

static inline void freep(void *p) {
        free(*(void **) p);
}

static inline void fclosep(FILE **f) {
        if (*f)
                fclose(*f);
}

/* Closes a descriptor if there is one; returns -1, so that `fd = close_fd(fd)` leaves nothing stale. */
static inline int close_fd(int fd) {
        if (fd >= 0)
                close(fd);
        return -1;
}

static inline void closep(int *fd) {
        close_fd(*fd);
}
