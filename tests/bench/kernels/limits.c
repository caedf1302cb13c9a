/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "base/util.h"
#include "limits.h"

struct read_work {
        const char *data;
        uint64_t sink;
};

enum { READ_PIECE = 1 << 20, PEAK_PIECES = 64, PEAK_ROUNDS = 100000 };

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2"))) static void read_piece(void *arg, uint64_t begin, uint64_t end,
                                                       unsigned worker) {
        struct read_work *w = arg;
        __m256i sums[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                           _mm256_setzero_si256()};

        for (const char *p = w->data + begin * READ_PIECE; p < w->data + end * READ_PIECE; p += 128)
                for (unsigned k = 0; k < 4; k++)
                        sums[k] = _mm256_xor_si256(sums[k], _mm256_load_si256((const void *) (p + 32 * k)));
        sums[0] = _mm256_xor_si256(_mm256_xor_si256(sums[0], sums[1]), _mm256_xor_si256(sums[2], sums[3]));
        __atomic_fetch_xor(&w->sink, (uint64_t) _mm256_extract_epi64(sums[0], 0), __ATOMIC_RELAXED);
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

static const struct {
        const char *isa;
        pool_fn *int8, *f32;
        unsigned int8_lanes, f32_lanes;
} peaks[] = {
        {"avx512", int8_avx512, f32_avx512, 64, 16},
        {"avx2", int8_avx2, f32_avx2, 32, 8},
};

static double peak(struct pool *pool, pool_fn *fn, unsigned lanes) {
        uint64_t begin = now_nsec();

        pool_run(pool, PEAK_PIECES, 1, fn, NULL);
        return (double) PEAK_PIECES * PEAK_ROUNDS * CHAINS * lanes / (double) (now_nsec() - begin) * 1e9;
}

double limit_int8(struct pool *pool, const char *isa) {
        for (unsigned i = 0; i < ELEMENTS(peaks); i++)
                if (strcmp(peaks[i].isa, isa) == 0)
                        return peak(pool, peaks[i].int8, peaks[i].int8_lanes);
        return 0.0;
}

double limit_f32(struct pool *pool, const char *isa) {
        for (unsigned i = 0; i < ELEMENTS(peaks); i++)
                if (strcmp(peaks[i].isa, isa) == 0)
                        return peak(pool, peaks[i].f32, peaks[i].f32_lanes);
        return 0.0;
}
#else
static void read_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        struct read_work *w = arg;
        uint64_t sum = 0;

        for (const uint64_t *p = (const void *) (w->data + begin * READ_PIECE);
             (const char *) p < w->data + end * READ_PIECE; p++)
                sum ^= *p;
        __atomic_fetch_xor(&w->sink, sum, __ATOMIC_RELAXED);
}

double limit_int8(struct pool *pool, const char *isa) {
        return 0.0;
}

double limit_f32(struct pool *pool, const char *isa) {
        return 0.0;
}
#endif

double limit_read(struct pool *pool, const void *data, uint64_t bytes) {
        struct read_work w = {.data = data};
        uint64_t begin = now_nsec();

        pool_run(pool, bytes / READ_PIECE, 1, read_piece, &w);
        return (double) (bytes / READ_PIECE * READ_PIECE) / (double) (now_nsec() - begin) * 1e9;
}
