/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "outbox.h"
#include "test.h"

struct pair {
        _Atomic uint32_t head, tail;
        struct wire_completion slots[8];
        struct ring_writer writer;
        struct ring_reader reader;
};

static void pair_init(struct pair *p) {
        *p = (struct pair) {};
        ring_writer_init(&p->writer, &p->head, &p->tail, p->slots, 8, 0);
        ring_reader_init(&p->reader, &p->head, &p->tail, p->slots, 8, 0);
}

/* Joins the texts of all that gets through, reading whenever the ring is full; returns the number of events. */
static int drain(struct outbox *box, char *text, struct wire_completion *last) {
        struct pair p;
        int n = 0;

        pair_init(&p);
        text[0] = '\0';
        for (;;) {
                assert_se(outbox_flush(box, &p.writer) == 0);
                ring_publish(&p.writer);
                if (ring_take(&p.reader, last) == RING_E_EMPTY)
                        return n;
                strncat(text, last->text, last->text_length);
                n++;
        }
}

TEST(a_long_text_follows_its_token_whole) {
        struct outbox box = OUTBOX_NULL;
        struct wire_completion event = { .request = 7, .event = WIRE_EVENT_TOKEN }, last;
        char text[1000], out[1000] = "";

        for (size_t i = 0; i < sizeof(text) - 1; i++)
                text[i] = (char) ('a' + i % 26);
        text[sizeof(text) - 1] = '\0';
        assert_se(outbox_put_text(&box, &event, text, strlen(text)) == 0);
        assert_se(drain(&box, out, &last) == (999 + WIRE_TEXT_MAX - 1) / WIRE_TEXT_MAX);
        assert_se(strcmp(out, text) == 0);
        assert_se(last.event == WIRE_EVENT_TEXT && last.request == 7);
        assert_se(outbox_empty(&box));
        outbox_deinit(&box);
}

TEST(characters_stay_whole) {
        static const char *const characters[] = { "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80" };

        for (size_t shift = 0; shift < 5; shift++)
                for (size_t c = 0; c < 3; c++) {
                        struct outbox box = OUTBOX_NULL;
                        struct wire_completion event = { .event = WIRE_EVENT_TOKEN };
                        char text[200] = "";

                        for (size_t i = 0; i < shift; i++)
                                strcat(text, "x");
                        for (size_t i = 0; i < 20; i++)
                                strcat(text, characters[c]);
                        assert_se(outbox_put_text(&box, &event, text, strlen(text)) == 0);
                        for (uint32_t i = 0; i < box.n_items; i++)
                                assert_se(((uint8_t) box.items[i].text[0] & 0xc0) != 0x80);
                        outbox_deinit(&box);
                }
}

TEST(bytes_that_are_no_text_get_through) {
        struct outbox box = OUTBOX_NULL;
        struct wire_completion event = { .event = WIRE_EVENT_TOKEN }, last;
        char text[101], out[200];

        memset(text, 0x80, 100);
        text[100] = '\0';
        assert_se(outbox_put_text(&box, &event, text, 100) == 0);
        drain(&box, out, &last);
        assert_se(strcmp(out, text) == 0);
        outbox_deinit(&box);
}

TEST(an_error_comes_last_with_the_end_of_its_sentence) {
        static const char sentence[] = "a sentence that is longer than what fits into a single completion";
        struct outbox box = OUTBOX_NULL;
        struct wire_completion last;
        char out[200];

        assert_se(outbox_put_error(&box, 3, EDQUOT, sentence) == 0);
        assert_se(box.items[0].event == WIRE_EVENT_REASON);
        assert_se(drain(&box, out, &last) == 3);
        assert_se(strcmp(out, sentence) == 0);
        assert_se(last.event == WIRE_EVENT_ERROR && last.detail == EDQUOT && last.request == 3);
        outbox_deinit(&box);
}

TEST(a_full_ring_keeps_the_rest_in_the_box) {
        struct outbox box = OUTBOX_NULL;
        struct wire_completion event = { .event = WIRE_EVENT_ECHO };
        struct pair p;

        pair_init(&p);
        for (int i = 0; i < 10; i++)
                assert_se(outbox_put(&box, &event) == 0);
        assert_se(outbox_flush(&box, &p.writer) == 0);
        assert_se(!outbox_empty(&box) && box.n_items - box.first == 2);
        ring_publish(&p.writer);
        p.head = 1;
        assert_se(outbox_flush(&box, &p.writer) == 0);
        assert_se(!outbox_empty(&box));
        p.head = 12345678;
        assert_se(outbox_flush(&box, &p.writer) == RING_E_BROKEN);
        outbox_deinit(&box);
}
