/* SPDX-License-Identifier: MIT */
#include "balance.h"

#include <math.h>

#include "base/util.h"

struct balance balance_of(const uint64_t *uses, uint32_t n) {
        struct balance b = { .total = 0 };
        double entropy = 0.0;
        uint64_t most = 0;

        for (uint32_t i = 0; i < n; i++) {
                b.total += uses[i];
                b.unused += uses[i] == 0;
                most = MAX(most, uses[i]);
        }
        if (b.total == 0)
                return b;
        for (uint32_t i = 0; i < n; i++) {
                double share = (double) uses[i] / (double) b.total;

                entropy -= uses[i] > 0 ? share * log(share) : 0.0;
        }
        b.busiest = (double) most * n / (double) b.total;
        b.effective = exp(entropy);
        return b;
}

unsigned balance_level(double uses, double mean) {
        double level;

        if (!(uses > 0.0) || !(mean > 0.0))
                return 0;
        level = 4.0 + rint(log2(uses / mean));
        return level < 1.0 ? 1 : level > 8.0 ? 8 : (unsigned) level;
}
