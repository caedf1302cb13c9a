/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/util.h"
#include "connection.h"

enum {
        LOOK_INTERVAL_MSEC = 100,  /* between looks for the daemon's death by who only calls moed_next() */
        FAREWELL_TIMEOUT_SEC = 10, /* how long moed_run() waits for the end of what it has cancelled */
};

/* The next completion: 1 and *ret, 0, or a negative errno. */
static int take(struct moed *m, struct wire_completion *ret) {
        int r;

        if (m->has_ahead) {
                m->has_ahead = false;
                *ret = m->ahead;
                return 1;
        }
        r = ring_take(&m->completions, ret);
        if (r == 0)
                return 1;
        if (r == RING_E_EMPTY)
                return 0;
        return connection_fail(m, -EPROTO, "the daemon's index of the completion ring is impossible");
}

/* The text of a token may go on in the completions behind it. If those are not there yet, because the ring
 * was full, it comes with the stream's next event. */
static int take_continuation(struct moed *m, struct stream *stream, struct moed_event *event) {
        int r;

        while ((r = take(m, &m->ahead)) > 0) {
                if (m->ahead.event != WIRE_EVENT_TEXT || m->ahead.request != stream->request) {
                        m->has_ahead = true;
                        return 0;
                }
                r = stream_feed_more(stream, &m->ahead, event, &m->out);
                if (r < 0)
                        return r;
        }
        return r;
}

/* Turns a completion into an event: 1, 0 (nothing to tell), or a negative errno. */
static int digest(struct moed *m, const struct wire_completion *c, struct moed_event *event) {
        struct stream *stream;
        int r;

        if (c->event == WIRE_EVENT_ECHO)
                return 0;
        stream = stream_table_find(&m->streams, c->request);
        if (!stream)
                return -EPROTO;
        r = stream_feed(stream, c, event, &m->out);
        if (r)
                return r < 0 ? r : 0;
        if (stream->in_arena && event->type != MOED_EVENT_PROGRESS) {
                arena_give(&m->arena, stream->offset);
                stream->in_arena = false;
        }
        if (event->type == MOED_EVENT_TOKEN || event->type == MOED_EVENT_SCORE)
                r = take_continuation(m, stream, event);
        if (event->type == MOED_EVENT_DONE || event->type == MOED_EVENT_ERROR)
                stream_table_remove(&m->streams, stream);
        if (event->type == MOED_EVENT_ERROR)
                reason_set(&m->reason, "%.*s", (int) event->text_length, event->text);
        return r < 0 ? r : 1;
}

/* Everything in the ring has been taken. The daemon may hold back events for want of room. */
static int drained(struct moed *m) {
        int r;

        if (!m->took)
                return 0;
        m->took = false;
        /* Our completion_head is out before we look; the daemon sets the flag before it looks at that. */
        full_fence();
        if (!atomic_load_explicit(&m->daemon_page->room_wanted, memory_order_relaxed))
                return 0;
        r = notify_ring_bell(&m->ringer);
        return r < 0 ? connection_fail(m, r, "cannot wake the daemon: %s", strerror(-r)) : 0;
}

/* As moed_next(), without looking for the daemon's death. */
static int next(struct moed *m, struct moed_event *event) {
        struct wire_completion c;
        int r;

        if (m->failed < 0)
                return m->failed;
        for (;;) {
                r = take(m, &c);
                if (r == 0)
                        return drained(m);
                if (r > 0)
                        r = digest(m, &c, event);
                m->took = true;
                if (r > 0)
                        return r;
                if (r < 0 && m->failed == 0)
                        return connection_fail(m, r,
                                               r == -EPROTO ? "the daemon sent an event that makes no sense"
                                                            : "out of memory");
                if (r < 0)
                        return r;
        }
}

/* The last events, then the end. */
static int next_after_close(struct moed *m, struct moed_event *event) {
        int r;

        r = next(m, event);
        if (r != 0)
                return r;
        r = connection_look(m); /* for the reason */
        m->failed = r < 0 ? r : connection_lost(m);
        return m->failed;
}

static bool closed(struct moed *m) {
        return atomic_load_explicit(&m->daemon_page->closed, memory_order_acquire) != 0;
}

int moed_next(struct moed *m, struct moed_event *event) {
        uint64_t now;
        int r;

        r = next(m, event);
        if (r != 0)
                return r;
        if (m->gone || closed(m))
                return next_after_close(m, event);
        now = now_nsec();
        if (now - m->looked < LOOK_INTERVAL_MSEC * NSEC_PER_MSEC)
                return 0;
        m->looked = now;
        r = connection_look(m);
        return r == -ECONNRESET ? next_after_close(m, event) : r;
}

int moed_wait(struct moed *m, struct moed_event *event, int timeout_msec) {
        uint64_t deadline =
                timeout_msec < 0 ? NOTIFY_FOREVER : now_nsec() + (uint64_t) timeout_msec * NSEC_PER_MSEC;
        uint64_t now, left;
        int r;

        for (;;) {
                r = next(m, event);
                if (r != 0)
                        return r;
                now = deadline == NOTIFY_FOREVER ? 0 : now_nsec();
                left = deadline == NOTIFY_FOREVER ? NOTIFY_FOREVER : deadline > now ? deadline - now : 0;
                notify_disarm(&m->waiter);
                r = notify_wait(&m->waiter, m->completions.head, left);
                if (r == NOTIFY_E_TIMEOUT)
                        return m->gone ? next_after_close(m, event) : 0;
                if (r == NOTIFY_E_CLOSED)
                        return next_after_close(m, event);
                if (r < 0)
                        return reason_return(&m->reason, r, "%s", strerror(-r));
        }
}

int moed_fd(struct moed *m) {
        int fds[] = { m->wake, m->socket };

        if (m->failed < 0)
                return m->failed;
        if (m->poll >= 0)
                return m->poll;
        m->poll = epoll_create1(EPOLL_CLOEXEC);
        if (m->poll < 0)
                return reason_return(&m->reason, -errno, "epoll: %s", strerror(errno));
        for (size_t i = 0; i < ELEMENTS(fds); i++) {
                struct epoll_event interest = { .events = EPOLLIN };

                if (epoll_ctl(m->poll, EPOLL_CTL_ADD, fds[i], &interest) < 0) {
                        int r = -errno;

                        m->poll = close_fd(m->poll);
                        return reason_return(&m->reason, r, "epoll: %s", strerror(-r));
                }
        }
        return m->poll;
}

int moed_prepare(struct moed *m) {
        int r;

        if (m->failed < 0)
                return m->failed;
        notify_disarm(&m->waiter);
        if (m->has_ahead)
                return 1;
        r = drained(m);
        if (r < 0)
                return r;
        /* What came unasked would keep the descriptor readable. */
        r = connection_look(m);
        if (r < 0)
                return r == -ECONNRESET ? 1 : r;
        return notify_arm(&m->waiter, m->completions.head) ? 0 : 1;
}

/* Waits for the end of a cancelled request, so that the next one starts clean. */
static void run_end(struct moed *m, uint64_t request) {
        uint64_t deadline = now_nsec() + FAREWELL_TIMEOUT_SEC * NSEC_PER_SEC;
        struct moed_event event;
        int r;

        if (moed_cancel(m, request) < 0)
                return;
        while (now_nsec() < deadline) {
                r = moed_wait(m, &event, 100);
                if (r < 0 && r != -EINTR)
                        return;
                if (r > 0 && event.request == request &&
                    (event.type == MOED_EVENT_DONE || event.type == MOED_EVENT_ERROR))
                        return;
        }
}

int moed_run(struct moed *m, const struct moed_request *q, moed_callback callback, void *userdata) {
        struct moed_event event;
        uint64_t request;
        int r;

        r = moed_submit(m, q, &request);
        if (r < 0)
                return r;
        for (;;) {
                r = moed_wait(m, &event, -1);
                if (r < 0) {
                        if (r == -EINTR)
                                run_end(m, request);
                        return r;
                }
                if (r == 0 || event.request != request)
                        continue;
                if (callback && callback(&event, userdata) != 0) {
                        if (event.type != MOED_EVENT_DONE && event.type != MOED_EVENT_ERROR)
                                run_end(m, request);
                        return reason_return(&m->reason, -ECANCELED, "cancelled by the program");
                }
                if (event.type == MOED_EVENT_DONE)
                        return 0;
                if (event.type == MOED_EVENT_ERROR)
                        return event.error;
        }
}
