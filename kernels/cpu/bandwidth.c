/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "cpu.h"
#include "machine.h"

enum {
        PIECE_BYTES = 1 << 20,
        PIECES = 256,
        LOOKS = 4,
        LANES = 8,
};

struct bandwidth {
        char *data;
        uint64_t sums[PIECES]; /* keep the reads from being left out */
};

static void fill_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct bandwidth *b = arg;

        memset(b->data + begin * PIECE_BYTES, 1, (end - begin) * PIECE_BYTES);
}

static void read_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct bandwidth *b = arg;

        for (uint64_t piece = begin; piece < end; piece++) {
                const uint64_t *data = (const uint64_t *) (b->data + piece * PIECE_BYTES);
                uint64_t sums[LANES] = {0};

                for (size_t i = 0; i < PIECE_BYTES / sizeof(*data); i += LANES)
                        for (size_t lane = 0; lane < LANES; lane++)
                                sums[lane] += data[i + lane];
                for (size_t lane = 0; lane < LANES; lane++)
                        b->sums[piece] += sums[lane];
        }
}

int backend_cpu_bandwidth(uint32_t threads, uint64_t *ret) {
        struct bandwidth b = {.data = aligned_alloc(64, (size_t) PIECES * PIECE_BYTES)};
        uint64_t best = UINT64_MAX;
        struct pool *pool;
        int r;

        if (!b.data)
                return -ENOMEM;
        r = pool_new(&pool, threads ? threads : machine_threads());
        if (r) {
                free(b.data);
                return r;
        }
        pool_run(pool, PIECES, 1, fill_piece, &b);
        for (unsigned i = 0; i < LOOKS; i++) {
                uint64_t begin = now_nsec();

                pool_run(pool, PIECES, 1, read_piece, &b);
                best = MIN(best, MAX(now_nsec() - begin, UINT64_C(1)));
        }
        pool_free(pool);
        free(b.data);
        *ret = (uint64_t) ((double) PIECES * PIECE_BYTES * NSEC_PER_SEC / (double) best);
        return 0;
}
