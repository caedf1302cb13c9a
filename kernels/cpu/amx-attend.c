/* SPDX-License-Identifier: MIT */
#include <math.h>

#include "amx-few.h"
#include "amx-matrix.h"
#include "amx-place.h"
#include "base/util.h"
#include "tile.h"

static const struct amx_config config = AMX_WHOLE_TILES;

char *amx_attend_take(char **at, size_t bytes) {
        char *p = *at;

        *at += (bytes + 63) & ~(size_t) 63;
        return p;
}

void amx_attend_init(struct work *w, const struct kv_layer *kv, uint32_t pairs, void *scratch) {
        char *at = scratch;
        const size_t columns = 4 * AMX_TILE_BYTES; /* two */
        size_t key_bytes, none;
        bool few;

        w->pairs = pairs;
        w->k_dim = kv->k_dim;
        w->v_dim = kv->v_dim;
        w->groups = DIV_ROUND_UP(pairs, (uint32_t) LANES);
        w->k_chunks = DIV_ROUND_UP(kv->k_dim, (uint32_t) CHUNK);
        w->v_chunks = DIV_ROUND_UP(kv->v_dim, (uint32_t) CHUNK);
        key_bytes = (size_t) (w->k_chunks + w->v_chunks) * CHUNK * sizeof(uint16_t);
        w->stage = (uint32_t) MAX(MIN((size_t) ATTENTION_STAGE / key_bytes, (size_t) ATTENTION_SPLIT) / ATTENTION_BLOCK,
                                  (size_t) 1) *
                   ATTENTION_BLOCK;
        few = w->groups <= FEW_GROUPS;
        w->keys = (uint16_t *) amx_attend_take(&at, few ? columns : (size_t) w->stage * w->k_chunks * AMX_ROW_BYTES);
        w->values = (uint16_t *) amx_attend_take(&at, few ? 0 : (size_t) w->stage * w->v_chunks * AMX_ROW_BYTES);
        w->queries = (uint16_t *) amx_attend_take(&at, (size_t) w->groups * w->k_chunks * AMX_TILE_BYTES);
        w->out = (float *) amx_attend_take(&at, (size_t) w->groups * w->v_chunks * 2 * AMX_TILE_BYTES);
        w->max = (float *) amx_attend_take(&at, (size_t) w->groups * LANES * sizeof(float));
        w->sum = (float *) amx_attend_take(&at, (size_t) w->groups * LANES * sizeof(float));
        w->lanes = (struct lanes *) amx_attend_take(&at, w->groups * sizeof(struct lanes));
        w->scores = (float *) amx_attend_take(&at, 4 * ATTENTION_BLOCK * LANES * sizeof(float));
        w->weights = (uint16_t *) amx_attend_take(&at, 4 * BLOCK_CHUNKS * AMX_TILE_BYTES);
        w->apart = kv_paired(kv);
        none = (size_t) MAX(w->k_chunks, 2 * w->v_chunks) * AMX_ROW_BYTES;
        w->none = memset(amx_attend_take(&at, none), 0, none);
        if (few)
                memset(w->out, 0, (size_t) w->groups * w->v_chunks * 2 * AMX_TILE_BYTES);
        for (uint32_t g = 0; g < w->groups; g++)
                w->lanes[g].begun = false;
        memset(w->sum, 0, (size_t) w->groups * LANES * sizeof(float));
        for (uint32_t i = 0; i < w->groups * LANES; i++)
                w->max[i] = -INFINITY;
}

void amx_attend_bound(struct lanes *l) {
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

void amx_attend_queries(const struct work *w, uint32_t group, const float *const queries[LANES], uint32_t dim,
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

/* cap × tanh(s / cap); tanh z = 1 - 2 / (1 + e^2z) */
static void cap_scores(float *scores, uint32_t from, uint32_t to, float cap) {
        for (uint32_t j = from; j < to; j++) {
                vf e = vf_exp(vf_load(scores + j * LANES) * vf_set(2.0f / cap));
                vf tanh = vf_set(1.0f) - vf_set(2.0f) / (vf_set(1.0f) + e);

                vf_store(scores + j * LANES, vf_set(cap) * tanh);
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
        const struct lanes *lanes = &w->lanes[b->group + half];
        uint32_t from = b->from * CHUNK, to = b->to * CHUNK;

        scores += half * ATTENTION_BLOCK * LANES;
        weights += half * BLOCK_CHUNKS * TILE_VALUES;
        if (w->softcap > 0.0f)
                cap_scores(scores, from, to, w->softcap);
        if (lanes->first_max > (int32_t) (b->base + from) || lanes->last_min < (int32_t) (b->base + to - 1))
                mask_scores(scores, lanes, b->base, from, to);
        *s = begin_weights(w, b->group + half, largest_of(scores, b, m, two));
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
        b = (struct block){.group = group, .base = base + key, .key = key};
        b.from = first > (int32_t) b.base ? ((uint32_t) first - b.base) / CHUNK : 0;
        b.to = MIN(((uint32_t) last - b.base) / CHUNK + 1, (uint32_t) BLOCK_CHUNKS);
        return b;
}

/* The block after this one of its groups, or else the first of those that follow, up to `end`; from = to: none. */
static struct block block_following(const struct work *w, const struct block *now, bool two, uint32_t end,
                                    uint32_t base, uint32_t n) {
        uint32_t step = two ? 2 : 1, group = now->group + step;
        struct block b = next_block(w, now->group, two, base, n, now->key + ATTENTION_BLOCK);

        for (; b.from == b.to && group < end; group += step)
                b = next_block(w, group, two, base, n, 0);
        return b;
}

/* The groups [group, end), one or two at a time, over the stage: one stream of blocks, so that neither unit waits for
 * the other where groups change, which in a stage of a single block they do each time. */
ALWAYS_INLINE void attend_groups(const struct work *w, uint32_t group, uint32_t end, bool two, uint32_t base,
                                 uint32_t n) {
        enum { SCORES = 2 * ATTENTION_BLOCK * LANES, WEIGHTS = 2 * BLOCK_CHUNKS * TILE_VALUES };
        const struct block none = {0};
        struct block before = none, now = next_block(w, group, two, base, n, 0), after;
        struct matrix m = {.w = w, .scores = w->scores};
        uint32_t odd = 0;

        if (now.from == now.to)
                now = block_following(w, &(struct block){.group = group, .key = n}, two, end, base, n);
        matrix_init(&m, &none, &now);
        matrix_finish(&m, two);
        while (now.from < now.to) {
                float *scores = w->scores + odd * SCORES;
                uint16_t *weights = w->weights + odd * WEIGHTS;
                struct scale s0, s1;

                odd ^= 1;
                after = block_following(w, &now, two, end, base, n);
                m.weights = w->weights + odd * WEIGHTS;
                m.scores = w->scores + odd * SCORES;
                matrix_init(&m, &before, &after);
                m.slots = (two ? 2 : 1) * CHUNK_SLOTS * (now.to - now.from);
                weigh_block(&m, two, 0, &now, scores, weights, &s0);
                if (two)
                        weigh_block(&m, two, 1, &now, scores, weights, &s1);
                matrix_finish(&m, two);
                end_weights(w, now.group, &s0);
                if (two)
                        end_weights(w, now.group + 1, &s1);
                before = now;
                now = after;
        }
        m.weights = w->weights + (odd ^ 1) * WEIGHTS;
        matrix_init(&m, &before, &none);
        matrix_finish(&m, two);
}

/* All pairs and the keys of the stage, n from `base` on. */
static void attend_stage(const struct work *w, uint32_t base, uint32_t n) {
        uint32_t twos = w->groups & ~1U;

        attend_groups(w, 0, twos, true, base, n);
        if (twos < w->groups)
                attend_groups(w, twos, w->groups, false, base, n);
}

/* Zeros where there are no keys any more. */
static void find_keys(const struct work *w, const struct source *s, uint32_t key, uint32_t n, uint32_t end,
                      const uint16_t **keys, const uint16_t **values) {
        uint32_t there = key < end ? MIN(end - key, n) : 0;

        if (there > 0)
                s->find(s, key, key + there, keys, values);
        for (uint32_t j = there; j < n; j++) {
                keys[j] = w->none;
                if (values)
                        values[j] = w->none;
        }
}

struct chunk_keys {
        const uint16_t *keys[CHUNK], *values[CHUNK];
};

static void place_chunk_keys(const struct work *w, const struct chunk_keys *now, const struct chunk_keys *next,
                             uint32_t at) {
        for (uint32_t j = 0; j < CHUNK; j++) {
                prefetch(next->keys[j], w->k_dim);
                place_key(w, at + j, now->keys[j], w->k_dim);
        }
        for (uint32_t j = 0; j < CHUNK; j += 2) {
                if (!w->apart) {
                        place_key_values(w, at + j, at + j);
                        continue;
                }
                prefetch(next->values[j], 2 * w->v_dim);
                place_values(w, at + j, now->values[j], w->v_dim);
        }
}

/* Many pairs: keys wait in the second cache while all groups pass. */
static void attend_many(const struct work *w, const struct source *s) {
        struct chunk_keys keys[2];
        uint32_t odd = 0;

        find_keys(w, s, s->first / CHUNK * CHUNK, CHUNK, s->end, keys[0].keys, keys[0].values);
        for (uint32_t base = s->first / ATTENTION_BLOCK * ATTENTION_BLOCK; base < s->end; base += w->stage) {
                uint32_t end = MIN(base + w->stage, s->end);

                for (uint32_t key = MAX(base, s->first / CHUNK * CHUNK); key < end; key += CHUNK, odd ^= 1) {
                        find_keys(w, s, key + CHUNK, CHUNK, s->end, keys[odd ^ 1].keys, keys[odd ^ 1].values);
                        place_chunk_keys(w, &keys[odd], &keys[odd ^ 1], key - base);
                }
                attend_stage(w, base, end - base);
        }
}

ALWAYS_INLINE void weigh_few(struct few *f, bool two, const struct block *b) {
        struct matrix idle = {.w = f->w, .fetch = &f->fetch};
        struct scale s;

        for (uint32_t half = 0; half < (two ? 2 : 1); half++) {
                weigh_block(&idle, two, half, b, f->w->scores, f->w->weights, &s);
                end_weights(f->w, half, &s);
        }
}

struct block_keys {
        const uint16_t *keys[ATTENTION_BLOCK], *values[ATTENTION_BLOCK];
};

/* The block's rows are asked for while the one before it is computed with. `end`: of the keys that there are. */
static void fetch_block(struct few *f, bool two, const struct source *s, const struct block *now,
                        const struct block *next, uint32_t end, struct block_keys *rows) {
        const struct work *w = f->w;
        uint32_t chunks = now->to - now->from, from = next->from * CHUNK, n = (next->to - next->from) * CHUNK;
        struct fetch_rows keys = {rows->keys + from, n, w->k_dim * (uint32_t) sizeof(uint16_t)};
        struct fetch_rows values = {rows->values + from, w->apart ? n : 0, w->v_dim * (uint32_t) sizeof(uint16_t)};

        if (n > 0)
                find_keys(w, s, next->base, ATTENTION_BLOCK, end, rows->keys, w->apart ? rows->values : NULL);
        fetch_init(&f->fetch, keys, values,
                   chunks * ((w->k_chunks + w->v_chunks) * COLUMN_SLOTS + (two ? 2 : 1) * CHUNK_SLOTS));
}

/* The next block of the job, or else what a job with the keys after these would begin with: often the same thread
 * gets that one next. */
static struct block block_after(const struct work *w, const struct source *s, bool two, uint32_t begin,
                                const struct block *now) {
        struct block b = next_block(w, 0, two, begin, s->end - begin, now->key + ATTENTION_BLOCK);

        if (b.from == b.to && s->end == now->base + ATTENTION_BLOCK && s->end < s->known)
                b = (struct block){.base = s->end, .to = BLOCK_CHUNKS};
        return b;
}

/* Few pairs: a block's keys and values pass once, from the second cache, where they were fetched while the block before
 * was computed with. */
ALWAYS_INLINE void attend_few(const struct work *w, const struct source *s, bool two, bool direct) {
        struct few f = {.w = w};
        struct block_keys rows[2];
        uint32_t begin = s->first / ATTENTION_BLOCK * ATTENTION_BLOCK, odd = 0;
        struct block now = next_block(w, 0, two, begin, s->end - begin, 0), next;

        find_keys(w, s, now.base, ATTENTION_BLOCK, s->end, rows[0].keys, w->apart ? rows[0].values : NULL);
        for (; now.from < now.to && now.base < s->end; now = next, odd ^= 1) {
                const uint16_t *const *keys = rows[odd].keys, *const *values = w->apart ? rows[odd].values : keys;

                next = block_after(w, s, two, begin, &now);
                fetch_block(&f, two, s, &now, &next, next.base < s->end ? s->end : s->known, &rows[odd ^ 1]);
                for (uint32_t t = now.from; t < now.to; t++)
                        score_few(&f, two, direct, keys, t);
                weigh_few(&f, two, &now);
                for (uint32_t c = 0; c < w->v_chunks; c++)
                        if (direct && w->apart)
                                add_few(&f, two, true, values, now.from, now.to, c);
                        else
                                add_few(&f, two, false, values, now.from, now.to, c);
        }
}

void amx_attend_keys(const struct work *w, const struct source *s) {
        if (w->groups > FEW_GROUPS)
                attend_many(w, s);
        else if (w->groups == 2 && s->direct)
                attend_few(w, s, true, true);
        else if (w->groups == 2)
                attend_few(w, s, true, false);
        else if (s->direct)
                attend_few(w, s, false, true);
        else
                attend_few(w, s, false, false);
}

void amx_attend_store(const struct work *w, const struct attention_part *part, uint32_t dim) {
        const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
        const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));

        memcpy(part->max, w->max, w->pairs * sizeof(float));
        for (uint32_t i = 0; i < w->pairs; i++) {
                const float *from = w->out + (size_t) (i / LANES) * w->v_chunks * 2 * TILE_FLOATS + i % LANES * LANES;
                float *to = part->out + (size_t) i * dim;

                part->sum[i] = w->sum[i];
                for (uint32_t c = 0; c < w->v_chunks; c++, from += 2 * TILE_FLOATS) {
                        __m512 a = _mm512_load_ps(from), b = _mm512_load_ps(from + TILE_FLOATS);
                        uint32_t n = dim - c * CHUNK, mask = n >= CHUNK ? UINT32_MAX : (1u << n) - 1;

                        if (!w->apart) {
                                __m512 first = _mm512_permutex2var_ps(a, low, b);

                                b = _mm512_permutex2var_ps(a, high, b);
                                a = first;
                        }
                        _mm512_mask_storeu_ps(to + c * CHUNK, (__mmask16) mask, a);
                        _mm512_mask_storeu_ps(to + c * CHUNK + 16, (__mmask16) (mask >> 16), b);
                }
        }
}

/* Subnormal numbers count as zero, as they do in the matrix unit, which would take them for zero only where a
 * further block passes. */
uint32_t amx_attend_begin(void) {
        const uint32_t flush_to_zero = 0x8000, subnormals_are_zero = 0x40;
        uint32_t mode = _mm_getcsr();

        _mm_setcsr(mode | flush_to_zero | subnormals_are_zero);
        amx_begin(&config);
        return mode;
}

void amx_attend_end(uint32_t mode) {
        amx_end();
        _mm_setcsr(mode);
}
