/* SPDX-License-Identifier: MIT */

/* read-limit THREADS BYTES: prints how many bytes per second so many threads read from a buffer of that size, again and
 * again: out of a cache when it fits one, as a model's weights do then. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "limits.h"

enum { PIECE = 1 << 20, ROUNDS_MIN = 5 };

int main(int argc, char **argv) {
        unsigned threads = argc == 3 ? (unsigned) atoi(argv[1]) : 0;
        uint64_t bytes = argc == 3 ? strtoull(argv[2], NULL, 10) : 0, end;
        struct pool *pool;
        double best = 0.0;
        void *data;

        if (threads < 1 || bytes < 1) {
                fputs("usage: read-limit THREADS BYTES\n", stderr);
                return EXIT_FAILURE;
        }
        bytes = DIV_ROUND_UP(bytes, (uint64_t) PIECE) * PIECE;
        data = aligned_alloc(PIECE, bytes);
        if (!data || pool_new(&pool, threads))
                return EXIT_FAILURE;
        memset(data, 1, bytes);
        end = now_nsec() + 300 * NSEC_PER_MSEC;
        for (unsigned round = 0; round < ROUNDS_MIN || now_nsec() < end; round++)
                best = MAX(best, limit_read(pool, data, bytes));
        printf("%.0f\n", best);
        pool_free(pool);
        free(data);
        return EXIT_SUCCESS;
}
