/* SPDX-License-Identifier: MIT */
#pragma once

/* Unit tests: TEST(name) { assert_se(…); } registers itself; tests/lib/test.c has main(). Each test runs in a
 * forked child, so that one crash is one failure. `./test-x --list`, `./test-x NAME…` run a choice. Prints a line a
 * test and `N passed, N failed, N skipped`; exits 0, 1 when one failed, 77 when all were skipped. */

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

struct test {
        const char *name;
        void (*run)(void);
        struct test *next;
};

void test_register(struct test *test);
_Noreturn void test_fail(const char *file, int line, const char *expression);
/* Ends the running test as skipped, saying why. */
_Noreturn void test_skip(const char *why);

#define TEST(_name)                                                                                          \
        static void test_##_name(void);                                                                      \
        static struct test test_entry_##_name = { .name = #_name, .run = test_##_name };                     \
        __attribute__((constructor)) static void test_constructor_##_name(void) {                            \
                test_register(&test_entry_##_name);                                                          \
        }                                                                                                    \
        static void test_##_name(void)

#define assert_se(expression)                                                                                \
        do {                                                                                                 \
                if (!(expression))                                                                           \
                        test_fail(__FILE__, __LINE__, #expression);                                          \
        } while (0)
