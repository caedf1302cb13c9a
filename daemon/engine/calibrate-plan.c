/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "calibrate-internal.h"

/* Eighths of an expert are counted from the one whole expert that every layer has: a layer has 0 to `top` of them, a
 * plan's line i deals i × layers. */
struct problem {
        const float *error; /* [top + 1][layers] */
        uint32_t layers, top;
        double *best, *next; /* [layers × top + 1] least error of the layers so far with so many eighths */
        uint16_t *choice;    /* [layers][layers × top + 1] what the last of them has of those */
};

static size_t totals(const struct problem *p) {
        return (size_t) p->layers * p->top + 1;
}

static void add_layer(struct problem *p, uint32_t layer) {
        uint16_t *choice = p->choice + layer * totals(p);

        for (size_t sum = 0; sum <= (size_t) (layer + 1) * p->top; sum++) {
                size_t before = (size_t) layer * p->top; /* the most that the layers before can have */
                uint32_t low = (uint32_t) (sum > before ? sum - before : 0);
                uint32_t high = (uint32_t) MIN(sum, (size_t) p->top);

                p->next[sum] = INFINITY;
                for (uint32_t b = low; b <= high; b++) {
                        double error = p->best[sum - b] + (double) p->error[(size_t) b * p->layers + layer];

                        if (error < p->next[sum]) {
                                p->next[sum] = error;
                                choice[sum] = (uint16_t) b;
                        }
                }
        }
        memcpy(p->best, p->next, totals(p) * sizeof(*p->best));
}

static void read_line(const struct problem *p, uint32_t line, uint16_t *ret) {
        size_t sum = (size_t) line * p->layers;

        for (uint32_t l = p->layers; l-- > 0;) {
                uint16_t b = p->choice[l * totals(p) + sum];

                ret[l] = (uint16_t) (EXPERT_PLAN_PARTS + b);
                sum -= b;
        }
}

int plan_solve(uint16_t *ret, const float *error, uint32_t layers, uint32_t experts_used) {
        struct problem p = { .error = error, .layers = layers, .top = expert_plan_lines(experts_used) - 1 };
        _cleanup_(freep) double *best = calloc(totals(&p), sizeof(*best)), *next = calloc(totals(&p), sizeof(*next));
        _cleanup_(freep) uint16_t *choice = calloc(totals(&p) * layers, sizeof(*choice));

        if (!best || !next || !choice)
                return -ENOMEM;
        p.best = best;
        p.next = next;
        p.choice = choice;
        for (uint32_t l = 0; l < layers; l++)
                add_layer(&p, l);
        for (uint32_t line = 0; line <= p.top; line++)
                read_line(&p, line, ret + (size_t) line * layers);
        return 0;
}
