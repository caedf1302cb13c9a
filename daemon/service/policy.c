/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <string.h>

#include "policy.h"

static const char *const policy_prefixes[] = {
        [POLICY_KIND_DEFAULT] = "default",
        [POLICY_KIND_GID] = "gid:",
        [POLICY_KIND_UID] = "uid:",
        [POLICY_KIND_UNIT] = "unit:",
};

static const struct policy built_in = POLICY_DEFAULT;

/* 2^32-1 is no uid or gid: system calls take it for "leave as is". */
static bool parse_id(const char *text, uint32_t *ret) {
        uint64_t id = 0;

        if (!*text || strlen(text) > 10)
                return false;
        for (; *text; text++) {
                if (*text < '0' || *text > '9')
                        return false;
                id = id * 10 + (uint64_t) (*text - '0');
        }
        if (id >= UINT32_MAX)
                return false;
        *ret = (uint32_t) id;
        return true;
}

static int user_find(const char *name, uint32_t *ret) {
        char buffer[16384];
        struct passwd entry, *found;

        if (getpwnam_r(name, &entry, buffer, sizeof(buffer), &found) != 0 || !found)
                return POLICY_E_UNKNOWN;
        *ret = found->pw_uid;
        return 0;
}

static int group_find(const char *name, uint32_t *ret) {
        char buffer[65536]; /* a large group's members are part of its entry */
        struct group entry, *found;

        if (getgrnam_r(name, &entry, buffer, sizeof(buffer), &found) != 0 || !found)
                return POLICY_E_UNKNOWN;
        *ret = found->gr_gid;
        return 0;
}

static int parse_owner(struct policy_principal *ret, enum policy_kind kind, const char *name, bool names,
                       struct reason *reason) {
        const char *what = kind == POLICY_KIND_UID ? "user" : "group";
        int r;

        ret->kind = kind;
        if (!*name)
                return reason_return(reason, POLICY_E_SYNTAX, "'%s' lacks the name or number of a %s",
                                     policy_prefixes[kind], what);
        if (parse_id(name, &ret->id))
                return 0;
        if (!names)
                return reason_return(reason, POLICY_E_SYNTAX, "'%.64s' is not the number of a %s", name, what);
        r = kind == POLICY_KIND_UID ? user_find(name, &ret->id) : group_find(name, &ret->id);
        if (r)
                return reason_return(reason, r, "there is no %s '%.64s' on this system", what, name);
        return 0;
}

static bool unit_suffix_known(const char *name) {
        static const char *const suffixes[] = { ".service", ".scope", ".slice", ".socket", ".mount", ".swap" };
        const char *dot = strrchr(name, '.');

        for (size_t i = 0; dot && i < ELEMENTS(suffixes); i++)
                if (strcmp(dot, suffixes[i]) == 0)
                        return true;
        return false;
}

/* As systemctl, a name without a suffix is that of a service. */
static int parse_unit(struct policy_principal *ret, const char *name, struct reason *reason) {
        static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:-_.\\@";
        size_t length = strlen(name);
        bool whole = unit_suffix_known(name);

        ret->kind = POLICY_KIND_UNIT;
        if (length == 0 || strspn(name, allowed) != length)
                return reason_return(reason, POLICY_E_SYNTAX, "'%.64s' is not the name of a systemd unit", name);
        if (length + (whole ? 0 : strlen(".service")) > POLICY_UNIT_MAX)
                return reason_return(reason, POLICY_E_SYNTAX, "the unit's name is longer than %d bytes",
                                     POLICY_UNIT_MAX);
        memcpy(ret->unit, name, length);
        memcpy(ret->unit + length, whole ? "" : ".service", whole ? 1 : sizeof(".service"));
        return 0;
}

static int parse_principal(struct policy_principal *ret, const char *text, bool names, struct reason *reason) {
        struct policy_principal principal = { .kind = POLICY_KIND_DEFAULT };
        int r = 0;

        if (strncmp(text, "uid:", 4) == 0)
                r = parse_owner(&principal, POLICY_KIND_UID, text + 4, names, reason);
        else if (strncmp(text, "gid:", 4) == 0)
                r = parse_owner(&principal, POLICY_KIND_GID, text + 4, names, reason);
        else if (strncmp(text, "unit:", 5) == 0)
                r = parse_unit(&principal, text + 5, reason);
        else if (strcmp(text, "default") != 0)
                r = reason_return(reason, POLICY_E_SYNTAX,
                                  "'%.64s' is no principal; write default, uid:NAME, gid:NAME or unit:NAME.service",
                                  text);
        if (r)
                return r;
        *ret = principal;
        return 0;
}

int policy_principal_parse(struct policy_principal *ret, const char *text, struct reason *reason) {
        return parse_principal(ret, text, true, reason);
}

int policy_principal_parse_numeric(struct policy_principal *ret, const char *text, struct reason *reason) {
        return parse_principal(ret, text, false, reason);
}

void policy_principal_format(const struct policy_principal *principal, char ret[static POLICY_NAME_MAX]) {
        const char *prefix = policy_prefixes[principal->kind];

        if (principal->kind == POLICY_KIND_DEFAULT || principal->kind == POLICY_KIND_UNIT)
                snprintf(ret, POLICY_NAME_MAX, "%s%s", prefix, principal->unit);
        else
                snprintf(ret, POLICY_NAME_MAX, "%s%" PRIu32, prefix, principal->id);
}

bool policy_principal_equal(const struct policy_principal *a, const struct policy_principal *b) {
        return a->kind == b->kind && a->id == b->id && strcmp(a->unit, b->unit) == 0;
}

static void rule_deinit(struct policy_rule *rule) {
        free(rule->name);
        for (int key = 0; key < _POLICY_KEY_N; key++)
                free(rule->sources[key]);
}

void policy_table_deinit(struct policy_table *table) {
        for (size_t i = 0; i < table->n_rules; i++)
                rule_deinit(&table->rules[i]);
        free(table->rules);
        *table = (struct policy_table) POLICY_TABLE_NULL;
}

static struct policy_rule *table_find(const struct policy_table *table, const struct policy_principal *principal) {
        for (size_t i = 0; i < table->n_rules; i++)
                if (policy_principal_equal(&table->rules[i].principal, principal))
                        return &table->rules[i];
        return NULL;
}

const struct policy_rule *policy_table_find(const struct policy_table *table,
                                            const struct policy_principal *principal) {
        return table_find(table, principal);
}

/* No limit on the number of rules: the table in force holds those of two others. */
static int table_get(struct policy_table *table, const struct policy_principal *principal, const char *name,
                     struct policy_rule **ret) {
        struct policy_rule *rules, *rule = table_find(table, principal);
        char *copy;

        if (rule) {
                *ret = rule;
                return 0;
        }
        /* Full at each power of two; then it doubles. */
        if ((table->n_rules & (table->n_rules - 1)) == 0) {
                rules = realloc(table->rules, MAX(2 * table->n_rules, (size_t) 1) * sizeof(*rules));
                if (!rules)
                        return -ENOMEM;
                table->rules = rules;
        }
        copy = strdup(name);
        if (!copy)
                return -ENOMEM;
        rule = &table->rules[table->n_rules++];
        *rule = (struct policy_rule) { .principal = *principal, .policy = POLICY_DEFAULT, .name = copy };
        *ret = rule;
        return 0;
}

static int table_set(struct policy_table *table, const struct policy_principal *principal, const char *name,
                     enum policy_key key, uint64_t value, const char *source) {
        struct policy_rule *rule;
        char *copy = strdup(source);
        int r;

        if (!copy)
                return -ENOMEM;
        r = table_get(table, principal, name, &rule);
        if (r) {
                free(copy);
                return r;
        }
        free(rule->sources[key]);
        rule->sources[key] = copy;
        policy_key_put(&rule->policy, key, value);
        rule->keys |= 1u << key;
        return 0;
}

static bool table_full(const struct policy_table *table, const struct policy_principal *principal) {
        return table->n_rules >= POLICY_RULES_MAX && !policy_table_find(table, principal);
}

int policy_table_add(struct policy_table *table, const struct policy_principal *principal, const char *name) {
        struct policy_rule *rule;

        return table_full(table, principal) ? POLICY_E_FULL : table_get(table, principal, name, &rule);
}

int policy_table_set(struct policy_table *table, const struct policy_principal *principal, const char *name,
                     enum policy_key key, uint64_t value, const char *source) {
        return table_full(table, principal) ? POLICY_E_FULL : table_set(table, principal, name, key, value, source);
}

void policy_table_clear(struct policy_table *table, const struct policy_principal *principal, enum policy_key key) {
        struct policy_rule *rule = table_find(table, principal);

        if (!rule)
                return;
        free(rule->sources[key]);
        rule->sources[key] = NULL;
        policy_key_put(&rule->policy, key, policy_key_get(&built_in, key));
        rule->keys &= ~(1u << key);
}

/* Puts every key that `from` sets over `table`. */
static int table_merge(struct policy_table *table, const struct policy_table *from) {
        for (size_t i = 0; i < from->n_rules; i++) {
                struct policy_rule *rule = &from->rules[i], *into;
                int r = table_get(table, &rule->principal, rule->name, &into);

                for (int key = 0; key < _POLICY_KEY_N && r == 0; key++)
                        if (rule->keys & (1u << key))
                                r = table_set(table, &rule->principal, rule->name, key,
                                              policy_key_get(&rule->policy, key), rule->sources[key]);
                if (r)
                        return r;
        }
        return 0;
}

static void table_remove(struct policy_table *table, struct policy_rule *rule) {
        size_t behind = table->n_rules - (size_t) (rule - table->rules) - 1;

        rule_deinit(rule);
        memmove(rule, rule + 1, behind * sizeof(*rule));
        table->n_rules--;
}

static void table_remove_empty(struct policy_table *table, const struct policy_principal *principal) {
        struct policy_rule *rule = table_find(table, principal);

        if (rule && rule->keys == 0)
                table_remove(table, rule);
}

int policy_table_write(const struct policy_table *table, char **ret) {
        char *text = NULL, name[POLICY_NAME_MAX], value[POLICY_VALUE_MAX];
        bool failed;
        size_t size;
        FILE *f;

        f = open_memstream(&text, &size);
        if (!f)
                return -ENOMEM;
        fputs("# What `moectl budget set --save` has set. moed reads this after moed.conf and its drop-ins, and writes "
              "it anew\n# with each change.\n", f);
        for (size_t i = 0; i < table->n_rules; i++) {
                const struct policy_rule *rule = &table->rules[i];

                policy_principal_format(&rule->principal, name);
                fprintf(f, "\n[Budget %s]\n", name);
                for (enum policy_key key = 0; key < _POLICY_KEY_N; key++) {
                        if (!(rule->keys & (1u << key)))
                                continue;
                        policy_key_format(key, policy_key_get(&rule->policy, key), value);
                        fprintf(f, "%s=%s\n", policy_key_name(key), value);
                }
        }
        failed = ferror(f);
        if (fclose(f) != 0 || failed) {
                free(text);
                return -ENOMEM;
        }
        *ret = text;
        return 0;
}

void policy_book_deinit(struct policy_book *book) {
        for (enum policy_layer layer = 0; layer < _POLICY_LAYER_N; layer++)
                policy_table_deinit(&book->layers[layer]);
        policy_table_deinit(&book->effective);
}

/* A copy of the layers, to be changed and put back by book_commit(). On failure it is empty. */
static int book_begin(struct policy_book *next, const struct policy_book *book) {
        int r = 0;

        *next = (struct policy_book) POLICY_BOOK_NULL;
        for (enum policy_layer layer = 0; layer < _POLICY_LAYER_N && r == 0; layer++)
                r = table_merge(&next->layers[layer], &book->layers[layer]);
        if (r)
                policy_book_deinit(next);
        return r;
}

/* Puts the changed copy in force, or, when the change failed (`r`), leaves the book as it was; frees the copy. */
static int book_commit(struct policy_book *book, struct policy_book *next, int r) {
        for (enum policy_layer layer = 0; layer < _POLICY_LAYER_N && r == 0; layer++)
                r = table_merge(&next->effective, &next->layers[layer]);
        if (r) {
                policy_book_deinit(next);
                return r;
        }
        policy_book_deinit(book);
        *book = *next;
        return 0;
}

static int layer_load(struct policy_table *layer, const struct policy_table *from) {
        policy_table_deinit(layer);
        return table_merge(layer, from);
}

int policy_book_load(struct policy_book *book, const struct policy_table *config, const struct policy_table *saved) {
        struct policy_book next;
        int r;

        r = book_begin(&next, book);
        if (r)
                return r;
        r = layer_load(&next.layers[POLICY_LAYER_CONFIG], config);
        if (r == 0 && saved)
                r = layer_load(&next.layers[POLICY_LAYER_SAVED], saved);
        return book_commit(book, &next, r);
}

static int book_set_key(struct policy_book *book, const struct policy_principal *principal, const char *name,
                        enum policy_key key, uint64_t value, bool save) {
        const char *source = save ? "moectl budget set --save" : "moectl budget set";

        if (save)
                policy_table_clear(&book->layers[POLICY_LAYER_RUN_TIME], principal, key);
        return policy_table_set(&book->layers[save ? POLICY_LAYER_SAVED : POLICY_LAYER_RUN_TIME], principal, name, key,
                                value, source);
}

int policy_book_set(struct policy_book *book, const struct policy_principal *principal, const char *name, uint32_t keys,
                    const struct policy *policy, bool save, struct reason *reason) {
        struct policy_book next;
        int r;

        r = book_begin(&next, book);
        if (r)
                return r;
        for (enum policy_key key = 0; key < _POLICY_KEY_N && r == 0; key++)
                if (keys & (1u << key))
                        r = book_set_key(&next, principal, name, key, policy_key_get(policy, key), save);
        table_remove_empty(&next.layers[POLICY_LAYER_RUN_TIME], principal);
        if (r == POLICY_E_FULL)
                reason_set(reason, "there are %d rules already; reset some first", POLICY_RULES_MAX);
        return book_commit(book, &next, r);
}

static bool layer_forget(struct policy_table *layer, const struct policy_principal *principal) {
        struct policy_rule *rule = table_find(layer, principal);

        if (rule)
                table_remove(layer, rule);
        return rule;
}

int policy_book_reset(struct policy_book *book, const struct policy_principal *principal, bool save,
                      struct reason *reason) {
        bool saved = policy_table_find(&book->layers[POLICY_LAYER_SAVED], principal), found;
        char name[POLICY_NAME_MAX];
        struct policy_book next;
        int r;

        policy_principal_format(principal, name);
        r = book_begin(&next, book);
        if (r)
                return r;
        found = layer_forget(&next.layers[POLICY_LAYER_RUN_TIME], principal);
        if (save)
                found |= layer_forget(&next.layers[POLICY_LAYER_SAVED], principal);
        if (!found)
                r = reason_return(reason, POLICY_E_ABSENT, "nothing was set for %s at run time%s", name,
                                  saved ? "; what was saved is taken back with --save" : "");
        return book_commit(book, &next, r);
}

const struct policy_table *policy_book_rules(const struct policy_book *book) {
        return &book->effective;
}

static bool rule_matches(const struct policy_rule *rule, const struct policy_identity *identity) {
        switch (rule->principal.kind) {
        case POLICY_KIND_UNIT:
                return identity->unit && strcmp(rule->principal.unit, identity->unit) == 0;
        case POLICY_KIND_UID:
                return rule->principal.id == identity->uid;
        case POLICY_KIND_GID:
                for (size_t i = 0; i < identity->n_groups; i++)
                        if (rule->principal.id == identity->groups[i])
                                return true;
                return rule->principal.id == identity->gid;
        case POLICY_KIND_DEFAULT:
                return true;
        }
        return false;
}

/* Rules lie in the order of the configuration. */
static bool rule_precedes(const struct policy_rule *rule, const struct policy_rule *other) {
        if (!rule || !other)
                return rule;
        return rule->principal.kind > other->principal.kind ||
               (rule->principal.kind == other->principal.kind && rule < other);
}

static void match_take(struct policy_match *match, enum policy_key key, const struct policy_rule *rule) {
        match->rules[key] = rule;
        policy_key_put(&match->policy, key, policy_key_get(rule ? &rule->policy : &built_in, key));
}

/* Floor and limit may come from different rules; a floor is none above the limit. */
static void match_finish(struct policy_match *match) {
        struct policy *policy = &match->policy;

        match_take(match, POLICY_KEY_EXPERTS_MIN, match->rules[POLICY_KEY_EXPERTS_MIN]);
        if (policy->experts_max_milli > 0)
                policy->experts_min_milli = MIN(policy->experts_min_milli, policy->experts_max_milli);
}

void policy_book_lookup(const struct policy_book *book, const struct policy_identity *identity,
                        struct policy_match *ret) {
        struct policy_match match = {
                .policy = POLICY_DEFAULT,
                .principal = { .kind = POLICY_KIND_UID, .id = identity->uid },
        };

        for (size_t i = 0; i < book->effective.n_rules; i++) {
                struct policy_rule *rule = &book->effective.rules[i];

                if (!rule_matches(rule, identity))
                        continue;
                if (rule->principal.kind == POLICY_KIND_UNIT)
                        match.principal = rule->principal;
                for (int key = 0; key < _POLICY_KEY_N; key++)
                        if ((rule->keys & (1u << key)) && rule_precedes(rule, match.rules[key]))
                                match_take(&match, key, rule);
        }
        match_finish(&match);
        *ret = match;
}

void policy_match_join(struct policy_match *match, const struct policy_match *other) {
        for (enum policy_key key = 0; key < _POLICY_KEY_N; key++)
                if (rule_precedes(other->rules[key], match->rules[key]))
                        match_take(match, key, other->rules[key]);
        match_finish(match);
}

void policy_match_share(struct policy_match *match, const struct policy_match *account) {
        for (enum policy_key key = 0; key < _POLICY_KEY_N; key++)
                if (policy_key_is_shared(key))
                        match_take(match, key, account->rules[key]);
        match_finish(match);
}

void policy_match_explain(const struct policy_match *match, enum policy_key key, struct reason *ret) {
        const struct policy_rule *rule = match->rules[key];
        char value[POLICY_VALUE_MAX];

        policy_key_format(key, policy_key_get(&match->policy, key), value);
        if (rule)
                reason_set(ret, "%s=%s of %s (%s)", policy_key_name(key), value, rule->name, rule->sources[key]);
        else
                reason_set(ret, "%s=%s, the default", policy_key_name(key), value);
}
