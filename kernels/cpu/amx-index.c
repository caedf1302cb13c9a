/* SPDX-License-Identifier: MIT */
/* The lightning indexer: products of all heads with a chunk of keys, their weighted sum over heads, lane by lane,
 * and then over the lanes. */
#include "amx-attention.h"
#include "amx-matrix.h"
#include "amx-place.h"
#include "base/util.h"
#include "host.h"

struct index_work {
        struct work w;
        float *weights; /* [rows][groups][LANES] */
};

/* Sums of the lanes of 16 vectors. */
ALWAYS_INLINE __m512 sum_lanes(const __m512 v[LANES]) {
        __m512i t[LANES];
        __m512 sums[LANES];

        UNROLL for (int i = 0; i < LANES; i++) t[i] = _mm512_castps_si512(v[i]);
        transpose_dwords(t);
        UNROLL for (int i = 0; i < LANES; i++) sums[i] = _mm512_castsi512_ps(t[i]);
        UNROLL for (int n = LANES / 2; n > 0; n /= 2) UNROLL for (int i = 0; i < n; i++) sums[i] = sums[i] + sums[i + n];
        return sums[0];
}

/* Scores of the CHUNK keys in place, for one of the job's rows. */
static void index_chunk(const struct index_work *x, uint32_t groups, uint32_t row, float *scores) {
        const struct work *w = &x->w;
        __m512 sums[2][LANES];

        for (int i = 0; i < 2 * LANES; i++)
                sums[i / LANES][i % LANES] = vf_zero();
        for (uint32_t g = 0; g < groups; g += 2) {
                uint32_t n = MIN(groups - g, 2U);

                if (n == 2)
                        score_chunk(w, row * groups + g, true, 0, 0);
                else
                        score_chunk(w, row * groups + g, false, 0, 0);
                for (uint32_t half = 0; half < n; half++) {
                        __m512 weights = _mm512_load_ps(x->weights + ((size_t) row * groups + g + half) * LANES);
                        const float *products = w->scores + half * ATTENTION_BLOCK * LANES;

                        UNROLL for (int j = 0; j < LANES; j++) sums[0][j] = _mm512_fmadd_ps(
                                _mm512_max_ps(_mm512_load_ps(products + j * LANES), vf_zero()), weights, sums[0][j]);
                        UNROLL for (int j = 0; j < LANES; j++) sums[1][j] = _mm512_fmadd_ps(
                                _mm512_max_ps(_mm512_load_ps(products + (LANES + j) * LANES), vf_zero()), weights,
                                sums[1][j]);
                }
        }
        _mm512_storeu_ps(scores, sum_lanes(sums[0]));
        _mm512_storeu_ps(scores + LANES, sum_lanes(sums[1]));
}

static const uint16_t *index_key(const struct op_index *op, const int32_t *pages, uint32_t i) {
        return (const uint16_t *) host_address(op->keys.k) + kv_entry(op->keys.ratio, pages, i) * op->keys.k_dim;
}

static void place_index_queries(struct index_work *x, const struct index_job *job, uint32_t groups) {
        const struct op_index *op = job->op;

        for (uint32_t i = 0; i < job->rows * groups; i++) {
                size_t row = job->first + i / groups;
                const float *weights = (const float *) host_address(op->weights) + row * op->heads;
                const float *queries[LANES];

                for (uint32_t l = 0; l < LANES; l++) {
                        uint32_t head = i % groups * LANES + l, used = MIN(head, op->heads - 1);

                        queries[l] = (const float *) host_address(op->q) + (row * op->heads + used) * op->keys.k_dim;
                        x->weights[i * LANES + l] = head < op->heads ? weights[head] : 0.0f;
                }
                amx_attend_queries(&x->w, i, queries, op->keys.k_dim, 1.0f);
        }
}

static void index_work_init(struct index_work *x, const struct index_job *job, uint32_t groups) {
        const struct op_index *op = job->op;
        char *at = job->scratch;

        *x = (struct index_work){.w.k_chunks = DIV_ROUND_UP(op->keys.k_dim, (uint32_t) CHUNK)};
        x->w.keys = (uint16_t *) amx_attend_take(&at, (size_t) 2 * x->w.k_chunks * AMX_TILE_BYTES);
        x->w.queries = (uint16_t *) amx_attend_take(&at, (size_t) job->rows * groups * x->w.k_chunks * AMX_TILE_BYTES);
        x->w.scores = (float *) amx_attend_take(&at, 2 * ATTENTION_BLOCK * LANES * sizeof(float));
        x->weights = (float *) amx_attend_take(&at, (size_t) job->rows * groups * LANES * sizeof(float));
        place_index_queries(x, job, groups);
}

static void place_index_keys(const struct index_work *x, const struct index_job *job, const int32_t *pages, uint32_t i) {
        const struct op_index *op = job->op;

        for (uint32_t j = 0; j < CHUNK; j++) {
                if (i + j + CHUNK < job->end)
                        prefetch(index_key(op, pages, i + j + CHUNK), op->keys.k_dim);
                place_key(&x->w, j, i + j < job->end ? index_key(op, pages, i + j) : NULL,
                          op->keys.k_dim);
        }
}

static void index_entries(const struct index_job *job) {
        const struct op_index *op = job->op;
        const int32_t *pages = (const int32_t *) host_address(op->rows.page_table) +
                               (size_t) ((const int32_t *) host_address(op->rows.sequences))[job->first] *
                                       op->rows.page_table_stride;
        uint32_t groups = DIV_ROUND_UP(op->heads, (uint32_t) LANES);
        struct index_work x;

        index_work_init(&x, job, groups);
        for (uint32_t i = job->begin; i < job->end; i += CHUNK) {
                place_index_keys(&x, job, pages, i);
                for (uint32_t row = 0; row < job->rows; row++)
                        index_chunk(&x, groups, row, job->scores + row * job->stride + i);
        }
}

void index_amx(const struct index_job *job) {
        uint32_t mode = amx_attend_begin();

        index_entries(job);
        amx_attend_end(mode);
}
