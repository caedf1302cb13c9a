/* SPDX-License-Identifier: MIT */
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

enum { TEST_EXIT_SKIP = 77 };

static struct test *tests, **tests_tail = &tests;

void test_register(struct test *test) {
        *tests_tail = test;
        tests_tail = &test->next;
}

void test_fail(const char *file, int line, const char *expression) {
        fprintf(stderr, "%s:%d: failed: %s\n", file, line, expression);
        exit(EXIT_FAILURE);
}

void test_skip(const char *why) {
        fprintf(stderr, "skipped: %s\n", why);
        exit(TEST_EXIT_SKIP);
}

/* Returns the child's exit status, or 128 + signal. */
static int test_run(const struct test *test) {
        int status;
        pid_t pid;

        fflush(NULL);
        pid = fork();
        if (pid == 0) {
                test->run();
                exit(EXIT_SUCCESS);
        }
        if (pid < 0 || waitpid(pid, &status, 0) < 0)
                return EXIT_FAILURE;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static bool test_chosen(const struct test *test, int argc, char **argv) {
        for (int i = 1; i < argc; i++)
                if (strcmp(argv[i], test->name) == 0)
                        return true;
        return argc < 2;
}

int main(int argc, char **argv) {
        unsigned passed = 0, failed = 0, skipped = 0;

        for (struct test *t = tests; t; t = t->next) {
                int r;

                if (argc == 2 && strcmp(argv[1], "--list") == 0) {
                        puts(t->name);
                        continue;
                }
                if (!test_chosen(t, argc, argv))
                        continue;
                r = test_run(t);
                passed += r == 0;
                skipped += r == TEST_EXIT_SKIP;
                failed += r != 0 && r != TEST_EXIT_SKIP;
                printf("%s %s", r == 0 ? "ok  " : r == TEST_EXIT_SKIP ? "skip" : "FAIL", t->name);
                if (r > 128)
                        printf(" (signal %d)", r - 128);
                putchar('\n');
        }
        printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
        if (failed)
                return EXIT_FAILURE;
        return passed == 0 && skipped > 0 ? TEST_EXIT_SKIP : EXIT_SUCCESS;
}
