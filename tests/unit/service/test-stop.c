/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "stop.h"
#include "test.h"

static struct stop_pattern pattern(const char *text) {
        return (struct stop_pattern) { .text = text, .length = (uint32_t) strlen(text) };
}

/* Feeds `text` in pieces of `size` bytes and joins what comes out; true when a stop was found. */
static bool feed(const struct stop_pattern *patterns, uint32_t n, const char *text, size_t size, char *out) {
        struct stop_matcher m;
        const char *shown;
        size_t length, at = 0, total = strlen(text);
        bool found = false;

        out[0] = '\0';
        assert_se(stop_matcher_init(&m, patterns, n) == 0);
        while (at < total && !found) {
                size_t piece = total - at < size ? total - at : size;

                assert_se(stop_matcher_feed(&m, text + at, piece, &shown, &length, &found) == 0);
                strncat(out, shown, length);
                at += piece;
        }
        if (!found) {
                stop_matcher_end(&m, &shown, &length);
                strncat(out, shown, length);
        }
        stop_matcher_deinit(&m);
        return found;
}

TEST(text_before_the_stop_only_however_it_is_cut) {
        struct stop_pattern patterns[] = { pattern("END"), pattern("\n\n") };
        char out[64];

        for (size_t size = 1; size < 16; size++) {
                assert_se(feed(patterns, 2, "one EN two END three", size, out));
                assert_se(strcmp(out, "one EN two ") == 0);
                assert_se(feed(patterns, 2, "one\n\ntwo END", size, out));
                assert_se(strcmp(out, "one") == 0);
        }
}

TEST(what_only_looked_like_a_stop_comes_out_after_all) {
        struct stop_pattern patterns[] = { pattern("aab") };
        char out[64];

        for (size_t size = 1; size < 8; size++) {
                assert_se(!feed(patterns, 1, "aaaaaac aa", size, out));
                assert_se(strcmp(out, "aaaaaac aa") == 0);
                assert_se(feed(patterns, 1, "aaaaaab", size, out));
                assert_se(strcmp(out, "aaaa") == 0);
        }
}

TEST(the_first_of_several_in_one_piece_wins) {
        struct stop_pattern patterns[] = { pattern("later"), pattern("soon") };
        char out[64];

        assert_se(feed(patterns, 2, "so soon, later", 64, out));
        assert_se(strcmp(out, "so ") == 0);
}

TEST(nothing_of_a_possible_stop_is_shown_early) {
        struct stop_pattern patterns[] = { pattern("stop") };
        struct stop_matcher m;
        const char *shown;
        size_t length;
        bool found;

        assert_se(stop_matcher_init(&m, patterns, 1) == 0);
        assert_se(stop_matcher_feed(&m, "a st", 4, &shown, &length, &found) == 0);
        assert_se(!found && length == 2 && memcmp(shown, "a ", 2) == 0);
        assert_se(stop_matcher_feed(&m, "", 0, &shown, &length, &found) == 0);
        assert_se(!found && length == 0);
        assert_se(stop_matcher_feed(&m, "ay", 2, &shown, &length, &found) == 0);
        assert_se(!found && length == 4 && memcmp(shown, "stay", 4) == 0);
        stop_matcher_end(&m, &shown, &length);
        assert_se(length == 0);
        stop_matcher_deinit(&m);
}

TEST(without_stops_nothing_is_held_back) {
        char out[64];

        assert_se(!feed(NULL, 0, "anything", 3, out));
        assert_se(strcmp(out, "anything") == 0);
}

TEST(the_longest_stop_is_found) {
        char stop[STOP_LENGTH_MAX + 1], text[2 * STOP_LENGTH_MAX + 1], out[2 * STOP_LENGTH_MAX + 1];
        struct stop_pattern longest = { .text = stop, .length = STOP_LENGTH_MAX };

        memset(stop, 'x', STOP_LENGTH_MAX);
        stop[STOP_LENGTH_MAX] = '\0';
        memset(text, 'x', sizeof(text) - 1);
        text[sizeof(text) - 1] = '\0';
        text[5] = 'y';
        assert_se(feed(&longest, 1, text, 7, out));
        assert_se(strcmp(out, "xxxxxy") == 0);
}
