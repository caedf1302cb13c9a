/* SPDX-License-Identifier: MIT */
#include "panel.h"

#include <string.h>

#include "base/util.h"
#include "tile.h"

size_t panel_bytes(enum dot_input form, uint32_t cols) {
        size_t bytes;

        if (form == DOT_Q8_32)
                bytes = (size_t) cols * PANEL_ROWS + cols / 32 * sizeof(struct panel_32);
        else if (form == DOT_Q8_256)
                bytes = DIV_ROUND_UP(cols, 256U) * (256 * (size_t) PANEL_ROWS + sizeof(struct panel_256));
        else if (form == DOT_BF16)
                bytes = DIV_ROUND_UP(cols, 32U) * sizeof(panel_bf16);
        else
                bytes = DIV_ROUND_UP(cols, 32U) * sizeof(struct panel_float);
        return DIV_ROUND_UP(bytes, (size_t) PANEL_ALIGN) * PANEL_ALIGN;
}

/* 16 dwords of each row from `at`, the `there` first of them. */
ALWAYS_INLINE void load_rows(__m512i v[16], const void *const *x, uint32_t n, size_t at, __mmask16 there) {
        for (uint32_t t = 0; t < PANEL_ROWS; t++)
                v[t] = t < n ? _mm512_maskz_loadu_epi32(there, (const char *) x[t] + at) : _mm512_setzero_si512();
}

/* 32 numbers of each row from column `at`, or fewer before `cols`: sixteen in a, the others in b. */
ALWAYS_INLINE void load_floats(__m512i a[16], __m512i b[16], const void *const *x, uint32_t n, uint32_t at,
                               uint32_t cols) {
        uint32_t here = MIN(cols - at, 32U);

        load_rows(a, x, n, at * sizeof(float), (__mmask16) ((1U << MIN(here, 16U)) - 1));
        load_rows(b, x, n, (at + 16) * sizeof(float), (__mmask16) (here > 16 ? (1U << (here - 16)) - 1 : 0));
}

/* Bytes [at, at + 64), or fewer before `cols`, of each row. */
static void pack_values(panel_fours *q, const void *const *x, uint32_t n, uint32_t cols) {
        for (uint32_t at = 0; at < cols; at += 64) {
                uint32_t fours = MIN(cols - at, 64U) / 4;
                __m512i v[16];

                load_rows(v, x, n, at, (__mmask16) ((1U << fours) - 1));
                transpose_dwords(v);
                for (uint32_t i = 0; i < fours; i++)
                        _mm512_store_si512(q++, v[i]);
        }
}

static void pack_256(struct panel_256 *p, const void *const *x, uint32_t n, uint32_t cols) {
        for (uint32_t i = 0; i * 256 < cols; i++, p++)
                for (uint32_t t = 0; t < PANEL_ROWS; t++) {
                        const int16_t *sums = t < n ? q8_256_sums(x[t], cols) + i * 16 : NULL;
                        uint32_t there = sums ? (cols - i * 256) / 32 : 0;

                        p->d[t] = t < n ? q8_256_scales(x[t], cols)[i] : 0.0f;
                        for (unsigned j = 0; j < 8; j++)
                                p->sums[j / 2][t][j % 2] = (int16_t) (j < there ? sums[2 * j] + sums[2 * j + 1] : 0);
                }
}

static void pack_32(struct panel_32 *p, const void *const *x, uint32_t n, uint32_t cols) {
        for (uint32_t i = 0; i < cols / 32; i++, p++)
                for (uint32_t t = 0; t < PANEL_ROWS; t++) {
                        p->d[t] = t < n ? q8_32_scales(x[t], cols)[i] : 0.0f;
                        p->sums[t] = t < n ? q8_32_sums(x[t], cols)[i] : 0.0f;
                }
}

static void pack_float(struct panel_float *p, const void *const *x, uint32_t n, uint32_t cols) {
        for (uint32_t i = 0; i < cols; i += 32, p++) {
                __m512i a[16], b[16];

                load_floats(a, b, x, n, i, cols);
                for (uint32_t half = 0; half * PANEL_HALF < n; half++) {
                        __m512i v[16];

                        for (uint32_t t = 0; t < PANEL_HALF; t++) {
                                uint32_t row = half * PANEL_HALF + t;

                                split(_mm512_castsi512_ps(a[row]), _mm512_castsi512_ps(b[row]), &v[t],
                                      &v[PANEL_HALF + t]);
                        }
                        transpose_dwords(v);
                        for (int k = 0; k < 16; k++)
                                _mm512_store_si512(p->halves[half][k], v[k]);
                }
        }
}

static void pack_bf16(panel_bf16 *p, const void *const *x, uint32_t n, uint32_t cols) {
        for (uint32_t i = 0; i < cols; i += 32, p++) {
                __m512i a[16], b[16];

                load_floats(a, b, x, n, i, cols);
                for (int t = 0; t < PANEL_ROWS; t++)
                        a[t] = to_bf16(_mm512_castsi512_ps(a[t]), _mm512_castsi512_ps(b[t]));
                transpose_dwords(a);
                for (int k = 0; k < 16; k++)
                        _mm512_store_si512((*p)[k], a[k]);
        }
}

void panel_pack(enum dot_input form, void *panel, const void *const *x, uint32_t n, uint32_t cols) {
        char *values_end = (char *) panel + (size_t) cols * PANEL_ROWS, *scales;

        if (form == DOT_FLOAT)
                return pack_float(panel, x, n, cols);
        if (form == DOT_BF16)
                return pack_bf16(panel, x, n, cols);
        pack_values(panel, x, n, cols);
        scales = (char *) panel_scales(form, panel, cols);
        memset(values_end, 0, (size_t) (scales - values_end));
        if (form == DOT_Q8_256)
                pack_256((void *) scales, x, n, cols);
        else
                pack_32((void *) scales, x, n, cols);
}

/* The low bytes of four numbers of each row. */
ALWAYS_INLINE __m512i pack_fours(const __m512i q[4]) {
        const __m512i low = _mm512_set1_epi32(0xff), half = _mm512_set1_epi32(0xffff);
        __m512i a = _mm512_ternarylogic_epi32(low, q[0], _mm512_slli_epi32(q[1], 8), 0xca);
        __m512i b = _mm512_ternarylogic_epi32(low, q[2], _mm512_slli_epi32(q[3], 8), 0xca);

        return _mm512_ternarylogic_epi32(half, a, _mm512_slli_epi32(b, 16), 0xca);
}

/* 256 columns, or the n that there are. */
static void pack_columns_256(panel_fours *to, float d[PANEL_ROWS], const float *x, uint32_t n) {
        const __m512 zero_below = _mm512_set1_ps(ZERO_BELOW), most = _mm512_set1_ps(127.0f);
        __m512 largest = _mm512_setzero_ps(), inverse;
        __mmask16 some;

        for (uint32_t c = 0; c < n; c++)
                largest = _mm512_max_ps(_mm512_abs_ps(_mm512_load_ps(x + c * PANEL_ROWS)), largest);
        some = _mm512_cmp_ps_mask(largest, zero_below, _CMP_GE_OQ);
        inverse = _mm512_maskz_div_ps(some, most, largest);
        _mm512_store_ps(d, _mm512_maskz_div_ps(some, largest, most));
        for (uint32_t c = 0; c < 256; c += 4, to++) {
                __m512i q[4];

                for (uint32_t i = 0; i < 4; i++)
                        q[i] = c + i < n ? _mm512_cvtps_epi32(_mm512_load_ps(x + (c + i) * PANEL_ROWS) * inverse)
                                         : _mm512_setzero_si512();
                _mm512_store_si512(to, pack_fours(q));
        }
}

void panel_pack_columns(void *panel, const float *x, uint32_t at, uint32_t n, uint32_t cols) {
        struct panel_256 *scales = (struct panel_256 *) panel_scales(DOT_Q8_256, panel, cols);
        panel_fours *fours = panel;

        for (uint32_t c = 0; c < n; c += 256, at += 256)
                pack_columns_256(fours + at / 4, scales[at / 256].d, x + c * PANEL_ROWS, MIN(n - c, 256U));
}
