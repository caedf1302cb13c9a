/* SPDX-License-Identifier: MIT */
/* Compiled once per instruction set (simd.h): the router's scores, and the choice of the best by a tree of
 * two levels. */
#include <math.h>

#include "base/util.h"
#include "host.h"
#include "simd.h"
#include "tile.h"

enum {
        ROOM = ROUTE_EXPERTS_MAX + VF_LANES,
        OUT = INT32_MIN, /* the order of what may not be chosen: no score has it */
};

/* The best of up to ROUTE_EXPERTS_MAX, one after the other. */
struct tree {
        uint32_t n;
        int32_t order[ROOM];                         /* vf_order() of what each is chosen by */
        int32_t largest[ROOM / VF_LANES + VF_LANES]; /* of each VF_LANES of them */
};

/* `order` is there for n of them. */
static void tree_init(struct tree *t, uint32_t n) {
        uint32_t leaves = DIV_ROUND_UP(n, (uint32_t) VF_LANES);

        t->n = n;
        for (uint32_t i = n; i < leaves * VF_LANES; i++)
                t->order[i] = OUT;
        for (uint32_t i = 0; i < leaves; i++)
                t->largest[i] = vi_largest(vi_load(t->order + i * VF_LANES));
        vi_store(t->largest + leaves, vi_set(OUT));
}

/* Takes out the best, the lowest number among equals; n when all are out. */
static uint32_t tree_take(struct tree *t) {
        uint32_t leaves = DIV_ROUND_UP(t->n, (uint32_t) VF_LANES), leaf = 0, at, equal;
        vi largest = vi_load(t->largest);
        int32_t best;

        for (uint32_t i = VF_LANES; i < leaves; i += VF_LANES)
                largest = vi_max(largest, vi_load(t->largest + i));
        best = vi_largest(largest);
        if (best == OUT)
                return t->n;
        while (!(equal = vi_equal(vi_load(t->largest + leaf), best)))
                leaf += VF_LANES;
        leaf += (uint32_t) __builtin_ctz(equal);
        at = leaf * VF_LANES + (uint32_t) __builtin_ctz(vi_equal(vi_load(t->order + leaf * VF_LANES), best));
        t->order[at] = OUT;
        t->largest[leaf] = vi_largest(vi_load(t->order + leaf * VF_LANES));
        return at;
}

/* Softmax over the finite ones, in place; the others get 0. Rows end in a whole vector, where -inf is past
 * the last. */
static void softmax(float *x, uint32_t n) {
        vf max = vf_set(-INFINITY), sums = vf_zero();
        float sum;

        for (uint32_t i = 0; i < n; i += VF_LANES) {
                vf v = vf_load(x + i);

                max = vf_max(vf_where_finite(v, v, vf_set(-INFINITY)), max);
        }
        max = vf_set(vf_largest(max));
        for (uint32_t i = 0; i < n; i += VF_LANES) {
                vf v = vf_load(x + i), e = vf_where_finite(v, vf_exp(v - max), vf_zero());

                vf_store(x + i, e);
                sums = sums + e;
        }
        sum = vf_sum(sums);
        for (uint32_t i = 0; i < n && sum > 0.0f; i += VF_LANES)
                vf_store(x + i, vf_load(x + i) / vf_set(sum));
}

/* ln(1 + e^x) = max(x, 0) + ln(1 + t), t = e^-|x|. ln(1 + t) = 2 artanh(s) with s = t / (2 + t) ≤ 1/3, by its
 * series to s^15: the rest is below 1e-9 of it. */
ALWAYS_INLINE vf softplus(vf x) {
        vf t = vf_exp(vf_zero() - vf_abs(x)), s = t / (t + vf_set(2.0f)), z = s * s, p = vf_set(1.0f / 15.0f);

        p = vf_fma(p, z, vf_set(1.0f / 13.0f));
        p = vf_fma(p, z, vf_set(1.0f / 11.0f));
        p = vf_fma(p, z, vf_set(1.0f / 9.0f));
        p = vf_fma(p, z, vf_set(1.0f / 7.0f));
        p = vf_fma(p, z, vf_set(1.0f / 5.0f));
        p = vf_fma(p, z, vf_set(1.0f / 3.0f));
        p = vf_fma(p, z, vf_set(1.0f));
        return vf_fma(p, s + s, vf_max(x, vf_zero()));
}

/* One row's choice. The arrays end in a whole vector. */
struct choice {
        float scores[ROOM], keys[ROOM]; /* what an expert weighs, what it is chosen by */
        struct tree experts, groups;
};

static void choice_score(struct choice *c, const struct op_route *op, const float *logits) {
        for (uint32_t i = 0; i < op->experts; i += VF_LANES) {
                vf x = vf_load_part(logits + i, MIN(op->experts - i, (uint32_t) VF_LANES), vf_set(-INFINITY));

                if (op->gate == ROUTE_SIGMOID)
                        x = vf_set(1.0f) / (vf_set(1.0f) + vf_exp(vf_zero() - x));
                else if (op->gate == ROUTE_SQRT_SOFTPLUS)
                        x = vf_sqrt(softplus(x));
                vf_store(c->scores + i, x);
        }
        if (op->gate == ROUTE_SOFTMAX)
                softmax(c->scores, op->experts);
}

static void choice_key(struct choice *c, const struct op_route *op, const float *logits) {
        const float *bias = host_address(op->bias);
        vf low = vf_set(-INFINITY), unusable = op->gate == ROUTE_SOFTMAX_CHOSEN ? low : vf_zero();

        for (uint32_t i = 0; i < op->experts; i += VF_LANES) {
                uint32_t n = MIN(op->experts - i, (uint32_t) VF_LANES);
                vf x = vf_load_part(logits + i, n, low), score = vf_load(c->scores + i);
                vf key = route_by_logits(op) ? x : score;

                if (bias)
                        key = key + vf_load_part(bias + i, n, vf_zero());
                key = vf_where_finite(x, vf_where_finite(key, key, low), low);
                vf_store(c->keys + i, key);
                vi_store(c->experts.order + i, vf_order(key));
                vf_store(c->scores + i, vf_where_finite(key, score, unusable));
        }
}

static float group_score(const struct op_route *op, const float *keys, uint32_t n) {
        vf low = vf_set(-INFINITY), first = low, second = low; /* of each lane */
        float best;

        for (uint32_t i = 0; i < n; i += VF_LANES) {
                vf v = vf_load_part(keys + i, MIN(n - i, (uint32_t) VF_LANES), low);

                second = vf_max(second, vf_min(first, v));
                first = vf_max(first, v);
        }
        best = vf_largest(first);
        if (op->gate != ROUTE_SIGMOID || n < 2)
                return best;
        return best + vf_largest(vf_replace_one(first, best, second));
}

/* Takes out the experts of all but the best groups (arXiv 2405.04434, 2412.19437). */
static void choice_limit_groups(struct choice *c, const struct op_route *op) {
        uint32_t size = op->experts / op->groups;

        for (uint32_t g = 0; g < op->groups; g++)
                vi_store(c->groups.order + g, vf_order(vf_set(group_score(op, c->keys + g * size, size))));
        tree_init(&c->groups, op->groups);
        for (uint32_t i = 0; i < op->groups_used; i++)
                tree_take(&c->groups);
        for (uint32_t g = 0; g < op->groups; g++)
                for (uint32_t e = g * size; c->groups.order[g] != OUT && e < (g + 1) * size; e++)
                        c->experts.order[e] = OUT;
}

/* Leaves only the experts that the table has for this row's token. */
static void choice_limit_table(struct choice *c, const struct op_route *op, uint32_t t) {
        int32_t id = ((const int32_t *) host_address(op->token_ids))[t];
        const int32_t *row = (const int32_t *) host_address(op->table) + (size_t) id * op->k;
        bool listed[ROUTE_EXPERTS_MAX] = {false};

        for (uint32_t j = 0; id >= 0 && (uint32_t) id < op->table_rows && j < op->k; j++)
                if (row[j] >= 0 && (uint32_t) row[j] < op->experts)
                        listed[row[j]] = true;
        for (uint32_t e = 0; e < op->experts; e++)
                if (!listed[e])
                        c->experts.order[e] = OUT;
}

/* The row's experts and what they weigh before they are normalised; returns how many. */
static uint32_t choice_take(struct choice *c, const struct op_route *op, int32_t *ids, float *weights,
                            uint32_t count) {
        for (uint32_t j = 0; j < count; j++) {
                uint32_t e = tree_take(&c->experts);

                if (e == op->experts)
                        return j;
                ids[j] = (int32_t) e;
                weights[j] = c->scores[e];
        }
        return count;
}

static void route_row(const struct op_route *op, struct choice *c, uint32_t t) {
        int32_t *ids = (int32_t *) host_address(op->ids) + (size_t) t * op->k;
        float *weights = (float *) host_address(op->weights) + (size_t) t * op->k;
        float *chosen = c->keys, sum = 0.0f, factor = op->scale; /* the keys have served */
        uint32_t *used = host_address(op->used), count;

        count = choice_take(c, op, ids, chosen, route_cap(op, t));
        if (op->gate == ROUTE_SOFTMAX_CHOSEN) {
                vf_store(chosen + count, vf_set(-INFINITY));
                softmax(chosen, count);
        }
        for (uint32_t j = 0; j < count; j++)
                sum += chosen[j];
        if (op->normalize && sum > 0.0f)
                factor /= sum;
        for (uint32_t j = 0; j < op->k; j++) {
                ids[j] = j < count ? ids[j] : -1;
                weights[j] = j < count ? chosen[j] * factor : 0.0f;
        }
        ((int32_t *) host_address(op->counts))[t] = (int32_t) count;
        if (used && !route_is_settled(op))
                used[t] += count;
}

void SIMD_NAME(route)(const struct op_route *op, const bool *full, uint32_t begin, uint32_t end) {
        struct choice c;

        for (uint32_t t = begin; t < end; t++) {
                const float *logits = (const float *) host_address(op->logits) + (size_t) t * op->experts;

                choice_score(&c, op, logits);
                choice_key(&c, op, logits);
                if (op->table.address)
                        choice_limit_table(&c, op, t);
                else if (op->groups > 0)
                        choice_limit_groups(&c, op);
                for (uint32_t e = 0; e < op->experts && full; e++)
                        if (full[e])
                                c.experts.order[e] = OUT;
                tree_init(&c.experts, op->experts);
                route_row(op, &c, t);
        }
}
