/* SPDX-License-Identifier: MIT */
#pragma once

/* The systemd unit in which a peer runs, from the kernel's cgroup tree. */

#include "credentials.h"

enum { UNIT_NAME_MAX = 255 };

/* Finds the unit of the system manager in the text of /proc/PID/cgroup: the first component of the path that is no
 * slice. What a user's own manager made below it is the user's choice of words and not looked at. Writes "" when the
 * process is in none. */
void unit_from_cgroup(const char *cgroup, char ret[static UNIT_NAME_MAX + 1]);

enum {
        _UNIT_E_SUCCESS,
        UNIT_E_GONE, /* the process has ended: what unit it was in can't be told any more */
};

/* The unit of the process at the other end, or "" when it is in none. A pid may be given to a new process while we
 * look: a pidfd tells whether the process lived on while its files were read; a kernel without SO_PEERPIDFD leaves a
 * gap before that, in which the uid must be the same for the unit to count. UNIT_E_GONE: whoever holds the socket now
 * could be of a unit whose limits it got rid of by letting another process connect and end. Negative errno: no
 * memory. */
int unit_of_peer(const struct credentials *credentials, char ret[static UNIT_NAME_MAX + 1]);
