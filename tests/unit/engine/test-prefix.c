/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "prefix.h"
#include "test.h"
#include "tiny.h"

enum { PAGE = KV_PAGE_TOKENS, TEXT = 4 * PAGE };

/* A tiny model on the reference backend, its cache, and two who pay. */
struct world {
        struct backend *backend;
        struct model *model;
        struct step *step;
        struct prefix_cache *cache;
        struct prefix_owner a, b;
};

static void world_open(struct world *w, uint32_t pages) {
        assert_se(backend_ref_new(&w->backend) == 0);
        w->model = tiny_open(&(struct tiny) { 0 }, w->backend, pages, TEXT);
        assert_se(step_new(&w->step, w->model) == 0);
        assert_se(prefix_cache_new(&w->cache, w->model) == 0);
        prefix_owner_init(&w->a);
        prefix_owner_init(&w->b);
}

static uint32_t pages_free(const struct world *w) {
        return model_kv_pages_free(w->model);
}

/* Every page is free or in the cache, and each of those is somebody's. */
static void world_close(struct world *w) {
        assert_se(prefix_cache_idle(w->cache) == prefix_cache_pages(w->cache));
        assert_se(w->a.pages == w->a.idle && w->b.pages == w->b.idle);
        assert_se(w->a.pages + w->b.pages == prefix_cache_pages(w->cache));
        assert_se(pages_free(w) + prefix_cache_pages(w->cache) == model_info(w->model)->kv_pages);
        prefix_cache_clear(w->cache);
        assert_se(w->a.pages + w->b.pages == 0 && list_empty(&w->a.oldest) && list_empty(&w->b.oldest));
        assert_se(pages_free(w) == model_info(w->model)->kv_pages);
        prefix_cache_free(w->cache);
        step_free(w->step);
        model_free(w->model);
        w->backend->ops->free(w->backend);
}

struct text {
        struct prefix_key keys[TEXT / PAGE];
};

/* Texts whose seeds differ by their `same` first pages only in what follows. */
static struct text text(uint32_t seed, uint32_t same) {
        struct text t;

        for (uint32_t i = 0; i < TEXT; i++)
                t.keys[i / PAGE].rows[i % PAGE] = (struct prefix_row) {
                        .token = (int32_t) ((i * 7 + (i < same * PAGE ? 0 : seed)) % TINY_VOCAB),
                        .experts = i % (TINY_LAYERS * TINY_EXPERTS_USED + 1),
                };
        return t;
}

/* A text in the making. */
struct writer {
        struct world *world;
        const struct text *text;
        struct sequence *sequence;
        struct prefix_cursor cursor;
};

static struct writer begin(struct world *w, const struct text *t, uint64_t space) {
        struct writer writer = { .world = w, .text = t };

        assert_se(sequence_new(&writer.sequence, w->model) == 0);
        assert_se(prefix_enter(&writer.cursor, w->cache, space) == 0);
        return writer;
}

static void end(struct writer *writer) {
        prefix_leave(&writer->cursor);
        sequence_free(writer->sequence);
}

static uint32_t follow(struct writer *writer, struct prefix_owner *owner) {
        int r = 0;

        while (writer->cursor.pages < TEXT / PAGE && r == 0)
                r = prefix_follow(&writer->cursor, &writer->text->keys[writer->cursor.pages], writer->sequence, owner);
        assert_se(r == 0 || r == PREFIX_E_ABSENT);
        assert_se(sequence_length(writer->sequence) == writer->cursor.pages * PAGE);
        return writer->cursor.pages;
}

/* Computes to the end of so many pages; returns the last logits. */
static const float *compute(struct writer *writer, uint32_t pages) {
        int32_t tokens[TEXT];
        uint32_t allowances[TEXT], at = sequence_length(writer->sequence), n = pages * PAGE - at;
        struct step_part part = { .sequence = writer->sequence, .tokens = tokens, .allowances = allowances,
                                  .count = n, .prompt = n, .logits = 1 };

        for (uint32_t i = 0; i < n; i++) {
                const struct prefix_row *row = &writer->text->keys[(at + i) / PAGE].rows[(at + i) % PAGE];

                tokens[i] = row->token;
                allowances[i] = row->experts;
        }
        assert_se(sequence_reserve(writer->sequence, n) == 0);
        assert_se(step_run(writer->world->step, &part, 1) == 0);
        return part.logits_out;
}

static void store(struct writer *writer, struct prefix_owner *owner) {
        while ((writer->cursor.pages + 1) * PAGE <= sequence_length(writer->sequence))
                assert_se(prefix_store(&writer->cursor, &writer->text->keys[writer->cursor.pages], writer->sequence,
                                       owner) == 0);
}

/* A text of `pages` pages is computed, stored, and left. */
static void leave_text(struct world *w, const struct text *t, uint32_t pages, uint64_t space,
                       struct prefix_owner *owner) {
        struct writer writer = begin(w, t, space);

        follow(&writer, owner);
        if (writer.cursor.pages < pages)
                compute(&writer, pages);
        store(&writer, owner);
        end(&writer);
}

static uint32_t known(struct world *w, const struct text *t, uint64_t space) {
        struct writer writer = begin(w, t, space);
        uint32_t pages = follow(&writer, &w->a);

        end(&writer);
        return pages;
}

TEST(a_text_goes_on_from_the_pages_that_another_has_left) {
        struct world w;
        struct text one = text(0, 4), other = text(1, 2);
        struct writer writer;

        world_open(&w, 12);
        leave_text(&w, &one, 4, 1, &w.a);
        assert_se(prefix_cache_pages(w.cache) == 4 && prefix_cache_idle(w.cache) == 4 && w.a.idle == 4);
        writer = begin(&w, &other, 1);
        assert_se(follow(&writer, &w.a) == 2 && sequence_pages(writer.sequence) == 2);
        assert_se(prefix_cache_idle(w.cache) == 2 && pages_free(&w) == 8);
        compute(&writer, 4);
        assert_se(pages_free(&w) == 6);
        store(&writer, &w.a);
        end(&writer);
        assert_se(prefix_cache_pages(w.cache) == 6 && known(&w, &one, 1) == 4 && known(&w, &other, 1) == 4);
        world_close(&w);
}

TEST(a_hit_gives_the_bits_of_a_miss) {
        struct world w;
        struct text one = text(0, 4), other = text(1, 2);
        struct writer alone, writer;
        float expected[TINY_VOCAB];

        world_open(&w, 12);
        alone = begin(&w, &other, 1);
        memcpy(expected, compute(&alone, 4), sizeof(expected));
        end(&alone);
        leave_text(&w, &one, 4, 1, &w.a);
        writer = begin(&w, &other, 1);
        assert_se(follow(&writer, &w.a) == 2);
        assert_se(memcmp(expected, compute(&writer, 4), sizeof(expected)) == 0);
        end(&writer);
        world_close(&w);
}

TEST(all_of_every_row_of_a_page_counts) {
        struct world w;
        struct text one = text(0, 4), other;

        world_open(&w, 8);
        leave_text(&w, &one, 2, 1, &w.a);
        for (uint32_t i = 0; i < 2 * PAGE; i++) {
                other = one;
                other.keys[i / PAGE].rows[i % PAGE].token ^= 1;
                assert_se(known(&w, &other, 1) == i / PAGE);
                other = one;
                other.keys[i / PAGE].rows[i % PAGE].experts++;
                assert_se(known(&w, &other, 1) == i / PAGE);
                other = one;
                other.keys[i / PAGE].rows[i % PAGE].how ^= 1;
                assert_se(known(&w, &other, 1) == i / PAGE);
        }
        /* And so do those of all pages before it. */
        other = one;
        other.keys[0] = one.keys[1];
        other.keys[1] = one.keys[0];
        assert_se(known(&w, &other, 1) == 0 && known(&w, &one, 1) == 2);
        world_close(&w);
}

static bool same_key(const struct world *w, const struct step_part *a, const struct step_part *b) {
        struct prefix_key one, other;

        prefix_key_init(&one, w->cache, a);
        prefix_key_init(&other, w->cache, b);
        return memcmp(&one, &other, sizeof(one)) == 0;
}

TEST(a_key_says_what_a_part_says) {
        int32_t tokens[PAGE] = { 1, 2, 3 };
        uint32_t allowances[PAGE] = { 4, 5 }, others[PAGE] = { 4, 5, 6 };
        struct step_budget budgets[PAGE], higher[PAGE], none[PAGE];
        struct step_part part = { .tokens = tokens, .allowances = allowances, .count = PAGE, .prompt = PAGE },
                         other = part;
        struct world w;

        world_open(&w, 1);
        for (uint32_t i = 0; i < PAGE; i++) {
                budgets[i] = (struct step_budget) { 1500, 1000 };
                higher[i] = (struct step_budget) { 1500, i == 9 ? 2000 : 1000 };
                none[i] = (struct step_budget) { STEP_BUDGET_NONE, i };
        }
        other.allowances = others;
        assert_se(!same_key(&w, &part, &other));
        other = part;
        other.budgets = budgets;
        assert_se(!same_key(&w, &part, &other));
        part = other;
        other.budgets = higher;
        assert_se(!same_key(&w, &part, &other));
        /* Who has a budget has no use for an allowance, who has an allowance none for a floor. */
        other = part;
        other.allowances = others;
        assert_se(same_key(&w, &part, &other));
        part.budgets = none;
        other.budgets = NULL;
        other.allowances = allowances;
        assert_se(same_key(&w, &part, &other));
        /* Where prompts are computed in no other way they are as good as any row. */
        other.prompt = PAGE - 1;
        assert_se(same_key(&w, &part, &other));
        w.backend->flags |= BACKEND_PROMPTS;
        assert_se(!same_key(&w, &part, &other));
        world_close(&w);
}

TEST(spaces_share_nothing) {
        struct world w;
        struct text one = text(0, 4);

        world_open(&w, 8);
        leave_text(&w, &one, 2, 1, &w.a);
        assert_se(known(&w, &one, 2) == 0 && known(&w, &one, UINT64_MAX) == 0);
        leave_text(&w, &one, 3, 2, &w.b);
        assert_se(w.a.pages == 2 && w.b.pages == 3 && known(&w, &one, 1) == 2 && known(&w, &one, 2) == 3);
        world_close(&w);
}

/* Two compute the same two pages. */
static void begin_both(struct world *w, const struct text *one, struct writer *first, struct writer *second) {
        *first = begin(w, one, 1);
        *second = begin(w, one, 1);
        compute(first, 2);
        compute(second, 2);
}

TEST(two_who_compute_the_same_end_with_the_same_pages) {
        struct world w;
        struct text one = text(0, 4);
        struct writer first, second;

        world_open(&w, 8);
        begin_both(&w, &one, &first, &second);
        assert_se(pages_free(&w) == 4);
        store(&first, &w.a);
        store(&second, &w.b);
        assert_se(pages_free(&w) == 6 && prefix_cache_pages(w.cache) == 2 && w.a.pages == 2 && w.b.pages == 0);
        /* The one who is behind goes on from what the other has found meanwhile, in the midst of a page, too. */
        compute(&first, 4);
        store(&first, &w.a);
        assert_se(sequence_reserve(second.sequence, PAGE) == 0 && pages_free(&w) == 3);
        assert_se(follow(&second, &w.b) == 4 && pages_free(&w) == 4 && w.b.pages == 0);
        end(&first);
        assert_se(prefix_cache_idle(w.cache) == 0);
        end(&second);
        world_close(&w);
}

TEST(an_idle_page_is_charged_to_whoever_comes_to_it_by_computing_it_again) {
        struct world w;
        struct text one = text(0, 4);
        struct writer first, second;

        world_open(&w, 8);
        begin_both(&w, &one, &first, &second);
        store(&first, &w.a);
        end(&first);
        assert_se(w.a.pages == 2 && w.a.idle == 2);
        store(&second, &w.b);
        assert_se(w.a.pages == 0 && w.b.pages == 2 && w.b.idle == 0);
        end(&second);
        world_close(&w);
}

TEST(a_page_that_others_have_is_not_written_again) {
        struct world w;
        struct text one = text(0, 4);
        struct writer first, second;
        float expected[TINY_VOCAB];

        world_open(&w, 8);
        first = begin(&w, &one, 1);
        second = begin(&w, &one, 1);
        memcpy(expected, compute(&first, 2), sizeof(expected));
        store(&first, &w.a);
        follow(&second, &w.a);
        /* Cut in its midst the page would be written to; so it goes as a whole. */
        sequence_truncate(second.sequence, 2 * PAGE - 1);
        assert_se(sequence_length(second.sequence) == PAGE && sequence_pages(second.sequence) == 1);
        assert_se(memcmp(expected, compute(&second, 2), sizeof(expected)) == 0);
        end(&second);
        end(&first);
        world_close(&w);
}

TEST(what_was_unused_for_longest_goes_first_and_ends_before_beginnings) {
        struct world w;
        struct text old = text(1, 0), young = text(2, 0);

        world_open(&w, 16);
        leave_text(&w, &old, 3, 1, &w.a);
        leave_text(&w, &young, 3, 1, &w.a);
        assert_se(prefix_evict(&w.a, 1) == 1 && known(&w, &young, 1) == 3 && known(&w, &old, 1) == 2);
        /* Looking at them was use, too: now `young` is the older one. */
        assert_se(prefix_evict(&w.a, 2) == 2 && known(&w, &old, 1) == 2 && known(&w, &young, 1) == 1);
        assert_se(prefix_evict(&w.b, 5) == 0 && prefix_evict(&w.a, 5) == 3 && prefix_cache_pages(w.cache) == 0);
        world_close(&w);
}

TEST(what_is_in_use_stays) {
        struct world w;
        struct text one = text(0, 4), other = text(1, 1);
        struct writer writer;

        world_open(&w, 8);
        leave_text(&w, &one, 3, 1, &w.a);
        writer = begin(&w, &other, 1);
        assert_se(follow(&writer, &w.a) == 1);
        assert_se(prefix_evict(&w.a, 100) == 2 && prefix_cache_pages(w.cache) == 1);
        compute(&writer, 2);
        end(&writer);
        assert_se(prefix_evict(&w.a, 100) == 1 && pages_free(&w) == 8);
        world_close(&w);
}

TEST(idle_pages_are_charged_to_who_begins_with_them) {
        struct world w;
        struct text one = text(0, 4);
        struct writer writer, other;

        world_open(&w, 8);
        leave_text(&w, &one, 2, 1, &w.a);
        writer = begin(&w, &one, 1);
        assert_se(follow(&writer, &w.b) == 2 && w.a.pages == 0 && w.b.pages == 2 && w.b.idle == 0);
        other = begin(&w, &one, 1);
        assert_se(follow(&other, &w.a) == 2 && w.a.pages == 0 && w.b.pages == 2);
        end(&writer);
        assert_se(w.b.idle == 0);
        end(&other);
        assert_se(w.b.idle == 2 && prefix_evict(&w.a, 1) == 0);
        world_close(&w);
}

TEST(what_hangs_below_goes_with_a_page_whoever_pays_for_it) {
        struct world w;
        struct text one = text(0, 4);
        struct writer writer;

        world_open(&w, 8);
        writer = begin(&w, &one, 1);
        compute(&writer, 1);
        store(&writer, &w.a);
        leave_text(&w, &one, 3, 1, &w.b);
        end(&writer);
        assert_se(w.a.idle == 1 && w.b.idle == 2 && prefix_evict(&w.a, 2) == 2 && w.a.idle == 1 && w.b.idle == 0);
        world_close(&w);
}

TEST(many_texts_are_kept_apart) {
        struct world w;
        struct text texts[TINY_VOCAB - 1];

        world_open(&w, 200);
        for (uint32_t i = 0; i < ELEMENTS(texts); i++) {
                texts[i] = text(i + 1, 1);
                leave_text(&w, &texts[i], 2, 1, i % 2 ? &w.a : &w.b);
        }
        assert_se(prefix_cache_pages(w.cache) == 1 + ELEMENTS(texts));
        for (uint32_t i = 0; i < ELEMENTS(texts); i += 3)
                assert_se(known(&w, &texts[i], 1) == 2);
        assert_se(prefix_evict(&w.b, 7) == 7);
        world_close(&w);
}
