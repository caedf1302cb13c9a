/* SPDX-License-Identifier: MIT */
#pragma once

/* Shared memory of a connection: memfds that the daemon makes and seals, and how they are divided.
 *
 * Nobody can resize a sealed memfd, so nobody can make the other side take a SIGBUS. The daemon's own mapping
 * goes to the client as a second, read-only opening of the same file: mmap() with PROT_WRITE fails on it, and
 * mode 0600 stops another uid from opening it again through /proc. (A client of the daemon's own uid could,
 * but it could ptrace the daemon as well.) F_SEAL_FUTURE_WRITE would do the same for one life of the daemon;
 * after a restart the daemon could not map its own page writable any more. All functions are thread-safe. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/reason.h"
#include "wire.h"

enum {
        _SHM_E_SUCCESS,
        SHM_E_REFUSED, /* a size, a seal or a kind of file that is not as it must be; the reason says which */
};

enum {
        LAYOUT_ARENA_MIN = WIRE_PAGE,
        LAYOUT_ARENA_MAX = 1024 * 1024 * 1024,
};

/* Where things lie in the two mappings of a connection. All in bytes but `entries`. */
struct wire_layout {
        uint32_t entries;     /* slots of each ring, a power of two */
        uint64_t arena_size;  /* a multiple of WIRE_PAGE */
        uint64_t submissions; /* offset in the client mapping: entries × wire_submission */
        uint64_t arena;       /* offset in the client mapping */
        uint64_t client_size; /* of the client mapping */
        uint64_t completions; /* offset in the daemon mapping: entries × wire_completion */
        uint64_t daemon_size; /* of the daemon mapping */
};

/* The one place where the division is decided; both sides call it with the same two numbers and compare.
 * `arena_size` is rounded up to a page. Returns 0 or SHM_E_REFUSED: entries is not a power of two from
 * WIRE_ENTRIES_MIN to WIRE_ENTRIES_MAX, or arena_size is not from 1 to LAYOUT_ARENA_MAX. */
int wire_layout_init(struct wire_layout *ret, uint64_t entries, uint64_t arena_size, struct reason *reason);

/* Parts of a mapped connection; the mappings must be as large as the layout says. */
static inline struct wire_submission *wire_submissions(const struct wire_layout *layout,
                                                       void *client_mapping) {
        return (struct wire_submission *) ((uint8_t *) client_mapping + layout->submissions);
}

static inline struct wire_completion *wire_completions(const struct wire_layout *layout,
                                                       void *daemon_mapping) {
        return (struct wire_completion *) ((uint8_t *) daemon_mapping + layout->completions);
}

static inline uint8_t *wire_arena(const struct wire_layout *layout, void *client_mapping) {
        return (uint8_t *) client_mapping + layout->arena;
}

/* Makes a zeroed memfd of `size` bytes, close-on-exec, mode 0600, sealed against resizing and against more
 * seals. `name` is what /proc/PID/maps shows. The caller owns *ret_fd. Returns 0 or a negative errno. */
int shm_new(int *ret_fd, const char *name, uint64_t size);

/* Opens the memfd once more, read-only; needs /proc. The caller owns *ret_fd. Returns 0 or a
 * negative errno. */
int shm_reopen_read_only(int *ret_fd, int fd);

/* Whether a received descriptor is a memfd of exactly `size` bytes that nobody can resize. Returns 0,
 * SHM_E_REFUSED, or a negative errno. */
int shm_check(int fd, uint64_t size, struct reason *reason);

struct shm_mapping {
        void *address;
        size_t size;
};
#define SHM_MAPPING_NULL ((struct shm_mapping) {})

/* Maps `size` bytes of the memfd, shared. Of a received one only after shm_check(). The descriptor may be
 * closed afterwards. Returns 0 or a negative errno (-EACCES: `writable` on a read-only descriptor). */
int shm_map(struct shm_mapping *ret, int fd, uint64_t size, bool writable);
void shm_unmap(struct shm_mapping *mapping);
