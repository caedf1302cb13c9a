/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "ring.h"

enum { SLOT_WORDS = WIRE_SLOT / sizeof(uint64_t) };

void ring_reader_init(struct ring_reader *ret, _Atomic uint32_t *shared_head,
                      const _Atomic uint32_t *shared_tail, const void *slots, uint32_t entries,
                      uint32_t start) {
        *ret = (struct ring_reader) {
                .shared_tail = shared_tail,
                .shared_head = shared_head,
                .slots = slots,
                .entries = entries,
                .mask = entries - 1,
                .head = start,
                .seen = start,
        };
        atomic_store_explicit(shared_head, start, memory_order_release);
}

void ring_writer_init(struct ring_writer *ret, const _Atomic uint32_t *shared_head,
                      _Atomic uint32_t *shared_tail, void *slots, uint32_t entries, uint32_t start) {
        *ret = (struct ring_writer) {
                .shared_head = shared_head,
                .shared_tail = shared_tail,
                .slots = slots,
                .entries = entries,
                .mask = entries - 1,
                .tail = start,
                .published = start,
                /* Full until the reader's index is looked at: after a restart slots may still be unread. */
                .seen = start - entries,
        };
        atomic_store_explicit(shared_tail, start, memory_order_release);
}

int ring_ready(struct ring_reader *reader, uint32_t *ret) {
        /* Acquire: the slots up to this tail are filled before we read them. */
        uint32_t tail = atomic_load_explicit(reader->shared_tail, memory_order_acquire);

        /* No honest writer gets more than a ring ahead of us, nor behind what it has published before. */
        if (tail - reader->head > reader->entries || tail - reader->seen > reader->entries)
                return RING_E_BROKEN;
        reader->seen = tail;
        *ret = tail - reader->head;
        return 0;
}

static const volatile uint64_t *slot_at(const uint8_t *slots, uint32_t i) {
        return (const volatile uint64_t *) (slots + (size_t) i * WIRE_SLOT);
}

int ring_take(struct ring_reader *reader, void *ret) {
        const volatile uint64_t *slot;
        uint64_t *copy = ret;
        uint32_t ready;
        int r;

        if (reader->head == reader->seen) {
                r = ring_ready(reader, &ready);
                if (r)
                        return r;
                if (ready == 0)
                        return RING_E_EMPTY;
        }
        slot = slot_at(reader->slots, reader->head & reader->mask);
        /* Volatile: one load per word. The compiler may not go back to the slot after judging. */
        for (unsigned i = 0; i < SLOT_WORDS; i++)
                copy[i] = slot[i];
        /* Release: the copy is complete before the writer may fill the slot again. */
        atomic_store_explicit(reader->shared_head, ++reader->head, memory_order_release);
        return 0;
}

int ring_space(struct ring_writer *writer, uint32_t *ret) {
        /* Acquire: the reader has copied the slots up to this head before we fill them again. */
        uint32_t head = atomic_load_explicit(writer->shared_head, memory_order_acquire);

        /* No honest reader takes what was not published, nor goes back. */
        if (writer->published - head > writer->entries || head - writer->seen > writer->entries)
                return RING_E_BROKEN;
        writer->seen = head;
        *ret = writer->entries - (writer->tail - head);
        return 0;
}

int ring_put(struct ring_writer *writer, const void *slot) {
        uint32_t space;
        int r;

        if (writer->tail - writer->seen == writer->entries) {
                r = ring_space(writer, &space);
                if (r)
                        return r;
                if (space == 0)
                        return RING_E_FULL;
        }
        memcpy(writer->slots + (size_t) (writer->tail & writer->mask) * WIRE_SLOT, slot, WIRE_SLOT);
        writer->tail++;
        return 0;
}

/* Takes the line of the next slot away from the reader's core while nobody waits for it. (GCC's builtin
 * prefetches for reading unless it is told of the machine; every x86-64 takes this, some as a no-op.) */
static void prefetch_next(const struct ring_writer *writer) {
        const uint8_t *slot = writer->slots + (size_t) (writer->tail & writer->mask) * WIRE_SLOT;

#ifdef __x86_64__
        __asm__ volatile("prefetchw %0" : : "m"(*slot));
#else
        __builtin_prefetch(slot, 1);
#endif
}

bool ring_publish(struct ring_writer *writer) {
        if (writer->tail == writer->published)
                return false;
        writer->published = writer->tail;
        /* Release: the slots are filled before the reader sees that they are. */
        atomic_store_explicit(writer->shared_tail, writer->tail, memory_order_release);
        prefetch_next(writer);
        return true;
}
