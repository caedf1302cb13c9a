/* SPDX-License-Identifier: MIT */
#pragma once

/* Whose budget is whose: rules from moed.conf and from `moectl budget set`, and the search for the rule that holds
 * for a peer. Identities come from the kernel; nothing here looks at what a client says. One thread.
 *
 * A rule is named `unit:NAME`, `uid:N`, `gid:N` or `default`. Each key of a policy is taken from the most specific
 * rule that matches the peer and sets it: unit, then uid, then gid (the first such rule in the order of the
 * configuration), then default, then what is built in. Accounting: a peer whose unit has a rule is booked on the unit;
 * every other one on its uid, so gid and default rules are templates, from which each uid gets its own share. Peers
 * that are booked together may match different rules: see account.h. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/reason.h"
#include "policy-key.h"

enum {
        POLICY_UNIT_MAX = 255, /* bytes of a unit's name, as systemd's UNIT_NAME_MAX */
        POLICY_NAME_MAX = POLICY_UNIT_MAX + 8,
        POLICY_RULES_MAX = 4096,
};

enum {
        _POLICY_E_SUCCESS,
        POLICY_E_SYNTAX,  /* not a principal; the reason says what is one */
        POLICY_E_UNKNOWN, /* no such user or group */
        POLICY_E_ABSENT,  /* reset: nothing was set at run time for this principal */
        POLICY_E_FULL,    /* POLICY_RULES_MAX */
};

enum policy_kind {
        POLICY_KIND_DEFAULT, /* in rising order of precedence */
        POLICY_KIND_GID,
        POLICY_KIND_UID,
        POLICY_KIND_UNIT,
};

struct policy_principal {
        enum policy_kind kind;
        uint32_t id;                   /* uid or gid; 0 for the other kinds */
        char unit[POLICY_UNIT_MAX + 1]; /* else "" */
};

/* Reads `default`, `uid:alice`, `uid:1000`, `gid:staff`, `unit:foo.service`. Asks the user database for names.
 * POLICY_E_SYNTAX, POLICY_E_UNKNOWN. */
int policy_principal_parse(struct policy_principal *ret, const char *text, struct reason *reason);
/* The same where users and groups can only be numbers, so that nobody is asked: the user database may be on the
 * network. POLICY_E_SYNTAX. */
int policy_principal_parse_numeric(struct policy_principal *ret, const char *text, struct reason *reason);
/* Writes the canonical name, ids as numbers; at most POLICY_NAME_MAX bytes with the terminator. */
void policy_principal_format(const struct policy_principal *principal, char ret[static POLICY_NAME_MAX]);
bool policy_principal_equal(const struct policy_principal *a, const struct policy_principal *b);

struct policy_rule {
        struct policy_principal principal;
        struct policy policy;
        uint32_t keys;                 /* bit (1 << policy_key): the rule sets this key */
        char *name;                    /* as its author wrote it: "uid:alice" */
        char *sources[_POLICY_KEY_N];  /* where each key was set: "/etc/moed/moed.conf:12", "moectl budget set" */
};

/* Rules in the order of the configuration, at most one per principal. */
struct policy_table {
        struct policy_rule *rules;
        size_t n_rules;
};

#define POLICY_TABLE_NULL { .rules = NULL }

void policy_table_deinit(struct policy_table *table);
/* The rule of exactly this principal, or NULL. Valid until the table changes. */
const struct policy_rule *policy_table_find(const struct policy_table *table, const struct policy_principal *principal);
/* Sets one key of the principal's rule, which is made where there is none; the later one wins. The value is in the unit
 * of struct policy and in range. -ENOMEM, POLICY_E_FULL. */
int policy_table_set(struct policy_table *table, const struct policy_principal *principal, const char *name,
                     enum policy_key key, uint64_t value, const char *source);
/* Makes the principal's rule, without a key; nothing happens if it is there. A unit with a rule is charged by itself
 * even if the rule sets nothing. -ENOMEM, POLICY_E_FULL. */
int policy_table_add(struct policy_table *table, const struct policy_principal *principal, const char *name);
/* Takes a key back. The rule stays, if there is one, and so its place in the order. */
void policy_table_clear(struct policy_table *table, const struct policy_principal *principal, enum policy_key key);

/* The rules as text that config_parse_saved() reads back; *ret is malloc()ed. Principals are written by number: a user
 * database that cannot be asked at the next start takes no rule away. -ENOMEM. */
int policy_table_write(const struct policy_table *table, char **ret);

/* Each goes over those before it. */
enum policy_layer {
        POLICY_LAYER_CONFIG,
        POLICY_LAYER_SAVED,    /* `moectl budget set --save` */
        POLICY_LAYER_RUN_TIME, /* `moectl budget set` */
        _POLICY_LAYER_N,
};

/* What is in force: the layers, one over the other. */
struct policy_book {
        struct policy_table layers[_POLICY_LAYER_N], effective;
};

#define POLICY_BOOK_NULL { .effective = POLICY_TABLE_NULL }

void policy_book_deinit(struct policy_book *book);
/* Takes a copy of the configuration's rules, and of the saved ones unless `saved` is NULL; run-time settings stay. On
 * -ENOMEM nothing has changed. Principals that the service holds must be looked up anew. */
int policy_book_load(struct policy_book *book, const struct policy_table *config, const struct policy_table *saved);
/* `moectl budget set`: sets the keys in `keys` (1 << policy_key) from `policy`, at run time or, with `save`, in the
 * saved rules, where nothing that was set at run time hides them. POLICY_E_FULL. */
int policy_book_set(struct policy_book *book, const struct policy_principal *principal, const char *name, uint32_t keys,
                    const struct policy *policy, bool save, struct reason *reason);
/* `moectl budget reset`: forgets what was set at run time, with `save` also what was saved. POLICY_E_ABSENT: nothing
 * was, with a reason. */
int policy_book_reset(struct policy_book *book, const struct policy_principal *principal, bool save,
                      struct reason *reason);
/* Rules in force for `moectl budget show`, in order. Valid until the book changes. */
const struct policy_table *policy_book_rules(const struct policy_book *book);

struct policy_identity {
        const char *unit;     /* unit of the system manager that the peer runs in, or NULL. Never the name of a user
                               * manager's unit: its user could choose it */
        uint32_t uid;
        uint32_t gid;         /* primary */
        const uint32_t *groups; /* supplementary */
        size_t n_groups;
};

struct policy_match {
        struct policy policy;
        struct policy_principal principal;               /* who is charged: a unit or a uid */
        const struct policy_rule *rules[_POLICY_KEY_N];  /* which rule gave each key; NULL: built in. Valid until the
                                                          * book changes */
};

/* Always finds one. */
void policy_book_lookup(const struct policy_book *book, const struct policy_identity *identity,
                        struct policy_match *ret);
/* Takes in what holds for another client of the same account: the more specific rule gives each key, of two groups' the
 * first in the order of the configuration. Whoever is taken in first, it comes to the same. Both are from the book as
 * it is now. */
void policy_match_join(struct policy_match *match, const struct policy_match *other);
/* Of a client: the keys that are shared, policy_key_is_shared(), are those of its account. */
void policy_match_share(struct policy_match *match, const struct policy_match *account);
/* "ExpertsMax=2 of uid:alice (/etc/moed/moed.conf:12)" or "Weight=100, the default": which rule gave the key. */
void policy_match_explain(const struct policy_match *match, enum policy_key key, struct reason *ret);
