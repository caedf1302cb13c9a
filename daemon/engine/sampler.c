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

enum { BIN_BITS = 11, BINS = 1 << BIN_BITS };

struct candidate {
        int32_t id;
        float logit;   /* after the penalties, before the temperature */
        double weight; /* its probability, but for a common factor; the best has 1 */
};

struct sampler {
        struct sampler_params params;
        uint32_t vocab;
        uint64_t state, drawn;         /* generator: its start, and how many numbers it gave */
        float *logits;                 /* [vocab] after the penalties; -inf: impossible */
        uint32_t *seen;                /* [vocab] times in the history; all zero between calls */
        struct candidate *candidates;  /* [vocab] by rising id */
        uint32_t n;
        double bins[BINS];
};

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

/* Finaliser of splitmix64: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014. */
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
        s->logits = calloc(vocab, sizeof(*s->logits));
        s->seen = calloc(vocab, sizeof(*s->seen));
        s->candidates = calloc(vocab, sizeof(*s->candidates));
        if (!s->logits || !s->seen || !s->candidates) {
                sampler_free(s);
                return -ENOMEM;
        }
        *ret = s;
        return 0;
}

void sampler_free(struct sampler *s) {
        if (!s)
                return;
        free(s->logits);
        free(s->seen);
        free(s->candidates);
        free(s);
}

/* Repetition: arXiv 1909.05858, section 4.1, once for each distinct token; presence and frequency: subtracted once,
 * and once per occurrence. */
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
                if (isfinite(s->logits[id]))
                        s->logits[id] = penalize(&s->params, s->logits[id], s->seen[id]);
                s->seen[id] = 0;
        }
}

/* Copies the logits with the penalties applied. The id of the best, the lowest of equals; -1 when none is possible. */
static int32_t adjust(struct sampler *s, const float *logits, const int32_t *history, uint32_t n) {
        int32_t best = -1;

        for (uint32_t i = 0; i < s->vocab; i++)
                s->logits[i] = isfinite(logits[i]) ? logits[i] : -INFINITY;
        if (s->params.penalty_window > 0 && n > s->params.penalty_window) {
                history += n - s->params.penalty_window;
                n = s->params.penalty_window;
        }
        if (has_penalties(&s->params))
                apply_penalties(s, history, n);
        for (uint32_t i = 0; i < s->vocab; i++)
                if (s->logits[i] > (best < 0 ? -INFINITY : s->logits[best]))
                        best = (int32_t) i;
        return best;
}

/* Integers in the order of the floats; both zeros are one number. */
static uint32_t key_of(float f) {
        uint32_t bits;

        f += 0.0f;
        memcpy(&bits, &f, sizeof(bits));
        return bits & UINT32_C(0x80000000) ? ~bits : bits | UINT32_C(0x80000000);
}

/* The key at which candidates taken from the best down reach `goal`: in number, or in weight with `by_weight`. Found
 * by its bits from the highest down, so the cost is a few passes whatever the logits are. `above` gets what the
 * candidates with higher keys have of the goal. */
static uint32_t threshold(struct sampler *s, double goal, bool by_weight, double *above) {
        uint32_t found = 0, known = 0; /* bits of the answer; a mask of those that are decided */
        double sum = 0.0;

        for (int shift = 32 - BIN_BITS; known != UINT32_MAX; shift = MAX(shift - BIN_BITS, 0)) {
                uint32_t open = ~known & (UINT32_MAX << shift), bin, last;

                memset(s->bins, 0, sizeof(s->bins));
                for (uint32_t i = 0; i < s->n; i++) {
                        uint32_t key = key_of(s->candidates[i].logit);

                        if ((key & known) == found)
                                s->bins[(key & open) >> shift] += by_weight ? s->candidates[i].weight : 1.0;
                }
                last = 0;
                for (bin = BINS; bin-- > 0;) {
                        if (s->bins[bin] == 0.0)
                                continue;
                        last = bin;
                        if (sum + s->bins[bin] >= goal)
                                break;
                        sum += s->bins[bin];
                }
                /* Rounding may leave the goal unreached: then the lowest candidate is the threshold. */
                if (bin > last) {
                        bin = last;
                        sum -= s->bins[bin];
                }
                found |= bin << shift;
                known |= open;
        }
        *above = sum;
        return found;
}

static void collect(struct sampler *s) {
        s->n = 0;
        for (uint32_t i = 0; i < s->vocab; i++)
                if (s->logits[i] != -INFINITY)
                        s->candidates[s->n++] = (struct candidate) { .id = (int32_t) i, .logit = s->logits[i] };
}

static void cut_top_k(struct sampler *s) {
        uint32_t key, n = 0;
        double above;

        if (s->params.top_k == 0 || s->params.top_k >= s->n)
                return;
        key = threshold(s, s->params.top_k, false, &above);
        for (uint32_t i = 0; i < s->n; i++)
                if (key_of(s->candidates[i].logit) >= key)
                        s->candidates[n++] = s->candidates[i];
        s->n = n;
}

static double weigh(struct sampler *s, float best) {
        double sum = 0.0;

        for (uint32_t i = 0; i < s->n; i++) {
                struct candidate *c = &s->candidates[i];

                c->weight = exp(((double) c->logit - best) / s->params.temperature);
                sum += c->weight;
        }
        return sum;
}

/* Keeps the fewest whose weights reach the share; of those at the threshold, which weigh the same, the lowest ids. */
static void cut_top_p(struct sampler *s, double sum) {
        double goal = s->params.top_p * sum, above;
        uint32_t key, n = 0;

        if (s->params.top_p >= 1.0f)
                return;
        key = threshold(s, goal, true, &above);
        for (uint32_t i = 0; i < s->n; i++) {
                const struct candidate *c = &s->candidates[i];
                uint32_t k = key_of(c->logit);

                if (k < key || (k == key && above >= goal))
                        continue;
                if (k == key)
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

/* Leaves in `candidates` what may be drawn; returns the sum of their weights, 0 when nothing is possible. */
static double filter(struct sampler *s, const float *logits, const int32_t *history, uint32_t n) {
        int32_t best = adjust(s, logits, history, n);
        double sum = 0.0;

        s->n = 0;
        if (best < 0)
                return 0.0;
        if (s->params.temperature == 0.0f) {
                s->candidates[s->n++] = (struct candidate) { .id = best, .weight = 1.0 };
                return 1.0;
        }
        collect(s);
        cut_top_k(s);
        cut_top_p(s, weigh(s, s->logits[best]));
        cut_min_p(s);
        for (uint32_t i = 0; i < s->n; i++)
                sum += s->candidates[i].weight;
        return sum;
}

void sampler_distribution(struct sampler *s, const float *logits, const int32_t *history, uint32_t history_length,
                          float *probabilities) {
        double sum = filter(s, logits, history, history_length);

        memset(probabilities, 0, s->vocab * sizeof(*probabilities));
        for (uint32_t i = 0; i < s->n; i++)
                probabilities[s->candidates[i].id] = (float) (s->candidates[i].weight / sum);
}

static float log_probability(const float *logits, uint32_t n, int32_t id) {
        float max = -INFINITY;
        double sum = 0.0;

        for (uint32_t i = 0; i < n; i++)
                if (isfinite(logits[i]))
                        max = fmaxf(max, logits[i]);
        if (!isfinite(logits[id]))
                return -INFINITY;
        for (uint32_t i = 0; i < n; i++)
                if (isfinite(logits[i]))
                        sum += exp((double) logits[i] - max);
        return (float) ((double) logits[id] - max - log(sum));
}

int32_t sampler_choose(struct sampler *s, const float *logits, const int32_t *history, uint32_t history_length,
                       float *logprob) {
        double left = filter(s, logits, history, history_length);
        int32_t id = 0;

        /* Greedy draws too: a seed's later numbers do not depend on what was chosen by earlier ones. */
        left *= draw(s);
        for (uint32_t i = 0; i < s->n; i++) {
                if (s->candidates[i].weight == 0.0)
                        continue;
                id = s->candidates[i].id;
                left -= s->candidates[i].weight;
                if (left < 0.0)
                        break;
        }
        if (logprob)
                *logprob = log_probability(logits, s->vocab, id);
        return id;
}
