/* SPDX-License-Identifier: MIT */

/* A client that asks for `argv[1]` tokens and does not read them until its standard input ends; then it reads all and
 * prints their ids, separated by commas. Its ring has 8 entries. */

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "moed.h"

static int die(struct moed *m, const char *what) {
        fprintf(stderr, "stall: %s: %s\n", what, moed_error(m));
        return 1;
}

int main(int argc, char **argv) {
        static const int32_t prompt[] = { 5, 6, 7 };
        struct moed_options options = MOED_OPTIONS_INIT;
        struct moed_request request = MOED_REQUEST_INIT;
        struct moed_event event;
        struct moed *m = NULL;
        uint64_t id;
        char c;

        options.entries = 8;
        options.arena = 4096;
        request.tokens = prompt;
        request.n_tokens = 3;
        request.max_tokens = argc > 1 ? (uint32_t) atoi(argv[1]) : 100;
        request.flags = MOED_IGNORE_EOG;
        if (moed_connect(&m, &options) < 0)
                return die(m, "connect");
        if (moed_submit(m, &request, &id) < 0)
                return die(m, "submit");
        while (read(STDIN_FILENO, &c, 1) > 0)
                ;
        do {
                if (moed_wait(m, &event, 10000) <= 0)
                        return die(m, "wait");
                if (event.type == MOED_EVENT_TOKEN)
                        printf("%d,", event.token);
                if (event.type == MOED_EVENT_ERROR)
                        return die(m, "error");
        } while (event.type != MOED_EVENT_DONE);
        printf("\n");
        moed_close(m);
        return 0;
}
