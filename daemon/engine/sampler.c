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

/* Rows of logits are long (150,000 and more) and there is one for each token of each stream. So what looks at all of
 * them does four at a time and is done once: for each block its best logit, and the sum of its weights when a draw is
 * to be made. Everything finer happens in the few blocks that matter. */

enum {
        BIN_BITS = 11,
        BINS = 1 << BIN_BITS,
        BLOCK = 64, /* logits */
};

typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef double f64x4 __attribute__((vector_size(32)));

#define EXP_LOWEST (-87.0f) /* e^x is a normal number above */

struct sampler_scratch {
        uint32_t vocab, n_blocks;
        float *adjusted; /* [vocab] the logits after the penalties */
        uint32_t *seen;  /* [vocab] times in the history; all zero between calls */
        float *best;     /* [n_blocks] best logit of each; -INFINITY: none is possible */
        double *sums;    /* [n_blocks] of the weights; a block without any may have no valid weights */
        float *weights;  /* [n_blocks × BLOCK] probabilities, but for a common factor; the best has 1 */
        float *list;     /* [vocab] numbers of which some rank is sought */
        uint32_t n_list;
        double bins[BINS];
};

struct sampler {
        struct sampler_params params;
        struct sampler_scratch *scratch;
        uint64_t state, drawn; /* generator: its start, and how many numbers it gave */
};

/* Floats as integers in the same order. Both zeros are one number. */
static uint32_t key_of(float f) {
        uint32_t bits, sign;

        f += 0.0f;
        memcpy(&bits, &f, sizeof(bits));
        sign = 0 - (bits >> 31);
        return bits ^ (sign | UINT32_C(0x80000000));
}

static float of_key(uint32_t key) {
        uint32_t bits = key ^ (key & UINT32_C(0x80000000) ? UINT32_C(0x80000000) : UINT32_MAX);
        float f;

        memcpy(&f, &bits, sizeof(f));
        return f;
}

static inline f32x4 load(const float *p) {
        f32x4 v;

        memcpy(&v, p, sizeof(v));
        return v;
}

static inline void store(float *p, f32x4 v) {
        memcpy(p, &v, sizeof(v));
}

/* a where the mask is set, else b */
static inline f32x4 either(i32x4 mask, f32x4 a, f32x4 b) {
        return (f32x4) ((mask & (i32x4) a) | (~mask & (i32x4) b));
}

static inline f32x4 all(float f) {
        return (f32x4) { f, f, f, f };
}

/* e^x for EXP_LOWEST ≤ x ≤ 0, to 2e-7 of itself. Our own, so that a seed draws the same token with every libm.
 * Reduction to |r| ≤ ln 2 / 2 with ln 2 in two parts, of which the product with the first is exact (Cody and Waite;
 * Muller, "Elementary Functions", 3rd edition, section 11.1), then the Taylor polynomial of degree 7. */
static inline f32x4 exp_negative(f32x4 x) {
        i32x4 n = __builtin_convertvector(x * 0x1.715476p+0f - 0.5f, i32x4);
        f32x4 whole = __builtin_convertvector(n, f32x4);
        f32x4 r = (x - whole * 0x1.63p-1f) + whole * 0x1.bd0106p-13f;
        f32x4 p = r * (1.0f / 5040) + 1.0f / 720;

        p = p * r + 1.0f / 120;
        p = p * r + 1.0f / 24;
        p = p * r + 1.0f / 6;
        p = p * r + 0.5f;
        p = p * r + 1.0f;
        p = p * r + 1.0f;
        return p * (f32x4) ((n + 127) << 23);
}

/* The block at `begin` of `n` logits, filled up with impossible ones where they end inside it. */
static const float *block_at(const float *logits, uint32_t n, uint32_t begin, float last[static BLOCK]) {
        if (n - begin >= BLOCK)
                return logits + begin;
        for (uint32_t i = 0; i < BLOCK; i++)
                last[i] = begin + i < n ? logits[begin + i] : -INFINITY;
        return last;
}

/* The highest of what is finite, else -INFINITY. */
static float block_best(const float x[static BLOCK]) {
        f32x4 best[4] = { all(-INFINITY), all(-INFINITY), all(-INFINITY), all(-INFINITY) };

        for (uint32_t i = 0; i < BLOCK; i += 16)
                for (uint32_t j = 0; j < 4; j++) {
                        f32x4 v = load(x + i + 4 * j);

                        v = either(v - v == 0.0f, v, all(-INFINITY));
                        best[j] = either(v > best[j], v, best[j]);
                }
        best[0] = either(best[0] > best[1], best[0], best[1]);
        best[2] = either(best[2] > best[3], best[2], best[3]);
        best[0] = either(best[0] > best[2], best[0], best[2]);
        return MAX(MAX(best[0][0], best[0][1]), MAX(best[0][2], best[0][3]));
}

/* The order is that of the places, whatever weighs nothing. */
static double block_sum(const float w[static BLOCK]) {
        f64x4 sums[2] = { { 0 }, { 0 } };

        for (uint32_t i = 0; i < BLOCK; i += 8)
                for (uint32_t j = 0; j < 2; j++)
                        sums[j] += __builtin_convertvector(load(w + i + 4 * j), f64x4);
        sums[0] += sums[1];
        return (sums[0][0] + sums[0][1]) + (sums[0][2] + sums[0][3]);
}

/* What one block's logits weigh: e^((logit - best) × scale), and nothing for those that are lower than `lowest`, not
 * finite, or all but impossible. `best` is the highest of what is finite. Returns the sum. */
static double block_weigh(const float x[static BLOCK], float best, float scale, float lowest, float w[static BLOCK]) {
        for (uint32_t i = 0; i < BLOCK; i += 4) {
                f32x4 v = load(x + i), power = (v - best) * scale;
                i32x4 possible = (v >= lowest) & (v <= best) & (power > EXP_LOWEST);

                power = either(power > EXP_LOWEST, power, all(EXP_LOWEST));
                store(w + i, either(possible, exp_negative(power), all(0.0f)));
        }
        return block_sum(w);
}

/* What weighs less than `lightest` weighs nothing then. Returns the sum. */
static double block_cut(float w[static BLOCK], float lightest) {
        for (uint32_t i = 0; i < BLOCK; i += 4) {
                f32x4 v = load(w + i);

                store(w + i, either(v >= lightest, v, all(0.0f)));
        }
        return block_sum(w);
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

int sampler_scratch_new(struct sampler_scratch **ret, uint32_t vocab) {
        struct sampler_scratch *m = calloc(1, sizeof(*m));

        if (!m)
                return -ENOMEM;
        m->vocab = vocab;
        m->n_blocks = DIV_ROUND_UP(vocab, (uint32_t) BLOCK);
        m->adjusted = calloc(vocab, sizeof(*m->adjusted));
        m->seen = calloc(vocab, sizeof(*m->seen));
        m->best = calloc(m->n_blocks, sizeof(*m->best));
        m->sums = calloc(m->n_blocks, sizeof(*m->sums));
        m->weights = calloc(m->n_blocks, BLOCK * sizeof(*m->weights));
        m->list = calloc(vocab, sizeof(*m->list));
        if (!m->adjusted || !m->seen || !m->best || !m->sums || !m->weights || !m->list) {
                sampler_scratch_free(m);
                return -ENOMEM;
        }
        *ret = m;
        return 0;
}

void sampler_scratch_free(struct sampler_scratch *m) {
        if (!m)
                return;
        free(m->adjusted);
        free(m->seen);
        free(m->best);
        free(m->sums);
        free(m->weights);
        free(m->list);
        free(m);
}

int sampler_new(struct sampler **ret, const struct sampler_params *params, struct sampler_scratch *scratch) {
        struct sampler *s = malloc(sizeof(*s));

        if (!s)
                return -ENOMEM;
        *s = (struct sampler) {
                .params = *params,
                .scratch = scratch,
                /* Mixed, so that neighbouring seeds do not walk the same sequence a step apart. */
                .state = mix(params->seed ^ UINT64_C(0x6d6f6564)),
        };
        *ret = s;
        return 0;
}

void sampler_free(struct sampler *s) {
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

/* The logits with the penalties applied: the row itself where there are none. */
static const float *adjust(const struct sampler *s, const float *logits, const int32_t *history, uint32_t n) {
        struct sampler_scratch *m = s->scratch;

        if (!has_penalties(&s->params))
                return logits;
        if (s->params.penalty_window > 0 && n > s->params.penalty_window) {
                history += n - s->params.penalty_window;
                n = s->params.penalty_window;
        }
        memcpy(m->adjusted, logits, m->vocab * sizeof(*logits));
        for (uint32_t i = 0; i < n; i++)
                if (history[i] >= 0 && (uint32_t) history[i] < m->vocab)
                        m->seen[history[i]]++;
        for (uint32_t i = 0; i < n; i++) {
                int32_t id = history[i];

                if (id < 0 || (uint32_t) id >= m->vocab || m->seen[id] == 0)
                        continue;
                if (isfinite(logits[id]))
                        m->adjusted[id] = penalize(&s->params, logits[id], m->seen[id]);
                m->seen[id] = 0;
        }
        return m->adjusted;
}

/* The best of each block; returns that of all, -INFINITY when nothing is possible. */
static float find_best(struct sampler_scratch *m, const float *logits) {
        float best = -INFINITY, last[BLOCK];

        for (uint32_t b = 0; b < m->n_blocks; b++) {
                m->best[b] = block_best(block_at(logits, m->vocab, b * BLOCK, last));
                best = MAX(best, m->best[b]);
        }
        return best;
}

/* The first of the best. */
static int32_t index_of(const struct sampler_scratch *m, const float *logits, float best) {
        uint32_t b = 0, i;

        while (m->best[b] != best)
                b++;
        for (i = b * BLOCK; logits[i] != best;)
                i++;
        return (int32_t) i;
}

/* Puts what is at least `lowest`, which is finite, into the list. */
static void list_add(struct sampler_scratch *m, const float *x, uint32_t n, float lowest) {
        for (uint32_t i = 0; i < n; i++) {
                m->list[m->n_list] = x[i];
                m->n_list += (x[i] >= lowest) & (x[i] <= FLT_MAX);
        }
}

/* Narrows the key at which what is taken from the best down reaches `goal`: of 32 bits those above `shift` +
 * BIN_BITS are in `found`. `sum` is what higher keys have of the goal. */
static uint32_t narrow(const struct sampler_scratch *m, uint32_t found, int shift, double goal, double *sum) {
        uint32_t bin, last = 0;

        for (bin = BINS; bin-- > 0;) {
                if (m->bins[bin] == 0.0)
                        continue;
                last = bin;
                if (*sum + m->bins[bin] >= goal)
                        return found | bin << shift;
                *sum += m->bins[bin];
        }
        /* Rounding may leave the goal unreached: then the lowest there is. */
        *sum -= m->bins[last];
        return found | last << shift;
}

/* The number of the list at which those from the highest down are `goal`: by count, or by their sum. `above` gets what
 * the higher ones are. Found from its highest bits down, so that the cost is a few passes whatever they are. */
static float list_find(struct sampler_scratch *m, bool by_sum, double goal, double *above) {
        uint32_t found = 0, known = 0;

        *above = 0.0;
        for (int shift = 32 - BIN_BITS; known != UINT32_MAX; shift = MAX(shift - BIN_BITS, 0)) {
                uint32_t open = ~known & (UINT32_MAX << shift);

                memset(m->bins, 0, sizeof(m->bins));
                for (uint32_t i = 0; i < m->n_list; i++) {
                        uint32_t key = key_of(m->list[i]);

                        if ((key & known) == found)
                                m->bins[(key & open) >> shift] += by_sum ? (double) m->list[i] : 1.0;
                }
                found = narrow(m, found, shift, goal, above);
                known |= open;
        }
        return of_key(found);
}

/* The k-th highest logit. As many blocks have their best at or above the k-th best of the blocks, so nothing below that
 * need be looked at. */
static float logit_at_rank(struct sampler_scratch *m, const float *logits, uint32_t k) {
        float lowest = -FLT_MAX;
        double above;

        m->n_list = 0;
        list_add(m, m->best, m->n_blocks, -FLT_MAX);
        if (m->n_list >= k)
                lowest = list_find(m, false, k, &above);
        m->n_list = 0;
        for (uint32_t b = 0; b < m->n_blocks; b++)
                if (m->best[b] >= lowest)
                        list_add(m, logits + b * BLOCK, MIN(m->vocab - b * BLOCK, (uint32_t) BLOCK), lowest);
        return m->n_list > k ? list_find(m, false, k, &above) : lowest;
}

/* Weighs what is among the top k, ties with the last of them included; returns the sum. */
static double weigh(const struct sampler *s, const float *logits, float best) {
        struct sampler_scratch *m = s->scratch;
        float lowest = -FLT_MAX, last[BLOCK], scale = fminf(1.0f / s->params.temperature, FLT_MAX);
        double sum = 0.0;

        if (s->params.top_k > 0 && s->params.top_k < m->vocab)
                lowest = logit_at_rank(m, logits, s->params.top_k);
        for (uint32_t b = 0; b < m->n_blocks; b++) {
                m->sums[b] = 0.0;
                if (m->best[b] >= lowest)
                        m->sums[b] = block_weigh(block_at(logits, m->vocab, b * BLOCK, last), best, scale, lowest,
                                                 m->weights + b * BLOCK);
                sum += m->sums[b];
        }
        return sum;
}

/* Drops all but the first `n` of what weighs the same as the threshold. */
static void drop_ties(struct sampler_scratch *m, float threshold, uint32_t n) {
        for (uint32_t b = 0; b < m->n_blocks; b++) {
                if (m->sums[b] == 0.0)
                        continue;
                for (uint32_t i = b * BLOCK; i < (b + 1) * BLOCK; i++) {
                        if (m->weights[i] != threshold)
                                continue;
                        if (n > 0)
                                n--;
                        else
                                m->weights[i] = 0.0f;
                }
        }
}

/* Keeps the fewest whose weights reach the share; of those at the threshold, which weigh the same, the lowest ids.
 * Returns the threshold. */
static float cut_top_p(struct sampler_scratch *m, float top_p, double sum) {
        double goal = top_p * sum, above;
        /* What is lighter is less than the rest of the sum, all together. */
        float lightest = MAX((float) (0.999 * (1.0 - top_p) * sum / m->vocab), FLT_MIN), threshold;
        uint32_t ties = 0, kept = 0;

        m->n_list = 0;
        for (uint32_t b = 0; b < m->n_blocks; b++)
                if (m->sums[b] >= lightest)
                        list_add(m, m->weights + b * BLOCK, MIN(m->vocab - b * BLOCK, (uint32_t) BLOCK), lightest);
        threshold = list_find(m, true, goal, &above);
        for (uint32_t i = 0; i < m->n_list; i++)
                ties += m->list[i] == threshold;
        for (; kept < ties && above < goal; kept++)
                above += threshold;
        if (kept < ties)
                drop_ties(m, threshold, kept);
        return threshold;
}

/* Keeps what weighs as much as `lightest` or more; returns the sum. */
static double cut_light(struct sampler_scratch *m, float lightest) {
        double sum = 0.0;

        for (uint32_t b = 0; b < m->n_blocks; b++) {
                m->sums[b] = m->sums[b] < lightest ? 0.0 : block_cut(m->weights + b * BLOCK, lightest);
                sum += m->sums[b];
        }
        return sum;
}

/* Leaves in the weights what may be drawn; returns their sum. `best` is finite. */
static double filter(const struct sampler *s, const float *logits, float best) {
        const struct sampler_params *p = &s->params;
        double sum = weigh(s, logits, best);
        float lightest = p->min_p;

        if (p->top_p < 1.0f)
                lightest = MAX(lightest, cut_top_p(s->scratch, p->top_p, sum));
        return lightest > 0.0f ? cut_light(s->scratch, lightest) : sum;
}

void sampler_distribution(struct sampler *s, const float *logits, const int32_t *history,
                          uint32_t history_length, float *probabilities) {
        struct sampler_scratch *m = s->scratch;
        float best;
        double sum;

        logits = adjust(s, logits, history, history_length);
        best = find_best(m, logits);
        memset(probabilities, 0, m->vocab * sizeof(*probabilities));
        if (best == -INFINITY)
                return;
        if (s->params.temperature == 0.0f) {
                probabilities[index_of(m, logits, best)] = 1.0f;
                return;
        }
        sum = filter(s, logits, best);
        for (uint32_t i = 0; i < m->vocab; i++)
                if (m->sums[i / BLOCK] > 0.0)
                        probabilities[i] = (float) (m->weights[i] / sum);
}

float sampler_logprob(const float *logits, uint32_t n, int32_t id) {
        float best = -INFINITY, last[BLOCK], weights[BLOCK];
        double sum = 0.0;

        if (!isfinite(logits[id]))
                return -INFINITY;
        for (uint32_t i = 0; i < n; i += BLOCK)
                best = MAX(best, block_best(block_at(logits, n, i, last)));
        for (uint32_t i = 0; i < n; i += BLOCK)
                sum += block_weigh(block_at(logits, n, i, last), best, 1.0f, -FLT_MAX, weights);
        return (float) ((double) logits[id] - best - log(sum));
}

/* The first at which the weights' running sum passes `at`; the last that weighs anything where rounding hides it. */
static int32_t pick(const struct sampler_scratch *m, double at) {
        uint32_t b, last = 0, id = 0;

        for (b = 0; b < m->n_blocks; b++) {
                if (m->sums[b] == 0.0)
                        continue;
                last = b;
                if (at < m->sums[b])
                        break;
                at -= m->sums[b];
        }
        for (uint32_t i = last * BLOCK; i < (last + 1) * BLOCK; i++) {
                if (m->weights[i] == 0.0f)
                        continue;
                id = i;
                at -= (double) m->weights[i];
                if (at < 0.0)
                        break;
        }
        return (int32_t) id;
}

int32_t sampler_choose(struct sampler *s, const float *logits, const int32_t *history,
                       uint32_t history_length, float *logprob) {
        const float *adjusted = adjust(s, logits, history, history_length);
        float best = find_best(s->scratch, adjusted);
        /* Greedy draws too: a seed's later numbers do not depend on what was chosen by earlier ones. */
        double drawn = draw(s);
        int32_t id = 0;

        if (best > -INFINITY)
                id = s->params.temperature == 0.0f ? index_of(s->scratch, adjusted, best)
                                                   : pick(s->scratch, drawn * filter(s, adjusted, best));
        if (logprob)
                *logprob = sampler_logprob(logits, s->scratch->vocab, id);
        return id;
}
