/* SPDX-License-Identifier: MIT */
/* The lightning indexer on the matrix unit: products of all heads with a block of keys, their weighted sum over
 * heads, lane by lane, and then over the lanes.
 *
 * A block is two tiles of keys, which are read where they lie in their pages. The matrix unit multiplies it with a set
 * of groups of a row's heads, two groups at a time, and between its instructions the vector units weigh the products
 * before these and fetch the keys of a later block. */
#include "amx-attention.h"
#include "amx-place.h"
#include "base/util.h"
#include "host.h"

enum {
        TILES = 2,          /* of a block */
        SET = 4,            /* groups whose products are weighed together */
        PAIR = 2,           /* groups that are multiplied together */
        QUAD = 4,           /* keys whose sums fill a vector's quarter */
        HALF = 8,           /* keys of a tile where pages have no more */
        QUADS_MAX = TILES * AMX_ROWS / QUAD,
        AHEAD = 2,          /* blocks, from asking for keys to their products */
};

/* Where the keys of a block are. */
struct index_keys {
        const uint16_t *tiles[TILES];
};

/* Of a block with one row's set of groups. */
struct index_products {
        const float *at;      /* [set_groups][keys][LANES] */
        const float *weights; /* [set_groups][LANES] */
        bool first;           /* of the row's sets */
        float *scores;        /* [keys] */
};

struct index_work {
        struct work w;
        const struct index_job *job;
        const int32_t *pages;
        uint32_t page_shift; /* a page has 1 << page_shift entries */
        uint32_t rows;       /* keys of a tile, 16 or, where pages have no more, 8 */
        uint32_t groups, sets, set_groups;
        float *weights;     /* [rows][groups][LANES] */
        float *products[2]; /* in turns */
        uint32_t turn;
        struct index_products before;
        struct index_keys keys[AHEAD + 1]; /* of this block and those to come, number n in n % (AHEAD + 1) */
};

static struct index_keys *keys_of(struct index_work *x, uint32_t block) {
        return &x->keys[block % (AHEAD + 1)];
}

/* Past the last tile that one again. */
ALWAYS_INLINE void find_keys(struct index_work *x, uint32_t block, uint32_t dim, uint32_t rows) {
        const struct index_job *job = x->job;
        const uint16_t *k = host_address(job->op->keys.k);

        for (uint32_t t = 0; t < TILES; t++) {
                uint32_t i = MIN(job->begin + (block * TILES + t) * rows, (job->end - 1) / rows * rows);
                size_t page = (size_t) x->pages[i >> x->page_shift], entry = i & ((1u << x->page_shift) - 1);

                keys_of(x, block)->tiles[t] = k + ((page << x->page_shift) + entry) * dim;
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
ALWAYS_INLINE __m512 weigh_quad(const struct index_products *p, uint32_t groups, uint32_t keys, uint32_t quad) {
        const float *at = p->at + quad * QUAD * LANES;
        __m512 sums[QUAD];

        UNROLL for (int j = 0; j < QUAD; j++) sums[j] = vf_zero();
        _Pragma("GCC unroll 4") for (uint32_t g = 0; g < groups; g++) {
                __m512 weights = _mm512_load_ps(p->weights + g * LANES);

                UNROLL for (int j = 0; j < QUAD; j++) sums[j] = _mm512_fmadd_ps(
                        _mm512_max_ps(_mm512_load_ps(at + (g * keys + j) * LANES), vf_zero()), weights, sums[j]);
        }
        return sum_quarters(sums);
}

ALWAYS_INLINE void store_scores(const struct index_products *p, uint32_t keys, const __m512 *quads) {
        for (uint32_t i = 0; i < keys; i += LANES, quads += LANES / QUAD) {
                __m512 sums = join_quarters(join_quarters(quads[0], quads[1]), join_quarters(quads[2], quads[3]));

                if (!p->first)
                        sums = sums + _mm512_loadu_ps(p->scores + i);
                _mm512_storeu_ps(p->scores + i, sums);
        }
}

static void weigh_last(const struct index_work *x) {
        uint32_t keys = TILES * x->rows;
        __m512 quads[QUADS_MAX];

        for (uint32_t q = 0; q < keys / QUAD; q++)
                quads[q] = weigh_quad(&x->before, x->set_groups, keys, q);
        store_scores(&x->before, keys, quads);
}

/* CHUNK dims of the block and of one or two groups. */
ALWAYS_INLINE void multiply_step(const struct index_keys *keys, uint32_t dim, const uint16_t *queries, bool two) {
        uint32_t row_bytes = dim * (uint32_t) sizeof(uint16_t);

        AMX_LOAD(4, keys->tiles[0], row_bytes);
        AMX_LOAD(6, queries, AMX_ROW_BYTES);
        AMX_DOT_BF16(0, 4, 6);
        AMX_LOAD(5, keys->tiles[1], row_bytes);
        AMX_DOT_BF16(1, 5, 6);
        if (two) {
                AMX_LOAD(7, queries + (size_t) dim / CHUNK * TILE_VALUES, AMX_ROW_BYTES);
                AMX_DOT_BF16(2, 4, 7);
                AMX_DOT_BF16(3, 5, 7);
        }
}

ALWAYS_INLINE void clear_products(void) {
        AMX_ZERO(0);
        AMX_ZERO(1);
        AMX_ZERO(2);
        AMX_ZERO(3);
}

ALWAYS_INLINE void store_products(float *to, uint32_t rows, bool two) {
        AMX_STORE(0, to, AMX_ROW_BYTES);
        AMX_STORE(1, to + rows * LANES, AMX_ROW_BYTES);
        if (two) {
                AMX_STORE(2, to + 2 * rows * LANES, AMX_ROW_BYTES);
                AMX_STORE(3, to + 3 * rows * LANES, AMX_ROW_BYTES);
        }
}

/* A quad's part of what is to be asked for. */
ALWAYS_INLINE void fetch_quad(const struct index_keys *keys, uint32_t quad, uint32_t dim, uint32_t rows) {
        prefetch(keys->tiles[quad * QUAD / rows] + quad * QUAD % rows * dim, QUAD * dim);
}

/* A block's products with a set of groups of a row; meanwhile the ones before are weighed and, if so asked, keys are
 * fetched. */
ALWAYS_INLINE void multiply_set(struct index_work *x, uint32_t block, uint32_t row, uint32_t set, bool fetching,
                                uint32_t dim, uint32_t groups, uint32_t rows) {
        uint32_t k_chunks = dim / CHUNK, steps = DIV_ROUND_UP(groups, (uint32_t) PAIR) * k_chunks;
        uint32_t keys = TILES * rows, quad = 0;
        size_t first = (size_t) row * x->groups + set * SET;
        const uint16_t *queries = x->w.queries + first * k_chunks * TILE_VALUES;
        float *scores = x->job->scores + row * x->job->stride + x->job->begin + block * keys;
        float *products = x->products[x->turn];
        __m512 quads[QUADS_MAX];

        _Pragma("GCC unroll 8") for (uint32_t i = 0; i < steps; i++) {
                uint32_t c = i % k_chunks, group = i / k_chunks * PAIR;
                struct index_keys now = *keys_of(x, block);
                bool two = group + 1 < groups;

                if (c == 0)
                        clear_products();
                now.tiles[0] += c * CHUNK;
                now.tiles[1] += c * CHUNK;
                multiply_step(&now, dim, queries + (group * k_chunks + c) * TILE_VALUES, two);
                for (; quad * steps < (i + 1) * (keys / QUAD); quad++) {
                        if (fetching)
                                fetch_quad(keys_of(x, block + AHEAD), quad, dim, rows);
                        quads[quad] = weigh_quad(&x->before, groups, keys, quad);
                }
                if (c == k_chunks - 1)
                        store_products(products + group * keys * LANES, rows, two);
        }
        store_scores(&x->before, keys, quads);
        x->before = (struct index_products){products, x->weights + first * LANES, set == 0, scores};
        x->turn ^= 1;
}

/* All rows with all blocks. */
ALWAYS_INLINE void index_blocks(struct index_work *x, uint32_t dim, uint32_t groups, uint32_t rows) {
        uint32_t blocks = DIV_ROUND_UP(x->job->end - x->job->begin, TILES * rows);

        for (uint32_t b = 0; b < blocks; b++) {
                find_keys(x, b + AHEAD, dim, rows);
                multiply_set(x, b, 0, 0, true, dim, groups, rows);
                for (uint32_t i = 1; i < x->job->rows * x->sets; i++)
                        multiply_set(x, b, i / x->sets, i % x->sets, false, dim, groups, rows);
        }
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
        uint32_t page = kv_page_entries(op->keys.ratio);
        size_t key = op->keys.k_dim * sizeof(uint16_t);
        char *at = job->scratch;

        *x = (struct index_work){
                .w.k_chunks = op->keys.k_dim / CHUNK,
                .job = job,
                .pages = (const int32_t *) host_address(op->rows.page_table) +
                         (size_t) ((const int32_t *) host_address(op->rows.sequences))[job->first] *
                                 op->rows.page_table_stride,
                .page_shift = (uint32_t) __builtin_ctz(page),
                .rows = MIN(page, (uint32_t) AMX_ROWS),
                .groups = sets > 1 ? sets * SET : groups,
                .sets = sets,
                .set_groups = MIN(groups, (uint32_t) SET),
        };
        x->w.queries = (uint16_t *) amx_attend_take(&at, (size_t) job->rows * x->groups * LANES * key);
        x->products[0] = (float *) amx_attend_take(&at, TILES * SET * AMX_TILE_BYTES);
        x->products[1] = (float *) amx_attend_take(&at, TILES * SET * AMX_TILE_BYTES);
        x->weights = (float *) amx_attend_take(&at, (size_t) job->rows * x->groups * LANES * sizeof(float));
        /* No products are before the first; what is stored in their name is overwritten. */
        x->before = (struct index_products){x->products[1], x->weights, true, job->scores + job->begin};
}

/* The first blocks are on their way while the queries are placed. */
static void begin_blocks(struct index_work *x) {
        uint32_t dim = x->job->op->keys.k_dim;

        for (uint32_t b = 0; b < AHEAD; b++) {
                find_keys(x, b, dim, x->rows);
                for (uint32_t q = 0; q < TILES * x->rows / QUAD; q++)
                        fetch_quad(keys_of(x, b), q, dim, x->rows);
        }
        if (!x->job->again)
                place_index_queries(x);
}

bool can_index_amx(const struct op_index *op) {
        return op->keys.type == QUANT_BF16 && op->keys.k_dim % CHUNK == 0 &&
               kv_page_entries(op->keys.ratio) % HALF == 0;
}

void index_amx(const struct index_job *job) {
        static const struct amx_config half_tiles = {
                .palette = 1,
                .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                .rows = {HALF, HALF, HALF, HALF, HALF, HALF, AMX_ROWS, AMX_ROWS},
        };
        uint32_t mode = amx_attend_begin();
        struct index_work x;

        index_work_init(&x, job);
        if (x.rows == HALF)
                amx_begin(&half_tiles);
        begin_blocks(&x);
        /* Where the shape is constant, the vector units keep up with the matrix unit. */
        if (job->op->keys.k_dim == 128 && x.set_groups == SET && x.rows == AMX_ROWS)
                index_blocks(&x, 128, SET, AMX_ROWS);
        else if (job->op->keys.k_dim == 128 && x.set_groups == SET)
                index_blocks(&x, 128, SET, HALF);
        else
                index_blocks(&x, job->op->keys.k_dim, x.set_groups, x.rows);
        amx_attend_end(mode);
}
