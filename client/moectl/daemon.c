/* SPDX-License-Identifier: MIT */
#include "daemon.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "cli.h"
#include "json.h"

enum { ANSWER_MAX = 1024 * 1024 };

/* The first that can be run of those that lie at a known place from here; false: it is left to $PATH. */
static bool find_near(char ret[static PATH_MAX]) {
        static const char *const places[] = {"moed", "../../daemon/service/moed", "../libexec/moed",
                                             "../sbin/moed"};
        char here[PATH_MAX];
        ssize_t n = readlink("/proc/self/exe", here, sizeof(here) - 1);
        char *slash;

        here[MAX(n, (ssize_t) 0)] = '\0';
        slash = strrchr(here, '/');
        if (!slash)
                return false;
        *slash = '\0';
        for (size_t i = 0; i < ELEMENTS(places); i++)
                if (snprintf(ret, PATH_MAX, "%s/%s", here, places[i]) < PATH_MAX && access(ret, X_OK) == 0)
                        return true;
        return false;
}

int daemon_become(char **argv) {
        const char *chosen = getenv("MOED_DAEMON");
        char path[PATH_MAX];

        argv[0] = (char *) "moed";
        if (chosen && *chosen)
                snprintf(path, sizeof(path), "%s", chosen);
        else if (!find_near(path))
                snprintf(path, sizeof(path), "moed");
        execvp(path, argv);
        cli_complain("cannot run %s: %s; MOED_DAEMON can say where it is", path, strerror(errno));
        return EX_UNAVAILABLE;
}

/* Everything that comes, terminated; -E2BIG for more than an answer should have. */
static int read_all(int fd, char **ret, size_t *ret_size) {
        _cleanup_(freep) char *data = malloc(ANSWER_MAX + 1);
        size_t size = 0;
        ssize_t n;

        if (!data)
                return -ENOMEM;
        while ((n = read(fd, data + size, ANSWER_MAX - size)) != 0) {
                if (n < 0 && errno != EINTR)
                        return -errno;
                size += n > 0 ? (size_t) n : 0;
                if (size == ANSWER_MAX)
                        return -E2BIG;
        }
        data[size] = '\0';
        *ret = steal_ptr(data);
        *ret_size = size;
        return 0;
}

static int parse(const char *text, size_t size, struct json **ret) {
        struct reason reason = REASON_INIT;
        int r = json_parse(ret, text, size, &reason);

        if (r == 0)
                return 0;
        cli_complain("moed's answer: %s", r == -ENOMEM ? strerror(ENOMEM) : reason.text);
        return r == -ENOMEM ? EX_OSERR : EX_SOFTWARE;
}

static int answer_of(pid_t pid, int fd, struct json **ret) {
        _cleanup_(freep) char *text = NULL;
        size_t size = 0;
        int status, r;

        r = read_all(fd, &text, &size);
        close(fd);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        if (r < 0) {
                cli_complain("moed's answer cannot be read: %s", strerror(-r));
                return EX_IOERR;
        }
        if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
                return WEXITSTATUS(status);
        if (!WIFEXITED(status)) {
                cli_complain("moed ended by signal %d", WTERMSIG(status));
                return EX_SOFTWARE;
        }
        return parse(text, size, ret);
}

int daemon_ask(char **argv, struct json **ret) {
        int fds[2];
        pid_t pid;

        if (pipe(fds) < 0) {
                cli_complain("%s", strerror(errno));
                return EX_OSERR;
        }
        pid = fork();
        if (pid == 0) {
                dup2(fds[1], STDOUT_FILENO);
                close(fds[0]);
                close(fds[1]);
                _exit(daemon_become(argv));
        }
        close(fds[1]);
        if (pid < 0) {
                close(fds[0]);
                cli_complain("%s", strerror(errno));
                return EX_OSERR;
        }
        return answer_of(pid, fds[0], ret);
}
