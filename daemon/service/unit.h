/* SPDX-License-Identifier: MIT */
#pragma once

/* The systemd unit in which a peer runs, from the kernel's cgroup tree. */

#include "credentials.h"

enum { UNIT_NAME_MAX = 255 };

/* Finds the unit of the system manager in the text of /proc/PID/cgroup: the first component of the path that is no
 * slice. What a user's own manager made below it is the user's choice of words and not looked at. Writes "" when the
 * process is in none. */
void unit_from_cgroup(const char *cgroup, char ret[static UNIT_NAME_MAX + 1]);

/* The unit of the process at the other end, or "" when it has ended, is another by now, or is in none. A pid may be
 * given to a new process while we look: a pidfd tells whether the process lived on while its files were read; a kernel
 * without SO_PEERPIDFD leaves a gap before that, in which the uid must be the same for the unit to count. */
void unit_of_peer(const struct credentials *credentials, char ret[static UNIT_NAME_MAX + 1]);
