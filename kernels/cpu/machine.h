/* SPDX-License-Identifier: MIT */
#pragma once

/* What this process may use of the machine: instructions and cores. */

#include <sched.h>
#include <stdint.h>

enum {
        CPU_AVX2 = 1 << 0,   /* with FMA and F16C, and the system saving the registers */
        CPU_AVX512 = 1 << 1, /* F, BW, VL, DQ, likewise */
        CPU_AVX512_VNNI = 1 << 2,
        CPU_AMX = 1 << 3, /* tiles of int8 and bfloat16, AVX-512 VBMI and BF16, and the kernel's leave to use tiles */
        CPU_DOTPROD = 1 << 4, /* of ARMv8.2: sdot */
        CPU_I8MM = 1 << 5,    /* of ARMv8.6: smmla */
};

/* Asks the kernel for the tiles on the way: before threads begin that will use them. */
uint32_t machine_cpu_bits(void);

/* Cores that this process can keep busy: machine_cores() of the affinity mask, at most the cgroup's CPU quota, at least
 * 1. */
unsigned machine_threads(void);

/* Cores of the CPUs in the set, at least 1: those that are online, one for all threads of a core (they share
 * the units that do the work), and none that has less than half the capacity of the fastest: a loop would
 * wait for it. Other small cores of a hybrid count: work is handed out in pieces, so each does what it can. `cpu_root`
 * is like /sys/devices/system/cpu. */
unsigned machine_cores(const char *cpu_root, const cpu_set_t *set, size_t set_size);

/* The memory nodes, a bit each. `node_root` is like /sys/devices/system/node. */
uint64_t machine_nodes(const char *node_root);

/* Where there are several nodes, memory of this thread and of those that it starts, page cache included, is taken from
 * all of them in turn: any worker reads any weight, so the nodes' bandwidth adds up wherever it runs. */
void machine_spread_memory(void);

/* The quota's cores, rounded down but at least 1; 0: none is set. The files are as in cgroup.h (v2: cpu.max,
 * v1: cpu.cfs_*). */
unsigned machine_quota(const char *cgroup_file, const char *cgroup_root);

/* Bytes of memory that this process may still fill with what it cannot give back: what the kernel says (MemAvailable of
 * /proc/meminfo), at most what the groups leave (v2: memory.max). The page cache counts as free in both. 0: unknown. */
uint64_t machine_memory(const char *meminfo_file, const char *cgroup_file, const char *cgroup_root);
