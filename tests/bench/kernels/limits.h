/* SPDX-License-Identifier: MIT */
#pragma once

/* What the machine can do at most, measured: against these the benchmarks print shares. */

#include <stdbool.h>
#include <stdint.h>

#include "pool.h"

struct limits {
        double read_one, read_all; /* bytes per second from memory, of one thread and of all */
        /* Multiply-adds per second of all threads from registers, of 16-bit floats and of 8-bit integers: of
         * the matrix unit, or of the best vector instruction (float32 then) where there is none. 0: not known
         * for this machine. */
        double bf16, int8;
        bool matrix; /* there is a matrix unit that this process may use */
        unsigned threads;
};

/* Measures all of them, reading over `bytes` of memory (more than the caches hold), as the best of a few
 * looks each. Works in a child of its own, so that neither its memory nor the matrix unit's state stays
 * behind. Negative errno: there was no memory for it, or the child failed. */
int limits_measure(struct limits *ret, uint64_t bytes);

/* Bytes per second of reading `bytes` of `data`, from memory when it is larger than the caches: in one place a thread or
 * in two, whichever is faster. */
double limit_read(struct pool *pool, const void *data, uint64_t bytes);

/* Multiply-adds per second from registers alone, by the best instruction that a variant of this name may use;
 * 0: not measured. bf16: of 16-bit floats where it has such, else of float32. */
double limit_int8(struct pool *pool, const char *isa);
double limit_bf16(struct pool *pool, const char *isa);
double limit_f32(struct pool *pool, const char *isa);
