/* SPDX-License-Identifier: MIT */
/* Compiled once per instruction set (simd.h). An output is one chain of multiply-adds in whichever tile it
 * falls, so that its bits depend on its own row alone. */

#include "simd.h"
#include "tile.h"

/* Sums of T rows × V vectors stay in registers; of a single row more vectors, as each sum waits for itself.
 */
#if defined(__AVX512F__)
enum { T_MANY = 6, V_MANY = 4 };
#else
enum { T_MANY = 4, V_MANY = 2 };
#endif
enum { V_MOST = 8 };

ALWAYS_INLINE void mix_tile(const struct mix_job *job, uint32_t t, uint32_t c, int T, int V) {
        const float *x = job->x + t * job->x_stride, *w = job->w + c;
        float *y = job->y + t * job->y_stride + c;
        vf acc[T_MANY][V_MOST];

        UNROLL for (int i = 0; i < T; i++) UNROLL for (int k = 0; k < V; k++) acc[i][k] =
                vf_load(y + i * job->y_stride + k * VF_LANES);
        for (uint32_t r = 0; r < job->rows; r++, w += job->cols) {
                vf v[V_MOST];

                UNROLL for (int k = 0; k < V; k++) v[k] = vf_load(w + k * VF_LANES);
                UNROLL for (int i = 0; i < T; i++) UNROLL for (int k = 0; k < V; k++) acc[i][k] =
                        vf_fma(vf_set(x[i * job->x_stride + r]), v[k], acc[i][k]);
        }
        UNROLL for (int i = 0; i < T; i++) UNROLL for (int k = 0; k < V; k++)
                vf_store(y + i * job->y_stride + k * VF_LANES, acc[i][k]);
}

/* The columns that fill no vector. */
static void mix_rest(const struct mix_job *job, uint32_t t, uint32_t c) {
        const float *x = job->x + t * job->x_stride;
        float *y = job->y + t * job->y_stride + c;
        uint32_t n = job->cols - c;
        vf acc = vf_load_part(y, n, vf_zero());

        for (uint32_t r = 0; r < job->rows; r++)
                acc = vf_fma(vf_set(x[r]), vf_load_part(job->w + (size_t) r * job->cols + c, n, vf_zero()),
                             acc);
        vf_store_part(y, acc, n);
}

ALWAYS_INLINE void mix_rows(const struct mix_job *job, uint32_t t, int T) {
        uint32_t c = 0;

        for (; T == 1 && c + V_MOST * VF_LANES <= job->cols; c += V_MOST * VF_LANES)
                mix_tile(job, t, c, T, V_MOST);
        for (; c + V_MANY * VF_LANES <= job->cols; c += V_MANY * VF_LANES)
                mix_tile(job, t, c, T, V_MANY);
        for (; c + VF_LANES <= job->cols; c += VF_LANES)
                mix_tile(job, t, c, T, 1);
        for (int i = 0; c < job->cols && i < T; i++)
                mix_rest(job, t + (uint32_t) i, c);
}

void SIMD_NAME(mix)(const struct mix_job *job) {
        uint32_t t = 0;

        for (; t + T_MANY <= job->n; t += T_MANY)
                mix_rows(job, t, T_MANY);
        for (; t + 2 <= job->n; t += 2)
                mix_rows(job, t, 2);
        for (; t < job->n; t++)
                mix_rows(job, t, 1);
}
