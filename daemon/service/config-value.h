/* SPDX-License-Identifier: MIT */
#pragma once

/* Values of moed.conf(5) from text. Each function returns 0 and stores the value, or CONFIG_VALUE_E_INVALID and, in the
 * reason, what would have been allowed; the caller says where. Also used for options of the command line. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/reason.h"

enum {
        _CONFIG_VALUE_E_SUCCESS,
        CONFIG_VALUE_E_INVALID,
};

/* A decimal whole number. */
int config_value_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret, struct reason *reason);
/* Bytes, with an optional K, M, G or T (powers of 1024). */
int config_value_size(const char *text, uint64_t min, uint64_t max, uint64_t *ret, struct reason *reason);
/* A duration such as "90", "500ms", "1min 30s", in nanoseconds; a bare number is in `unit` nanoseconds. Bounds too are
 * in nanoseconds. */
int config_value_span(const char *text, uint64_t unit, uint64_t min, uint64_t max, uint64_t *ret,
                      struct reason *reason);
/* yes, no, true, false, on, off, 1, 0. */
int config_value_bool(const char *text, bool *ret, struct reason *reason);
/* Octal permissions, 0000 to 0777. */
int config_value_mode(const char *text, mode_t *ret, struct reason *reason);
/* A syslog level by name, LOG_ERR to LOG_DEBUG. */
int config_value_log_level(const char *text, int *ret, struct reason *reason);
/* A number of experts above 0 with up to three decimals; bounds and result in thousandths. */
int config_value_experts(const char *text, uint64_t max, uint64_t *ret, struct reason *reason);
/* Whether it starts with '/' and is short enough for the kernel (or for a socket: `max` bytes with the terminator). */
int config_value_path(const char *text, size_t max, struct reason *reason);

/* The shortest texts that are read back as the same value; at most `size` bytes with the terminator, 32 suffice. */
void config_format_size(uint64_t bytes, char *ret, size_t size);
void config_format_span(uint64_t nsec, char *ret, size_t size);
void config_format_experts(uint64_t milli, char *ret, size_t size);
