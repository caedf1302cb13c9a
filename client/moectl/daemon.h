/* SPDX-License-Identifier: MIT */
#pragma once

/* moed's tool mode as a subprocess: what only the daemon's code can tell of a file. Looked for in
 * $MOED_DAEMON, beside this program (or where a build tree has it), and then in $PATH. */

struct json;

/* Becomes moed with these arguments, a NULL at the end; argv[0] is filled in. Returns an exit code, after a
 * complaint, only when it cannot be run. */
int daemon_become(char **argv);

/* Runs moed likewise and reads what it prints, one JSON value. 0 and *ret, or an exit code: moed's own, which
 * has said why on standard error, or one after a complaint. */
int daemon_ask(char **argv, struct json **ret);
