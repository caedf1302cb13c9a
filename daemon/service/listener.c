/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "listener.h"
#include "peer.h"
#include "server.h"

struct listener {
        struct server *server;
        struct loop_source source;
        int fd, lock;
        char *path;    /* "" when the service manager made it */
        bool short_of; /* descriptors or memory: told once in the log */
};

static int listener_on_accept(void *userdata, int result) {
        struct listener *listener = userdata;
        int r;

        if (result < 0) {
                if (result == -EMFILE || result == -ENFILE || result == -ENOMEM || result == -ENOBUFS) {
                        if (!listener->short_of)
                                log_warning("no connection is accepted until another one ends: %s",
                                            strerror(-result));
                        listener->short_of = true;
                        return 0;
                }
                return loop_source_resume(&listener->source);
        }
        r = peer_new(listener->server, result);
        if (r < 0)
                log_warning("a connection was refused: %s", strerror(-r));
        return 0;
}

void listener_resume(struct listener *listener) {
        if (!listener)
                return;
        listener->short_of = false;
        (void) loop_source_resume(&listener->source);
}

const char *listener_path(const struct listener *listener) {
        return listener->path[0] ? listener->path : "the service manager's socket";
}

int listener_default_path(char **ret, enum config_scope scope, struct reason *reason) {
        const char *runtime;

        if (scope == CONFIG_SYSTEM) {
                *ret = strdup("/run/moed/moed.sock");
                return *ret ? 0 : -ENOMEM;
        }
        runtime = getenv("XDG_RUNTIME_DIR");
        if (!runtime || runtime[0] != '/')
                return reason_return(reason, LISTENER_E_SOCKET,
                                     "XDG_RUNTIME_DIR is not set, so the socket has no place; use --socket PATH");
        return asprintf(ret, "%s/moed/moed.sock", runtime) < 0 ? -ENOMEM : 0;
}

/* The folder of the socket; its parent must be there. */
static int make_folder(const char *path, struct reason *reason) {
        _cleanup_(freep) char *folder = strdup(path);
        char *slash;

        if (!folder)
                return -ENOMEM;
        slash = strrchr(folder, '/');
        if (!slash || slash == folder)
                return 0;
        *slash = '\0';
        if (mkdir(folder, 0755) < 0 && errno != EEXIST)
                return reason_return(reason, LISTENER_E_SOCKET, "the folder %s cannot be made: %s", folder,
                                     strerror(errno));
        return 0;
}

static int listener_lock(struct listener *listener, struct reason *reason) {
        _cleanup_(freep) char *path = NULL;

        if (asprintf(&path, "%s.lock", listener->path) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        listener->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (listener->lock < 0)
                return reason_return(reason, LISTENER_E_SOCKET, "%s: %s", path, strerror(errno));
        if (flock(listener->lock, LOCK_EX | LOCK_NB) < 0)
                return reason_return(reason, LISTENER_E_SOCKET,
                                     "another daemon listens on %s; stop it, or choose another --socket",
                                     listener->path);
        return 0;
}

static int listener_bind(struct listener *listener, mode_t mode, struct reason *reason) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        struct stat st;
        mode_t old;
        int r;

        if (strlen(listener->path) >= sizeof(address.sun_path))
                return reason_return(reason, LISTENER_E_SOCKET, "the path of the socket is longer than %zu bytes: %s",
                                     sizeof(address.sun_path) - 1, listener->path);
        strcpy(address.sun_path, listener->path);
        /* We hold the lock, so a socket that lies here is a dead daemon's. Anything else is not ours to remove. */
        if (lstat(listener->path, &st) == 0) {
                if (!S_ISSOCK(st.st_mode))
                        return reason_return(reason, LISTENER_E_SOCKET, "%s is there and is no socket",
                                             listener->path);
                unlink(listener->path);
        }
        listener->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (listener->fd < 0)
                return -errno;
        old = umask(0777 & ~mode);
        r = bind(listener->fd, (const struct sockaddr *) &address, sizeof(address));
        if (r < 0)
                r = errno;
        umask(old);
        if (r != 0)
                return reason_return(reason, LISTENER_E_SOCKET, "%s: %s", listener->path, strerror(r));
        if (listen(listener->fd, SOMAXCONN) < 0)
                return -errno;
        return 0;
}

static int listener_take(struct listener *listener, int fd, struct reason *reason) {
        int type = 0;
        socklen_t size = sizeof(type);

        listener->fd = fd;
        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_SEQPACKET)
                return reason_return(reason, LISTENER_E_SOCKET,
                                     "the socket that the service manager passed is not of type SOCK_SEQPACKET "
                                     "(ListenSequentialPacket=)");
        return fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

int listener_new(struct listener **ret, struct server *server, int fd, const char *path, mode_t mode,
                 struct reason *reason) {
        struct listener *listener = malloc(sizeof(*listener));
        int r;

        if (!listener) {
                close_fd(fd);
                return -ENOMEM;
        }
        *listener = (struct listener) { .server = server, .fd = -1, .lock = -1, .path = strdup(fd >= 0 ? "" : path) };
        if (!listener->path)
                r = -ENOMEM;
        else if (fd >= 0)
                r = listener_take(listener, fd, reason);
        else if ((r = make_folder(path, reason)) == 0 && (r = listener_lock(listener, reason)) == 0)
                r = listener_bind(listener, mode, reason);
        if (r == 0)
                r = loop_accept(&server->loop, &listener->source, listener->fd, listener_on_accept, listener);
        if (r != 0) {
                /* A socket file in the way is another's: not removed. */
                if (listener->path && listener->fd < 0)
                        listener->path[0] = '\0';
                listener_free(listener);
                return r;
        }
        *ret = listener;
        return 0;
}

void listener_free(struct listener *listener) {
        if (!listener)
                return;
        loop_source_remove(&listener->source);
        if (listener->path && listener->path[0])
                unlink(listener->path);
        close_fd(listener->fd);
        /* Last: whoever gets the lock finds nothing of ours any more. The file stays, or two could hold two locks. */
        close_fd(listener->lock);
        free(listener->path);
        free(listener);
}
