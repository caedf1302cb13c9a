/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <string.h>

#include "base/util.h"
#include "host.h"
#include "ref.h"

/* One row's choice: what an expert weighs, what it is chosen by, and which may no longer be chosen. */
struct choice {
        float scores[ROUTE_EXPERTS_MAX], keys[ROUTE_EXPERTS_MAX];
        bool out[ROUTE_EXPERTS_MAX];
};

static float softplus(float x) {
        return x > 20.0f ? x : log1pf(expf(x));
}

/* Softmax over the finite ones, in place; the others get 0. */
static void softmax(float *scores, uint32_t n) {
        float max = -INFINITY, sum = 0.0f;

        for (uint32_t e = 0; e < n; e++)
                if (isfinite(scores[e]))
                        max = fmaxf(max, scores[e]);
        for (uint32_t e = 0; e < n; e++) {
                scores[e] = isfinite(scores[e]) ? expf(scores[e] - max) : 0.0f;
                sum += scores[e];
        }
        for (uint32_t e = 0; e < n && sum > 0.0f; e++)
                scores[e] /= sum;
}

static void choice_init(struct choice *c, const struct op_route *op, const float *logits) {
        const float *bias = host_address(op->bias);

        memcpy(c->scores, logits, op->experts * sizeof(*logits));
        memset(c->out, 0, op->experts * sizeof(*c->out));
        if (op->gate == ROUTE_SOFTMAX)
                softmax(c->scores, op->experts);
        for (uint32_t e = 0; e < op->experts; e++) {
                if (op->gate == ROUTE_SIGMOID)
                        c->scores[e] = 1.0f / (1.0f + expf(-logits[e]));
                else if (op->gate == ROUTE_SQRT_SOFTPLUS)
                        c->scores[e] = sqrtf(softplus(logits[e]));
                c->keys[e] = route_by_logits(op) ? logits[e] : bias ? c->scores[e] + bias[e] : c->scores[e];
                if (!isfinite(logits[e]) || !isfinite(c->keys[e])) {
                        c->scores[e] = op->gate == ROUTE_SOFTMAX_CHOSEN ? -INFINITY : 0.0f;
                        c->keys[e] = -INFINITY;
                }
        }
}

/* The best that is not out, the lowest number among equals; n when all are out. */
static uint32_t best_of(const float *keys, const bool *out, uint32_t n) {
        uint32_t best = n;

        for (uint32_t e = 0; e < n; e++)
                if (!out[e] && (best == n || keys[e] > keys[best]))
                        best = e;
        return best;
}

static float group_score(const struct op_route *op, const float *keys, uint32_t n) {
        float first = -INFINITY, second = -INFINITY;

        for (uint32_t e = 0; e < n; e++) {
                second = fmaxf(second, fminf(first, keys[e]));
                first = fmaxf(first, keys[e]);
        }
        return op->gate == ROUTE_SIGMOID && n > 1 ? first + second : first;
}

/* Marks the experts of all but the best groups as out (arXiv 2405.04434, 2412.19437). */
static void choice_limit_groups(struct choice *c, const struct op_route *op) {
        uint32_t size = op->experts / op->groups;
        float scores[ROUTE_EXPERTS_MAX];
        bool out[ROUTE_EXPERTS_MAX] = {0};

        for (uint32_t g = 0; g < op->groups; g++)
                scores[g] = group_score(op, c->keys + g * size, size);
        for (uint32_t i = 0; i < op->groups_used; i++)
                out[best_of(scores, out, op->groups)] = true;
        for (uint32_t e = 0; e < op->experts; e++)
                c->out[e] = !out[e / size];
}

/* Marks the experts that the table does not have for this row's token as out. */
static void choice_limit_table(struct choice *c, const struct op_route *op, uint32_t t) {
        int32_t id = ((const int32_t *) host_address(op->token_ids))[t];
        const int32_t *row = (const int32_t *) host_address(op->table) + (size_t) id * op->k;

        memset(c->out, true, op->experts * sizeof(*c->out));
        if (id < 0 || (uint32_t) id >= op->table_rows)
                return;
        for (uint32_t j = 0; j < op->k; j++)
                if (row[j] >= 0 && (uint32_t) row[j] < op->experts)
                        c->out[row[j]] = false;
}

static void route_row(const struct op_route *op, struct choice *c, uint32_t t) {
        int32_t *ids = (int32_t *) host_address(op->ids) + (size_t) t * op->k;
        float *weights = (float *) host_address(op->weights) + (size_t) t * op->k;
        uint32_t count = route_cap(op, t);
        uint32_t *used = host_address(op->used);
        float sum = 0.0f, factor = op->scale;

        for (uint32_t j = 0; j < count; j++) {
                uint32_t e = best_of(c->keys, c->out, op->experts);

                if (e == op->experts) {
                        count = j;
                        break;
                }
                c->out[e] = true;
                ids[j] = (int32_t) e;
                weights[j] = c->scores[e];
        }
        if (op->gate == ROUTE_SOFTMAX_CHOSEN)
                softmax(weights, count);
        for (uint32_t j = 0; j < count; j++)
                sum += weights[j];
        if (op->normalize && sum > 0.0f)
                factor /= sum;
        for (uint32_t j = 0; j < op->k; j++) {
                ids[j] = j < count ? ids[j] : -1;
                weights[j] = j < count ? weights[j] * factor : 0.0f;
        }
        ((int32_t *) host_address(op->counts))[t] = (int32_t) count;
        if (used && !route_is_settled(op))
                used[t] += count;
}

void ref_route(const struct op_route *op, const bool *full, uint32_t begin, uint32_t end) {
        struct choice c;

        for (uint32_t t = begin; t < end; t++) {
                choice_init(&c, op, (const float *) host_address(op->logits) + (size_t) t * op->experts);
                if (op->groups > 0)
                        choice_limit_groups(&c, op);
                if (op->table.address)
                        choice_limit_table(&c, op, t);
                for (uint32_t e = 0; e < op->experts && full; e++)
                        c.out[e] |= full[e];
                route_row(op, &c, t);
        }
}
