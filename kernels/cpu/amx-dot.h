/* SPDX-License-Identifier: MIT */
#pragma once

/* What the matrix unit's products have in common: sixteen weight rows by panels of sixteen activation rows. */

#include "group.h"
#include "panel.h"

enum {
        AMX_GROUPS = 2,      /* that are computed together, at most */
        AMX_PANELS_FEW = 2,  /* with which a group alone leaves more of the first cache to itself */
        AMX_PANELS_MAX = 20, /* whose values and sums stay in the second cache while the weights pass */
};

static inline uint32_t amx_rows_at_a_time(uint32_t n) {
        return rows_at_a_time(n, AMX_PANELS_MAX * PANEL_ROWS, PANEL_ROWS);
}

/* The groups from `row` on, `most` ≤ AMX_GROUPS of them. Returns how many there are. */
static inline uint32_t amx_groups(const struct dot_job *job, uint32_t row, uint32_t most, struct group g[AMX_GROUPS]) {
        uint32_t groups = 0;

        for (; groups < most && row < job->end; row += GROUP_ROWS)
                g[groups++] = group_at(job, row, most * GROUP_ROWS);
        return groups;
}

/* Stores the sums of a group with activation rows t to t + n - 1. Outputs lie a row apart from each other, which no
 * hardware prefetcher follows: where the next groups' outputs go is fetched meanwhile. */
static inline void amx_store(const struct dot_job *job, const struct group *g, uint32_t row, uint32_t t, uint32_t n,
                             float acc[][GROUP_ROWS][PANEL_ROWS]) {
        uint32_t next = row + AMX_GROUPS * GROUP_ROWS < job->end ? row + AMX_GROUPS * GROUP_ROWS : row;

        for (uint32_t p = 0; p * PANEL_ROWS < n; p++) {
                uint32_t rows = MIN(n - p * PANEL_ROWS, (uint32_t) PANEL_ROWS);
                __m512i v[16];

                for (int i = 0; i < GROUP_ROWS; i++)
                        v[i] = load512(acc[p][i]);
                transpose_dwords(v);
                for (uint32_t i = 0; i < rows; i++) {
                        _mm_prefetch((const char *) (job->y[t + p * PANEL_ROWS + i] + next), _MM_HINT_T1);
                        group_store(job, g, row, t + p * PANEL_ROWS + i, _mm512_castsi512_ps(v[i]));
                }
        }
}

/* All of a job, up to _most groups at a time: `_compute` fills _acc[group][panel] with the products of `groups` groups
 * g with `panels` panels from `first` on, and is computed for each of these. */
#define AMX_WALK(_job, _most, _acc, _compute)                                                                \
        for (uint32_t _t = 0, _rows = amx_rows_at_a_time((_job)->n); _t < (_job)->n; _t += _rows)            \
                for (uint32_t _row = (_job)->begin; _row < (_job)->end; _row += (_most) * GROUP_ROWS) {      \
                        uint32_t _n = MIN((_job)->n - _t, _rows);                                            \
                        uint32_t first = _t / PANEL_ROWS, panels = DIV_ROUND_UP(_n, (uint32_t) PANEL_ROWS);  \
                        struct group g[AMX_GROUPS];                                                          \
                        uint32_t groups = amx_groups((_job), _row, (_most), g);                              \
                                                                                                             \
                        _compute;                                                                            \
                        for (uint32_t _r = 0; _r < groups; _r++)                                             \
                                amx_store((_job), &g[_r], _row + _r * GROUP_ROWS, _t, _n, (_acc)[_r]);       \
                }

/* Groups to compute together in a job of whole numbers. */
static inline uint32_t amx_most_groups(const struct dot_job *job) {
        return job->n <= AMX_PANELS_FEW * PANEL_ROWS ? 1 : AMX_GROUPS;
}
