/* SPDX-License-Identifier: MIT */

/* Starts clients and kills each with SIGKILL at a random moment of its life: `killer COUNT SEED`. */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "moed.h"

static _Noreturn void client(void) {
        static int32_t prompt[64];
        struct moed_request request = MOED_REQUEST_INIT;
        struct moed_event event;
        struct moed *m = NULL;
        uint64_t id;

        for (int i = 0; i < 64; i++)
                prompt[i] = i + 1;
        request.tokens = prompt;
        request.n_tokens = 64;
        request.flags = MOED_IGNORE_EOG;
        if (moed_connect(&m, NULL) < 0) {
                fprintf(stderr, "killer: %s\n", moed_error(m));
                _exit(1);
        }
        for (int i = 0; i < 3; i++)
                if (moed_submit(m, &request, &id) < 0)
                        _exit(1);
        for (;;)
                if (moed_wait(m, &event, -1) < 0)
                        _exit(1);
}

int main(int argc, char **argv) {
        int count = argc > 1 ? atoi(argv[1]) : 100, failed = 0, status;
        unsigned short state[3] = { 1, 2, argc > 2 ? (unsigned short) atoi(argv[2]) : 3 };

        for (int i = 0; i < count; i++) {
                pid_t pid = fork();
                struct timespec nap = { .tv_nsec = nrand48(state) % 6000000 };

                if (pid < 0)
                        return 1;
                if (pid == 0)
                        client();
                nanosleep(&nap, NULL);
                kill(pid, SIGKILL);
                if (waitpid(pid, &status, 0) != pid)
                        return 1;
                failed += !WIFSIGNALED(status);
        }
        printf("{\"killed\": %d, \"ended\": %d}\n", count - failed, failed);
        return failed > 0;
}
