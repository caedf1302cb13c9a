/* SPDX-License-Identifier: MIT */
#pragma once

/* Walks a dot_job in register tiles. A tile function `tile(job, row, t, W, N)` computes W weight rows × N
 * activation rows; it is inlined for constant W and N, and computes each output with the same instructions
 * for all of them, so that the tile an output falls in does not change its bits. */

#include "base/util.h"
#include "simd.h"
#include "variant.h"

enum { TILE_FEW = 4 /* up to so many activation rows memory sets the pace */ };

/* Fetches the weights of the next tile while this one computes: its rows are read side by side, which the
 * hardware's prefetcher follows badly. */
ALWAYS_INLINE void tile_prefetch(const struct dot_job *job, uint32_t row, uint32_t rows) {
        const char *p = (const char *) job->w + row * job->row_bytes;
        size_t bytes = row < job->end ? MIN(rows, job->end - row) * job->row_bytes : 0;

        for (size_t i = 0; i < bytes; i += 64)
                _mm_prefetch(p + i, _MM_HINT_T1);
}

/* All activation rows from `from` to `to` in tiles of _W weight rows. */
#define TILE_ROW(_tile, _W, _N)                                                                              \
        do {                                                                                                 \
                uint32_t t = from;                                                                           \
                                                                                                             \
                for (; t + (_N) <= to; t += (_N))                                                            \
                        _tile(job, row, t, (_W), (_N));                                                      \
                for (; t + 2 <= to; t += 2)                                                                  \
                        _tile(job, row, t, (_W), 2);                                                         \
                for (; t < to; t++)                                                                          \
                        _tile(job, row, t, (_W), 1);                                                         \
        } while (0)

/* W, N: the tile for many activation rows, of which _most stay in the cache while all weight rows pass. Few of them
 * take one weight row after the other: a single stream of addresses runs at twice the speed of four. */
#define DOT_WALK(_name, _tile, _W, _N, _most)                                                                \
        static void _tile##_slice(const struct dot_job *job, uint32_t from, uint32_t to) {                   \
                uint32_t row = job->begin;                                                                   \
                                                                                                             \
                for (; to - from > TILE_FEW && row + (_W) <= job->end; row += (_W)) {                        \
                        if (from == 0)                                                                       \
                                tile_prefetch(job, row + (_W), (_W));                                        \
                        TILE_ROW(_tile, _W, _N);                                                             \
                }                                                                                            \
                for (; to - from > TILE_FEW && row + 2 <= job->end; row += 2)                                \
                        TILE_ROW(_tile, 2, _N);                                                              \
                for (; row < job->end; row++)                                                                \
                        TILE_ROW(_tile, 1, _N);                                                              \
        }                                                                                                    \
                                                                                                             \
        void _name(const struct dot_job *job) {                                                              \
                uint32_t slice = rows_at_a_time(job->n, (_most), (_N));                                      \
                                                                                                             \
                for (uint32_t t = 0; t < job->n; t += slice)                                                 \
                        _tile##_slice(job, t, MIN(t + slice, job->n));                                       \
        }

/* Adds up and stores a tile's sums: acc[w][n]. */
#define TILE_STORE(_job, _row, _t, _acc, _W, _N)                                                             \
        UNROLL for (int _w = 0; _w < (_W); _w++) UNROLL for (int _n = 0; _n < (_N); _n++)                    \
                dot_store((_job), (_t) + _n, (_row) + _w, vf_sum((_acc)[_w][_n]))

/* The kernels, one set per instruction set. */
#define DOT_DECLARE(_isa)                                                                                    \
        dot_fn dot_f32_##_isa, dot_f16_##_isa, dot_bf16_##_isa, dot_q8_0_##_isa, dot_q4_0_##_isa,            \
                dot_q4_1_##_isa, dot_q5_0_##_isa, dot_q5_1_##_isa, dot_iq4_nl_##_isa, dot_mxfp4_##_isa,      \
                dot_q4_k_##_isa, dot_q5_k_##_isa, dot_q6_k_##_isa, dot_iq4_xs_##_isa
DOT_DECLARE(avx512);
DOT_DECLARE(avx2);
/* Also what the variants beyond have. */
dot_fn dot_q2_k_avx2, dot_q3_k_avx2;
/* Of at most four activation rows. */
dot_fn dot_q6_k_few_avx2;
/* The same as those without lanes, faster with more than a few activation rows. */
dot_fn dot_q8_0_lanes_avx512, dot_q4_0_lanes_avx512, dot_q4_1_lanes_avx512, dot_q5_0_lanes_avx512,
        dot_q5_1_lanes_avx512, dot_iq4_nl_lanes_avx512, dot_mxfp4_lanes_avx512, dot_q2_k_lanes_avx512,
        dot_q3_k_lanes_avx512, dot_q6_k_lanes_avx512, dot_iq4_xs_lanes_avx512;

void dot_float_amx(const struct dot_job *job, enum quant_type type);
void dot_bfloat_amx(const struct dot_job *job, enum quant_type type);
/* Of a type whose weights become bytes for prompts; NULL: they do not. */
dot_fn *dot_requantised_amx(enum quant_type type);
dot_fn dot_q4_k_amx, dot_q5_k_amx, dot_q6_k_amx, dot_iq4_xs_amx, dot_q8_0_amx, dot_q4_0_amx, dot_q4_1_amx, dot_q5_0_amx,
        dot_q5_1_amx, dot_iq4_nl_amx, dot_mxfp4_amx;

void choose_avx512(int32_t *chosen, const float *scores, uint32_t n, uint32_t k);

/* From the files simd-*.c, which are compiled for each. */
#define ROWS_DECLARE(_isa)                                                                                   \
        extern dequantize_fn *const dequantize_##_isa[_QUANT_MAX];                                           \
        to_half_fn to_f16_##_isa, to_bf16_##_isa;                                                            \
        channels_add_fn channels_add_##_isa;                                                                 \
        void dot_input_##_isa(enum dot_input input, void *dst, const float *src, uint32_t cols);             \
        void layer_norm_##_isa(const struct op_layer_norm *op, uint32_t begin, uint32_t end);                \
        void rope_##_isa(const struct op_rope *op, uint32_t begin, uint32_t end);                            \
        route_fn route_##_isa;                                                                               \
        void hyper_in_##_isa(const struct op_hyper *op, uint32_t begin, uint32_t end);                       \
        void hyper_out_##_isa(const struct op_hyper *op, uint32_t begin, uint32_t end);                      \
        void mix_##_isa(const struct mix_job *job);                                                          \
        void rms_norm_##_isa(const struct op_rms_norm *op, uint32_t begin, uint32_t end);                    \
        void glu_##_isa(const struct op_glu *op, uint32_t begin, uint32_t end);                              \
        void add_##_isa(const struct op_add *op, uint64_t begin, uint64_t end);                              \
        void attention_##_isa(const struct attention_job *job);                                               \
        void blend_##_isa(float *y, float a, const float *x, float b, uint32_t n)
ROWS_DECLARE(avx512);
ROWS_DECLARE(avx2);

/* Their places in a variant's table. */
#define ROWS_MEMBERS(_isa)                                                                                   \
        .dequantize = dequantize_##_isa, .to_f16 = to_f16_##_isa, .to_bf16 = to_bf16_##_isa,                 \
        .dot_input = dot_input_##_isa,                                                                       \
        .mix = mix_##_isa, .rms_norm = rms_norm_##_isa, .layer_norm = layer_norm_##_isa,                     \
        .rope = rope_##_isa, .route = route_##_isa, .channels_add = channels_add_##_isa,                     \
        .hyper_in = hyper_in_##_isa, .hyper_out = hyper_out_##_isa, .glu = glu_##_isa, .add = add_##_isa
