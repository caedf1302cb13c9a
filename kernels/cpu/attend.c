/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <string.h>

#include "attend.h"
#include "base/util.h"

/* One split of one chain, in a wave of them. */
struct attend_piece {
        struct attend_chain chain;
        uint32_t split;
};

static size_t part_floats(const struct attend *a) {
        return (a->pairs * ((size_t) a->v_dim + 2) + 15) & ~(size_t) 15;
}

void attend_plan(struct attend *a, const struct kv_layer *kv, unsigned threads, size_t *total) {
        const size_t most_bytes = 16 << 20, near_bytes = 2 << 20;
        size_t part_bytes = part_floats(a) * sizeof(float), states = (size_t) a->rows * a->heads;
        size_t some = MIN(most_bytes / part_bytes, (size_t) threads * 8);
        size_t many = MIN(near_bytes / part_bytes, (size_t) threads * 32);

        /* Some for each thread, so that they wait for each other rarely; many, while what they come to is still in a
         * cache when it is joined. */
        a->slots = (uint32_t) MAX(MAX(some, many), (size_t) threads);
        a->job_bytes = (attention_scratch(kv, a->pairs) + 63) & ~(size_t) 63;
        a->max_at = scratch_plan(total, states, sizeof(float));
        a->sum_at = scratch_plan(total, states, sizeof(float));
        a->jobs_at = scratch_plan(total, threads, a->job_bytes);
        a->parts_at = scratch_plan(total, a->slots, part_bytes);
        a->waves_at = scratch_plan(total, a->slots, sizeof(struct attend_piece));
}

static struct attention_part part_at(const struct attend *a, uint32_t slot) {
        float *max = (float *) (a->scratch + a->parts_at) + slot * part_floats(a);

        return (struct attention_part){.max = max, .sum = max + a->pairs, .out = max + 2 * a->pairs};
}

/* Where a row and head of the batch has its maximum, sum and output: the number of a chain's pair. */
static size_t state_of(const struct attend *a, const struct attend_chain *c, uint32_t pair) {
        return ((size_t) c->first + pair / c->heads) * a->heads + c->head + pair % c->heads;
}

static float *state_max(const struct attend *a) {
        return (float *) (a->scratch + a->max_at);
}

static float *state_sum(const struct attend *a) {
        return (float *) (a->scratch + a->sum_at);
}

/* A sink is a key without a value, seen first. Without one the first part that has keys is all there is of an
 * output. */
static void begin_chain(const struct attend *a, const struct attend_chain *c) {
        for (uint32_t i = 0; i < c->rows * c->heads; i++) {
                size_t at = state_of(a, c, i);

                state_max(a)[at] = a->sinks ? a->sinks[at % a->heads] : -INFINITY;
                state_sum(a)[at] = a->sinks ? 1.0f : 0.0f;
                if (a->sinks)
                        memset(a->out + at * a->v_dim, 0, a->v_dim * sizeof(float));
        }
}

static void join_part(const struct attend *a, const struct attend_chain *c, const struct attention_part *part) {
        for (uint32_t i = 0; i < c->rows * c->heads; i++) {
                size_t at = state_of(a, c, i);
                float max, before, now;

                if (part->sum[i] == 0.0f)
                        continue;
                if (state_sum(a)[at] == 0.0f) {
                        state_max(a)[at] = part->max[i];
                        state_sum(a)[at] = part->sum[i];
                        memcpy(a->out + at * a->v_dim, part->out + (size_t) i * a->v_dim, a->v_dim * sizeof(float));
                        continue;
                }
                max = fmaxf(state_max(a)[at], part->max[i]);
                before = expf(state_max(a)[at] - max);
                now = expf(part->max[i] - max);
                state_max(a)[at] = max;
                state_sum(a)[at] = state_sum(a)[at] * before + part->sum[i] * now;
                a->variant->blend(a->out + at * a->v_dim, before, part->out + (size_t) i * a->v_dim, now,
                                  a->v_dim);
        }
}

/* What was added up, divided by the sum of its weights; zeros, when there were none: a row that sees no key and has no
 * sink. */
static void divide(float *to, const float *from, uint32_t n, float sum) {
        float factor = 1.0f / sum;

        if (sum == 0.0f)
                memset(to, 0, n * sizeof(*to));
        for (uint32_t j = 0; sum != 0.0f && j < n; j++)
                to[j] = from[j] * factor;
}

static void end_chain(const struct attend *a, const struct attend_chain *c) {
        for (uint32_t i = 0; i < c->rows * c->heads; i++) {
                size_t at = state_of(a, c, i);
                float *out = a->out + at * a->v_dim;

                divide(out, out, a->v_dim, state_sum(a)[at]);
        }
}

/* All keys of a chain without sinks are in one part. */
static void take_part(const struct attend *a, const struct attend_chain *c, const struct attention_part *part) {
        for (uint32_t i = 0; i < c->rows * c->heads; i++)
                divide(a->out + state_of(a, c, i) * a->v_dim, part->out + (size_t) i * a->v_dim, a->v_dim,
                       part->sum[i]);
}

static void *job_scratch(const struct attend *a, unsigned worker) {
        return a->scratch + a->jobs_at + worker * a->job_bytes;
}

/* One split after the other. */
static void run_chain(const struct attend *a, const struct attend_chain *c, unsigned worker) {
        struct attention_part part = part_at(a, worker);

        if (c->end - c->begin == 1 && !a->sinks) {
                a->part(a, c, c->begin, &part, job_scratch(a, worker));
                take_part(a, c, &part);
                return;
        }
        begin_chain(a, c);
        for (uint32_t split = c->begin; split < c->end; split++) {
                a->part(a, c, split, &part, job_scratch(a, worker));
                join_part(a, c, &part);
        }
        end_chain(a, c);
}

/* The longest chains first: the threads end together. */
static void chain_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        const struct attend *a = arg;

        for (uint64_t i = begin; i < end; i++) {
                struct attend_chain c = a->chain(a, a->chains - 1 - i);

                run_chain(a, &c, worker);
        }
}

static void wave_piece(void *arg, uint64_t begin, uint64_t end, unsigned worker) {
        const struct attend *a = arg;
        const struct attend_piece *pieces = (const void *) (a->scratch + a->waves_at);

        for (; begin < end; begin++) {
                uint32_t i = (uint32_t) deal_next(a->deal, worker);
                struct attention_part part = part_at(a, i);

                a->part(a, &pieces[i].chain, pieces[i].split, &part, job_scratch(a, worker));
        }
}

static void run_wave(struct attend *a, struct pool *pool, uint32_t n) {
        const struct attend_piece *pieces = (const void *) (a->scratch + a->waves_at);

        deal_out(a->deal, n);
        pool_run(pool, n, 1, wave_piece, a);
        for (uint32_t i = 0; i < n; i++) {
                struct attention_part part = part_at(a, i);

                join_part(a, &pieces[i].chain, &part);
        }
}

/* Splits of one chain at once. */
static void run_waves(struct attend *a, struct pool *pool) {
        struct attend_piece *pieces = (void *) (a->scratch + a->waves_at);
        uint32_t n = 0;

        for (uint64_t i = 0; i < a->chains; i++) {
                struct attend_chain c = a->chain(a, i);

                begin_chain(a, &c);
                for (uint32_t split = c.begin; split < c.end; split++) {
                        pieces[n++] = (struct attend_piece){c, split};
                        if (n == a->slots) {
                                run_wave(a, pool, n);
                                n = 0;
                        }
                }
        }
        run_wave(a, pool, n);
        for (uint64_t i = 0; i < a->chains; i++) {
                struct attend_chain c = a->chain(a, i);

                end_chain(a, &c);
        }
}

/* Whether the threads would wait for the longest chain. */
static bool is_uneven(const struct attend *a, unsigned threads) {
        uint64_t longest = 0, total = 0;

        for (uint64_t i = 0; i < a->chains; i++) {
                struct attend_chain c = a->chain(a, i);

                longest = MAX(longest, (uint64_t) c.end - c.begin);
                total += c.end - c.begin;
        }
        return longest > 1 && longest * threads * 4 > total;
}

void attend_run(struct attend *a, struct pool *pool) {
        unsigned threads = pool_threads(pool);

        if (threads > 1 && is_uneven(a, threads))
                run_waves(a, pool);
        else
                pool_run(pool, a->chains, 1, chain_piece, a);
}
