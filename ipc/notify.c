/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "notify.h"

enum {
        ARM_STEP = _WIRE_WAIT_MASK + 1,
        SPIN_BATCH = 64,   /* looks between two looks at the clock */
        SPIN_RANGE = 16,   /* the least that spinning shrinks to is spin_max / SPIN_RANGE */
        SHORT_WAIT = 2,    /* × spin_max: a wait that may have been this long because of the sleep in it */
        WAKE_BYTES = 4096, /* capacity of the wake pipe; one byte is in it, rarely two */
};

/* How long a client sleeps without looking whether the daemon is still there. */
#define SLICE_NSEC NSEC_PER_SEC

int notify_bell_new(int *ret_fd) {
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

        if (fd < 0)
                return -errno;
        *ret_fd = fd;
        return 0;
}

int notify_wake_new(int *ret_daemon_fd, int *ret_client_fd) {
        int fds[2];

        if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
                return -errno;
        /* Only to spare the user's share of pipe buffers; a larger pipe works as well. */
        (void) fcntl(fds[1], F_SETPIPE_SZ, WAKE_BYTES);
        *ret_client_fd = fds[0];
        *ret_daemon_fd = fds[1];
        return 0;
}

void notify_sleeper_init(struct notify_sleeper *ret, struct wire_daemon_page *page) {
        uint32_t value = atomic_load_explicit(&page->need_wakeup, memory_order_relaxed);

        *ret = (struct notify_sleeper) { .need_wakeup = &page->need_wakeup, .value = value };
        notify_sleeper_disarm(ret);
}

void notify_sleeper_arm(struct notify_sleeper *sleeper) {
        if (sleeper->value & 1)
                return;
        /* Relaxed: full_fence(), once for all peers, orders it before the look into their rings. */
        atomic_store_explicit(sleeper->need_wakeup, ++sleeper->value, memory_order_relaxed);
}

void notify_sleeper_disarm(struct notify_sleeper *sleeper) {
        if (!(sleeper->value & 1))
                return;
        atomic_store_explicit(sleeper->need_wakeup, ++sleeper->value, memory_order_relaxed);
}

void notify_waker_init(struct notify_waker *ret, struct wire_client_page *client,
                       struct wire_daemon_page *daemon, int fd) {
        *ret = (struct notify_waker) {
                .waiting = &client->waiting,
                .completion_tail = &daemon->completion_tail,
                .closed = &daemon->closed,
                .fd = fd,
        };
}

/* Returns whether somebody slept. Not FUTEX_PRIVATE_FLAG: the word is shared between processes. */
static bool wake_futex(struct notify_waker *waker) {
        return syscall(SYS_futex, waker->completion_tail, FUTEX_WAKE, 1, NULL, NULL, 0) > 0;
}

/* Fails when the client never empties the pipe or has closed its end: either way its own loss. */
static void wake_fd(struct notify_waker *waker) {
        ssize_t n = write(waker->fd, "", 1);

        (void) n;
}

bool notify_wake_client(struct notify_waker *waker) {
        uint32_t word;

        /* Full fence, pairs with client_arm(): either the client sees our tail or we see that it sleeps. */
        full_fence();
        word = atomic_load_explicit(waker->waiting, memory_order_relaxed);
        if (word == waker->woken)
                return false;
        switch (word & _WIRE_WAIT_MASK) {
        case WIRE_WAIT_FUTEX:
                /* A wake-up that found nobody is lost, unlike a byte in a pipe: the client may have armed and
                 * be about to sleep, having taken what this one is for. It does not count as the wake-up of
                 * this sleep. */
                if (wake_futex(waker))
                        waker->woken = word;
                return true;
        case WIRE_WAIT_FD:
                wake_fd(waker);
                waker->woken = word;
                return true;
        default:
                return false;
        }
}

void notify_close_client(struct notify_waker *waker) {
        /* Release: what was published before is seen by whoever sees this. */
        atomic_store_explicit(waker->closed, 1, memory_order_release);
        wake_futex(waker);
        wake_fd(waker);
}

void notify_bell_init(struct notify_bell *ret, const struct wire_daemon_page *page, int fd) {
        *ret = (struct notify_bell) { .need_wakeup = &page->need_wakeup, .fd = fd };
}

int notify_ring_bell(struct notify_bell *bell) {
        const uint64_t one = 1;
        uint32_t value;

        /* Full fence, pairs with the daemon's between arming its sleepers and looking into the rings: either
         * it sees our tail or we see that it sleeps. */
        full_fence();
        value = atomic_load_explicit(bell->need_wakeup, memory_order_relaxed);
        if (!(value & 1) || value == bell->rung)
                return 0;
        bell->rung = value;
        if (write(bell->fd, &one, sizeof(one)) < 0)
                return -errno;
        return 0;
}

void notify_waiter_init(struct notify_waiter *ret, struct wire_client_page *client,
                        const struct wire_daemon_page *daemon, int wake_fd, int socket_fd,
                        uint64_t spin_max) {
        *ret = (struct notify_waiter) {
                .waiting = &client->waiting,
                .completion_tail = &daemon->completion_tail,
                .closed = &daemon->closed,
                .wake_fd = wake_fd,
                .socket_fd = socket_fd,
                .spin = spin_max,
                .spin_max = spin_max,
        };
}

/* 0: completions; NOTIFY_E_CLOSED: none, and none will come; NOTIFY_E_TIMEOUT: none yet. */
static int client_look(const struct notify_waiter *waiter, uint32_t head) {
        bool closed = atomic_load_explicit(waiter->closed, memory_order_acquire);

        /* After `closed`: what was published before it is still to be taken. */
        if (atomic_load_explicit(waiter->completion_tail, memory_order_acquire) != head)
                return 0;
        return closed ? NOTIFY_E_CLOSED : NOTIFY_E_TIMEOUT;
}

/* As client_look(), after saying how we are about to sleep. */
static int client_arm(struct notify_waiter *waiter, uint32_t head, enum wire_wait how) {
        waiter->arm += ARM_STEP;
        waiter->armed = true;
        atomic_store_explicit(waiter->waiting, waiter->arm | how, memory_order_relaxed);
        /* Full fence, pairs with notify_wake_client(): either the daemon sees that we sleep or we see its
         * tail. */
        full_fence();
        return client_look(waiter, head);
}

static void client_awake(struct notify_waiter *waiter) {
        waiter->armed = false;
        atomic_store_explicit(waiter->waiting, waiter->arm | WIRE_WAIT_NONE, memory_order_relaxed);
}

/* As client_look(), where a daemon that is gone without a word counts as closed. */
static int client_look_for_daemon(const struct notify_waiter *waiter, uint32_t head) {
        struct pollfd p = { .fd = waiter->socket_fd, .events = POLLRDHUP };
        bool gone = waiter->socket_fd >= 0 && poll(&p, 1, 0) > 0;
        int r = client_look(waiter, head);

        return r == NOTIFY_E_TIMEOUT && gone ? NOTIFY_E_CLOSED : r;
}

/* Returns as client_look(); NOTIFY_E_TIMEOUT when `until` has come. */
static int client_spin(const struct notify_waiter *waiter, uint32_t head, uint64_t until) {
        uint64_t now = now_nsec(), checked = now;

        for (;;) {
                for (unsigned i = 0; i < SPIN_BATCH; i++) {
                        if (atomic_load_explicit(waiter->completion_tail, memory_order_acquire) != head)
                                return 0;
                        notify_pause();
                }
                if (atomic_load_explicit(waiter->closed, memory_order_relaxed))
                        return client_look(waiter, head);
                now = now_nsec();
                if (now >= until)
                        return NOTIFY_E_TIMEOUT;
                if (now - checked >= SLICE_NSEC) {
                        int r = client_look_for_daemon(waiter, head);

                        if (r != NOTIFY_E_TIMEOUT)
                                return r;
                        checked = now;
                }
        }
}

/* One sleep of at most a slice. Returns as client_look(), or a negative errno. */
static int client_sleep(struct notify_waiter *waiter, uint32_t head, uint64_t now, uint64_t until) {
        uint64_t nsec = MIN(until - now, SLICE_NSEC);
        struct timespec slice = {
                .tv_sec = (time_t) (nsec / NSEC_PER_SEC),
                .tv_nsec = (long) (nsec % NSEC_PER_SEC),
        };
        int r, error = 0;

        r = client_arm(waiter, head, WIRE_WAIT_FUTEX);
        if (r == NOTIFY_E_TIMEOUT &&
            syscall(SYS_futex, waiter->completion_tail, FUTEX_WAIT, head, &slice, NULL, 0) < 0)
                error = errno;
        client_awake(waiter);
        if (r != NOTIFY_E_TIMEOUT)
                return r;
        r = client_look(waiter, head);
        /* EAGAIN: the tail moved before we slept. */
        if (r != NOTIFY_E_TIMEOUT || error == 0 || error == EAGAIN)
                return r;
        if (error != ETIMEDOUT)
                return -error;
        return client_look_for_daemon(waiter, head);
}

/* After a wait with a sleep in it. One that spinning could have bridged is worth spinning for next time;
 * after long ones we spin less and less. */
static void client_adapt(struct notify_waiter *waiter, uint64_t waited) {
        if (waited / SHORT_WAIT <= waiter->spin_max)
                waiter->spin = waiter->spin_max;
        else
                waiter->spin = MAX(waiter->spin / 2, waiter->spin_max / SPIN_RANGE);
}

/* Returns as client_look(), or a negative errno. */
static int client_sleep_until(struct notify_waiter *waiter, uint32_t head, uint64_t until) {
        uint64_t now;
        int r;

        while ((now = now_nsec()) < until) {
                r = client_sleep(waiter, head, now, until);
                if (r != NOTIFY_E_TIMEOUT)
                        return r;
        }
        return NOTIFY_E_TIMEOUT;
}

/* a + b, or for ever. */
static uint64_t later(uint64_t a, uint64_t b) {
        return add_u64(a, b, &a) ? a : NOTIFY_FOREVER;
}

int notify_wait(struct notify_waiter *waiter, uint32_t head, uint64_t timeout) {
        uint64_t start, until;
        int r;

        r = client_look(waiter, head);
        if (r != NOTIFY_E_TIMEOUT || timeout == 0)
                return r;

        start = now_nsec();
        until = later(start, timeout);
        if (waiter->spin_max == 0)
                return client_sleep_until(waiter, head, until);
        r = client_spin(waiter, head, MIN(later(start, waiter->spin), until));
        if (r != NOTIFY_E_TIMEOUT) {
                /* What we waited for is there, and reading the clock would only delay it. */
                waiter->spin = waiter->spin_max;
                return r;
        }
        r = client_sleep_until(waiter, head, until);
        client_adapt(waiter, now_nsec() - start);
        return r;
}

bool notify_arm(struct notify_waiter *waiter, uint32_t head) {
        int r;

        /* Armed before and not disarmed: if there was a wake-up since, it is in the pipe. */
        r = waiter->armed ? client_look(waiter, head) : client_arm(waiter, head, WIRE_WAIT_FD);
        if (r == NOTIFY_E_TIMEOUT)
                return true;
        notify_disarm(waiter);
        return false;
}

void notify_disarm(struct notify_waiter *waiter) {
        char bytes[64];
        ssize_t n;

        if (!waiter->armed)
                return;
        client_awake(waiter);
        n = read(waiter->wake_fd, bytes, sizeof(bytes));
        (void) n;
}
