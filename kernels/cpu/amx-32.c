/* SPDX-License-Identifier: MIT */
/* Blocks of 32 weights on the matrix unit: one product of tiles a block, half as deep as tiles can be, which AVX-512
 * scales and adds up while the unit is at the next panel (see amx-256.c). The sums equal those of group-32.c to the
 * bit. */

#include "amx-dot.h"
#include "group-32.h"
#include "panel.h"
#include "tile.h"

enum { SLAB_BLOCKS = 8 };

/* Up to eight blocks of sixteen weight rows. */
struct slab {
        _Alignas(PANEL_ALIGN) int8_t q[SLAB_BLOCKS][GROUP_ROWS][32];
        float d[SLAB_BLOCKS][GROUP_ROWS], m[SLAB_BLOCKS][GROUP_ROWS];
        uint32_t blocks;
};

/* The products of a slab with a panel, block by block. */
struct products {
        const struct slab *slab;
        const panel_fours *x;
        const struct panel_32 *scales;
        float (*acc)[PANEL_ROWS]; /* [16 weight rows][16 activation rows] */
        _Alignas(PANEL_ALIGN) int32_t dot[SLAB_BLOCKS][GROUP_ROWS][PANEL_ROWS]; /* see slot() */
};

/* Where block b's products go: away from what the next three blocks' loads would collide with (panel.h), which are 512
 * bytes each. */
ALWAYS_INLINE uint32_t slot(uint32_t b) {
        return b % 2 * 4 + (b / 2 + 3) % 4;
}

struct work {
        struct slab slabs[2][AMX_GROUPS];
        struct products products[2];
        _Alignas(PANEL_ALIGN) float acc[AMX_GROUPS][AMX_PANELS_MAX][GROUP_ROWS][PANEL_ROWS];
};

ALWAYS_INLINE void unpack(struct slab *slab, const struct group *g, uint32_t from, uint32_t blocks,
                          struct format_32 f) {
        slab->blocks = blocks;
        for (uint32_t b = 0; b < blocks; b += 2) {
                size_t at = (from + b) * f.block_bytes;

                for (int i = 0; i < GROUP_ROWS; i++) {
                        __m512i v = f.values(g->row[i] + at, b + 1 < blocks);

                        v = _mm512_sub_epi8(v, _mm512_set1_epi8((char) f.offset));
                        _mm256_store_si256((__m256i *) slab->q[b][i], _mm512_castsi512_si256(v));
                        _mm256_store_si256((__m256i *) slab->q[b + 1][i], _mm512_extracti64x4_epi64(v, 1));
                }
        }
        for (uint32_t b = 0; b < blocks; b++) {
                struct scales_32 s = f.scales(g, (from + b) * f.block_bytes);

                _mm512_store_ps(slab->d[b], s.d);
                if (s.has_m)
                        _mm512_store_ps(slab->m[b], s.m);
        }
}

/* One block's products, scaled and added to the sums of all weight rows. */
ALWAYS_INLINE void finish_block(const struct products *p, uint32_t b, __m512 acc[GROUP_ROWS], bool has_m) {
        __m512 dy = _mm512_load_ps(p->scales[b].d), sums = _mm512_load_ps(p->scales[b].sums);

        UNROLL for (int w = 0; w < GROUP_ROWS; w++) {
                __m512 dot = _mm512_cvtepi32_ps(load512(p->dot[slot(b)][w]));

                acc[w] = _mm512_fmadd_ps(dot, _mm512_set1_ps(p->slab->d[b][w]) * dy, acc[w]);
                if (has_m)
                        acc[w] = _mm512_fmadd_ps(sums, _mm512_set1_ps(p->slab->m[b][w]) * dy, acc[w]);
        }
}

ALWAYS_INLINE void multiply_block(struct products *p, uint32_t b) {
        AMX_ZERO(0);
        AMX_LOAD(1, p->slab->q[b], 32);
        AMX_LOAD(2, p->x[8 * b], 64);
        AMX_DOT_S8_S8(0, 1, 2);
        AMX_STORE(0, p->dot[slot(b)], 64);
}

/* Multiplies the slab of `now` (unless NULL) with its panel and, meanwhile, finishes `before` (unless NULL). */
ALWAYS_INLINE void multiply(struct products *now, const struct products *before, bool has_m) {
        __m512 acc[GROUP_ROWS];

        if (!before) {
                for (uint32_t b = 0; b < now->slab->blocks; b++)
                        multiply_block(now, b);
                return;
        }
        UNROLL for (int w = 0; w < GROUP_ROWS; w++) acc[w] = _mm512_load_ps(before->acc[w]);
        for (uint32_t b = 0; b < SLAB_BLOCKS; b++) {
                if (now && b < now->slab->blocks)
                        multiply_block(now, b);
                if (b < before->slab->blocks)
                        finish_block(before, b, acc, has_m);
        }
        UNROLL for (int w = 0; w < GROUP_ROWS; w++) _mm512_store_ps(before->acc[w], acc[w]);
}

/* Panels are read from the second cache, once for all groups. */
ALWAYS_INLINE void groups_32(const struct dot_job *job, const struct group *g, uint32_t groups, struct work *k,
                             uint32_t first, uint32_t panels, struct format_32 f) {
        uint32_t blocks = job->cols / 32, turn = 0;
        size_t bytes = panel_bytes(DOT_Q8_32, job->cols);
        const char *x = (const char *) job->panels + first * bytes;
        bool has_m = f.scales == scales_dm;
        struct products *before = NULL;

        for (uint32_t r = 0; r < groups; r++)
                memset(k->acc[r], 0, panels * sizeof(k->acc[r][0]));
        for (uint32_t from = 0, slabs = 0; from < blocks; from += SLAB_BLOCKS, slabs++) {
                uint32_t here = MIN(blocks - from, (uint32_t) SLAB_BLOCKS);

                for (uint32_t r = 0; r < groups; r++) {
                        unpack(&k->slabs[slabs % 2][r], &g[r], from, here, f);
                        group_fetch(&g[r], from * f.block_bytes, here * f.block_bytes, 0, 1);
                }
                for (uint32_t p = 0; p < panels; p++) {
                        const struct panel_32 *scales = panel_scales(DOT_Q8_32, x + p * bytes, job->cols);

                        for (uint32_t r = 0; r < groups; r++) {
                                struct products *now = &k->products[turn++ % 2];

                                now->slab = &k->slabs[slabs % 2][r];
                                now->x = (const panel_fours *) (x + p * bytes) + 8 * from;
                                now->scales = scales + from;
                                now->acc = k->acc[r][p];
                                multiply(now, before, has_m);
                                before = now;
                        }
                }
        }
        multiply(NULL, before, has_m);
}

ALWAYS_INLINE void dot_32(const struct dot_job *job, struct format_32 f) {
        static const struct amx_config config = {.palette = 1, .row_bytes = {64, 32, 64}, .rows = {16, 16, 8}};
        uint32_t most = amx_most_groups(job);
        struct work k;

        amx_begin(&config);
        AMX_WALK(job, most, k.acc, groups_32(job, g, groups, &k, first, panels, f));
        amx_end();
}

#define DOT_AMX_32(_name)                                                                                    \
        void dot_##_name##_amx(const struct dot_job *job) {                                                  \
                if (job->panels)                                                                             \
                        dot_32(job, format_##_name());                                                       \
                else                                                                                         \
                        dot_##_name##_avx512(job);                                                           \
        }

DOT_AMX_32(q8_0)
DOT_AMX_32(q4_0)
DOT_AMX_32(q4_1)
DOT_AMX_32(q5_0)
DOT_AMX_32(q5_1)
DOT_AMX_32(iq4_nl)
DOT_AMX_32(mxfp4)
