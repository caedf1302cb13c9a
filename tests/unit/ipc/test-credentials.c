/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "credentials.h"
#include "test.h"

enum { OTHER = 65534, N_GROUPS = 100 };

TEST(own_credentials_over_a_socketpair) {
        struct credentials c;
        int fds[2];

        assert_se(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds) == 0);
        assert_se(credentials_read(&c, fds[0]) == 0);
        assert_se(c.pid == getpid() && c.uid == geteuid() && c.gid == getegid());
        assert_se(credentials_has_gid(&c, getegid()));
        assert_se(!credentials_has_gid(&c, 4242424));
        credentials_deinit(&c);
        assert_se(!c.groups && c.pidfd == -1);
        assert_se(credentials_read(&c, -1) == -EBADF);
        assert_se(credentials_read(&c, STDIN_FILENO) < 0);
}

/* Listens on an abstract address that the kernel chooses. */
static int listen_somewhere(struct sockaddr_un *address, socklen_t *size) {
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

        address->sun_family = AF_UNIX;
        *size = sizeof(address->sun_family);
        assert_se(fd >= 0 && bind(fd, (struct sockaddr *) address, *size) == 0 && listen(fd, 1) == 0);
        *size = sizeof(*address);
        assert_se(getsockname(fd, (struct sockaddr *) address, size) == 0);
        return fd;
}

TEST(another_process_is_known_by_uid_groups_and_pidfd) {
        struct sockaddr_un address = {};
        struct credentials c;
        socklen_t size;
        int listener, fd, status;
        pid_t pid;

        if (geteuid() != 0)
                test_skip("only root can become somebody else");
        listener = listen_somewhere(&address, &size);
        pid = fork();
        if (pid == 0) {
                gid_t groups[N_GROUPS];

                for (unsigned i = 0; i < N_GROUPS; i++)
                        groups[i] = 1000 + i;
                fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
                if (setgroups(N_GROUPS, groups) < 0 || setresgid(OTHER, OTHER, OTHER) < 0 ||
                    setresuid(OTHER, OTHER, OTHER) < 0 || connect(fd, (struct sockaddr *) &address, size) < 0)
                        _exit(1);
                pause();
                _exit(0);
        }
        fd = accept(listener, NULL, NULL);
        assert_se(fd >= 0);
        assert_se(credentials_read(&c, fd) == 0);
        assert_se(c.pid == pid && c.uid == OTHER && c.gid == OTHER);
        assert_se(c.n_groups == N_GROUPS);
        assert_se(credentials_has_gid(&c, 1000 + N_GROUPS - 1));
        assert_se(!credentials_has_gid(&c, 1000 + N_GROUPS));
        kill(pid, SIGKILL);
        if (c.pidfd >= 0) {
                struct pollfd p = { .fd = c.pidfd, .events = POLLIN };

                assert_se(poll(&p, 1, 10000) == 1);
        }
        assert_se(waitpid(pid, &status, 0) == pid);
        credentials_deinit(&c);
}

TEST(a_process_that_ended_before_it_was_asked_for_is_known_to_have) {
        struct sockaddr_un address = {};
        struct credentials c;
        socklen_t size;
        int listener = listen_somewhere(&address, &size), fd;
        pid_t pid = fork();

        assert_se(pid >= 0);
        if (pid == 0) {
                fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
                _exit(connect(fd, (struct sockaddr *) &address, size) < 0);
        }
        assert_se(waitpid(pid, NULL, 0) == pid);
        fd = accept(listener, NULL, NULL);
        assert_se(fd >= 0 && credentials_read(&c, fd) == 0);
        assert_se(c.pid == pid && c.uid == geteuid());
        if (c.pidfd >= 0) {
                struct pollfd p = { .fd = c.pidfd, .events = POLLIN };

                assert_se(poll(&p, 1, 0) == 1);
        } else if (!c.gone) {
                test_skip("the kernel has no SO_PEERPIDFD");
        }
        credentials_deinit(&c);
        close(fd);
        close(listener);
}
