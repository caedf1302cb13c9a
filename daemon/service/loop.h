/* SPDX-License-Identifier: MIT */
#pragma once

/* The daemon's only waiting place: one io_uring, on which descriptors are watched and connections accepted. Completions
 * are looked for in memory (loop_dispatch()), so a busy daemon makes no system call to learn that nothing happened;
 * loop_sleep() is the one call that waits. One thread, the one that called loop_init(). */

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>

/* `result`: poll events for loop_watch(), a new descriptor (the callee's) or a negative errno for loop_accept().
 * A negative return ends loop_dispatch() or loop_sleep() with that error. */
typedef int (*loop_callback)(void *userdata, int result);

struct loop_slot;

struct loop {
        struct io_uring ring;
        struct loop_slot *slots;
        uint32_t n_slots;
        uint32_t n_used;
        bool open;
};

/* Embedded in whatever it belongs to. LOOP_SOURCE_NULL is safe to remove. */
struct loop_source {
        struct loop *loop;
        uint32_t slot;
};
#define LOOP_SOURCE_NULL { .loop = NULL }

/* Negative errno: -ENOSYS, -EPERM where io_uring is missing or forbidden. */
int loop_init(struct loop *loop);
/* All sources must have been removed. */
void loop_deinit(struct loop *loop);

/* Calls back each time `fd` becomes readable or hangs up (an edge: the callback takes all there is, or remembers that
 * it did not). Watches until removed. The descriptor stays the caller's, who closes it after loop_source_remove(). */
int loop_watch(struct loop *loop, struct loop_source *source, int fd, loop_callback callback, void *userdata);
/* Accepts connections on `fd`, close-on-exec and non-blocking. After an error it accepts no more until
 * loop_source_resume(), so that a shortage of descriptors does not become a busy loop. */
int loop_accept(struct loop *loop, struct loop_source *source, int fd, loop_callback callback, void *userdata);
int loop_source_resume(struct loop_source *source);
/* No callback comes after this, not even for what has already happened. */
void loop_source_remove(struct loop_source *source);

/* Runs the callbacks of all that has completed; never sleeps, and enters the kernel only when there are new requests to
 * submit or the kernel's flag in shared memory says that completions wait there. */
int loop_dispatch(struct loop *loop);
/* Whether loop_dispatch() would find something; a look at memory. */
bool loop_pending(struct loop *loop);
/* Sleeps until something completes or `timeout` nanoseconds have passed (UINT64_MAX: for ever); runs no callback. */
int loop_sleep(struct loop *loop, uint64_t timeout);
