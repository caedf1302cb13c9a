/* SPDX-License-Identifier: MIT */
#pragma once

/* For two that each store a word and then load the other's: with a full fence between the store and the load of both,
 * at least one of them sees what the other stored. Sequentially consistent accesses promise as much, but not
 * everywhere: qemu 7.2 lets aarch64's load-acquire pass the store-release before it. */

#include <stdatomic.h>
#include <stdint.h>

#if defined(__SANITIZE_THREAD__)
#define FENCE_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FENCE_THREAD_SANITIZER 1
#endif
#endif

/* Full fence between what was stored before and what is loaded after. */
static inline void full_fence(void) {
#ifdef FENCE_THREAD_SANITIZER
        /* It knows no fences, but an exchange is one on every machine that it runs on. */
        static _Atomic uint32_t word;
        atomic_fetch_add(&word, 1);
#else
        atomic_thread_fence(memory_order_seq_cst);
#endif
}
