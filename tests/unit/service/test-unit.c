/* SPDX-License-Identifier: MIT */
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "test.h"
#include "unit.h"

static const char *unit(const char *cgroup) {
        static char name[UNIT_NAME_MAX + 1];

        unit_from_cgroup(cgroup, name);
        return name;
}

TEST(the_unit_is_the_first_that_is_no_slice) {
        assert_se(strcmp(unit("0::/system.slice/mail-filter.service\n"), "mail-filter.service") == 0);
        assert_se(strcmp(unit("0::/system.slice/system-getty.slice/getty@tty1.service\n"), "getty@tty1.service") == 0);
        assert_se(strcmp(unit("0::/user.slice/user-1000.slice/session-2.scope\n"), "session-2.scope") == 0);
        assert_se(strcmp(unit("1:name=x:/a\n0::/system.slice/a.service\n"), "a.service") == 0);
        assert_se(strcmp(unit("0::/system.slice/_cpu.service\n"), "cpu.service") == 0);
        assert_se(strcmp(unit("10::/system.slice/a.service\n0::/b.service\n"), "b.service") == 0);
        assert_se(strcmp(unit("2:cpu:/x0::/c.service\n1:name=x:/0::/d.service\n0::/e.service\n"), "e.service") == 0);
}

TEST(names_below_a_user_manager_are_its_users_choice) {
        assert_se(strcmp(unit("0::/user.slice/user-1000.slice/user@1000.service/app.slice/mail-filter.service\n"),
                         "user@1000.service") == 0);
        assert_se(strcmp(unit("0::/system.slice/a.service/b.service\n"), "a.service") == 0);
        assert_se(unit("0::/container/system.slice/a.service\n")[0] == '\0');
}

TEST(without_a_unit_there_is_none) {
        assert_se(unit("0::/\n")[0] == '\0');
        assert_se(unit("")[0] == '\0');
        assert_se(unit("0::/system.slice\n")[0] == '\0');
        assert_se(unit("10::/system.slice/a.service\n")[0] == '\0');
        assert_se(unit("0::/.service\n")[0] == '\0');
        assert_se(unit("0::/_\n")[0] == '\0');
}

TEST(names_that_are_too_long_are_none) {
        char cgroup[600] = "0::/";

        for (int i = 0; i < 30; i++)
                strcat(cgroup, "abcdefghi.");
        strcat(cgroup, ".service\n");
        assert_se(unit(cgroup)[0] == '\0');
}

static struct credentials own_credentials(void) {
        struct credentials credentials;
        int fds[2];

        assert_se(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds) == 0);
        assert_se(credentials_read(&credentials, fds[0]) == 0);
        close(fds[0]);
        close(fds[1]);
        return credentials;
}

static pid_t child_that_ended(void) {
        pid_t pid = fork();

        assert_se(pid >= 0);
        if (pid == 0)
                _exit(0);
        assert_se(waitpid(pid, NULL, 0) == pid);
        return pid;
}

TEST(a_process_that_lives_is_found_with_and_without_its_pidfd) {
        struct credentials credentials = own_credentials();
        char name[UNIT_NAME_MAX + 1], again[UNIT_NAME_MAX + 1];

        assert_se(!credentials.gone && unit_of_peer(&credentials, name) == 0);
        credentials.pidfd = close_fd(credentials.pidfd);
        assert_se(unit_of_peer(&credentials, again) == 0 && strcmp(name, again) == 0);
        /* Also one whose files belong to root. */
        assert_se(prctl(PR_SET_DUMPABLE, 0) == 0);
        assert_se(unit_of_peer(&credentials, again) == 0 && strcmp(name, again) == 0);
        /* Another user's process in the place of the peer. */
        credentials.uid++;
        assert_se(unit_of_peer(&credentials, again) == UNIT_E_GONE);
        credentials_deinit(&credentials);
}

TEST(of_a_process_that_has_ended_no_unit_is_told) {
        struct credentials credentials = own_credentials();
        char name[UNIT_NAME_MAX + 1];

        credentials.pidfd = close_fd(credentials.pidfd);
        credentials.pid = child_that_ended();
        assert_se(unit_of_peer(&credentials, name) == UNIT_E_GONE && name[0] == '\0');
        credentials_deinit(&credentials);
}

TEST(a_process_that_got_the_pid_of_the_peer_is_not_taken_for_it) {
        struct credentials credentials = own_credentials();
        char name[UNIT_NAME_MAX + 1];
        pid_t pid;

        /* The kernel knows who connected; that the number is ours again must not matter. */
        close_fd(credentials.pidfd);
        pid = fork();
        assert_se(pid >= 0);
        if (pid == 0)
                _exit(0);
        credentials.pidfd = (int) syscall(SYS_pidfd_open, pid, 0);
        assert_se(waitpid(pid, NULL, 0) == pid);
        if (credentials.pidfd < 0)
                test_skip("the kernel has no pidfd_open()");
        assert_se(credentials.pid == getpid() && unit_of_peer(&credentials, name) == UNIT_E_GONE);
        credentials.pidfd = close_fd(credentials.pidfd);
        credentials.gone = true;
        assert_se(unit_of_peer(&credentials, name) == UNIT_E_GONE);
        credentials_deinit(&credentials);
}
