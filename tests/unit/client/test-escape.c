/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <string.h>

#include "balance.h"
#include "escape.h"
#include "test.h"

static bool becomes(const char *text, const char *expected) {
        char *escaped = escape(text);
        bool equal;

        assert_se(escaped);
        equal = strcmp(escaped, expected) == 0;
        free(escaped);
        return equal;
}

TEST(what_can_be_read_stays_as_it_is) {
        assert_se(becomes("", ""));
        assert_se(becomes("user@1000.service", "user@1000.service"));
        assert_se(becomes("a\\x2db.service ~!", "a\\x2db.service ~!"));
        assert_se(becomes("Zoë 東京 🙂", "Zoë 東京 🙂"));
}

TEST(what_moves_a_terminal_is_escaped) {
        assert_se(becomes("\x1b[2Jx\r\n\t\a", "\\x1b[2Jx\\x0d\\x0a\\x09\\x07"));
        assert_se(becomes("\x7f", "\\x7f"));
        assert_se(becomes("\xc2\x9b" "31m", "\\u009b31m"));
}

TEST(what_turns_the_line_around_or_hides_is_escaped) {
        assert_se(becomes("gp\xe2\x80\xae" "xe", "gp\\u202exe"));
        assert_se(becomes("a\xe2\x80\x8b" "b\xef\xbb\xbf", "a\\u200bb\\ufeff"));
        assert_se(becomes("\xe2\x81\xa6\xd8\x9c", "\\u2066\\u061c"));
        assert_se(becomes("\xf3\xa0\x81\x81", "\\U000e0041"));
}

TEST(what_is_no_utf8_is_escaped_byte_by_byte) {
        assert_se(becomes("\x9b" "31m", "\\x9b31m"));
        assert_se(becomes("\xff\xfe", "\\xff\\xfe"));
        assert_se(becomes("\xe2\x80", "\\xe2\\x80"));
        assert_se(becomes("\xc0\xaf\xed\xa0\x80", "\\xc0\\xaf\\xed\\xa0\\x80"));
        assert_se(becomes("\xf0\x9f\x99", "\\xf0\\x9f\\x99"));
}

static bool near(double a, double b) {
        return fabs(a - b) < 1e-9;
}

TEST(balance_of_even_and_of_lopsided_layers) {
        static const uint64_t even[] = { 5, 5, 5, 5 }, one[] = { 0, 7, 0, 0 }, half[] = { 6, 6, 0, 0 }, none[4];
        struct balance b = balance_of(even, 4);

        assert_se(b.total == 20 && near(b.busiest, 1.0) && near(b.effective, 4.0) && b.unused == 0);
        b = balance_of(one, 4);
        assert_se(b.total == 7 && near(b.busiest, 4.0) && near(b.effective, 1.0) && b.unused == 3);
        b = balance_of(half, 4);
        assert_se(near(b.busiest, 2.0) && near(b.effective, 2.0) && b.unused == 2);
        b = balance_of(none, 4);
        assert_se(b.total == 0 && b.busiest == 0.0 && b.effective == 0.0 && b.unused == 4);
}

TEST(levels_are_factors_of_two_around_the_mean) {
        assert_se(balance_level(0, 10) == 0 && balance_level(0, 0) == 0 && balance_level(1, 0) == 0);
        assert_se(balance_level(10, 10) == 4 && balance_level(13, 10) == 4 && balance_level(20, 10) == 5);
        assert_se(balance_level(5, 10) == 3 && balance_level(1, 1000) == 1 && balance_level(1e9, 1) == 8);
}
