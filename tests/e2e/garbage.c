/* SPDX-License-Identifier: MIT */

/* A client that breaks the rules: `garbage KIND SEED`. Prints what became of its connection as JSON: "closed" with the
 * "reason" that the daemon gave, or "alive". Kinds are the names in the table below. */

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/util.h"
#include "control.h"
#include "ring.h"
#include "shm.h"

struct garbage {
        int socket;
        struct wire_layout layout;
        struct shm_mapping client, daemon;
        struct wire_client_page *page;
        struct wire_submission *slots;
        uint8_t *arena;
        int bell;
        uint32_t tail;
        unsigned short state[3];
        _Atomic bool stop;
};

static _Noreturn void die(const char *what) {
        fprintf(stderr, "garbage: %s: %s\n", what, strerror(errno));
        exit(1);
}

static uint64_t any(struct garbage *g) {
        return (uint64_t) (uint32_t) jrand48(g->state) << 32 | (uint32_t) jrand48(g->state);
}

static void fill(struct garbage *g, void *at, size_t size) {
        uint8_t *p = at;

        for (size_t i = 0; i < size; i++)
                p[i] = (uint8_t) jrand48(g->state);
}

static void connect_daemon(struct garbage *g) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        const char *path = getenv("MOED_SOCKET");

        if (!path || strlen(path) >= sizeof(address.sun_path))
                die("MOED_SOCKET");
        strcpy(address.sun_path, path);
        g->socket = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (g->socket < 0 || connect(g->socket, (struct sockaddr *) &address, sizeof(address)) < 0)
                die("connect");
        if (control_socket_prepare(g->socket) < 0)
                die("socket");
}

/* Waits for a packet; false when the connection has ended. */
static bool receive(struct garbage *g, struct control_packet *packet, void *buffer, size_t size, int msec) {
        struct pollfd p = { .fd = g->socket, .events = POLLIN };

        if (poll(&p, 1, msec) <= 0)
                return false;
        return control_receive(g->socket, buffer, size, packet, NULL) == 0;
}

static void say_hello(struct garbage *g) {
        static uint8_t buffer[CONTROL_MESSAGE_MAX];
        struct control_packet packet = CONTROL_PACKET_NULL;
        struct control_builder b;
        const void *data;
        size_t size;

        control_builder_init(&b);
        control_put_string(&b, "verb", "hello");
        control_put_u64(&b, "id", 1);
        control_put_u64(&b, "version", WIRE_VERSION);
        control_put_u64(&b, "entries", 64);
        control_put_u64(&b, "arena", 64 * 1024);
        if (control_builder_finish(&b, &data, &size) != 0 || control_send(g->socket, data, size, NULL, 0) != 0)
                die("hello");
        control_builder_deinit(&b);
        if (!receive(g, &packet, buffer, sizeof(buffer), 5000) || packet.n_fds != 4)
                die("reply to hello");
        if (wire_layout_init(&g->layout, 64, 64 * 1024, NULL) != 0 ||
            shm_map(&g->client, packet.fds[0], g->layout.client_size, true) < 0 ||
            shm_map(&g->daemon, packet.fds[1], g->layout.daemon_size, false) < 0)
                die("mmap");
        g->page = g->client.address;
        g->slots = wire_submissions(&g->layout, g->client.address);
        g->arena = wire_arena(&g->layout, g->client.address);
        g->bell = packet.fds[2];
}

static void ring(struct garbage *g) {
        uint64_t one = 1;

        (void) !write(g->bell, &one, sizeof(one));
}

static void publish(struct garbage *g, const struct wire_submission *submission) {
        g->slots[g->tail & (g->layout.entries - 1)] = *submission;
        atomic_store(&g->page->submission_tail, ++g->tail);
        ring(g);
}

static struct wire_submission generate(struct garbage *g, uint32_t stops) {
        struct wire_generate *w = (struct wire_generate *) g->arena;

        *w = (struct wire_generate) { .size = sizeof(*w), .flags = WIRE_GENERATE_IGNORE_EOG,
                                      .prompt_kind = WIRE_PROMPT_TOKENS, .prompt_bytes = 8, .max_tokens = 4,
                                      .top_p = 1.0f, .repetition_penalty = 1.0f, .stop_count = stops };
        memset(w + 1, 0, 8);
        return (struct wire_submission) { .op = WIRE_OP_GENERATE, .request = g->tail, .length = sizeof(*w) + 8 };
}

static void bad_tail(struct garbage *g) {
        atomic_store(&g->page->submission_tail, (uint32_t) any(g) | 0x10000);
        ring(g);
}

/* Not to run ahead of a slow daemon, which would be another mistake than the one meant. False when the daemon has said
 * farewell: it takes nothing any more. */
static bool wait_for_room(struct garbage *g) {
        const struct wire_daemon_page *daemon = g->daemon.address;
        struct pollfd p = { .fd = g->socket, .events = POLLIN };

        while (g->tail - atomic_load(&daemon->submission_head) >= g->layout.entries)
                if (poll(&p, 1, 1) != 0)
                        return false;
        return true;
}

static void bad_head(struct garbage *g) {
        struct wire_submission echo = { .op = WIRE_OP_ECHO };

        atomic_store(&g->page->completion_head, (uint32_t) any(g) | 0x10000);
        /* The daemon keeps the index that it saw until it needs room. */
        for (int i = 0; i < 200 && wait_for_room(g); i++)
                publish(g, &echo);
}

static void bad_operation(struct garbage *g) {
        struct wire_submission s = { .op = (uint32_t) any(g) | 0x100 };

        publish(g, &s);
}

static void bad_reserved(struct garbage *g) {
        struct wire_submission s = generate(g, 0);

        s.reserved[any(g) % 4] = any(g) | 1;
        publish(g, &s);
}

static void bad_offset(struct garbage *g) {
        struct wire_submission s = generate(g, 0);

        s.offset = any(g) & ~(uint64_t) (WIRE_ARENA_ALIGN - 1);
        s.offset |= UINT64_C(1) << 40;
        publish(g, &s);
}

static void bad_length(struct garbage *g) {
        struct wire_submission s = generate(g, 0);

        s.offset = WIRE_ARENA_ALIGN;
        s.length = UINT64_MAX - any(g) % 128;
        publish(g, &s);
}

/* Heads that look right and hold nonsense: each is refused, the connection lives. */
static void bad_head_fields(struct garbage *g) {
        for (int i = 0; i < 300 && wait_for_room(g); i++) {
                struct wire_submission s = generate(g, 0);
                size_t at = any(g) % sizeof(struct wire_generate);

                g->arena[at] ^= (uint8_t) (1 + any(g) % 255);
                publish(g, &s);
                atomic_store(&g->page->completion_head,
                             atomic_load(&((struct wire_daemon_page *) g->daemon.address)->completion_tail));
                usleep(300);
        }
}

static void bad_stops(struct garbage *g) {
        struct wire_submission s = generate(g, 3);
        struct wire_generate *w = (struct wire_generate *) g->arena;
        struct wire_stop stop = { .length = 0xffffff };

        w->stop_bytes = 8;
        memcpy(w + 1, &stop, sizeof(stop));
        s.length += 8;
        publish(g, &s);
}

static void *scribble(void *userdata) {
        struct garbage *g = userdata;
        unsigned short state[3] = { 9, 8, 7 };

        while (!atomic_load(&g->stop)) {
                uint8_t *at = (uint8_t *) g->client.address + WIRE_PAGE;

                at[(uint32_t) jrand48(state) % (64 * WIRE_SLOT + 256)] = (uint8_t) jrand48(state);
        }
        return NULL;
}

/* Changes slots and arena while the daemon reads them. */
static void race(struct garbage *g) {
        uint64_t until = now_nsec() + NSEC_PER_SEC / 2;
        pthread_t thread;

        if (pthread_create(&thread, NULL, scribble, g) != 0)
                die("thread");
        while (now_nsec() < until) {
                struct wire_submission s = generate(g, 0);

                publish(g, &s);
                atomic_store(&g->page->completion_head,
                             atomic_load(&((struct wire_daemon_page *) g->daemon.address)->completion_tail));
        }
        atomic_store(&g->stop, true);
        pthread_join(thread, NULL);
}

static void noise(struct garbage *g) {
        fill(g, (uint8_t *) g->client.address + WIRE_PAGE, g->layout.client_size - WIRE_PAGE);
        g->tail += 1 + any(g) % 64;
        atomic_store(&g->page->submission_tail, g->tail);
        atomic_store(&g->page->waiting, (uint32_t) any(g));
        ring(g);
}

static void bad_control(struct garbage *g) {
        uint8_t packet[512];

        fill(g, packet, sizeof(packet));
        packet[0] = 0xc1; /* never used by msgpack */
        (void) !write(g->socket, packet, sizeof(packet));
}

/* Descriptors that nobody asked for are closed. */
static void descriptors(struct garbage *g) {
        int fds[CONTROL_FDS_MAX];
        struct control_builder b;
        const void *data;
        size_t size;

        for (size_t i = 0; i < ELEMENTS(fds); i++)
                fds[i] = g->bell;
        for (int i = 0; i < 50; i++) {
                control_builder_init(&b);
                control_put_string(&b, "verb", "models");
                control_put_u64(&b, "id", 2);
                if (control_builder_finish(&b, &data, &size) == 0)
                        (void) control_send(g->socket, data, size, fds, ELEMENTS(fds));
                control_builder_deinit(&b);
                usleep(500);
        }
}

/* Asks and never reads the answers. */
static void deaf(struct garbage *g) {
        uint64_t until = now_nsec() + 5 * NSEC_PER_SEC;
        struct control_builder b;
        const void *data;
        size_t size;
        int r = 0;

        while (r != CONTROL_E_CLOSED && r >= 0 && now_nsec() < until) {
                control_builder_init(&b);
                control_put_string(&b, "verb", "stats");
                control_put_u64(&b, "id", 2);
                r = control_builder_finish(&b, &data, &size);
                if (r == 0)
                        r = control_send(g->socket, data, size, NULL, 0);
                control_builder_deinit(&b);
                if (r == CONTROL_E_AGAIN)
                        usleep(1000);
        }
}

static const struct {
        const char *name;
        void (*run)(struct garbage *g);
} kinds[] = {
        { "tail", bad_tail },         { "head", bad_head },           { "operation", bad_operation },
        { "reserved", bad_reserved }, { "offset", bad_offset },       { "length", bad_length },
        { "fields", bad_head_fields }, { "stops", bad_stops },        { "race", race },
        { "noise", noise },           { "control", bad_control },     { "descriptors", descriptors },
        { "deaf", deaf },
};

/* What the daemon says at last: its farewell, or nothing within a moment. */
static void judge(struct garbage *g) {
        static uint8_t buffer[CONTROL_MESSAGE_MAX];
        char said[256] = "";

        for (;;) {
                struct control_text event, reason;
                struct control_message message = CONTROL_MESSAGE_NULL;
                struct control_packet packet = CONTROL_PACKET_NULL;
                struct pollfd p = { .fd = g->socket, .events = POLLIN };

                if (poll(&p, 1, 300) <= 0) {
                        printf("{\"state\": \"alive\"}\n");
                        return;
                }
                if (control_receive(g->socket, buffer, sizeof(buffer), &packet, NULL) != 0) {
                        printf("{\"state\": \"closed\", \"reason\": \"%s\"}\n", said);
                        return;
                }
                if (control_parse(&message, buffer, packet.size, NULL) == 0 &&
                    control_get_string(message.root, "event", &event) == 0 &&
                    control_get_string(message.root, "reason", &reason) == 0)
                        snprintf(said, sizeof(said), "%.*s", (int) reason.size, reason.data);
                control_message_deinit(&message);
                control_packet_deinit(&packet);
        }
}

int main(int argc, char **argv) {
        static struct garbage g;

        for (size_t i = 0; argc == 3 && i < ELEMENTS(kinds); i++) {
                if (strcmp(kinds[i].name, argv[1]) != 0)
                        continue;
                g.state[0] = (unsigned short) atoi(argv[2]);
                connect_daemon(&g);
                say_hello(&g);
                kinds[i].run(&g);
                judge(&g);
                return 0;
        }
        return 2;
}
