/* SPDX-License-Identifier: MIT */
#pragma once

/* What this process may use of the machine: instructions and cores. */

#include <stdint.h>

enum {
        CPU_AVX2 = 1 << 0,   /* with FMA and F16C, and the system saving the registers */
        CPU_AVX512 = 1 << 1, /* F, BW, VL, DQ, likewise */
        CPU_AVX512_VNNI = 1 << 2,
        CPU_AMX = 1 << 3, /* tiles of int8 and bfloat16, AVX-512 VBMI and BF16, and the kernel's leave to use tiles */
};

/* Asks the kernel for the tiles on the way: before threads begin that will use them. */
uint32_t machine_cpu_bits(void);

/* Cores that this process can keep busy: the affinity mask, at most the cgroup's CPU quota, at least 1. */
unsigned machine_threads(void);

/* The quota's cores, rounded down but at least 1; 0: none is set. `cgroup_file` has the format of
 * /proc/self/cgroup, `cgroup_root` that of /sys/fs/cgroup, unified (v2: cpu.max) or with a folder per
 * controller (v1: cpu.cfs_*). The smallest quota of the group and its ancestors counts. */
unsigned machine_quota(const char *cgroup_file, const char *cgroup_root);
