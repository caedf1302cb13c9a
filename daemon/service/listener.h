/* SPDX-License-Identifier: MIT */
#pragma once

/* The listening socket: passed by the service manager, or made here. */

#include <sys/types.h>

#include "base/reason.h"
#include "config.h"

struct listener;
struct server;

enum {
        _LISTENER_E_SUCCESS,
        LISTENER_E_SOCKET, /* it cannot be had; the reason says why */
};

/* Listens on `fd` if it is one (0 or above; taken over; `path` may be NULL then), else on a new socket at `path` with
 * `mode`. A socket file that nobody listens on is replaced; a lock beside it (path.lock) makes sure that it is
 * nobody's. Negative errno, or LISTENER_E_SOCKET. */
int listener_new(struct listener **ret, struct server *server, int fd, const char *path, mode_t mode,
                 struct reason *reason);
/* Stops listening; removes a socket file that it made. Takes NULL. */
void listener_free(struct listener *listener);
/* A connection has ended: if accepting stopped for want of descriptors, it goes on. */
void listener_resume(struct listener *listener);
/* The path, for messages. */
const char *listener_path(const struct listener *listener);

/* The default path: /run/moed/moed.sock for the system's service, else $XDG_RUNTIME_DIR/moed/moed.sock. malloc()ed.
 * LISTENER_E_SOCKET: there is no XDG_RUNTIME_DIR. */
int listener_default_path(char **ret, enum config_scope scope, struct reason *reason);
