/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "limits.h"
#include "machine.h"
#include "variant.h"

struct read_work {
        const char *data;
        bool halves; /* of a piece side by side: some processors' prefetchers do more for two streams */
        uint64_t sink;
};

enum { READ_PIECE = 1 << 20, PEAK_PIECES = 64, PEAK_ROUNDS = 100000, TILE_ROUNDS = 20000, LOOKS = 3, PEAK_LOOKS = 12 };

#if defined(__x86_64__)
#include <immintrin.h>

/* Four loads that are independent of each other. */
#define READ(_name, _target, _vector, _zero, _xor, _load, _first)                                            \
        __attribute__((target(_target))) static void _name(void *arg, uint64_t begin, uint64_t end,          \
                                                           unsigned worker) {                                \
                enum { SIZE = sizeof(_vector) };                                                             \
                struct read_work *w = arg;                                                                   \
                size_t apart = w->halves ? READ_PIECE / 2 : 2 * SIZE, step = w->halves ? 2 * SIZE : 4 * SIZE; \
                size_t bytes = w->halves ? READ_PIECE / 2 : READ_PIECE;                                      \
                _vector sums[4] = {_zero, _zero, _zero, _zero};                                              \
                                                                                                             \
                for (uint64_t i = begin; i < end; i++) {                                                     \
                        const char *piece = w->data + i * READ_PIECE;                                        \
                                                                                                             \
                        for (const char *p = piece; p < piece + bytes; p += step)                            \
                                for (unsigned k = 0; k < 4; k++)                                             \
                                        sums[k] = _xor(sums[k],                                              \
                                                       _load((const void *) (p + k / 2 * apart + k % 2 * SIZE))); \
                }                                                                                            \
                sums[0] = _xor(_xor(sums[0], sums[1]), _xor(sums[2], sums[3]));                              \
                __atomic_fetch_xor(&w->sink, (uint64_t) _first(sums[0]), __ATOMIC_RELAXED);                  \
        }

#define FIRST_AVX2(_v)   _mm256_extract_epi64(_v, 0)
#define FIRST_AVX512(_v) _mm_cvtsi128_si64(_mm512_castsi512_si128(_v))

READ(read_avx2, "avx2", __m256i, _mm256_setzero_si256(), _mm256_xor_si256, _mm256_load_si256, FIRST_AVX2)
READ(read_avx512, "avx512f", __m512i, _mm512_setzero_si512(), _mm512_xor_si512, _mm512_load_si512,
     FIRST_AVX512)

static pool_fn *reader(void) {
        return machine_cpu_bits() & CPU_AVX512 ? read_avx512 : read_avx2;
}

/* Twelve independent chains: more than latency × throughput of any of these. The empty assembly keeps a
 * register's value unknown, so that nothing is computed ahead. */
#define CHAINS 12
#define PEAK(_name, _target, _vector, _zero, _step)                                                          \
        __attribute__((target(_target))) static void _name(void *arg, uint64_t begin, uint64_t end,          \
                                                           unsigned worker) {                                \
                _vector sums[CHAINS], a = _zero, b = _zero;                                                  \
                                                                                                             \
                for (unsigned k = 0; k < CHAINS; k++)                                                        \
                        sums[k] = _zero;                                                                     \
                for (uint64_t i = begin * PEAK_ROUNDS; i < end * PEAK_ROUNDS; i++) {                         \
                        __asm__ volatile("" : "+x"(a), "+x"(b));                                             \
                        _Pragma("GCC unroll 12") for (unsigned k = 0; k < CHAINS; k++) sums[k] = _step;      \
                }                                                                                            \
                for (unsigned k = 0; k < CHAINS; k++)                                                        \
                        __asm__ volatile("" : : "x"(sums[k]));                                               \
        }

PEAK(int8_avx512, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), _mm512_dpbusd_epi32(sums[k], a, b))
PEAK(int8_avx2, "avx2", __m256i, _mm256_setzero_si256(),
     _mm256_add_epi32(sums[k], _mm256_madd_epi16(_mm256_maddubs_epi16(a, _mm256_xor_si256(b, sums[k])), b)))
PEAK(f32_avx512, "avx512f", __m512, _mm512_setzero_ps(), _mm512_fmadd_ps(a, b, sums[k]))
PEAK(f32_avx2, "avx2,fma", __m256, _mm256_setzero_ps(), _mm256_fmadd_ps(a, b, sums[k]))

/* Tile configuration, palette 1: Intel SDM volume 1, 18.2. All eight tiles are 16 rows of 64 bytes. */
struct tiles {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
};

enum { FACTORS = 4, TILE_WORDS = 512 };

/* Numbers without a pattern: of zeros the unit multiplies a fifth more in the same time, for it then needs less
 * power. */
static void fill_factors(uint16_t factors[FACTORS][TILE_WORDS], uint16_t same, uint16_t random) {
        uint32_t state = 1;

        for (unsigned i = 0; i < FACTORS * TILE_WORDS; i++) {
                state = state * 1664525 + 1013904223;
                factors[i / TILE_WORDS][i % TILE_WORDS] = (uint16_t) (same + (state >> 16 & random));
        }
}

/* Four sums, each of the products of two of the four other tiles: they hide the instruction's latency.
 * Written out as assembly whose operand is the whole structure: the intrinsic of gcc 12 names its first 8
 * bytes only, and stores to the others are dropped. */
#define TILES(_name, _target, _step, _same, _random)                                                         \
        __attribute__((target("amx-tile," _target))) static void _name(void *arg, uint64_t begin,            \
                                                                       uint64_t end, unsigned worker) {      \
                _Alignas(64) uint16_t factors[FACTORS][TILE_WORDS];                                          \
                struct tiles tiles = {.palette = 1};                                                         \
                for (unsigned t = 0; t < 8; t++) {                                                           \
                        tiles.row_bytes[t] = 64;                                                             \
                        tiles.rows[t] = 16;                                                                  \
                }                                                                                            \
                fill_factors(factors, _same, _random);                                                       \
                __asm__ volatile("ldtilecfg %0\n\ttileloadd (%1,%5), %%tmm4\n\t"                             \
                                 "tileloadd (%2,%5), %%tmm5\n\ttileloadd (%3,%5), %%tmm6\n\t"               \
                                 "tileloadd (%4,%5), %%tmm7"                                                 \
                                 :                                                                           \
                                 : "m"(tiles), "r"(factors[0]), "r"(factors[1]), "r"(factors[2]),            \
                                   "r"(factors[3]), "r"(UINT64_C(64))                                        \
                                 : "memory");                                                                \
                for (uint64_t i = begin * TILE_ROUNDS; i < end * TILE_ROUNDS; i++)                           \
                        __asm__ volatile(_step " %tmm6, %tmm4, %tmm0\n\t" _step                              \
                                               " %tmm7, %tmm4, %tmm1\n\t" _step                              \
                                               " %tmm6, %tmm5, %tmm2\n\t" _step " %tmm7, %tmm5, %tmm3");     \
                __asm__ volatile("tilerelease" ::: "memory");                                                \
        }

TILES(tiles_int8, "amx-int8", "tdpbssd", 0, 0xffff)
TILES(tiles_bf16, "amx-bf16", "tdpbf16ps", 0x3e00, 0x81ff) /* of either sign, 0.125 to 2 */

/* A rate, and the multiply-adds of a piece. */
struct peak {
        pool_fn *fn;
        double products;
};

#define VECTOR(_fn, _lanes)                                                                                  \
        { _fn, (double) (_lanes) *PEAK_ROUNDS *CHAINS }
#define TILE(_fn, _row_products)                                                                             \
        { _fn, (double) (_row_products) *TILE_ROUNDS * 4 * 16 * 16 }

static const struct {
        const char *isa;
        struct peak int8, bf16, f32;
} peaks[] = {
        {"amx", TILE(tiles_int8, 64), TILE(tiles_bf16, 32), VECTOR(f32_avx512, 16)},
        {"avx512", VECTOR(int8_avx512, 64), VECTOR(f32_avx512, 16), VECTOR(f32_avx512, 16)},
        {"avx2", VECTOR(int8_avx2, 32), VECTOR(f32_avx2, 8), VECTOR(f32_avx2, 8)},
};

static double peak_rate(struct pool *pool, const struct peak *peak) {
        uint64_t begin = now_nsec();

        pool_run(pool, PEAK_PIECES, 1, peak->fn, NULL);
        return PEAK_PIECES * peak->products / (double) (now_nsec() - begin) * 1e9;
}

#define LIMIT(_name)                                                                                         \
        double limit_##_name(struct pool *pool, const char *isa) {                                           \
                for (unsigned i = 0; i < ELEMENTS(peaks); i++)                                               \
                        if (strcmp(peaks[i].isa, isa) == 0)                                                  \
                                return peak_rate(pool, &peaks[i]._name);                                     \
                return 0.0;                                                                                  \
        }
#else
static void read_words(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct read_work *w = arg;
        uint64_t sum = 0;

        for (const uint64_t *p = (const void *) (w->data + begin * READ_PIECE);
             (const char *) p < w->data + end * READ_PIECE; p++)
                sum ^= *p;
        __atomic_fetch_xor(&w->sink, sum, __ATOMIC_RELAXED);
}

static pool_fn *reader(void) {
        return read_words;
}

#define LIMIT(_name)                                                                                         \
        double limit_##_name(struct pool *pool, const char *isa) {                                           \
                return 0.0;                                                                                  \
        }
#endif

LIMIT(int8)
LIMIT(bf16)
LIMIT(f32)

static double read_rate(struct pool *pool, const void *data, uint64_t bytes, bool halves) {
        struct read_work w = {.data = data, .halves = halves};
        uint64_t begin = now_nsec();

        pool_run(pool, bytes / READ_PIECE, 1, reader(), &w);
        return (double) (bytes / READ_PIECE * READ_PIECE) / (double) (now_nsec() - begin) * 1e9;
}

double limit_read(struct pool *pool, const void *data, uint64_t bytes) {
        double whole = read_rate(pool, data, bytes, false);

        return MAX(whole, read_rate(pool, data, bytes, true));
}

static void fill_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        memset((char *) arg + begin * READ_PIECE, 1, (end - begin) * READ_PIECE);
}

static int measure(struct limits *l, uint64_t bytes) {
        const char *isa = cpu_variant_choose(NULL, machine_cpu_bits())->name;
        struct pool *one, *all;
        void *data;

        bytes = bytes / READ_PIECE * READ_PIECE;
        data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (data == MAP_FAILED)
                return -errno;
        (void) madvise(data, bytes, MADV_HUGEPAGE);
        *l = (struct limits){.matrix = machine_cpu_bits() & CPU_AMX, .threads = machine_threads()};
        if (pool_new(&one, 1) || pool_new(&all, l->threads))
                return -ENOMEM;
        pool_run(all, bytes / READ_PIECE, 1, fill_piece, data);
        for (unsigned look = 0; look < LOOKS; look++) {
                l->read_one = MAX(l->read_one, limit_read(one, data, bytes));
                l->read_all = MAX(l->read_all, limit_read(all, data, bytes));
        }
        for (unsigned look = 0; look < PEAK_LOOKS; look++) {
                l->bf16 = MAX(l->bf16, limit_bf16(all, isa));
                l->int8 = MAX(l->int8, limit_int8(all, isa));
        }
        return 0;
}

int limits_measure(struct limits *ret, uint64_t bytes) {
        int ends[2], status, r;
        struct limits found;
        ssize_t n;
        pid_t pid;

        if (pipe(ends) < 0)
                return -errno;
        pid = fork();
        if (pid < 0) {
                r = -errno;
                close(ends[0]);
                close(ends[1]);
                return r;
        }
        if (pid == 0) {
                r = measure(&found, bytes);
                _exit(r == 0 && write(ends[1], &found, sizeof(found)) == sizeof(found) ? EXIT_SUCCESS
                                                                                       : EXIT_FAILURE);
        }
        close(ends[1]);
        n = read(ends[0], &found, sizeof(found));
        close(ends[0]);
        if (waitpid(pid, &status, 0) < 0 || n != sizeof(found))
                return -ENOMEM;
        *ret = found;
        return 0;
}
