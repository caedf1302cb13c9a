/* SPDX-License-Identifier: MIT */
#pragma once

/* Single-producer single-consumer rings of 64-byte slots over the pages of wire.h, between two processes that
 * don't trust each other.
 *
 * What decides which memory is touched — base, number of entries, the own index — is private to each side,
 * set when the ring was made, and never read back from shared memory. Of the peer only its index is read, and
 * an index that no honest peer could publish is RING_E_BROKEN: for the daemon, the end of that connection.
 * Slots are copied out with one load per word and only the copy is looked at; the peer may scribble over the
 * slot meanwhile.
 *
 * Indices run freely, so that `tail - head` is the number of slots in use, modulo 2^32. Each side keeps the
 * last peer index that it saw and looks again only when that one is used up: while both are busy, the line
 * with the index moves between the cores once in many slots. A reader or a writer belongs to one thread.
 * Nothing here is a system call. */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "wire.h"

enum {
        _RING_E_SUCCESS,
        RING_E_EMPTY,  /* nothing to take now */
        RING_E_FULL,   /* no slot free now */
        RING_E_BROKEN, /* the peer's index is impossible: it is faulty or hostile */
};

struct ring_reader {
        const _Atomic uint32_t *shared_tail; /* the peer writes */
        _Atomic uint32_t *shared_head;       /* we write, and never read */
        const uint8_t *slots;
        uint32_t entries, mask;
        uint32_t head; /* next slot to take */
        uint32_t seen; /* tail when last looked at */
};

struct ring_writer {
        const _Atomic uint32_t *shared_head; /* the peer writes */
        _Atomic uint32_t *shared_tail;       /* we write, and never read */
        uint8_t *slots;
        uint32_t entries, mask;
        uint32_t tail;      /* next slot to fill */
        uint32_t published; /* tail that the peer has been told */
        uint32_t seen;      /* head when last looked at */
};

/* `entries` is a power of two and says how many slots lie at `slots`. `start` is the own index: 0 for a fresh
 * ring; after a restart what this side last stored in memory that the peer cannot write. It is stored to the
 * shared word. */
void ring_reader_init(struct ring_reader *ret, _Atomic uint32_t *shared_head,
                      const _Atomic uint32_t *shared_tail, const void *slots, uint32_t entries,
                      uint32_t start);
void ring_writer_init(struct ring_writer *ret, const _Atomic uint32_t *shared_head,
                      _Atomic uint32_t *shared_tail, void *slots, uint32_t entries, uint32_t start);

/* Looks at the peer's index and stores how many slots can be taken: 0 to entries. Returns 0 or
 * RING_E_BROKEN. */
int ring_ready(struct ring_reader *reader, uint32_t *ret);

/* Copies the next slot to `ret` (WIRE_SLOT bytes, aligned to 8) and gives it back to the writer.
 * Returns 0, RING_E_EMPTY, or RING_E_BROKEN. */
int ring_take(struct ring_reader *reader, void *ret);

/* Looks at the peer's index and stores how many slots can be filled: 0 to entries. Returns 0 or
 * RING_E_BROKEN. */
int ring_space(struct ring_writer *writer, uint32_t *ret);

/* Copies `slot` (WIRE_SLOT bytes, aligned to 8) into the next free slot. The peer sees it, and all put before
 * it, after ring_publish(). Returns 0, RING_E_FULL (publish before waiting for space), or RING_E_BROKEN. */
int ring_put(struct ring_writer *writer, const void *slot);

/* Shows the peer what was put. Returns whether there was anything new; then the peer may have to be woken
 * (notify.h). */
bool ring_publish(struct ring_writer *writer);
