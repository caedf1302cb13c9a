/* SPDX-License-Identifier: MIT */
#pragma once

/* Both ends of one connection as the daemon makes it and as a client sees it, for tests and benchmarks. Made
 * before a fork() or a thread, so that either side can be used in either. */

#include "notify.h"
#include "ring.h"
#include "shm.h"

struct pair {
        struct wire_layout layout;
        int client_fd, daemon_fd;   /* memfds, writable */
        int daemon_read_fd;         /* the client's descriptor of the daemon mapping */
        int bell_fd;
        int wake_fd, wake_read_fd;
        struct {
                struct shm_mapping client_mapping, daemon_mapping;
                struct ring_reader submissions;
                struct ring_writer completions;
                struct notify_sleeper sleeper;
                struct notify_waker waker;
        } daemon;
        struct {
                struct shm_mapping client_mapping, daemon_mapping; /* the latter read-only */
                struct ring_writer submissions;
                struct ring_reader completions;
                struct notify_bell bell;
                struct notify_waiter waiter;
        } client;
};

/* Ends the test when it fails. `socket_fd` is what the client watches for the daemon's death, or -1. `start`
 * is where all indices begin. */
void pair_init(struct pair *pair, uint32_t entries, uint64_t spin_max, int socket_fd, uint32_t start);
/* The same with one mapping for both sides, so that ThreadSanitizer sees both use the same addresses. */
void pair_init_one_mapping(struct pair *pair, uint32_t entries, uint64_t spin_max, int socket_fd,
                           uint32_t start);
void pair_deinit(struct pair *pair);

/* Daemon: waits for the bell, in one io_uring with a multishot poll as the service does, or with poll(2)
 * where io_uring is blocked. */
struct bell_ring;
struct bell_ring *bell_ring_new(int bell_fd);
struct bell_ring *bell_ring_free(struct bell_ring *ring);
/* False when `timeout_msec` passed without a ring of the bell; -1: waits for ever. */
bool bell_ring_wait(struct bell_ring *ring, int timeout_msec);
