/* SPDX-License-Identifier: MIT */
/* Compiled once per instruction set (simd.h): the streams of hyper-connections. */

#include "base/util.h"
#include "host.h"
#include "simd.h"
#include "tile.h"

static const float *mix_of(const struct op_hyper *op, size_t t) {
        size_t width = op->head ? op->streams : (2 + (size_t) op->streams) * op->streams;

        return (const float *) host_address(op->mix) + t * width;
}

static float *streams_of(const struct op_hyper *op, size_t t) {
        return (float *) host_address(op->x) + t * op->streams * op->dim;
}

static float *row_of(const struct op_hyper *op, size_t t) {
        return (float *) host_address(op->y) + t * op->dim;
}

ALWAYS_INLINE void in_part(const struct op_hyper *op, uint32_t t, uint32_t c, uint32_t n) {
        const float *pre = mix_of(op, t), *x = streams_of(op, t) + c;
        vf sum = vf_zero();

        for (uint32_t i = 0; i < op->streams; i++, x += op->dim)
                sum = vf_fma(vf_set(pre[i]), vf_load_part(x, n, vf_zero()), sum);
        vf_store_part(row_of(op, t) + c, sum, n);
}

void SIMD_NAME(hyper_in)(const struct op_hyper *op, uint32_t begin, uint32_t end) {
        for (uint32_t t = begin; t < end; t++)
                VF_PARTS(op->dim, in_part, op, t);
}

ALWAYS_INLINE void out_part(const struct op_hyper *op, uint32_t t, uint32_t streams, uint32_t c, uint32_t n) {
        const float *post = mix_of(op, t) + streams, *mix = post + streams;
        vf y = vf_load_part(row_of(op, t) + c, n, vf_zero()), old[HYPER_STREAMS_MAX];
        float *x = streams_of(op, t) + c;

        for (uint32_t j = 0; j < streams; j++)
                old[j] = vf_load_part(x + (size_t) j * op->dim, n, vf_zero());
        for (uint32_t k = 0; k < streams; k++) {
                vf sum = vf_set(post[k]) * y;

                for (uint32_t j = 0; j < streams; j++)
                        sum = vf_fma(vf_set(mix[j * streams + k]), old[j], sum);
                vf_store_part(x + (size_t) k * op->dim, sum, n);
        }
}

void SIMD_NAME(hyper_out)(const struct op_hyper *op, uint32_t begin, uint32_t end) {
        for (uint32_t t = begin; t < end; t++)
                if (op->streams == 4) /* every model's so far: old values and factors stay in registers */
                        VF_PARTS(op->dim, out_part, op, t, 4);
                else
                        VF_PARTS(op->dim, out_part, op, t, op->streams);
}
