/* SPDX-License-Identifier: MIT */
/* The lightning indexer on the matrix unit: products of all heads with a block of keys, their weighted sum over
 * heads, lane by lane, and then over the lanes.
 *
 * The matrix unit multiplies a block with one row's queries, SET groups of heads at a time, and between its
 * instructions the vector units weigh the products before these and bring the keys of the next block. */
#include "amx-attention.h"
#include "amx-place.h"
#include "base/util.h"
#include "host.h"
#include "ref.h"

enum {
        KEYS = 16, /* of a block: a tile's rows */
        SET = 4,
        QUAD = 4,  /* keys whose sums fill a vector's quarter */
        QUADS = KEYS / QUAD,
        AHEAD = 4, /* blocks, from asking for keys to their products */
};

/* Where the keys of a block are. */
struct index_keys {
        const uint16_t *at[KEYS];
};

/* Of a block with one row's set of groups. */
struct index_products {
        const float *at;      /* [set_groups][KEYS][LANES] */
        const float *weights; /* [set_groups][LANES] */
        bool first;           /* of the row's sets */
        float *scores;        /* [KEYS] */
};

struct index_work {
        struct work w;
        const struct index_job *job;
        const int32_t *pages;
        uint32_t groups, sets, set_groups;
        const uint16_t *none; /* a key of zeros */
        float *weights;       /* [rows][groups][LANES] */
        float *products[2];   /* in turns */
        uint32_t turn;
        struct index_products before;
        struct index_keys keys[AHEAD]; /* of the blocks to come, number n in n % AHEAD */
};

static void find_keys(const struct index_work *x, struct index_keys *keys, uint32_t i) {
        const struct op_index *op = x->job->op;
        uint32_t page = kv_page_entries(op->keys.ratio), end = x->job->end, j = 0;

        for (uint32_t run; j < KEYS && i + j < end; j += run) {
                size_t entry = kv_entry(op->keys.ratio, x->pages, i + j);
                const uint16_t *at = (const uint16_t *) host_address(op->keys.k) + entry * op->keys.k_dim;

                run = MIN(MIN(page - (uint32_t) (entry % page), end - i - j), KEYS - j);
                for (uint32_t l = 0; l < run; l++)
                        keys->at[j + l] = at + (size_t) l * op->keys.k_dim;
        }
        for (; j < KEYS; j++)
                keys->at[j] = x->none;
}

/* A quad of a block is placed, and one of a later block asked for. Exactly: keys that are small are chosen, too. */
ALWAYS_INLINE void place_quad(const struct index_work *x, uint32_t block, uint32_t quad, uint32_t dim) {
        const uint16_t *const *at = x->keys[block % AHEAD].at + quad * QUAD;
        const uint16_t *const *ahead = x->keys[(block + AHEAD - 1) % AHEAD].at + quad * QUAD;

        UNROLL for (uint32_t j = 0; j < QUAD; j++) {
                prefetch(ahead[j], dim);
                place_key(&x->w, block % 2 * KEYS + quad * QUAD + j, at[j], dim, true);
        }
}

/* Four sums over lanes, in each quarter of the vector those of its lanes. */
ALWAYS_INLINE __m512 sum_quarters(const __m512 v[QUAD]) {
        __m512 a = _mm512_unpacklo_ps(v[0], v[1]) + _mm512_unpackhi_ps(v[0], v[1]);
        __m512 b = _mm512_unpacklo_ps(v[2], v[3]) + _mm512_unpackhi_ps(v[2], v[3]);
        __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b));
        __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b));

        return _mm512_castpd_ps(low) + _mm512_castpd_ps(high);
}

ALWAYS_INLINE __m512 join_quarters(__m512 a, __m512 b) {
        return _mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xdd);
}

/* Σ_h w_h max(q_h · k, 0) of four keys, over quarters. */
ALWAYS_INLINE __m512 weigh_quad(const struct index_products *p, uint32_t groups, uint32_t quad) {
        const float *at = p->at + quad * QUAD * LANES;
        __m512 sums[QUAD];

        UNROLL for (int j = 0; j < QUAD; j++) sums[j] = vf_zero();
        _Pragma("GCC unroll 4") for (uint32_t g = 0; g < groups; g++) {
                __m512 weights = _mm512_load_ps(p->weights + g * LANES);

                UNROLL for (int j = 0; j < QUAD; j++) sums[j] = _mm512_fmadd_ps(
                        _mm512_max_ps(_mm512_load_ps(at + (g * KEYS + j) * LANES), vf_zero()), weights, sums[j]);
        }
        return sum_quarters(sums);
}

ALWAYS_INLINE void store_scores(const struct index_products *p, const __m512 quads[QUADS]) {
        __m512 sums = join_quarters(join_quarters(quads[0], quads[1]), join_quarters(quads[2], quads[3]));

        if (!p->first)
                sums = sums + _mm512_loadu_ps(p->scores);
        _mm512_storeu_ps(p->scores, sums);
}

static void weigh_last(const struct index_work *x) {
        __m512 quads[QUADS];

        for (uint32_t q = 0; q < QUADS; q++)
                quads[q] = weigh_quad(&x->before, x->set_groups, q);
        store_scores(&x->before, quads);
}

/* A chunk of dims of the block and of up to SET groups. */
ALWAYS_INLINE void multiply_step(const uint16_t *keys, const uint16_t *queries, uint32_t k_chunks, uint32_t groups) {
        size_t group = (size_t) k_chunks * TILE_VALUES;

        AMX_LOAD(4, keys, k_chunks * AMX_ROW_BYTES);
        AMX_LOAD(5, queries, AMX_ROW_BYTES);
        AMX_DOT_BF16(0, 4, 5);
        if (groups > 1) {
                AMX_LOAD(6, queries + group, AMX_ROW_BYTES);
                AMX_DOT_BF16(1, 4, 6);
        }
        if (groups > 2) {
                AMX_LOAD(7, queries + 2 * group, AMX_ROW_BYTES);
                AMX_DOT_BF16(2, 4, 7);
        }
        if (groups > 3) {
                AMX_LOAD(5, queries + 3 * group, AMX_ROW_BYTES);
                AMX_DOT_BF16(3, 4, 5);
        }
}

ALWAYS_INLINE void store_products(float *to) {
        AMX_STORE(0, to, AMX_ROW_BYTES);
        AMX_STORE(1, to + TILE_FLOATS, AMX_ROW_BYTES);
        AMX_STORE(2, to + 2 * TILE_FLOATS, AMX_ROW_BYTES);
        AMX_STORE(3, to + 3 * TILE_FLOATS, AMX_ROW_BYTES);
}

/* What is to do in step c of so many: quads [c × QUADS / steps, …). */
ALWAYS_INLINE uint32_t quads_until(uint32_t c, uint32_t steps) {
        return (c * QUADS + steps - 1) / steps;
}

/* A block's products with a set of groups of a row; meanwhile the ones before are weighed and, if so asked, the next
 * block is placed. */
ALWAYS_INLINE void multiply_set(struct index_work *x, uint32_t block, uint32_t row, uint32_t set, bool placing,
                                uint32_t dim, uint32_t groups) {
        uint32_t k_chunks = DIV_ROUND_UP(dim, (uint32_t) CHUNK);
        size_t first = (size_t) row * x->groups + set * SET;
        const uint16_t *queries = x->w.queries + first * k_chunks * TILE_VALUES;
        const uint16_t *keys = key_at(&x->w, block % 2 * KEYS);
        float *scores = x->job->scores + row * x->job->stride + x->job->begin + block * KEYS;
        float *products = x->products[x->turn];
        __m512 quads[QUADS] = {0};

        AMX_ZERO(0);
        AMX_ZERO(1);
        AMX_ZERO(2);
        AMX_ZERO(3);
        _Pragma("GCC unroll 4") for (uint32_t c = 0; c < k_chunks; c++) {
                multiply_step(keys + c * CHUNK, queries + c * TILE_VALUES, k_chunks, groups);
                for (uint32_t q = quads_until(c, k_chunks); q < quads_until(c + 1, k_chunks); q++) {
                        if (placing)
                                place_quad(x, block + 1, q, dim);
                        quads[q] = weigh_quad(&x->before, groups, q);
                }
        }
        store_scores(&x->before, quads);
        store_products(products);
        x->before = (struct index_products){products, x->weights + first * LANES, set == 0, scores};
        x->turn ^= 1;
}

/* All rows with a block that is in place. */
ALWAYS_INLINE void index_block(struct index_work *x, uint32_t block, uint32_t dim, uint32_t groups) {
        find_keys(x, &x->keys[block % AHEAD], x->job->begin + (block + AHEAD) * KEYS);
        multiply_set(x, block, 0, 0, true, dim, groups);
        for (uint32_t i = 1; i < x->job->rows * x->sets; i++)
                multiply_set(x, block, i / x->sets, i % x->sets, false, dim, groups);
}

/* Where the shape is constant, the vector units keep up with the matrix unit. */
static void index_blocks(struct index_work *x) {
        uint32_t blocks = DIV_ROUND_UP(x->job->end - x->job->begin, (uint32_t) KEYS), dim = x->job->op->keys.k_dim;

        for (uint32_t b = 0; b < blocks; b++)
                if (dim == 128 && x->set_groups == SET)
                        index_block(x, b, 128, SET);
                else
                        index_block(x, b, dim, x->set_groups);
        weigh_last(x);
}

static void place_index_queries(struct index_work *x) {
        const struct index_job *job = x->job;
        const struct op_index *op = job->op;

        for (uint32_t i = 0; i < job->rows * x->groups; i++) {
                size_t row = job->first + i / x->groups;
                const float *weights = (const float *) host_address(op->weights) + row * op->heads;
                const float *queries[LANES];

                for (uint32_t l = 0; l < LANES; l++) {
                        uint32_t head = i % x->groups * LANES + l, used = MIN(head, op->heads - 1);

                        queries[l] = (const float *) host_address(op->q) + (row * op->heads + used) * op->keys.k_dim;
                        x->weights[i * LANES + l] = head < op->heads ? weights[head] : 0.0f;
                }
                amx_attend_queries(&x->w, i, queries, op->keys.k_dim, 1.0f);
        }
}

static void index_work_init(struct index_work *x, const struct index_job *job) {
        const struct op_index *op = job->op;
        uint32_t groups = DIV_ROUND_UP(op->heads, (uint32_t) LANES), sets = DIV_ROUND_UP(groups, (uint32_t) SET);
        size_t key = DIV_ROUND_UP(op->keys.k_dim, (uint32_t) CHUNK) * AMX_ROW_BYTES;
        char *at = job->scratch;

        *x = (struct index_work){
                .w.k_chunks = DIV_ROUND_UP(op->keys.k_dim, (uint32_t) CHUNK),
                .job = job,
                .pages = (const int32_t *) host_address(op->rows.page_table) +
                         (size_t) ((const int32_t *) host_address(op->rows.sequences))[job->first] *
                                 op->rows.page_table_stride,
                .groups = sets > 1 ? sets * SET : groups,
                .sets = sets,
                .set_groups = MIN(groups, (uint32_t) SET),
        };
        x->w.keys = (uint16_t *) amx_attend_take(&at, 2 * KEYS * key);
        x->w.queries = (uint16_t *) amx_attend_take(&at, (size_t) job->rows * x->groups * LANES * key);
        x->products[0] = (float *) amx_attend_take(&at, SET * AMX_TILE_BYTES);
        x->products[1] = (float *) amx_attend_take(&at, SET * AMX_TILE_BYTES);
        x->weights = (float *) amx_attend_take(&at, (size_t) job->rows * x->groups * LANES * sizeof(float));
        x->none = memset(amx_attend_take(&at, key), 0, key);
        /* No products are before the first; what is stored in their name is overwritten. */
        x->before = (struct index_products){x->products[1], x->weights, true, job->scores + job->begin};
}

/* The first block waits for memory. */
static void begin_blocks(struct index_work *x) {
        uint32_t dim = x->job->op->keys.k_dim;

        for (uint32_t b = 0; b < AHEAD; b++) {
                find_keys(x, &x->keys[b], x->job->begin + b * KEYS);
                for (uint32_t j = 0; b + 1 < AHEAD && j < KEYS; j++)
                        prefetch(x->keys[b].at[j], dim);
        }
        place_index_queries(x);
        for (uint32_t q = 0; q < QUADS; q++)
                place_quad(x, 0, q, dim);
}

void index_amx(const struct index_job *job) {
        uint32_t mode = amx_attend_begin();
        struct index_work x;

        index_work_init(&x, job);
        begin_blocks(&x);
        index_blocks(&x);
        amx_attend_end(mode);
}
