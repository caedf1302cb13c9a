/* SPDX-License-Identifier: MIT */
#pragma once

/* What libmoed's own files share: the connection, and one exchange over the control socket. */

#include <stdbool.h>

#include "arena.h"
#include "base/reason.h"
#include "control.h"
#include "moed.h"
#include "notify.h"
#include "ring.h"
#include "shm.h"
#include "inflight.h"

struct moed {
        struct reason reason; /* of the latest failure */
        struct reason farewell; /* what the daemon said when it closed the connection */
        int farewell_error;   /* 0, or the negative errno that it gave with that */
        int failed;           /* 0, or the negative errno that every further call returns */
        bool gone;            /* the control socket has ended; what is in the ring can still be taken */
        int socket, bell, wake, poll; /* poll: an epoll of wake and socket, made when first asked for */
        uint64_t looked;      /* when the control socket was last looked at, nsec */
        uint64_t last_id;     /* of the latest control request */
        uint8_t *packet;      /* CONTROL_MESSAGE_MAX bytes */

        struct wire_layout layout;
        struct shm_mapping client_mapping, daemon_mapping;
        const struct wire_daemon_page *daemon_page;
        struct ring_writer submissions;
        struct ring_reader completions;
        struct notify_bell ringer;
        struct notify_waiter waiter;
        struct arena arena;

        struct stream_table streams;
        bool took;                    /* completions were taken since the ring was last found empty */
        struct wire_completion ahead; /* taken from the ring while looking for the rest of a token's text */
        bool has_ahead;
        struct text out;              /* the text of the event handed out last */

        struct moed_model *models;
        size_t n_models;
        char *model_strings;
};

/* Takes packets that came without having been asked for. 0, or -ECONNRESET as connection_lost(). */
int connection_look(struct moed *m);
/* The connection is of no use from here on. Sets the sentence; returns `error`. */
int connection_fail(struct moed *m, int error, const char *format, ...) _printf_(3, 4);
/* The daemon is gone or threw us out: notes that and returns -ECONNRESET, with what it said. Not final: the
 * ring comes first. */
int connection_lost(struct moed *m);

/* Begins a request; the caller puts further keys and passes it on. */
void control_request_init(struct control_builder *ret, const char *verb);
/* Sends a request and waits for its reply, at most 30 seconds, through signals. The builder is released in
 * any case. The message points into m->packet: it lives until the next exchange. Descriptors beside it go to
 * `packet` (NULL: are closed). 0, or a negative errno: the daemon's own refusal or ours, with its sentence in
 * m->reason. */
int control_exchange(struct moed *m, struct control_builder *builder, struct control_message *ret,
                     struct control_packet *packet);
