/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "base/cleanup.h"
#include "base/util.h"
#include "cgroup.h"
#include "machine.h"

#if defined(__x86_64__)
#include <asm/prctl.h>
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#if defined(__x86_64__)
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
#elif defined(__aarch64__)
/* Linux, Documentation/arch/arm64/elf_hwcaps.rst. */
uint32_t machine_cpu_bits(void) {
        return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? CPU_DOTPROD : 0U) |
               (getauxval(AT_HWCAP2) & HWCAP2_I8MM ? CPU_I8MM : 0U);
}
#else
uint32_t machine_cpu_bits(void) {
        return 0;
}
#endif

/* Cores of one group's quota. */
static uint64_t folder_quota(const char *folder) {
        long long quota = 0, period = 0;
        char line[64];

        if (cgroup_read_line(folder, "cpu.max", line)) {
                if (sscanf(line, "%lld %lld", &quota, &period) != 2) /* "max 100000" */
                        return CGROUP_NO_LIMIT;
        } else {
                if (!cgroup_read_line(folder, "cpu.cfs_quota_us", line) || sscanf(line, "%lld", &quota) != 1)
                        return CGROUP_NO_LIMIT;
                if (!cgroup_read_line(folder, "cpu.cfs_period_us", line) || sscanf(line, "%lld", &period) != 1)
                        return CGROUP_NO_LIMIT;
        }
        if (quota <= 0 || period <= 0)
                return CGROUP_NO_LIMIT;
        return (uint64_t) MIN(MAX(quota / period, 1LL), (long long) INT_MAX);
}

unsigned machine_quota(const char *cgroup_file, const char *cgroup_root) {
        uint64_t least = cgroup_least(cgroup_file, cgroup_root, "cpu", folder_quota);

        return least == CGROUP_NO_LIMIT ? 0 : (unsigned) least;
}

/* Bytes that one group may still take, what it has from files counted as free. */
static uint64_t folder_memory(const char *folder) {
        uint64_t max, used, reclaimable = 0;
        char line[64], path[PATH_MAX];
        _cleanup_(fclosep) FILE *f = NULL;

        if (!cgroup_read_line(folder, "memory.max", line) || sscanf(line, "%" SCNu64, &max) != 1) /* "max" */
                return CGROUP_NO_LIMIT;
        if (!cgroup_read_line(folder, "memory.current", line) || sscanf(line, "%" SCNu64, &used) != 1)
                return CGROUP_NO_LIMIT;
        snprintf(path, sizeof(path), "%s/memory.stat", folder);
        f = fopen(path, "re");
        while (f && fgets(line, sizeof(line), f)) {
                uint64_t bytes;

                if (sscanf(line, "inactive_file %" SCNu64, &bytes) == 1 ||
                    sscanf(line, "active_file %" SCNu64, &bytes) == 1)
                        reclaimable += bytes;
        }
        used -= MIN(used, reclaimable);
        return max - MIN(max, used);
}

uint64_t machine_memory(const char *meminfo_file, const char *cgroup_file, const char *cgroup_root) {
        _cleanup_(fclosep) FILE *f = fopen(meminfo_file, "re");
        uint64_t available = 0;
        char line[128];

        while (f && fgets(line, sizeof(line), f))
                if (sscanf(line, "MemAvailable: %" SCNu64, &available) == 1)
                        available *= 1024;
        return MIN(available, cgroup_least(cgroup_file, cgroup_root, "memory", folder_memory));
}

uint64_t backend_cpu_memory(void) {
        return machine_memory("/proc/meminfo", "/proc/self/cgroup", "/sys/fs/cgroup");
}
