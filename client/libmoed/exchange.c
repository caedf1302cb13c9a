/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>

#include "base/util.h"
#include "connection.h"

static const uint64_t exchange_timeout = 30 * NSEC_PER_SEC;

void control_request_init(struct control_builder *ret, const char *verb) {
        control_builder_init(ret);
        control_put_string(ret, "verb", verb);
}

static void copy_reason(struct reason *ret, struct control_map map, const char *otherwise) {
        struct control_text text;

        if (control_get_string(map, "reason", &text))
                text = (struct control_text) { .data = otherwise, .size = strlen(otherwise) };
        reason_set(ret, "%.*s", (int) MIN(text.size, sizeof(ret->text)), text.data);
}

static bool is_end(int r) {
        return r == CONTROL_E_CLOSED || r == -ECONNRESET || r == -EPIPE;
}

/* Receives one packet; it is the reply to `id`, or something else to note and forget. 0: *ret is the reply;
 * CONTROL_E_AGAIN; or a negative errno. */
static int exchange_receive(struct moed *m, uint64_t id, struct control_message *ret,
                            struct control_packet *packet) {
        _cleanup_(control_packet_deinit) struct control_packet received = CONTROL_PACKET_NULL;
        _cleanup_(control_message_deinit) struct control_message message = CONTROL_MESSAGE_NULL;
        uint64_t reply_to;
        uint32_t error;
        int r;

        r = control_receive(m->socket, m->packet, CONTROL_MESSAGE_MAX, &received, &m->reason);
        /* A daemon that closed without reading what we sent leaves ECONNRESET, which the kernel tells once
         * and before the packets that wait. */
        if (is_end(r))
                r = control_receive(m->socket, m->packet, CONTROL_MESSAGE_MAX, &received, &m->reason);
        if (r == CONTROL_E_AGAIN)
                return r;
        if (is_end(r))
                return connection_lost(m);
        if (r == 0)
                r = control_parse(&message, m->packet, received.size, &m->reason);
        if (r)
                return connection_fail(m, r < 0 ? r : -EPROTO, "the daemon sent a broken message");
        if (control_get_u64(message.root, "id", &reply_to)) {
                copy_reason(&m->farewell, message.root, "it gave no reason");
                if (control_get_u32(message.root, "error", &error) == 0 && error > 0 && error < 4096)
                        m->farewell_error = -(int) error;
                return CONTROL_E_ABSENT;
        }
        if (id == 0 || reply_to != id)
                return CONTROL_E_ABSENT;
        *ret = message;
        message = CONTROL_MESSAGE_NULL;
        if (packet) {
                *packet = received;
                received = CONTROL_PACKET_NULL;
        }
        return 0;
}

int connection_look(struct moed *m) {
        struct control_message none;
        int r;

        if (m->gone)
                return connection_lost(m);
        do
                r = exchange_receive(m, 0, &none, NULL);
        while (r == CONTROL_E_ABSENT);
        return r < 0 ? r : 0;
}

/* Sleeps until the socket is ready or the time is over; signals don't count. */
static int exchange_wait(struct moed *m, short events, uint64_t deadline) {
        struct pollfd p = { .fd = m->socket, .events = events };

        for (;;) {
                uint64_t now = now_nsec();
                int n;

                if (now >= deadline)
                        return reason_return(&m->reason, -ETIMEDOUT,
                                             "the daemon did not answer within %" PRIu64 " seconds",
                                             exchange_timeout / NSEC_PER_SEC);
                n = poll(&p, 1, (int) DIV_ROUND_UP(deadline - now, NSEC_PER_MSEC));
                if (n > 0)
                        return 0;
                if (n < 0 && errno != EINTR)
                        return reason_return(&m->reason, -errno, "poll: %s", strerror(errno));
        }
}

static int exchange_send(struct moed *m, struct control_builder *builder, uint64_t deadline) {
        const void *data;
        size_t size;
        int r;

        r = control_builder_finish(builder, &data, &size);
        if (r == CONTROL_E_REFUSED)
                return reason_return(&m->reason, -E2BIG,
                                     "more than the %d bytes that one control message can hold",
                                     CONTROL_MESSAGE_MAX);
        if (r < 0)
                return reason_return(&m->reason, r, "control message: %s", strerror(-r));
        while ((r = control_send(m->socket, data, size, NULL, 0)) == CONTROL_E_AGAIN) {
                r = exchange_wait(m, POLLOUT, deadline);
                if (r < 0)
                        return r;
        }
        if (is_end(r)) {
                /* What it said before it closed is still there to be read. */
                r = connection_look(m);
                return r < 0 ? r : connection_lost(m);
        }
        if (r)
                return reason_return(&m->reason, r < 0 ? r : -E2BIG, "cannot send to the daemon: %s",
                                     r < 0 ? strerror(-r) : "message too large");
        return 0;
}

static int exchange_reply(struct moed *m, uint64_t deadline, struct control_message *ret,
                          struct control_packet *packet) {
        uint32_t error;
        int r;

        for (;;) {
                r = exchange_receive(m, m->last_id, ret, packet);
                if (r <= 0)
                        break;
                if (r == CONTROL_E_AGAIN) {
                        r = exchange_wait(m, POLLIN, deadline);
                        if (r < 0)
                                break;
                }
        }
        if (r < 0)
                return r;
        if (control_get_u32(ret->root, "error", &error))
                return 0;
        copy_reason(&m->reason, ret->root, "the daemon refused and gave no reason");
        control_message_deinit(ret);
        *ret = CONTROL_MESSAGE_NULL;
        return error > 0 && error < 4096 ? -(int) error : -EPROTO;
}

int control_exchange(struct moed *m, struct control_builder *builder, struct control_message *ret,
                     struct control_packet *packet) {
        uint64_t deadline = now_nsec() + exchange_timeout;
        int r = m->failed;

        if (r == 0 && m->gone)
                r = connection_lost(m);
        if (r == 0) {
                control_put_u64(builder, "id", ++m->last_id);
                r = exchange_send(m, builder, deadline);
        }
        control_builder_deinit(builder);
        return r < 0 ? r : exchange_reply(m, deadline, ret, packet);
}
