/* SPDX-License-Identifier: MIT */
/* Compiled once per instruction set (simd.h).
 *
 * Keys are visited page after page; a row looks at those of its own window, whoever else is in the job: its
 * bits depend on its own position only. Each page is brought to float32 once per job, its keys side by side. Pairs of a
 * row and a head that see the same of it share what is loaded; and a block of keys or values stays in the first cache
 * until all pairs have been multiplied with it. */
#include <math.h>

#include "base/util.h"
#include "float16.h"
#include "host.h"
#include "simd.h"
#include "tile.h"

enum {
        KEY_VECTORS = KV_PAGE_TOKENS / VF_LANES,
        /* Pairs and vectors of values at a time: so many sums hide how long each takes, and fit into the registers. */
        PAIRS = VF_LANES == 16 ? 4 : 3,
        VECTORS = 4,
        LOOKS = 8,
        KEY_COLS = 64, /* of a block of keys */
        APART = 16,    /* floats between rows of values, so that they do not meet in the first cache */
};

/* What will be read next. */
struct ahead {
        const char *at, *end;
};

/* In the job's scratch. k and v are the padded row lengths. */
struct work {
        const struct attention_job *job;
        uint32_t k, v, pairs;
        float *keys, *values; /* [k][KV_PAGE_TOKENS], [KV_PAGE_TOKENS][v + APART] */
        float *queries, *out; /* [pairs][k], [pairs][v] */
        float *max, *sum;     /* [pairs] */
        struct ahead ahead[2]; /* the next page's keys and values */
        uint32_t pace, due;    /* lines of either for a cycle or so of work, and for what has been done: in 1/1024 */
};

static uint32_t pad16(uint32_t n) {
        return (n + 15) & ~15U;
}

static void work_init(struct work *w, const struct attention_job *job) {
        const struct op_attention *op = job->op;

        *w = (struct work){.job = job, .k = pad16(op->kv.k_dim), .v = pad16(op->kv.v_dim)};
        w->pairs = job->rows * job->heads;
        w->keys = job->scratch;
        w->values = w->keys + (size_t) KV_PAGE_TOKENS * w->k;
        w->queries = w->values + (size_t) KV_PAGE_TOKENS * (w->v + APART);
        w->out = w->queries + (size_t) w->pairs * w->k;
        w->max = w->out + (size_t) w->pairs * w->v;
        w->sum = w->max + w->pairs;
        for (uint32_t i = 0; i < w->pairs; i++) {
                size_t head = job->head + i % job->heads, row = job->first + i / job->heads;
                const float *q = (const float *) host_address(op->q) + (row * op->heads + head) * op->kv.k_dim;
                float *to = w->queries + (size_t) i * w->k;

                memcpy(to, q, op->kv.k_dim * sizeof(*to));
                memset(to + op->kv.k_dim, 0, (w->k - op->kv.k_dim) * sizeof(*to));
                memset(w->out + (size_t) i * w->v, 0, w->v * sizeof(float));
                w->max[i] = -INFINITY;
                w->sum[i] = 0.0f;
        }
}

/* A page of a kv head. */
static const uint8_t *page_at(const struct kv_layer *kv, struct device_ptr base, size_t slot, uint32_t stride) {
        return (const uint8_t *) host_address(base) + slot * stride * quant_info(kv->type)->block_bytes;
}

static struct ahead page_ahead(const struct kv_layer *kv, struct device_ptr base, size_t slot, uint32_t stride) {
        const char *at = (const char *) page_at(kv, base, slot, stride);

        return (struct ahead) {at, at + (size_t) KV_PAGE_TOKENS * stride * quant_info(kv->type)->block_bytes};
}

/* Cycles, more or less, of n × C products with each of N rows: alone a row waits for its sums. */
ALWAYS_INLINE uint32_t products_work(uint32_t n, uint32_t C, uint32_t N) {
        return n * C * (N + 1) / 2;
}

/* A page begins anywhere in memory, where no hardware prefetcher foresees it: it is asked for while the one before is
 * worked on, evenly, for while more is on the way than the processor can keep track of, nothing is computed. */
static void plan_ahead(struct work *w, size_t slot) {
        const struct kv_layer *kv = &w->job->op->kv;
        const uint32_t k = w->k / VF_LANES, v = w->v / VF_LANES, n = MIN(w->pairs, (uint32_t) PAIRS);
        const uint32_t products = products_work(KV_PAGE_TOKENS, k + v, n) * DIV_ROUND_UP(w->pairs, n);
        size_t bytes;

        w->ahead[0] = page_ahead(kv, kv->k, slot, kv->k_dim);
        w->ahead[1] = page_ahead(kv, kv_values(kv), slot, kv_value_stride(kv));
        if (w->ahead[1].at == w->ahead[0].at)
                w->ahead[1].at = w->ahead[1].end;
        bytes = (size_t) MAX(w->ahead[0].end - w->ahead[0].at, w->ahead[1].end - w->ahead[1].at);
        w->pace = (uint32_t) (bytes / 64 * 1024 / (KV_PAGE_TOKENS * (2 * k + v) + products)) + 1;
        w->due = 0;
}

/* What is due after so many cycles. */
static void fetch_ahead(struct work *w, uint32_t cycles) {
        for (w->due += cycles * w->pace; w->due >= 1024; w->due -= 1024)
                for (unsigned i = 0; i < ELEMENTS(w->ahead); i++) {
                        struct ahead *a = &w->ahead[i];

                        if (a->at < a->end) {
                                _mm_prefetch(a->at, _MM_HINT_T1);
                                a->at += 64;
                        }
                }
}

/* Columns from i on of a row that has `dim` of them, `size` bytes each; `whole`: as many as there are lanes. */
ALWAYS_INLINE vf load_cols(const uint8_t *row, uint32_t i, uint32_t dim, bool whole, size_t size,
                           vf load(const void *p)) {
        if (whole)
                return load(row + i * size);
        return i < dim ? vf_load_rest(load, row + i * size, (dim - i) * size) : vf_zero();
}

/* VF_LANES keys, side by side from `to` on. */
ALWAYS_INLINE void place_cols(float *to, const uint8_t *const key[VF_LANES], uint32_t i, uint32_t dim, bool whole,
                              size_t size, vf load(const void *p)) {
        vf v[VF_LANES];

        UNROLL for (int l = 0; l < VF_LANES; l++) v[l] = load_cols(key[l], i, dim, whole, size, load);
        vf_transpose(v);
        UNROLL for (int l = 0; l < VF_LANES; l++) vf_store(to + (size_t) (i + (uint32_t) l) * KV_PAGE_TOKENS, v[l]);
}

/* The first `n` keys of a page. As many are like the last one as whole vectors lack. */
ALWAYS_INLINE void place_keys(struct work *w, const uint8_t *page, uint32_t n, size_t size, vf load(const void *p)) {
        const uint32_t dim = w->job->op->kv.k_dim;

        for (uint32_t first = 0; first < n; first += VF_LANES) {
                const uint8_t *key[VF_LANES];
                uint32_t i = 0;

                UNROLL for (uint32_t l = 0; l < VF_LANES; l++) key[l] = page + MIN(first + l, n - 1) * dim * size;
                for (; i + VF_LANES <= dim; i += VF_LANES) {
                        fetch_ahead(w, 2 * VF_LANES);
                        place_cols(w->keys + first, key, i, dim, true, size, load);
                }
                for (; i < w->k; i += VF_LANES)
                        place_cols(w->keys + first, key, i, dim, false, size, load);
        }
}

static void load_keys(struct work *w, size_t slot, uint32_t n) {
        const struct kv_layer *kv = &w->job->op->kv;
        const uint8_t *page = page_at(kv, kv->k, slot, kv->k_dim);

        if (kv->type == QUANT_F32)
                place_keys(w, page, n, 4, vf_load);
        else if (kv->type == QUANT_BF16)
                place_keys(w, page, n, 2, vf_load_bf16);
        else
                place_keys(w, page, n, 2, vf_load_f16);
}

ALWAYS_INLINE void load_row(float *to, const uint8_t *row, uint32_t dim, uint32_t padded, size_t size,
                            vf load(const void *p)) {
        uint32_t i = 0;

        for (; i + 4 * VF_LANES <= dim; i += 4 * VF_LANES)
                UNROLL for (uint32_t l = 0; l < 4 * VF_LANES; l += VF_LANES)
                        vf_store(to + i + l, load_cols(row, i + l, dim, true, size, load));
        for (; i + VF_LANES <= dim; i += VF_LANES)
                vf_store(to + i, load_cols(row, i, dim, true, size, load));
        for (; i < padded; i += VF_LANES)
                vf_store(to + i, load_cols(row, i, dim, false, size, load));
}

/* One of two rows whose numbers alternate. */
static void load_paired(float *to, const uint16_t *pair, unsigned odd, uint32_t dim, uint32_t padded) {
        for (uint32_t i = 0; i < dim; i++)
                to[i] = bf16_to_f32(pair[2 * i + odd]);
        memset(to + dim, 0, (padded - dim) * sizeof(*to));
}

/* The first `n` values of a page. */
static void load_values(struct work *w, size_t slot, uint32_t n) {
        const struct kv_layer *kv = &w->job->op->kv;
        const uint32_t stride = kv_value_stride(kv), dim = kv->v_dim;
        const uint8_t *page = page_at(kv, kv_values(kv), slot, stride);

        for (uint32_t j = 0; j < n; j++) {
                float *to = w->values + (size_t) j * (w->v + APART);

                fetch_ahead(w, w->v / VF_LANES);
                if (kv->type == QUANT_F32)
                        load_row(to, page + (size_t) j * stride * 4, dim, w->v, 4, vf_load);
                else if (kv_values(kv).address == kv->v.address && kv_paired(kv))
                        load_paired(to, (const uint16_t *) page + (size_t) j / 2 * 2 * stride, j % 2, dim, w->v);
                else if (kv->type == QUANT_BF16)
                        load_row(to, page + (size_t) j * stride * 2, dim, w->v, 2, vf_load_bf16);
                else
                        load_row(to, page + (size_t) j * stride * 2, dim, w->v, 2, vf_load_f16);
        }
}

/* Of N rows y and a: y[c] += Σ_i a[i] b[i][c] for C vectors, i rising from 0 to n - 1. */
struct products {
        float *y;
        const float *a, *b;
        size_t y_stride, a_stride, b_stride;
        uint32_t n;
};

ALWAYS_INLINE void add_products(const struct products *p, int C, int N) {
        vf acc[PAIRS][VECTORS];

        UNROLL for (int n = 0; n < N; n++) UNROLL for (int c = 0; c < C; c++) acc[n][c] =
                vf_load(p->y + (size_t) n * p->y_stride + c * VF_LANES);
        for (uint32_t i = 0; i < p->n; i++) {
                vf b[VECTORS];

                UNROLL for (int c = 0; c < C; c++) b[c] = vf_load(p->b + i * p->b_stride + c * VF_LANES);
                UNROLL for (int n = 0; n < N; n++) {
                        vf a = vf_set(p->a[(size_t) n * p->a_stride + i]);

                        UNROLL for (int c = 0; c < C; c++) acc[n][c] = vf_fma(a, b[c], acc[n][c]);
                }
        }
        UNROLL for (int n = 0; n < N; n++) UNROLL for (int c = 0; c < C; c++)
                vf_store(p->y + (size_t) n * p->y_stride + c * VF_LANES, acc[n][c]);
}

ALWAYS_INLINE void add_products_of(const struct products *p, int C, uint32_t n) {
        switch (n) {
        case 1:
                add_products(p, C, 1);
                break;
        case 2:
                add_products(p, C, 2);
                break;
        case 3:
                add_products(p, C, 3);
                break;
        default:
                add_products(p, C, PAIRS);
        }
}

/* cap × tanh(s / cap); tanh z = 1 - 2 / (1 + e^2z) */
ALWAYS_INLINE vf capped(vf s, float cap) {
        vf e = vf_exp(s * vf_set(2.0f / cap));

        return vf_set(cap) * (vf_set(1.0f) - vf_set(2.0f) / (vf_set(1.0f) + e));
}

/* Neighbouring pairs that see the same keys [first, last] of a page, counted from its first. */
struct seen {
        uint32_t pair, n, first, last;
};

/* Pairs that look at a page's keys, and then at its values. */
struct looks {
        struct seen seen[LOOKS];
        uint32_t n;
        _Alignas(64) float p[LOOKS][PAIRS][KV_PAGE_TOKENS];
};

/* q · key for all keys of the page */
static void multiply_keys(struct work *w, struct looks *l) {
        memset(l->p, 0, l->n * sizeof(l->p[0]));
        for (uint32_t i = 0; i < w->k; i += KEY_COLS)
                for (uint32_t s = 0; s < l->n; s++) {
                        const struct products p = {
                                .y = l->p[s][0],
                                .a = w->queries + (size_t) l->seen[s].pair * w->k + i,
                                .b = w->keys + (size_t) i * KV_PAGE_TOKENS,
                                .y_stride = KV_PAGE_TOKENS,
                                .a_stride = w->k,
                                .b_stride = KV_PAGE_TOKENS,
                                .n = MIN(w->k - i, (uint32_t) KEY_COLS),
                        };

                        fetch_ahead(w, products_work(p.n, KEY_VECTORS, l->seen[s].n));
                        add_products_of(&p, KEY_VECTORS, l->seen[s].n);
                }
}

/* -inf outside of the keys that are seen */
static void hide_unseen(const struct seen *s, vf scores[KEY_VECTORS]) {
        float p[KV_PAGE_TOKENS];

        UNROLL for (uint32_t b = 0; b < KEY_VECTORS; b++) vf_store(p + b * VF_LANES, scores[b]);
        for (uint32_t j = 0; j < s->first; j++)
                p[j] = -INFINITY;
        for (uint32_t j = s->last + 1; j < KV_PAGE_TOKENS; j++)
                p[j] = -INFINITY;
        UNROLL for (uint32_t b = 0; b < KEY_VECTORS; b++) scores[b] = vf_load(p + b * VF_LANES);
}

/* The sums so far, corrected for a larger maximum. */
static void raise_max(struct work *w, uint32_t pair, float max) {
        float *out = w->out + (size_t) pair * w->v, correction = expf(w->max[pair] - max);

        w->max[pair] = max;
        w->sum[pair] *= correction;
        for (uint32_t i = 0; i < w->v; i += VF_LANES)
                vf_store(out + i, vf_load(out + i) * vf_set(correction));
}

/* A pair's products with the keys become scores, and these weights. */
static void weigh(struct work *w, const struct seen *s, uint32_t pair, float p[KV_PAGE_TOKENS]) {
        const struct op_attention *op = w->job->op;
        vf v[KEY_VECTORS], all;
        float max;

        UNROLL for (uint32_t b = 0; b < KEY_VECTORS; b++) {
                v[b] = vf_load(p + b * VF_LANES) * vf_set(op->scale);
                if (op->softcap > 0.0f)
                        v[b] = capped(v[b], op->softcap);
        }
        if (s->first > 0 || s->last < KV_PAGE_TOKENS - 1)
                hide_unseen(s, v);
        all = v[0];
        UNROLL for (uint32_t b = 1; b < KEY_VECTORS; b++) all = vf_max(all, v[b]);
        max = vf_largest(all);
        if (max > w->max[pair])
                raise_max(w, pair, max);
        all = vf_zero();
        UNROLL for (uint32_t b = 0; b < KEY_VECTORS; b++) {
                v[b] = vf_exp(v[b] - vf_set(w->max[pair]));
                vf_store(p + b * VF_LANES, v[b]);
                all = all + v[b];
        }
        w->sum[pair] += vf_sum(all);
}

/* Of C vectors from column i on. */
ALWAYS_INLINE void multiply_values(struct work *w, const struct looks *l, uint32_t i, int C) {
        for (uint32_t s = 0; s < l->n; s++) {
                const struct seen *seen = &l->seen[s];
                const struct products p = {
                        .y = w->out + (size_t) seen->pair * w->v + i,
                        .a = l->p[s][0] + seen->first,
                        .b = w->values + (size_t) seen->first * (w->v + APART) + i,
                        .y_stride = w->v,
                        .a_stride = KV_PAGE_TOKENS,
                        .b_stride = w->v + APART,
                        .n = seen->last - seen->first + 1,
                };

                fetch_ahead(w, products_work(p.n, (uint32_t) C, seen->n));
                add_products_of(&p, C, seen->n);
        }
}

/* Each pair is computed as if it were alone. */
static void look(struct work *w, struct looks *l) {
        uint32_t i = 0;

        multiply_keys(w, l);
        for (uint32_t s = 0; s < l->n; s++)
                for (uint32_t n = 0; n < l->seen[s].n; n++)
                        weigh(w, &l->seen[s], l->seen[s].pair + n, l->p[s][n]);
        for (; i + VECTORS * VF_LANES <= w->v; i += VECTORS * VF_LANES)
                multiply_values(w, l, i, VECTORS);
        for (; i < w->v; i += VF_LANES)
                multiply_values(w, l, i, 1);
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

/* Beside the pairs before it. */
static bool join_pair(struct looks *l, const struct seen *s) {
        struct seen *last = l->n > 0 ? &l->seen[l->n - 1] : NULL;

        if (!last || last->n == PAIRS || last->pair + last->n != s->pair || last->first != s->first ||
            last->last != s->last)
                return false;
        last->n++;
        return true;
}

static void visit_page(struct work *w, const int32_t *positions, uint32_t page, size_t slot, size_t next,
                       uint32_t last_key) {
        uint32_t last_used = MIN(last_key - page * KV_PAGE_TOKENS, KV_PAGE_TOKENS - 1U);
        struct looks looks;

        looks.n = 0;
        if (next != slot)
                plan_ahead(w, next);
        load_keys(w, slot, last_used + 1);
        load_values(w, slot, last_used + 1);
        for (uint32_t pair = 0; pair < w->pairs; pair++) {
                struct seen s = seen_of(w, positions, page, pair);

                if (s.n == 0 || join_pair(&looks, &s))
                        continue;
                if (looks.n == LOOKS)
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
