/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/util.h"
#include "cgroup.h"
#include "machine.h"

/* Reads the next range of a list as sysfs writes them ("0-3,8"); false at its end. */
static bool next_range(const char **list, unsigned *first, unsigned *last) {
        char *end;

        if (**list < '0' || **list > '9')
                return false;
        *first = *last = (unsigned) strtoul(*list, &end, 10);
        if (*end == '-')
                *last = (unsigned) strtoul(end + 1, &end, 10);
        *list = *end == ',' ? end + 1 : end;
        return true;
}

static bool read_cpu_file(const char *root, unsigned cpu, const char *name, char line[static 64]) {
        char folder[256];

        return (size_t) snprintf(folder, sizeof(folder), "%s/cpu%u", root, cpu) < sizeof(folder) &&
               cgroup_read_line(folder, name, line);
}

static bool is_offline(const char *root, unsigned cpu) {
        char line[64];

        return read_cpu_file(root, cpu, "online", line) && line[0] == '0'; /* the first one may have no such file */
}

/* Against 1024 of the fastest; 0: unknown. */
static unsigned capacity(const char *root, unsigned cpu) {
        unsigned value = 0;
        char line[64];

        return read_cpu_file(root, cpu, "cpu_capacity", line) && sscanf(line, "%u", &value) == 1 ? value : 0;
}

/* Whether another thread of its core comes before it in the set. */
static bool is_second_thread(const char *root, unsigned cpu, const cpu_set_t *set, size_t set_size) {
        unsigned first, last;
        const char *list;
        char line[64];

        if (!read_cpu_file(root, cpu, "topology/thread_siblings_list", line))
                return false;
        for (list = line; next_range(&list, &first, &last);)
                for (unsigned sibling = first; sibling <= last && sibling < cpu; sibling++)
                        if (CPU_ISSET_S(sibling, set_size, set) && !is_offline(root, sibling))
                                return true;
        return false;
}

unsigned machine_cores(const char *root, const cpu_set_t *set, size_t set_size) {
        unsigned fastest = 0, cores = 0, cpus = (unsigned) set_size * 8;

        for (unsigned cpu = 0; cpu < cpus; cpu++)
                if (CPU_ISSET_S(cpu, set_size, set) && !is_offline(root, cpu))
                        fastest = MAX(fastest, capacity(root, cpu));
        for (unsigned cpu = 0; cpu < cpus; cpu++)
                if (CPU_ISSET_S(cpu, set_size, set) && !is_offline(root, cpu) &&
                    capacity(root, cpu) >= fastest / 2 && !is_second_thread(root, cpu, set, set_size))
                        cores++;
        return MAX(cores, 1u);
}

/* The cores of the affinity mask. */
static unsigned allowed_cores(void) {
        for (int cpus = 1024; cpus <= 1 << 20; cpus *= 2) {
                cpu_set_t *set = CPU_ALLOC(cpus);
                size_t size = CPU_ALLOC_SIZE(cpus);
                unsigned cores = 1;
                int r;

                if (!set)
                        return 1;
                r = sched_getaffinity(0, size, set) < 0 ? errno : 0;
                if (r == 0)
                        cores = machine_cores("/sys/devices/system/cpu", set, size);
                CPU_FREE(set);
                if (r != EINVAL) /* the kernel's mask is larger */
                        return cores;
        }
        return 1;
}

unsigned machine_threads(void) {
        unsigned threads = allowed_cores(), quota = machine_quota("/proc/self/cgroup", "/sys/fs/cgroup");

        return quota ? MIN(threads, quota) : threads;
}

uint64_t machine_nodes(const char *root) {
        unsigned first, last;
        uint64_t nodes = 0;
        const char *list;
        char line[64];

        if (!cgroup_read_line(root, "has_memory", line))
                return 0;
        for (list = line; next_range(&list, &first, &last);)
                for (unsigned node = first; node <= last && node < 64; node++)
                        nodes |= UINT64_C(1) << node;
        return nodes;
}

void machine_spread_memory(void) {
        uint64_t nodes = machine_nodes("/sys/devices/system/node");
        int policy = MPOL_DEFAULT;

        if ((nodes & (nodes - 1)) == 0)
                return;
        /* Who started us may have chosen (numactl, NUMAPolicy=). */
        if (syscall(SYS_get_mempolicy, &policy, NULL, 0, NULL, 0) < 0 || policy != MPOL_DEFAULT)
                return;
        (void) syscall(SYS_set_mempolicy, MPOL_INTERLEAVE, &nodes, 64 + 1);
}
