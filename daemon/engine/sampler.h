/* SPDX-License-Identifier: MIT */
#pragma once

/* Chooses one token from one row of logits. Pure but for its own generator: same state, same logits, same token. */

#include <stdint.h>

struct sampler_params {
        float temperature;        /* 0: greedy; else > 0 */
        uint32_t top_k;           /* 0: all */
        float top_p;              /* (0, 1]; 1: all */
        float min_p;              /* [0, 1); 0: all */
        float repetition_penalty; /* > 0; 1: none (arXiv 1909.05858) */
        float presence_penalty, frequency_penalty; /* 0: none */
        uint32_t penalty_window;  /* latest tokens that count; 0: all */
        uint64_t seed;
};

#define SAMPLER_GREEDY                                                                                       \
        { .temperature = 0.0f, .top_p = 1.0f, .repetition_penalty = 1.0f }

/* NULL when the values make sense, else a sentence naming the wrong one and its range. NaN is refused. */
const char *sampler_params_check(const struct sampler_params *params);

struct sampler;         /* parameters and generator of one stream */
struct sampler_scratch; /* memory for one row of logits, for all samplers of one vocabulary that do not run at a time */

/* -ENOMEM. */
int sampler_scratch_new(struct sampler_scratch **ret, uint32_t vocab);
/* No sampler that was made with it is used any more. Takes NULL. */
void sampler_scratch_free(struct sampler_scratch *scratch);
static inline void sampler_scratch_freep(struct sampler_scratch **scratch) {
        sampler_scratch_free(*scratch);
}

/* -ENOMEM. `params` were checked. */
int sampler_new(struct sampler **ret, const struct sampler_params *params, struct sampler_scratch *scratch);
void sampler_free(struct sampler *sampler);

/* The distribution after all filters: order as in the fixtures (penalties over `history`, temperature, top-k (ties with
 * the k-th stay), top-p, min-p, softmax). Writes probabilities [vocab], zero for what was cut. For tests and
 * choosing. */
void sampler_distribution(struct sampler *sampler, const float *logits, const int32_t *history, uint32_t history_length,
                          float *probabilities);

/* The natural logarithm of the probability of token `id` under softmax of `n` raw logits, summed in double; logits that
 * are not finite count as impossible. The same numbers give the same bits. */
float sampler_logprob(const float *logits, uint32_t n, int32_t id);

/* Draws a token. `logprob` (may be NULL) gets its sampler_logprob().
 * History: prompt and generated tokens, in order. Logits that are not finite count as impossible; if all are, token
 * 0. */
int32_t sampler_choose(struct sampler *sampler, const float *logits, const int32_t *history, uint32_t history_length,
                       float *logprob);
