/* SPDX-License-Identifier: MIT */
#include <string.h>
#include <sys/socket.h>
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

TEST(a_process_that_has_ended_is_in_no_unit) {
        char name[UNIT_NAME_MAX + 1];
        struct credentials credentials;
        int fds[2], status;
        pid_t pid;

        /* The socket stays, its maker does not. */
        pid = fork();
        assert_se(pid >= 0);
        if (pid == 0)
                _exit(0);
        assert_se(waitpid(pid, &status, 0) == pid);
        assert_se(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds) == 0);
        assert_se(credentials_read(&credentials, fds[0]) == 0);
        credentials.pidfd = close_fd(credentials.pidfd);
        credentials.pid = pid;
        unit_of_peer(&credentials, name);
        assert_se(name[0] == '\0');
        credentials_deinit(&credentials);
        close(fds[0]);
        close(fds[1]);
}
