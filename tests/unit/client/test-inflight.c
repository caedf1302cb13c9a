/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "inflight.h"
#include "test.h"

static struct wire_completion completion(enum wire_event event, const char *text) {
        struct wire_completion c = { .request = 1, .event = (uint8_t) event };

        c.text_length = (uint8_t) strlen(text);
        memcpy(c.text, text, strlen(text));
        return c;
}

static bool text_is(const struct moed_event *event, const char *text) {
        return event->text_length == strlen(text) && memcmp(event->text, text, strlen(text)) == 0;
}

struct fixture {
        struct stream_table table;
        struct stream *stream;
        struct text out;
        struct moed_event event;
};

static struct fixture fixture_new(void) {
        struct fixture f = { .table = STREAM_TABLE_INIT };

        assert_se(stream_table_add(&f.table, &f.stream) == 0);
        return f;
}

static void fixture_end(struct fixture *f) {
        stream_table_deinit(&f->table);
        text_deinit(&f->out);
}

TEST(token_and_score_events_have_what_their_completion_has) {
        struct fixture f = fixture_new();
        struct wire_completion c = completion(WIRE_EVENT_TOKEN, "hello");

        c.token = 42;
        c.value = 12;
        c.logprob = -0.5f;
        c.cap_milli = 2500;
        c.activations = 99;
        assert_se(stream_feed(f.stream, &c, &f.event, &f.out) == 0);
        assert_se(f.event.type == MOED_EVENT_TOKEN && f.event.request == 1 && f.event.token == 42);
        assert_se(f.event.activations == 12 && f.event.activations_total == 99);
        assert_se(f.event.cap == 2.5 && f.event.logprob == -0.5f);
        assert_se(text_is(&f.event, "hello"));
        c.event = WIRE_EVENT_SCORE;
        assert_se(stream_feed(f.stream, &c, &f.event, &f.out) == 0);
        assert_se(f.event.type == MOED_EVENT_SCORE && f.event.token == 42 && f.event.logprob == -0.5f);
        assert_se(f.event.activations == 12 && text_is(&f.event, "hello"));
        fixture_end(&f);
}

TEST(long_token_is_one_event_in_whole_characters) {
        struct fixture f = fixture_new();
        struct wire_completion c = completion(WIRE_EVENT_TOKEN, "abcdefghijklmnopqrstuvwxyz0\xe2");

        assert_se(c.text_length == WIRE_TEXT_MAX);
        assert_se(stream_feed(f.stream, &c, &f.event, &f.out) == 0);
        assert_se(text_is(&f.event, "abcdefghijklmnopqrstuvwxyz0"));
        c = completion(WIRE_EVENT_TEXT, "\x82\xac!");
        assert_se(stream_feed_more(f.stream, &c, &f.event, &f.out) == 0);
        assert_se(text_is(&f.event, "abcdefghijklmnopqrstuvwxyz0\xe2\x82\xac!"));
        assert_se(f.event.type == MOED_EVENT_TOKEN);
        fixture_end(&f);
}

TEST(text_that_came_late_goes_with_the_next_event) {
        struct fixture f = fixture_new();
        struct wire_completion c = completion(WIRE_EVENT_TEXT, "late ");

        assert_se(stream_feed(f.stream, &c, &f.event, &f.out) == STREAM_E_MORE);
        c = completion(WIRE_EVENT_TOKEN, "word");
        assert_se(stream_feed(f.stream, &c, &f.event, &f.out) == 0);
        assert_se(text_is(&f.event, "late word"));
        fixture_end(&f);
}

TEST(done_gives_out_everything_even_half_a_character) {
        struct fixture f = fixture_new();
        struct wire_completion c = completion(WIRE_EVENT_TOKEN, "x\xc3");

        assert_se(stream_feed(f.stream, &c, &f.event, &f.out) == 0);
        assert_se(text_is(&f.event, "x"));
        c = completion(WIRE_EVENT_DONE, "");
        c.detail = WIRE_DONE_LENGTH;
        c.value = 1;
        assert_se(stream_feed(f.stream, &c, &f.event, &f.out) == 0);
        assert_se(f.event.type == MOED_EVENT_DONE && f.event.done == MOED_DONE_LENGTH && f.event.value == 1);
        assert_se(text_is(&f.event, "\xc3"));
        fixture_end(&f);
}

TEST(error_ends_the_sentence_that_reasons_began) {
        struct fixture f = fixture_new();
        /* Text held back is not the sentence's. */
        struct wire_completion c = completion(WIRE_EVENT_TOKEN, "y\xe2\x82");

        assert_se(stream_feed(f.stream, &c, &f.event, &f.out) == 0);
        c = completion(WIRE_EVENT_REASON, "the prompt has 5000 tokens, ");
        assert_se(stream_feed(f.stream, &c, &f.event, &f.out) == STREAM_E_MORE);
        c = completion(WIRE_EVENT_REASON, "the context of this model ha");
        assert_se(stream_feed(f.stream, &c, &f.event, &f.out) == STREAM_E_MORE);
        c = completion(WIRE_EVENT_ERROR, "s 4096");
        c.detail = E2BIG;
        assert_se(stream_feed(f.stream, &c, &f.event, &f.out) == 0);
        assert_se(f.event.type == MOED_EVENT_ERROR && f.event.error == -E2BIG);
        assert_se(text_is(&f.event, "the prompt has 5000 tokens, the context of this model has 4096"));
        fixture_end(&f);
}

TEST(senseless_completions_are_refused) {
        struct fixture f = fixture_new();
        struct wire_completion c = completion(WIRE_EVENT_TOKEN, "x");

        c.text_length = WIRE_TEXT_MAX + 1;
        assert_se(stream_feed(f.stream, &c, &f.event, &f.out) == -EPROTO);
        c.text_length = 255;
        assert_se(stream_feed(f.stream, &c, &f.event, &f.out) == -EPROTO);
        c = completion(0, "");
        assert_se(stream_feed(f.stream, &c, &f.event, &f.out) == -EPROTO);
        c = completion(99, "");
        assert_se(stream_feed(f.stream, &c, &f.event, &f.out) == -EPROTO);
        c = completion(WIRE_EVENT_DONE, "");
        assert_se(stream_feed(f.stream, &c, &f.event, &f.out) == -EPROTO);
        c.detail = WIRE_DONE_CANCELLED + 1;
        assert_se(stream_feed(f.stream, &c, &f.event, &f.out) == -EPROTO);
        c = completion(WIRE_EVENT_ERROR, "");
        assert_se(stream_feed(f.stream, &c, &f.event, &f.out) == -EPROTO);
        c.detail = 4096;
        assert_se(stream_feed(f.stream, &c, &f.event, &f.out) == -EPROTO);
        fixture_end(&f);
}

TEST(text_without_end_is_refused_before_it_fills_the_memory) {
        struct fixture f = fixture_new();
        struct wire_completion c = completion(WIRE_EVENT_TEXT, "abcdefghijklmnopqrstuvwxyz01");
        int r = STREAM_E_MORE;
        unsigned n;

        for (n = 0; r == STREAM_E_MORE && n < 10000; n++)
                r = stream_feed(f.stream, &c, &f.event, &f.out);
        assert_se(r == -EPROTO);
        assert_se(n <= STREAM_TEXT_MAX / WIRE_TEXT_MAX + 2);
        fixture_end(&f);
}

TEST(streams_are_found_by_number_and_by_no_other) {
        enum { N = 1000 };
        struct stream_table table = STREAM_TABLE_INIT;
        struct stream *streams[N];
        uint64_t numbers[N];

        assert_se(!stream_table_find(&table, 0) && !stream_table_find(&table, 1));
        for (size_t i = 0; i < N; i++) {
                assert_se(stream_table_add(&table, &streams[i]) == 0);
                numbers[i] = streams[i]->request;
                assert_se(i == 0 || numbers[i] > numbers[i - 1]);
        }
        for (size_t i = 0; i < N; i++)
                assert_se(stream_table_find(&table, numbers[i]) == streams[i]);
        for (size_t i = 0; i < N; i += 2)
                stream_table_remove(&table, streams[i]);
        for (size_t i = 0; i < N; i++)
                assert_se(stream_table_find(&table, numbers[i]) == (i % 2 == 0 ? NULL : streams[i]));
        assert_se(table.used == N / 2);
        assert_se(!stream_table_find(&table, numbers[1] + table.size));
        stream_table_deinit(&table);
}

/* One that never ends keeps its place while numbers pass by. */
TEST(long_running_stream_keeps_its_number) {
        struct stream_table table = STREAM_TABLE_INIT;
        struct stream *old, *stream;

        assert_se(stream_table_add(&table, &old) == 0);
        for (unsigned i = 0; i < 10000; i++) {
                assert_se(stream_table_add(&table, &stream) == 0);
                assert_se(stream->request != old->request);
                stream_table_remove(&table, stream);
        }
        assert_se(stream_table_find(&table, 1) == old);
        assert_se(table.size == 8);
        stream_table_deinit(&table);
}
