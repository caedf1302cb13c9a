/* SPDX-License-Identifier: MIT */
#pragma once

/* One connection: its socket, its shared memory, its streams. What comes from it is copied once and checked after that;
 * whatever is wrong with it ends this connection and no other. */

#include "control.h"
#include "credentials.h"
#include "loop.h"
#include "notify.h"
#include "outbox.h"
#include "policy.h"
#include "ring.h"
#include "server.h"
#include "shm.h"
#include "trace.h"
#include "unit.h"
#include "user.h"

enum { PEER_NAME_MAX = 64 };

struct peer {
        struct server *server;
        struct list link;
        int socket;
        struct loop_source socket_source, bell_source;
        struct credentials credentials;
        char unit[UNIT_NAME_MAX + 1];
        char name[PEER_NAME_MAX + 1]; /* what it calls itself; for display only */
        struct user *user;
        struct user_charge connection_charge, arena_charge;
        struct tenant *tenant;
        struct list fellows;  /* in tenant->peers */
        struct policy policy; /* account_match_peer() */
        struct trace_rules rules; /* which say so */
        bool greeted;         /* hello was said, the rings are there */
        bool dead;            /* reaped at the next occasion */
        bool control_pending; /* packets were left in the socket when its turn was over */
        bool told_limit;      /* a refused request was logged */

        struct wire_layout layout;
        struct shm_mapping client_mapping, daemon_mapping;
        int bell, wake;
        struct wire_daemon_page *page;
        struct ring_reader submissions;
        struct ring_writer completions;
        struct notify_sleeper sleeper;
        struct notify_waker waker;

        struct outbox outbox; /* echoes and refusals; while it is not empty no submission is taken */
        struct list streams;
        struct list stalled; /* streams with events that wait for room, in the order of their waiting */
        uint32_t n_streams;
        uint64_t tokens_generated, tokens_prompt, tokens_cached, activations;
        uint64_t row_layers; /* rows computed for it, times the layers with experts that each went through */
};

/* Takes the socket, which is closed on failure too. A user over a limit is told so and is no error. */
int peer_new(struct server *server, int socket);
/* Not while a forward pass runs. */
void peer_free(struct peer *peer);

/* Marks it: nothing is sent or taken any more. */
void peer_close(struct peer *peer);
/* As peer_close(), telling the client why. */
void peer_farewell(struct peer *peer, const char *sentence);
/* The same for a peer that did what it must not; it goes to the log too. */
void peer_drop(struct peer *peer, const char *format, ...) _printf_(2, 3);

/* Makes the mappings and rings that `hello` asked for. On success the descriptors for the client are the caller's to
 * close: client mapping, daemon mapping (read-only), bell, wake. A positive errno with a reason, or negative errno. */
int peer_greet(struct peer *peer, uint32_t entries, uint64_t arena, int fds[static 4], struct reason *reason);

/* Takes submissions, at most a bounded number, and sends what waited for room. Returns whether there was anything. */
bool peer_poll(struct peer *peer);
/* Whether there would be something for peer_poll(); called between arming and sleeping. */
bool peer_ready(struct peer *peer);
/* Handles packets on the socket, a bounded number. */
void peer_receive(struct peer *peer);
/* Shows the client what has been put into its ring, and wakes it if it sleeps. */
void peer_publish(struct peer *peer);

/* Sends what is in the box as far as there is room; drops the peer if its ring is broken. */
void peer_flush(struct peer *peer, struct outbox *outbox);
/* Root, and the daemon's own user: may do everything. */
bool peer_is_root(const struct peer *peer);
/* Also members of CONFIG_ADMIN_GROUP: may see and change everybody's budgets. */
bool peer_is_admin(const struct peer *peer);

struct stream *peer_find_stream(struct peer *peer, uint64_t id);
/* Whether it may see what a user does: its own, or it is an administrator. */
bool peer_may_know(const struct peer *peer, uid_t uid);
/* Of everybody's streams, as far as the caller may see them, the one with the daemon's number, if it has not ended. */
struct stream *peer_find_numbered(const struct peer *caller, uint64_t serial);
/* Fields of a log line about this peer; into a static buffer. */
const char *peer_log_fields(const struct peer *peer);
