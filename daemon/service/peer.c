/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "account.h"
#include "base/log.h"
#include "base/util.h"
#include "change.h"
#include "peer.h"
#include "save.h"
#include "stream.h"
#include "verbs.h"

enum {
        PEER_SUBMISSIONS_MAX = 32, /* taken in one turn */
        PEER_PACKETS_MAX = 8,
};

const char *peer_log_fields(const struct peer *peer) {
        static char fields[512];

        snprintf(fields, sizeof(fields), "UID=%u\nPID=%d\nUNIT_OF_PEER=%s", (unsigned) peer->credentials.uid,
                 (int) peer->credentials.pid, peer->unit);
        return fields;
}

static void send_closed(int socket, int error, const char *sentence) {
        struct control_builder builder;
        const void *data;
        size_t size;

        control_builder_init(&builder);
        control_put_string(&builder, "event", "closed");
        control_put_u64(&builder, "error", (uint64_t) error);
        control_put_string(&builder, "reason", sentence);
        if (control_builder_finish(&builder, &data, &size) == 0)
                (void) control_send(socket, data, size, NULL, 0);
        control_builder_deinit(&builder);
}

static int peer_on_socket(void *userdata, int result) {
        struct peer *peer = userdata;

        if (result < 0)
                peer_close(peer);
        else
                peer_receive(peer);
        return 0;
}

/* The bell only ends the sleep; the rings are looked at in every turn. */
static int peer_on_bell(void *userdata, int result) {
        struct peer *peer = userdata;

        if (result < 0)
                peer_drop(peer, "the bell of the connection cannot be heard: %s", strerror(-result));
        return 0;
}

bool peer_is_root(const struct peer *peer) {
        return peer->credentials.uid == 0 || peer->credentials.uid == geteuid();
}

bool peer_is_admin(const struct peer *peer) {
        gid_t group = peer->server->config->admin_gid;

        return peer_is_root(peer) || (group != (gid_t) -1 && credentials_has_gid(&peer->credentials, group));
}

/* A positive errno with a reason for the client, or negative errno. */
static int peer_init(struct peer *peer, struct server *server, int socket, struct reason *reason) {
        int r;

        *peer = (struct peer) {
                .server = server, .socket = socket, .credentials = CREDENTIALS_NULL,
                .bell = -1, .wake = -1, .outbox = OUTBOX_NULL,
        };
        list_init(&peer->link);
        list_init(&peer->fellows);
        list_init(&peer->streams);
        list_init(&peer->stalled);
        r = credentials_read(&peer->credentials, socket);
        if (r < 0)
                return r;
        r = unit_of_peer(&peer->credentials, peer->unit);
        peer->credentials.pidfd = close_fd(peer->credentials.pidfd);
        if (r == UNIT_E_GONE)
                return reason_return(reason, ESRCH,
                                     "process %d, which connected, has ended before its unit could be told; let the "
                                     "process that asks connect by itself", (int) peer->credentials.pid);
        if (r < 0)
                return r;
        r = users_get(&server->users, peer->credentials.uid, &peer->user);
        if (r < 0)
                return r;
        r = account_enter(peer);
        if (r == 0)
                r = account_update(peer->tenant);
        return r < 0 ? r : control_socket_prepare(socket);
}

/* Takes note of the user's clients that have gone, but whose end was not looked at yet. */
static void peers_notice_ends(struct server *server, const struct user *user) {
        struct peer *peer;

        list_for_each(peer, &server->peers, link) {
                struct pollfd end = { .fd = peer->socket };

                if (peer->user == user && !peer->dead && poll(&end, 1, 0) > 0 && (end.revents & POLLHUP))
                        peer_receive(peer);
        }
}

/* Who closes a connection and opens another one is not at the limit, whichever is looked at first. */
static int peer_charge(struct peer *peer, struct reason *reason) {
        if (peer->user->used[USER_CONNECTIONS] >= peer->server->config->limits.connections_max)
                peers_notice_ends(peer->server, peer->user);
        return user_charge(peer->user, &peer->connection_charge, USER_CONNECTIONS, 1, reason) ? EDQUOT : 0;
}

int peer_new(struct server *server, int socket) {
        struct reason reason = REASON_INIT;
        struct peer *peer;
        int r;

        peer = malloc(sizeof(*peer));
        if (!peer) {
                close_fd(socket);
                return -ENOMEM;
        }
        r = peer_init(peer, server, socket, &reason);
        if (r == 0)
                r = peer_charge(peer, &reason);
        if (r == 0)
                r = loop_watch(&server->loop, &peer->socket_source, socket, peer_on_socket, peer);
        list_append(&server->peers, &peer->link);
        server->n_peers++;
        if (r != 0) {
                server->metrics.connections_refused++;
                if (r > 0)
                        send_closed(socket, r, reason.text);
                peer_close(peer);
                return r < 0 ? r : 0;
        }
        server->metrics.connections++;
        log_line(LOG_DEBUG, peer_log_fields(peer), "connected");
        return 0;
}

static void peer_unmap(struct peer *peer) {
        loop_source_remove(&peer->bell_source);
        peer->bell = close_fd(peer->bell);
        peer->wake = close_fd(peer->wake);
        shm_unmap(&peer->client_mapping);
        shm_unmap(&peer->daemon_mapping);
        user_charge_deinit(&peer->arena_charge);
}

/* Those who stay may have another policy without it. */
static void peer_leave_account(struct peer *peer) {
        struct tenant *tenant = peer->tenant ? tenant_ref(peer->tenant) : NULL;

        account_leave(peer);
        if (tenant && account_update(tenant) < 0)
                log_error("no memory to give %s its new policy", tenant->name);
        tenant_unref(tenant);
}

void peer_free(struct peer *peer) {
        struct stream *stream, *next;

        list_for_each_safe(stream, next, &peer->streams, link)
                stream_abandon(stream);
        changes_forget(peer->server, peer);
        saves_forget(peer->server, peer);
        list_unlink(&peer->link);
        peer->server->n_peers--;
        loop_source_remove(&peer->socket_source);
        close_fd(peer->socket);
        peer_unmap(peer);
        outbox_deinit(&peer->outbox);
        user_charge_deinit(&peer->connection_charge);
        user_unref(peer->user);
        peer_leave_account(peer);
        trace_rules_deinit(&peer->rules);
        credentials_deinit(&peer->credentials);
        free(peer);
}

void peer_close(struct peer *peer) {
        user_charge_deinit(&peer->connection_charge);
        peer->dead = true;
        peer->server->reapable = true;
}

static void peer_part(struct peer *peer, int error, const char *sentence) {
        if (peer->dead)
                return;
        send_closed(peer->socket, error, sentence);
        if (peer->greeted)
                notify_close_client(&peer->waker);
        peer_close(peer);
}

void peer_farewell(struct peer *peer, const char *sentence) {
        peer_part(peer, ESHUTDOWN, sentence);
}

void peer_drop(struct peer *peer, const char *format, ...) {
        struct reason reason = REASON_INIT;
        char sentence[sizeof(reason.text)];
        va_list args;

        if (peer->dead)
                return;
        va_start(args, format);
        vsnprintf(sentence, sizeof(sentence), format, args);
        va_end(args);
        reason_set(&reason, "%s", sentence);
        log_line(LOG_WARNING, peer_log_fields(peer), "connection closed: %s", reason.text);
        peer->server->metrics.connections_dropped++;
        peer_part(peer, EPROTO, reason.text);
}

static int peer_map(struct peer *peer, int fds[static 4], int client, int daemon) {
        int r;

        r = shm_reopen_read_only(&fds[1], daemon);
        if (r == 0)
                r = notify_bell_new(&fds[2]);
        if (r == 0)
                r = notify_wake_new(&peer->wake, &fds[3]);
        if (r == 0)
                r = shm_map(&peer->client_mapping, client, peer->layout.client_size, true);
        if (r == 0)
                r = shm_map(&peer->daemon_mapping, daemon, peer->layout.daemon_size, true);
        return r;
}

/* The daemon keeps its own opening of the bell; a client that closes its one changes nothing here. */
static int peer_watch_bell(struct peer *peer, int bell) {
        peer->bell = fcntl(bell, F_DUPFD_CLOEXEC, 3);
        if (peer->bell < 0)
                return -errno;
        return loop_watch(&peer->server->loop, &peer->bell_source, peer->bell, peer_on_bell, peer);
}

static void peer_init_rings(struct peer *peer) {
        struct wire_client_page *client = peer->client_mapping.address;
        struct wire_daemon_page *daemon = peer->daemon_mapping.address;
        const struct wire_layout *layout = &peer->layout;

        peer->page = daemon;
        ring_reader_init(&peer->submissions, &daemon->submission_head, &client->submission_tail,
                         wire_submissions(layout, client), layout->entries, 0);
        ring_writer_init(&peer->completions, &client->completion_head, &daemon->completion_tail,
                         wire_completions(layout, daemon), layout->entries, 0);
        notify_sleeper_init(&peer->sleeper, daemon);
        notify_waker_init(&peer->waker, client, daemon, peer->wake);
        peer->greeted = true;
}

int peer_greet(struct peer *peer, uint32_t entries, uint64_t arena, int fds[static 4], struct reason *reason) {
        _cleanup_(closep) int client = -1, daemon = -1;
        int got[4] = { -1, -1, -1, -1 }, r;

        r = wire_layout_init(&peer->layout, entries, arena, reason);
        if (r != 0)
                return r == SHM_E_REFUSED ? EINVAL : r;
        r = user_charge(peer->user, &peer->arena_charge, USER_ARENA, peer->layout.arena_size, reason);
        if (r != 0)
                return r == USER_E_QUOTA ? EDQUOT : r;
        r = shm_new(&client, "moed-client", peer->layout.client_size);
        if (r == 0)
                r = shm_new(&daemon, "moed-daemon", peer->layout.daemon_size);
        if (r == 0)
                r = peer_map(peer, got, client, daemon);
        if (r == 0)
                r = peer_watch_bell(peer, got[2]);
        if (r < 0) {
                for (size_t i = 0; i < ELEMENTS(got); i++)
                        close_fd(got[i]);
                peer_unmap(peer);
                return r;
        }
        got[0] = steal_fd(&client);
        peer_init_rings(peer);
        memcpy(fds, got, sizeof(got));
        return 0;
}

void peer_receive(struct peer *peer) {
        static _Alignas(16) uint8_t buffer[CONTROL_MESSAGE_MAX];
        int r = 0;

        peer->control_pending = false;
        for (int i = 0; i < PEER_PACKETS_MAX && !peer->dead; i++) {
                struct control_packet packet = CONTROL_PACKET_NULL;
                struct reason reason = REASON_INIT;

                r = control_receive(peer->socket, buffer, sizeof(buffer), &packet, &reason);
                if (r == CONTROL_E_AGAIN)
                        return;
                if (r == CONTROL_E_REFUSED) {
                        peer_drop(peer, "%s", reason.text);
                        return;
                }
                if (r != 0) {
                        log_line(LOG_DEBUG, peer_log_fields(peer), "disconnected");
                        peer_close(peer);
                        return;
                }
                verbs_handle(peer, buffer, packet.size);
                /* No verb takes descriptors: whatever came is closed. */
                control_packet_deinit(&packet);
        }
        peer->control_pending = !peer->dead;
}

struct stream *peer_find_stream(struct peer *peer, uint64_t id) {
        struct stream *stream;

        list_for_each(stream, &peer->streams, link)
                if (stream->id == id && list_empty(&stream->grave))
                        return stream;
        return NULL;
}

bool peer_may_know(const struct peer *peer, uid_t uid) {
        return peer->credentials.uid == uid || peer_is_admin(peer);
}

struct stream *peer_find_numbered(const struct peer *caller, uint64_t serial) {
        struct stream *stream;
        struct peer *peer;

        list_for_each(peer, &caller->server->peers, link) {
                if (!peer_may_know(caller, peer->credentials.uid))
                        continue;
                list_for_each(stream, &peer->streams, link)
                        if (stream->serial == serial && stream->state != STREAM_ENDED && !stream->cancelled)
                                return stream;
        }
        return NULL;
}

void peer_flush(struct peer *peer, struct outbox *outbox) {
        if (outbox_flush(outbox, &peer->completions) != 0)
                peer_drop(peer, "the index of its completion ring is impossible");
}

/* Says in shared memory whether events wait for room, so that the client knows when to ring. */
static void peer_tell_room(struct peer *peer) {
        uint32_t wanted = !outbox_empty(&peer->outbox) || !list_empty(&peer->stalled);

        if (atomic_load_explicit(&peer->page->room_wanted, memory_order_relaxed) != wanted)
                atomic_store_explicit(&peer->page->room_wanted, wanted, memory_order_release);
}

void peer_publish(struct peer *peer) {
        if (peer->dead || !peer->greeted)
                return;
        peer_tell_room(peer);
        if (ring_publish(&peer->completions) && notify_wake_client(&peer->waker))
                peer->server->metrics.wakeups++;
}

static void peer_refuse(struct peer *peer, uint64_t request, int error, const char *sentence) {
        peer->server->metrics.requests_refused++;
        if (!peer->told_limit)
                log_line(LOG_INFO, peer_log_fields(peer), "request %llu refused: %s (others of this connection are "
                         "not logged)", (unsigned long long) request, sentence);
        peer->told_limit = true;
        if (outbox_put_error(&peer->outbox, request, error, sentence) < 0)
                peer_drop(peer, "the daemon has no memory left for this connection's events");
}

/* The arena is copied once; everything is checked in the copy. */
static int peer_copy_arena(struct peer *peer, const struct wire_submission *submission, char **ret,
                           struct reason *reason) {
        uint64_t most = sizeof(struct wire_generate) + STOP_COUNT_MAX * (sizeof(struct wire_stop) + STOP_LENGTH_MAX) +
                        peer->server->config->limits.prompt_bytes_max;
        const uint8_t *arena = wire_arena(&peer->layout, peer->client_mapping.address);
        char *block;

        if (submission->length > most)
                return reason_return(reason, EMSGSIZE,
                                     "the request has %llu bytes, at most %llu are allowed (PromptBytesMax= in "
                                     "moed.conf)",
                                     (unsigned long long) submission->length, (unsigned long long) most);
        block = malloc(MAX(submission->length, UINT64_C(1)));
        if (!block)
                return -ENOMEM;
        memcpy(block, arena + submission->offset, submission->length);
        *ret = block;
        return 0;
}

static void peer_generate(struct peer *peer, const struct wire_submission *submission) {
        struct request request = REQUEST_NULL;
        struct reason reason = REASON_INIT;
        struct stream *stream;
        char *block = NULL;
        int r;

        if (submission->offset % WIRE_ARENA_ALIGN != 0 || submission->offset > peer->layout.arena_size ||
            submission->length > peer->layout.arena_size - submission->offset) {
                peer_drop(peer, "a submission names bytes outside its arena: %llu at %llu of %llu",
                          (unsigned long long) submission->length, (unsigned long long) submission->offset,
                          (unsigned long long) peer->layout.arena_size);
                return;
        }
        r = peer_copy_arena(peer, submission, &block, &reason);
        if (r == 0) {
                r = request_parse(&request, block, submission->length,
                                  peer->server->config->limits.prompt_bytes_max, &reason);
                if (r != 0)
                        free(block);
        }
        if (r == 0)
                r = stream_new(&stream, peer, submission->request, &request, &reason);
        request_deinit(&request);
        if (r < 0)
                reason_set(&reason, "the daemon has no memory for this request");
        if (r != 0)
                peer_refuse(peer, submission->request, r < 0 ? -r : r, reason.text);
}

static void peer_cancel(struct peer *peer, uint64_t request) {
        struct stream *stream = peer_find_stream(peer, request);

        /* It may have ended while the submission was on its way. */
        if (stream)
                stream_cancel(stream);
}

static void peer_echo(struct peer *peer, const struct wire_submission *submission) {
        struct wire_completion event = { .request = submission->request, .event = WIRE_EVENT_ECHO };

        peer->server->metrics.echoes++;
        if (outbox_put(&peer->outbox, &event) < 0)
                peer_drop(peer, "the daemon has no memory left for this connection's events");
}

static void peer_submission(struct peer *peer, const struct wire_submission *submission) {
        uint64_t zero = submission->flags;

        for (size_t i = 0; i < ELEMENTS(submission->reserved); i++)
                zero |= submission->reserved[i];
        if (zero != 0) {
                peer_drop(peer, "a submission has a flag or a reserved field that is not zero");
                return;
        }
        switch (submission->op) {
        case WIRE_OP_GENERATE:
                peer_generate(peer, submission);
                break;
        case WIRE_OP_CANCEL:
                peer_cancel(peer, submission->request);
                break;
        case WIRE_OP_ECHO:
                peer_echo(peer, submission);
                break;
        default:
                peer_drop(peer, "a submission has the unknown operation %u", submission->op);
        }
}

static bool peer_take(struct peer *peer) {
        struct wire_submission submission;
        int n = 0, r;

        for (; n < PEER_SUBMISSIONS_MAX && !peer->dead && outbox_empty(&peer->outbox); n++) {
                r = ring_take(&peer->submissions, &submission);
                if (r == RING_E_EMPTY)
                        break;
                if (r != 0) {
                        peer_drop(peer, "the index of its submission ring is impossible");
                        return true;
                }
                peer_submission(peer, &submission);
                if (!peer->dead)
                        peer_flush(peer, &peer->outbox);
        }
        return n > 0;
}

/* In the order of their waiting, so that none of them starves. */
static bool peer_unstall(struct peer *peer) {
        struct stream *stream, *next;
        uint32_t room = 0;

        if (outbox_empty(&peer->outbox) && list_empty(&peer->stalled))
                return false;
        if (ring_space(&peer->completions, &room) != 0) {
                peer_drop(peer, "the index of its completion ring is impossible");
                return true;
        }
        if (room == 0)
                return false;
        peer_flush(peer, &peer->outbox);
        list_for_each_safe(stream, next, &peer->stalled, stalled) {
                if (peer->dead)
                        break;
                stream_flush(stream);
                if (!outbox_empty(&stream->outbox))
                        break;
        }
        return true;
}

bool peer_poll(struct peer *peer) {
        bool busy = false;

        if (peer->dead)
                return false;
        if (peer->control_pending) {
                peer_receive(peer);
                busy = true;
        }
        if (peer->dead || !peer->greeted)
                return busy;
        busy |= peer_unstall(peer);
        if (!peer->dead)
                busy |= peer_take(peer);
        if (busy)
                peer_publish(peer);
        return busy;
}

bool peer_ready(struct peer *peer) {
        uint32_t n = 0;

        if (peer->dead || peer->control_pending)
                return true;
        if (!peer->greeted)
                return false;
        if ((!outbox_empty(&peer->outbox) || !list_empty(&peer->stalled)) &&
            (ring_space(&peer->completions, &n) != 0 || n > 0))
                return true;
        /* While a refusal waits for room, submissions do too. */
        return outbox_empty(&peer->outbox) && (ring_ready(&peer->submissions, &n) != 0 || n > 0);
}
