/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "policy.h"
#include "test.h"

static struct policy_principal principal(const char *text) {
        struct policy_principal p;

        assert_se(policy_principal_parse(&p, text, NULL) == 0);
        return p;
}

static void set(struct policy_table *table, const char *name, enum policy_key key, uint32_t value) {
        struct policy_principal p = principal(name);

        assert_se(policy_table_set(table, &p, name, key, value, "moed.conf:1") == 0);
}

static struct policy_match lookup(const struct policy_book *book, const char *unit, uint32_t uid, uint32_t gid,
                                  uint32_t second) {
        uint32_t gids[] = { gid, second };
        struct policy_identity identity = { .unit = unit, .uid = uid, .gids = gids, .n_gids = 2 };
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
        assert_se(policy_book_load(&book, &config) == 0);

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
        assert_se(policy_book_load(&book, &config) == 0);
        assert_se(lookup(&book, NULL, 1, 50, 60).policy.experts_max_milli == 6000);
        assert_se(lookup(&book, NULL, 1, 60, 50).policy.experts_max_milli == 6000);
        assert_se(lookup(&book, NULL, 1, 60, 50).policy.weight == 5);
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
        assert_se(policy_book_load(&book, &config) == 0);
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

        assert_se(policy_table_set(&config, &p, "uid:root", POLICY_KEY_EXPERTS_MAX, 2050, "/etc/moed/moed.conf:12") == 0);
        assert_se(policy_book_load(&book, &config) == 0);
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
        assert_se(policy_book_load(&book, &config) == 0);
        assert_se(policy_book_set(&book, &alice, "uid:1000", 1u << POLICY_KEY_EXPERTS_MAX, &policy, "moectl", NULL) == 0);
        assert_se(policy_book_set(&book, &staff, "gid:50", 1u << POLICY_KEY_WEIGHT, &policy, "moectl", NULL) == 0);
        assert_se(lookup(&book, NULL, 1000, 50, 50).policy.experts_max_milli == 1500);
        assert_se(lookup(&book, NULL, 1000, 50, 50).policy.weight == 20);
        assert_se(lookup(&book, NULL, 1001, 50, 50).policy.weight == 7);
        assert_se(policy_book_rules(&book)->n_rules == 2);

        /* A reload changes what lies below. */
        set(&config, "uid:1000", POLICY_KEY_EXPERTS_MAX, 3000);
        set(&config, "uid:1000", POLICY_KEY_WEIGHT, 30);
        assert_se(policy_book_load(&book, &config) == 0);
        assert_se(lookup(&book, NULL, 1000, 1, 1).policy.experts_max_milli == 1500);
        assert_se(lookup(&book, NULL, 1000, 1, 1).policy.weight == 30);
        assert_se(policy_book_reset(&book, &alice) == 0);
        assert_se(lookup(&book, NULL, 1000, 1, 1).policy.experts_max_milli == 3000);
        assert_se(policy_book_reset(&book, &alice) == POLICY_E_ABSENT);
        assert_se(lookup(&book, NULL, 1001, 50, 50).policy.weight == 7);
        assert_se(policy_book_reset(&book, &staff) == 0);
        assert_se(policy_book_rules(&book)->n_rules == 1);
        policy_table_deinit(&config);
        policy_book_deinit(&book);
}

TEST(values_out_of_range_are_refused_and_change_nothing) {
        struct policy_book book = POLICY_BOOK_NULL;
        struct policy_principal p = principal("default");
        struct policy zero = { .weight = 0 }, heavy = { .weight = 10001 }, many = { .experts_max_milli = 1024001 };
        struct policy most = { .weight = 10000, .experts_max_milli = 1024000 };
        struct reason why = REASON_INIT;

        assert_se(policy_book_set(&book, &p, "default", 1u << POLICY_KEY_WEIGHT, &zero, "x", &why) == POLICY_E_SYNTAX);
        assert_se(strcmp(why.text, "Weight=0: 1 to 10000 is allowed") == 0);
        assert_se(policy_book_set(&book, &p, "default", 1u << POLICY_KEY_WEIGHT, &heavy, "x", &why) == POLICY_E_SYNTAX);
        assert_se(policy_book_set(&book, &p, "default", 1u << POLICY_KEY_EXPERTS_MAX, &many, "x", &why) == POLICY_E_SYNTAX);
        assert_se(strstr(why.text, "1024.001"));
        assert_se(policy_book_set(&book, &p, "default", 0, &most, "x", &why) == POLICY_E_SYNTAX);
        assert_se(policy_book_set(&book, &p, "default", 4, &most, "x", &why) == POLICY_E_SYNTAX);
        assert_se(policy_book_rules(&book)->n_rules == 0);
        assert_se(policy_book_set(&book, &p, "default", 3, &most, "x", &why) == 0);
        assert_se(policy_book_rules(&book)->n_rules == 1);
        policy_book_deinit(&book);
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
        assert_se(policy_book_load(&book, &table) == 0);
        p.id = POLICY_RULES_MAX;
        assert_se(policy_book_set(&book, &p, "n", 1u << POLICY_KEY_WEIGHT, &policy, "moectl", NULL) == 0);
        assert_se(policy_book_load(&book, &table) == 0);
        assert_se(policy_book_rules(&book)->n_rules == POLICY_RULES_MAX + 1);
        policy_book_deinit(&book);
        policy_table_deinit(&table);
}
