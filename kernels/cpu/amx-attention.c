/* SPDX-License-Identifier: MIT */
/* Attention on the matrix unit, over float16 keys and values.
 *
 * Queries, keys, values and weights are rounded to bfloat16; scores, sums and the output are float32. On random
 * inputs no output is off by more than 1.6 % of their root mean square. (Queries in two parts would help little:
 * the keys' rounding is as large.)
 *
 * Pairs (a row and a head) go 16 at a time, one to a lane: scores come out as [key][pair], so that maxima and sums
 * run along whole vectors, and are turned only when they have become weights. Keys come in blocks at fixed positions,
 * and a block's key that a pair does not see weighs exactly nothing; so a pair's bits do not depend on who is in its
 * job. That nothing stays nothing, values that are not finite count as the largest bfloat16, and what is subnormal
 * as zero, as the matrix unit has it. */

#include <math.h>
#include <stdbool.h>

#include "amx.h"
#include "amx-attention.h"
#include "base/util.h"
#include "host.h"
#include "tile.h"

enum {
        LANES = 16,
        CHUNK = 32, /* keys or dims of one product */
        BLOCK_CHUNKS = ATTENTION_BLOCK / CHUNK,
        TILE_VALUES = 512, /* bfloat16 */
        TILE_FLOATS = 256,
        FEW_GROUPS = 2,
        PLACE_SLOTS = 16, /* of each chunk of keys that is placed */
};

static const struct amx_config config = {
        .palette = 1,
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

/* What the lanes of a group see: keys [first, last]; the least and greatest of each. */
struct lanes {
        int32_t first[LANES], last[LANES];
        int32_t first_min, first_max, last_min, last_max;
};

/* A job in its scratch; all but the scalars in tiles of 1 KiB. */
struct work {
        uint32_t pairs, groups; /* of LANES pairs */
        uint32_t k_chunks, v_chunks;
        float softcap;
        uint16_t *keys;    /* [key / 16][k_chunks], a key's CHUNK dims to a row */
        uint16_t *values;  /* [key / CHUNK][2 v_chunks], two keys' values side by side: see place_values() */
        uint16_t *queries; /* [groups][k_chunks], two dims to a row */
        float *out;        /* [groups][2 v_chunks] */
        float *max, *sum;  /* [groups][LANES] */
        struct lanes *lanes; /* [groups] */
        float *scores;     /* [2 blocks][2 groups][ATTENTION_BLOCK][LANES] */
        uint16_t *weights; /* [2 blocks][2 groups][BLOCK_CHUNKS] */
        uint32_t stage;    /* keys that keys and values have room for */
};

static char *take(char **at, size_t bytes) {
        char *p = *at;

        *at += (bytes + 63) & ~(size_t) 63;
        return p;
}

static void work_init(struct work *w, const struct kv_layer *kv, uint32_t pairs, void *scratch) {
        char *at = scratch;
        size_t key_bytes;
        bool few;

        w->pairs = pairs;
        w->groups = DIV_ROUND_UP(pairs, (uint32_t) LANES);
        w->k_chunks = DIV_ROUND_UP(kv->k_dim, (uint32_t) CHUNK);
        w->v_chunks = DIV_ROUND_UP(kv->v_dim, (uint32_t) CHUNK);
        key_bytes = (size_t) (w->k_chunks + w->v_chunks) * CHUNK * sizeof(uint16_t);
        w->stage = (uint32_t) MAX(MIN((size_t) ATTENTION_STAGE / key_bytes, (size_t) ATTENTION_SPLIT) / ATTENTION_BLOCK,
                                  (size_t) 1) *
                   ATTENTION_BLOCK;
        few = w->groups <= FEW_GROUPS;
        w->keys = (uint16_t *) take(&at, (size_t) (few ? CHUNK : w->stage) * w->k_chunks * AMX_ROW_BYTES);
        w->values = (uint16_t *) take(&at, (size_t) (few ? 2 * ATTENTION_BLOCK : w->stage) * w->v_chunks * AMX_ROW_BYTES);
        w->queries = (uint16_t *) take(&at, (size_t) w->groups * w->k_chunks * AMX_TILE_BYTES);
        w->out = (float *) take(&at, (size_t) w->groups * w->v_chunks * 2 * AMX_TILE_BYTES);
        w->max = (float *) take(&at, (size_t) w->groups * LANES * sizeof(float));
        w->sum = (float *) take(&at, (size_t) w->groups * LANES * sizeof(float));
        w->lanes = (struct lanes *) take(&at, w->groups * sizeof(struct lanes));
        w->scores = (float *) take(&at, 4 * ATTENTION_BLOCK * LANES * sizeof(float));
        w->weights = (uint16_t *) take(&at, 4 * BLOCK_CHUNKS * AMX_TILE_BYTES);
        memset(w->out, 0, (size_t) w->groups * w->v_chunks * 2 * AMX_TILE_BYTES);
        memset(w->sum, 0, (size_t) w->groups * LANES * sizeof(float));
        for (uint32_t i = 0; i < w->groups * LANES; i++)
                w->max[i] = -INFINITY;
}

ALWAYS_INLINE __m512i load_chunk(const uint16_t *p) {
        return to_bf16(_mm512_cvtph_ps(_mm256_loadu_si256((const void *) p)),
                          _mm512_cvtph_ps(_mm256_loadu_si256((const void *) (p + 16))));
}

/* n < CHUNK values, zeros behind. */
ALWAYS_INLINE __m512i load_rest(const uint16_t *p, uint32_t n) {
        __m512i v = _mm512_maskz_loadu_epi16((1u << n) - 1, p);

        return to_bf16(_mm512_cvtph_ps(_mm512_castsi512_si256(v)),
                          _mm512_cvtph_ps(_mm512_extracti64x4_epi64(v, 1)));
}

/* Not-a-number and infinity become the largest finite bfloat16: as signed numbers they are above it where positive,
 * and as unsigned ones where negative. */
ALWAYS_INLINE __m512i clamp(__m512i v) {
        return _mm512_min_epu16(_mm512_min_epi16(v, _mm512_set1_epi16(0x7f7f)), _mm512_set1_epi16((short) 0xff7f));
}

/* Where key number i of the stage has its first dims; each further chunk is a tile further. */
ALWAYS_INLINE uint16_t *key_at(const struct work *w, uint32_t i) {
        return w->keys + (size_t) (i / 16) * w->k_chunks * TILE_VALUES + i % 16 * CHUNK;
}

/* The key or, of NULL, zeros. */
ALWAYS_INLINE void place_key(const struct work *w, uint32_t i, const uint16_t *key, uint32_t dim) {
        uint16_t *to = key_at(w, i);
        uint32_t c = 0;

        for (; key && c < dim / CHUNK; c++)
                _mm512_store_si512(to + (size_t) c * TILE_VALUES, load_chunk(key + c * CHUNK));
        if (key && c < w->k_chunks) {
                _mm512_store_si512(to + (size_t) c * TILE_VALUES, load_rest(key + c * CHUNK, dim % CHUNK));
                c++;
        }
        for (; c < w->k_chunks; c++)
                _mm512_store_si512(to + (size_t) c * TILE_VALUES, _mm512_setzero_si512());
}

/* Values of keys i and i + 1, i even. The quarters of 16 columns that this leaves in one tile are dims 0-3, 8-11,
 * 16-19, 24-27 of the chunk, in the other those between; store_out() undoes it. */
ALWAYS_INLINE void place_chunk(const struct work *w, uint32_t i, uint32_t c, __m512i even, __m512i odd) {
        uint16_t *to = w->values + ((size_t) (i / CHUNK) * 2 * w->v_chunks + 2 * c) * TILE_VALUES +
                       i % CHUNK / 2 * CHUNK;

        even = clamp(even);
        odd = clamp(odd);
        _mm512_store_si512(to, _mm512_unpacklo_epi16(even, odd));
        _mm512_store_si512(to + TILE_VALUES, _mm512_unpackhi_epi16(even, odd));
}

ALWAYS_INLINE void place_values(const struct work *w, uint32_t i, const uint16_t *even, const uint16_t *odd,
                                uint32_t dim) {
        uint32_t c = 0;

        for (; c < dim / CHUNK; c++)
                place_chunk(w, i, c, load_chunk(even + c * CHUNK), load_chunk(odd + c * CHUNK));
        if (c < w->v_chunks)
                place_chunk(w, i, c, load_rest(even + c * CHUNK, dim % CHUNK), load_rest(odd + c * CHUNK, dim % CHUNK));
}

/* Of the last key or the one before it, and zeros. */
static void place_last_values(const struct work *w, uint32_t i, const uint16_t *even, uint32_t dim) {
        const __m512i zero = _mm512_setzero_si512();

        for (uint32_t c = 0; c < w->v_chunks; c++)
                if (!even)
                        place_chunk(w, i, c, zero, zero);
                else if (c < dim / CHUNK)
                        place_chunk(w, i, c, load_chunk(even + c * CHUNK), zero);
                else
                        place_chunk(w, i, c, load_rest(even + c * CHUNK, dim % CHUNK), zero);
}

/* Of keys that hold their values: those in place as `key` and the next one. */
ALWAYS_INLINE void place_key_values(const struct work *w, uint32_t i, uint32_t key) {
        const uint16_t *even = key_at(w, key), *odd = key_at(w, key + 1);

        for (uint32_t c = 0; c < w->v_chunks; c++)
                place_chunk(w, i, c, _mm512_load_si512(even + (size_t) c * TILE_VALUES),
                            _mm512_load_si512(odd + (size_t) c * TILE_VALUES));
}

static void bound_lanes(struct lanes *l) {
        __m512i first = _mm512_loadu_si512(l->first), last = _mm512_loadu_si512(l->last);

        l->first_min = _mm512_reduce_min_epi32(first);
        l->first_max = _mm512_reduce_max_epi32(first);
        l->last_min = _mm512_reduce_min_epi32(last);
        l->last_max = _mm512_reduce_max_epi32(last);
}

/* CHUNK dims of a query as bfloat16, scaled. */
ALWAYS_INLINE __m512i query_chunk(const float *q, uint32_t n, float scale) {
        __m512 factor = _mm512_set1_ps(scale);
        uint32_t mask = n >= CHUNK ? UINT32_MAX : (1u << n) - 1;

        return to_bf16(_mm512_mul_ps(_mm512_maskz_loadu_ps((__mmask16) mask, q), factor),
                          _mm512_mul_ps(_mm512_maskz_loadu_ps((__mmask16) (mask >> 16), q + 16), factor));
}

static void place_queries(const struct work *w, uint32_t group, const float *const queries[LANES], uint32_t dim,
                          float scale) {
        uint16_t *to = w->queries + (size_t) group * w->k_chunks * TILE_VALUES;

        for (uint32_t c = 0; c < w->k_chunks; c++, to += TILE_VALUES) {
                __m512i rows[LANES];

                for (uint32_t i = 0; i < LANES; i++)
                        rows[i] = query_chunk(queries[i] + c * CHUNK, dim - c * CHUNK, scale);
                transpose_dwords(rows);
                for (uint32_t i = 0; i < LANES; i++)
                        _mm512_store_si512(to + i * CHUNK, rows[i]);
        }
}

/* Scores of CHUNK keys of the stage from number `key` on, chunk t of the block; of one group or two. */
ALWAYS_INLINE void score_chunk(const struct work *w, uint32_t group, bool two, uint32_t key, uint32_t t) {
        const uint16_t *k0 = w->keys + (size_t) (key / 16) * w->k_chunks * TILE_VALUES;
        const uint16_t *k1 = k0 + (size_t) w->k_chunks * TILE_VALUES;
        const uint16_t *q0 = w->queries + (size_t) group * w->k_chunks * TILE_VALUES;
        const uint16_t *q1 = q0 + (size_t) w->k_chunks * TILE_VALUES;
        float *to = w->scores + t * CHUNK * LANES;

        AMX_ZERO(0);
        AMX_ZERO(1);
        if (two) {
                AMX_ZERO(2);
                AMX_ZERO(3);
        }
        for (uint32_t c = 0; c < w->k_chunks; c++) {
                AMX_LOAD(4, k0 + (size_t) c * TILE_VALUES, AMX_ROW_BYTES);
                AMX_LOAD(6, q0 + (size_t) c * TILE_VALUES, AMX_ROW_BYTES);
                AMX_LOAD(5, k1 + (size_t) c * TILE_VALUES, AMX_ROW_BYTES);
                AMX_DOT_BF16(0, 4, 6);
                AMX_DOT_BF16(1, 5, 6);
                if (two) {
                        AMX_LOAD(7, q1 + (size_t) c * TILE_VALUES, AMX_ROW_BYTES);
                        AMX_DOT_BF16(2, 4, 7);
                        AMX_DOT_BF16(3, 5, 7);
                }
        }
        AMX_STORE(0, to, AMX_ROW_BYTES);
        AMX_STORE(1, to + TILE_FLOATS, AMX_ROW_BYTES);
        if (two) {
                AMX_STORE(2, to + ATTENTION_BLOCK * LANES, AMX_ROW_BYTES);
                AMX_STORE(3, to + ATTENTION_BLOCK * LANES + TILE_FLOATS, AMX_ROW_BYTES);
        }
}

/* cap × tanh(s / cap); tanh z = 1 - 2 / (1 + e^2z) */
static void cap_scores(float *scores, uint32_t from, uint32_t to, float cap) {
        for (uint32_t j = from; j < to; j++) {
                vf e = vf_exp(vf_load(scores + j * LANES) * vf_set(2.0f / cap));

                vf_store(scores + j * LANES, vf_set(cap) * (vf_set(1.0f) - vf_set(2.0f) / (vf_set(1.0f) + e)));
        }
}

/* Scores of the keys [from, to) of the block that begins at key `base`. */
static void mask_scores(float *scores, const struct lanes *lanes, uint32_t base, uint32_t from, uint32_t to) {
        __m512i first = _mm512_loadu_si512(lanes->first), last = _mm512_loadu_si512(lanes->last);

        for (uint32_t j = from; j < to; j++) {
                __m512i key = _mm512_set1_epi32((int) (base + j));
                __mmask16 hidden = _mm512_cmplt_epi32_mask(key, first) | _mm512_cmpgt_epi32_mask(key, last);

                _mm512_mask_storeu_ps(scores + j * LANES, hidden, vf_set(-INFINITY));
        }
}

/* 2^x for x ≤ 126, within 1e-4 of it, which bfloat16 loses anyway; 0 of -inf. */
ALWAYS_INLINE __m512 exp2_coarse(__m512 x) {
        __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); /* above the whole number below */
        __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.078024523f), f, _mm512_set1_ps(0.2260671554f));

        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6958335405f));
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.9999252186f));
        return _mm512_scalef_ps(p, x); /* by that whole number */
}

/* Two keys' weights of each lane, rounded to bfloat16, the first in the low half. */
ALWAYS_INLINE __m512i weight_pair(__m512 even, __m512 odd) {
        const __m512i half = _mm512_set1_epi32(0x8000);
        __m512i low = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(even), half), 16);

        return _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_add_epi32(_mm512_castps_si512(odd), half));
}

static void scale_out(const struct work *w, uint32_t group, const float factor[LANES]) {
        float *out = w->out + (size_t) group * w->v_chunks * 2 * TILE_FLOATS;

        for (uint32_t t = 0; t < 2 * w->v_chunks; t++, out += TILE_FLOATS)
                UNROLL for (int i = 0; i < LANES; i++) _mm512_store_ps(
                        out + i * LANES, _mm512_load_ps(out + i * LANES) * _mm512_set1_ps(factor[i]));
}

/* A block of keys: it begins at key `base`, number `key` of the stage; its chunks [from, to) are seen by some lane. */
struct block {
        uint32_t base, key, from, to;
};

/* What the matrix unit does while the vector units weigh a block, for one group or two: it adds the values of the
 * block before, and then computes the scores of the one after. A step is one or two pairs of products each; what a
 * row of them comes to is stored at the step after its last, when it is there. */
struct matrix {
        const struct work *w;
        uint32_t group;
        bool two;
        struct block before, after;
        const uint16_t *weights; /* of the block before */
        float *scores;           /* of the block after */
        uint32_t v_chunk, t;     /* of `before`: the next product; v_chunks: all are done */
        uint32_t s_chunk, c;     /* of `after`; to: all are done */
        uint32_t steps, planned, slots, owed;
};

/* With from = to there is no such block. */
static void matrix_init(struct matrix *m, const struct block *before, const struct block *after) {
        m->before = *before;
        m->after = *after;
        m->v_chunk = before->from < before->to ? 0 : m->w->v_chunks;
        m->t = before->from;
        m->s_chunk = after->from;
        m->c = 0;
        m->steps = m->w->v_chunks * (before->to - before->from) + m->w->k_chunks * (after->to - after->from);
        m->planned = m->steps;
        m->owed = 0;
}

ALWAYS_INLINE void add_step(struct matrix *m, bool two) {
        const struct work *w = m->w;
        float *out = w->out + ((size_t) m->group * w->v_chunks + m->v_chunk) * 2 * TILE_FLOATS;
        float *out1 = out + (size_t) w->v_chunks * 2 * TILE_FLOATS;
        const uint16_t *v = w->values +
                            ((size_t) (m->before.key / CHUNK + m->t) * w->v_chunks + m->v_chunk) * 2 * TILE_VALUES;

        if (m->t == m->before.from) {
                AMX_LOAD(0, out, AMX_ROW_BYTES);
                AMX_LOAD(1, out + TILE_FLOATS, AMX_ROW_BYTES);
                if (two) {
                        AMX_LOAD(2, out1, AMX_ROW_BYTES);
                        AMX_LOAD(3, out1 + TILE_FLOATS, AMX_ROW_BYTES);
                }
        }
        AMX_LOAD(4, m->weights + m->t * TILE_VALUES, AMX_ROW_BYTES);
        AMX_LOAD(6, v, AMX_ROW_BYTES);
        AMX_DOT_BF16(0, 4, 6);
        AMX_LOAD(7, v + TILE_VALUES, AMX_ROW_BYTES);
        AMX_DOT_BF16(1, 4, 7);
        if (two) {
                AMX_LOAD(5, m->weights + (BLOCK_CHUNKS + m->t) * TILE_VALUES, AMX_ROW_BYTES);
                AMX_DOT_BF16(2, 5, 6);
                AMX_DOT_BF16(3, 5, 7);
        }
        m->t++;
}

ALWAYS_INLINE void add_end(struct matrix *m, bool two) {
        const struct work *w = m->w;
        float *out = w->out + ((size_t) m->group * w->v_chunks + m->v_chunk) * 2 * TILE_FLOATS;
        float *out1 = out + (size_t) w->v_chunks * 2 * TILE_FLOATS;

        AMX_STORE(0, out, AMX_ROW_BYTES);
        AMX_STORE(1, out + TILE_FLOATS, AMX_ROW_BYTES);
        if (two) {
                AMX_STORE(2, out1, AMX_ROW_BYTES);
                AMX_STORE(3, out1 + TILE_FLOATS, AMX_ROW_BYTES);
        }
        m->t = m->before.from;
        m->v_chunk++;
}

ALWAYS_INLINE void score_step(struct matrix *m, bool two) {
        const struct work *w = m->w;
        const uint16_t *k0 = w->keys +
                             ((size_t) (m->after.key / 16 + 2 * m->s_chunk) * w->k_chunks + m->c) * TILE_VALUES;
        const uint16_t *q0 = w->queries + ((size_t) m->group * w->k_chunks + m->c) * TILE_VALUES;

        if (m->c == 0) {
                AMX_ZERO(0);
                AMX_ZERO(1);
                if (two) {
                        AMX_ZERO(2);
                        AMX_ZERO(3);
                }
        }
        AMX_LOAD(4, k0, AMX_ROW_BYTES);
        AMX_LOAD(6, q0, AMX_ROW_BYTES);
        AMX_DOT_BF16(0, 4, 6);
        AMX_LOAD(5, k0 + (size_t) w->k_chunks * TILE_VALUES, AMX_ROW_BYTES);
        AMX_DOT_BF16(1, 5, 6);
        if (two) {
                AMX_LOAD(7, q0 + (size_t) w->k_chunks * TILE_VALUES, AMX_ROW_BYTES);
                AMX_DOT_BF16(2, 4, 7);
                AMX_DOT_BF16(3, 5, 7);
        }
        m->c++;
}

ALWAYS_INLINE void score_end(struct matrix *m, bool two) {
        float *to = m->scores + m->s_chunk * CHUNK * LANES;

        AMX_STORE(0, to, AMX_ROW_BYTES);
        AMX_STORE(1, to + TILE_FLOATS, AMX_ROW_BYTES);
        if (two) {
                AMX_STORE(2, to + ATTENTION_BLOCK * LANES, AMX_ROW_BYTES);
                AMX_STORE(3, to + ATTENTION_BLOCK * LANES + TILE_FLOATS, AMX_ROW_BYTES);
        }
        m->c = 0;
        m->s_chunk++;
}

/* Stores what is complete. */
ALWAYS_INLINE void matrix_end(struct matrix *m, bool two) {
        if (m->t == m->before.to && m->v_chunk < m->w->v_chunks)
                add_end(m, two);
        if (m->c == m->w->k_chunks)
                score_end(m, two);
}

ALWAYS_INLINE void matrix_step(struct matrix *m, bool two) {
        matrix_end(m, two);
        m->steps--;
        if (m->v_chunk < m->w->v_chunks)
                add_step(m, two);
        else
                score_step(m, two);
}

/* Between the instructions of the vector units: so many steps that they end with the last of the slots. */
ALWAYS_INLINE void matrix_slot(struct matrix *m, bool two) {
        for (m->owed += m->planned; m->owed >= m->slots && m->steps > 0; m->owed -= m->slots)
                matrix_step(m, two);
}

/* Up to the end of a row of products: the tiles are free then. */
ALWAYS_INLINE void matrix_pause(struct matrix *m, bool two) {
        while (m->t != m->before.from && m->t != m->before.to)
                matrix_step(m, two);
        matrix_end(m, two);
}

ALWAYS_INLINE void matrix_finish(struct matrix *m, bool two) {
        while (m->steps > 0)
                matrix_step(m, two);
        matrix_end(m, two);
}

/* What a block's scores are weighed by. */
struct scale {
        __m512 offset; /* -log2 e × the maximum */
        __m512 sums[2];
        __m512 factor; /* of what was summed up before */
        bool grown;    /* not all factors are 1, and there was something */
};

/* A maximum that has grown by a little does not count: weights up to e^5 lose nothing, and the output need not be
 * scaled so often. */
static struct scale begin_weights(const struct work *w, uint32_t group, __m512 largest) {
        __m512 before = _mm512_load_ps(w->max + group * LANES), max, base;
        struct scale s;
        __mmask16 grown;

        grown = _mm512_cmp_ps_mask(largest, before + vf_set(5.0f), _CMP_GT_OQ);
        max = _mm512_mask_mov_ps(before, grown, largest);
        /* A lane that has seen no key yet. */
        base = _mm512_mask_mov_ps(max, _mm512_cmp_ps_mask(max, vf_set(-INFINITY), _CMP_EQ_OQ), vf_zero());
        s.factor = _mm512_mask_mov_ps(vf_set(1.0f), grown, vf_exp(before - base));
        s.grown = grown & _mm512_cmp_ps_mask(before, vf_set(-INFINITY), _CMP_GT_OQ);
        s.offset = base * vf_set(-1.44269504f);
        s.sums[0] = s.sums[1] = vf_zero();
        _mm512_store_ps(w->max + group * LANES, max);
        return s;
}

static void end_weights(const struct work *w, uint32_t group, const struct scale *s) {
        float *sum = w->sum + group * LANES;

        _mm512_store_ps(sum, _mm512_fmadd_ps(_mm512_load_ps(sum), s->factor, s->sums[0] + s->sums[1]));
        if (s->grown) {
                _Alignas(64) float factors[LANES];

                _mm512_store_ps(factors, s->factor);
                scale_out(w, group, factors);
        }
}

ALWAYS_INLINE __m512 largest_of(const float *scores, const struct block *b, struct matrix *m, bool two) {
        __m512 largest[4];

        UNROLL for (int i = 0; i < 4; i++) largest[i] = vf_set(-INFINITY);
        for (uint32_t t = b->from; t < b->to; t++) {
                UNROLL for (int j = 0; j < CHUNK; j++) largest[j % 4] =
                        _mm512_max_ps(largest[j % 4], _mm512_load_ps(scores + (t * CHUNK + j) * LANES));
                matrix_slot(m, two);
        }
        return _mm512_max_ps(_mm512_max_ps(largest[0], largest[1]), _mm512_max_ps(largest[2], largest[3]));
}

/* Weights of CHUNK keys; adds them to the sums. */
ALWAYS_INLINE void weigh_chunk(const float *scores, uint16_t *weights, struct scale *s, struct matrix *m, bool two) {
        const __m512 log2e = _mm512_set1_ps(1.44269504f);
        _Alignas(64) uint32_t pairs[LANES][LANES];
        __m512i rows[LANES];

        for (int j = 0; j < LANES; j += 4) {
                UNROLL for (int i = 0; i < 4; i++) {
                        const float *at = scores + 2 * (j + i) * LANES;
                        __m512 even = exp2_coarse(_mm512_fmadd_ps(_mm512_load_ps(at), log2e, s->offset));
                        __m512 odd = exp2_coarse(_mm512_fmadd_ps(_mm512_load_ps(at + LANES), log2e, s->offset));

                        s->sums[0] = s->sums[0] + even;
                        s->sums[1] = s->sums[1] + odd;
                        _mm512_store_si512(pairs[j + i], weight_pair(even, odd));
                }
                matrix_slot(m, two);
        }
        UNROLL for (int j = 0; j < LANES; j++) rows[j] = _mm512_load_si512(pairs[j]);
        transpose_dwords(rows);
        UNROLL for (int j = 0; j < LANES; j++) _mm512_store_si512(weights + j * CHUNK, rows[j]);
        matrix_slot(m, two);
}

enum { CHUNK_SLOTS = 6 /* of largest_of() and weigh_chunk() for each chunk */ };

/* The scores of the group's half become weights. */
ALWAYS_INLINE void weigh_block(struct matrix *m, bool two, uint32_t half, const struct block *b, float *scores,
                               uint16_t *weights, struct scale *s) {
        const struct work *w = m->w;
        const struct lanes *lanes = &w->lanes[m->group + half];
        uint32_t from = b->from * CHUNK, to = b->to * CHUNK;

        scores += half * ATTENTION_BLOCK * LANES;
        weights += half * BLOCK_CHUNKS * TILE_VALUES;
        if (w->softcap > 0.0f)
                cap_scores(scores, from, to, w->softcap);
        if (lanes->first_max > (int32_t) (b->base + from) || lanes->last_min < (int32_t) (b->base + to - 1))
                mask_scores(scores, lanes, b->base, from, to);
        *s = begin_weights(w, m->group + half, largest_of(scores, b, m, two));
        for (uint32_t t = b->from; t < b->to; t++)
                weigh_chunk(scores + t * CHUNK * LANES, weights + t * TILE_VALUES, s, m, two);
}

/* The next block from number `key` of the stage on, up to n, that a lane of the group or the two sees; from = to:
 * none. */
static struct block next_block(const struct work *w, uint32_t group, bool two, uint32_t base, uint32_t n,
                               uint32_t key) {
        const struct lanes *lanes = &w->lanes[group];
        int32_t first = lanes[0].first_min, last = lanes[0].last_max;
        struct block b = {0};

        if (two) {
                first = MIN(first, lanes[1].first_min);
                last = MAX(last, lanes[1].last_max);
        }
        while (key < n && first >= (int32_t) (base + key + ATTENTION_BLOCK))
                key += ATTENTION_BLOCK;
        if (key >= n || last < (int32_t) (base + key))
                return b;
        b = (struct block){.base = base + key, .key = key};
        b.from = first > (int32_t) b.base ? ((uint32_t) first - b.base) / CHUNK : 0;
        b.to = MIN(((uint32_t) last - b.base) / CHUNK + 1, (uint32_t) BLOCK_CHUNKS);
        return b;
}

/* One group or two over the stage. */
ALWAYS_INLINE void attend_groups(const struct work *w, uint32_t group, bool two, uint32_t base, uint32_t n) {
        enum { SCORES = 2 * ATTENTION_BLOCK * LANES, WEIGHTS = 2 * BLOCK_CHUNKS * TILE_VALUES };
        const struct block none = {0};
        struct block before = none, now = next_block(w, group, two, base, n, 0), after;
        struct matrix m = {.w = w, .group = group, .two = two, .scores = w->scores};
        uint32_t odd = 0;

        matrix_init(&m, &none, &now);
        matrix_finish(&m, two);
        while (now.from < now.to) {
                float *scores = w->scores + odd * SCORES;
                uint16_t *weights = w->weights + odd * WEIGHTS;
                struct scale s0, s1;

                odd ^= 1;
                after = next_block(w, group, two, base, n, now.key + ATTENTION_BLOCK);
                m.weights = w->weights + odd * WEIGHTS;
                m.scores = w->scores + odd * SCORES;
                matrix_init(&m, &before, &after);
                m.slots = (two ? 2 : 1) * CHUNK_SLOTS * (now.to - now.from);
                weigh_block(&m, two, 0, &now, scores, weights, &s0);
                if (two)
                        weigh_block(&m, two, 1, &now, scores, weights, &s1);
                matrix_finish(&m, two);
                end_weights(w, group, &s0);
                if (two)
                        end_weights(w, group + 1, &s1);
                before = now;
                now = after;
        }
        m.weights = w->weights + (odd ^ 1) * WEIGHTS;
        matrix_init(&m, &before, &none);
        matrix_finish(&m, two);
}

/* All pairs and the keys of the stage, n from `base` on. */
static void attend_stage(const struct work *w, uint32_t base, uint32_t n) {
        for (uint32_t group = 0; group < w->groups; group += 2)
                if (group + 1 < w->groups)
                        attend_groups(w, group, true, base, n);
                else
                        attend_groups(w, group, false, base, n);
}

static void store_out(const struct work *w, const struct attention_part *part, uint32_t dim) {
        const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
        const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));

        memcpy(part->max, w->max, w->pairs * sizeof(float));
        memcpy(part->sum, w->sum, w->pairs * sizeof(float));
        for (uint32_t i = 0; i < w->pairs; i++) {
                const float *from = w->out + (size_t) (i / LANES) * w->v_chunks * 2 * TILE_FLOATS + i % LANES * LANES;
                float *to = part->out + (size_t) i * dim;

                for (uint32_t c = 0; c < w->v_chunks; c++, from += 2 * TILE_FLOATS) {
                        __m512 a = _mm512_load_ps(from), b = _mm512_load_ps(from + TILE_FLOATS);
                        uint32_t n = dim - c * CHUNK, mask = n >= CHUNK ? UINT32_MAX : (1u << n) - 1;

                        _mm512_mask_storeu_ps(to + c * CHUNK, (__mmask16) mask, _mm512_permutex2var_ps(a, low, b));
                        _mm512_mask_storeu_ps(to + c * CHUNK + 16, (__mmask16) (mask >> 16),
                                              _mm512_permutex2var_ps(a, high, b));
                }
        }
}

/* Subnormal numbers count as zero, as they do in the matrix unit, which would take them for zero only where a
 * further block passes. */
static uint32_t begin(void) {
        const uint32_t flush_to_zero = 0x8000, subnormals_are_zero = 0x40;
        uint32_t mode = _mm_getcsr();

        _mm_setcsr(mode | flush_to_zero | subnormals_are_zero);
        amx_begin(&config);
        return mode;
}

static void end(uint32_t mode) {
        amx_end();
        _mm_setcsr(mode);
}

/* A page begins anywhere in memory, where no hardware prefetcher foresees it. */
static void prefetch(const uint16_t *p, uint32_t dim) {
        for (uint32_t i = 0; i < dim; i += 32)
                _mm_prefetch((const char *) (p + i), _MM_HINT_T1);
}

struct pages {
        const struct kv_layer *kv;
        const int32_t *pages;
        uint32_t kv_head;
};

static size_t page_slot(const struct pages *p, uint32_t page) {
        return ((size_t) p->pages[page] * p->kv->kv_heads + p->kv_head) * KV_PAGE_TOKENS;
}

/* The keys of a job, a chunk at a time. */
struct source {
        uint32_t first, end;
        /* Keys from number `key` on, a multiple of CHUNK, become the work's keys from number `at` on and values from
         * `value_at` on, with zeros where there are none. The matrix unit goes on meanwhile. */
        void (*place)(const struct source *s, const struct work *w, uint32_t key, uint32_t at, uint32_t value_at,
                      struct matrix *m);
};

struct dense_source {
        struct source base;
        struct pages pages;
};

static void place_page_values(const struct dense_source *s, const struct work *w, size_t slot, size_t ahead, uint32_t n,
                              uint32_t at, struct matrix *m) {
        const struct kv_layer *kv = s->pages.kv;
        const uint16_t *values = host_address(kv->v);

        for (uint32_t j = 0; j < CHUNK; j += 2) {
                const uint16_t *v = values + (slot + j) * kv->v_dim;

                prefetch(values + (ahead + j) * kv->v_dim, 2 * kv->v_dim);
                if (j + 1 < n)
                        place_values(w, at + j, v, v + kv->v_dim, kv->v_dim);
                else
                        place_last_values(w, at + j, j < n ? v : NULL, kv->v_dim);
                if (j % 4)
                        matrix_slot(m, m->two);
        }
}

/* The next page is asked for meanwhile. */
static void place_dense(const struct source *base, const struct work *w, uint32_t key, uint32_t at, uint32_t value_at,
                        struct matrix *m) {
        const struct dense_source *s = container_of(base, const struct dense_source, base);
        const struct kv_layer *kv = s->pages.kv;
        const uint16_t *keys = host_address(kv->k);
        uint32_t n = MIN(base->end - key, (uint32_t) CHUNK), page = key / KV_PAGE_TOKENS;
        size_t slot = page_slot(&s->pages, page);
        size_t ahead = page_slot(&s->pages, MIN(page + 1, (base->end - 1) / KV_PAGE_TOKENS));

        for (uint32_t j = 0; j < CHUNK; j++) {
                prefetch(keys + (ahead + j) * kv->k_dim, kv->k_dim);
                place_key(w, at + j, j < n ? keys + (slot + j) * kv->k_dim : NULL, kv->k_dim);
                if (j % 4 == 3)
                        matrix_slot(m, m->two);
        }
        if (kv->v.address) {
                place_page_values(s, w, slot, ahead, n, value_at, m);
                return;
        }
        for (uint32_t j = 0; j < CHUNK; j += 2) {
                place_key_values(w, value_at + j, at + j);
                if (j % 4)
                        matrix_slot(m, m->two);
        }
}

/* Many pairs: keys wait in the second cache while all groups pass. */
static void attend_many(const struct work *w, const struct source *s) {
        struct matrix idle = {0};

        for (uint32_t base = s->first / ATTENTION_BLOCK * ATTENTION_BLOCK; base < s->end; base += w->stage) {
                uint32_t end = MIN(base + w->stage, s->end);

                for (uint32_t key = MAX(base, s->first / CHUNK * CHUNK); key < end; key += CHUNK)
                        s->place(s, w, key, key - base, key - base, &idle);
                attend_stage(w, base, end - base);
        }
}

/* Few pairs: each chunk of keys is placed and used while it is in the first cache, and meanwhile the matrix unit adds
 * the values of the block before. */
ALWAYS_INLINE void attend_few(const struct work *w, const struct source *s, bool two) {
        enum { WEIGHTS = 2 * BLOCK_CHUNKS * TILE_VALUES };
        const struct block none = {0};
        struct matrix m = {.w = w, .two = two};
        struct block before = none;
        uint32_t odd = 0;

        for (uint32_t base = s->first / ATTENTION_BLOCK * ATTENTION_BLOCK; base < s->end; base += ATTENTION_BLOCK) {
                struct block now = next_block(w, 0, two, base, ATTENTION_BLOCK, 0);
                uint16_t *weights = w->weights + odd * WEIGHTS;
                struct scale s0, s1;

                if (now.from == now.to)
                        continue;
                now.key = odd * ATTENTION_BLOCK;
                matrix_init(&m, &before, &none);
                m.slots = PLACE_SLOTS * (now.to - now.from);
                for (uint32_t t = now.from; t < now.to; t++) {
                        s->place(s, w, base + t * CHUNK, 0, now.key + t * CHUNK, &m);
                        matrix_pause(&m, two);
                        score_chunk(w, 0, two, 0, t);
                }
                matrix_finish(&m, two);
                matrix_init(&m, &none, &none);
                weigh_block(&m, two, 0, &now, w->scores, weights, &s0);
                end_weights(w, 0, &s0);
                if (two) {
                        weigh_block(&m, two, 1, &now, w->scores, weights, &s1);
                        end_weights(w, 1, &s1);
                }
                m.weights = weights;
                before = now;
                odd ^= 1;
        }
        matrix_init(&m, &before, &none);
        matrix_finish(&m, two);
}

static void attend_keys(const struct work *w, const struct source *s) {
        if (w->groups > FEW_GROUPS)
                attend_many(w, s);
        else if (w->groups == 2)
                attend_few(w, s, true);
        else
                attend_few(w, s, false);
}

_Static_assert((int) CHUNK == (int) KV_PAGE_TOKENS, "a page is a chunk");

static void place_rows(struct work *w, const struct attention_job *job) {
        const struct op_attention *op = job->op;
        const int32_t *positions = host_address(op->rows.positions);
        const float *q = host_address(op->q);

        w->softcap = op->softcap;
        for (uint32_t g = 0; g < w->groups; g++) {
                const float *queries[LANES];

                /* Spare lanes do as the last pair does. */
                for (uint32_t l = 0; l < LANES; l++) {
                        uint32_t pair = MIN(g * LANES + l, w->pairs - 1), row = job->first + pair / job->heads;
                        size_t head = job->head + pair % job->heads;

                        queries[l] = q + (row * op->heads + head) * op->kv.k_dim;
                        w->lanes[g].first[l] = (int32_t) attention_first(op, (uint32_t) positions[row]);
                        w->lanes[g].last[l] = positions[row];
                }
                bound_lanes(&w->lanes[g]);
                place_queries(w, g, queries, op->kv.k_dim, op->scale);
        }
}

static void attend_split(const struct attention_job *job) {
        const struct op_attention *op = job->op;
        const int32_t *positions = host_address(op->rows.positions);
        struct dense_source source = {
                .base = {
                        .first = MAX(attention_first(op, positions[job->first]), job->begin),
                        .end = MIN((uint32_t) positions[job->first + job->rows - 1] + 1, job->end),
                        .place = place_dense,
                },
                .pages = {
                        .kv = &op->kv,
                        .pages = (const int32_t *) host_address(op->rows.page_table) +
                                 (size_t) ((const int32_t *) host_address(op->rows.sequences))[job->first] *
                                         op->rows.page_table_stride,
                        .kv_head = job->head / (op->heads / op->kv.kv_heads),
                },
        };
        struct work w;

        work_init(&w, &op->kv, job->rows * job->heads, job->scratch);
        place_rows(&w, job);
        attend_keys(&w, &source.base);
        store_out(&w, &job->part, op->kv.v_dim);
}

void attention_amx(const struct attention_job *job) {
        uint32_t mode;

        if (job->op->kv.type != QUANT_F16) {
                attention_avx512(job);
                return;
        }
        mode = begin();
        attend_split(job);
        end(mode);
}

struct sparse_source {
        struct source base;
        const struct sparse_job *job;
};

static void prefetch_key(const struct sparse_job *job, uint32_t i) {
        if (i < job->end)
                prefetch((const uint16_t *) sparse_key(job->op, job->keys, i), job->op->kv.k_dim);
}

static void place_sparse(const struct source *base, const struct work *w, uint32_t key, uint32_t at, uint32_t value_at,
                         struct matrix *m) {
        enum { AHEAD = 8 };
        const struct sparse_job *job = container_of(base, const struct sparse_source, base)->job;

        for (uint32_t j = 0; j < CHUNK; j++) {
                const void *from = key + j < base->end ? sparse_key(job->op, job->keys, key + j) : NULL;

                prefetch_key(job, key + j + AHEAD);
                place_key(w, at + j, from, job->op->kv.k_dim);
                if (j % 2) {
                        place_key_values(w, value_at + j - 1, at + j - 1);
                        matrix_slot(m, m->two);
                }
        }
}

static void attend_sparse(const struct sparse_job *job) {
        const struct op_sparse_attention *op = job->op;
        const float *q = (const float *) host_address(op->q) +
                         ((size_t) job->row * op->heads + job->head) * op->kv.k_dim;
        struct sparse_source source = {
                .base = {.first = job->begin, .end = job->end, .place = place_sparse},
                .job = job,
        };
        struct work w;

        work_init(&w, &op->kv, job->heads, job->scratch);
        w.softcap = 0.0f;
        for (uint32_t g = 0; g < w.groups; g++) {
                const float *queries[LANES];

                for (uint32_t l = 0; l < LANES; l++) {
                        queries[l] = q + (size_t) MIN(g * LANES + l, w.pairs - 1) * op->kv.k_dim;
                        w.lanes[g].first[l] = 0;
                        w.lanes[g].last[l] = (int32_t) job->end - 1;
                }
                bound_lanes(&w.lanes[g]);
                place_queries(&w, g, queries, op->kv.k_dim, op->scale);
        }
        attend_keys(&w, &source.base);
        store_out(&w, &job->part, op->kv.v_dim);
}

void sparse_attention_amx(const struct sparse_job *job) {
        uint32_t mode = begin();

        attend_sparse(job);
        end(mode);
}

/* The lightning indexer: products of all heads with a chunk of keys, their weighted sum over heads, lane by lane,
 * and then over the lanes. */
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
                place_queries(&x->w, i, queries, op->keys.k_dim, 1.0f);
        }
}

static void index_work_init(struct index_work *x, const struct index_job *job, uint32_t groups) {
        const struct op_index *op = job->op;
        char *at = job->scratch;

        *x = (struct index_work){.w.k_chunks = DIV_ROUND_UP(op->keys.k_dim, (uint32_t) CHUNK)};
        x->w.keys = (uint16_t *) take(&at, (size_t) 2 * x->w.k_chunks * AMX_TILE_BYTES);
        x->w.queries = (uint16_t *) take(&at, (size_t) job->rows * groups * x->w.k_chunks * AMX_TILE_BYTES);
        x->w.scores = (float *) take(&at, 2 * ATTENTION_BLOCK * LANES * sizeof(float));
        x->weights = (float *) take(&at, (size_t) job->rows * groups * LANES * sizeof(float));
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
        uint32_t mode = begin();

        index_entries(job);
        end(mode);
}
