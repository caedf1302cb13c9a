/* SPDX-License-Identifier: MIT */
#pragma once

/* What the matrix unit's products have in common: sixteen weight rows by panels of sixteen activation rows. */

#include "group.h"
#include "panel.h"

/* Panels whose sums stay in the second cache while the weights pass. */
enum { AMX_PANELS_MAX = 32 };

/* Stores the sums of a group with activation rows t to t + n - 1. */
static inline void amx_store(const struct dot_job *job, const struct group *g, uint32_t row, uint32_t t, uint32_t n,
                             float acc[][GROUP_ROWS][PANEL_ROWS]) {
        for (uint32_t p = 0; p * PANEL_ROWS < n; p++) {
                uint32_t rows = MIN(n - p * PANEL_ROWS, (uint32_t) PANEL_ROWS);
                __m512i v[16];

                for (int i = 0; i < GROUP_ROWS; i++)
                        v[i] = load512(acc[p][i]);
                transpose_dwords(v);
                for (uint32_t i = 0; i < rows; i++)
                        group_store(job, g, row, t + p * PANEL_ROWS + i, _mm512_castsi512_ps(v[i]));
        }
}
