/* SPDX-License-Identifier: MIT */
/* Both ends of a ring against a peer that stores whatever it likes into its index: five bytes a step, what to
 * do and a number. The slots lie on the heap and end where the ring ends, so that a sanitizer sees a step
 * beyond. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "notify.h"
#include "ring.h"

enum { STEP = 5 };
enum { SET_INDEX, MOVE_INDEX, TAKE, READY, PUT, PUBLISH, SPACE, WAKE, RESTART, N_STEPS };

static void check(bool holds) {
        if (!holds)
                abort();
}

struct ring {
        struct wire_client_page client;
        struct wire_daemon_page daemon;
        struct wire_submission *submissions;
        struct wire_completion *completions;
        struct ring_reader reader; /* the daemon's ends */
        struct ring_writer writer;
        struct notify_waker waker;
        uint32_t entries;
};

static void ring_start(struct ring *ring, uint32_t head, uint32_t tail) {
        ring_reader_init(&ring->reader, &ring->daemon.submission_head, &ring->client.submission_tail,
                         ring->submissions, ring->entries, head);
        ring_writer_init(&ring->writer, &ring->client.completion_head, &ring->daemon.completion_tail,
                         ring->completions, ring->entries, tail);
}

static void ring_step(struct ring *ring, uint8_t what, uint32_t number) {
        struct wire_completion completion = { .request = number };
        struct wire_submission submission;
        uint32_t n = 0, head = ring->reader.head, tail = ring->writer.tail;
        int r;

        switch (what % N_STEPS) {
        case SET_INDEX:
                ring->client.submission_tail = number;
                ring->client.completion_head = number >> 1;
                break;
        case MOVE_INDEX:
                ring->client.submission_tail += number & 0xff;
                ring->client.completion_head += number >> 8 & 0xff;
                break;
        case TAKE:
                r = ring_take(&ring->reader, &submission);
                check(r == 0 || r == RING_E_EMPTY || r == RING_E_BROKEN);
                check(ring->reader.head == head + (r == 0));
                break;
        case READY:
                r = ring_ready(&ring->reader, &n);
                check((r == 0 || r == RING_E_BROKEN) && n <= ring->entries);
                break;
        case PUT:
                r = ring_put(&ring->writer, &completion);
                check(r == 0 || r == RING_E_FULL || r == RING_E_BROKEN);
                check(ring->writer.tail == tail + (r == 0));
                check(ring->writer.tail - ring->writer.seen <= ring->entries);
                break;
        case PUBLISH:
                n = ring->daemon.completion_tail;
                check(ring_publish(&ring->writer) == (n != tail) && ring->daemon.completion_tail == tail);
                break;
        case SPACE:
                r = ring_space(&ring->writer, &n);
                check((r == 0 || r == RING_E_BROKEN) && n <= ring->entries);
                break;
        case WAKE:
                ring->client.waiting = number;
                notify_wake_client(&ring->waker);
                break;
        default:
                ring_start(ring, ring->daemon.submission_head, ring->daemon.completion_tail);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct ring ring = {};
        uint32_t start;

        if (size < STEP)
                return 0;
        ring.entries = WIRE_ENTRIES_MIN << data[0] % 3;
        memcpy(&start, data + 1, sizeof(start));
        ring.submissions = calloc(ring.entries, sizeof(*ring.submissions));
        ring.completions = calloc(ring.entries, sizeof(*ring.completions));
        check(ring.submissions && ring.completions);
        ring.client.submission_tail = ring.client.completion_head = start;
        ring_start(&ring, start, start);
        notify_waker_init(&ring.waker, &ring.client, &ring.daemon, -1);
        for (size_t i = STEP; i + STEP <= size; i += STEP) {
                uint32_t number;

                memcpy(&number, data + i + 1, sizeof(number));
                ring_step(&ring, data[i], number);
        }
        free(ring.submissions);
        free(ring.completions);
        return 0;
}

uint8_t *fuzz_seed(unsigned number, size_t *ret_size) {
        static const uint8_t steps[][16] = {
                { PUT, PUT, PUBLISH, WAKE, SPACE, MOVE_INDEX, TAKE, READY, PUT, PUBLISH, TAKE, TAKE, RESTART,
                  PUT, TAKE },
                { MOVE_INDEX, TAKE, TAKE, TAKE, TAKE, TAKE, TAKE, TAKE, TAKE, TAKE, SET_INDEX, TAKE, READY,
                  SPACE, PUT },
                { PUT, PUT, PUT, PUT, PUT, PUT, PUT, PUT, PUT, PUBLISH, MOVE_INDEX, PUT, PUT, SET_INDEX, PUT,
                  SPACE },
        };
        uint8_t *seed;

        if (number >= sizeof(steps) / sizeof(steps[0]))
                return NULL;
        *ret_size = STEP + STEP * sizeof(steps[0]);
        seed = calloc(1, *ret_size);
        check(seed);
        memset(seed + 1, 0xff, STEP - 1); /* starts where indices wrap */
        for (size_t i = 0; i < sizeof(steps[0]); i++) {
                seed[STEP + STEP * i] = steps[number][i];
                seed[STEP + STEP * i + 1] = 8;
                seed[STEP + STEP * i + 2] = 2;
        }
        return seed;
}
