/* SPDX-License-Identifier: MIT */
/* Runs a fuzzer without libFuzzer:
 *
 *     fuzz-x [--runs N] [--first N] [--write-seeds FOLDER] [FILE…]
 *
 * replays the files, if any are named; else every seed as it is, then N mutations of them. Which mutation a
 * run is follows from its number alone, so `--first N --runs 1` repeats one; a crash says its number. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "fuzz.h"

enum { INPUT_MAX = 256 * 1024, SEEDS_MAX = 16 };

struct seed {
        uint8_t *data;
        size_t size;
};

static struct seed seeds[SEEDS_MAX];
static unsigned n_seeds;
static volatile uint64_t current;

/* There when built with a sanitizer. */
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void say_run(void) {
        fprintf(stderr, "in run %" PRIu64 "; repeat with --first %" PRIu64 " --runs 1\n", current, current);
}

static void on_signal(int number) {
        say_run();
        signal(number, SIG_DFL);
        raise(number);
}

/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t next_random(uint64_t *state) {
        uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

        z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
        return z ^ z >> 31;
}

static uint64_t below(uint64_t *state, uint64_t n) {
        return n == 0 ? 0 : next_random(state) % n;
}

/* Numbers at which counts and sizes break. */
static uint64_t odd_number(uint64_t *state) {
        static const uint64_t numbers[] = {
                0,
                1,
                2,
                3,
                4,
                7,
                8,
                9,
                12,
                13,
                16,
                31,
                32,
                33,
                255,
                256,
                65535,
                65536,
                INT32_MAX,
                (uint64_t) INT32_MAX + 1,
                UINT32_MAX,
                (uint64_t) UINT32_MAX + 1,
                INT64_MAX,
                (uint64_t) INT64_MAX + 1,
                UINT64_MAX - 7,
                UINT64_MAX,
                UINT64_MAX / 4 + 1,
                UINT64_MAX / 8 + 1,
        };

        return numbers[below(state, ELEMENTS(numbers))];
}

static void overwrite(uint64_t *state, uint8_t *data, size_t size) {
        static const uint8_t widths[] = { 1, 4, 8 };
        const uint64_t number = odd_number(state);
        const size_t width = widths[below(state, ELEMENTS(widths))];

        if (size >= width)
                memcpy(data + below(state, size - width + 1), &number, width);
}

/* Copies a stretch over another place, or moves the rest so that it is inserted or cut out. */
static size_t shift(uint64_t *state, uint8_t *data, size_t size) {
        const size_t from = below(state, size), to = below(state, size);
        const size_t n = MIN(below(state, 64) + 1, size - MAX(from, to));

        switch (below(state, 3)) {
        case 0:
                memmove(data + to, data + from, n);
                return size;
        case 1:
                memmove(data + to, data + to + n, size - to - n);
                return size - n;
        default:
                if (size + n > INPUT_MAX)
                        return size;
                memmove(data + to + n, data + to, size - to);
                return size + n;
        }
}

static size_t mutate(uint64_t *state, uint8_t *data, size_t size) {
        for (uint64_t left = below(state, 6) + 1; left > 0 && size > 0; left--) {
                switch (below(state, 8)) {
                case 0:
                        size = below(state, size + 1);
                        break;
                case 1:
                case 2:
                        size = shift(state, data, size);
                        break;
                case 3:
                case 4:
                        data[below(state, size)] ^= (uint8_t) (1u << below(state, 8));
                        break;
                case 5:
                        data[below(state, size)] = (uint8_t) next_random(state);
                        break;
                default:
                        overwrite(state, data, size);
                }
        }
        return size;
}

static void run_mutation(uint64_t number) {
        static uint8_t buffer[INPUT_MAX];
        uint64_t state = number;
        const struct seed *seed = &seeds[below(&state, n_seeds)];
        uint8_t *input;
        size_t size;

        current = number;
        memcpy(buffer, seed->data, seed->size);
        size = mutate(&state, buffer, seed->size);
        /* On the heap and no larger than it is, so that a sanitizer sees a read past the end. */
        input = malloc(MAX(size, (size_t) 1));
        if (!input)
                abort();
        memcpy(input, buffer, size);
        LLVMFuzzerTestOneInput(input, size);
        free(input);
}

static int run_file(const char *path) {
        _cleanup_(fclosep) FILE *f = fopen(path, "re");
        _cleanup_(freep) uint8_t *data = malloc(INPUT_MAX);
        size_t size;

        if (!f || !data) {
                fprintf(stderr, "%s: %s\n", path, strerror(errno));
                return EXIT_FAILURE;
        }
        size = fread(data, 1, INPUT_MAX, f);
        LLVMFuzzerTestOneInput(data, size);
        return EXIT_SUCCESS;
}

static int write_seeds(const char *folder) {
        for (unsigned i = 0; i < n_seeds; i++) {
                _cleanup_(freep) char *path = NULL;
                _cleanup_(fclosep) FILE *f = NULL;

                if (asprintf(&path, "%s/seed-%u", folder, i) < 0)
                        return EXIT_FAILURE;
                f = fopen(path, "we");
                if (!f || fwrite(seeds[i].data, 1, seeds[i].size, f) != seeds[i].size) {
                        fprintf(stderr, "%s: %s\n", path, strerror(errno));
                        return EXIT_FAILURE;
                }
        }
        return EXIT_SUCCESS;
}

static void make_seeds(void) {
        for (; n_seeds < SEEDS_MAX; n_seeds++) {
                struct seed *seed = &seeds[n_seeds];

                seed->data = fuzz_seed(n_seeds, &seed->size);
                if (!seed->data)
                        break;
                if (seed->size > INPUT_MAX)
                        abort();
        }
}

static void free_seeds(void) {
        while (n_seeds > 0)
                free(seeds[--n_seeds].data);
}

static void run_all(uint64_t first, uint64_t runs) {
        if (__sanitizer_set_death_callback)
                __sanitizer_set_death_callback(say_run);
        else
                for (size_t i = 0; i < 4; i++)
                        signal(((const int[]) { SIGSEGV, SIGBUS, SIGABRT, SIGFPE })[i], on_signal);
        for (unsigned i = 0; first == 0 && i < n_seeds; i++)
                LLVMFuzzerTestOneInput(seeds[i].data, seeds[i].size);
        for (uint64_t i = first; i < first + runs; i++)
                run_mutation(i);
        printf("%u seeds, %" PRIu64 " mutations\n", n_seeds, runs);
}

int main(int argc, char **argv) {
        static const struct option options[] = {
                { "runs", required_argument, NULL, 'r' },
                { "first", required_argument, NULL, 'f' },
                { "write-seeds", required_argument, NULL, 'w' },
                { .name = NULL },
        };
        uint64_t runs = 10000, first = 0;
        const char *folder = NULL;
        int c, r = EXIT_SUCCESS;

        while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
                switch (c) {
                case 'r':
                        runs = strtoull(optarg, NULL, 10);
                        break;
                case 'f':
                        first = strtoull(optarg, NULL, 10);
                        break;
                case 'w':
                        folder = optarg;
                        break;
                default:
                        return EXIT_FAILURE;
                }
        }
        make_seeds();
        if (folder)
                r = write_seeds(folder);
        else if (optind < argc)
                for (int i = optind; i < argc && r == EXIT_SUCCESS; i++)
                        r = run_file(argv[i]);
        else
                run_all(first, runs);
        free_seeds();
        return r;
}
