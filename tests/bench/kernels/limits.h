/* SPDX-License-Identifier: MIT */
#pragma once

/* What the machine itself can do, measured with every thread that the benchmark uses, in the same run. */

#include <stdint.h>

#include "pool.h"

/* Bytes per second of reading `bytes` of `data` once, from memory when it is larger than the caches. */
double limit_read(struct pool *pool, const void *data, uint64_t bytes);

/* Multiply-adds per second from registers alone: of 8-bit integers and of float32, by the best instruction
 * that a variant of this name may use; 0: not measured. */
double limit_int8(struct pool *pool, const char *isa);
double limit_f32(struct pool *pool, const char *isa);
