/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control.h"
#include "moed.h"
#include "notify.h"
#include "ring.h"
#include "shm.h"
#include "test.h"

/* A daemon that misbehaves as no real one can be made to. It runs in a child process of its own. */
struct fake {
        char folder[64], path[96];
        int listener;
        pid_t pid;
};

enum lie {
        LIE_NONE,
        LIE_VERSION,   /* speaks version 2 */
        LIE_REFUSAL,   /* refuses hello as a daemon does that does not speak ours */
        LIE_SIZE,      /* says that a mapping is larger than it is */
        LIE_OFFSET,    /* divides its memory in another way */
        LIE_UNSEALED,  /* a memfd that it could shrink */
        LIE_FILE,      /* a plain file */
        LIE_FEW_FDS,
        LIE_GARBAGE,   /* no msgpack at all */
        LIE_CLOSED,    /* turned away for a limit */
        LIE_HANGUP,
};

/* The daemon's side of a connection. */
struct peer {
        int socket;
        struct wire_layout layout;
        struct shm_mapping client, daemon;
        struct wire_daemon_page *page;
        struct ring_writer completions;
        struct ring_reader submissions;
        struct notify_waker waker;
        uint8_t buffer[CONTROL_MESSAGE_MAX];
};

static void peer_send(struct peer *p, struct control_builder *b, const int *fds, size_t n_fds) {
        const void *data;
        size_t size;

        assert_se(control_builder_finish(b, &data, &size) == 0);
        assert_se(control_send(p->socket, data, size, fds, n_fds) == 0);
        control_builder_deinit(b);
}

/* Waits for a request; returns its id, 0 at the end of the connection. */
static uint64_t peer_request(struct peer *p, char verb[32]) {
        struct control_packet packet = CONTROL_PACKET_NULL;
        struct control_message message;
        struct pollfd poll_fd = { .fd = p->socket, .events = POLLIN };
        uint64_t id;

        assert_se(poll(&poll_fd, 1, -1) == 1);
        if (control_receive(p->socket, p->buffer, sizeof(p->buffer), &packet, NULL))
                return 0;
        assert_se(control_parse(&message, p->buffer, packet.size, NULL) == 0);
        assert_se(control_get_u64(message.root, "id", &id) == 0);
        assert_se(control_get_name(message.root, "verb", verb, 32) == 0);
        control_message_deinit(&message);
        return id;
}

static int plain_file(uint64_t size) {
        int fd = open(P_tmpdir, O_TMPFILE | O_RDWR, 0600);

        assert_se(fd >= 0 && ftruncate(fd, (off_t) size) == 0);
        return fd;
}

static int client_memory(enum lie lie, uint64_t size) {
        int fd;

        if (lie == LIE_FILE)
                return plain_file(size);
        if (lie == LIE_UNSEALED) {
                fd = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
                assert_se(fd >= 0 && ftruncate(fd, (off_t) size) == 0);
                return fd;
        }
        assert_se(shm_new(&fd, "fake", size) == 0);
        return fd;
}

static void peer_attach(struct peer *p, int client_fd, int daemon_fd, int wake_fd) {
        struct wire_client_page *client;

        assert_se(shm_map(&p->client, client_fd, p->layout.client_size, true) == 0);
        assert_se(shm_map(&p->daemon, daemon_fd, p->layout.daemon_size, true) == 0);
        client = p->client.address;
        p->page = p->daemon.address;
        ring_writer_init(&p->completions, &client->completion_head, &p->page->completion_tail,
                         wire_completions(&p->layout, p->daemon.address), p->layout.entries, 0);
        ring_reader_init(&p->submissions, &p->page->submission_head, &client->submission_tail,
                         wire_submissions(&p->layout, p->client.address), p->layout.entries, 0);
        notify_waker_init(&p->waker, client, p->page, wake_fd);
}

static void peer_welcome(struct peer *p, uint64_t id, enum lie lie) {
        struct control_builder b;
        int fds[4], daemon_fd, wake;

        assert_se(wire_layout_init(&p->layout, 8, 8192, NULL) == 0);
        fds[0] = client_memory(lie, p->layout.client_size);
        assert_se(shm_new(&daemon_fd, "fake", p->layout.daemon_size) == 0);
        assert_se(shm_reopen_read_only(&fds[1], daemon_fd) == 0);
        assert_se(notify_bell_new(&fds[2]) == 0);
        assert_se(notify_wake_new(&wake, &fds[3]) == 0);
        control_builder_init(&b);
        control_put_u64(&b, "id", id);
        control_put_u64(&b, "version", lie == LIE_VERSION ? 2 : WIRE_VERSION);
        control_put_u64(&b, "entries", p->layout.entries);
        control_put_u64(&b, "arena", p->layout.arena_size);
        control_put_u64(&b, "submissions", p->layout.submissions);
        control_put_u64(&b, "completions", p->layout.completions + (lie == LIE_OFFSET ? 64 : 0));
        control_put_u64(&b, "client_size", p->layout.client_size + (lie == LIE_SIZE ? 4096 : 0));
        control_put_u64(&b, "daemon_size", p->layout.daemon_size);
        control_put_string(&b, "a key of the future", "is ignored");
        peer_send(p, &b, fds, lie == LIE_FEW_FDS ? 3 : 4);
        peer_attach(p, fds[0], daemon_fd, wake);
}

static void peer_refuse(struct peer *p, uint64_t id, int error, const char *reason) {
        struct control_builder b;

        control_builder_init(&b);
        if (id > 0)
                control_put_u64(&b, "id", id);
        else
                control_put_string(&b, "event", "closed");
        control_put_u64(&b, "error", (uint64_t) error);
        control_put_string(&b, "reason", reason);
        peer_send(p, &b, NULL, 0);
}

/* Answers hello. False: the connection ended with it. */
static bool peer_hello(struct peer *p, enum lie lie) {
        char verb[32];
        uint64_t id;

        if (lie == LIE_CLOSED) {
                peer_refuse(p, 0, EDQUOT, "uid 1 has 64 connections, the limit is 64");
                return false;
        }
        id = peer_request(p, verb);
        assert_se(id > 0 && strcmp(verb, "hello") == 0);
        switch (lie) {
        case LIE_HANGUP:
                return false;
        case LIE_GARBAGE:
                assert_se(send(p->socket, "\xc1garbage", 8, MSG_NOSIGNAL) == 8);
                return false;
        case LIE_REFUSAL:
                peer_refuse(p, id, EPROTONOSUPPORT, "this daemon speaks version 7");
                return false;
        default:
                peer_welcome(p, id, lie);
                return true;
        }
}

static struct wire_submission peer_take(struct peer *p) {
        struct wire_submission s;

        while (ring_take(&p->submissions, &s) == RING_E_EMPTY)
                usleep(100);
        return s;
}

static void peer_emit(struct peer *p, uint64_t request, enum wire_event event, uint16_t detail,
                      const char *text) {
        struct wire_completion c = { .request = request, .event = (uint8_t) event, .detail = detail };

        c.text_length = (uint8_t) strlen(text);
        memcpy(c.text, text, strlen(text));
        assert_se(ring_put(&p->completions, &c) == 0);
        ring_publish(&p->completions);
        notify_wake_client(&p->waker);
}

static struct fake fake_start(enum lie lie, void (*serve)(struct peer *p)) {
        struct fake f = { .folder = "/tmp/moed-test-XXXXXX" };
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        assert_se(mkdtemp(f.folder));
        snprintf(f.path, sizeof(f.path), "%s/sock", f.folder);
        snprintf(address.sun_path, sizeof(address.sun_path), "%s", f.path);
        f.listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        assert_se(f.listener >= 0);
        assert_se(bind(f.listener, (struct sockaddr *) &address, sizeof(address)) == 0 &&
                  listen(f.listener, 4) == 0);
        f.pid = fork();
        assert_se(f.pid >= 0);
        if (f.pid == 0) {
                static struct peer p;

                p.socket = accept4(f.listener, NULL, NULL, SOCK_CLOEXEC);
                assert_se(p.socket >= 0);
                if (peer_hello(&p, lie) && serve)
                        serve(&p);
                _exit(0);
        }
        return f;
}

static void fake_end(struct fake *f) {
        int status;

        unlink(f->path);
        rmdir(f->folder);
        close(f->listener);
        assert_se(waitpid(f->pid, &status, 0) == f->pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Connects; the sentence must contain `words`. */
static int try_connect(enum lie lie, const char *words) {
        struct fake f = fake_start(lie, NULL);
        struct moed_options options = MOED_OPTIONS_INIT;
        struct moed *m;
        int r;

        options.socket = f.path;
        r = moed_connect(&m, &options);
        assert_se(m);
        if (r < 0 && !strstr(moed_error(m), words))
                fprintf(stderr, "said: %s\n", moed_error(m));
        assert_se(r == 0 || strstr(moed_error(m), words));
        moed_close(m);
        fake_end(&f);
        return r;
}

TEST(honest_hello_connects) {
        assert_se(try_connect(LIE_NONE, "") == 0);
}

TEST(other_versions_are_told_apart) {
        assert_se(try_connect(LIE_VERSION, "version 2") == -EPROTONOSUPPORT);
        assert_se(try_connect(LIE_REFUSAL, "speaks version 7") == -EPROTONOSUPPORT);
}

TEST(mappings_are_checked_before_they_are_used) {
        assert_se(try_connect(LIE_SIZE, "") == -EPROTO);
        assert_se(try_connect(LIE_OFFSET, "divides") == -EPROTO);
        assert_se(try_connect(LIE_UNSEALED, "seal") == -EPROTO);
        assert_se(try_connect(LIE_FILE, "") == -EPROTO);
        assert_se(try_connect(LIE_FEW_FDS, "3 descriptors") == -EPROTO);
        assert_se(try_connect(LIE_GARBAGE, "broken") == -EPROTO);
}

TEST(limit_at_the_door_is_told_with_its_numbers) {
        assert_se(try_connect(LIE_CLOSED, "the limit is 64") == -EDQUOT);
}

TEST(end_in_the_middle_of_hello_is_told) {
        assert_se(try_connect(LIE_HANGUP, "gone") == -ECONNRESET);
}

TEST(nobody_there_is_told) {
        struct moed_options options = MOED_OPTIONS_INIT;
        char long_path[300];
        struct moed *m;

        options.socket = "/nonexistent/moed.sock";
        assert_se(moed_connect(&m, &options) == -ENOENT && strstr(moed_error(m), "/nonexistent/moed.sock"));
        assert_se(moed_submit(m, &(struct moed_request) MOED_REQUEST_INIT, &(uint64_t) { 0 }) == -ENOENT);
        moed_close(m);
        memset(long_path, 'x', sizeof(long_path) - 1);
        long_path[sizeof(long_path) - 1] = 0;
        options.socket = long_path;
        assert_se(moed_connect(&m, &options) == -ENAMETOOLONG);
        moed_close(m);
        moed_close(NULL);
}

TEST(options_of_a_newer_program_are_taken_if_they_ask_for_nothing_new) {
        struct {
                struct moed_options options;
                uint64_t future;
        } newer = { .options = MOED_OPTIONS_INIT };
        struct moed *m;

        newer.options.size = sizeof(newer);
        newer.options.socket = "/nonexistent/moed.sock";
        assert_se(moed_connect(&m, &newer.options) == -ENOENT);
        moed_close(m);
        newer.future = 1;
        assert_se(moed_connect(&m, &newer.options) == -EINVAL && moed_error(m)[0]);
        moed_close(m);
        newer.options.size = 2;
        assert_se(moed_connect(&m, &newer.options) == -EINVAL);
        moed_close(m);
        newer.options = (struct moed_options) MOED_OPTIONS_INIT;
        newer.options.reserved[1] = 1;
        assert_se(moed_connect(&m, &newer.options) == -EINVAL);
        moed_close(m);
}

static void serve_nothing(struct peer *p) {
        char verb[32];

        while (peer_request(p, verb) > 0)
                ;
}

static struct moed *connect_to(const struct fake *f) {
        struct moed_options options = MOED_OPTIONS_INIT;
        struct moed *m;

        options.socket = f->path;
        assert_se(moed_connect(&m, &options) == 0);
        return m;
}

TEST(requests_are_checked_before_they_are_sent) {
        struct fake f = fake_start(LIE_NONE, serve_nothing);
        struct moed *m = connect_to(&f);
        struct moed_request q = MOED_REQUEST_INIT, none = q;
        static char large[8192];
        uint64_t request;

        q.model = 1;
        assert_se(moed_submit(m, &q, &request) == -EINVAL); /* no prompt */
        q.prompt = "x";
        q.tokens = (int32_t[]) { 1 };
        assert_se(moed_submit(m, &q, &request) == -EINVAL); /* two */
        q = none;
        q.model = 1;
        q.prompt = "x";
        q.flags = 1u << 31;
        assert_se(moed_submit(m, &q, &request) == -EINVAL);
        q.flags = 0;
        q.experts = -1;
        assert_se(moed_submit(m, &q, &request) == -EINVAL);
        q.experts = __builtin_nan("");
        assert_se(moed_submit(m, &q, &request) == -EINVAL);
        q.experts = 0;
        q.reserved[2] = 1;
        assert_se(moed_submit(m, &q, &request) == -EINVAL);
        q.reserved[2] = 0;
        q.ride_experts = 1; /* without the flag */
        assert_se(moed_submit(m, &q, &request) == -EINVAL);
        q.ride_experts = 0;
        q.flags = MOED_RIDE;
        assert_se(moed_submit(m, &q, &request) == -EINVAL);
        q.flags = 0;
        q.size = 8;
        assert_se(moed_submit(m, &q, &request) == -EINVAL);
        q.size = sizeof(q);
        q.prompt = large;
        q.prompt_length = 8192 - 127; /* with the head one byte more than the arena */
        assert_se(moed_submit(m, &q, &request) == -E2BIG && strstr(moed_error(m), "8192"));
        q.prompt_length = 8192 - 128;
        assert_se(moed_submit(m, &q, &request) == 0);
        q.prompt_length = 1;
        assert_se(moed_submit(m, &q, &request) == -EAGAIN); /* the arena is full, nobody reads */
        moed_close(m);
        fake_end(&f);
}

TEST(full_ring_says_try_again) {
        struct fake f = fake_start(LIE_NONE, serve_nothing);
        struct moed *m = connect_to(&f);
        struct moed_request q = MOED_REQUEST_INIT;
        uint64_t request;

        q.model = 1;
        q.prompt = "x";
        for (unsigned i = 0; i < 8; i++)
                assert_se(moed_submit(m, &q, &request) == 0);
        assert_se(moed_submit(m, &q, &request) == -EAGAIN);
        assert_se(moed_cancel(m, request) == -EAGAIN);
        assert_se(moed_cancel(m, 999) == 0);
        moed_close(m);
        fake_end(&f);
}

/* The bytes in the arena, and the same request as the events that come back. */
static void serve_one(struct peer *p) {
        struct wire_generate g;
        struct wire_submission s;
        const uint8_t *at;

        s = peer_take(p);
        assert_se(s.op == WIRE_OP_GENERATE && s.flags == 0 && s.offset % WIRE_ARENA_ALIGN == 0);
        at = wire_arena(&p->layout, p->client.address) + s.offset;
        memcpy(&g, at, sizeof(g));
        assert_se(g.size == sizeof(g) && g.model == 0 && g.prompt_kind == WIRE_PROMPT_MESSAGES);
        assert_se(g.stop_count == 2 && g.stop_bytes == 2 * sizeof(struct wire_stop) + 5 &&
                  g.prompt_bytes == 8 + 3 + 8 + 2);
        assert_se(s.length == sizeof(g) + g.stop_bytes + g.prompt_bytes);
        assert_se(g.experts_milli == 2300 && g.max_tokens == 9 && g.seed == 77 && g.top_p == 1.0f);
        assert_se(memcmp(at + sizeof(g), "\3\0\0\0END\2\0\0\0\n\n", 13) == 0);
        assert_se(memcmp(at + sizeof(g) + g.stop_bytes, "\1\0\0\0\3\0\0\0sys\2\0\0\0\2\0\0\0hi", 21) == 0);
        peer_emit(p, s.request, WIRE_EVENT_ACCEPTED, 0, "");
        peer_emit(p, s.request, WIRE_EVENT_TOKEN, 0, "hello");
        peer_emit(p, s.request, WIRE_EVENT_TEXT, 0, " you");
        peer_emit(p, s.request, WIRE_EVENT_TEXT, 0, " there");
        peer_emit(p, s.request, WIRE_EVENT_DONE, WIRE_DONE_EOG, "!");
        serve_nothing(p);
}

static int collect(const struct moed_event *event, void *userdata) {
        strncat(userdata, event->text, event->text_length);
        return 0;
}

TEST(request_arrives_byte_for_byte_and_its_events_come_back) {
        struct fake f = fake_start(LIE_NONE, serve_one);
        struct moed *m = connect_to(&f);
        struct moed_request q = MOED_REQUEST_INIT;
        const struct moed_message messages[] = { { MOED_SYSTEM, "sys", 0 }, { MOED_USER, "hi there", 2 } };
        const char *stops[] = { "END", "\n\n" };
        char text[64] = "";

        q.messages = messages;
        q.n_messages = 2;
        q.stops = stops;
        q.n_stops = 2;
        q.experts = 2.3; /* 2299.9999… thousandths in binary */
        q.max_tokens = 9;
        q.seed = 77;
        assert_se(moed_run(m, &q, collect, text) == 0);
        assert_se(strcmp(text, "hello you there!") == 0);
        moed_close(m);
        fake_end(&f);
}

static void serve_then_die(struct peer *p) {
        struct wire_submission s = peer_take(p);

        peer_emit(p, s.request, WIRE_EVENT_ACCEPTED, 0, "");
        peer_emit(p, s.request, WIRE_EVENT_TOKEN, 0, "last");
}

/* What was sent before still comes, then the end. */
static void expect_last_then_end(struct moed *m, const char *words) {
        struct moed_event event;
        int r;

        assert_se(moed_wait(m, &event, 5000) == 1 && event.type == MOED_EVENT_ACCEPTED);
        assert_se(moed_wait(m, &event, 5000) == 1 && event.type == MOED_EVENT_TOKEN &&
                  event.text_length == 4);
        do
                r = moed_wait(m, &event, 5000);
        while (r == 0);
        assert_se(r == -ECONNRESET && strstr(moed_error(m), words));
        assert_se(moed_next(m, &event) == -ECONNRESET);
        assert_se(moed_submit(m, &(struct moed_request) MOED_REQUEST_INIT, &(uint64_t) { 0 }) == -ECONNRESET);
}

static void submit(struct moed *m) {
        struct moed_request q = MOED_REQUEST_INIT;
        uint64_t request;

        q.model = 1;
        q.prompt = "x";
        assert_se(moed_submit(m, &q, &request) == 0);
}

TEST(death_of_the_daemon_is_noticed_after_its_last_event) {
        struct fake f = fake_start(LIE_NONE, serve_then_die);
        struct moed *m = connect_to(&f);

        submit(m);
        expect_last_then_end(m, "gone");
        moed_close(m);
        fake_end(&f);
}

static void serve_then_throw_out(struct peer *p) {
        serve_then_die(p);
        peer_refuse(p, 0, EPROTO, "a submission had an unknown flag");
        notify_close_client(&p->waker);
        serve_nothing(p);
}

TEST(being_thrown_out_comes_with_the_reason) {
        struct fake f = fake_start(LIE_NONE, serve_then_throw_out);
        struct moed *m = connect_to(&f);

        submit(m);
        expect_last_then_end(m, "unknown flag");
        moed_close(m);
        fake_end(&f);
}

TEST(poll_descriptor_tells_of_events_and_of_death) {
        struct fake f = fake_start(LIE_NONE, serve_then_die);
        struct moed *m = connect_to(&f);
        struct pollfd p = { .fd = moed_fd(m), .events = POLLIN };
        unsigned tokens = 0;
        int r;

        assert_se(p.fd >= 0 && moed_fd(m) == p.fd);
        assert_se(moed_prepare(m) == 0 && poll(&p, 1, 0) == 0);
        submit(m);
        for (;;) {
                struct moed_event event;

                while ((r = moed_next(m, &event)) > 0)
                        tokens += event.type == MOED_EVENT_TOKEN;
                if (r < 0)
                        break;
                r = moed_prepare(m);
                assert_se(r >= 0);
                if (r == 0)
                        assert_se(poll(&p, 1, 5000) == 1);
        }
        assert_se(r == -ECONNRESET && tokens == 1);
        moed_close(m);
        fake_end(&f);
}

static void serve_broken_index(struct peer *p) {
        atomic_store(&p->page->completion_tail, 9); /* of a ring of 8 */
        serve_nothing(p);
}

TEST(impossible_ring_index_ends_the_connection) {
        struct fake f = fake_start(LIE_NONE, serve_broken_index);
        struct moed *m = connect_to(&f);
        struct moed_event event;

        assert_se(moed_wait(m, &event, 5000) == -EPROTO);
        assert_se(moed_next(m, &event) == -EPROTO && moed_prepare(m) == -EPROTO &&
                  moed_cancel(m, 1) == -EPROTO);
        moed_close(m);
        fake_end(&f);
}

static void serve_stranger(struct peer *p) {
        peer_emit(p, 12345, WIRE_EVENT_TOKEN, 0, "boo");
        serve_nothing(p);
}

TEST(event_of_an_unknown_request_ends_the_connection) {
        struct fake f = fake_start(LIE_NONE, serve_stranger);
        struct moed *m = connect_to(&f);
        struct moed_event event;

        assert_se(moed_wait(m, &event, 5000) == -EPROTO);
        moed_close(m);
        fake_end(&f);
}

static void on_alarm(int signal) {
}

TEST(wait_ends_in_time_and_at_a_signal) {
        struct fake f = fake_start(LIE_NONE, serve_nothing);
        struct moed *m = connect_to(&f);
        struct moed_event event;
        struct sigaction action = { .sa_handler = on_alarm };

        assert_se(moed_next(m, &event) == 0);
        assert_se(moed_wait(m, &event, 0) == 0);
        assert_se(moed_wait(m, &event, 20) == 0);
        assert_se(sigaction(SIGALRM, &action, NULL) == 0);
        ualarm(50000, 0);
        assert_se(moed_wait(m, &event, 20000) == -EINTR);
        moed_close(m);
        fake_end(&f);
}

/* Answers a request that was never made before the one that was; then unasked words. */
static void serve_out_of_order(struct peer *p) {
        struct control_builder b;
        char verb[32];
        uint64_t id = peer_request(p, verb);

        assert_se(strcmp(verb, "stats") == 0);
        peer_refuse(p, id + 1000, EIO, "not yours");
        control_builder_init(&b);
        control_put_u64(&b, "id", id);
        control_put_u64(&b, "a", 1);
        control_put_i64(&b, "b", -2);
        control_put_double(&b, "c", 0.5);
        control_put_binary(&b, "d", "\xff", 1);
        control_begin_array(&b, "e");
        control_put_bool(&b, NULL, true);
        control_put_nil(&b, NULL);
        control_end(&b);
        control_begin_map(&b, "f");
        control_put_string(&b, "g", "h\"");
        control_end(&b);
        peer_send(p, &b, NULL, 0);
        serve_nothing(p);
}

TEST(query_turns_the_reply_into_json) {
        struct fake f = fake_start(LIE_NONE, serve_out_of_order);
        struct moed *m = connect_to(&f);
        char *text;

        assert_se(moed_query(m, "stats", "{\"verb\":\"x\"}", &text) == -EINVAL);
        assert_se(moed_query(m, "stats", "{", &text) == -EINVAL);
        assert_se(moed_query(m, "stats", "[]", &text) == -EINVAL);
        assert_se(moed_query(m, "stats", "{\"x\":{\"y\":[1,-2,0.5,\"z\",null,true]}}", &text) == 0);
        assert_se(strcmp(text, "{\"a\":1,\"b\":-2,\"c\":0.5,\"d\":\"\xef\xbf\xbd\",\"e\":[true,null],\"f\":{"
                               "\"g\":\"h\\\"\"}}") == 0);
        free(text);
        moed_close(m);
        fake_end(&f);
}
