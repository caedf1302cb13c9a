/* SPDX-License-Identifier: MIT */
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "machine.h"
#include "pool.h"
#include "test.h"

static void pool_freep(struct pool **p) {
        pool_free(*p);
}

/* Plain memory on purpose: a thread that reads too early is a wrong sum here and a report under
 * ThreadSanitizer. */
struct sums {
        uint32_t seen[1000];
        _Atomic uint32_t workers; /* bit per worker that took part */
};

static void count(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct sums *s = arg;

        assert_se(begin < end && worker < 32);
        atomic_fetch_or(&s->workers, 1U << worker);
        for (uint64_t i = begin; i < end; i++)
                s->seen[i]++;
}

static void add_up(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        atomic_fetch_add((_Atomic uint64_t *) arg, end - begin);
}

TEST(every_item_runs_once_in_any_split) {
        for (unsigned threads = 1; threads <= 4; threads++) {
                _cleanup_(pool_freep) struct pool *p = NULL;
                struct sums s = {0};
                uint32_t loops = 0;

                assert_se(pool_new(&p, threads) == 0);
                assert_se(pool_threads(p) == threads);
                for (uint64_t grain = 1; grain <= 1001; grain += 50, loops++)
                        pool_run(p, 1000, grain, count, &s);
                for (unsigned i = 0; i < 1000; i++)
                        assert_se(s.seen[i] == loops);
        }
}

TEST(many_small_loops_see_each_others_writes) {
        for (unsigned threads = 2; threads <= 4; threads++) {
                _cleanup_(pool_freep) struct pool *p = NULL;
                struct sums s = {0};

                assert_se(pool_new(&p, threads) == 0);
                for (uint32_t loop = 0; loop < 20000; loop++)
                        pool_run(p, 2 + loop % 7, 1, count, &s);
                assert_se(s.seen[0] == 20000 && s.seen[1] == 20000);
        }
}

/* Each phase reads what all of the one before wrote: the sum of an item and its mirror image. */
struct fold {
        uint64_t from[64], to[64];
};

static void fold(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct fold *f = arg;

        for (uint64_t i = begin; i < end; i++)
                f->to[i] = f->from[i] + f->from[63 - i];
}

static void unfold(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct fold *f = arg;

        for (uint64_t i = begin; i < end; i++)
                f->from[i] = f->to[63 - i] / 2;
}

TEST(phases_see_all_that_those_before_wrote) {
        for (unsigned threads = 1; threads <= 4; threads++) {
                _cleanup_(pool_freep) struct pool *p = NULL;
                struct fold f;
                struct pool_phase phases[] = {
                        { 64, 16, fold, &f }, { 64, 1, unfold, &f }, { 0, 1, fold, &f }, { 64, 64, fold, &f },
                        { 64, 0, unfold, &f }, { 64, 64, fold, &f }, { 64, 100, unfold, &f },
                };

                assert_se(pool_new(&p, threads) == 0);
                for (unsigned round = 0; round < 5000; round++) {
                        for (unsigned i = 0; i < 64; i++)
                                f.from[i] = 2 * (i + round);
                        /* All end alike, whichever is the last. */
                        pool_run_phases(p, phases, round % 2 ? ELEMENTS(phases) : 2);
                        for (unsigned i = 0; i < 64; i++)
                                assert_se(f.from[i] == 63 + 2 * round);
                }
        }
}

struct chain {
        struct pool_phase phases[3];
        struct sums *sums;
};

/* Says how long the next phase is. */
static void lengthen(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct chain *c = arg;

        c->phases[1].n += 10 * (end - begin);
}

TEST(a_phase_may_change_those_behind_it) {
        _cleanup_(pool_freep) struct pool *p = NULL;

        assert_se(pool_new(&p, 3) == 0);
        for (unsigned round = 0; round < 1000; round++) {
                struct sums s = {0};
                struct chain c = {
                        .phases = { { 7, 7, lengthen, &c }, { 0, 3, count, &s }, { 100, 9, count, &s } },
                };

                pool_run_phases(p, c.phases, 3);
                assert_se(s.seen[0] == 2 && s.seen[69] == 2 && s.seen[70] == 1 && s.seen[99] == 1 && s.seen[100] == 0);
        }
}

/* More threads than cores: whoever runs does the work, and nobody waits for one that does not. */
TEST(threads_that_share_a_core_get_on) {
        _cleanup_(pool_freep) struct pool *p = NULL;
        struct sums s = {0};
        cpu_set_t mine, one;
        unsigned cpu = 0;

        assert_se(sched_getaffinity(0, sizeof(mine), &mine) == 0);
        while (!CPU_ISSET(cpu, &mine))
                cpu++;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        assert_se(sched_setaffinity(0, sizeof(one), &one) == 0);
        assert_se(pool_new(&p, 4) == 0);
        for (uint32_t loop = 0; loop < 3000; loop++)
                pool_run(p, 8, 1, count, &s);
        assert_se(s.seen[0] == 3000 && s.seen[7] == 3000);
}

TEST(items_that_are_too_many_for_one_each_are_handed_out_in_larger_pieces) {
        _cleanup_(pool_freep) struct pool *p = NULL;
        _Atomic uint64_t sum = 0;

        assert_se(pool_new(&p, 2) == 0);
        pool_run(p, UINT64_C(1) << 40, 1, add_up, (void *) &sum);
        assert_se(sum == UINT64_C(1) << 40);
}

/* Items that last long enough for a sleeping worker to arrive. */
static void linger(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        usleep(2000);
        count(arg, begin, end, worker);
}

TEST(workers_that_fell_asleep_come_back) {
        _cleanup_(pool_freep) struct pool *p = NULL;

        assert_se(pool_new(&p, 3) == 0);
        for (unsigned i = 0; i < 5; i++) {
                struct sums s = {0};

                usleep(5000); /* a hundred times what workers spin */
                pool_run(p, 20, 1, linger, &s);
                assert_se(__builtin_popcount(s.workers) > 1);
        }
}

static void spend(unsigned usec) {
        uint64_t end = now_nsec() + usec * NSEC_PER_USEC;

        while (now_nsec() < end)
                ;
}

/* Both threads have a piece each, and neither ends before the other has begun. */
struct meeting {
        _Atomic unsigned present;
        unsigned stay; /* usec, of the worker */
};

static void meet(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct meeting *m = arg;

        atomic_fetch_add(&m->present, 1);
        while (atomic_load(&m->present) < 2)
                sched_yield();
        if (worker > 0)
                spend(m->stay);
}

/* The gaps come near what threads spin: the worker falls asleep when a loop begins, the caller when it ends. Whoever
 * misses that sleeps until the alarm. */
TEST(no_wake_up_is_lost_on_the_way_to_sleep) {
        enum { AROUND_USEC = 30, SPREAD_USEC = 40, SECONDS = 3 };
        _cleanup_(pool_freep) struct pool *p = NULL;
        uint64_t end = now_nsec() + SECONDS * NSEC_PER_SEC;

        alarm(20 * SECONDS);
        assert_se(pool_new(&p, 2) == 0);
        for (unsigned i = 0; now_nsec() < end; i++) {
                struct meeting m = { .stay = AROUND_USEC + i % SPREAD_USEC };

                pool_run(p, 2, 1, meet, &m);
                spend(AROUND_USEC + i / SPREAD_USEC % SPREAD_USEC);
        }
}

TEST(a_loop_of_one_piece_stays_with_the_caller) {
        _cleanup_(pool_freep) struct pool *p = NULL;
        struct sums s = {0};

        assert_se(pool_new(&p, 3) == 0);
        for (unsigned i = 0; i < 100; i++)
                pool_run(p, 10, 10, count, &s);
        assert_se(s.workers == 1 && s.seen[9] == 100);
        pool_run(p, 0, 1, count, &s);
        assert_se(s.seen[0] == 100);
}

TEST(an_idle_pool_uses_no_processor) {
        _cleanup_(pool_freep) struct pool *p = NULL;
        struct timespec before, after;
        struct sums s = {0};

        assert_se(pool_new(&p, 4) == 0);
        pool_run(p, 1000, 1, count, &s);
        usleep(20000);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
        usleep(100000);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
        assert_se((after.tv_sec - before.tv_sec) * 1000000000LL + after.tv_nsec - before.tv_nsec < 20000000);
}

static void write_file(const char *path, const char *text) {
        _cleanup_(fclosep) FILE *f = fopen(path, "we");

        assert_se(f && fputs(text, f) >= 0);
}

TEST(the_smallest_quota_on_the_way_to_the_root_counts) {
        char folder[] = "/tmp/test-pool-XXXXXX", command[256];

        assert_se(mkdtemp(folder) && chdir(folder) == 0);
        snprintf(command, sizeof(command), "mkdir -p root/a/b root/cpu/x");
        assert_se(system(command) == 0);
        write_file("cgroup", "0::/a/b\n");
        assert_se(machine_quota("cgroup", "root") == 0);
        assert_se(machine_quota("absent", "root") == 0);
        write_file("root/a/b/cpu.max", "max 100000\n");
        assert_se(machine_quota("cgroup", "root") == 0);
        write_file("root/a/cpu.max", "350000 100000\n");
        assert_se(machine_quota("cgroup", "root") == 3);
        write_file("root/a/b/cpu.max", "20000 100000\n");
        assert_se(machine_quota("cgroup", "root") == 1);
        write_file("root/a/b/cpu.max", "nonsense\n");
        assert_se(machine_quota("cgroup", "root") == 3);

        write_file("cgroup", "5:cpuset:/a/b\n4:cpu,cpuacct:/x\n");
        assert_se(machine_quota("cgroup", "root") == 0);
        write_file("root/cpu/x/cpu.cfs_quota_us", "-1\n");
        write_file("root/cpu/x/cpu.cfs_period_us", "100000\n");
        assert_se(machine_quota("cgroup", "root") == 0);
        write_file("root/cpu/x/cpu.cfs_quota_us", "200000\n");
        assert_se(machine_quota("cgroup", "root") == 2);
        snprintf(command, sizeof(command), "rm -r %s", folder);
        assert_se(chdir("/") == 0 && system(command) == 0);
}

/* A tree as /sys/devices/system/cpu: for each CPU the threads of its core, whether it is online, its capacity. */
static void make_cpus(const char *const siblings[], unsigned n, unsigned offline, unsigned slow_from,
                      unsigned capacity) {
        char path[64], text[16];

        assert_se(system("rm -rf cpus") == 0);
        for (unsigned i = 0; i < n; i++) {
                snprintf(path, sizeof(path), "mkdir -p cpus/cpu%u/topology", i);
                assert_se(system(path) == 0);
                snprintf(path, sizeof(path), "cpus/cpu%u/topology/thread_siblings_list", i);
                write_file(path, siblings[i]);
                snprintf(path, sizeof(path), "cpus/cpu%u/online", i);
                if (i > 0)
                        write_file(path, i == offline ? "0\n" : "1\n");
                snprintf(path, sizeof(path), "cpus/cpu%u/cpu_capacity", i);
                snprintf(text, sizeof(text), "%u\n", i >= slow_from ? capacity : 1024);
                if (capacity)
                        write_file(path, text);
        }
}

static unsigned cores_of(uint64_t mask) {
        cpu_set_t set;

        CPU_ZERO(&set);
        for (unsigned cpu = 0; cpu < 64; cpu++)
                if (mask >> cpu & 1)
                        CPU_SET(cpu, &set);
        return machine_cores("cpus", &set, sizeof(set));
}

TEST(a_core_counts_once_and_only_if_it_is_there_and_fast_enough) {
        static const char *const single[] = { "0\n", "1\n", "2\n", "3\n" };
        static const char *const pairs[] = { "0-1\n", "0-1\n", "2-3\n", "2-3\n" };
        static const char *const apart[] = { "0,2\n", "1,3\n", "0,2\n", "1,3\n" };
        char folder[] = "/tmp/test-pool-XXXXXX", command[256];

        assert_se(mkdtemp(folder) && chdir(folder) == 0);
        assert_se(cores_of(0xf) == 4); /* nothing is known */
        make_cpus(single, 4, 0, 4, 0);
        assert_se(cores_of(0xf) == 4 && cores_of(0x5) == 2 && cores_of(0) == 1);
        make_cpus(single, 4, 3, 4, 0);
        assert_se(cores_of(0xf) == 3);
        make_cpus(pairs, 4, 0, 4, 0);
        assert_se(cores_of(0xf) == 2 && cores_of(0x3) == 1 && cores_of(0xa) == 2);
        make_cpus(apart, 4, 0, 4, 0);
        assert_se(cores_of(0xf) == 2 && cores_of(0x3) == 2 && cores_of(0x5) == 1);
        /* The first thread of a core is off: the second one stands for it. */
        make_cpus(pairs, 4, 2, 4, 0);
        assert_se(cores_of(0xf) == 2 && cores_of(0x8) == 1);
        make_cpus(single, 4, 0, 2, 600);
        assert_se(cores_of(0xf) == 4);
        make_cpus(single, 4, 0, 2, 300);
        assert_se(cores_of(0xf) == 2);
        assert_se(cores_of(0xc) == 2); /* the slow ones are all that is allowed */
        snprintf(command, sizeof(command), "rm -r %s", folder);
        assert_se(chdir("/") == 0 && system(command) == 0);
}

TEST(nodes_with_memory_are_found) {
        char folder[] = "/tmp/test-pool-XXXXXX", command[256];

        assert_se(mkdtemp(folder) && chdir(folder) == 0);
        assert_se(machine_nodes(".") == 0);
        write_file("has_memory", "0\n");
        assert_se(machine_nodes(".") == 1);
        write_file("has_memory", "0-1,4,70\n");
        assert_se(machine_nodes(".") == 0x13);
        write_file("has_memory", "\n");
        assert_se(machine_nodes(".") == 0);
        snprintf(command, sizeof(command), "rm -r %s", folder);
        assert_se(chdir("/") == 0 && system(command) == 0);
}

TEST(memory_is_what_the_kernel_and_the_groups_leave) {
        char folder[] = "/tmp/test-pool-XXXXXX", command[256];
        const uint64_t mib = 1 << 20;

        assert_se(mkdtemp(folder) && chdir(folder) == 0);
        assert_se(system("mkdir -p root/a/b") == 0);
        assert_se(machine_memory("absent", "absent", "root") == 0);
        write_file("meminfo", "MemTotal:       16384 kB\nMemFree:         1024 kB\nMemAvailable:    8192 kB\n");
        assert_se(machine_memory("meminfo", "absent", "root") == 8 * mib);
        write_file("cgroup", "0::/a/b\n");
        assert_se(machine_memory("meminfo", "cgroup", "root") == 8 * mib);
        write_file("root/a/b/memory.max", "max\n");
        write_file("root/a/b/memory.current", "1\n");
        assert_se(machine_memory("meminfo", "cgroup", "root") == 8 * mib);
        /* 6 MiB may be used, and 4 are, of which 3 are the page cache's. */
        write_file("root/a/memory.max", "6291456\n");
        write_file("root/a/memory.current", "4194304\n");
        assert_se(machine_memory("meminfo", "cgroup", "root") == 2 * mib);
        write_file("root/a/memory.stat", "anon 1048576\nfile 3145728\ninactive_file 1048576\nactive_file 2097152\n");
        assert_se(machine_memory("meminfo", "cgroup", "root") == 5 * mib);
        /* Over the limit that was lowered since. */
        write_file("root/a/memory.max", "1000\n");
        assert_se(machine_memory("meminfo", "cgroup", "root") == 0);
        snprintf(command, sizeof(command), "rm -r %s", folder);
        assert_se(chdir("/") == 0 && system(command) == 0);
}

TEST(at_least_one_thread_is_found_on_every_machine) {
        assert_se(machine_threads() >= 1);
}
