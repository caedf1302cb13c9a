/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "control.h"

int control_socket_prepare(int fd) {
        /* The kernel doubles it for its own overhead, and a packet must fit in what comes out. */
        const int size = CONTROL_MESSAGE_MAX;

        return setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) < 0 ? -errno : 0;
}

/* What recvmsg() and sendmsg() say, as outcome. */
static int packet_error(int error) {
        switch (error) {
        case EAGAIN:
        case EINTR:
                return CONTROL_E_AGAIN;
        case EPIPE:
        case ECONNRESET:
        case ENOTCONN:
                return CONTROL_E_CLOSED;
        case EMSGSIZE:
        case ETOOMANYREFS:
                return CONTROL_E_REFUSED;
        default:
                return -error;
        }
}

int control_send(int fd, const void *data, size_t size, const int *fds, size_t n_fds) {
        _Alignas(struct cmsghdr) uint8_t ancillary[CMSG_SPACE(sizeof(int) * CONTROL_FDS_MAX)] = {};
        struct iovec vector = { .iov_base = (void *) data, .iov_len = size };
        struct msghdr header = { .msg_iov = &vector, .msg_iovlen = 1 };

        if (size > CONTROL_MESSAGE_MAX || n_fds > CONTROL_FDS_MAX)
                return CONTROL_E_REFUSED;
        if (n_fds > 0) {
                struct cmsghdr *c;

                header.msg_control = ancillary;
                header.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
                c = CMSG_FIRSTHDR(&header);
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
                memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
        }
        if (sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
                return packet_error(errno);
        return 0;
}

void control_packet_deinit(struct control_packet *packet) {
        for (size_t i = 0; i < packet->n_fds; i++)
                close_fd(packet->fds[i]);
        *packet = CONTROL_PACKET_NULL;
}

void control_receiver_arm(struct control_receiver *receiver, void *buffer, size_t capacity) {
        receiver->vector = (struct iovec) { .iov_base = buffer, .iov_len = capacity };
        receiver->header = (struct msghdr) {
                .msg_iov = &receiver->vector,
                .msg_iovlen = 1,
                .msg_control = receiver->ancillary,
                .msg_controllen = sizeof(receiver->ancillary),
        };
}

/* Takes over every descriptor that came, whatever becomes of the packet. */
static void packet_take_fds(struct control_packet *packet, struct msghdr *header) {
        for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
                size_t n;

                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (size_t i = 0; i < n; i++) {
                        int fd;

                        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
                        if (packet->n_fds < CONTROL_FDS_MAX)
                                packet->fds[packet->n_fds++] = fd;
                        else
                                close_fd(fd);
                }
        }
}

int control_receiver_finish(struct control_receiver *receiver, int64_t result, struct control_packet *ret,
                            struct reason *reason) {
        _cleanup_(control_packet_deinit) struct control_packet packet = CONTROL_PACKET_NULL;

        if (result < 0)
                return packet_error((int) -result);
        packet_take_fds(&packet, &receiver->header);
        /* End of file. An empty packet looks the same, and nobody who means well sends one. */
        if (result == 0)
                return CONTROL_E_CLOSED;
        if (receiver->header.msg_flags & MSG_TRUNC)
                return reason_return(reason, CONTROL_E_REFUSED, "control message: larger than %zu bytes",
                                     receiver->vector.iov_len);
        if (receiver->header.msg_flags & MSG_CTRUNC)
                return reason_return(reason, CONTROL_E_REFUSED,
                                     "control message: more than %d descriptors, or no room for them",
                                     CONTROL_FDS_MAX);
        packet.size = (size_t) result;
        *ret = packet;
        packet = CONTROL_PACKET_NULL;
        return 0;
}

int control_receive(int fd, void *buffer, size_t capacity, struct control_packet *ret,
                    struct reason *reason) {
        struct control_receiver receiver;
        ssize_t n;

        control_receiver_arm(&receiver, buffer, capacity);
        n = recvmsg(fd, &receiver.header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        return control_receiver_finish(&receiver, n < 0 ? -errno : n, ret, reason);
}
