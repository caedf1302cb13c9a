/* SPDX-License-Identifier: MIT */
#pragma once

/* The keys of a policy: a table of how each is called, read and written, for moed.conf(5), `moectl budget` and every
 * sentence that names one. A value is a number in the unit of its member of struct policy. */

#include <stdbool.h>
#include <stdint.h>

#include "base/reason.h"
#include "scheduler.h"

enum {
        POLICY_WEIGHT_MAX = 10000,
        POLICY_EXPERTS_MILLI_MAX = 1024 * 1000,
        POLICY_VALUE_MAX = 32, /* bytes of a value as text, with the terminator */
        POLICY_LIST_MAX = 160, /* bytes of all names, with the terminator */
};

enum {
        _POLICY_KEY_E_SUCCESS,
        POLICY_KEY_E_UNKNOWN, /* no such key */
        POLICY_KEY_E_VALUE,   /* the reason says what is allowed */
};

enum policy_key {
        POLICY_KEY_EXPERTS_MAX,
        POLICY_KEY_EXPERTS_MIN,
        POLICY_KEY_WEIGHT,
        POLICY_KEY_CLASS,
        POLICY_KEY_LATENCY_TARGET,
        POLICY_KEY_ACTIVATION_RATE,
        POLICY_KEY_ACTIVATION_BURST,
        POLICY_KEY_ON_EMPTY,
        POLICY_KEY_ADAPTIVE,
        POLICY_KEY_KV_MAX,
        POLICY_KEY_QUEUE_MAX,
        POLICY_KEY_SESSION_MAX,
        _POLICY_KEY_N,
};

/* "ExpertsMax", as in moed.conf. */
const char *policy_key_name(enum policy_key key);
/* "experts_max_milli", as the member of struct policy, and in control messages. */
const char *policy_key_field(enum policy_key key);
/* By its name in moed.conf, in upper or lower case. POLICY_KEY_E_UNKNOWN. */
int policy_key_find(const char *name, enum policy_key *ret);
/* "ExpertsMax, ExpertsMin, …" */
void policy_key_list(char ret[static POLICY_LIST_MAX]);
/* POLICY_KEY_E_VALUE. */
int policy_key_parse(enum policy_key key, const char *text, uint64_t *ret, struct reason *reason);
/* What policy_key_parse() reads back as the same value. */
void policy_key_format(enum policy_key key, uint64_t value, char ret[static POLICY_VALUE_MAX]);

/* Why this version does nothing with such a value, or NULL: it does. */
const char *policy_key_no_effect(enum policy_key key, uint64_t value);
/* Whether it is a matter of all clients of an account together, and not of each by itself. */
bool policy_key_is_shared(enum policy_key key);

uint64_t policy_key_get(const struct policy *policy, enum policy_key key);
void policy_key_put(struct policy *policy, enum policy_key key, uint64_t value);
