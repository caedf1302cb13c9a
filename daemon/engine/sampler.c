/* SPDX-License-Identifier: MIT */
#include "sampler.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/util.h"

enum {
        BIN_BITS = 11,
        BINS = 1 << BIN_BITS,
        LOGITS_BLOCK = 256,
};

struct candidate {
        int32_t id;
        uint32_t key;  /* of its logit after the penalties */
        double weight; /* its probability, but for a common factor; the best has 1 */
};

struct sampler {
        struct sampler_params params;
        uint32_t vocab;
        uint64_t state, drawn;        /* generator: its start, and how many numbers it gave */
        uint32_t *keys;               /* [vocab] of the logits after the penalties; 0: impossible */
        uint32_t *seen;               /* [vocab] times in the history; all zero between calls */
        struct candidate *candidates; /* [vocab] by rising id */
        uint32_t n;
        double bins[BINS];
};

/* Logits are kept as integers in the order of the floats: they compare, count and cut exactly, and many at a
 * time. Both zeros are one number; what is not finite is 0, less than all others. */
static uint32_t key_of(float f) {
        uint32_t bits, sign;

        f += 0.0f;
        memcpy(&bits, &f, sizeof(bits));
        sign = 0 - (bits >> 31);
        if ((bits & UINT32_C(0x7f800000)) == UINT32_C(0x7f800000))
                return 0;
        return bits ^ (sign | UINT32_C(0x80000000));
}

static float logit_of(uint32_t key) {
        uint32_t bits = key ^ (key & UINT32_C(0x80000000) ? UINT32_C(0x80000000) : UINT32_MAX);
        float f;

        memcpy(&f, &bits, sizeof(f));
        return f;
}

/* e^x for x ≤ 0, to 2e-7 of itself; below -700 as at -700, which is nothing. Our own, so that a seed draws
 * the same token with every libm, and free of branches. Reduction to |r| ≤ ln 2 / 2 (Muller, "Elementary
 * Functions", 3rd edition, section 11.1), then the Taylor polynomial of degree 7. */
static inline double exp_negative(double x) {
        double clamped = x < -700.0 ? -700.0 : x;
        int32_t n = (int32_t) (clamped * 0x1.71547652b82fep+0 - 0.5);
        float r = (float) (clamped - n * 0x1.62e42fefa39efp-1);
        float p = 1.0f / 5040;
        uint64_t bits = (uint64_t) (n + 1023) << 52;
        double scale;

        p = p * r + 1.0f / 720;
        p = p * r + 1.0f / 120;
        p = p * r + 1.0f / 24;
        p = p * r + 1.0f / 6;
        p = p * r + 0.5f;
        p = p * r + 1.0f;
        p = p * r + 1.0f;
        memcpy(&scale, &bits, sizeof(scale));
        return p * scale;
}

const char *sampler_params_check(const struct sampler_params *p) {
        /* Written so that NaN fails. */
        if (!(p->temperature >= 0.0f && p->temperature <= FLT_MAX))
                return "temperature must be 0 (greedy) or a positive number";
        if (!(p->top_p > 0.0f && p->top_p <= 1.0f))
                return "top_p must be more than 0 and at most 1";
        if (!(p->min_p >= 0.0f && p->min_p < 1.0f))
                return "min_p must be at least 0 and less than 1";
        if (!(p->repetition_penalty > 0.0f && p->repetition_penalty <= FLT_MAX))
                return "repetition_penalty must be a positive number";
        if (!(fabsf(p->presence_penalty) <= FLT_MAX))
                return "presence_penalty must be a finite number";
        if (!(fabsf(p->frequency_penalty) <= FLT_MAX))
                return "frequency_penalty must be a finite number";
        return NULL;
}

/* Finaliser of splitmix64: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA
 * 2014. */
static uint64_t mix(uint64_t z) {
        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        return z ^ (z >> 31);
}

/* The next number of [0, 1): a function of the seed and of how many came before. */
static double draw(struct sampler *s) {
        return (double) (mix(s->state + ++s->drawn * UINT64_C(0x9e3779b97f4a7c15)) >> 11) * 0x1p-53;
}

int sampler_new(struct sampler **ret, const struct sampler_params *params, uint32_t vocab) {
        struct sampler *s = calloc(1, sizeof(*s));

        if (!s)
                return -ENOMEM;
        s->params = *params;
        s->vocab = vocab;
        /* Mixed, so that neighbouring seeds do not walk the same sequence a step apart. */
        s->state = mix(params->seed ^ UINT64_C(0x6d6f6564));
        s->keys = calloc(vocab, sizeof(*s->keys));
        s->seen = calloc(vocab, sizeof(*s->seen));
        s->candidates = calloc(vocab, sizeof(*s->candidates));
        if (!s->keys || !s->seen || !s->candidates) {
                sampler_free(s);
                return -ENOMEM;
        }
        *ret = s;
        return 0;
}

void sampler_free(struct sampler *s) {
        if (!s)
                return;
        free(s->keys);
        free(s->seen);
        free(s->candidates);
        free(s);
}

/* Repetition: arXiv 1909.05858, section 4.1, once for each distinct token; presence and frequency: subtracted
 * once, and once per occurrence. */
static float penalize(const struct sampler_params *p, float logit, uint32_t times) {
        logit = logit > 0.0f ? logit / p->repetition_penalty : logit * p->repetition_penalty;
        logit -= p->presence_penalty + p->frequency_penalty * (float) times;
        if (isnan(logit))
                return -FLT_MAX;
        return fminf(fmaxf(logit, -FLT_MAX), FLT_MAX);
}

static bool has_penalties(const struct sampler_params *p) {
        return p->repetition_penalty != 1.0f || p->presence_penalty != 0.0f || p->frequency_penalty != 0.0f;
}

static void apply_penalties(struct sampler *s, const int32_t *history, uint32_t n) {
        for (uint32_t i = 0; i < n; i++)
                if (history[i] >= 0 && (uint32_t) history[i] < s->vocab)
                        s->seen[history[i]]++;
        for (uint32_t i = 0; i < n; i++) {
                int32_t id = history[i];

                if (id < 0 || (uint32_t) id >= s->vocab || s->seen[id] == 0)
                        continue;
                if (s->keys[id] != 0)
                        s->keys[id] = key_of(penalize(&s->params, logit_of(s->keys[id]), s->seen[id]));
                s->seen[id] = 0;
        }
}

/* Makes the keys of the logits with the penalties applied; returns the best, 0 when none is possible. */
static uint32_t adjust(struct sampler *s, const float *logits, const int32_t *history, uint32_t n) {
        uint32_t *keys = s->keys, vocab = s->vocab, best = 0;

        for (uint32_t i = 0; i < vocab; i++)
                keys[i] = key_of(logits[i]);
        if (s->params.penalty_window > 0 && n > s->params.penalty_window) {
                history += n - s->params.penalty_window;
                n = s->params.penalty_window;
        }
        if (has_penalties(&s->params))
                apply_penalties(s, history, n);
        for (uint32_t i = 0; i < vocab; i++)
                best = MAX(best, keys[i]);
        return best;
}

/* Narrows the key at which what is taken from the best down reaches `goal`: of 32 bits those above `shift` +
 * BIN_BITS are in `found`. `sum` is what higher keys have of the goal. */
static uint32_t narrow(struct sampler *s, uint32_t found, int shift, double goal, double *sum) {
        uint32_t bin, last = 0;

        for (bin = BINS; bin-- > 0;) {
                if (s->bins[bin] == 0.0)
                        continue;
                last = bin;
                if (*sum + s->bins[bin] >= goal)
                        return found | bin << shift;
                *sum += s->bins[bin];
        }
        /* Rounding may leave the goal unreached: then the lowest there is. */
        *sum -= s->bins[last];
        return found | last << shift;
}

/* The k-th highest key. Found from its highest bits down, so that the cost is a few passes whatever the
 * logits are. */
static uint32_t key_at_rank(struct sampler *s, uint32_t k) {
        uint32_t found = 0, known = 0;
        double above = 0.0;

        for (int shift = 32 - BIN_BITS; known != UINT32_MAX; shift = MAX(shift - BIN_BITS, 0)) {
                uint32_t open = ~known & (UINT32_MAX << shift);

                memset(s->bins, 0, sizeof(s->bins));
                for (uint32_t i = 0; i < s->vocab; i++)
                        if ((s->keys[i] & known) == found)
                                s->bins[(s->keys[i] & open) >> shift] += 1.0;
                found = narrow(s, found, shift, k, &above);
                known |= open;
        }
        return found;
}

/* The key at which the candidates' weights reach `goal`; `above` gets the weight of higher keys. */
static uint32_t key_at_weight(struct sampler *s, double goal, double *above) {
        uint32_t found = 0, known = 0;

        *above = 0.0;
        for (int shift = 32 - BIN_BITS; known != UINT32_MAX; shift = MAX(shift - BIN_BITS, 0)) {
                uint32_t open = ~known & (UINT32_MAX << shift);

                memset(s->bins, 0, sizeof(s->bins));
                for (uint32_t i = 0; i < s->n; i++)
                        if ((s->candidates[i].key & known) == found)
                                s->bins[(s->candidates[i].key & open) >> shift] += s->candidates[i].weight;
                found = narrow(s, found, shift, goal, above);
                known |= open;
        }
        return found;
}

/* The candidates: what is possible and among the top k, ties with the last of them included. */
static void collect(struct sampler *s) {
        uint32_t lowest = 1;

        if (s->params.top_k > 0 && s->params.top_k < s->vocab)
                lowest = MAX(key_at_rank(s, s->params.top_k), 1u);
        s->n = 0;
        for (uint32_t i = 0; i < s->vocab; i++)
                if (s->keys[i] >= lowest)
                        s->candidates[s->n++] = (struct candidate) { .id = (int32_t) i, .key = s->keys[i] };
}

static double weigh(struct sampler *s, float best) {
        struct candidate *c = s->candidates;
        double temperature = s->params.temperature, sum = 0.0;
        uint32_t n = s->n;

        for (uint32_t i = 0; i < n; i++)
                c[i].weight = exp_negative(((double) logit_of(c[i].key) - best) / temperature);
        for (uint32_t i = 0; i < n; i++)
                sum += c[i].weight;
        return sum;
}

/* Keeps the fewest whose weights reach the share; of those at the threshold, which weigh the same, the lowest
 * ids. */
static void cut_top_p(struct sampler *s, double sum) {
        double goal = s->params.top_p * sum, above;
        uint32_t key, n = 0;

        if (s->params.top_p >= 1.0f)
                return;
        key = key_at_weight(s, goal, &above);
        for (uint32_t i = 0; i < s->n; i++) {
                const struct candidate *c = &s->candidates[i];

                if (c->key < key || (c->key == key && above >= goal))
                        continue;
                if (c->key == key)
                        above += c->weight;
                s->candidates[n++] = *c;
        }
        s->n = n;
}

static void cut_min_p(struct sampler *s) {
        uint32_t n = 0;

        for (uint32_t i = 0; i < s->n; i++)
                if (s->candidates[i].weight >= s->params.min_p)
                        s->candidates[n++] = s->candidates[i];
        s->n = n;
}

static uint32_t index_of(const struct sampler *s, uint32_t key) {
        uint32_t i = 0;

        while (s->keys[i] != key)
                i++;
        return i;
}

/* Leaves in `candidates` what may be drawn; returns the sum of their weights, 0 when nothing is possible. */
static double filter(struct sampler *s, const float *logits, const int32_t *history, uint32_t n) {
        uint32_t best = adjust(s, logits, history, n);
        double sum = 0.0;

        s->n = 0;
        if (best == 0)
                return 0.0;
        if (s->params.temperature == 0.0f) {
                s->candidates[s->n++] = (struct candidate) {
                        .id = (int32_t) index_of(s, best), .weight = 1.0,
                };
                return 1.0;
        }
        collect(s);
        cut_top_p(s, weigh(s, logit_of(best)));
        cut_min_p(s);
        for (uint32_t i = 0; i < s->n; i++)
                sum += s->candidates[i].weight;
        return sum;
}

void sampler_distribution(struct sampler *s, const float *logits, const int32_t *history,
                          uint32_t history_length, float *probabilities) {
        double sum = filter(s, logits, history, history_length);

        memset(probabilities, 0, s->vocab * sizeof(*probabilities));
        for (uint32_t i = 0; i < s->n; i++)
                probabilities[s->candidates[i].id] = (float) (s->candidates[i].weight / sum);
}

/* Of the finite ones among `n` ≤ LOGITS_BLOCK logits, the sum of e^(logit - max). */
static double sum_block(const float *logits, uint32_t n, double max) {
        double e[LOGITS_BLOCK], sum = 0.0;

        for (uint32_t i = 0; i < n; i++) {
                double x = logits[i] - max;

                e[i] = exp_negative(key_of(logits[i]) != 0 ? x : -1e3);
        }
        for (uint32_t i = 0; i < n; i++)
                sum += e[i];
        return sum;
}

float sampler_logprob(const float *logits, uint32_t n, int32_t id) {
        uint32_t best = 0;
        double max, sum = 0.0;

        if (!isfinite(logits[id]))
                return -INFINITY;
        for (uint32_t i = 0; i < n; i++)
                best = MAX(best, key_of(logits[i]));
        max = logit_of(best);
        for (uint32_t i = 0; i < n; i += LOGITS_BLOCK)
                sum += sum_block(logits + i, MIN(n - i, (uint32_t) LOGITS_BLOCK), max);
        return (float) (logits[id] - max - log(sum));
}

int32_t sampler_choose(struct sampler *s, const float *logits, const int32_t *history,
                       uint32_t history_length, float *logprob) {
        double left = filter(s, logits, history, history_length);
        int32_t id = 0;

        /* Greedy draws too: a seed's later numbers do not depend on what was chosen by earlier ones. */
        left *= draw(s);
        for (uint32_t i = 0; i < s->n; i++) {
                /* Rounding of the sum must not land on what is all but impossible. */
                if (s->candidates[i].weight < 1e-45)
                        continue;
                id = s->candidates[i].id;
                left -= s->candidates[i].weight;
                if (left < 0.0)
                        break;
        }
        if (logprob)
                *logprob = sampler_logprob(logits, s->vocab, id);
        return id;
}
