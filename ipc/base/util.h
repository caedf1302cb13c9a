/* SPDX-License-Identifier: MIT */
#pragma once

/* Small arithmetic that everything needs: extremes, rounding, overflow-checked sums, monotonic time. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define NSEC_PER_SEC UINT64_C(1000000000)
#define NSEC_PER_MSEC UINT64_C(1000000)
#define NSEC_PER_USEC UINT64_C(1000)

#define ELEMENTS(array) (sizeof(array) / sizeof((array)[0]))
#define MIN(a, b)                                                                                            \
        ({                                                                                                   \
                __typeof__(a) _min_a = (a);                                                                  \
                __typeof__(b) _min_b = (b);                                                                  \
                _min_a < _min_b ? _min_a : _min_b;                                                           \
        })
#define MAX(a, b)                                                                                            \
        ({                                                                                                   \
                __typeof__(a) _max_a = (a);                                                                  \
                __typeof__(b) _max_b = (b);                                                                  \
                _max_a > _max_b ? _max_a : _max_b;                                                           \
        })
#define DIV_ROUND_UP(n, d) (((n) + (d) - 1) / (d))
#define container_of(ptr, type, member) ((type *) ((char *) (ptr) - offsetof(type, member)))

/* Each returns true and stores the result, or returns false when the mathematical result does not fit. */
static inline bool add_u64(uint64_t a, uint64_t b, uint64_t *ret) {
        return !__builtin_add_overflow(a, b, ret);
}

static inline bool mul_u64(uint64_t a, uint64_t b, uint64_t *ret) {
        return !__builtin_mul_overflow(a, b, ret);
}

/* Rounds up to a power of two `to`; false when it would wrap. */
static inline bool align_u64(uint64_t a, uint64_t to, uint64_t *ret) {
        if (!add_u64(a, to - 1, &a))
                return false;
        *ret = a & ~(to - 1);
        return true;
}

static inline bool is_power_of_two(uint64_t n) {
        return n != 0 && (n & (n - 1)) == 0;
}

/* CLOCK_MONOTONIC in nanoseconds; served from the vDSO, not a system call. */
static inline uint64_t now_nsec(void) {
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t) ts.tv_sec * NSEC_PER_SEC + (uint64_t) ts.tv_nsec;
}
