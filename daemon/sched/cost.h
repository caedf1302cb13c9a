/* SPDX-License-Identifier: MIT */
#pragma once

/* What a forward pass of one model costs on this machine, in nanoseconds: a sum of terms with coefficients that are not
 * negative, fitted to what passes took. Pure: who measures passes the time. One thread.
 *
 * The experts that a batch has to read are what its price follows (OEA, arXiv 2511.02237). How many distinct ones there
 * will be is not known before it runs: of E, rows that choose k each leave out (1-k/E) each, so E·(1-Π(1-k/E)) in each
 * layer if all were alike; by how much routers differ from that is learned, apart for small and large batches. */

#include <stdbool.h>
#include <stdint.h>

enum cost_term {
        COST_PASS,                 /* what there is to do for a pass of any size */
        COST_ROW_PROMPT,           /* rows */
        COST_ROW_GENERATED,
        COST_KEY_PROMPT,           /* keys that a row looks at, itself included, in thousands */
        COST_KEY_GENERATED,
        COST_ACTIVATION_PROMPT,    /* routed experts evaluated, over all layers */
        COST_ACTIVATION_GENERATED,
        COST_EXPERT,               /* distinct experts, over all layers: their weights are read */
        COST_LOGITS,               /* rows whose logits are wanted */
        _COST_TERM_N,
};

/* "pass", "row_prompt", … */
const char *cost_term_name(enum cost_term term);

/* What is known of a model without measuring. */
struct cost_shape {
        uint32_t layers, moe_layers, experts, experts_used;
        uint64_t weight_bytes;
};

/* What a pass is made of. */
struct cost_load {
        double terms[_COST_TERM_N]; /* but for COST_EXPERT, see cost_load_experts() */
        double missed;              /* log of the share of a layer's experts that nobody chooses */
};

/* A run of rows of one sequence. */
struct cost_rows {
        uint32_t rows, position; /* of the first one: keys before it */
        bool prompt;
        uint32_t cap_milli;      /* mean experts per row and layer */
        uint32_t logits;         /* of how many rows */
};

enum { COST_SIZES = 16, COST_RECENT = 64 };

struct cost {
        struct cost_shape shape;
        double coefficients[_COST_TERM_N];     /* nsec for one of each */
        double matrix[_COST_TERM_N][_COST_TERM_N], vector[_COST_TERM_N]; /* normal equations of what was seen lately, */
        double base_matrix[_COST_TERM_N][_COST_TERM_N], base_vector[_COST_TERM_N]; /* and of what is kept for good */
        double speed;                          /* what passes take just now, of what the coefficients say */
        double spread[COST_SIZES];             /* distinct experts seen, of those expected; by the logarithm of the
                                                * activations of a layer */
        uint64_t observed;                     /* passes */
        double recent[COST_RECENT];            /* forecast / actual of the latest */
        uint32_t short_rows;                   /* of a pass of its own, see cost_short_nsec() */
};

/* What is short enough to be waited for: the rows of a prompt by themselves, and a pass with them and all that it
 * reads. */
#define COST_SHORT_NSEC UINT64_C(150000000)
#define COST_SHORT_PASS_NSEC UINT64_C(500000000)

/* Coefficients are guesses until passes are observed. */
void cost_init(struct cost *cost, const struct cost_shape *shape);

void cost_load_add(const struct cost *cost, struct cost_load *load, const struct cost_rows *rows);
/* Distinct experts to expect, over all layers. */
double cost_load_experts(const struct cost *cost, const struct cost_load *load);
/* What a pass of this load will take; 0 of none. */
uint64_t cost_nsec(const struct cost *cost, const struct cost_load *load);

/* What these rows would cost in a pass as large as `beside`, whose experts are shared among all that use them, without
 * the part that there is for any pass. */
uint64_t cost_share_nsec(const struct cost *cost, const struct cost_load *beside, const struct cost_rows *rows);

/* Rows of a prompt from `position` on that make a pass of the load `beside`, or one of their own where that is empty,
 * take `nsec` longer at most: at least 1, at most `max`. */
uint32_t cost_prompt_rows(const struct cost *cost, const struct cost_load *beside, uint32_t position,
                          uint32_t cap_milli, uint64_t nsec, uint32_t max);

/* How much longer a short prompt may make a pass of the load `beside`. Experts that are read for it are not held
 * against it: others in the pass use them as well. */
uint64_t cost_short_nsec(const struct cost *cost, const struct cost_load *beside);

/* A pass of this load took so long. `experts`: distinct ones, over all layers, or 0 where nobody counted. What is far
 * off counts for less: it waited for a disk or for a processor. `keep`: it was made to be measured and tells for
 * good. */
void cost_observe(struct cost *cost, const struct cost_load *load, uint64_t experts, uint64_t nsec, bool keep);

/* Of the latest passes: the median of forecast / actual, and of how far that is from 1. 0 where none was seen. */
double cost_ratio(const struct cost *cost);
double cost_error(const struct cost *cost);
