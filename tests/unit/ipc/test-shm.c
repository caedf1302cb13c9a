/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shm.h"
#include "test.h"

enum { SIZE = 3 * WIRE_PAGE, NOBODY = 65534 };

TEST(layout_places_rings_and_arena_without_overlap) {
        struct wire_layout l;

        assert_se(wire_layout_init(&l, 64, 1, NULL) == 0);
        assert_se(l.entries == 64);
        assert_se(l.submissions == WIRE_PAGE);
        assert_se(l.arena == l.submissions + 64 * sizeof(struct wire_submission));
        assert_se(l.arena_size == WIRE_PAGE);
        assert_se(l.client_size == l.arena + l.arena_size);
        assert_se(l.completions == WIRE_PAGE);
        assert_se(l.daemon_size == l.completions + 64 * sizeof(struct wire_completion));

        for (uint64_t entries = WIRE_ENTRIES_MIN; entries <= WIRE_ENTRIES_MAX; entries *= 2) {
                assert_se(wire_layout_init(&l, entries, 100000, NULL) == 0);
                assert_se(l.arena >= l.submissions + entries * WIRE_SLOT);
                assert_se(l.arena % WIRE_PAGE == 0 && l.client_size % WIRE_PAGE == 0);
                assert_se(l.daemon_size >= l.completions + entries * WIRE_SLOT &&
                          l.daemon_size % WIRE_PAGE == 0);
        }
}

TEST(layout_refuses_what_is_out_of_its_limits) {
        static const uint64_t entries[] = {
                0, 1, 4, 7, 9, 100, 8192, UINT32_MAX, UINT64_C(1) << 32, UINT64_MAX,
        };
        struct wire_layout l = { .entries = 42 };
        struct reason reason = REASON_INIT;

        for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++)
                assert_se(wire_layout_init(&l, entries[i], 4096, &reason) == SHM_E_REFUSED);
        assert_se(strstr(reason.text, "power of two from 8 to 4096"));
        assert_se(wire_layout_init(&l, 8, 0, &reason) == SHM_E_REFUSED);
        assert_se(wire_layout_init(&l, 8, LAYOUT_ARENA_MAX + UINT64_C(1), &reason) == SHM_E_REFUSED);
        assert_se(strstr(reason.text, "1073741825"));
        assert_se(wire_layout_init(&l, 8, UINT64_MAX, &reason) == SHM_E_REFUSED);
        assert_se(l.entries == 42);
        assert_se(wire_layout_init(&l, 8, LAYOUT_ARENA_MAX, &reason) == 0);
}

TEST(nobody_can_resize_what_was_made) {
        int fd;

        assert_se(shm_new(&fd, "moed-test", SIZE) == 0);
        assert_se(ftruncate(fd, SIZE - 1) < 0 && errno == EPERM);
        assert_se(ftruncate(fd, SIZE + 1) < 0 && errno == EPERM);
        assert_se(fallocate(fd, 0, SIZE, 1) < 0 && errno == EPERM);
        assert_se(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0 && errno == EPERM);
        assert_se(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        assert_se(shm_check(fd, SIZE, NULL) == 0);
        close(fd);
}

TEST(read_only_opening_cannot_be_mapped_writable) {
        struct shm_mapping w, r, none = SHM_MAPPING_NULL;
        int fd, read_fd;

        assert_se(shm_new(&fd, "moed-test", SIZE) == 0);
        assert_se(shm_reopen_read_only(&read_fd, fd) == 0);
        assert_se(fcntl(read_fd, F_GETFD) & FD_CLOEXEC);
        assert_se(shm_check(read_fd, SIZE, NULL) == 0);
        assert_se(shm_map(&none, read_fd, SIZE, true) == -EACCES);
        assert_se(!none.address);
        assert_se(shm_map(&w, fd, SIZE, true) == 0);
        assert_se(shm_map(&r, read_fd, SIZE, false) == 0);
        assert_se(mprotect(r.address, SIZE, PROT_READ | PROT_WRITE) < 0 && errno == EACCES);
        assert_se(write(read_fd, "x", 1) < 0);
        assert_se(ftruncate(read_fd, 0) < 0);
        strcpy(w.address, "seen by both");
        assert_se(strcmp(r.address, "seen by both") == 0);

        /* After a restart of the daemon the writable one still is. */
        shm_unmap(&w);
        assert_se(shm_map(&w, fd, SIZE, true) == 0);
        shm_unmap(&w);
        shm_unmap(&r);
        assert_se(!r.address);
        close(fd);
        close(read_fd);
}

TEST(another_user_cannot_open_it_writable) {
        int fd, read_fd, status;
        struct stat st;
        pid_t pid;

        assert_se(shm_new(&fd, "moed-test", SIZE) == 0);
        assert_se(fstat(fd, &st) == 0 && (st.st_mode & 07777) == 0600);
        assert_se(shm_reopen_read_only(&read_fd, fd) == 0);
        if (geteuid() != 0)
                test_skip("only root can become somebody else");
        pid = fork();
        if (pid == 0) {
                char path[64];

                close(fd);
                snprintf(path, sizeof(path), "/proc/self/fd/%d", read_fd);
                if (setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0)
                        _exit(2);
                _exit(open(path, O_RDWR) < 0 && errno == EACCES ? 0 : 1);
        }
        assert_se(waitpid(pid, &status, 0) == pid);
        assert_se(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void refused(int fd, uint64_t size, const char *why) {
        struct reason reason = REASON_INIT;

        assert_se(fd >= 0);
        assert_se(shm_check(fd, size, &reason) == SHM_E_REFUSED);
        if (!strstr(reason.text, why))
                fprintf(stderr, "%s\n", reason.text);
        assert_se(strstr(reason.text, why));
        close(fd);
}

TEST(received_memory_is_refused_unless_sealed_and_of_the_right_size) {
        int fd;

        fd = memfd_create("moed-test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        assert_se(ftruncate(fd, SIZE) == 0);
        assert_se(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW) == 0);
        refused(fd, SIZE, "not sealed");

        fd = memfd_create("moed-test", MFD_CLOEXEC);
        assert_se(ftruncate(fd, SIZE) == 0);
        refused(fd, SIZE, "not sealed");

        refused(fileno(tmpfile()), 0, "");
        refused(eventfd(0, 0), 0, "not a memfd");
        refused(open("/dev/zero", O_RDWR), SIZE, "not a memfd");

        assert_se(shm_new(&fd, "moed-test", SIZE) == 0);
        refused(dup(fd), SIZE + 1, "instead of");
        refused(fd, SIZE - 1, "instead of");
        assert_se(shm_check(-1, SIZE, NULL) == -EBADF);
}

TEST(errors_of_the_kernel_go_up) {
        struct shm_mapping m = SHM_MAPPING_NULL;
        int fd = -1;

        assert_se(shm_new(&fd, "moed-test", UINT64_MAX) == -EFBIG);
        assert_se(shm_reopen_read_only(&fd, -1) == -ENOENT);
        assert_se(shm_map(&m, -1, SIZE, false) == -EBADF);
        assert_se(shm_map(&m, -1, 0, false) == -EINVAL);
        assert_se(fd == -1 && !m.address);
        shm_unmap(&m);
}
