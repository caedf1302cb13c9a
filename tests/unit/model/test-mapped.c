/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "gguf-builder.h"
#include "gguf.h"
#include "mapped.h"
#include "test.h"

enum { PAGES = 5 };

static size_t page(void) {
        return (size_t) sysconf(_SC_PAGESIZE);
}

/* Of so many pages and a half, all ones. */
static int new_file(void) {
        char path[] = "/tmp/test-mapped-XXXXXX", data[512];
        int fd = mkstemp(path);

        assert_se(fd >= 0 && unlink(path) == 0);
        memset(data, 1, sizeof(data));
        for (size_t n = 0; n < PAGES * page() + page() / 2; n += sizeof(data))
                assert_se(write(fd, data, sizeof(data)) == sizeof(data));
        return fd;
}

static uint64_t size_of(int fd) {
        return (uint64_t) lseek(fd, 0, SEEK_END);
}

static bool all_are(const struct mapped *m, uint64_t begin, uint64_t end, uint8_t value) {
        for (uint64_t i = begin; i < end; i++)
                if (((const volatile uint8_t *) m->data)[i] != value)
                        return false;
        return true;
}

/* The signal that ends a process that does this; 0: none. */
static int ends_by(void (*run)(void)) {
        const struct rlimit no_core = {};
        int status;
        pid_t pid = fork();

        if (pid == 0) {
                signal(SIGBUS, SIG_DFL);
                setrlimit(RLIMIT_CORE, &no_core);
                run();
                _exit(0);
        }
        assert_se(pid > 0 && waitpid(pid, &status, 0) == pid);
        return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

TEST(what_is_cut_off_shows_zeros_and_others_are_untouched) {
        _cleanup_(closep) int fd = new_file(), other_fd = new_file();
        struct mapped m = {}, other = {};

        assert_se(mapped_survive() == 0);
        assert_se(mapped_init(&m, fd, size_of(fd)) == 0 && mapped_init(&other, other_fd, size_of(other_fd)) == 0);
        assert_se(all_are(&m, 0, m.size, 1) && !m.lost);
        assert_se(ftruncate(fd, (off_t) (2 * page())) == 0);
        assert_se(all_are(&m, 0, 2 * page(), 1) && !m.lost);
        assert_se(all_are(&m, 4 * page(), m.size, 0) && m.lost);
        assert_se(all_are(&m, 2 * page(), m.size, 0) && all_are(&m, 0, 2 * page(), 1));
        assert_se(all_are(&other, 0, other.size, 1) && !other.lost);
        mapped_deinit(&m);
        assert_se(ftruncate(other_fd, 0) == 0);
        assert_se(all_are(&other, 0, other.size, 0) && other.lost);
        mapped_deinit(&other);
        mapped_deinit(&other);
}

static void touch_what_is_cut(void) {
        struct mapped m = {};
        int fd = new_file();

        assert_se(mapped_init(&m, fd, size_of(fd)) == 0 && ftruncate(fd, 0) == 0);
        (void) all_are(&m, 0, m.size, 0);
}

static void survive_and_touch_what_is_cut(void) {
        assert_se(mapped_survive() == 0);
        touch_what_is_cut();
}

static void touch_what_nobody_watches(void) {
        struct mapped m = {}, gone;
        int fd = new_file();

        assert_se(mapped_survive() == 0 && mapped_init(&m, fd, size_of(fd)) == 0);
        gone = m;
        mapped_deinit(&m);
        gone.data = mmap(NULL, gone.size, PROT_READ, MAP_SHARED, fd, 0);
        assert_se(gone.data != MAP_FAILED && ftruncate(fd, 0) == 0);
        (void) all_are(&gone, 0, gone.size, 0);
}

static void be_killed(void) {
        assert_se(mapped_survive() == 0);
        raise(SIGBUS);
}

TEST(any_other_bus_error_ends_the_process) {
        assert_se(ends_by(touch_what_is_cut) == SIGBUS);
        assert_se(ends_by(survive_and_touch_what_is_cut) == 0);
        assert_se(ends_by(touch_what_nobody_watches) == SIGBUS);
        assert_se(ends_by(be_killed) == SIGBUS);
}

TEST(what_cannot_be_mapped_is_told) {
        struct mapped m = {};

        assert_se(mapped_init(&m, -1, page()) == -EBADF && mapped_init(&m, -1, 4 << 20) == -EBADF && !m.data);
        mapped_deinit(&m);
}

static char path[32];

static struct gguf *open_written(void) {
        const struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = 1 } };
        struct gguf_builder b = GGUF_BUILDER_INIT;
        _cleanup_(freep) uint8_t *data = NULL;
        struct gguf *g;
        size_t size;
        int fd;

        snprintf(path, sizeof(path), "/tmp/test-mapped-XXXXXX");
        gguf_builder_string(&b, "general.architecture", "none");
        data = gguf_builder_finish(&b, &size);
        fd = mkstemp(path);
        assert_se(fd >= 0 && write(fd, data, size) == (ssize_t) size && futimens(fd, times) == 0);
        close(fd);
        assert_se(gguf_open(&g, path, NULL) == 0 && gguf_intact(g));
        return g;
}

TEST(a_model_file_is_intact_until_it_is_written_to) {
        struct gguf *g = open_written();

        assert_se(chmod(path, 0400) == 0 && gguf_intact(g));
        assert_se(chmod(path, 0600) == 0 && truncate(path, 24) == 0 && !gguf_intact(g));
        gguf_free(g);
        unlink(path);
        g = open_written();
        assert_se(unlink(path) == 0 && gguf_intact(g));
        gguf_free(g);
        g = open_written();
        assert_se(utimensat(AT_FDCWD, path, NULL, 0) == 0 && !gguf_intact(g));
        gguf_free(g);
        unlink(path);
}
