/* SPDX-License-Identifier: MIT */

/* While both sides are busy, messages cost no system call: both run a million of them under a seccomp filter
 * that kills at the first one. */

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "pair.h"
#include "test.h"

enum { ENTRIES = 1024, MESSAGES = 1000000, PING_PONGS = 2000 };

/* From here on this process may only end. */
static void forbid_syscalls(void) {
        struct sock_filter filter[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        };
        struct sock_fprog program = { .len = ELEMENTS(filter), .filter = filter };

        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
            prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
                _exit(77);
}

/* Echoes `messages` requests, without ever sleeping. */
static void busy_daemon(struct pair *p, uint64_t messages) {
        for (uint64_t done = 0; done < messages;) {
                struct wire_submission s;

                while (ring_take(&p->daemon.submissions, &s) == 0) {
                        struct wire_completion c = { .request = s.request };

                        while (ring_put(&p->daemon.completions, &c) == RING_E_FULL) {
                                ring_publish(&p->daemon.completions);
                                notify_wake_client(&p->daemon.waker);
                        }
                        done++;
                }
                if (ring_publish(&p->daemon.completions))
                        notify_wake_client(&p->daemon.waker);
                notify_pause();
        }
}

/* Keeps up to `window` requests in flight; false when a completion was not the next. */
static bool busy_client(struct pair *p, uint64_t messages, uint64_t window) {
        uint64_t sent = 0, seen = 0;

        while (seen < messages) {
                struct wire_completion c;

                while (sent < messages && sent - seen < window) {
                        struct wire_submission s = { .request = sent };

                        if (ring_put(&p->client.submissions, &s))
                                break;
                        sent++;
                }
                if (ring_publish(&p->client.submissions))
                        notify_ring_bell(&p->client.bell);
                if (notify_wait(&p->client.waiter, p->client.completions.head, NOTIFY_FOREVER))
                        return false;
                while (ring_take(&p->client.completions, &c) == 0)
                        if (c.request != seen++)
                                return false;
        }
        return true;
}

static int status_of(pid_t pid) {
        int status;

        assert_se(pid > 0 && waitpid(pid, &status, 0) == pid);
        return status;
}

/* Skips where the kernel has no seccomp, or reading the clock takes a system call. */
static void probe(void) {
        pid_t pid = fork();
        int status;

        if (pid == 0) {
                now_nsec();
                forbid_syscalls();
                now_nsec();
                _exit(0);
        }
        status = status_of(pid);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
                test_skip("no seccomp filters");
        if (WIFSIGNALED(status))
                test_skip("reading the clock is a system call on this machine");
        assert_se(status == 0);
}

static void both_without_syscalls(uint64_t messages, uint64_t window) {
        pid_t daemon, client;
        struct pair p;

        probe();
        pair_init(&p, ENTRIES, NOTIFY_FOREVER, -1, 0);
        daemon = fork();
        if (daemon == 0) {
                forbid_syscalls();
                busy_daemon(&p, messages);
                _exit(0);
        }
        client = fork();
        if (client == 0) {
                forbid_syscalls();
                _exit(busy_client(&p, messages, window) ? 0 : 1);
        }
        assert_se(status_of(client) == 0);
        assert_se(status_of(daemon) == 0);
        pair_deinit(&p);
}

TEST(a_busy_stream_makes_no_system_call) {
        both_without_syscalls(MESSAGES, ENTRIES);
}

TEST(one_request_at_a_time_makes_no_system_call_while_both_look) {
        both_without_syscalls(PING_PONGS, 1);
}

TEST(a_sleep_does_make_one) {
        struct pair p;
        int status;
        pid_t pid;

        probe();
        pair_init(&p, ENTRIES, 0, -1, 0);
        pid = fork();
        if (pid == 0) {
                forbid_syscalls();
                _exit(busy_client(&p, 1, 1) ? 0 : 1);
        }
        status = status_of(pid);
        assert_se(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
        pair_deinit(&p);
}
