/* SPDX-License-Identifier: MIT */
#include "connection.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

#include "base/util.h"

enum {
        ENTRIES_DEFAULT = 256,
        ARENA_DEFAULT = 1024 * 1024,
        CONNECT_TIMEOUT_SEC = 30,
        HELLO_FDS = 4,
        NAME_MAX_BYTES = 64, /* of what `moectl ps` shows; more is cut */
};

static const char system_socket[] = "/run/moed/moed.sock";

const char *moed_version(void) {
        return MOED_VERSION;
}

const char *moed_error(const struct moed *m) {
        return m ? m->reason.text : "out of memory";
}

int connection_fail(struct moed *m, int error, const char *format, ...) {
        char text[sizeof(m->reason.text)];
        va_list args;

        va_start(args, format);
        vsnprintf(text, sizeof(text), format, args);
        va_end(args);
        reason_set(&m->reason, "%s", text);
        m->failed = error;
        return error;
}

int connection_lost(struct moed *m) {
        m->gone = true;
        if (m->farewell.text[0])
                return reason_return(&m->reason, -ECONNRESET, "moed closed the connection: %s",
                                     m->farewell.text);
        return reason_return(&m->reason, -ECONNRESET,
                             "moed is gone: it was stopped or has crashed; connect again");
}

/* Options of an older or newer caller: what it does not know stays default, what we do not know has to be
 * zero. */
static int options_copy(struct moed_options *ret, const struct moed_options *options) {
        static const struct moed_options none = MOED_OPTIONS_INIT;
        const char *bytes = (const char *) options;

        *ret = none;
        if (!options)
                return 0;
        if (options->size < sizeof(options->size))
                return -EINVAL;
        for (size_t i = sizeof(none); i < options->size; i++)
                if (bytes[i] != 0)
                        return -EINVAL;
        memcpy(ret, options, MIN((size_t) options->size, sizeof(none)));
        for (size_t i = 0; i < ELEMENTS(ret->reserved); i++)
                if (ret->reserved[i] != 0)
                        return -EINVAL;
        return 0;
}

static bool socket_exists(const char *path) {
        struct stat st;

        return stat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

/* The address that `options` and the environment choose. -ENAMETOOLONG. */
static int socket_address(struct sockaddr_un *ret, const char *chosen) {
        const char *runtime = secure_getenv("XDG_RUNTIME_DIR");
        int n = -1;

        *ret = (struct sockaddr_un) { .sun_family = AF_UNIX };
        if (!chosen)
                chosen = secure_getenv("MOED_SOCKET");
        if (chosen && chosen[0])
                n = snprintf(ret->sun_path, sizeof(ret->sun_path), "%s", chosen);
        else if (runtime && runtime[0]) {
                n = snprintf(ret->sun_path, sizeof(ret->sun_path), "%s/moed/moed.sock", runtime);
                if (n >= (int) sizeof(ret->sun_path) || !socket_exists(ret->sun_path))
                        n = -1;
        }
        if (n < 0)
                n = snprintf(ret->sun_path, sizeof(ret->sun_path), "%s", system_socket);
        return n < (int) sizeof(ret->sun_path) ? 0 : -ENAMETOOLONG;
}

static int connect_refused(struct moed *m, const char *path, int error) {
        switch (error) {
        case -ENOENT:
                return reason_return(&m->reason, error,
                                     "no daemon at %s: start it with 'systemctl start moed', or name "
                                     "its socket in MOED_SOCKET",
                                     path);
        case -ECONNREFUSED:
                return reason_return(&m->reason, error,
                                     "nobody listens at %s: the daemon was stopped or has crashed; "
                                     "'systemctl status moed' tells",
                                     path);
        case -EACCES:
        case -EPERM:
                return reason_return(&m->reason, error,
                                     "this user may not connect to %s; see 'ls -l' of it and of its "
                                     "folder, and SocketMode= in moed.socket",
                                     path);
        case -EAGAIN:
                return reason_return(&m->reason, -ETIMEDOUT,
                                     "the daemon at %s did not accept within %d seconds", path,
                                     CONNECT_TIMEOUT_SEC);
        case -EPROTOTYPE:
                return reason_return(&m->reason, error, "%s is a socket of another kind, not moed's", path);
        default:
                return reason_return(&m->reason, error, "cannot connect to %s: %s", path, strerror(-error));
        }
}

static int connect_socket(struct moed *m, const char *chosen) {
        struct timeval timeout = { .tv_sec = CONNECT_TIMEOUT_SEC };
        struct sockaddr_un address;
        int r;

        r = socket_address(&address, chosen);
        if (r < 0)
                return reason_return(&m->reason, r, "the path of the socket is longer than %zu bytes",
                                     sizeof(address.sun_path) - 1);
        m->socket = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (m->socket < 0)
                return reason_return(&m->reason, -errno, "socket: %s", strerror(errno));
        /* Limits how long connect() waits for a place in the queue of the listening socket. */
        if (setsockopt(m->socket, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) < 0)
                return reason_return(&m->reason, -errno, "setsockopt: %s", strerror(errno));
        do
                r = connect(m->socket, (const struct sockaddr *) &address, sizeof(address)) < 0 ? -errno : 0;
        while (r == -EINTR);
        if (r < 0)
                return connect_refused(m, address.sun_path, r);
        r = control_socket_prepare(m->socket);
        return r < 0 ? reason_return(&m->reason, r, "setsockopt: %s", strerror(-r)) : 0;
}

/* What the daemon says about its mappings must be what the layout of the same numbers gives: then nothing
 * that it says decides where we read or write. */
static int hello_check(struct moed *m, struct control_map reply) {
        struct wire_layout *layout = &m->layout, told = {};
        uint32_t version;

        if (control_get_u32(reply, "version", &version) || control_get_u32(reply, "entries", &told.entries) ||
            control_get_u64(reply, "arena", &told.arena_size) ||
            control_get_u64(reply, "submissions", &told.submissions) ||
            control_get_u64(reply, "completions", &told.completions) ||
            control_get_u64(reply, "client_size", &told.client_size) ||
            control_get_u64(reply, "daemon_size", &told.daemon_size))
                return reason_return(&m->reason, -EPROTO, "the daemon's hello lacks a number");
        if (version != WIRE_VERSION)
                return reason_return(&m->reason, -EPROTONOSUPPORT,
                                     "the daemon speaks version %u of the protocol, this library version %d",
                                     version, WIRE_VERSION);
        if (wire_layout_init(layout, told.entries, told.arena_size, &m->reason))
                return -EPROTO;
        if (layout->submissions != told.submissions || layout->completions != told.completions ||
            layout->client_size != told.client_size || layout->daemon_size != told.daemon_size ||
            layout->arena_size != told.arena_size)
                return reason_return(&m->reason, -EPROTO, "the daemon divides its memory in another way");
        return 0;
}

static int hello_map(struct moed *m, struct shm_mapping *ret, int fd, uint64_t size, bool writable) {
        int r;

        r = shm_check(fd, size, &m->reason);
        if (r)
                return r < 0 ? reason_return(&m->reason, r, "shared memory: %s", strerror(-r)) : -EPROTO;
        r = shm_map(ret, fd, size, writable);
        return r < 0 ? reason_return(&m->reason, r, "mmap of %llu bytes: %s", (unsigned long long) size,
                                     strerror(-r))
                     : 0;
}

static void hello_attach(struct moed *m, uint64_t spin_nsec) {
        struct wire_client_page *client = m->client_mapping.address;
        const struct wire_daemon_page *daemon = m->daemon_mapping.address;

        m->daemon_page = daemon;
        m->arena = ARENA_INIT(m->layout.arena_size);
        ring_writer_init(&m->submissions, &daemon->submission_head, &client->submission_tail,
                         wire_submissions(&m->layout, client), m->layout.entries, 0);
        ring_reader_init(&m->completions, &client->completion_head, &daemon->completion_tail,
                         (const uint8_t *) m->daemon_mapping.address + m->layout.completions,
                         m->layout.entries, 0);
        notify_bell_init(&m->ringer, daemon, m->bell);
        notify_waiter_init(&m->waiter, client, daemon, m->wake, m->socket, spin_nsec);
}

static int hello(struct moed *m, const struct moed_options *options) {
        _cleanup_(control_packet_deinit) struct control_packet packet = CONTROL_PACKET_NULL;
        _cleanup_(control_message_deinit) struct control_message reply = CONTROL_MESSAGE_NULL;
        const char *name = options->name ? options->name : program_invocation_short_name;
        struct control_builder b;
        int r;

        control_request_init(&b, "hello");
        control_put_u64(&b, "version", WIRE_VERSION);
        control_put_text(&b, "name", name, strnlen(name, NAME_MAX_BYTES));
        control_put_u64(&b, "entries", options->entries ? options->entries : ENTRIES_DEFAULT);
        control_put_u64(&b, "arena", options->arena ? options->arena : ARENA_DEFAULT);
        r = control_exchange(m, &b, &reply, &packet);
        if (r < 0)
                return r;
        r = hello_check(m, reply.root);
        if (r < 0)
                return r;
        if (packet.n_fds != HELLO_FDS)
                return reason_return(&m->reason, -EPROTO,
                                     "the daemon's hello came with %zu descriptors, not %d", packet.n_fds,
                                     HELLO_FDS);
        r = hello_map(m, &m->client_mapping, packet.fds[0], m->layout.client_size, true);
        if (r < 0)
                return r;
        r = hello_map(m, &m->daemon_mapping, packet.fds[1], m->layout.daemon_size, false);
        if (r < 0)
                return r;
        m->bell = steal_fd(&packet.fds[2]);
        m->wake = steal_fd(&packet.fds[3]);
        hello_attach(m, options->spin_usec ? options->spin_usec * NSEC_PER_USEC : NOTIFY_SPIN_NSEC);
        return 0;
}

int moed_connect(struct moed **ret, const struct moed_options *options) {
        struct moed_options chosen;
        struct moed *m;
        int r;

        *ret = NULL;
        m = calloc(1, sizeof(*m));
        if (!m)
                return -ENOMEM;
        m->socket = m->bell = m->wake = m->poll = -1;
        m->streams = STREAM_TABLE_INIT;
        *ret = m;
        r = options_copy(&chosen, options);
        if (r < 0)
                r = reason_return(&m->reason, r,
                                  "struct moed_options: a size or a reserved field is not what "
                                  "MOED_OPTIONS_INIT makes it");
        if (r == 0) {
                m->packet = malloc(CONTROL_MESSAGE_MAX);
                r = m->packet ? 0 : reason_return(&m->reason, -ENOMEM, "out of memory");
        }
        if (r == 0)
                r = connect_socket(m, chosen.socket);
        if (r == 0)
                r = hello(m, &chosen);
        /* Turned away at the door: why matters more than that. */
        if (r == -ECONNRESET && m->farewell_error < 0)
                r = reason_return(&m->reason, m->farewell_error, "%s", m->farewell.text);
        m->failed = r;
        return r;
}

void moed_close(struct moed *m) {
        if (!m)
                return;
        stream_table_deinit(&m->streams);
        text_deinit(&m->out);
        arena_deinit(&m->arena);
        shm_unmap(&m->client_mapping);
        shm_unmap(&m->daemon_mapping);
        close_fd(m->poll);
        close_fd(m->bell);
        close_fd(m->wake);
        close_fd(m->socket);
        free(m->models);
        free(m->model_strings);
        free(m->packet);
        free(m);
}
