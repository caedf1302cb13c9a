/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "control.h"
#include "test.h"

/* Bytes of a string literal without its NUL. */
#define BYTES(_literal) (_literal), sizeof(_literal) - 1

static void refused(const void *data, size_t size, const char *why) {
        struct control_message m = CONTROL_MESSAGE_NULL;
        struct reason reason = REASON_INIT;

        assert_se(control_parse(&m, data, size, &reason) == CONTROL_E_REFUSED);
        if (!strstr(reason.text, why))
                fprintf(stderr, "'%s' instead of '%s'\n", reason.text, why);
        assert_se(strstr(reason.text, why));
        assert_se(!m.zone);
        assert_se(control_parse(&m, data, size, NULL) == CONTROL_E_REFUSED);
}

static void accepted(const void *data, size_t size) {
        struct control_message m;

        assert_se(control_parse(&m, data, size, NULL) == 0);
        control_message_deinit(&m);
        assert_se(!m.zone);
        control_message_deinit(&m);
}

TEST(what_is_built_is_parsed_again) {
        struct control_builder b;
        struct control_message m;
        struct control_array list;
        struct control_map inner;
        struct control_value v;
        struct control_text t;
        const void *data;
        size_t size;
        uint64_t u;
        uint32_t u32;
        int64_t i;
        double d;
        bool yes;
        char name[8];

        control_builder_init(&b);
        control_put_string(&b, "verb", "hello");
        control_put_u64(&b, "id", UINT64_MAX);
        control_put_i64(&b, "minus", INT64_MIN);
        control_put_i64(&b, "plus", 7);
        control_put_double(&b, "pi", 3.25);
        control_put_bool(&b, "yes", true);
        control_put_bool(&b, "no", false);
        control_put_nil(&b, "nil");
        control_put_string(&b, "none", NULL);
        control_put_binary(&b, "bytes", "\0\xff", 2);
        control_begin_array(&b, "list");
        control_put_u64(&b, NULL, 1);
        control_put_string(&b, NULL, "two");
        control_begin_map(&b, NULL);
        control_put_u64(&b, "three", 3);
        control_end(&b);
        control_end(&b);
        control_begin_map(&b, "empty");
        control_end(&b);
        assert_se(control_builder_finish(&b, &data, &size) == 0);

        assert_se(control_parse(&m, data, size, NULL) == 0);
        assert_se(m.root.size == 12);
        assert_se(control_get_string(m.root, "verb", &t) == 0 && t.size == 5 &&
                  memcmp(t.data, "hello", 5) == 0);
        assert_se(control_get_u64(m.root, "id", &u) == 0 && u == UINT64_MAX);
        assert_se(control_get_u32(m.root, "id", &u32) == CONTROL_E_TYPE);
        assert_se(control_get_i64(m.root, "id", &i) == CONTROL_E_TYPE);
        assert_se(control_get_i64(m.root, "minus", &i) == 0 && i == INT64_MIN);
        assert_se(control_get_u64(m.root, "minus", &u) == CONTROL_E_TYPE);
        assert_se(control_get_u32(m.root, "plus", &u32) == 0 && u32 == 7);
        assert_se(control_get_i64(m.root, "plus", &i) == 0 && i == 7);
        assert_se(control_get_double(m.root, "pi", &d) == 0 && d == 3.25);
        assert_se(control_get_double(m.root, "plus", &d) == 0 && d == 7);
        assert_se(control_get_double(m.root, "minus", &d) == 0 && d == -0x1p63);
        assert_se(control_get_double(m.root, "yes", &d) == CONTROL_E_TYPE);
        assert_se(control_get_bool(m.root, "yes", &yes) == 0 && yes);
        assert_se(control_get_bool(m.root, "no", &yes) == 0 && !yes);
        assert_se(control_get_bool(m.root, "plus", &yes) == CONTROL_E_TYPE);
        assert_se(control_get_string(m.root, "nil", &t) == CONTROL_E_ABSENT);
        assert_se(control_get_string(m.root, "none", &t) == CONTROL_E_ABSENT);
        assert_se(control_get_string(m.root, "ver", &t) == CONTROL_E_ABSENT);
        assert_se(control_get_string(m.root, "bytes", &t) == CONTROL_E_TYPE);
        assert_se(control_get_binary(m.root, "bytes", &t) == 0 && t.size == 2 &&
                  memcmp(t.data, "\0\xff", 2) == 0);
        assert_se(control_get_binary(m.root, "verb", &t) == CONTROL_E_TYPE);
        assert_se(control_get_array(m.root, "verb", &list) == CONTROL_E_TYPE);
        assert_se(control_get_map(m.root, "verb", &inner) == CONTROL_E_TYPE);

        assert_se(control_get_array(m.root, "list", &list) == 0 && list.size == 3);
        assert_se(control_array_at(list, 0, &v) == 0 && control_as_u32(v, &u32) == 0 && u32 == 1);
        assert_se(control_array_at(list, 1, &v) == 0 && control_type(v) == CONTROL_STRING);
        assert_se(control_array_at(list, 2, &v) == 0 && control_as_map(v, &inner) == 0);
        assert_se(control_get_u64(inner, "three", &u) == 0 && u == 3);
        assert_se(control_array_at(list, 3, &v) == CONTROL_E_ABSENT);
        assert_se(control_get_map(m.root, "empty", &inner) == 0 && inner.size == 0);
        assert_se(control_map_at(m.root, 2, &t, &v) == 0 && t.size == 5 &&
                  control_type(v) == CONTROL_NEGATIVE);
        assert_se(control_map_at(m.root, 12, &t, &v) == CONTROL_E_ABSENT);

        assert_se(control_get_name(m.root, "verb", name, 6) == 0 && strcmp(name, "hello") == 0);
        assert_se(control_get_name(m.root, "verb", name, 5) == CONTROL_E_TYPE);
        control_message_deinit(&m);
        control_builder_deinit(&b);
}

TEST(a_name_with_a_nul_inside_is_no_name) {
        struct control_message m;
        char name[8];

        assert_se(control_parse(&m, BYTES("\x81\xa1k\xa3" "a\0b"), NULL) == 0);
        assert_se(control_get_name(m.root, "k", name, sizeof(name)) == CONTROL_E_TYPE);
        control_message_deinit(&m);
}

TEST(only_one_whole_map_with_different_string_keys_is_accepted) {
        accepted(BYTES("\x80"));
        accepted(BYTES("\x81\xa1k\xc0"));
        accepted(BYTES("\xdf\0\0\0\1\xa1k\xca\0\0\0\0"));
        accepted(BYTES("\x82\xa1k\1\xa1l\1"));
        refused("", 0, "missing");
        refused(BYTES("\xc0"), "not a map");
        refused(BYTES("\x90"), "not a map");
        refused(BYTES("\x80\x80"), "behind its end");
        refused(BYTES("\x81\1\1"), "not a string");
        refused(BYTES("\x82\xa1k\1\xa1k\1"), "'k' is there twice");
        refused(BYTES("\x82\xa1k\1\xd9\1k\1"), "'k' is there twice");
        refused(BYTES("\x81\xa1k\x82\xa1l\1\xa1l\1"), "'l' is there twice");
        refused(BYTES("\x81\xa1k\x91\x82\xa1l\1\xa1l\1"), "'l' is there twice");
        refused(BYTES("\x81\xa1k\x91\x81\xc0\1"), "not a string");
}

TEST(truncated_messages_are_refused_at_every_length) {
        static const char whole[] = "\x86"
                                    "\xa1" "a\xd9\2xy"
                                    "\xa1" "b\xcf\0\0\0\0\0\0\0\1"
                                    "\xa1" "c\xc4\3abc"
                                    "\xa1" "d\x93\1\2\x81\xa1k\1"
                                    "\xa1" "e\xcb\0\0\0\0\0\0\0\0"
                                    "\xa1" "f\xdc\0\1\xc2";

        accepted(whole, sizeof(whole) - 1);
        for (size_t size = 1; size < sizeof(whole) - 1; size++) {
                /* Memory of exactly this size, so that a byte read behind it is found by the sanitizer. */
                _cleanup_(freep) char *copy = malloc(size);

                assert_se(copy);
                memcpy(copy, whole, size);
                refused(copy, size, "control message: ");
        }
}

TEST(types_outside_the_protocol_are_refused) {
        refused(BYTES("\x81\xa1k\xc1"), "not supported");
        refused(BYTES("\x81\xa1k\xd4\0\0"), "not supported");
        refused(BYTES("\x81\xa1k\xd8\0aaaaaaaaaaaaaaaa"), "not supported");
        refused(BYTES("\x81\xa1k\xc7\0\0"), "not supported");
        refused(BYTES("\x81\xa1k\xc9\0\0\0\0\0"), "not supported");
}

TEST(a_huge_count_allocates_nothing) {
        struct rlimit limit = { 1 << 26, 1 << 26 };

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        assert_se(setrlimit(RLIMIT_AS, &limit) == 0);
#endif
        (void) limit;
        refused(BYTES("\xdd\xff\xff\xff\xff"), "ends after the packet");
        refused(BYTES("\x81\xa1k\xdd\xff\xff\xff\xff"), "ends after the packet");
        refused(BYTES("\x81\xa1k\xdf\xff\xff\xff\xff"), "too many keys");
        refused(BYTES("\x81\xa1k\xdf\0\0\0\xff"), "ends after the packet");
        refused(BYTES("\x81\xa1k\xdb\xff\xff\xff\xff"), "text that ends after");
        refused(BYTES("\x81\xa1k\xc6\xff\xff\xff\xff"), "text that ends after");
        refused(BYTES("\xdc\xff\xff"), "ends after the packet");
}

TEST(nesting_is_limited) {
        uint8_t packet[64] = { 0x81, 0xa1, 'k' };

        /* The root map is one; so many arrays around a value are the rest. */
        memset(packet + 3, 0x91, CONTROL_DEPTH_MAX);
        packet[3 + CONTROL_DEPTH_MAX - 1] = 0xc0;
        accepted(packet, 3 + CONTROL_DEPTH_MAX);
        packet[3 + CONTROL_DEPTH_MAX - 1] = 0x91;
        packet[3 + CONTROL_DEPTH_MAX] = 0xc0;
        refused(packet, 4 + CONTROL_DEPTH_MAX, "nested too deeply");
        memset(packet + 3, 0x91, sizeof(packet) - 3);
        refused(packet, sizeof(packet), "nested too deeply");
}

TEST(keys_and_packet_size_are_limited_on_both_sides) {
        _cleanup_(freep) char *large = calloc(1, CONTROL_MESSAGE_MAX + 1);
        struct control_builder b;
        const void *data;
        size_t size;
        char key[8];

        assert_se(large);
        large[0] = (char) 0x80;
        refused(large, CONTROL_MESSAGE_MAX + 1, "too large");
        refused(BYTES("\xde\x01\x01"), "too many keys");

        for (unsigned extra = 0; extra <= 1; extra++) {
                control_builder_init(&b);
                for (unsigned i = 0; i < CONTROL_KEYS_MAX + extra; i++) {
                        snprintf(key, sizeof(key), "%u", i);
                        control_put_u64(&b, key, i);
                }
                assert_se(control_builder_finish(&b, &data, &size) == (extra ? CONTROL_E_REFUSED : 0));
                if (!extra)
                        accepted(data, size);
                control_builder_deinit(&b);
        }

        for (unsigned extra = 0; extra <= 1; extra++) {
                /* 5 bytes of map, 2 of key, 5 of length. */
                control_builder_init(&b);
                control_put_binary(&b, "k", large, CONTROL_MESSAGE_MAX - 12 + extra);
                assert_se(control_builder_finish(&b, &data, &size) == (extra ? CONTROL_E_REFUSED : 0));
                assert_se(extra || size == CONTROL_MESSAGE_MAX);
                if (!extra)
                        accepted(data, size);
                control_builder_deinit(&b);
        }
}

static int finish(struct control_builder *b) {
        const void *data;
        size_t size;
        int r = control_builder_finish(b, &data, &size);

        control_builder_deinit(b);
        return r;
}

TEST(begin_end_and_keys_that_do_not_fit_are_errors) {
        struct control_builder b;

        control_builder_init(&b);
        control_put_u64(&b, NULL, 1);
        assert_se(finish(&b) == -EINVAL);

        control_builder_init(&b);
        control_begin_array(&b, "a");
        control_put_u64(&b, "key", 1);
        assert_se(finish(&b) == -EINVAL);

        control_builder_init(&b);
        control_begin_map(&b, "a");
        assert_se(finish(&b) == -EINVAL);

        control_builder_init(&b);
        control_end(&b);
        assert_se(finish(&b) == -EINVAL);

        control_builder_init(&b);
        control_begin_array(&b, "a");
        for (unsigned i = 0; i < CONTROL_DEPTH_MAX; i++)
                control_begin_array(&b, NULL);
        assert_se(finish(&b) == -EINVAL);
        control_put_u64(&b, "late", 1);
        assert_se(finish(&b) == -EINVAL);
}

static unsigned count_fds(void) {
        DIR *d = opendir("/proc/self/fd");
        unsigned n = 0;

        assert_se(d);
        while (readdir(d))
                n++;
        closedir(d);
        return n;
}

static void socket_pair(int fds[static 2]) {
        assert_se(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) == 0);
        assert_se(control_socket_prepare(fds[0]) == 0);
        assert_se(control_socket_prepare(fds[1]) == 0);
}

TEST(packets_carry_descriptors_and_the_largest_message) {
        _cleanup_(freep) uint8_t *data = malloc(CONTROL_MESSAGE_MAX), *buffer = malloc(CONTROL_MESSAGE_MAX);
        struct control_packet p = CONTROL_PACKET_NULL;
        unsigned before = count_fds();
        int s[2], fds[CONTROL_FDS_MAX];

        assert_se(data && buffer);
        for (size_t i = 0; i < CONTROL_MESSAGE_MAX; i++)
                data[i] = (uint8_t) (i * 31);
        socket_pair(s);
        assert_se(control_receive(s[1], buffer, CONTROL_MESSAGE_MAX, &p, NULL) == CONTROL_E_AGAIN);
        assert_se(pipe2(fds, O_CLOEXEC) == 0);
        for (unsigned i = 2; i < CONTROL_FDS_MAX; i++)
                fds[i] = fds[0];
        assert_se(control_send(s[0], data, CONTROL_MESSAGE_MAX, fds, CONTROL_FDS_MAX) == 0);
        assert_se(control_receive(s[1], buffer, CONTROL_MESSAGE_MAX, &p, NULL) == 0);
        assert_se(p.size == CONTROL_MESSAGE_MAX && memcmp(data, buffer, CONTROL_MESSAGE_MAX) == 0);
        assert_se(p.n_fds == CONTROL_FDS_MAX);
        assert_se(write(p.fds[1], "x", 1) == 1 && read(fds[0], buffer, 1) == 1 && buffer[0] == 'x');
        for (unsigned i = 0; i < CONTROL_FDS_MAX; i++)
                assert_se(fcntl(p.fds[i], F_GETFD) & FD_CLOEXEC);
        control_packet_deinit(&p);
        assert_se(p.n_fds == 0);

        assert_se(control_send(s[0], data, CONTROL_MESSAGE_MAX + 1, NULL, 0) == CONTROL_E_REFUSED);
        assert_se(control_send(s[0], data, 1, fds, CONTROL_FDS_MAX + 1) == CONTROL_E_REFUSED);
        close(fds[0]);
        close(fds[1]);
        close(s[0]);
        assert_se(control_receive(s[1], buffer, CONTROL_MESSAGE_MAX, &p, NULL) == CONTROL_E_CLOSED);
        assert_se(control_send(s[1], data, 1, NULL, 0) == CONTROL_E_CLOSED);
        close(s[1]);
        assert_se(control_receive(-1, buffer, 1, &p, NULL) == -EBADF);
        assert_se(control_send(-1, data, 1, NULL, 0) == -EBADF);
        assert_se(control_socket_prepare(-1) == -EBADF);
        assert_se(count_fds() == before);
}

/* More descriptors than the protocol allows, which control_send() would not send. */
static void send_many(int socket_fd, size_t size, unsigned n) {
        _Alignas(struct cmsghdr) uint8_t ancillary[CMSG_SPACE(64 * sizeof(int))] = {};
        struct iovec vector = { .iov_base = ancillary, .iov_len = size };
        struct msghdr header = {
                .msg_iov = &vector,
                .msg_iovlen = 1,
                .msg_control = ancillary,
                .msg_controllen = CMSG_SPACE(n * sizeof(int)),
        };
        struct cmsghdr *c = CMSG_FIRSTHDR(&header);
        int fd = STDERR_FILENO;

        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n * sizeof(int));
        for (unsigned i = 0; i < n; i++)
                memcpy(CMSG_DATA(c) + i * sizeof(int), &fd, sizeof(fd));
        assert_se(sendmsg(socket_fd, &header, 0) == (ssize_t) size);
}

TEST(a_refused_packet_leaks_no_descriptor) {
        struct control_packet p = CONTROL_PACKET_NULL;
        struct reason reason = REASON_INIT;
        struct rlimit limit, none;
        unsigned before = count_fds();
        uint8_t buffer[64];
        int s[2];

        socket_pair(s);
        send_many(s[0], 16, CONTROL_FDS_MAX + 1);
        assert_se(control_receive(s[1], buffer, sizeof(buffer), &p, &reason) == CONTROL_E_REFUSED);
        assert_se(strstr(reason.text, "more than 8 descriptors"));
        send_many(s[0], 128, 3);
        assert_se(control_receive(s[1], buffer, sizeof(buffer), &p, &reason) == CONTROL_E_REFUSED);
        assert_se(strstr(reason.text, "larger than 64 bytes"));
        send_many(s[0], 0, 3); /* an empty packet is no message, but may carry some */
        assert_se(control_receive(s[1], buffer, sizeof(buffer), &p, &reason) == CONTROL_E_CLOSED);

        /* No number left for all of them: the kernel gives the first and cuts the rest. */
        send_many(s[0], 16, 3);
        assert_se(getrlimit(RLIMIT_NOFILE, &limit) == 0);
        none = (struct rlimit) { (rlim_t) s[1] + 2, limit.rlim_max };
        assert_se(setrlimit(RLIMIT_NOFILE, &none) == 0);
        assert_se(control_receive(s[1], buffer, sizeof(buffer), &p, &reason) == CONTROL_E_REFUSED);
        assert_se(setrlimit(RLIMIT_NOFILE, &limit) == 0);

        assert_se(p.n_fds == 0 && p.size == 0);
        close(s[0]);
        close(s[1]);
        assert_se(count_fds() == before);
}

TEST(a_full_socket_is_not_an_error) {
        struct control_packet p;
        uint8_t buffer[512] = { 1 };
        unsigned sent = 0;
        int s[2], r;

        socket_pair(s);
        while ((r = control_send(s[0], buffer, sizeof(buffer), NULL, 0)) == 0)
                assert_se(++sent < 1000000);
        assert_se(r == CONTROL_E_AGAIN && sent > 0);
        while ((r = control_receive(s[1], buffer, sizeof(buffer), &p, NULL)) == 0)
                sent--;
        assert_se(r == CONTROL_E_AGAIN && sent == 0);
        assert_se(control_send(s[0], buffer, sizeof(buffer), NULL, 0) == 0);
        close(s[0]);
        close(s[1]);
}

TEST(results_of_io_uring_are_judged_like_those_of_recvmsg) {
        struct control_packet p = CONTROL_PACKET_NULL;
        struct control_receiver receiver;
        uint8_t buffer[16];
        int s[2];

        control_receiver_arm(&receiver, buffer, sizeof(buffer));
        assert_se(control_receiver_finish(&receiver, -EAGAIN, &p, NULL) == CONTROL_E_AGAIN);
        assert_se(control_receiver_finish(&receiver, -EINTR, &p, NULL) == CONTROL_E_AGAIN);
        assert_se(control_receiver_finish(&receiver, -ECONNRESET, &p, NULL) == CONTROL_E_CLOSED);
        assert_se(control_receiver_finish(&receiver, -ECANCELED, &p, NULL) == -ECANCELED);

        socket_pair(s);
        assert_se(control_send(s[0], "hello", 5, s, 2) == 0);
        control_receiver_arm(&receiver, buffer, sizeof(buffer));
        assert_se(control_receiver_finish(&receiver, recvmsg(s[1], &receiver.header, MSG_CMSG_CLOEXEC), &p,
                                          NULL) == 0);
        assert_se(p.size == 5 && p.n_fds == 2 && memcmp(buffer, "hello", 5) == 0);
        control_packet_deinit(&p);
}
