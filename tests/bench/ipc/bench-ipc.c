/* SPDX-License-Identifier: MIT */

/* What a round trip over moed's rings costs, each way of waiting beside the bare primitive that it stands on.
 * The bare one and ours take turns, many times; a ratio is the median over the turns of (our p50 / its p50 in
 * the same turn), so that other load on the machine meets both alike. See usage(). */

#include <getopt.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "pair.h"
#include "test.h"

enum { ENTRIES = 256, PUBLISH = 16, WARM_UP = 100, TURNS_MAX = 1000 };

static unsigned turns = 15;
static unsigned spin_rounds = 100000, sleep_rounds = 1500;
/* A turn ends early after this long, so that a machine with other load is done in time as well. */
static uint64_t turn_nsec = 250 * NSEC_PER_MSEC;
static unsigned stream_messages = 2000000;
static bool pinned = true, realtime = false;
static cpu_set_t allowed; /* as the benchmark was started */

/* One direction of a bare exchange: how a word is sent, and how it is waited for. */
enum bare {
        BARE_LINE,
        BARE_FUTEX,
        BARE_EVENTFD,
        BARE_SEQPACKET,
};

/* A round trip: `forth` and `back` bare, or a client and a daemon that wait like this. */
struct way {
        const char *name;
        bool bare;
        enum bare forth, back;
        enum wire_wait client; /* ours: WIRE_WAIT_NONE spins */
        bool daemon_sleeps;    /* ours: in io_uring, on the bell */
        bool asker_rests, answerer_rests;
};

struct row {
        const char *name;
        struct way floor, ours;
        double target; /* most that ours may be of the floor; 0: none */
};

/* One that waits asleep is given time to fall asleep: the other rests before it sends, and that is not
 * counted. */
#define REST_NSEC (60 * NSEC_PER_USEC)

#define BARE(_name, _forth, _back)                                                                           \
        { .name = _name, .bare = true, .forth = _forth, .back = _back,                                       \
          .asker_rests = _forth != BARE_LINE, .answerer_rests = _back != BARE_LINE }
#define OURS(_client, _daemon)                                                                               \
        { .client = _client, .daemon_sleeps = _daemon, .asker_rests = _daemon,                               \
          .answerer_rests = _client != WIRE_WAIT_NONE }
static const struct row rows[] = {
        { "both spin", BARE("cache line", BARE_LINE, BARE_LINE), OURS(WIRE_WAIT_NONE, false), 2 },
        { "client sleeps on futex", BARE("line, futex", BARE_LINE, BARE_FUTEX), OURS(WIRE_WAIT_FUTEX, false),
          1.15 },
        { "client polls descriptor", BARE("line, eventfd", BARE_LINE, BARE_EVENTFD),
          OURS(WIRE_WAIT_FD, false), 1.15 },
        { "daemon sleeps in io_uring", BARE("eventfd, line", BARE_EVENTFD, BARE_LINE),
          OURS(WIRE_WAIT_NONE, true), 1.15 },
        { "both sleep, client on futex", BARE("futex", BARE_FUTEX, BARE_FUTEX), OURS(WIRE_WAIT_FUTEX, true),
          1.15 },
        { "both sleep, client polls", BARE("eventfd", BARE_EVENTFD, BARE_EVENTFD), OURS(WIRE_WAIT_FD, true),
          1.15 },
        { "both sleep, client polls", BARE("seqpacket", BARE_SEQPACKET, BARE_SEQPACKET),
          OURS(WIRE_WAIT_FD, true), 0 },
};

/* For assert_se(), in place of the one of the test runner. */
void test_fail(const char *file, int line, const char *expression) {
        fprintf(stderr, "%s:%d: failed: %s\n", file, line, expression);
        exit(EXIT_FAILURE);
}

/* Each side on a core of its own, and with --realtime before anything else that runs there. Done by the
 * parent: a child on the core of a parent that spins in real time would never get to move itself. */
static pid_t place(pid_t pid, unsigned which) {
        struct sched_param priority = { .sched_priority = 1 };
        cpu_set_t one;

        assert_se(pid >= 0);
        if (pinned && CPU_COUNT(&allowed) >= 2) {
                int cpu = -1;

                for (unsigned n = 0; n <= which; n++)
                        do
                                cpu++;
                        while (!CPU_ISSET(cpu, &allowed));
                CPU_ZERO(&one);
                CPU_SET(cpu, &one);
                assert_se(sched_setaffinity(pid, sizeof(one), &one) == 0);
        }
        if (realtime)
                assert_se(sched_setscheduler(pid, SCHED_FIFO, &priority) == 0);
        return pid;
}

static void rest(bool rests) {
        uint64_t until;

        if (!rests)
                return;
        for (until = now_nsec() + REST_NSEC; now_nsec() < until;)
                notify_pause();
}

/* --- Bare exchanges --- */

struct bare_end {
        _Atomic uint32_t *word;
        int send_fd, receive_fd;
};

struct bare_pair {
        struct {
                _Alignas(2 * WIRE_LINE) _Atomic uint32_t forth;
                _Alignas(2 * WIRE_LINE) _Atomic uint32_t back;
        } *shared;
        struct bare_end forth, back;
};

static struct bare_end bare_end_new(enum bare kind, _Atomic uint32_t *word) {
        struct bare_end end = { .word = word, .send_fd = -1, .receive_fd = -1 };
        int fds[2];

        if (kind == BARE_EVENTFD) {
                end.send_fd = eventfd(0, EFD_CLOEXEC);
                end.receive_fd = end.send_fd;
        } else if (kind == BARE_SEQPACKET) {
                assert_se(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) == 0);
                end.send_fd = fds[0];
                end.receive_fd = fds[1];
        }
        return end;
}

static void bare_end_close(struct bare_end *end) {
        if (end->receive_fd != end->send_fd)
                close_fd(end->receive_fd);
        close_fd(end->send_fd);
}

static void bare_send(enum bare kind, const struct bare_end *end, uint32_t value) {
        const uint64_t one = 1;

        if (kind == BARE_EVENTFD) {
                assert_se(write(end->send_fd, &one, sizeof(one)) == sizeof(one));
        } else if (kind == BARE_SEQPACKET) {
                assert_se(write(end->send_fd, "", 1) == 1);
        } else {
                atomic_store_explicit(end->word, value, memory_order_release);
                if (kind == BARE_FUTEX)
                        syscall(SYS_futex, end->word, FUTEX_WAKE, 1, NULL, NULL, 0);
        }
}

static void bare_receive(enum bare kind, const struct bare_end *end, uint32_t value) {
        uint64_t buffer;

        if (kind == BARE_EVENTFD) {
                assert_se(read(end->receive_fd, &buffer, sizeof(buffer)) == sizeof(buffer));
        } else if (kind == BARE_SEQPACKET) {
                assert_se(read(end->receive_fd, &buffer, 1) == 1);
        } else {
                while (atomic_load_explicit(end->word, memory_order_acquire) != value) {
                        if (kind == BARE_FUTEX)
                                syscall(SYS_futex, end->word, FUTEX_WAIT, value - 1, NULL, NULL, 0);
                        else
                                notify_pause();
                }
        }
}

/* The other side has no end of its own. */
static void end_peer(pid_t pid) {
        kill(pid, SIGKILL);
        assert_se(waitpid(pid, NULL, 0) == pid);
}

/* Returns the number of samples taken. */
static unsigned measure_bare(const struct way *way, uint64_t *samples, unsigned rounds) {
        struct bare_pair p = {};
        unsigned n = 0;
        uint64_t until;
        pid_t pid;

        p.shared = mmap(NULL, WIRE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        assert_se(p.shared != MAP_FAILED);
        p.forth = bare_end_new(way->forth, &p.shared->forth);
        p.back = bare_end_new(way->back, &p.shared->back);
        pid = fork();
        if (pid == 0) {
                for (uint32_t i = 1;; i++) {
                        bare_receive(way->forth, &p.forth, i);
                        rest(way->answerer_rests);
                        bare_send(way->back, &p.back, i);
                }
        }
        place(pid, 1);
        until = now_nsec() + turn_nsec;
        for (uint32_t i = 1; n < rounds; i++) {
                uint64_t before;

                rest(way->asker_rests);
                before = now_nsec();
                bare_send(way->forth, &p.forth, i);
                bare_receive(way->back, &p.back, i);
                if (i > WARM_UP)
                        samples[n++] = now_nsec() - before - (way->answerer_rests ? REST_NSEC : 0);
                if (before >= until && n > 0)
                        break;
        }
        end_peer(pid);
        bare_end_close(&p.forth);
        bare_end_close(&p.back);
        munmap(p.shared, WIRE_PAGE);
        return n;
}

/* --- Ours --- */

/* What the service's loop does when no ring has anything: arms, looks once more, waits in io_uring. */
static void daemon_sleep(struct pair *p, struct bell_ring *ring) {
        uint32_t ready = 0;

        notify_sleeper_arm(&p->daemon.sleeper);
        full_fence();
        assert_se(ring_ready(&p->daemon.submissions, &ready) == 0);
        if (ready == 0)
                assert_se(bell_ring_wait(ring, -1));
        notify_sleeper_disarm(&p->daemon.sleeper);
}

/* Takes what is there, echoes it, publishes now and then. Returns the number of messages. */
static uint32_t daemon_turn(struct pair *p, bool rests) {
        struct wire_submission s;
        uint32_t n = 0;

        while (ring_take(&p->daemon.submissions, &s) == 0) {
                struct wire_completion c = { .request = s.request, .event = WIRE_EVENT_ECHO };

                rest(rests);
                while (ring_put(&p->daemon.completions, &c) == RING_E_FULL)
                        if (ring_publish(&p->daemon.completions))
                                notify_wake_client(&p->daemon.waker);
                if (++n % PUBLISH == 0 && ring_publish(&p->daemon.completions))
                        notify_wake_client(&p->daemon.waker);
        }
        if (ring_publish(&p->daemon.completions))
                notify_wake_client(&p->daemon.waker);
        return n;
}

/* Sleeps after `spin` nsec in vain; NOTIFY_FOREVER: never. */
static void daemon_run(struct pair *p, uint64_t messages, uint64_t spin, bool rests) {
        struct bell_ring *ring = bell_ring_new(p->bell_fd);
        uint64_t idle_since = 0;

        while (messages > 0) {
                uint32_t n = daemon_turn(p, rests);

                messages -= n;
                if (n > 0) {
                        idle_since = 0;
                        continue;
                }
                if (spin != NOTIFY_FOREVER) {
                        if (idle_since == 0)
                                idle_since = now_nsec();
                        if (now_nsec() - idle_since >= spin)
                                daemon_sleep(p, ring);
                }
                notify_pause();
        }
        bell_ring_free(ring);
}

static void client_wait(struct pair *p, enum wire_wait how) {
        struct pollfd poll_fd = { .fd = p->wake_read_fd, .events = POLLIN };
        uint32_t head = p->client.completions.head;

        if (how != WIRE_WAIT_FD) {
                assert_se(notify_wait(&p->client.waiter, head, NOTIFY_FOREVER) == 0);
                return;
        }
        while (notify_arm(&p->client.waiter, head)) {
                uint32_t ready;

                assert_se(poll(&poll_fd, 1, -1) == 1);
                if (ring_ready(&p->client.completions, &ready) == 0 && ready > 0)
                        return;
                notify_disarm(&p->client.waiter); /* a wake-up that was late for the sleep before */
        }
}

/* Returns when the answer is in hand. */
static void client_round(struct pair *p, enum wire_wait how, uint64_t request) {
        struct wire_submission s = { .op = WIRE_OP_ECHO, .request = request };
        struct wire_completion c;

        assert_se(ring_put(&p->client.submissions, &s) == 0);
        ring_publish(&p->client.submissions);
        assert_se(notify_ring_bell(&p->client.bell) == 0);
        client_wait(p, how);
        assert_se(ring_take(&p->client.completions, &c) == 0 && c.request == request);
}

static unsigned measure_ours(const struct way *way, uint64_t *samples, unsigned rounds) {
        struct pair p;
        unsigned n = 0;
        uint64_t until;
        pid_t pid;

        pair_init(&p, ENTRIES, way->client == WIRE_WAIT_NONE ? NOTIFY_FOREVER : 0, -1, 0);
        pid = fork();
        if (pid == 0) {
                daemon_run(&p, UINT64_MAX, way->daemon_sleeps ? 0 : NOTIFY_FOREVER, way->answerer_rests);
        }
        place(pid, 1);
        until = now_nsec() + turn_nsec;
        for (uint64_t i = 1; n < rounds; i++) {
                uint64_t before;

                rest(way->asker_rests);
                before = now_nsec();
                client_round(&p, way->client, i);
                if (i > WARM_UP)
                        samples[n++] = now_nsec() - before - (way->answerer_rests ? REST_NSEC : 0);
                notify_disarm(&p.client.waiter);
                if (before >= until && n > 0)
                        break;
        }
        end_peer(pid);
        pair_deinit(&p);
        return n;
}

/* --- Figures --- */

static int compare_u64(const void *a, const void *b) {
        uint64_t x = *(const uint64_t *) a, y = *(const uint64_t *) b;

        return (x > y) - (x < y);
}

static int compare_double(const void *a, const void *b) {
        double x = *(const double *) a, y = *(const double *) b;

        return (x > y) - (x < y);
}

struct figures {
        double p50[TURNS_MAX], p99[TURNS_MAX];
};

static double median(const double *values, unsigned n) {
        double sorted[TURNS_MAX];

        memcpy(sorted, values, n * sizeof(*sorted));
        qsort(sorted, n, sizeof(*sorted), compare_double);
        return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

static void measure(const struct way *way, struct figures *figures, unsigned turn) {
        bool spins = way->bare ? way->forth == BARE_LINE && way->back == BARE_LINE
                               : way->client == WIRE_WAIT_NONE && !way->daemon_sleeps;
        unsigned rounds = spins ? spin_rounds : sleep_rounds;
        _cleanup_(freep) uint64_t *samples = calloc(rounds, sizeof(*samples));

        assert_se(samples);
        rounds = way->bare ? measure_bare(way, samples, rounds) : measure_ours(way, samples, rounds);
        qsort(samples, rounds, sizeof(*samples), compare_u64);
        figures->p50[turn] = (double) samples[rounds / 2];
        figures->p99[turn] = (double) samples[rounds - 1 - rounds / 100];
}

/* Returns false when the target was missed. */
static bool row_run(const struct row *row) {
        static struct figures floor, ours;
        double ratio[TURNS_MAX], least, most, middle;

        for (unsigned turn = 0; turn < turns; turn++) {
                measure(&row->floor, &floor, turn);
                measure(&row->ours, &ours, turn);
                ratio[turn] = ours.p50[turn] / floor.p50[turn];
        }
        middle = median(ratio, turns);
        qsort(ratio, turns, sizeof(*ratio), compare_double);
        least = ratio[turns / 4];
        most = ratio[turns - 1 - turns / 4];
        printf("%-28s %8.0f %9.0f  %-14s %8.0f %9.0f   %5.2f  %4.2f-%4.2f", row->name,
               median(ours.p50, turns), median(ours.p99, turns), row->floor.name, median(floor.p50, turns),
               median(floor.p99, turns), middle, least, most);
        if (row->target > 0)
                printf("  %4.2f %s", row->target, middle <= row->target ? "met" : "MISSED");
        putchar('\n');
        fflush(stdout);
        return row->target == 0 || middle <= row->target;
}

/* --- Streams --- */

enum { BARE_STREAM_SHARE = 10 }; /* a seqpacket is slower by more than that */
#define DAEMON_SPIN_NSEC (50 * NSEC_PER_USEC)
/* When counted: longer than a stop under ptrace(2) lasts, else each sleep of one side sends the other to
 * sleep as well. */
#define COUNTED_SPIN_NSEC (10 * NSEC_PER_MSEC)

/* Keeps the ring filled, as a client with many requests does. */
static void client_stream(struct pair *p, uint64_t messages) {
        uint64_t sent = 0, seen = 0;

        while (seen < messages) {
                struct wire_completion c;

                for (unsigned n = 0; n < PUBLISH && sent < messages; n++) {
                        struct wire_submission s = { .op = WIRE_OP_ECHO, .request = sent };

                        if (ring_put(&p->client.submissions, &s))
                                break;
                        sent++;
                }
                if (ring_publish(&p->client.submissions))
                        assert_se(notify_ring_bell(&p->client.bell) == 0);
                if (sent - seen > ENTRIES / 2 || sent == messages)
                        client_wait(p, WIRE_WAIT_NONE);
                while (ring_take(&p->client.completions, &c) == 0)
                        assert_se(c.request == seen++);
        }
}

static double stream_ours(void) {
        struct pair p;
        uint64_t before;
        pid_t pid;

        pair_init(&p, ENTRIES, NOTIFY_SPIN_NSEC, -1, 0);
        pid = fork();
        if (pid == 0) {
                daemon_run(&p, stream_messages + 1, DAEMON_SPIN_NSEC, false);
                _exit(0);
        }
        place(pid, 1);
        client_round(&p, WIRE_WAIT_NONE, 0); /* the daemon is there */
        before = now_nsec();
        client_stream(&p, stream_messages);
        before = now_nsec() - before;
        assert_se(waitpid(pid, NULL, 0) == pid);
        pair_deinit(&p);
        return stream_messages * 1e9 / (double) before;
}

static double stream_seqpacket(void) {
        struct bare_end end = bare_end_new(BARE_SEQPACKET, NULL);
        uint64_t before;
        pid_t pid;

        pid = fork();
        if (pid == 0) {
                for (unsigned i = 0; i < stream_messages / BARE_STREAM_SHARE; i++)
                        bare_receive(BARE_SEQPACKET, &end, 0);
                _exit(0);
        }
        place(pid, 1);
        before = now_nsec();
        for (unsigned i = 0; i < stream_messages / BARE_STREAM_SHARE; i++)
                bare_send(BARE_SEQPACKET, &end, 0);
        assert_se(waitpid(pid, NULL, 0) == pid);
        before = now_nsec() - before;
        bare_end_close(&end);
        return (stream_messages / BARE_STREAM_SHARE) * 1e9 / (double) before;
}

static void stream_run(void) {
        double ours[TURNS_MAX], seqpacket[TURNS_MAX];

        for (unsigned turn = 0; turn < turns; turn++) {
                seqpacket[turn] = stream_seqpacket();
                ours[turn] = stream_ours();
        }
        printf("\nstream: %.1f million requests/s with their completions; a one-byte seqpacket, one way: "
               "%.2f million/s\n",
               median(ours, turns) / 1e6, median(seqpacket, turns) / 1e6);
}

/* --- System calls --- */

/* Of one side, from the first tenth of the stream to the last: before and after there is nothing to be busy
 * with. */
struct counted {
        uint64_t syscalls;
        bool inside; /* a stop at the entry is followed by one at the exit */
};

static void counted_stop(struct counted *counted, const struct pair *p) {
        const struct wire_daemon_page *page = p->client.daemon_mapping.address;
        uint32_t done = atomic_load_explicit(&page->completion_tail, memory_order_relaxed);

        counted->inside = !counted->inside;
        if (counted->inside && done >= stream_messages / 10 && done < stream_messages / 10 * 9)
                counted->syscalls++;
}

static pid_t counted_fork(struct pair *p, unsigned side) {
        pid_t pid = fork();

        if (pid != 0)
                return pid;
        assert_se(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
        raise(SIGSTOP);
        if (side == 0)
                client_stream(p, stream_messages);
        else
                daemon_run(p, stream_messages, COUNTED_SPIN_NSEC, false);
        _exit(0);
}

/* Runs a stream under ptrace(2), both sides free to sleep after 10 ms without work, and prints what each
 * called. */
static void count_run(void) {
        struct counted counted[2] = {};
        pid_t pids[2];
        struct pair p;
        int left = 2;

        pair_init(&p, ENTRIES, COUNTED_SPIN_NSEC, -1, 0);
        for (unsigned side = 0; side < 2; side++) {
                pids[side] = place(counted_fork(&p, side), side);
        }
        while (left > 0) {
                int status;
                pid_t pid = waitpid(-1, &status, 0);
                unsigned side = pid == pids[1];

                assert_se(pid > 0);
                if (!WIFSTOPPED(status)) {
                        left--;
                        continue;
                }
                if (WSTOPSIG(status) == (SIGTRAP | 0x80))
                        counted_stop(&counted[side], &p);
                else
                        assert_se(ptrace(PTRACE_SETOPTIONS, pid, NULL,
                                         PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) == 0);
                assert_se(ptrace(PTRACE_SYSCALL, pid, NULL, NULL) == 0);
        }
        printf("system calls in %u requests of a stream: client %llu, daemon %llu\n",
               stream_messages / 10 * 8, (unsigned long long) counted[0].syscalls,
               (unsigned long long) counted[1].syscalls);
        pair_deinit(&p);
}

static int usage(FILE *f, int status) {
        fputs("bench-ipc [--turns N] [--quick] [--realtime] [--no-pin] [--check]\n"
              "bench-ipc --count-syscalls\n"
              "\n"
              "Round trips between two processes in nanoseconds, ours and the bare primitive in turns:\n"
              "median over the turns of p50 and p99, median ratio of the p50s with its quartiles, and the\n"
              "target. Then messages a second.\n"
              "\n"
              "  --turns N         turns of each row (15)\n"
              "  --quick           a tenth of the rounds and of the time in each turn\n"
              "  --realtime        run as SCHED_FIFO, before other load on the machine; needs root\n"
              "  --no-pin          let the scheduler place the two processes\n"
              "  --check           exit with 1 when a target was missed\n"
              "  --count-syscalls  count the system calls of a busy stream under ptrace(2)\n",
              f);
        return status;
}

static int bench(bool check) {
        bool met = true;

        place(0, 0);
        printf("%-28s %8s %9s  %-14s %8s %9s   %5s  %9s  target\n", "round trip (ns)", "p50", "p99", "bare",
               "p50", "p99", "ratio", "quartiles");
        for (size_t i = 0; i < ELEMENTS(rows); i++)
                met = row_run(&rows[i]) && met;
        stream_run();
        return check && !met ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv) {
        enum { OPT_TURNS = 1, OPT_QUICK, OPT_REALTIME, OPT_NO_PIN, OPT_CHECK, OPT_COUNT, OPT_HELP };
        static const struct option options[] = {
                { "turns", required_argument, NULL, OPT_TURNS },
                { "quick", no_argument, NULL, OPT_QUICK },
                { "realtime", no_argument, NULL, OPT_REALTIME },
                { "no-pin", no_argument, NULL, OPT_NO_PIN },
                { "check", no_argument, NULL, OPT_CHECK },
                { "count-syscalls", no_argument, NULL, OPT_COUNT },
                { "help", no_argument, NULL, OPT_HELP },
                {},
        };
        bool check = false, count = false;
        int c;

        assert_se(sched_getaffinity(0, sizeof(allowed), &allowed) == 0);
        while ((c = getopt_long(argc, argv, "h", options, NULL)) >= 0)
                switch (c) {
                case OPT_TURNS:
                        turns = (unsigned) MIN(MAX(strtol(optarg, NULL, 10), 1), TURNS_MAX);
                        break;
                case OPT_QUICK:
                        spin_rounds /= 10;
                        sleep_rounds /= 10;
                        turn_nsec /= 10;
                        stream_messages /= 10;
                        break;
                case OPT_REALTIME:
                        realtime = true;
                        break;
                case OPT_NO_PIN:
                        pinned = false;
                        break;
                case OPT_CHECK:
                        check = true;
                        break;
                case OPT_COUNT:
                        count = true;
                        break;
                case 'h':
                case OPT_HELP:
                        return usage(stdout, EXIT_SUCCESS);
                default:
                        return usage(stderr, EXIT_FAILURE);
                }
        if (optind < argc)
                return usage(stderr, EXIT_FAILURE);
        if (count) {
                count_run();
                return EXIT_SUCCESS;
        }
        return bench(check);
}
