/* SPDX-License-Identifier: MIT */
#pragma once

/* Log lines with fields: to journald when the process runs under systemd and stderr is the journal's stream,
 * else to stderr as `level: message KEY=value`. Thread-safe. Library code stays at LOG_DEBUG. */

#include <syslog.h>

#include "base/cleanup.h"

/* Lines above `level` (LOG_ERR … LOG_DEBUG) are dropped; the default is LOG_INFO. Not thread-safe: call at start. */
void log_init(const char *identifier, int level);
void log_set_level(int level);
int log_level(void);

/* One line. `fields` is NULL or text of the form "KEY=value\nKEY=value" (keys in upper case). */
void log_line(int level, const char *fields, const char *format, ...) _printf_(3, 4);

#define log_error(...) log_line(LOG_ERR, NULL, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, NULL, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, NULL, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, NULL, __VA_ARGS__)
