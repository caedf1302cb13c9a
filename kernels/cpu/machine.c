/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "machine.h"

#if defined(__x86_64__)
#include <asm/prctl.h>
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint64_t enabled_state(void) {
        uint32_t low, high;

        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        return (uint64_t) high << 32 | low;
}

static bool all_set(uint64_t value, uint64_t bits) {
        return (value & bits) == bits;
}

/* The state of the tiles is large, so a process has to ask for it (Linux, Documentation/arch/x86/xstate.rst). */
static bool tiles_permitted(void) {
        const unsigned long tile_data = 18;

        return syscall(SYS_arch_prctl, (unsigned long) ARCH_REQ_XCOMP_PERM, tile_data) == 0;
}

static bool has_amx(uint64_t state) {
        const uint32_t amx_edx = 1U << 22 | 1U << 24 | 1U << 25; /* BF16, TILE, INT8 */
        const uint32_t avx512_vbmi_ecx = 1U << 1, avx512_bf16_eax = 1U << 5;
        const uint64_t state_tiles = 3U << 17; /* configuration and data */
        uint32_t a, b, c, d;

        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !all_set(d, amx_edx) || !(c & avx512_vbmi_ecx))
                return false;
        if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & avx512_bf16_eax))
                return false;
        return all_set(state, state_tiles) && tiles_permitted();
}

/* Bits of CPUID and XCR0: Intel SDM volume 2, CPUID; volume 1, 13.3. */
uint32_t machine_cpu_bits(void) {
        const uint32_t avx_ecx = bit_FMA | bit_F16C | bit_AVX | bit_OSXSAVE;
        const uint32_t avx512_ebx = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
        const uint64_t state_avx = 0x06,
                       state_avx512 = 0xe6; /* XMM and YMM; and masks, upper halves, upper registers */
        uint32_t a, b, c, d, bits = 0;

        if (!__get_cpuid(1, &a, &b, &c, &d) || !all_set(c, avx_ecx) || !all_set(enabled_state(), state_avx))
                return 0;
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2))
                return 0;
        bits |= CPU_AVX2;
        if (all_set(b, avx512_ebx) && all_set(enabled_state(), state_avx512)) {
                bits |= CPU_AVX512;
                if (c & bit_AVX512VNNI)
                        bits |= CPU_AVX512_VNNI;
                if (has_amx(enabled_state()))
                        bits |= CPU_AMX;
        }
        return bits;
}
#else
uint32_t machine_cpu_bits(void) {
        return 0;
}
#endif

static unsigned affinity_count(void) {
        for (int cpus = 1024; cpus <= 1 << 20; cpus *= 2) {
                cpu_set_t *set = CPU_ALLOC(cpus);
                size_t size = CPU_ALLOC_SIZE(cpus);
                int r, count;

                if (!set)
                        return 1;
                r = sched_getaffinity(0, size, set);
                count = r == 0 ? CPU_COUNT_S(size, set) : 0;
                r = r < 0 ? errno : 0;
                CPU_FREE(set);
                if (r == 0)
                        return MAX(count, 1);
                if (r != EINVAL) /* EINVAL: the kernel's mask is larger */
                        break;
        }
        return 1;
}

/* Reads one line; false when there is no such file. */
static bool read_line(const char *folder, const char *name, char line[64]) {
        _cleanup_(fclosep) FILE *f = NULL;
        char path[PATH_MAX];

        if ((size_t) snprintf(path, sizeof(path), "%s/%s", folder, name) >= sizeof(path))
                return false;
        f = fopen(path, "re");
        return f && fgets(line, 64, f);
}

/* Cores of one group's quota, 0 for none. */
static unsigned folder_quota(const char *folder) {
        long long quota = 0, period = 0;
        char line[64];

        if (read_line(folder, "cpu.max", line)) {
                if (sscanf(line, "%lld %lld", &quota, &period) != 2) /* "max 100000" */
                        return 0;
        } else {
                if (!read_line(folder, "cpu.cfs_quota_us", line) || sscanf(line, "%lld", &quota) != 1)
                        return 0;
                if (!read_line(folder, "cpu.cfs_period_us", line) || sscanf(line, "%lld", &period) != 1)
                        return 0;
        }
        if (quota <= 0 || period <= 0)
                return 0;
        return (unsigned) MIN(MAX(quota / period, 1LL), (long long) INT_MAX);
}

/* The smallest quota of `path` below `root` and all above it. `path` is cut in place. */
static unsigned path_quota(const char *root, char *path) {
        unsigned least = 0;

        for (;;) {
                char folder[PATH_MAX], *slash;
                unsigned quota = 0;

                if ((size_t) snprintf(folder, sizeof(folder), "%s%s", root, path) < sizeof(folder))
                        quota = folder_quota(folder);
                if (quota && (!least || quota < least))
                        least = quota;
                slash = strrchr(path, '/');
                if (!slash)
                        return least;
                *slash = '\0';
        }
}

/* Whether `controllers` ("cpu,cpuacct") names cpu. */
static bool names_cpu(const char *controllers) {
        for (const char *c = controllers; c; c = strchr(c, ',') ? strchr(c, ',') + 1 : NULL)
                if (strncmp(c, "cpu", 3) == 0 && (c[3] == '\0' || c[3] == ','))
                        return true;
        return false;
}

unsigned machine_quota(const char *cgroup_file, const char *cgroup_root) {
        _cleanup_(fclosep) FILE *f = fopen(cgroup_file, "re");
        char line[PATH_MAX];
        unsigned least = 0;

        /* "0::/user.slice/…" (v2), "4:cpu,cpuacct:/user.slice/…" (v1) */
        while (f && fgets(line, sizeof(line), f)) {
                char root[PATH_MAX], *controllers = strchr(line, ':'), *path = NULL;
                unsigned quota;

                line[strcspn(line, "\n")] = '\0';
                if (controllers)
                        path = strchr(++controllers, ':');
                if (!path)
                        continue;
                *path++ = '\0';
                if (*controllers && !names_cpu(controllers))
                        continue;
                if ((size_t) snprintf(root, sizeof(root), "%s/%s", cgroup_root, *controllers ? "cpu" : "") >=
                    sizeof(root))
                        continue;
                quota = path_quota(root, path);
                if (quota && (!least || quota < least))
                        least = quota;
        }
        return least;
}

unsigned machine_threads(void) {
        unsigned threads = affinity_count(), quota = machine_quota("/proc/self/cgroup", "/sys/fs/cgroup");

        return quota ? MIN(threads, quota) : threads;
}
