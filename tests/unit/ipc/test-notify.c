/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "pair.h"
#include "test.h"

enum { ENTRIES = 8, PATIENCE_MSEC = 10000 };

static uint32_t waiting_word(const struct pair *p) {
        const struct wire_client_page *page = p->daemon.client_mapping.address;

        return page->waiting;
}

static bool readable(int fd) {
        struct pollfd poll_fd = { .fd = fd, .events = POLLIN };

        return poll(&poll_fd, 1, 0) == 1;
}

/* The daemon completes one request; returns whether that took a system call. */
static bool complete(struct pair *p, uint64_t request) {
        struct wire_completion c = { .request = request };

        assert_se(ring_put(&p->daemon.completions, &c) == 0);
        assert_se(ring_publish(&p->daemon.completions));
        return notify_wake_client(&p->daemon.waker);
}

static void submit(struct pair *p) {
        struct wire_submission s = { .op = WIRE_OP_ECHO };

        assert_se(ring_put(&p->client.submissions, &s) == 0);
        assert_se(ring_publish(&p->client.submissions));
        assert_se(notify_ring_bell(&p->client.bell) == 0);
}

static uint64_t take(struct pair *p) {
        struct wire_completion c;

        assert_se(ring_take(&p->client.completions, &c) == 0);
        return c.request;
}

/* Runs `f` of the daemon in a child once the client sleeps as `how`; the caller then sleeps. */
static pid_t when_client_waits(struct pair *p, enum wire_wait how, void (*f)(struct pair *)) {
        pid_t pid = fork();

        if (pid != 0)
                return pid;
        while ((waiting_word(p) & _WIRE_WAIT_MASK) != how)
                usleep(100);
        usleep(20000); /* it is about to sleep; let it */
        f(p);
        _exit(0);
}

static void reap(pid_t pid) {
        int status;

        assert_se(waitpid(pid, &status, 0) == pid && status == 0);
}

static void complete_one(struct pair *p) {
        if (!complete(p, 11))
                _exit(1);
}

static void close_client(struct pair *p) {
        notify_close_client(&p->daemon.waker);
}

TEST(a_client_that_is_awake_costs_no_system_call) {
        struct pair p;

        pair_init(&p, ENTRIES, 0, -1, 0);
        assert_se(!complete(&p, 1));
        assert_se(notify_wait(&p.client.waiter, p.client.completions.head, NOTIFY_FOREVER) == 0);
        assert_se(take(&p) == 1);
        assert_se(!readable(p.wake_read_fd));
        assert_se(waiting_word(&p) == WIRE_WAIT_NONE);
        submit(&p);
        assert_se(!readable(p.bell_fd));
        pair_deinit(&p);
}

TEST(futex_sleep_on_the_read_only_mapping_is_woken) {
        struct pair p;
        uint64_t before;
        pid_t pid;

        pair_init(&p, ENTRIES, 0, -1, 0);
        pid = when_client_waits(&p, WIRE_WAIT_FUTEX, complete_one);
        before = now_nsec();
        assert_se(notify_wait(&p.client.waiter, p.client.completions.head, NOTIFY_FOREVER) == 0);
        assert_se(now_nsec() - before < NSEC_PER_SEC * 9 / 10); /* woken, not after its slice */
        assert_se(take(&p) == 11);
        assert_se((waiting_word(&p) & _WIRE_WAIT_MASK) == WIRE_WAIT_NONE);
        reap(pid);
        pair_deinit(&p);
}

TEST(one_sleep_gets_one_wake_up) {
        struct pair p;

        pair_init(&p, ENTRIES, 0, -1, 0);
        assert_se(notify_arm(&p.client.waiter, p.client.completions.head));
        assert_se((waiting_word(&p) & _WIRE_WAIT_MASK) == WIRE_WAIT_FD);
        assert_se(notify_arm(&p.client.waiter, p.client.completions.head));
        assert_se(complete(&p, 1));
        assert_se(!complete(&p, 2));
        assert_se(readable(p.wake_read_fd));
        notify_disarm(&p.client.waiter);
        assert_se(!readable(p.wake_read_fd));
        notify_disarm(&p.client.waiter);
        assert_se(!complete(&p, 3));

        assert_se(!notify_arm(&p.client.waiter, p.client.completions.head));
        assert_se((waiting_word(&p) & _WIRE_WAIT_MASK) == WIRE_WAIT_NONE);
        for (uint64_t i = 1; i <= 3; i++)
                assert_se(take(&p) == i);
        assert_se(notify_arm(&p.client.waiter, p.client.completions.head));
        assert_se(complete(&p, 4));
        assert_se(readable(p.wake_read_fd));
        pair_deinit(&p);
}

TEST(arming_is_refused_once_there_is_something) {
        struct pair p;

        pair_init(&p, ENTRIES, 0, -1, 0);
        assert_se(notify_arm(&p.client.waiter, p.client.completions.head));
        assert_se(complete(&p, 1));
        assert_se(!notify_arm(&p.client.waiter, p.client.completions.head));
        assert_se(!readable(p.wake_read_fd));
        assert_se(take(&p) == 1);
        notify_close_client(&p.daemon.waker);
        assert_se(!notify_arm(&p.client.waiter, p.client.completions.head));
        pair_deinit(&p);
}

TEST(one_sleep_of_the_daemon_gets_one_ring_of_the_bell) {
        struct pair p;
        uint64_t count;

        pair_init(&p, ENTRIES, 0, -1, 0);
        for (unsigned sleep = 0; sleep < 2; sleep++) {
                notify_sleeper_arm(&p.daemon.sleeper);
                notify_sleeper_arm(&p.daemon.sleeper);
                submit(&p);
                submit(&p);
                assert_se(read(p.bell_fd, &count, sizeof(count)) == sizeof(count) && count == 1);
                notify_sleeper_disarm(&p.daemon.sleeper);
                notify_sleeper_disarm(&p.daemon.sleeper);
                submit(&p);
                assert_se(!readable(p.bell_fd));
        }
        pair_deinit(&p);
}

TEST(a_daemon_that_died_asleep_is_woken_in_its_next_life) {
        struct pair p;

        pair_init(&p, ENTRIES, 0, -1, 0);
        notify_sleeper_arm(&p.daemon.sleeper);
        submit(&p);
        assert_se(readable(p.bell_fd));
        /* Killed here; the next one finds the page as it was. */
        notify_sleeper_init(&p.daemon.sleeper, p.daemon.daemon_mapping.address);
        assert_se(!(p.daemon.sleeper.value & 1));
        notify_sleeper_arm(&p.daemon.sleeper);
        assert_se(read(p.bell_fd, &(uint64_t) { 0 }, 8) == 8);
        submit(&p);
        assert_se(readable(p.bell_fd));
        pair_deinit(&p);
}

TEST(each_write_to_the_bell_is_an_event_though_nobody_reads_it) {
        struct bell_ring *ring;
        struct pair p;

        pair_init(&p, 64, 0, -1, 0);
        ring = bell_ring_new(p.bell_fd);
        assert_se(!bell_ring_wait(ring, 1));
        for (unsigned i = 0; i < 20; i++) {
                notify_sleeper_arm(&p.daemon.sleeper);
                submit(&p);
                assert_se(bell_ring_wait(ring, PATIENCE_MSEC));
                notify_sleeper_disarm(&p.daemon.sleeper);
                assert_se(!bell_ring_wait(ring, 1));
        }
        bell_ring_free(ring);
        pair_deinit(&p);
}

TEST(waiting_ends_at_its_timeout) {
        static const uint64_t spin[] = { 0, 100 * NSEC_PER_USEC, NOTIFY_FOREVER };

        for (size_t i = 0; i < ELEMENTS(spin); i++) {
                struct pair p;
                uint64_t before = now_nsec();

                pair_init(&p, ENTRIES, spin[i], -1, 0);
                assert_se(notify_wait(&p.client.waiter, 0, 0) == NOTIFY_E_TIMEOUT);
                assert_se(notify_wait(&p.client.waiter, 0, 5 * NSEC_PER_MSEC) == NOTIFY_E_TIMEOUT);
                assert_se(now_nsec() - before >= 5 * NSEC_PER_MSEC);
                pair_deinit(&p);
        }
}

TEST(a_closed_connection_is_told_after_the_last_completion) {
        struct pair p;
        pid_t pid;

        pair_init(&p, ENTRIES, 0, -1, 0);
        complete(&p, 1);
        notify_close_client(&p.daemon.waker);
        assert_se(notify_wait(&p.client.waiter, p.client.completions.head, NOTIFY_FOREVER) == 0);
        assert_se(take(&p) == 1);
        assert_se(notify_wait(&p.client.waiter, p.client.completions.head, NOTIFY_FOREVER) ==
                  NOTIFY_E_CLOSED);
        p.client.waiter.spin = p.client.waiter.spin_max = NOTIFY_FOREVER;
        assert_se(notify_wait(&p.client.waiter, p.client.completions.head, NOTIFY_FOREVER) ==
                  NOTIFY_E_CLOSED);
        pair_deinit(&p);

        pair_init(&p, ENTRIES, 0, -1, 0);
        pid = when_client_waits(&p, WIRE_WAIT_FUTEX, close_client);
        assert_se(notify_wait(&p.client.waiter, 0, NOTIFY_FOREVER) == NOTIFY_E_CLOSED);
        reap(pid);
        pair_deinit(&p);
}

TEST(death_of_the_daemon_ends_the_wait_of_its_client) {
        static const uint64_t spin[] = { 0, NOTIFY_FOREVER };

        for (size_t i = 0; i < ELEMENTS(spin); i++) {
                struct pair p;
                int s[2];

                assert_se(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s) == 0);
                pair_init(&p, ENTRIES, spin[i], s[0], 0);
                assert_se(write(s[1], "x", 1) == 1); /* an unread packet is no end */
                assert_se(notify_wait(&p.client.waiter, 0, 1100 * NSEC_PER_MSEC) == NOTIFY_E_TIMEOUT);
                close(s[1]);
                assert_se(notify_wait(&p.client.waiter, 0, NOTIFY_FOREVER) == NOTIFY_E_CLOSED);
                close(s[0]);
                pair_deinit(&p);
        }
}

static void on_signal(int sig) {
        (void) sig;
}

TEST(a_signal_interrupts_the_wait) {
        struct sigaction action = { .sa_handler = on_signal };
        struct pair p;
        pid_t pid;

        pair_init(&p, ENTRIES, 0, -1, 0);
        assert_se(sigaction(SIGUSR1, &action, NULL) == 0);
        pid = fork();
        if (pid == 0) {
                while (kill(getppid(), 0) == 0 && (waiting_word(&p) & _WIRE_WAIT_MASK) != WIRE_WAIT_FUTEX)
                        usleep(100);
                usleep(20000);
                kill(getppid(), SIGUSR1);
                _exit(0);
        }
        assert_se(notify_wait(&p.client.waiter, 0, NOTIFY_FOREVER) == -EINTR);
        assert_se((waiting_word(&p) & _WIRE_WAIT_MASK) == WIRE_WAIT_NONE);
        reap(pid);
        pair_deinit(&p);
}

TEST(a_hostile_client_cannot_stop_the_daemon_in_a_wake_up) {
        struct wire_client_page *page;
        struct pair p;
        char c = 0;

        signal(SIGPIPE, SIG_IGN);
        alarm(30); /* a daemon that hangs fails the test */
        pair_init(&p, ENTRIES, 0, -1, 0);
        page = p.client.client_mapping.address;

        /* Its own end only is made blocking, by O_NONBLOCK's rules, and it never reads. */
        assert_se(fcntl(p.wake_read_fd, F_SETFL, 0) == 0);
        for (uint32_t i = 1; i < 100000; i++) {
                page->waiting = i << 2 | WIRE_WAIT_FD;
                notify_wake_client(&p.daemon.waker);
        }
        assert_se(write(p.wake_fd, &c, 1) < 0 && errno == EAGAIN);
        assert_se(write(p.wake_read_fd, &c, 1) < 0 && errno == EBADF);

        page->waiting = 3; /* no such way to sleep */
        assert_se(!notify_wake_client(&p.daemon.waker));
        close(p.wake_read_fd);
        p.wake_read_fd = -1;
        page->waiting = 4 | WIRE_WAIT_FD;
        notify_wake_client(&p.daemon.waker);
        notify_close_client(&p.daemon.waker);
        pair_deinit(&p);
}

enum { LONG_WAITS = 3 };

/* Completes so many, each when the client has slept for a while. */
static void complete_late(struct pair *p) {
        uint32_t before = waiting_word(p), word;

        for (unsigned i = 0; i < LONG_WAITS; i++) {
                while ((word = waiting_word(p)) == before || (word & _WIRE_WAIT_MASK) != WIRE_WAIT_FUTEX)
                        usleep(100);
                usleep(20000);
                before = word;
                complete(p, i);
        }
}

TEST(after_long_waits_spinning_gets_shorter_and_after_a_short_one_full) {
        const uint64_t most = 160 * NSEC_PER_USEC;
        struct pair p;
        pid_t pid;

        pair_init(&p, ENTRIES, most, -1, 0);
        pid = fork();
        if (pid == 0) {
                complete_late(&p);
                _exit(0);
        }
        for (unsigned i = 0; i < LONG_WAITS; i++) {
                assert_se(notify_wait(&p.client.waiter, p.client.completions.head, NOTIFY_FOREVER) == 0);
                assert_se(take(&p) == i);
                assert_se(p.client.waiter.spin == most >> (i + 1));
        }
        reap(pid);
        for (unsigned i = 0; i < 5; i++)
                assert_se(notify_wait(&p.client.waiter, p.client.completions.head, 3 * most) ==
                          NOTIFY_E_TIMEOUT);
        assert_se(p.client.waiter.spin == most / 16);
        assert_se(notify_wait(&p.client.waiter, p.client.completions.head, 1) == NOTIFY_E_TIMEOUT);
        if (p.client.waiter.spin != most) /* we were not running meanwhile */
                test_skip("the machine is too busy for a short wait");
        pair_deinit(&p);
}
