/* SPDX-License-Identifier: MIT */
#pragma once

/* What the control groups of this process allow. */

#include <stdbool.h>
#include <stdint.h>

#define CGROUP_NO_LIMIT UINT64_MAX

/* The least of what `limit` says of the folder of the group and of those above it. `cgroup_file` has the format of
 * /proc/self/cgroup, `cgroup_root` that of /sys/fs/cgroup, unified (v2) or with a folder per controller (v1). */
uint64_t cgroup_least(const char *cgroup_file, const char *cgroup_root, const char *controller,
                      uint64_t (*limit)(const char *folder));

/* Reads the first line of a file; false when there is no such file. */
bool cgroup_read_line(const char *folder, const char *name, char line[static 64]);
