/* SPDX-License-Identifier: MIT */
/* Compiled once per instruction set (simd.h). */
#include <math.h>

#include "float16.h"
#include "host.h"
#include "simd.h"
#include "tile.h"

/* The sum of a row's differences from `mean`, or of their squares. */
ALWAYS_INLINE float sum_of(const float *x, uint32_t dim, float mean, bool squares) {
        vf sums[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
        uint32_t i = 0;

        for (; i + 4 * VF_LANES <= dim; i += 4 * VF_LANES)
                UNROLL for (int k = 0; k < 4; k++) {
                        vf v = vf_load(x + i + k * VF_LANES) - vf_set(mean);

                        sums[k] = squares ? vf_fma(v, v, sums[k]) : (vf) (sums[k] + v);
                }
        for (; i < dim; i += VF_LANES) {
                vf v = vf_load_part(x + i, MIN(dim - i, (uint32_t) VF_LANES), vf_set(mean)) - vf_set(mean);

                sums[0] = squares ? vf_fma(v, v, sums[0]) : (vf) (sums[0] + v);
        }
        return vf_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

ALWAYS_INLINE void rms_norm_part(float *y, const float *x, const float *w, float scale, uint32_t i,
                                 uint32_t n) {
        vf v = vf_load_part(x + i, n, vf_zero()) * vf_set(scale);

        vf_store_part(y + i, w ? (vf) (vf_load_part(w + i, n, vf_zero()) * v) : v, n);
}

static void rms_norm_row(float *y, const float *x, const float *w, uint32_t dim, float eps) {
        float scale = 1.0f / sqrtf(sum_of(x, dim, 0.0f, true) / (float) dim + eps);

        VF_PARTS(dim, rms_norm_part, y, x, w, scale);
}

void SIMD_NAME(rms_norm)(const struct op_rms_norm *op, uint32_t begin, uint32_t end) {
        for (uint32_t t = begin; t < end; t++)
                rms_norm_row((float *) host_address(op->y) + (size_t) t * op->y_stride,
                             (const float *) host_address(op->x) + (size_t) t * op->x_stride,
                             host_address(op->w), op->dim, op->eps);
}

struct layer_norm {
        float *y;
        const float *x, *w, *b;
        float mean, scale;
};

ALWAYS_INLINE void layer_norm_part(const struct layer_norm *a, uint32_t i, uint32_t n) {
        vf v = (vf_load_part(a->x + i, n, vf_zero()) - vf_set(a->mean)) * vf_set(a->scale);

        v = vf_fma(vf_load_part(a->w + i, n, vf_zero()), v, vf_load_part(a->b + i, n, vf_zero()));
        vf_store_part(a->y + i, v, n);
}

void SIMD_NAME(layer_norm)(const struct op_layer_norm *op, uint32_t begin, uint32_t end) {
        for (uint32_t t = begin; t < end; t++) {
                struct layer_norm a = {
                        .y = (float *) host_address(op->y) + (size_t) t * op->dim,
                        .x = (const float *) host_address(op->x) + (size_t) t * op->dim,
                        .w = host_address(op->w),
                        .b = host_address(op->b),
                };

                a.mean = sum_of(a.x, op->dim, 0.0f, false) / (float) op->dim;
                a.scale = 1.0f / sqrtf(sum_of(a.x, op->dim, a.mean, true) / (float) op->dim + op->eps);
                VF_PARTS(op->dim, layer_norm_part, &a);
        }
}

void SIMD_NAME(to_f16)(uint16_t *dst, const float *src, uint32_t n) {
        uint32_t i = 0;

        for (; i + VF_LANES <= n; i += VF_LANES)
                vf_store_f16(dst + i, vf_load(src + i));
        if (i < n) {
                uint16_t rest[VF_LANES];

                vf_store_f16(rest, vf_load_part(src + i, n - i, vf_zero()));
                memcpy(dst + i, rest, (n - i) * sizeof(*dst));
        }
}

void SIMD_NAME(to_bf16)(uint16_t *dst, const float *src, uint32_t n) {
        for (uint32_t i = 0; i < n; i++)
                dst[i] = bf16_finite_from_f32(src[i]);
}

/* The running softmax of some channels (ref/compress.c). */
ALWAYS_INLINE void channels_part(const struct channels *s, const float *v, const float *g, const float *bias,
                                 uint32_t c, uint32_t n) {
        vf logit = vf_load_part(g + c, n, vf_zero()) + vf_load_part(bias + c, n, vf_zero());
        vf before = vf_load_part(s->max + c, n, vf_zero()), max = vf_max(logit, before);
        vf correction = vf_exp(before - max), p = vf_exp(logit - max);
        vf weight = vf_load_part(s->weight + c, n, vf_zero()),
           value = vf_load_part(s->value + c, n, vf_zero());

        vf_store_part(s->max + c, max, n);
        vf_store_part(s->weight + c, vf_fma(weight, correction, p), n);
        vf_store_part(s->value + c, vf_fma(value, correction, p * vf_load_part(v + c, n, vf_zero())), n);
}

void SIMD_NAME(channels_add)(const struct channels *s, const float *v, const float *g, const float *bias,
                             uint32_t n) {
        VF_PARTS(n, channels_part, s, v, g, bias);
}

/* All forms are x / (1 + e^-a) × up: a = x for silu; for gelu's tanh form a = 2 sqrt(2 / pi) (x + 0.044715
 * x³), because (1 + tanh u) / 2 = 1 / (1 + e^-2u). */
ALWAYS_INLINE vf act(const struct op_glu *op, vf x, vf up) {
        vf a;

        if (op->limit > 0.0f) {
                /* The second operand is returned when one is not a number. */
                x = vf_min(vf_set(op->limit), x);
                up = vf_max(vf_set(-op->limit), vf_min(vf_set(op->limit), up));
        }
        a = x;
        if (op->act == ACT_GEGLU)
                a = vf_set(1.59576912f) * vf_fma(vf_set(0.044715f) * x * x, x, x);
        if (op->act == ACT_SWIGLU_OAI) {
                a = vf_set(1.702f) * x;
                up = up + vf_set(1.0f);
        }
        return x / (vf_set(1.0f) + vf_exp(vf_zero() - a)) * up;
}

void SIMD_NAME(glu)(const struct op_glu *op, uint32_t begin, uint32_t end) {
        const float *gate = host_address(op->gate), *up = host_address(op->up);
        size_t i = (size_t) begin * op->dim, n = (size_t) end * op->dim;
        float *y = host_address(op->y);

        for (; i + VF_LANES <= n; i += VF_LANES)
                vf_store(y + i, act(op, vf_load(gate + i), vf_load(up + i)));
        if (i < n) {
                /* The same instructions for the rest: where a value lies in its call must not change it. */
                float g[VF_LANES] = {0}, u[VF_LANES] = {0};

                memcpy(g, gate + i, (n - i) * sizeof(*g));
                memcpy(u, up + i, (n - i) * sizeof(*u));
                vf_store(g, act(op, vf_load(g), vf_load(u)));
                memcpy(y + i, g, (n - i) * sizeof(*g));
        }
}

void SIMD_NAME(add)(const struct op_add *op, uint64_t begin, uint64_t end) {
        const float *x = host_address(op->x);
        float *y = host_address(op->y);
        uint64_t i = begin;

        for (; i + VF_LANES <= end; i += VF_LANES)
                vf_store(y + i, vf_load(y + i) + vf_set(op->scale) * vf_load(x + i));
        for (; i < end; i++)
                y[i] += op->scale * x[i];
}

enum { PLAIN_AHEAD = 2048 /* bytes */ };

/* Weights of plain types, converted exactly; `size` bytes a value. */
ALWAYS_INLINE void tile_plain(const struct dot_job *job, uint32_t row, uint32_t t, int W, int N, size_t size,
                              vf (*load)(const void *)) {
        vf acc[8][8];
        uint32_t i = 0;

        UNROLL for (int w = 0; w < W; w++) UNROLL for (int n = 0; n < N; n++) acc[w][n] = vf_zero();
        for (; i + VF_LANES <= job->cols; i += VF_LANES) {
                const uint8_t *p = job->w + row * job->row_bytes + i * size;
                vf weights[8];

                UNROLL for (int w = 0; w < W; w++) weights[w] = load(p + w * job->row_bytes);
                /* A row alone is a stream; the hardware follows it less far ahead than memory needs. */
                if (W == 1)
                        _mm_prefetch(p + PLAIN_AHEAD, _MM_HINT_T1);
                UNROLL for (int n = 0; n < N; n++) {
                        vf x = vf_load((const float *) job->x[t + n] + i);

                        UNROLL for (int w = 0; w < W; w++) acc[w][n] = vf_fma(weights[w], x, acc[w][n]);
                }
        }
        if (i < job->cols)
                UNROLL for (int w = 0; w < W; w++) {
                        vf weights = vf_load_rest(load, job->w + (row + w) * job->row_bytes + i * size,
                                               (job->cols - i) * size);

                        UNROLL for (int n = 0; n < N; n++) acc[w][n] = vf_fma(
                                weights,
                                vf_load_rest(vf_load, (const uint8_t *) ((const float *) job->x[t + n] + i),
                                          (job->cols - i) * sizeof(float)),
                                acc[w][n]);
                }
        TILE_STORE(job, row, t, acc, W, N);
}

ALWAYS_INLINE void tile_f32(const struct dot_job *job, uint32_t row, uint32_t t, int W, int N) {
        tile_plain(job, row, t, W, N, 4, vf_load);
}

ALWAYS_INLINE void tile_f16(const struct dot_job *job, uint32_t row, uint32_t t, int W, int N) {
        tile_plain(job, row, t, W, N, 2, vf_load_f16);
}

ALWAYS_INLINE void tile_bf16(const struct dot_job *job, uint32_t row, uint32_t t, int W, int N) {
        tile_plain(job, row, t, W, N, 2, vf_load_bf16);
}

#if defined(__AVX512F__)
enum { W_MANY = 4, N_MANY = 4, SLICE = 64 };
#else
enum { W_MANY = 3, N_MANY = 4, SLICE = 32 };
#endif

DOT_WALK(SIMD_NAME(dot_f32), tile_f32, W_MANY, N_MANY, SLICE)
DOT_WALK(SIMD_NAME(dot_f16), tile_f16, W_MANY, N_MANY, SLICE)
DOT_WALK(SIMD_NAME(dot_bf16), tile_bf16, W_MANY, N_MANY, SLICE)
