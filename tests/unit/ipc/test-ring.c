/* SPDX-License-Identifier: MIT */
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"
#include "ring.h"
#include "test.h"

enum { ENTRIES = 8 };

struct fixture {
        _Alignas(WIRE_LINE) _Atomic uint32_t head;
        _Alignas(WIRE_LINE) _Atomic uint32_t tail;
        _Alignas(WIRE_LINE) struct wire_submission slots[ENTRIES];
        struct ring_reader reader;
        struct ring_writer writer;
};

static void fixture_init(struct fixture *f, uint32_t start) {
        memset(f, 0, sizeof(*f));
        ring_reader_init(&f->reader, &f->head, &f->tail, f->slots, ENTRIES, start);
        ring_writer_init(&f->writer, &f->head, &f->tail, f->slots, ENTRIES, start);
}

static int put(struct fixture *f, uint64_t request) {
        struct wire_submission s = { .request = request, .reserved[3] = ~request };

        return ring_put(&f->writer, &s);
}

static int take(struct fixture *f, uint64_t *ret) {
        struct wire_submission s;
        int r = ring_take(&f->reader, &s);

        if (r == 0) {
                assert_se(s.reserved[3] == ~s.request);
                *ret = s.request;
        }
        return r;
}

TEST(a_slot_is_seen_after_publishing_and_not_before) {
        struct fixture f;
        uint64_t request = 0;

        fixture_init(&f, 0);
        assert_se(!ring_publish(&f.writer));
        assert_se(take(&f, &request) == RING_E_EMPTY);
        assert_se(put(&f, 7) == 0);
        assert_se(put(&f, 8) == 0);
        assert_se(take(&f, &request) == RING_E_EMPTY);
        assert_se(ring_publish(&f.writer));
        assert_se(!ring_publish(&f.writer));
        assert_se(take(&f, &request) == 0 && request == 7);
        assert_se(take(&f, &request) == 0 && request == 8);
        assert_se(take(&f, &request) == RING_E_EMPTY && request == 8);
}

TEST(exactly_as_many_slots_as_entries_fit) {
        struct fixture f;
        uint64_t request;
        uint32_t n;

        fixture_init(&f, 0);
        assert_se(ring_space(&f.writer, &n) == 0 && n == ENTRIES);
        for (uint64_t i = 0; i < ENTRIES; i++)
                assert_se(put(&f, i) == 0);
        assert_se(put(&f, 99) == RING_E_FULL);
        assert_se(ring_space(&f.writer, &n) == 0 && n == 0);
        assert_se(ring_ready(&f.reader, &n) == 0 && n == 0);
        ring_publish(&f.writer);
        assert_se(ring_ready(&f.reader, &n) == 0 && n == ENTRIES);
        assert_se(take(&f, &request) == 0 && request == 0);
        assert_se(put(&f, ENTRIES) == 0);
        assert_se(put(&f, 99) == RING_E_FULL);
        ring_publish(&f.writer);
        for (uint64_t i = 1; i <= ENTRIES; i++)
                assert_se(take(&f, &request) == 0 && request == i);
        assert_se(take(&f, &request) == RING_E_EMPTY);
}

TEST(indices_wrap_at_2_to_the_32) {
        struct fixture f;
        uint64_t request, next = 0, seen = 0;

        fixture_init(&f, UINT32_MAX - 20);
        for (unsigned round = 0; round < 100; round++) {
                unsigned n = round % (ENTRIES + 1);

                for (unsigned i = 0; i < n; i++)
                        assert_se(put(&f, next++) == 0);
                ring_publish(&f.writer);
                for (unsigned i = 0; i < n; i++)
                        assert_se(take(&f, &request) == 0 && request == seen++);
                assert_se(take(&f, &request) == RING_E_EMPTY);
        }
        assert_se(f.head == (uint32_t) (UINT32_MAX - 20 + next));
}

TEST(a_tail_that_no_writer_could_publish_is_broken) {
        static const uint32_t starts[] = { 0, 5, UINT32_MAX - 3, UINT32_MAX };

        for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++) {
                uint32_t start = starts[i];
                struct fixture f;
                uint64_t request;
                uint32_t n = 1234;

                fixture_init(&f, start);
                f.tail = start + ENTRIES + 1;
                assert_se(ring_ready(&f.reader, &n) == RING_E_BROKEN && n == 1234);
                assert_se(take(&f, &request) == RING_E_BROKEN);
                f.tail = start - 1;
                assert_se(take(&f, &request) == RING_E_BROKEN);
                f.tail = start + UINT32_MAX / 2;
                assert_se(take(&f, &request) == RING_E_BROKEN);
                assert_se(f.head == start && f.reader.head == start);
                f.tail = start + ENTRIES;
                assert_se(ring_ready(&f.reader, &n) == 0 && n == ENTRIES);
                /* Back to what was there before. */
                f.tail = start + 2;
                assert_se(ring_ready(&f.reader, &n) == RING_E_BROKEN);
        }
}

TEST(a_head_that_no_reader_could_publish_is_broken) {
        struct fixture f;
        uint64_t request;
        uint32_t n;

        fixture_init(&f, 3);
        for (uint64_t i = 0; i < ENTRIES; i++)
                assert_se(put(&f, i) == 0);
        f.head = 4; /* taken before it was published */
        assert_se(put(&f, 9) == RING_E_BROKEN);
        f.head = 3;
        ring_publish(&f.writer);
        assert_se(take(&f, &request) == 0);
        assert_se(put(&f, 9) == 0);
        f.head = 3; /* given back, and taken again */
        assert_se(ring_space(&f.writer, &n) == RING_E_BROKEN);
        f.head = 3 + ENTRIES + 1;
        assert_se(ring_space(&f.writer, &n) == RING_E_BROKEN);
        f.head = 2;
        assert_se(put(&f, 9) == RING_E_BROKEN);
        f.head = 3 + ENTRIES;
        assert_se(put(&f, 9) == 0);
}

TEST(each_side_goes_on_after_a_restart_where_it_was) {
        struct fixture f;
        uint64_t request;

        fixture_init(&f, UINT32_MAX - 2);
        for (uint64_t i = 0; i < ENTRIES; i++)
                assert_se(put(&f, i) == 0);
        ring_publish(&f.writer);
        for (uint64_t i = 0; i < 5; i++)
                assert_se(take(&f, &request) == 0 && request == i);

        ring_reader_init(&f.reader, &f.head, &f.tail, f.slots, ENTRIES, f.head);
        ring_writer_init(&f.writer, &f.head, &f.tail, f.slots, ENTRIES, f.tail);
        for (uint64_t i = ENTRIES; i < ENTRIES + 5; i++)
                assert_se(put(&f, i) == 0);
        assert_se(put(&f, 99) == RING_E_FULL);
        ring_publish(&f.writer);
        for (uint64_t i = 5; i < ENTRIES + 5; i++)
                assert_se(take(&f, &request) == 0 && request == i);
        assert_se(take(&f, &request) == RING_E_EMPTY);
}

/* Pages that nobody may touch lie before and behind the slots. */
static void *guarded_slots(void) {
        uint8_t *map = mmap(NULL, 3 * WIRE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        assert_se(map != MAP_FAILED);
        assert_se(mprotect(map + WIRE_PAGE, WIRE_PAGE, PROT_READ | PROT_WRITE) == 0);
        return map + WIRE_PAGE;
}

enum { PAGE_ENTRIES = WIRE_PAGE / WIRE_SLOT };

struct scribbler {
        _Alignas(WIRE_LINE) _Atomic uint32_t head, tail, peer_tail, peer_head;
        _Atomic bool stop;
        _Atomic uint64_t *slots;
};

/* Sometimes what an honest peer could store, mostly not, and all over the slots while they are read. */
static void *scribble(void *userdata) {
        struct scribbler *s = userdata;
        uint64_t seed = 2463534242;

        while (!s->stop) {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                s->peer_tail = seed & 1 ? s->head + (uint32_t) (seed >> 8) % (PAGE_ENTRIES + 2)
                                        : (uint32_t) (seed >> 16);
                s->peer_head = seed & 2 ? s->tail - (uint32_t) (seed >> 24) % (PAGE_ENTRIES + 2)
                                        : (uint32_t) (seed >> 9);
                s->slots[seed % (WIRE_PAGE / sizeof(uint64_t))] = seed;
        }
        return NULL;
}

TEST(a_peer_that_scribbles_while_we_look_leads_us_nowhere) {
        struct scribbler s = { .slots = guarded_slots() };
        void *mine = guarded_slots();
        unsigned taken = 0, put = 0, broken = 0;
        struct ring_reader reader;
        struct ring_writer writer;
        pthread_t thread;

        ring_reader_init(&reader, &s.head, &s.peer_tail, s.slots, PAGE_ENTRIES, 0);
        ring_writer_init(&writer, &s.peer_head, &s.tail, mine, PAGE_ENTRIES, 0);
        assert_se(pthread_create(&thread, NULL, scribble, &s) == 0);
        for (uint64_t until = now_nsec() + NSEC_PER_SEC / 2; now_nsec() < until || taken == 0 || put == 0;) {
                struct wire_submission submission = {};
                int r;

                r = ring_take(&reader, &submission);
                taken += r == 0;
                if (r == RING_E_BROKEN) /* the end of that connection; here comes the next */
                        ring_reader_init(&reader, &s.head, &s.peer_tail, s.slots, PAGE_ENTRIES, reader.head);
                broken += r == RING_E_BROKEN;
                r = ring_put(&writer, &submission);
                put += r == 0;
                if (r == RING_E_BROKEN)
                        ring_writer_init(&writer, &s.peer_head, &s.tail, mine, PAGE_ENTRIES, writer.tail);
                ring_publish(&writer);
        }
        s.stop = true;
        assert_se(pthread_join(thread, NULL) == 0);
        assert_se(taken > 0 && put > 0 && broken > 0);
}
