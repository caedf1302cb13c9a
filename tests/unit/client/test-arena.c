/* SPDX-License-Identifier: MIT */
#include <stdint.h>

#include "arena.h"
#include "test.h"
#include "wire.h"

TEST(arena_ranges_are_aligned_and_never_overlap) {
        struct arena arena = ARENA_INIT(4096);
        uint64_t taken[4096 / WIRE_ARENA_ALIGN];
        size_t n = 0;

        for (uint64_t length = 1; arena_take(&arena, length, &taken[n]) == 0; length += 37, n++) {
                assert_se(taken[n] % WIRE_ARENA_ALIGN == 0);
                assert_se(taken[n] + length <= 4096);
                assert_se(n == 0 || taken[n] >= taken[n - 1] + (length - 37));
        }
        assert_se(n > 5);
        arena_deinit(&arena);
}

TEST(arena_fills_to_the_last_byte_and_not_beyond) {
        struct arena arena = ARENA_INIT(256);
        uint64_t a, b;

        assert_se(arena_take(&arena, 257, &a) == ARENA_E_SIZE);
        assert_se(arena_take(&arena, UINT64_MAX, &a) == ARENA_E_SIZE);
        assert_se(arena_take(&arena, 256, &a) == 0 && a == 0);
        assert_se(arena_take(&arena, 1, &b) == ARENA_E_FULL);
        arena_give(&arena, a);
        assert_se(arena_take(&arena, 128, &a) == 0);
        assert_se(arena_take(&arena, 128, &b) == 0);
        assert_se(arena_take(&arena, 1, &a) == ARENA_E_FULL);
        arena_deinit(&arena);
}

TEST(arena_gives_back_in_any_order_and_fills_the_hole) {
        struct arena arena = ARENA_INIT(64 * 4);
        uint64_t at[4], again;

        for (size_t i = 0; i < 4; i++)
                assert_se(arena_take(&arena, 64, &at[i]) == 0);
        arena_give(&arena, at[1]);
        arena_give(&arena, at[2]);
        assert_se(arena_take(&arena, 129, &again) == ARENA_E_FULL);
        assert_se(arena_take(&arena, 128, &again) == 0 && again == at[1]);
        arena_give(&arena, 12345); /* never taken: ignored */
        assert_se(arena.n == 3);
        arena_deinit(&arena);
}

/* Ten thousand steps of a fixed sequence against a map of which 64-byte unit is whose. */
TEST(arena_agrees_with_a_map_of_its_units) {
        enum { UNITS = 32 };
        struct arena arena = ARENA_INIT(UNITS * 64);
        unsigned owner[UNITS] = {}, next = 1;
        uint64_t live[UNITS];
        size_t n_live = 0;
        uint32_t state = 1;

        for (unsigned step = 0; step < 10000; step++) {
                uint64_t offset;

                state = state * 1664525u + 1013904223u;
                if ((state >> 16) % 3 != 0) {
                        uint64_t units = 1 + (state >> 20) % 5;

                        if (arena_take(&arena, units * 64 - 5, &offset))
                                continue;
                        for (uint64_t i = 0; i < units; i++) {
                                assert_se(owner[offset / 64 + i] == 0);
                                owner[offset / 64 + i] = next;
                        }
                        next++;
                        live[n_live++] = offset;
                } else if (n_live > 0) {
                        size_t i = (state >> 20) % n_live;
                        unsigned who = owner[live[i] / 64];

                        arena_give(&arena, live[i]);
                        for (size_t k = 0; k < UNITS; k++)
                                if (owner[k] == who)
                                        owner[k] = 0;
                        live[i] = live[--n_live];
                }
                assert_se(arena.n == n_live);
        }
        arena_deinit(&arena);
}
