/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/util.h"
#include "loop.h"
#include "test.h"

struct counter {
        struct loop_source source;
        int fd, calls, result, error;
        struct counter *removes;
};

static int on_event(void *userdata, int result) {
        struct counter *c = userdata;

        c->calls++;
        c->result = result;
        if (c->removes)
                loop_source_remove(&c->removes->source);
        return c->error;
}

static void init(struct loop *loop) {
        int r = loop_init(loop);

        if (r == -ENOSYS || r == -EPERM)
                test_skip("io_uring is not allowed here");
        assert_se(r == 0);
}

static void watch(struct loop *loop, struct counter *c) {
        c->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        assert_se(c->fd >= 0);
        assert_se(loop_watch(loop, &c->source, c->fd, on_event, c) == 0);
}

static void signal_counter(struct counter *c) {
        assert_se(eventfd_write(c->fd, 1) == 0);
}

static void turn(struct loop *loop) {
        assert_se(loop_dispatch(loop) == 0);
        assert_se(loop_sleep(loop, 50 * NSEC_PER_MSEC) == 0);
        assert_se(loop_dispatch(loop) == 0);
}

TEST(each_write_is_an_event_though_nobody_reads) {
        struct counter c = {};
        struct loop loop;

        init(&loop);
        watch(&loop, &c);
        turn(&loop);
        assert_se(c.calls == 0);
        for (int i = 1; i <= 5; i++) {
                signal_counter(&c);
                turn(&loop);
                assert_se(c.calls == i && (c.result & POLLIN));
        }
        loop_source_remove(&c.source);
        close(c.fd);
        loop_deinit(&loop);
}

TEST(a_removed_source_is_silent) {
        struct counter a = {}, b = {};
        struct loop loop;

        init(&loop);
        watch(&loop, &a);
        watch(&loop, &b);
        turn(&loop);
        /* Both have happened when the first callback removes the other. */
        a.removes = &b;
        b.removes = &a;
        signal_counter(&a);
        signal_counter(&b);
        turn(&loop);
        turn(&loop);
        assert_se(a.calls + b.calls == 1);
        loop_source_remove(&a.source);
        loop_source_remove(&b.source);
        loop_source_remove(&b.source);
        close(a.fd);
        close(b.fd);
        loop_deinit(&loop);
}

TEST(a_callbacks_trouble_ends_the_dispatch) {
        struct counter c = { .error = -EIO };
        struct loop loop;

        init(&loop);
        watch(&loop, &c);
        signal_counter(&c);
        assert_se(loop_dispatch(&loop) == 0 || c.calls == 1);
        if (c.calls == 0) {
                assert_se(loop_sleep(&loop, NSEC_PER_SEC) == 0);
                assert_se(loop_dispatch(&loop) == -EIO);
        }
        loop_source_remove(&c.source);
        close(c.fd);
        loop_deinit(&loop);
}

TEST(sleep_ends_with_its_time) {
        uint64_t begin = now_nsec();
        struct loop loop;

        init(&loop);
        assert_se(loop_sleep(&loop, 20 * NSEC_PER_MSEC) == 0);
        assert_se(now_nsec() - begin >= 20 * NSEC_PER_MSEC);
        loop_deinit(&loop);
}

TEST(many_sources_come_and_go) {
        static struct counter counters[100];
        struct loop loop;

        init(&loop);
        for (int round = 0; round < 3; round++) {
                for (size_t i = 0; i < ELEMENTS(counters); i++) {
                        counters[i].calls = 0;
                        watch(&loop, &counters[i]);
                        signal_counter(&counters[i]);
                }
                for (int i = 0; i < 4; i++)
                        turn(&loop);
                for (size_t i = 0; i < ELEMENTS(counters); i++) {
                        assert_se(counters[i].calls == 1);
                        loop_source_remove(&counters[i].source);
                        close(counters[i].fd);
                }
        }
        assert_se(loop.n_used == 0 && loop.n_slots <= 128);
        loop_deinit(&loop);
}

TEST(connections_are_accepted) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        socklen_t size = sizeof(sa_family_t);
        struct counter c = {};
        struct loop loop;
        int client;

        init(&loop);
        /* The kernel chooses an abstract name. */
        c.fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        assert_se(c.fd >= 0 && bind(c.fd, (struct sockaddr *) &address, size) == 0 && listen(c.fd, 8) == 0);
        size = sizeof(address);
        assert_se(getsockname(c.fd, (struct sockaddr *) &address, &size) == 0);
        assert_se(loop_accept(&loop, &c.source, c.fd, on_event, &c) == 0);
        turn(&loop);
        for (int i = 1; i <= 3; i++) {
                client = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
                assert_se(client >= 0 && connect(client, (struct sockaddr *) &address, size) == 0);
                turn(&loop);
                assert_se(c.calls == i && c.result >= 0);
                close(c.result);
                close(client);
        }
        loop_source_remove(&c.source);
        close(c.fd);
        loop_deinit(&loop);
}
