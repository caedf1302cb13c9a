/* SPDX-License-Identifier: MIT */
#include <math.h>

#include "base/util.h"
#include "queue.h"

struct play {
        struct list running, waiting;
        uint32_t n_running, owner_max;
        uint64_t pages_free;
        double clock; /* of passes */
        double delay; /* of all that comes: prompts that go before */
};

static void begin(struct play *play, struct queue_entry *entry) {
        entry->ends_nsec = play->clock + entry->answer_nsec;
        list_append(&play->running, &entry->link);
        play->n_running++;
        ++*entry->owner;
        play->delay += entry->prompt_nsec;
}

static void end(struct play *play, struct queue_entry *entry) {
        list_unlink(&entry->link);
        play->n_running--;
        --*entry->owner;
        play->pages_free += entry->pages;
}

/* Who waits for a place of its owner's keeps nobody else from beginning. */
static void begin_waiting(struct play *play) {
        struct queue_entry *entry, *next;

        list_for_each_safe(entry, next, &play->waiting, link) {
                if (*entry->owner >= play->owner_max)
                        continue;
                if (play->pages_free < (uint64_t) entry->pages + play->n_running)
                        return;
                entry->begins_nsec = play->clock > 0.0 ? play->clock + play->delay : 0.0;
                list_unlink(&entry->link);
                play->pages_free -= entry->pages;
                begin(play, entry);
        }
}

/* NULL: nobody runs of whom that is known. */
static struct queue_entry *first_to_end(const struct play *play) {
        struct queue_entry *entry, *first = NULL;

        list_for_each(entry, &play->running, link)
                if (entry->ends_nsec < (first ? first->ends_nsec : INFINITY))
                        first = entry;
        return first;
}

double queue_prompt_nsec(const struct cost *cost, const struct cost_load *beside, const struct cost_rows *rows) {
        struct cost_load load = {};
        uint64_t without = 0;

        if (rows->rows == 0)
                return 0.0;
        if (rows->rows <= cost->short_rows) {
                load = *beside;
                without = cost_nsec(cost, beside);
        }
        cost_load_add(cost, &load, rows);
        return (double) (MAX(cost_nsec(cost, &load), without) - without);
}

void queue_play(struct queue_entry *entries, uint32_t n_running, uint32_t n, const struct queue_room *room) {
        struct play play = { .owner_max = MAX(room->owner_max, 1u), .pages_free = room->pages_free };
        struct queue_entry *first;

        list_init(&play.running);
        list_init(&play.waiting);
        for (uint32_t i = 0; i < n; i++)
                *entries[i].owner = 0;
        for (uint32_t i = 0; i < n_running; i++)
                begin(&play, &entries[i]);
        for (uint32_t i = n_running; i < n; i++) {
                entries[i].begins_nsec = INFINITY;
                list_append(&play.waiting, &entries[i].link);
        }
        begin_waiting(&play);
        while (!list_empty(&play.waiting) && (first = first_to_end(&play))) {
                play.clock = first->ends_nsec;
                end(&play, first);
                begin_waiting(&play);
        }
}
