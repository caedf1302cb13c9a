/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "policy.h"
#include "test.h"

static struct policy_principal principal(const char *text) {
        struct policy_principal p;

        assert_se(policy_principal_parse(&p, text, NULL) == 0);
        return p;
}

static void set(struct policy_table *table, const char *name, enum policy_key key, uint64_t value) {
        struct policy_principal p = principal(name);

        assert_se(policy_table_set(table, &p, name, key, value, "moed.conf:1") == 0);
}

static struct policy_match lookup(const struct policy_book *book, const char *unit, uint32_t uid, uint32_t gid,
                                  uint32_t second) {
        struct policy_identity identity = { .unit = unit, .uid = uid, .gid = gid, .groups = &second, .n_groups = 1 };
        struct policy_match match;

        policy_book_lookup(book, &identity, &match);
        return match;
}

TEST(principals_are_read_and_written) {
        static const char *const same[] = { "default", "uid:0", "uid:4294967294", "gid:12", "unit:foo.service",
                                            "unit:user@1000.service", "unit:a\\x2db.scope" };
        char text[POLICY_NAME_MAX];
        struct policy_principal p;

        for (size_t i = 0; i < ELEMENTS(same); i++) {
                p = principal(same[i]);
                policy_principal_format(&p, text);
                assert_se(strcmp(text, same[i]) == 0);
        }
        p = principal("unit:foo");
        assert_se(strcmp(p.unit, "foo.service") == 0);
        p = principal("uid:root");
        assert_se(p.kind == POLICY_KIND_UID && p.id == 0);
        p = principal("gid:root");
        assert_se(p.kind == POLICY_KIND_GID && p.id == 0);
}

TEST(principals_that_make_no_sense_are_refused_with_a_reason) {
        static const char *const bad[] = { "", "alice", "uid:", "gid:", "unit:", "unit:a/b.service", "unit:a b",
                                           "Default", "default ", "uid", "pid:1" };
        static const char *const nobody[] = { "uid:no-such-user-here", "gid:no-such-group-here", "uid:-1",
                                              "uid:4294967295", "uid:99999999999", "uid:1x", "uid: 1" };
        struct policy_principal p = { .id = 77 };

        for (size_t i = 0; i < ELEMENTS(bad); i++) {
                struct reason reason = REASON_INIT;

                assert_se(policy_principal_parse(&p, bad[i], &reason) == POLICY_E_SYNTAX);
                assert_se(strlen(reason.text) > 0 && p.id == 77);
        }
        for (size_t i = 0; i < ELEMENTS(nobody); i++) {
                struct reason reason = REASON_INIT;

                assert_se(policy_principal_parse(&p, nobody[i], &reason) == POLICY_E_UNKNOWN);
                assert_se(strstr(reason.text, "on this system") && p.id == 77);
        }
}

TEST(in_messages_users_and_groups_are_numbers) {
        static const char *const same[] = { "default", "uid:0", "gid:4294967294", "unit:foo.service" };
        static const char *const bad[] = { "uid:root", "gid:root", "uid:no-such-user-here", "uid:", "gid:-1", "root" };
        struct policy_principal p = { .id = 77 };
        char text[POLICY_NAME_MAX];

        for (size_t i = 0; i < ELEMENTS(bad); i++) {
                struct reason reason = REASON_INIT;

                assert_se(policy_principal_parse_numeric(&p, bad[i], &reason) == POLICY_E_SYNTAX);
                assert_se(strlen(reason.text) > 0 && p.id == 77);
        }
        for (size_t i = 0; i < ELEMENTS(same); i++) {
                assert_se(policy_principal_parse_numeric(&p, same[i], NULL) == 0);
                policy_principal_format(&p, text);
                assert_se(strcmp(text, same[i]) == 0);
        }
}

TEST(a_unit_name_has_at_most_255_bytes) {
        char text[300] = "unit:";
        struct policy_principal p;

        memset(text + 5, 'x', 247);
        assert_se(policy_principal_parse(&p, text, NULL) == 0 && strlen(p.unit) == 255);
        text[5 + 247] = 'x';
        assert_se(policy_principal_parse(&p, text, NULL) == POLICY_E_SYNTAX);
        memset(text + 5, 'x', 250);
        strcpy(text + 5 + 249, ".slice");
        assert_se(policy_principal_parse(&p, text, NULL) == 0 && strlen(p.unit) == 255);
        strcpy(text + 5 + 250, ".slice");
        assert_se(policy_principal_parse(&p, text, NULL) == POLICY_E_SYNTAX);
}

TEST(the_most_specific_rule_that_sets_a_key_gives_it) {
        struct policy_book book = POLICY_BOOK_NULL;
        struct policy_table config = POLICY_TABLE_NULL;
        struct policy_match m;

        set(&config, "default", POLICY_KEY_EXPERTS_MAX, 8000);
        set(&config, "default", POLICY_KEY_WEIGHT, 10);
        set(&config, "gid:50", POLICY_KEY_EXPERTS_MAX, 4000);
        set(&config, "uid:1000", POLICY_KEY_EXPERTS_MAX, 2000);
        set(&config, "unit:mail.service", POLICY_KEY_WEIGHT, 300);
        assert_se(policy_book_load(&book, &config, NULL) == 0);

        m = lookup(&book, NULL, 7, 1, 2);
        assert_se(m.policy.experts_max_milli == 8000 && m.policy.weight == 10);
        assert_se(m.principal.kind == POLICY_KIND_UID && m.principal.id == 7);
        m = lookup(&book, NULL, 7, 1, 50);
        assert_se(m.policy.experts_max_milli == 4000 && m.policy.weight == 10);
        assert_se(m.principal.kind == POLICY_KIND_UID && m.principal.id == 7);
        m = lookup(&book, "other.service", 1000, 50, 50);
        assert_se(m.policy.experts_max_milli == 2000 && m.principal.id == 1000);
        m = lookup(&book, "mail.service", 1000, 50, 50);
        assert_se(m.policy.experts_max_milli == 2000 && m.policy.weight == 300);
        assert_se(m.principal.kind == POLICY_KIND_UNIT && strcmp(m.principal.unit, "mail.service") == 0);
        policy_table_deinit(&config);
        policy_book_deinit(&book);
}

TEST(of_several_groups_the_first_in_the_configuration_counts) {
        struct policy_book book = POLICY_BOOK_NULL;
        struct policy_table config = POLICY_TABLE_NULL;

        set(&config, "gid:60", POLICY_KEY_EXPERTS_MAX, 6000);
        set(&config, "gid:50", POLICY_KEY_EXPERTS_MAX, 5000);
        set(&config, "gid:50", POLICY_KEY_WEIGHT, 5);
        assert_se(policy_book_load(&book, &config, NULL) == 0);
        assert_se(lookup(&book, NULL, 1, 50, 60).policy.experts_max_milli == 6000);
        assert_se(lookup(&book, NULL, 1, 60, 50).policy.experts_max_milli == 6000);
        assert_se(lookup(&book, NULL, 1, 60, 50).policy.weight == 5);
        policy_table_deinit(&config);
        policy_book_deinit(&book);
}

static bool same_match(const struct policy_match *a, const struct policy_match *b) {
        bool same = true;

        for (enum policy_key key = 0; key < _POLICY_KEY_N; key++)
                same = same && a->rules[key] == b->rules[key] &&
                       policy_key_get(&a->policy, key) == policy_key_get(&b->policy, key);
        return same;
}

static struct policy_match join(struct policy_match first, const struct policy_match *second,
                                const struct policy_match *third) {
        policy_match_join(&first, second);
        policy_match_join(&first, third);
        return first;
}

TEST(clients_of_one_account_come_to_one_policy_in_whatever_order) {
        struct policy_book book = POLICY_BOOK_NULL;
        struct policy_table config = POLICY_TABLE_NULL;
        struct policy_match a, b, c, all;

        set(&config, "gid:60", POLICY_KEY_WEIGHT, 60);
        set(&config, "gid:60", POLICY_KEY_EXPERTS_MAX, 6000);
        set(&config, "gid:50", POLICY_KEY_WEIGHT, 50);
        set(&config, "gid:50", POLICY_KEY_EXPERTS_MAX, 500);
        set(&config, "gid:50", POLICY_KEY_CLASS, POLICY_CLASS_BATCH);
        set(&config, "default", POLICY_KEY_CLASS, POLICY_CLASS_IDLE);
        set(&config, "default", POLICY_KEY_EXPERTS_MIN, 2000);
        assert_se(policy_book_load(&book, &config, NULL) == 0);
        a = lookup(&book, NULL, 1, 60, 60);
        b = lookup(&book, NULL, 1, 50, 50);
        c = lookup(&book, NULL, 1, 40, 40);
        all = lookup(&book, NULL, 1, 50, 60);
        assert_se(all.policy.weight == 60 && all.policy.class == POLICY_CLASS_BATCH);
        assert_se(b.policy.experts_min_milli == 500 && all.policy.experts_min_milli == 2000);

        const struct policy_match joined[] = { join(a, &b, &c), join(a, &c, &b), join(b, &a, &c),
                                               join(b, &c, &a), join(c, &a, &b), join(c, &b, &a), join(all, &a, &b) };
        for (size_t i = 0; i < ELEMENTS(joined); i++)
                assert_se(same_match(&joined[i], &all));
        policy_table_deinit(&config);
        policy_book_deinit(&book);
}

TEST(a_client_has_the_account_s_policy_but_experts_of_its_own) {
        struct policy_book book = POLICY_BOOK_NULL;
        struct policy_table config = POLICY_TABLE_NULL;
        struct policy_match a, b;

        set(&config, "gid:50", POLICY_KEY_WEIGHT, 50);
        set(&config, "gid:50", POLICY_KEY_EXPERTS_MAX, 500);
        set(&config, "gid:50", POLICY_KEY_ACTIVATION_RATE, 1000);
        assert_se(policy_book_load(&book, &config, NULL) == 0);
        a = lookup(&book, NULL, 1, 50, 50);
        b = lookup(&book, NULL, 1, 40, 40);
        policy_match_share(&b, &a);
        assert_se(b.policy.weight == 50 && b.policy.activation_rate == 1000);
        assert_se(b.rules[POLICY_KEY_WEIGHT] && b.rules[POLICY_KEY_WEIGHT] == a.rules[POLICY_KEY_WEIGHT]);
        assert_se(b.policy.experts_max_milli == 0 && !b.rules[POLICY_KEY_EXPERTS_MAX]);
        assert_se(b.policy.experts_min_milli == 1000);
        policy_table_deinit(&config);
        policy_book_deinit(&book);
}

TEST(without_any_rule_the_defaults_hold) {
        struct policy_book book = POLICY_BOOK_NULL;
        struct policy_match m = lookup(&book, "a.service", 5, 5, 5);
        struct reason why;

        assert_se(m.policy.experts_max_milli == 0 && m.policy.weight == 100 && m.principal.id == 5);
        policy_match_explain(&m, POLICY_KEY_EXPERTS_MAX, &why);
        assert_se(strcmp(why.text, "ExpertsMax=infinity, the default") == 0);
        policy_match_explain(&m, POLICY_KEY_WEIGHT, &why);
        assert_se(strcmp(why.text, "Weight=100, the default") == 0);
}

TEST(an_empty_rule_still_gives_a_unit_an_account_of_its_own) {
        struct policy_book book = POLICY_BOOK_NULL;
        struct policy_table config = POLICY_TABLE_NULL;
        struct policy_principal p = principal("unit:a.service");

        assert_se(policy_table_add(&config, &p, "unit:a") == 0);
        assert_se(policy_book_load(&book, &config, NULL) == 0);
        assert_se(lookup(&book, "a.service", 5, 5, 5).principal.kind == POLICY_KIND_UNIT);
        policy_table_deinit(&config);
        policy_book_deinit(&book);
}

TEST(the_rule_is_told_with_its_place) {
        struct policy_book book = POLICY_BOOK_NULL;
        struct policy_table config = POLICY_TABLE_NULL;
        struct policy_principal p = principal("uid:0");
        struct policy_match m;
        struct reason why;

        assert_se(policy_table_set(&config, &p, "uid:root", POLICY_KEY_EXPERTS_MAX, 2050,
                                   "/etc/moed/moed.conf:12") == 0);
        assert_se(policy_book_load(&book, &config, NULL) == 0);
        m = lookup(&book, NULL, 0, 0, 0);
        policy_match_explain(&m, POLICY_KEY_EXPERTS_MAX, &why);
        assert_se(strcmp(why.text, "ExpertsMax=2.050 of uid:root (/etc/moed/moed.conf:12)") == 0);
        policy_table_deinit(&config);
        policy_book_deinit(&book);
}

TEST(what_is_set_at_run_time_wins_until_it_is_reset) {
        struct policy_book book = POLICY_BOOK_NULL;
        struct policy_table config = POLICY_TABLE_NULL;
        struct policy_principal alice = principal("uid:1000"), staff = principal("gid:50");
        struct policy policy = { .experts_max_milli = 1500, .weight = 7 };

        set(&config, "uid:1000", POLICY_KEY_EXPERTS_MAX, 2000);
        set(&config, "uid:1000", POLICY_KEY_WEIGHT, 20);
        assert_se(policy_book_load(&book, &config, NULL) == 0);
        assert_se(policy_book_set(&book, &alice, "uid:1000", 1u << POLICY_KEY_EXPERTS_MAX, &policy, false, NULL) == 0);
        assert_se(policy_book_set(&book, &staff, "gid:50", 1u << POLICY_KEY_WEIGHT, &policy, false, NULL) == 0);
        assert_se(lookup(&book, NULL, 1000, 50, 50).policy.experts_max_milli == 1500);
        assert_se(lookup(&book, NULL, 1000, 50, 50).policy.weight == 20);
        assert_se(lookup(&book, NULL, 1001, 50, 50).policy.weight == 7);
        assert_se(policy_book_rules(&book)->n_rules == 2);

        /* A reload changes what lies below. */
        set(&config, "uid:1000", POLICY_KEY_EXPERTS_MAX, 3000);
        set(&config, "uid:1000", POLICY_KEY_WEIGHT, 30);
        assert_se(policy_book_load(&book, &config, NULL) == 0);
        assert_se(lookup(&book, NULL, 1000, 1, 1).policy.experts_max_milli == 1500);
        assert_se(lookup(&book, NULL, 1000, 1, 1).policy.weight == 30);
        assert_se(policy_book_reset(&book, &alice, false, NULL) == 0);
        assert_se(lookup(&book, NULL, 1000, 1, 1).policy.experts_max_milli == 3000);
        assert_se(policy_book_reset(&book, &alice, false, NULL) == POLICY_E_ABSENT);
        assert_se(lookup(&book, NULL, 1001, 50, 50).policy.weight == 7);
        assert_se(policy_book_reset(&book, &staff, false, NULL) == 0);
        assert_se(policy_book_rules(&book)->n_rules == 1);
        policy_table_deinit(&config);
        policy_book_deinit(&book);
}

TEST(every_key_is_read_and_written_in_its_own_words) {
        static const struct {
                enum policy_key key;
                const char *text;
                uint64_t value;
                const char *written; /* NULL: as read */
        } values[] = {
                { POLICY_KEY_EXPERTS_MAX, "2.5", 2500, "2.500" },
                { POLICY_KEY_EXPERTS_MAX, "infinity", 0, NULL },
                { POLICY_KEY_EXPERTS_MAX, "1024", 1024000, NULL },
                { POLICY_KEY_EXPERTS_MIN, "0.001", 1, NULL },
                { POLICY_KEY_WEIGHT, "10000", 10000, NULL },
                { POLICY_KEY_CLASS, "batch", POLICY_CLASS_BATCH, NULL },
                { POLICY_KEY_CLASS, "idle", POLICY_CLASS_IDLE, NULL },
                { POLICY_KEY_LATENCY_TARGET, "50", 50 * NSEC_PER_MSEC, "50ms" },
                { POLICY_KEY_LATENCY_TARGET, "1s 500us", NSEC_PER_SEC + 500 * NSEC_PER_USEC, "1000500us" },
                { POLICY_KEY_ACTIVATION_RATE, "1000000000000", UINT64_C(1000000000000), NULL },
                { POLICY_KEY_ACTIVATION_BURST, "auto", 0, NULL },
                { POLICY_KEY_ON_EMPTY, "wait", POLICY_ON_EMPTY_WAIT, NULL },
                { POLICY_KEY_ADAPTIVE, "off", false, "no" },
                { POLICY_KEY_KV_MAX, "1536M", UINT64_C(1536) << 20, NULL },
                { POLICY_KEY_QUEUE_MAX, "infinity", 0, NULL },
                { POLICY_KEY_SESSION_MAX, "4T", UINT64_C(4) << 40, NULL },
        };

        for (size_t i = 0; i < ELEMENTS(values); i++) {
                struct policy policy, same = POLICY_DEFAULT;
                char text[POLICY_VALUE_MAX];
                uint64_t value = 7;

                memset(&policy, 0xff, sizeof(policy));
                assert_se(policy_key_parse(values[i].key, values[i].text, &value, NULL) == 0);
                assert_se(value == values[i].value);
                policy_key_put(&policy, values[i].key, value);
                assert_se(policy_key_get(&policy, values[i].key) == value);
                policy_key_format(values[i].key, value, text);
                assert_se(strcmp(text, values[i].written ? values[i].written : values[i].text) == 0);
                /* A key touches no other. */
                for (enum policy_key key = 0; key < _POLICY_KEY_N; key++) {
                        uint64_t before = policy_key_get(&same, key);

                        policy_key_put(&same, values[i].key, value);
                        assert_se(key == values[i].key || policy_key_get(&same, key) == before);
                }
        }
}

TEST(values_out_of_range_are_refused_with_what_is_allowed) {
        static const struct {
                enum policy_key key;
                const char *text, *reason;
        } bad[] = {
                { POLICY_KEY_EXPERTS_MAX, "0",
                  "a number above 0 and up to 1024, with up to three decimals, is allowed, or infinity" },
                { POLICY_KEY_EXPERTS_MAX, "1024.001", "up to 1024" },
                { POLICY_KEY_EXPERTS_MAX, "18446744073709551.617", "up to 1024" },
                { POLICY_KEY_EXPERTS_MIN, "infinity", "up to 1024" },
                { POLICY_KEY_WEIGHT, "0", "1 to 10000 is allowed" },
                { POLICY_KEY_WEIGHT, "10001", "1 to 10000 is allowed" },
                { POLICY_KEY_WEIGHT, "", "1 to 10000 is allowed" },
                { POLICY_KEY_CLASS, "best", "interactive, batch or idle is allowed" },
                { POLICY_KEY_LATENCY_TARGET, "0", "1ms to 60s is allowed" },
                { POLICY_KEY_LATENCY_TARGET, "2min", "a number alone is in ms, or infinity" },
                { POLICY_KEY_ACTIVATION_RATE, "-1", "or infinity" },
                { POLICY_KEY_ACTIVATION_BURST, "infinity", "or auto" },
                { POLICY_KEY_ON_EMPTY, "stop", "degrade or wait is allowed" },
                { POLICY_KEY_ADAPTIVE, "2", "yes or no is allowed" },
                { POLICY_KEY_KV_MAX, "1K", "from 64K to 16T" },
                { POLICY_KEY_QUEUE_MAX, "0", "1 to 1048576 is allowed, or infinity" },
                { POLICY_KEY_SESSION_MAX, "99999999999T", "or infinity" },
        };
        struct policy policy = POLICY_DEFAULT;

        for (size_t i = 0; i < ELEMENTS(bad); i++) {
                struct reason why = REASON_INIT;
                uint64_t value = 7;

                assert_se(policy_key_parse(bad[i].key, bad[i].text, &value, &why) == POLICY_KEY_E_VALUE);
                assert_se(value == 7 && strstr(why.text, bad[i].reason));
        }
        assert_se(policy_key_get(&policy, POLICY_KEY_ADAPTIVE) == 1 &&
                  policy_key_get(&policy, POLICY_KEY_EXPERTS_MIN) == 1000);
}

TEST(keys_are_found_by_name_and_listed) {
        char list[POLICY_LIST_MAX];
        enum policy_key key;

        policy_key_list(list);
        for (enum policy_key i = 0; i < _POLICY_KEY_N; i++) {
                assert_se(policy_key_find(policy_key_name(i), &key) == 0 && key == i);
                assert_se(strstr(list, policy_key_name(i)));
        }
        assert_se(policy_key_find("weight", &key) == 0 && key == POLICY_KEY_WEIGHT);
        assert_se(policy_key_find("Colour", &key) == POLICY_KEY_E_UNKNOWN);
        assert_se(policy_key_find("", &key) == POLICY_KEY_E_UNKNOWN);
}

TEST(a_floor_is_not_above_the_limit) {
        struct policy_book book = POLICY_BOOK_NULL;
        struct policy_table config = POLICY_TABLE_NULL;

        set(&config, "default", POLICY_KEY_EXPERTS_MIN, 3000);
        set(&config, "uid:1000", POLICY_KEY_EXPERTS_MAX, 2000);
        assert_se(policy_book_load(&book, &config, NULL) == 0);
        assert_se(lookup(&book, NULL, 1000, 1, 1).policy.experts_min_milli == 2000);
        assert_se(lookup(&book, NULL, 1001, 1, 1).policy.experts_min_milli == 3000);
        policy_table_deinit(&config);
        policy_book_deinit(&book);
}

TEST(what_is_saved_lies_between_the_configuration_and_the_run_time) {
        struct policy_book book = POLICY_BOOK_NULL;
        struct policy_table config = POLICY_TABLE_NULL, saved = POLICY_TABLE_NULL;
        struct policy_principal p = principal("uid:1000");
        struct policy policy = { .weight = 7, .experts_max_milli = 1500 };
        const uint32_t weight = 1u << POLICY_KEY_WEIGHT, experts = 1u << POLICY_KEY_EXPERTS_MAX;
        struct reason why;

        set(&config, "uid:1000", POLICY_KEY_WEIGHT, 20);
        set(&saved, "uid:1000", POLICY_KEY_WEIGHT, 30);
        assert_se(policy_book_load(&book, &config, &saved) == 0);
        assert_se(lookup(&book, NULL, 1000, 1, 1).policy.weight == 30);
        assert_se(policy_book_set(&book, &p, "n", weight | experts, &policy, false, NULL) == 0);
        assert_se(lookup(&book, NULL, 1000, 1, 1).policy.weight == 7);

        /* Saving a key takes it from the run time, and no other. */
        policy.weight = 8;
        assert_se(policy_book_set(&book, &p, "n", weight, &policy, true, NULL) == 0);
        assert_se(lookup(&book, NULL, 1000, 1, 1).policy.weight == 8);
        assert_se(lookup(&book, NULL, 1000, 1, 1).policy.experts_max_milli == 1500);
        assert_se(policy_book_reset(&book, &p, false, NULL) == 0);
        assert_se(lookup(&book, NULL, 1000, 1, 1).policy.experts_max_milli == 0);
        assert_se(lookup(&book, NULL, 1000, 1, 1).policy.weight == 8);
        assert_se(policy_book_reset(&book, &p, false, &why) == POLICY_E_ABSENT && strstr(why.text, "--save"));

        /* A reload that does not read what is saved leaves it. */
        assert_se(policy_book_load(&book, &config, NULL) == 0);
        assert_se(lookup(&book, NULL, 1000, 1, 1).policy.weight == 8);
        assert_se(policy_book_reset(&book, &p, true, NULL) == 0);
        assert_se(lookup(&book, NULL, 1000, 1, 1).policy.weight == 20);
        assert_se(policy_book_reset(&book, &p, true, &why) == POLICY_E_ABSENT && !strstr(why.text, "--save"));
        policy_table_deinit(&config);
        policy_table_deinit(&saved);
        policy_book_deinit(&book);
}

TEST(a_table_is_written_as_it_is_read) {
        struct policy_table table = POLICY_TABLE_NULL;
        struct policy_principal unit = principal("unit:a\\x2db.scope");
        char *text;

        set(&table, "uid:root", POLICY_KEY_EXPERTS_MAX, 2500);
        set(&table, "uid:root", POLICY_KEY_CLASS, POLICY_CLASS_IDLE);
        set(&table, "default", POLICY_KEY_KV_MAX, 0);
        assert_se(policy_table_add(&table, &unit, "n") == 0);
        assert_se(policy_table_write(&table, &text) == 0);
        assert_se(strstr(text, "\n[Budget uid:0]\nExpertsMax=2.500\nClass=idle\n\n[Budget default]\nKvMax=infinity\n\n"
                               "[Budget unit:a\\x2db.scope]\n"));
        free(text);
        policy_table_deinit(&table);
}

TEST(the_number_of_rules_is_bounded) {
        struct policy_book book = POLICY_BOOK_NULL;
        struct policy_table table = POLICY_TABLE_NULL;
        struct policy policy = POLICY_DEFAULT;
        struct policy_principal p = { .kind = POLICY_KIND_UID };

        for (p.id = 0; p.id < POLICY_RULES_MAX; p.id++)
                assert_se(policy_table_add(&table, &p, "n") == 0);
        assert_se(policy_table_add(&table, &p, "n") == POLICY_E_FULL);
        assert_se(policy_table_set(&table, &p, "n", POLICY_KEY_WEIGHT, 1, "x") == POLICY_E_FULL);
        p.id = 0;
        assert_se(policy_table_set(&table, &p, "n", POLICY_KEY_WEIGHT, 1, "x") == 0);
        policy_table_clear(&table, &p, POLICY_KEY_WEIGHT);
        assert_se(policy_table_find(&table, &p)->keys == 0);

        /* A full configuration leaves room for settings at run time, and they for a full configuration. */
        assert_se(policy_book_load(&book, &table, NULL) == 0);
        p.id = POLICY_RULES_MAX;
        assert_se(policy_book_set(&book, &p, "n", 1u << POLICY_KEY_WEIGHT, &policy, false, NULL) == 0);
        assert_se(policy_book_load(&book, &table, NULL) == 0);
        assert_se(policy_book_rules(&book)->n_rules == POLICY_RULES_MAX + 1);
        policy_book_deinit(&book);
        policy_table_deinit(&table);
}
