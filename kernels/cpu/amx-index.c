/* SPDX-License-Identifier: MIT */
/* The lightning indexer on the matrix unit: products of all heads with a block of keys, their weighted sum over
 * heads, lane by lane, and then over the lanes.
 *
 * A block is two tiles of keys, which are read where they lie in their pages; where a tile's keys are of two pages that
 * do not follow each other, it is copied. The matrix unit multiplies it with a set of groups of a row's heads, and
 * between its instructions the vector units weigh the products before these and fetch the keys of a later block. */
#include "amx-attention.h"
#include "amx-place.h"
#include "base/util.h"
#include "host.h"

enum {
        TILES = 2,          /* of a block */
        SET = 4,            /* groups whose products are weighed together */
        QUAD = 4,           /* keys whose sums fill a vector's quarter */
        KEYS = TILES * AMX_ROWS,
        QUADS = KEYS / QUAD,
        HALF = 8,           /* keys of half a tile, which lie in one page */
        HALVES = KEYS / HALF,
        AHEAD = 2,          /* blocks, from asking for keys to their products */
};

/* Where the keys of a block are. */
struct index_keys {
        const uint16_t *halves[HALVES];
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
        uint32_t page_shift; /* a page has 1 << page_shift entries */
        uint32_t groups, sets, set_groups;
        float *weights;     /* [rows][groups][LANES] */
        float *products[2]; /* in turns */
        float *in_tiles;    /* where the sums that are in the tiles still will be stored */
        uint32_t turn;
        struct index_products before;
        struct index_keys keys[AHEAD + 1]; /* of this block and those to come, number n in n % (AHEAD + 1) */
        uint16_t *copies;   /* [TILES][AMX_ROWS][dim] */
};

static struct index_keys *keys_of(struct index_work *x, uint32_t block) {
        return &x->keys[block % (AHEAD + 1)];
}

/* Past the last half that one again. */
ALWAYS_INLINE void find_keys(struct index_work *x, uint32_t block, uint32_t dim) {
        const struct index_job *job = x->job;
        const uint16_t *k = host_address(job->op->keys.k);

        for (uint32_t h = 0; h < HALVES; h++) {
                uint32_t i = MIN(job->begin + block * KEYS + h * HALF, (job->end - 1) / HALF * HALF);
                size_t page = (size_t) x->pages[i >> x->page_shift], entry = i & ((1u << x->page_shift) - 1);

                keys_of(x, block)->halves[h] = k + ((page << x->page_shift) + entry) * dim;
        }
}

/* A tile's keys, one after the other. */
ALWAYS_INLINE const uint16_t *tile_keys(const struct index_work *x, const struct index_keys *keys, uint32_t tile,
                                        uint32_t dim) {
        const uint16_t *const *halves = keys->halves + tile * (AMX_ROWS / HALF);
        uint16_t *copy = x->copies + tile * AMX_ROWS * dim;

        if (halves[1] == halves[0] + HALF * dim)
                return halves[0];
        memcpy(copy, halves[0], HALF * dim * sizeof(*copy));
        memcpy(copy + HALF * dim, halves[1], HALF * dim * sizeof(*copy));
        return copy;
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

ALWAYS_INLINE void store_scores(const struct index_products *p, const __m512 *quads) {
        for (uint32_t i = 0; i < KEYS; i += LANES, quads += LANES / QUAD) {
                __m512 sums = join_quarters(join_quarters(quads[0], quads[1]), join_quarters(quads[2], quads[3]));

                if (!p->first)
                        sums = sums + _mm512_loadu_ps(p->scores + i);
                _mm512_storeu_ps(p->scores + i, sums);
        }
}

static void weigh_last(const struct index_work *x) {
        __m512 quads[QUADS];

        for (uint32_t q = 0; q < QUADS; q++)
                quads[q] = weigh_quad(&x->before, x->set_groups, q);
        store_scores(&x->before, quads);
}

/* The sums that are in a group's tile still. */
#define STORE(_group) AMX_STORE(_group, x->in_tiles + (_group) * KEYS * LANES, AMX_ROW_BYTES)

/* A group's products with CHUNK dims of a tile of keys, the first of them or others. */
#define MULTIPLY(_group, _b)                                                                                 \
        do {                                                                                                 \
                if ((_group) < groups) {                                                                     \
                        AMX_LOAD(_b, queries + (size_t) (_group) * (dim / CHUNK) * TILE_VALUES, AMX_ROW_BYTES); \
                        if (first) {                                                                         \
                                STORE(_group);                                                               \
                                AMX_ZERO(_group);                                                            \
                        }                                                                                    \
                        AMX_DOT_BF16(_group, 4, _b);                                                         \
                }                                                                                            \
        } while (0)

ALWAYS_INLINE void multiply_step(const struct index_work *x, const uint16_t *keys, const uint16_t *queries, bool first,
                                 uint32_t dim, uint32_t groups) {
        AMX_LOAD_ONCE(4, keys, dim * (uint32_t) sizeof(*keys));
        MULTIPLY(0, 6);
        MULTIPLY(1, 7);
        MULTIPLY(2, 6);
        MULTIPLY(3, 7);
}

static void store_last(const struct index_work *x) {
        STORE(0);
        if (x->set_groups > 1)
                STORE(1);
        if (x->set_groups > 2)
                STORE(2);
        if (x->set_groups > 3)
                STORE(3);
}

/* A quad's part of what is to be asked for. */
ALWAYS_INLINE void fetch_quad(const struct index_keys *keys, uint32_t quad, uint32_t dim) {
        prefetch(keys->halves[quad * QUAD / HALF] + quad * QUAD % HALF * dim, QUAD * dim);
}

/* A block's products with a set of groups of a row; meanwhile the ones before are weighed and, if so asked, keys are
 * fetched. */
ALWAYS_INLINE void multiply_set(struct index_work *x, const uint16_t *const tiles[TILES], uint32_t block, uint32_t row,
                                uint32_t set, bool fetching, uint32_t dim, uint32_t groups) {
        uint32_t k_chunks = dim / CHUNK, steps = TILES * k_chunks, quad = 0;
        size_t first = (size_t) row * x->groups + set * SET;
        const uint16_t *queries = x->w.queries + first * k_chunks * TILE_VALUES;
        float *scores = x->job->scores + row * x->job->stride + x->job->begin + block * KEYS;
        float *products = x->products[x->turn];
        __m512 quads[QUADS];

        _Pragma("GCC unroll 8") for (uint32_t i = 0; i < steps; i++) {
                uint32_t c = i % k_chunks, tile = i / k_chunks;

                multiply_step(x, tiles[tile] + c * CHUNK, queries + c * TILE_VALUES, c == 0, dim, groups);
                x->in_tiles = products + tile * AMX_ROWS * LANES;
                for (; quad * steps < (i + 1) * QUADS; quad++) {
                        if (fetching)
                                fetch_quad(keys_of(x, block + AHEAD), quad, dim);
                        quads[quad] = weigh_quad(&x->before, groups, quad);
                }
        }
        store_scores(&x->before, quads);
        x->before = (struct index_products){products, x->weights + first * LANES, set == 0, scores};
        x->turn ^= 1;
}

/* All rows with all blocks. */
ALWAYS_INLINE void index_blocks(struct index_work *x, uint32_t dim, uint32_t groups) {
        uint32_t blocks = DIV_ROUND_UP(x->job->end - x->job->begin, (uint32_t) KEYS);

        for (uint32_t b = 0; b < blocks; b++) {
                const uint16_t *tiles[TILES];

                for (uint32_t t = 0; t < TILES; t++)
                        tiles[t] = tile_keys(x, keys_of(x, b), t, dim);
                find_keys(x, b + AHEAD, dim);
                multiply_set(x, tiles, b, 0, 0, true, dim, groups);
                for (uint32_t i = 1; i < x->job->rows * x->sets; i++)
                        multiply_set(x, tiles, b, i / x->sets, i % x->sets, false, dim, groups);
        }
        store_last(x);
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
        size_t key = op->keys.k_dim * sizeof(uint16_t);
        char *at = job->scratch;

        *x = (struct index_work){
                .w.k_chunks = op->keys.k_dim / CHUNK,
                .job = job,
                .pages = (const int32_t *) host_address(op->rows.page_table) +
                         (size_t) ((const int32_t *) host_address(op->rows.sequences))[job->first] *
                                 op->rows.page_table_stride,
                .page_shift = (uint32_t) __builtin_ctz(kv_page_entries(op->keys.ratio)),
                .groups = sets > 1 ? sets * SET : groups,
                .sets = sets,
                .set_groups = MIN(groups, (uint32_t) SET),
        };
        x->w.queries = (uint16_t *) amx_attend_take(&at, (size_t) job->rows * x->groups * LANES * key);
        x->copies = (uint16_t *) amx_attend_take(&at, KEYS * key);
        x->products[0] = (float *) amx_attend_take(&at, TILES * SET * AMX_TILE_BYTES);
        x->products[1] = (float *) amx_attend_take(&at, TILES * SET * AMX_TILE_BYTES);
        x->weights = (float *) amx_attend_take(&at, (size_t) job->rows * x->groups * LANES * sizeof(float));
        /* No products are before the first; what is stored in their name is overwritten. */
        x->in_tiles = x->products[1];
        x->before = (struct index_products){x->products[1], x->weights, true, job->scores + job->begin};
}

/* The first blocks are on their way while the queries are placed. */
static void begin_blocks(struct index_work *x) {
        uint32_t dim = x->job->op->keys.k_dim;

        for (uint32_t b = 0; b < AHEAD; b++) {
                find_keys(x, b, dim);
                for (uint32_t q = 0; q < QUADS; q++)
                        fetch_quad(keys_of(x, b), q, dim);
        }
        if (!x->job->again)
                place_index_queries(x);
}

bool can_index_amx(const struct op_index *op) {
        return op->keys.type == QUANT_BF16 && op->keys.k_dim % CHUNK == 0 &&
               kv_page_entries(op->keys.ratio) % HALF == 0;
}

void index_amx(const struct index_job *job) {
        uint32_t mode = amx_attend_begin();
        struct index_work x;

        index_work_init(&x, job);
        begin_blocks(&x);
        /* Where the shape is constant, the vector units keep up with the matrix unit. */
        if (job->op->keys.k_dim == 128 && x.set_groups == SET)
                index_blocks(&x, 128, SET);
        else
                index_blocks(&x, job->op->keys.k_dim, x.set_groups);
        amx_attend_end(mode);
}
