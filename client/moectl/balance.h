/* SPDX-License-Identifier: MIT */
#pragma once

/* How evenly a layer's experts are used. */

#include <stddef.h>
#include <stdint.h>

struct balance {
        uint64_t total;
        double busiest;   /* uses of the most used one over the mean; 1: even; 0: none was used */
        double effective; /* so many experts, evenly used, would be as uncertain (the exponential of the entropy) */
        uint32_t unused;
};

struct balance balance_of(const uint64_t *uses, uint32_t n);

/* What a column of a drawing shows, of 8: 4 is the mean, each step a factor of two; 0: not used at all. */
unsigned balance_level(double uses, double mean);
