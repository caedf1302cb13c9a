/* SPDX-License-Identifier: MIT */
#pragma once

/* Sleeping and waking. A side that has nothing to do says in shared memory that it will sleep, looks at its
 * ring once more, and sleeps; a side that has published looks whether the other sleeps, and only then makes a
 * system call. Each stores one word and then loads the other's, so each needs a full fence in between:
 * without it both loads may be served before either store is seen, and the wake-up is lost. There is one
 * fence for each of the four places:
 *
 *   client publishes  ring_publish()          notify_ring_bell()    fence, load need_wakeup
 *   daemon sleeps     notify_sleeper_arm()…   full_fence()        fence, ring_ready() of every peer
 *   daemon publishes  ring_publish()          notify_wake_client()  fence, load waiting
 *   client sleeps     store waiting           notify_wait(), notify_arm()   fence, load completion_tail
 *
 * The words hold counters, so that one sleep gets one wake-up however much is published
 * before the sleeper runs. */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/fence.h"
#include "wire.h"

enum {
        _NOTIFY_E_SUCCESS,
        NOTIFY_E_TIMEOUT, /* nothing came in time */
        NOTIFY_E_CLOSED,  /* the daemon has closed the connection, or is gone */
};

/* One step of a loop that looks at shared memory. */
static inline void notify_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("isb" ::: "memory");
#else
        __asm__ volatile("" ::: "memory");
#endif
}

/* --- Descriptors of a connection, made by the daemon, non-blocking and close-on-exec --- */

/* The bell: an eventfd that the client writes. The daemon waits for it with a multishot poll in its io_uring
 * (each write is an event, whatever the counter) and never reads it: the client has the same open file, could
 * clear O_NONBLOCK and empty the counter, and a read(2) in the daemon would hang.
 * Returns 0 or a negative errno. */
int notify_bell_new(int *ret_fd);

/* The wake descriptor: a pipe of which the client gets the reading end. With an eventfd both would share one
 * open file; a client that clears its O_NONBLOCK and fills its counter would stop the daemon in write(2). The
 * daemon has to ignore SIGPIPE. Returns 0 or a negative errno. */
int notify_wake_new(int *ret_daemon_fd, int *ret_client_fd);

/* --- Daemon: sleep. One sleeper per peer, one fence for all:
 *
 *   for each peer: notify_sleeper_arm();   full_fence();   for each peer: ring_ready() → somebody has work?
 *   nobody: wait in io_uring;              then, either way, for each peer: notify_sleeper_disarm() --- */
struct notify_sleeper {
        _Atomic uint32_t *need_wakeup; /* in the daemon page */
        uint32_t value;                /* what stands there; odd while armed */
};

/* Goes on from the value in the page, which only the daemon can write, and disarms. */
void notify_sleeper_init(struct notify_sleeper *ret, struct wire_daemon_page *page);
void notify_sleeper_arm(struct notify_sleeper *sleeper);
void notify_sleeper_disarm(struct notify_sleeper *sleeper);

/* --- Daemon: wake a client --- */
struct notify_waker {
        const _Atomic uint32_t *waiting;    /* in the client page */
        _Atomic uint32_t *completion_tail;  /* in the daemon page; the futex word */
        _Atomic uint32_t *closed;           /* in the daemon page */
        int fd;                             /* writing end of the wake pipe; borrowed */
        uint32_t woken;                     /* the arm word that has had its wake-up */
};

void notify_waker_init(struct notify_waker *ret, struct wire_client_page *client,
                       struct wire_daemon_page *daemon, int fd);

/* After ring_publish(): wakes the client if it sleeps and has not been woken yet. Returns whether a system
 * call was made. Never blocks and cannot fail: a client that broke its descriptor sleeps on. */
bool notify_wake_client(struct notify_waker *waker);

/* Sets `closed` and wakes the client, whichever way it sleeps. */
void notify_close_client(struct notify_waker *waker);

/* --- Client: ring the daemon's bell --- */
struct notify_bell {
        const _Atomic uint32_t *need_wakeup; /* in the daemon page */
        int fd;                              /* the bell; borrowed */
        uint32_t rung;                       /* the sleep that has been rung for */
};

void notify_bell_init(struct notify_bell *ret, const struct wire_daemon_page *page, int fd);

/* After ring_publish(): rings if the daemon sleeps and has not been rung for in this sleep.
 * Returns 0 or a negative errno (of write(2) on the bell). */
int notify_ring_bell(struct notify_bell *bell);

/* --- Client: wait for completions. Belongs to the thread that takes them. --- */
struct notify_waiter {
        _Atomic uint32_t *waiting;               /* in the client page; written only */
        const _Atomic uint32_t *completion_tail; /* in the daemon page, mapped read-only */
        const _Atomic uint32_t *closed;
        int wake_fd, socket_fd; /* borrowed; socket_fd -1: death of the daemon goes unseen */
        uint32_t arm;           /* last arm word, without its mode */
        bool armed;
        uint64_t spin, spin_max; /* nsec; how long notify_wait() looks before it sleeps; adapts to how long it
                                  * had to wait, spin_max / 16 at least */
};

/* A good spin_max: about what a sleep and a wake-up cost, so that no wait costs more than twice its least. */
enum { NOTIFY_SPIN_NSEC = 50 * 1000 };
#define NOTIFY_FOREVER UINT64_MAX

/* `spin_max` in nsec: 0 sleeps at once, NOTIFY_FOREVER never sleeps. */
void notify_waiter_init(struct notify_waiter *ret, struct wire_client_page *client,
                        const struct wire_daemon_page *daemon, int wake_fd, int socket_fd, uint64_t spin_max);

/* Waits until completion_tail is another than `head` (the reader's own next index), by spinning and then on a
 * futex; at most `timeout` nsec (0: a look, NOTIFY_FOREVER). While it sleeps it looks for the death of the
 * daemon once a second. Returns 0 (look in the ring), NOTIFY_E_TIMEOUT, NOTIFY_E_CLOSED (nothing left in the
 * ring), or a negative errno (-EINTR: a signal handler ran). */
int notify_wait(struct notify_waiter *waiter, uint32_t head, uint64_t timeout);

/* For a poll loop of the caller's own: says that the client will sleep on wake_fd. Returns true: poll wake_fd
 * for POLLIN (and the control socket for its end), then notify_disarm(). False: there are completions after
 * `head`, or the connection is closed, and nothing is armed. Arming twice is allowed. */
bool notify_arm(struct notify_waiter *waiter, uint32_t head);

/* Says that the client is awake and empties wake_fd. No-op when not armed. Best after the completions have
 * been taken: it delays none of them, and what the daemon publishes meanwhile needs no second wake-up. */
void notify_disarm(struct notify_waiter *waiter);
