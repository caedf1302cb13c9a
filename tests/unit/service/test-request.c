/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "request.h"
#include "test.h"

enum { PROMPT_MAX = 64 };

/* A request with one stop "ab" and a prompt of three ids, as a client lays it out; `edit` changes a copy. */
struct block {
        struct wire_generate head;
        struct wire_stop stop;
        char stop_text[2];
        uint8_t prompt[12];
} __attribute__((packed));

static struct block good(void) {
        struct block b = {
                .head = { .size = sizeof(struct wire_generate), .prompt_kind = WIRE_PROMPT_TOKENS,
                          .prompt_bytes = 12, .stop_count = 1, .stop_bytes = 6, .max_tokens = 9, .top_p = 1.0f,
                          .repetition_penalty = 1.0f, .temperature = 0.5f, .seed = 77 },
                .stop = { .length = 2 },
                .stop_text = { 'a', 'b' },
        };
        int32_t ids[3] = { 4, -5, 6 };

        memcpy(b.prompt, ids, sizeof(ids));
        return b;
}

static int parse(const void *data, size_t length, struct request *ret, struct reason *reason) {
        char *block = malloc(length + 1);
        int r;

        assert_se(block);
        memcpy(block, data, length);
        r = request_parse(ret, block, length, PROMPT_MAX, reason);
        if (r != 0)
                free(block);
        return r;
}

/* The error, which must come with a sentence that has `words` in it. */
static int refused(const struct block *b, size_t length, const char *words) {
        struct request request;
        struct reason reason = REASON_INIT;
        int r = parse(b, length, &request, &reason);

        assert_se(r > 0);
        if (!strstr(reason.text, words))
                fprintf(stderr, "not in it: %s: %s\n", words, reason.text);
        assert_se(strstr(reason.text, words));
        return r;
}

TEST(a_request_is_read_as_it_was_laid_out) {
        struct block b = good();
        struct request request;

        assert_se(parse(&b, sizeof(b), &request, NULL) == 0);
        assert_se(request.max_tokens == 9 && request.sampler.seed == 77 && request.sampler.temperature == 0.5f);
        assert_se(request.n_stops == 1 && request.stops[0].length == 2 && memcmp(request.stops[0].text, "ab", 2) == 0);
        assert_se(request.prompt_bytes == 12 && request_token(&request, 1) == -5);
        request_deinit(&request);
}

TEST(sizes_that_do_not_add_up_are_refused) {
        struct block b = good();

        assert_se(refused(&b, sizeof(struct wire_generate) - 1, "shorter than its head") == EINVAL);
        refused(&b, sizeof(b) - 1, "its head tells of");
        b.head.prompt_bytes = 0xfffffff0;
        assert_se(refused(&b, sizeof(b), "at most 64") == EMSGSIZE);
        b = good();
        b.head.stop_bytes = 0xfffffff0;
        refused(&b, sizeof(b), "its head tells of");
        b = good();
        b.head.size = 127;
        refused(&b, sizeof(b), "127 bytes");
}

TEST(unknown_bits_and_reserved_fields_are_refused) {
        struct block b = good();

        b.head.flags = 1u << 31;
        refused(&b, sizeof(b), "unknown flags");
        b = good();
        b.head.reserved[5] = 1;
        refused(&b, sizeof(b), "reserved");
        b = good();
        b.head.ride_experts = 1;
        refused(&b, sizeof(b), "rides");
        b.head.ride_experts = 0;
        b.head.flags = WIRE_GENERATE_RIDE;
        refused(&b, sizeof(b), "rides");
        b = good();
        b.head.prompt_kind = 9;
        refused(&b, sizeof(b), "kind of prompt");
}

TEST(stops_that_leave_their_place_are_refused) {
        struct block b = good();

        b.stop.length = 0;
        refused(&b, sizeof(b), "has 0 bytes");
        b.stop.length = 257;
        refused(&b, sizeof(b), "has 257 bytes");
        b.stop.length = 3;
        refused(&b, sizeof(b), "outside the request");
        b.stop.length = 1;
        refused(&b, sizeof(b), "left behind");
        b = good();
        b.head.stop_count = 2;
        refused(&b, sizeof(b), "stop string 1 lies outside");
        b.head.stop_count = 17;
        refused(&b, sizeof(b), "at most 16");
}

TEST(parameters_that_are_no_numbers_are_refused) {
        struct block b = good();

        b.head.temperature = NAN;
        refused(&b, sizeof(b), "temperature");
        b = good();
        b.head.top_p = INFINITY;
        refused(&b, sizeof(b), "top_p");
        b = good();
        b.head.repetition_penalty = -1.0f;
        refused(&b, sizeof(b), "repetition");
}

TEST(token_prompts_are_whole_ids) {
        struct block b = good();

        b.head.prompt_bytes = 10;
        refused(&b, sizeof(b) - 2, "4-byte token ids");
}

TEST(messages_are_walked_within_the_request) {
        struct {
                struct wire_generate head;
                struct wire_message first;
                char text[3];
                struct wire_message second;
        } __attribute__((packed)) b = {
                .head = { .size = sizeof(struct wire_generate), .prompt_kind = WIRE_PROMPT_MESSAGES, .top_p = 1.0f,
                          .repetition_penalty = 1.0f,
                          .prompt_bytes = 2 * sizeof(struct wire_message) + 3 },
                .first = { .role = WIRE_ROLE_SYSTEM, .length = 3 },
                .text = { 'a', 'b', 'c' },
                .second = { .role = WIRE_ROLE_USER, .length = 0 },
        };
        struct reason reason = REASON_INIT;
        struct request_message message;
        struct request request;
        uint32_t offset = 0;

        assert_se(parse(&b, sizeof(b), &request, &reason) == 0);
        assert_se(request_message(&request, &offset, &message));
        assert_se(message.role == WIRE_ROLE_SYSTEM && message.length == 3 && memcmp(message.text, "abc", 3) == 0);
        assert_se(request_message(&request, &offset, &message));
        assert_se(message.role == WIRE_ROLE_USER && message.length == 0);
        assert_se(!request_message(&request, &offset, &message));
        request_deinit(&request);

        b.second.length = 1;
        assert_se(parse(&b, sizeof(b), &request, &reason) == EINVAL && strstr(reason.text, "message 1"));
        b.second.length = 0;
        b.second.role = 4;
        assert_se(parse(&b, sizeof(b), &request, &reason) == EINVAL && strstr(reason.text, "role 4"));
        b.head.prompt_bytes = 0;
        assert_se(parse(&b, sizeof(b.head), &request, &reason) == EINVAL && strstr(reason.text, "without messages"));
}
