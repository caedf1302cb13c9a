/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "nfc.h"
#include "test.h"
#include "utf8.h"

TEST(utf8_round_trips_every_character_and_refuses_surrogates) {
        for (uint32_t code = 0; code <= 0x110000; code++) {
                char bytes[4];
                const unsigned n = utf8_encode(code, bytes);
                const bool valid = code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
                uint32_t back = 0;

                assert_se(utf8_decode(bytes, n, &back) == (valid ? n : 0));
                assert_se(!valid || back == code);
                assert_se(utf8_valid(bytes, n) == (valid ? n : 0));
                for (unsigned cut = 1; valid && cut < n; cut++) {
                        assert_se(utf8_decode(bytes, cut, &back) == 0);
                        assert_se(utf8_pending(bytes, cut) == cut);
                }
                assert_se(!valid || utf8_pending(bytes, n) == 0);
        }
}

TEST(utf8_refuses_overlong_forms_and_stray_bytes) {
        static const char *const bad[] = {
                "\x80",
                "\xbf",
                "\xc0\x80",
                "\xc1\xbf",
                "\xe0\x9f\xbf",
                "\xf0\x8f\xbf\xbf",
                "\xf4\x90\x80\x80",
                "\xf5\x80\x80\x80",
                "\xff",
                "\xfe",
                "\xe2(\x82",
                "\xf0\x9f(\x98",
        };

        for (size_t i = 0; i < ELEMENTS(bad); i++) {
                uint32_t code;

                assert_se(utf8_decode(bad[i], strlen(bad[i]), &code) == 0);
                assert_se(utf8_valid(bad[i], strlen(bad[i])) == 0);
                assert_se(utf8_invalid(bad[i], strlen(bad[i])) >= 1);
        }
        assert_se(utf8_valid("plain text of more than eight bytes\xff", 36) == 35);
        assert_se(utf8_invalid("\xff\xfe\x80"
                               "a",
                               4) == 3);
        assert_se(utf8_invalid("a", 1) == 0);
}

TEST(utf8_pending_is_only_what_more_bytes_could_complete) {
        assert_se(utf8_pending("", 0) == 0);
        assert_se(utf8_pending("a\xc3", 2) == 1);
        assert_se(utf8_pending("a\xe2\x82", 3) == 2);
        assert_se(utf8_pending("\xf0\x9f\x98", 3) == 3);
        assert_se(utf8_pending("\xe0\x80", 2) == 0);
        assert_se(utf8_pending("\xff", 1) == 0);
        assert_se(utf8_pending("\x80\x80\x80\x80", 4) == 0);
        assert_se(utf8_pending("\xc3\xa9", 2) == 0);
}

static void becomes(const char *from, const char *to) {
        _cleanup_(freep) char *out = NULL;
        size_t n;

        assert_se(nfc(from, strlen(from), &out, &n) == 0);
        assert_se(n == strlen(to) && memcmp(out, to, n) == 0);
}

TEST(nfc_composes_orders_and_leaves_alone) {
        becomes("", "");
        becomes("e\xcc\x81", "\xc3\xa9");
        becomes("\xc3\xa9", "\xc3\xa9");
        becomes("\xe2\x84\xab", "\xc3\x85");                             /* Angstrom sign: singleton */
        becomes("\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab", "\xed\x95\x9c"); /* Hangul jamo */
        becomes("q\xcc\x87\xcc\xa3", "q\xcc\xa3\xcc\x87");               /* marks in canonical order */
        becomes("\xef\xac\x81", "\xef\xac\x81"); /* a ligature is compatibility, not canonical */
        becomes("\xe0\xa4\x95\xe0\xa4\xbc", "\xe0\xa4\x95\xe0\xa4\xbc"); /* composition exclusion */
        assert_se(!nfc_needed("plain \xc3\xa9", 8) && nfc_needed("e\xcc\x81", 3));
}

TEST(nfc_orders_long_runs_of_marks_as_it_does_short_ones) {
        enum { PAIRS = 50 };
        char from[1 + 4 * PAIRS + 1] = "q", to[1 + 4 * PAIRS + 1] = "q";

        for (size_t i = 0; i < PAIRS; i++) {
                strcat(from, "\xcc\x87\xcc\xa3");
                memcpy(to + 1 + 2 * i, "\xcc\xa3", 2);
                memcpy(to + 1 + 2 * PAIRS + 2 * i, "\xcc\x87", 2);
        }
        becomes(from, to);
}
