/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <liburing.h>
#include <poll.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "pair.h"
#include "test.h"

enum { PAIR_ARENA = 64 * 1024 };

static void pair_make(struct pair *pair, uint32_t entries) {
        *pair = (struct pair) {};
        assert_se(wire_layout_init(&pair->layout, entries, PAIR_ARENA, NULL) == 0);
        assert_se(shm_new(&pair->client_fd, "moed-test-client", pair->layout.client_size) == 0);
        assert_se(shm_new(&pair->daemon_fd, "moed-test-daemon", pair->layout.daemon_size) == 0);
        assert_se(shm_reopen_read_only(&pair->daemon_read_fd, pair->daemon_fd) == 0);
        assert_se(notify_bell_new(&pair->bell_fd) == 0);
        assert_se(notify_wake_new(&pair->wake_fd, &pair->wake_read_fd) == 0);
}

static void map(struct shm_mapping *ret, int fd, uint64_t size, bool writable) {
        assert_se(shm_map(ret, fd, size, writable) == 0);
}

static void pair_init_daemon(struct pair *pair, uint32_t start) {
        struct wire_client_page *client = pair->daemon.client_mapping.address;
        struct wire_daemon_page *daemon = pair->daemon.daemon_mapping.address;

        ring_reader_init(&pair->daemon.submissions, &daemon->submission_head, &client->submission_tail,
                         wire_submissions(&pair->layout, client), pair->layout.entries, start);
        ring_writer_init(&pair->daemon.completions, &client->completion_head, &daemon->completion_tail,
                         wire_completions(&pair->layout, daemon), pair->layout.entries, start);
        notify_sleeper_init(&pair->daemon.sleeper, daemon);
        notify_waker_init(&pair->daemon.waker, client, daemon, pair->wake_fd);
}

static void pair_init_client(struct pair *pair, void *daemon_page, uint64_t spin_max, int socket_fd,
                             uint32_t start) {
        struct wire_client_page *client =
                pair->client.client_mapping.address ?: pair->daemon.client_mapping.address;
        const struct wire_daemon_page *daemon = daemon_page;

        ring_writer_init(&pair->client.submissions, &daemon->submission_head, &client->submission_tail,
                         wire_submissions(&pair->layout, client), pair->layout.entries, start);
        ring_reader_init(&pair->client.completions, &client->completion_head, &daemon->completion_tail,
                         wire_completions(&pair->layout, daemon_page), pair->layout.entries, start);
        notify_bell_init(&pair->client.bell, daemon, pair->bell_fd);
        notify_waiter_init(&pair->client.waiter, client, daemon, pair->wake_read_fd, socket_fd, spin_max);
}

void pair_init_one_mapping(struct pair *pair, uint32_t entries, uint64_t spin_max, int socket_fd,
                           uint32_t start) {
        pair_make(pair, entries);
        map(&pair->daemon.client_mapping, pair->client_fd, pair->layout.client_size, true);
        map(&pair->daemon.daemon_mapping, pair->daemon_fd, pair->layout.daemon_size, true);
        pair_init_daemon(pair, start);
        pair_init_client(pair, pair->daemon.daemon_mapping.address, spin_max, socket_fd, start);
}

void pair_init(struct pair *pair, uint32_t entries, uint64_t spin_max, int socket_fd, uint32_t start) {
        pair_make(pair, entries);
        map(&pair->daemon.client_mapping, pair->client_fd, pair->layout.client_size, false);
        map(&pair->daemon.daemon_mapping, pair->daemon_fd, pair->layout.daemon_size, true);
        map(&pair->client.client_mapping, pair->client_fd, pair->layout.client_size, true);
        map(&pair->client.daemon_mapping, pair->daemon_read_fd, pair->layout.daemon_size, false);
        pair_init_daemon(pair, start);
        pair_init_client(pair, pair->client.daemon_mapping.address, spin_max, socket_fd, start);
}

void pair_deinit(struct pair *pair) {
        shm_unmap(&pair->daemon.client_mapping);
        shm_unmap(&pair->daemon.daemon_mapping);
        shm_unmap(&pair->client.client_mapping);
        shm_unmap(&pair->client.daemon_mapping);
        close_fd(pair->client_fd);
        close_fd(pair->daemon_fd);
        close_fd(pair->daemon_read_fd);
        close_fd(pair->bell_fd);
        close_fd(pair->wake_fd);
        close_fd(pair->wake_read_fd);
}

struct bell_ring {
        struct io_uring uring;
        bool has_uring;
        int bell_fd;
};

static void bell_ring_poll(struct bell_ring *ring) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);

        io_uring_prep_poll_multishot(sqe, ring->bell_fd, POLLIN);
        assert_se(io_uring_submit(&ring->uring) == 1);
}

struct bell_ring *bell_ring_new(int bell_fd) {
        struct bell_ring *ring = calloc(1, sizeof(*ring));

        assert_se(ring);
        ring->bell_fd = bell_fd;
        ring->has_uring = io_uring_queue_init(8, &ring->uring, IORING_SETUP_SINGLE_ISSUER |
                                                               IORING_SETUP_DEFER_TASKRUN) == 0;
        if (ring->has_uring)
                bell_ring_poll(ring);
        return ring;
}

struct bell_ring *bell_ring_free(struct bell_ring *ring) {
        if (ring->has_uring)
                io_uring_queue_exit(&ring->uring);
        free(ring);
        return NULL;
}

/* The bell is never read: each write to it is an event of the multishot poll. */
static bool uring_wait(struct bell_ring *ring, int timeout_msec) {
        struct __kernel_timespec timeout = {
                .tv_sec = timeout_msec / 1000,
                .tv_nsec = timeout_msec % 1000 * (long long) NSEC_PER_MSEC,
        };
        struct io_uring_cqe *cqe;
        int r;

        do
                r = timeout_msec < 0 ? io_uring_wait_cqe(&ring->uring, &cqe)
                                     : io_uring_wait_cqe_timeout(&ring->uring, &cqe, &timeout);
        while (r == -EINTR);
        if (r < 0)
                return false;
        while (io_uring_peek_cqe(&ring->uring, &cqe) == 0) {
                bool more = cqe->flags & IORING_CQE_F_MORE;

                io_uring_cqe_seen(&ring->uring, cqe);
                if (!more)
                        bell_ring_poll(ring);
        }
        return true;
}

bool bell_ring_wait(struct bell_ring *ring, int timeout_msec) {
        struct pollfd p = { .fd = ring->bell_fd, .events = POLLIN };
        uint64_t count;
        ssize_t n;

        if (ring->has_uring)
                return uring_wait(ring, timeout_msec);
        if (poll(&p, 1, timeout_msec) <= 0)
                return false;
        n = read(ring->bell_fd, &count, sizeof(count));
        return n == sizeof(count);
}
