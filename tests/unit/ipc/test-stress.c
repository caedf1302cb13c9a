/* SPDX-License-Identifier: MIT */

/* Millions of messages through both rings while both sides keep falling asleep: none lost, none twice, in
 * order. The sides are two processes, or two threads when built for ThreadSanitizer. */

#include <poll.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "pair.h"
#include "test.h"

#ifndef STRESS_MESSAGES
#define STRESS_MESSAGES 2000000
#endif

enum {
        ENTRIES = 64,
        SPIN_MAX = 2048, /* looks before a side sleeps, drawn anew each time */
        PATIENCE_MSEC = 20000,
};
/* A wake-up that is lost costs its sleeper a slice of a second; a slow machine less. */
#define STALL_NSEC (NSEC_PER_SEC * 9 / 10)

struct stress {
        struct pair pair;
        uint64_t seed, daemon_seed;
        uint64_t sleeps[3]; /* of the client: by futex, by descriptor; of the daemon */
};

/* xorshift64 (Marsaglia 2003) */
static uint32_t draw(uint64_t *seed, uint32_t n) {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        return (uint32_t) (*seed >> 32) % n;
}

static void dawdle(uint64_t *seed) {
        for (uint32_t n = draw(seed, 4) ? 0 : draw(seed, 256); n > 0; n--)
                notify_pause();
}

/* Spins up to `looks`, then sleeps until the bell rings. */
static void daemon_idle(struct stress *stress, struct bell_ring *ring, uint64_t *seed) {
        struct notify_sleeper *sleeper = &stress->pair.daemon.sleeper;
        uint32_t ready = 0;

        for (uint32_t looks = draw(seed, SPIN_MAX); looks > 0 && ready == 0; looks--) {
                assert_se(ring_ready(&stress->pair.daemon.submissions, &ready) == 0);
                notify_pause();
        }
        if (ready > 0)
                return;
        notify_sleeper_arm(sleeper);
        full_fence();
        dawdle(seed);
        assert_se(ring_ready(&stress->pair.daemon.submissions, &ready) == 0);
        if (ready == 0) {
                stress->sleeps[2]++;
                assert_se(bell_ring_wait(ring, PATIENCE_MSEC));
        }
        dawdle(seed);
        notify_sleeper_disarm(sleeper);
}

static void daemon_complete(struct stress *stress, const struct wire_submission *s) {
        struct wire_completion c = { .request = s->request, .activations = s->length };
        int r;

        while ((r = ring_put(&stress->pair.daemon.completions, &c)) == RING_E_FULL) {
                if (ring_publish(&stress->pair.daemon.completions))
                        notify_wake_client(&stress->pair.daemon.waker);
                notify_pause();
        }
        assert_se(r == 0);
}

static void *daemon_run(void *userdata) {
        struct stress *stress = userdata;
        struct bell_ring *ring = bell_ring_new(stress->pair.bell_fd);
        uint64_t done = 0, seed = stress->daemon_seed;

        while (done < STRESS_MESSAGES) {
                struct wire_submission s;
                uint32_t batch = 1 + draw(&seed, ENTRIES), taken = 0;
                int r = 0;

                while (taken < batch && (r = ring_take(&stress->pair.daemon.submissions, &s)) == 0) {
                        assert_se(s.request == done && s.length == ~done);
                        daemon_complete(stress, &s);
                        done++;
                        taken++;
                }
                assert_se(r == 0 || r == RING_E_EMPTY);
                if (ring_publish(&stress->pair.daemon.completions))
                        notify_wake_client(&stress->pair.daemon.waker);
                if (taken == 0)
                        daemon_idle(stress, ring, &seed);
        }
        bell_ring_free(ring);
        return NULL;
}

static void client_sleep_on_fd(struct stress *stress) {
        struct pollfd p = { .fd = stress->pair.wake_read_fd, .events = POLLIN };

        if (!notify_arm(&stress->pair.client.waiter, stress->pair.client.completions.head))
                return;
        stress->sleeps[1]++;
        dawdle(&stress->seed);
        assert_se(poll(&p, 1, PATIENCE_MSEC) == 1);
        notify_disarm(&stress->pair.client.waiter);
}

static void client_sleep_on_futex(struct stress *stress) {
        uint64_t before = now_nsec();

        stress->sleeps[0]++;
        assert_se(notify_wait(&stress->pair.client.waiter, stress->pair.client.completions.head,
                              PATIENCE_MSEC * NSEC_PER_MSEC) == 0);
        assert_se(now_nsec() - before < STALL_NSEC);
}

static void client_idle(struct stress *stress) {
        uint32_t ready = 0;

        for (uint32_t looks = draw(&stress->seed, SPIN_MAX); looks > 0 && ready == 0; looks--) {
                assert_se(ring_ready(&stress->pair.client.completions, &ready) == 0);
                notify_pause();
        }
        if (ready > 0)
                return;
        if (draw(&stress->seed, 2))
                client_sleep_on_fd(stress);
        else
                client_sleep_on_futex(stress);
}

static void client_run(struct stress *stress) {
        uint64_t sent = 0, seen = 0;

        while (seen < STRESS_MESSAGES) {
                struct wire_completion c;
                uint64_t before = seen;
                int r;

                for (uint32_t n = draw(&stress->seed, ENTRIES + 1); n > 0 && sent < STRESS_MESSAGES; n--) {
                        struct wire_submission s = { .request = sent, .length = ~sent };

                        r = ring_put(&stress->pair.client.submissions, &s);
                        assert_se(r == 0 || r == RING_E_FULL);
                        if (r == RING_E_FULL)
                                break;
                        sent++;
                }
                if (ring_publish(&stress->pair.client.submissions))
                        assert_se(notify_ring_bell(&stress->pair.client.bell) == 0);
                dawdle(&stress->seed);
                while ((r = ring_take(&stress->pair.client.completions, &c)) == 0) {
                        assert_se(c.request == seen && c.activations == ~seen);
                        seen++;
                }
                assert_se(r == RING_E_EMPTY);
                if (seen == before && seen < sent)
                        client_idle(stress);
        }
}

static void report(const struct stress *stress, uint64_t before) {
        printf("     %d messages each way in %.1f s; client slept %llu times on a futex, %llu on a "
               "descriptor\n",
               STRESS_MESSAGES, (double) (now_nsec() - before) / 1e9, (unsigned long long) stress->sleeps[0],
               (unsigned long long) stress->sleeps[1]);
        assert_se(stress->sleeps[0] > 10 && stress->sleeps[1] > 10);
}

#ifndef STRESS_ONLY_THREADS
TEST(between_processes_nothing_is_lost_doubled_or_reordered) {
        struct stress stress = { .seed = 88172645463325252, .daemon_seed = 521288629546311 };
        uint64_t before = now_nsec();
        pid_t pid;
        int status;

        pair_init(&stress.pair, ENTRIES, 0, -1, UINT32_MAX - 1000);
        pid = fork();
        if (pid == 0) {
                daemon_run(&stress);
                exit(stress.sleeps[2] > 10 ? 0 : 1);
        }
        client_run(&stress);
        assert_se(waitpid(pid, &status, 0) == pid && status == 0);
        report(&stress, before);
        pair_deinit(&stress.pair);
}
#endif

TEST(between_threads_nothing_is_lost_doubled_or_reordered) {
        struct stress stress = { .seed = 362436069521288629, .daemon_seed = 123456789362436 };
        uint64_t before = now_nsec();
        pthread_t thread;

        pair_init_one_mapping(&stress.pair, ENTRIES, 0, -1, UINT32_MAX - 1000);
        assert_se(pthread_create(&thread, NULL, daemon_run, &stress) == 0);
        client_run(&stress);
        assert_se(pthread_join(thread, NULL) == 0);
        report(&stress, before);
        assert_se(stress.sleeps[2] > 10);
        pair_deinit(&stress.pair);
}
