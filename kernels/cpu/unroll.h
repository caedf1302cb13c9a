/* SPDX-License-Identifier: MIT */
#pragma once

/* Loops over register arrays must vanish, also where the compiler would rather keep code small. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define ALWAYS_INLINE static inline __attribute__((always_inline))
