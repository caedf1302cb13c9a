/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/util.h"
#include "loop.h"

enum {
        LOOP_ENTRIES = 256,
        LOOP_BATCH = 64, /* completions handled before the kernel gets their places back */
};

enum loop_kind {
        LOOP_FREE,
        LOOP_WATCH,
        LOOP_ACCEPT,
};

/* A completion names its slot and the slot's generation, so that one which comes late, after its source was removed,
 * finds nobody instead of freed memory. */
struct loop_slot {
        enum loop_kind kind;
        int fd;
        uint32_t generation;
        bool armed;
        loop_callback callback;
        void *userdata;
};

/* In the tag: what completes is a descriptor, to be closed if nobody is there to take it. */
#define TAG_ACCEPT UINT32_C(0x80000000)

static uint64_t slot_tag(const struct loop *loop, uint32_t slot) {
        uint32_t accept = loop->slots[slot].kind == LOOP_ACCEPT ? TAG_ACCEPT : 0;

        return (uint64_t) loop->slots[slot].generation << 32 | accept | (slot + 1);
}

int loop_init(struct loop *loop) {
        /* The kernel's own work for us waits until we look, and a flag in memory says that it does: no interruption
         * of a forward pass, no call to find out. */
        static const unsigned flags[] = {
                IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
                IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        };
        int r = -ENOSYS;

        *loop = (struct loop) {};
        for (size_t i = 0; i < ELEMENTS(flags); i++) {
                struct io_uring_params params = {
                        .flags = flags[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
                        .cq_entries = 8 * LOOP_ENTRIES,
                };

                r = io_uring_queue_init_params(LOOP_ENTRIES, &loop->ring, &params);
                if (r != -EINVAL)
                        break;
        }
        if (r < 0)
                return r;
        loop->open = true;
        return 0;
}

void loop_deinit(struct loop *loop) {
        if (loop->open)
                io_uring_queue_exit(&loop->ring);
        free(loop->slots);
        *loop = (struct loop) {};
}

static int loop_sqe(struct loop *loop, struct io_uring_sqe **ret) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&loop->ring);
        int r;

        if (!sqe) {
                r = io_uring_submit(&loop->ring);
                if (r < 0)
                        return r;
                sqe = io_uring_get_sqe(&loop->ring);
                if (!sqe)
                        return -EBUSY;
        }
        *ret = sqe;
        return 0;
}

static int loop_arm(struct loop *loop, uint32_t index) {
        struct loop_slot *slot = &loop->slots[index];
        struct io_uring_sqe *sqe;
        int r;

        r = loop_sqe(loop, &sqe);
        if (r < 0)
                return r;
        if (slot->kind == LOOP_ACCEPT)
                io_uring_prep_multishot_accept(sqe, slot->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        else
                io_uring_prep_poll_multishot(sqe, slot->fd, POLLIN | POLLRDHUP);
        io_uring_sqe_set_data64(sqe, slot_tag(loop, index));
        slot->armed = true;
        return 0;
}

static int loop_slot_find(struct loop *loop, uint32_t *ret) {
        struct loop_slot *grown;
        uint32_t n;

        if (loop->n_used < loop->n_slots) {
                for (uint32_t i = 0; i < loop->n_slots; i++)
                        if (loop->slots[i].kind == LOOP_FREE) {
                                *ret = i;
                                return 0;
                        }
        }
        n = loop->n_slots ? 2 * loop->n_slots : 16;
        grown = realloc(loop->slots, n * sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        for (uint32_t i = loop->n_slots; i < n; i++)
                grown[i] = (struct loop_slot) { .kind = LOOP_FREE };
        *ret = loop->n_slots;
        loop->slots = grown;
        loop->n_slots = n;
        return 0;
}

static int loop_add(struct loop *loop, struct loop_source *source, const struct loop_slot *what) {
        uint32_t index, generation;
        int r;

        r = loop_slot_find(loop, &index);
        if (r < 0)
                return r;
        generation = loop->slots[index].generation;
        loop->slots[index] = *what;
        loop->slots[index].generation = generation;
        r = loop_arm(loop, index);
        if (r < 0) {
                loop->slots[index].kind = LOOP_FREE;
                return r;
        }
        loop->n_used++;
        *source = (struct loop_source) { .loop = loop, .slot = index };
        return 0;
}

int loop_watch(struct loop *loop, struct loop_source *source, int fd, loop_callback callback, void *userdata) {
        struct loop_slot slot = { .kind = LOOP_WATCH, .fd = fd, .callback = callback, .userdata = userdata };

        return loop_add(loop, source, &slot);
}

int loop_accept(struct loop *loop, struct loop_source *source, int fd, loop_callback callback, void *userdata) {
        struct loop_slot slot = { .kind = LOOP_ACCEPT, .fd = fd, .callback = callback, .userdata = userdata };

        return loop_add(loop, source, &slot);
}

int loop_source_resume(struct loop_source *source) {
        if (!source->loop || source->loop->slots[source->slot].armed)
                return 0;
        return loop_arm(source->loop, source->slot);
}

void loop_source_remove(struct loop_source *source) {
        struct loop *loop = source->loop;
        struct loop_slot *slot;
        struct io_uring_sqe *sqe;

        if (!loop)
                return;
        slot = &loop->slots[source->slot];
        /* The request in the kernel holds the file open until it is cancelled; submitted by the next dispatch. */
        if (slot->armed && loop_sqe(loop, &sqe) == 0) {
                io_uring_prep_cancel64(sqe, slot_tag(loop, source->slot), 0);
                io_uring_sqe_set_data64(sqe, 0);
        }
        *slot = (struct loop_slot) { .kind = LOOP_FREE, .generation = slot->generation + 1 };
        loop->n_used--;
        *source = (struct loop_source) LOOP_SOURCE_NULL;
}

static int loop_complete(struct loop *loop, const struct io_uring_cqe *cqe) {
        uint32_t tag = (uint32_t) cqe->user_data & ~TAG_ACCEPT, generation = cqe->user_data >> 32;
        struct loop_slot *slot;
        int r;

        if (tag == 0 || tag > loop->n_slots)
                return 0;
        slot = &loop->slots[tag - 1];
        if (slot->generation != generation || slot->kind == LOOP_FREE) {
                if ((cqe->user_data & TAG_ACCEPT) && cqe->res >= 0)
                        close(cqe->res);
                return 0;
        }
        if (!(cqe->flags & IORING_CQE_F_MORE)) {
                slot->armed = false;
                /* The kernel also ends a multishot request when its completion queue was full for a moment. */
                if (cqe->res >= 0) {
                        r = loop_arm(loop, tag - 1);
                        if (r < 0)
                                return r;
                }
        }
        return slot->callback(slot->userdata, cqe->res);
}

int loop_dispatch(struct loop *loop) {
        struct io_uring_cqe *cqe;
        int r;

        if (io_uring_sq_ready(&loop->ring) > 0) {
                r = io_uring_submit(&loop->ring);
                if (r < 0 && r != -EINTR && r != -EBUSY && r != -EAGAIN)
                        return r;
        }
        for (int i = 0; i < LOOP_BATCH && io_uring_peek_cqe(&loop->ring, &cqe) == 0; i++) {
                struct io_uring_cqe copy = { .user_data = cqe->user_data, .res = cqe->res, .flags = cqe->flags };

                /* Given back first: a callback may make requests that wait for room in the queue. */
                io_uring_cqe_seen(&loop->ring, cqe);
                r = loop_complete(loop, &copy);
                if (r < 0)
                        return r;
        }
        return 0;
}

bool loop_pending(struct loop *loop) {
        unsigned flags = IO_URING_READ_ONCE(*loop->ring.sq.kflags);

        return io_uring_cq_ready(&loop->ring) > 0 || (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW));
}

int loop_sleep(struct loop *loop, uint64_t timeout) {
        struct __kernel_timespec ts = { .tv_sec = timeout / NSEC_PER_SEC, .tv_nsec = timeout % NSEC_PER_SEC };
        struct io_uring_cqe *cqe;
        int r;

        if (timeout == UINT64_MAX)
                r = io_uring_submit_and_wait(&loop->ring, 1);
        else
                r = io_uring_submit_and_wait_timeout(&loop->ring, &cqe, 1, &ts, NULL);
        return r < 0 && r != -EINTR && r != -ETIME && r != -EBUSY && r != -EAGAIN ? r : 0;
}
