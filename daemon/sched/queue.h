/* SPDX-License-Identifier: MIT */
#pragma once

/* When those that wait for a place will get one: what is to come is played through, admission by admission, by what is
 * left of everybody's prompt and answer. Pure.
 *
 * Answers go on side by side, each by a row in every pass; prompts are computed besides, one after the other, and hold
 * all answers up for as long. So there are two clocks: one of passes, by which answers end and places become free, and
 * the sum of the prompts that go before. */

#include <stdint.h>

#include "base/list.h"
#include "cost.h"

struct queue_entry {
        uint32_t *owner;    /* room for the count of its owner's that run */
        uint32_t pages;     /* that it has, or needs to begin */
        double prompt_nsec; /* left of its prompt: queue_prompt_nsec(); */
        double answer_nsec; /* and of its answer, beside the others'. INFINITY: nobody knows */
        double begins_nsec; /* told of those that wait: from now on. INFINITY: nobody knows */
        double ends_nsec;   /* while it is played: by the clock of passes */
        struct list link;
};

struct queue_room {
        uint64_t pages_free; /* one for each that runs is left over when another begins */
        uint32_t owner_max;  /* that run at a time, of one owner */
};

/* For how long rows of a prompt hold up a pass that is `beside`, or what they take by themselves if they are too many
 * for that. */
double queue_prompt_nsec(const struct cost *cost, const struct cost_load *beside, const struct cost_rows *rows);

/* The first `n_running` entries run, the others wait, the first one to be served first. */
void queue_play(struct queue_entry *entries, uint32_t n_running, uint32_t n, const struct queue_room *room);
