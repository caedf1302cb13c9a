/* SPDX-License-Identifier: MIT */
/* Compiled once per instruction set (simd.h).
 *
 * Keys are visited page after page; a row looks at those of its own window, whoever else is in the job: its
 * bits depend on its own position only. Each page is brought to float32 once per job; pairs of a row and a head that
 * see the same of it share what is loaded. */
#include <math.h>

#include "base/util.h"
#include "float16.h"
#include "host.h"
#include "simd.h"
#include "tile.h"

enum { KEY_VECTORS = KV_PAGE_TOKENS / VF_LANES, PAIRS = 2 /* at a time */, GROUP = 16 };

/* In the job's scratch. k and v are the padded row lengths. */
struct work {
        const struct attention_job *job;
        uint32_t k, v, pairs;
        float *keys, *values; /* [KV_PAGE_TOKENS][k], [KV_PAGE_TOKENS][v] */
        float *queries, *out; /* [pairs][k], [pairs][v] */
        float *max, *sum;     /* [pairs] */
};

static uint32_t pad16(uint32_t n) {
        return (n + 15) & ~15U;
}

static void copy_padded(float *dst, const float *src, uint32_t n, uint32_t padded) {
        memcpy(dst, src, n * sizeof(*dst));
        memset(dst + n, 0, (padded - n) * sizeof(*dst));
}

static void work_init(struct work *w, const struct attention_job *job) {
        const struct op_attention *op = job->op;

        *w = (struct work){.job = job, .k = pad16(op->kv.k_dim), .v = pad16(op->kv.v_dim)};
        w->pairs = job->rows * job->heads;
        w->keys = job->scratch;
        w->values = w->keys + (size_t) KV_PAGE_TOKENS * w->k;
        w->queries = w->values + (size_t) KV_PAGE_TOKENS * w->v;
        w->out = w->queries + (size_t) w->pairs * w->k;
        w->max = w->out + (size_t) w->pairs * w->v;
        w->sum = w->max + w->pairs;
        for (uint32_t i = 0; i < w->pairs; i++) {
                size_t head = job->head + i % job->heads, row = job->first + i / job->heads;

                copy_padded(w->queries + (size_t) i * w->k,
                            (const float *) host_address(op->q) + (row * op->heads + head) * op->kv.k_dim,
                            op->kv.k_dim, w->k);
                memset(w->out + (size_t) i * w->v, 0, w->v * sizeof(float));
                w->max[i] = -INFINITY;
                w->sum[i] = 0.0f;
        }
}

/* A page begins anywhere in memory, where no hardware prefetcher foresees it. */
static void prefetch_row(const struct kv_layer *kv, struct device_ptr base, size_t slot, uint32_t dim) {
        size_t bytes = dim * (size_t) quant_info(kv->type)->block_bytes;
        const char *p = (const char *) host_address(base) + slot * bytes;

        for (size_t i = 0; i < bytes; i += 64)
                _mm_prefetch(p + i, _MM_HINT_T1);
}

ALWAYS_INLINE void load_halves(float *to, const uint16_t *from, uint32_t dim, uint32_t padded, vf load(const void *p)) {
        uint16_t rest[16] = {0};
        uint32_t i = 0;

        for (; i + VF_LANES <= dim; i += VF_LANES)
                vf_store(to + i, load(from + i));
        if (i < padded)
                memcpy(rest, from + i, (dim - i) * sizeof(*rest));
        for (uint32_t l = 0; i + l < padded; l += VF_LANES)
                vf_store(to + i + l, load(rest + l));
}

/* One of two rows whose numbers alternate. */
static void load_paired(float *to, const uint16_t *pair, unsigned odd, uint32_t dim, uint32_t padded) {
        for (uint32_t i = 0; i < dim; i++)
                to[i] = bf16_to_f32(pair[2 * i + odd]);
        memset(to + dim, 0, (padded - dim) * sizeof(*to));
}

/* The first `n` rows of a page, as float32 and padded with zeros. The page at `next` is asked for meanwhile.
 */
static void load_page(float *dst, const struct kv_layer *kv, struct device_ptr base, size_t slot, size_t next,
                      uint32_t stride, uint32_t dim, uint32_t padded, uint32_t n) {
        for (uint32_t j = 0; j < n; j++) {
                float *to = dst + (size_t) j * padded;
                size_t at = (slot + j) * stride;

                if (next != slot)
                        prefetch_row(kv, base, next + j, stride);
                if (kv->type == QUANT_F32)
                        copy_padded(to, (const float *) host_address(base) + at, dim, padded);
                else if (base.address == kv->v.address && kv_paired(kv))
                        load_paired(to, (const uint16_t *) host_address(base) + (slot + j) / 2 * 2 * stride,
                                    (slot + j) % 2, dim, padded);
                else if (kv->type == QUANT_BF16)
                        load_halves(to, (const uint16_t *) host_address(base) + at, dim, padded, vf_load_bf16);
                else
                        load_halves(to, (const uint16_t *) host_address(base) + at, dim, padded, vf_load_f16);
        }
}

/* q · key of N pairs for VF_LANES neighbouring keys. Half of these at a time: for two pairs as many sums as there are
 * registers. */
ALWAYS_INLINE void scores_of(vf scores[PAIRS], const float *const q[PAIRS], const float *keys, uint32_t k, int N) {
        enum { HALF = VF_LANES / 2 };
        vf sums[PAIRS][VF_LANES];

        for (int half = 0; half < 2; half++) {
                const float *key[HALF];
                vf acc[PAIRS][HALF];

                UNROLL for (int j = 0; j < HALF; j++) key[j] = keys + (size_t) (half * HALF + j) * k;
                UNROLL for (int n = 0; n < N; n++) UNROLL for (int j = 0; j < HALF; j++) acc[n][j] = vf_zero();
                for (size_t i = 0; i < k; i += VF_LANES)
                        UNROLL for (int j = 0; j < HALF; j++) {
                                vf x = vf_load(key[j] + i);

                                UNROLL for (int n = 0; n < N; n++) acc[n][j] = vf_fma(vf_load(q[n] + i), x, acc[n][j]);
                        }
                UNROLL for (int n = 0; n < N; n++) UNROLL for (int j = 0; j < HALF; j++) sums[n][half * HALF + j] =
                        acc[n][j];
        }
        UNROLL for (int n = 0; n < N; n++) scores[n] = vf_sums(sums[n]);
}

/* cap × tanh(s / cap); tanh z = 1 - 2 / (1 + e^2z) */
ALWAYS_INLINE vf capped(vf s, float cap) {
        vf e = vf_exp(s * vf_set(2.0f / cap));

        return vf_set(cap) * (vf_set(1.0f) - vf_set(2.0f) / (vf_set(1.0f) + e));
}

/* One or two pairs that see the same keys [first, last] of a page, counted from its first. */
struct seen {
        uint32_t pair, n, first, last;
};

/* Pairs that look at a page's keys, and then at its values: so that either stay in the first cache meanwhile. */
struct looks {
        struct seen seen[GROUP];
        uint32_t n;
        float p[GROUP][PAIRS][KV_PAGE_TOKENS], correction[GROUP][PAIRS];
};

/* Scores; -inf outside of the keys that are seen. */
ALWAYS_INLINE void page_scores(const struct work *w, const struct seen *s, float scores[PAIRS][KV_PAGE_TOKENS], int N) {
        const struct op_attention *op = w->job->op;
        const float *q[PAIRS];

        UNROLL for (int n = 0; n < N; n++) q[n] = w->queries + (size_t) (s->pair + (uint32_t) n) * w->k;
        for (uint32_t b = 0; b < KEY_VECTORS; b++) {
                vf v[PAIRS];

                UNROLL for (int n = 0; n < N; n++) v[n] = vf_set(-INFINITY);
                if (s->last >= b * VF_LANES && s->first < (b + 1) * VF_LANES)
                        scores_of(v, q, w->keys + (size_t) b * VF_LANES * w->k, w->k, N);
                UNROLL for (int n = 0; n < N; n++) {
                        v[n] = v[n] * vf_set(op->scale);
                        if (op->softcap > 0.0f)
                                v[n] = capped(v[n], op->softcap);
                        vf_store(scores[n] + b * VF_LANES, v[n]);
                }
        }
        UNROLL for (int n = 0; n < N; n++) {
                for (uint32_t j = 0; j < s->first; j++)
                        scores[n][j] = -INFINITY;
                for (uint32_t j = s->last + 1; j < KV_PAGE_TOKENS; j++)
                        scores[n][j] = -INFINITY;
        }
}

/* Scores become weights. Returns by what the sums so far are to be corrected. */
static float weigh(struct work *w, uint32_t pair, float p[KV_PAGE_TOKENS]) {
        float max = w->max[pair], correction;
        vf sum = vf_zero();

        for (uint32_t b = 0; b < KEY_VECTORS; b++)
                max = fmaxf(max, vf_largest(vf_load(p + b * VF_LANES)));
        for (uint32_t b = 0; b < KEY_VECTORS; b++) {
                vf e = vf_exp(vf_load(p + b * VF_LANES) - vf_set(max));

                vf_store(p + b * VF_LANES, e);
                sum = sum + e;
        }
        correction = expf(w->max[pair] - max);
        w->sum[pair] = w->sum[pair] * correction + vf_sum(sum);
        w->max[pair] = max;
        return correction;
}

/* out[c] = out[c] × correction + Σ p[j] values[j][c], of C vectors from column i on. */
ALWAYS_INLINE void add_values(const struct work *w, const struct seen *s, uint32_t i, const float correction[PAIRS],
                              const float p[PAIRS][KV_PAGE_TOKENS], int C, int N) {
        float *out = w->out + (size_t) s->pair * w->v + i;
        vf acc[PAIRS][4];

        UNROLL for (int n = 0; n < N; n++) UNROLL for (int c = 0; c < C; c++) acc[n][c] =
                vf_load(out + (size_t) n * w->v + c * VF_LANES) * vf_set(correction[n]);
        for (uint32_t j = s->first; j <= s->last; j++) {
                const float *value = w->values + (size_t) j * w->v + i;

                UNROLL for (int c = 0; c < C; c++) {
                        vf v = vf_load(value + c * VF_LANES);

                        UNROLL for (int n = 0; n < N; n++) acc[n][c] = vf_fma(vf_set(p[n][j]), v, acc[n][c]);
                }
        }
        UNROLL for (int n = 0; n < N; n++) UNROLL for (int c = 0; c < C; c++)
                vf_store(out + (size_t) n * w->v + c * VF_LANES, acc[n][c]);
}

ALWAYS_INLINE void page_values(const struct work *w, const struct seen *s, const float correction[PAIRS],
                               const float p[PAIRS][KV_PAGE_TOKENS], int N) {
        uint32_t i = 0;

        for (; i + 4 * VF_LANES <= w->v; i += 4 * VF_LANES)
                add_values(w, s, i, correction, p, 4, N);
        for (; i < w->v; i += VF_LANES)
                add_values(w, s, i, correction, p, 1, N);
}

/* Each pair is computed as if it were alone. */
static void look(struct work *w, struct looks *l) {
        for (uint32_t i = 0; i < l->n; i++)
                if (l->seen[i].n == 2)
                        page_scores(w, &l->seen[i], l->p[i], 2);
                else
                        page_scores(w, &l->seen[i], l->p[i], 1);
        for (uint32_t i = 0; i < l->n; i++)
                for (uint32_t n = 0; n < l->seen[i].n; n++)
                        l->correction[i][n] = weigh(w, l->seen[i].pair + n, l->p[i][n]);
        for (uint32_t i = 0; i < l->n; i++)
                if (l->seen[i].n == 2)
                        page_values(w, &l->seen[i], l->correction[i], l->p[i], 2);
                else
                        page_values(w, &l->seen[i], l->correction[i], l->p[i], 1);
        l->n = 0;
}

/* What a pair sees of a page: n is 0 or 1. */
static struct seen seen_of(const struct work *w, const int32_t *positions, uint32_t page, uint32_t pair) {
        uint32_t base = page * KV_PAGE_TOKENS;
        uint32_t position = (uint32_t) positions[w->job->first + pair / w->job->heads];
        uint32_t first = attention_first(w->job->op, position);

        if (position < base || first > base + KV_PAGE_TOKENS - 1)
                return (struct seen) {.pair = pair};
        return (struct seen) {pair, 1, MAX(first, base) - base, MIN(position - base, KV_PAGE_TOKENS - 1U)};
}

/* As the second beside the pair before it. */
static bool join_pair(struct looks *l, const struct seen *s) {
        struct seen *last = l->n > 0 ? &l->seen[l->n - 1] : NULL;

        if (!last || last->n == 2 || last->pair + 1 != s->pair || last->first != s->first || last->last != s->last)
                return false;
        last->n = 2;
        return true;
}

static void visit_page(struct work *w, const int32_t *positions, uint32_t page, size_t slot, size_t next,
                       uint32_t last_key) {
        const struct op_attention *op = w->job->op;
        uint32_t last_used = MIN(last_key - page * KV_PAGE_TOKENS, KV_PAGE_TOKENS - 1U);
        struct looks looks;

        looks.n = 0;
        load_page(w->keys, &op->kv, op->kv.k, slot, next, op->kv.k_dim, op->kv.k_dim, w->k, last_used + 1);
        load_page(w->values, &op->kv, kv_values(&op->kv), slot, next, kv_value_stride(&op->kv), op->kv.v_dim, w->v,
                  last_used + 1);
        for (uint32_t pair = 0; pair < w->pairs; pair++) {
                struct seen s = seen_of(w, positions, page, pair);

                if (s.n == 0 || join_pair(&looks, &s))
                        continue;
                if (looks.n == GROUP)
                        look(w, &looks);
                looks.seen[looks.n++] = s;
        }
        look(w, &looks);
}

static size_t page_slot(const struct op_attention *op, int32_t page, uint32_t kv_head) {
        return ((size_t) page * op->kv.kv_heads + kv_head) * KV_PAGE_TOKENS;
}

static void store_pairs(const struct work *w) {
        const struct attention_part *part = &w->job->part;
        uint32_t dim = w->job->op->kv.v_dim;

        memcpy(part->max, w->max, w->pairs * sizeof(float));
        memcpy(part->sum, w->sum, w->pairs * sizeof(float));
        for (uint32_t i = 0; i < w->pairs; i++)
                memcpy(part->out + (size_t) i * dim, w->out + (size_t) i * w->v, dim * sizeof(float));
}

void SIMD_NAME(attention)(const struct attention_job *job) {
        const struct op_attention *op = job->op;
        const int32_t *positions = host_address(op->rows.positions);
        const int32_t *pages = (const int32_t *) host_address(op->rows.page_table) +
                               (size_t) ((const int32_t *) host_address(op->rows.sequences))[job->first] *
                                       op->rows.page_table_stride;
        uint32_t first = MAX(attention_first(op, positions[job->first]), job->begin);
        uint32_t last = MIN((uint32_t) positions[job->first + job->rows - 1], job->end - 1);
        uint32_t kv_head = job->head / (op->heads / op->kv.kv_heads);
        struct work w;

        work_init(&w, job);
        for (uint32_t page = first / KV_PAGE_TOKENS; page <= last / KV_PAGE_TOKENS; page++) {
                size_t slot = page_slot(op, pages[page], kv_head);
                size_t next = page < last / KV_PAGE_TOKENS ? page_slot(op, pages[page + 1], kv_head) : slot;

                visit_page(&w, positions, page, slot, next, last);
        }
        store_pairs(&w);
}

void SIMD_NAME(blend)(float *y, float a, const float *x, float b, uint32_t n) {
        uint32_t i = 0;

        for (; i + VF_LANES <= n; i += VF_LANES)
                vf_store(y + i, vf_fma(vf_set(a), vf_load(y + i), vf_set(b) * vf_load(x + i)));
        for (; i < n; i++)
                y[i] = fmaf(a, y[i], b * x[i]);
}
