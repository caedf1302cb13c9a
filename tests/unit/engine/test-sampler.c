/* SPDX-License-Identifier: MIT */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "sampler.h"
#include "test.h"

enum { VOCAB = 8 };

static const float ladder[VOCAB] = { 0.0f, 3.0f, 1.0f, 2.0f, -1.0f, 3.0f, -5.0f, 0.5f };

/* One scratch for all of a test, as for all streams of a model. */
static struct sampler *sampler(struct sampler_params params, uint32_t vocab) {
        static struct sampler_scratch *scratch;
        static uint32_t size;
        struct sampler *s;

        if (!scratch)
                assert_se(sampler_scratch_new(&scratch, vocab) == 0);
        size = size ? size : vocab;
        assert_se(size == vocab && !sampler_params_check(&params));
        assert_se(sampler_new(&s, &params, scratch) == 0);
        return s;
}

static int32_t choose_once(struct sampler_params params, const float *logits, float *logprob) {
        struct sampler *s = sampler(params, VOCAB);
        int32_t id = sampler_choose(s, logits, NULL, 0, logprob);

        sampler_free(s);
        return id;
}

/* How many may be drawn; `p` gets the distribution. */
static unsigned kept(struct sampler_params params, const float *logits, const int32_t *history, uint32_t n,
                     float p[VOCAB]) {
        struct sampler *s = sampler(params, VOCAB);
        unsigned count = 0;

        sampler_distribution(s, logits, history, n, p);
        sampler_free(s);
        for (unsigned i = 0; i < VOCAB; i++)
                count += p[i] > 0.0f;
        return count;
}

/* What a test does not name has no effect. */
static struct sampler_params with_defaults(struct sampler_params p) {
        p.temperature = p.temperature == 0.0f ? 1.0f : p.temperature;
        p.top_p = p.top_p == 0.0f ? 1.0f : p.top_p;
        p.repetition_penalty = p.repetition_penalty == 0.0f ? 1.0f : p.repetition_penalty;
        return p;
}

#define PARAMS(...) with_defaults((struct sampler_params) { __VA_ARGS__ })

TEST(greedy_takes_the_best_and_the_lowest_of_equals) {
        struct sampler_params greedy = SAMPLER_GREEDY;

        assert_se(choose_once(greedy, ladder, NULL) == 1);
}

TEST(senseless_parameters_are_named) {
        static const struct {
                struct sampler_params params;
                const char *names;
        } cases[] = {
                { { .temperature = -0.1f, .top_p = 1, .repetition_penalty = 1 }, "temperature" },
                { { .temperature = NAN, .top_p = 1, .repetition_penalty = 1 }, "temperature" },
                { { .temperature = INFINITY, .top_p = 1, .repetition_penalty = 1 }, "temperature" },
                { { .temperature = 1, .top_p = 0, .repetition_penalty = 1 }, "top_p" },
                { { .temperature = 1, .top_p = 1.01f, .repetition_penalty = 1 }, "top_p" },
                { { .temperature = 1, .top_p = NAN, .repetition_penalty = 1 }, "top_p" },
                { { .temperature = 1, .top_p = 1, .min_p = 1, .repetition_penalty = 1 }, "min_p" },
                { { .temperature = 1, .top_p = 1, .min_p = -0.1f, .repetition_penalty = 1 }, "min_p" },
                { { .temperature = 1, .top_p = 1, .repetition_penalty = 0 }, "repetition_penalty" },
                { { .temperature = 1, .top_p = 1, .repetition_penalty = NAN }, "repetition_penalty" },
                { { .temperature = 1, .top_p = 1, .repetition_penalty = 1, .presence_penalty = NAN },
                  "presence" },
                { { .temperature = 1, .top_p = 1, .repetition_penalty = 1, .frequency_penalty = INFINITY },
                  "frequency" },
        };

        for (size_t i = 0; i < ELEMENTS(cases); i++) {
                const char *why = sampler_params_check(&cases[i].params);

                assert_se(why && strstr(why, cases[i].names));
        }
}

TEST(what_is_not_finite_is_never_drawn) {
        const float logits[VOCAB] = { NAN, INFINITY, 1.0f, -INFINITY, NAN, 1.0f, NAN, NAN };
        float p[VOCAB], logprob;

        assert_se(kept(PARAMS(.seed = 0), logits, NULL, 0, p) == 2);
        assert_se(p[2] == 0.5f && p[5] == 0.5f);
        assert_se(choose_once((struct sampler_params) SAMPLER_GREEDY, logits, &logprob) == 2);
        assert_se(fabsf(logprob - logf(0.5f)) < 1e-6f);
}

TEST(nothing_possible_is_token_zero) {
        const float minus[VOCAB] = { -INFINITY, -INFINITY, -INFINITY, -INFINITY,
                                     -INFINITY, -INFINITY, -INFINITY, -INFINITY };
        const float nan[VOCAB] = { NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN };
        float p[VOCAB], logprob;

        assert_se(choose_once(PARAMS(.top_k = 2, .top_p = 0.5f), minus, &logprob) == 0);
        assert_se(logprob == -INFINITY);
        assert_se(choose_once((struct sampler_params) SAMPLER_GREEDY, nan, NULL) == 0);
        assert_se(kept(PARAMS(.seed = 0), nan, NULL, 0, p) == 0);
}

TEST(the_smallest_temperature_is_greedy_and_the_largest_is_even) {
        float p[VOCAB];

        assert_se(kept(PARAMS(.temperature = FLT_MIN), ladder, NULL, 0, p) == 2);
        assert_se(p[1] == 0.5f && p[5] == 0.5f);
        assert_se(kept(PARAMS(.temperature = FLT_MAX), ladder, NULL, 0, p) == VOCAB);
        for (unsigned i = 0; i < VOCAB; i++)
                assert_se(fabsf(p[i] - 1.0f / VOCAB) < 1e-6f);
}

TEST(top_k_keeps_ties_with_the_last) {
        float p[VOCAB];

        assert_se(kept(PARAMS(.top_k = 1), ladder, NULL, 0, p) == 2);
        assert_se(kept(PARAMS(.top_k = 2), ladder, NULL, 0, p) == 2);
        assert_se(kept(PARAMS(.top_k = 3), ladder, NULL, 0, p) == 3 && p[3] > 0.0f);
        assert_se(kept(PARAMS(.top_k = VOCAB), ladder, NULL, 0, p) == VOCAB);
        assert_se(kept(PARAMS(.top_k = VOCAB + 1), ladder, NULL, 0, p) == VOCAB);
        assert_se(kept(PARAMS(.top_k = UINT32_MAX), ladder, NULL, 0, p) == VOCAB);
}

TEST(both_zeros_are_one_value) {
        const float logits[VOCAB] = { 0.0f, -0.0f, -1.0f, -1.0f, -1.0f, -1.0f, -1.0f, -1.0f };
        float p[VOCAB];

        assert_se(kept(PARAMS(.top_k = 1), logits, NULL, 0, p) == 2);
}

TEST(top_p_keeps_one_at_least_and_of_equals_no_more_than_it_needs) {
        const float even[VOCAB] = { 1, 1, 1, 1, 1, 1, 1, 1 };
        float p[VOCAB];

        assert_se(kept(PARAMS(.top_p = FLT_MIN), ladder, NULL, 0, p) == 1 && p[1] == 1.0f);
        assert_se(kept(PARAMS(.top_p = 0.5f), even, NULL, 0, p) == 4 && p[3] == 0.25f && p[4] == 0.0f);
        assert_se(kept(PARAMS(.top_p = 0.51f), even, NULL, 0, p) == 5);
}

TEST(min_p_is_relative_to_the_best) {
        float p[VOCAB];

        /* exp(-1) = 0.37 of the best, exp(-2) = 0.14. */
        assert_se(kept(PARAMS(.min_p = 0.3f), ladder, NULL, 0, p) == 3);
        assert_se(kept(PARAMS(.min_p = 0.1f), ladder, NULL, 0, p) == 4);
        assert_se(kept(PARAMS(.min_p = 0.999f), ladder, NULL, 0, p) == 2);
}

TEST(penalties_count_each_token_of_the_window) {
        const int32_t history[] = { 1, 5, 5, 5, 3, -1, VOCAB, INT32_MAX };
        float p[VOCAB], q[VOCAB];

        /* Repetition strikes once however often: 1 and 5 stay equal. */
        kept(PARAMS(.repetition_penalty = 2.0f), ladder, history, ELEMENTS(history), p);
        assert_se(p[1] == p[5] && p[1] > p[3] && p[3] == p[2]);
        /* Frequency strikes each time: 5 falls by two more than 1. */
        kept(PARAMS(.frequency_penalty = 1.0f), ladder, history, ELEMENTS(history), p);
        assert_se(fabsf(logf(p[1] / p[5]) - 2.0f) < 1e-5f);
        /* Presence once: 3 (2 - 1) is where 2 (1) is. */
        kept(PARAMS(.presence_penalty = 1.0f), ladder, history, ELEMENTS(history), p);
        assert_se(fabsf(p[3] - p[2]) < 1e-7f && p[1] == p[5]);
        /* A window of 4 sees only 3 and ids that are none. */
        kept(PARAMS(.presence_penalty = 1.0f, .penalty_window = 4), ladder, history, ELEMENTS(history), q);
        assert_se(q[1] == q[5] && fabsf(q[3] - q[2]) < 1e-7f && q[1] > p[1]);
}

TEST(extreme_penalties_leave_a_distribution) {
        const int32_t history[] = { 1, 2, 4 };
        float p[VOCAB], sum = 0.0f;

        kept(PARAMS(.repetition_penalty = FLT_MIN, .presence_penalty = FLT_MAX, .frequency_penalty = FLT_MAX),
             ladder, history, ELEMENTS(history), p);
        for (unsigned i = 0; i < VOCAB; i++)
                sum += p[i];
        assert_se(fabsf(sum - 1.0f) < 1e-5f);
        kept(PARAMS(.repetition_penalty = FLT_MIN), ladder, history, ELEMENTS(history), p);
        assert_se(p[1] == 1.0f);
}

TEST(the_same_seed_draws_the_same_and_another_does_not) {
        struct sampler *a = sampler(PARAMS(.seed = 1), VOCAB), *b = sampler(PARAMS(.seed = 1), VOCAB);
        struct sampler *c = sampler(PARAMS(.seed = 2), VOCAB);
        unsigned same = 0;

        for (unsigned i = 0; i < 200; i++) {
                int32_t id = sampler_choose(a, ladder, NULL, 0, NULL);

                assert_se(id == sampler_choose(b, ladder, NULL, 0, NULL));
                same += id == sampler_choose(c, ladder, NULL, 0, NULL);
        }
        assert_se(same < 150);
        sampler_free(a);
        sampler_free(b);
        sampler_free(c);
}

/* The sequence is part of the interface: a generation that is taken up again must go on as it would have. */
TEST(draws_do_not_depend_on_what_was_drawn) {
        struct sampler *a = sampler(PARAMS(.seed = 9), VOCAB), *b = sampler(PARAMS(.seed = 9), VOCAB);
        const float other[VOCAB] = { 5.0f };

        for (unsigned i = 0; i < 50; i++) {
                sampler_choose(a, ladder, NULL, 0, NULL);
                sampler_choose(b, other, NULL, 0, NULL);
        }
        for (unsigned i = 0; i < 50; i++)
                assert_se(sampler_choose(a, ladder, NULL, 0, NULL) ==
                          sampler_choose(b, ladder, NULL, 0, NULL));
        sampler_free(a);
        sampler_free(b);
}

TEST(draws_follow_the_distribution) {
        struct sampler *s = sampler(PARAMS(.seed = 3), VOCAB);
        unsigned drawn[VOCAB] = { 0 };
        enum { N = 40000 };
        float p[VOCAB];

        sampler_distribution(s, ladder, NULL, 0, p);
        for (unsigned i = 0; i < N; i++)
                drawn[sampler_choose(s, ladder, NULL, 0, NULL)]++;
        /* Six standard deviations of a binomial count. */
        for (unsigned i = 0; i < VOCAB; i++)
                assert_se(fabs(drawn[i] - N * (double) p[i]) < 6 * sqrt(N * (double) p[i] * (1 - p[i])) + 1);
        sampler_free(s);
}

TEST(the_logprob_is_of_the_raw_logits) {
        double sum = 0.0;
        float logprob;
        int32_t id = choose_once(PARAMS(.temperature = 5.0f, .top_k = 1, .seed = 4), ladder, &logprob);

        for (unsigned i = 0; i < VOCAB; i++)
                sum += exp(ladder[i]);
        assert_se(fabs(logprob - (ladder[id] - log(sum))) < 1e-6);
}

static int by_falling_value(const void *a, const void *b) {
        float x = *(const float *) a, y = *(const float *) b;

        return (x < y) - (x > y);
}

/* Logits of many scales, some with many ties; what is not finite is strewn in. */
static void make_logits(float *logits, uint32_t n, unsigned round) {
        uint32_t random = round;

        for (uint32_t i = 0; i < n; i++) {
                random = random * 1664525u + 1013904223u;
                logits[i] = ldexpf((float) (int32_t) random, (int) (round % 20) - 40);
                if (round % 3 == 0)
                        logits[i] = roundf(logits[i] * 64.0f) / 64.0f;
        }
        logits[round] = NAN;
        logits[n - 1 - round] = INFINITY;
        logits[n / 2 + round] = -INFINITY;
}

/* Against e^x of libm in double. */
TEST(weights_are_the_exponential) {
        enum { N = 1000 };
        float logits[N], p[N];
        struct sampler *s = sampler(PARAMS(.seed = 0), N);
        double sum = 0.0;

        for (unsigned i = 0; i < N; i++)
                logits[i] = -(float) i * 0.1f;
        for (unsigned i = 0; i < N; i++)
                sum += exp((double) logits[i]);
        sampler_distribution(s, logits, NULL, 0, p);
        for (unsigned i = 0; i < 870; i++)
                assert_se(fabs(p[i] / (exp((double) logits[i]) / sum) - 1.0) < 5e-7);
        assert_se(p[880] == 0.0f);
        for (unsigned i = 0; i < N; i += 100)
                assert_se(fabs(sampler_logprob(logits, N, (int32_t) i) - (logits[i] - log(sum))) < 1e-5);
        sampler_free(s);
}

/* Against a sort, in double. */
TEST(the_nucleus_is_where_a_sort_would_end_it) {
        enum { N = 3001 };
        static float logits[N], p[N], all[N];

        for (unsigned round = 0; round < 60; round++) {
                float top_p = 0.05f + 0.9f * (float) (round % 10) / 10.0f, lightest = 1.0f;
                struct sampler *whole = sampler(PARAMS(.seed = 0), N), *cut = sampler(PARAMS(.top_p = top_p), N);
                double kept = 0.0;

                make_logits(logits, N, round);
                sampler_distribution(whole, logits, NULL, 0, all);
                sampler_distribution(cut, logits, NULL, 0, p);
                for (unsigned i = 0; i < N; i++)
                        if (p[i] > 0.0f) {
                                kept += all[i];
                                lightest = fminf(lightest, all[i]);
                        }
                assert_se(kept > top_p - 1e-5 && kept - lightest < top_p + 1e-5);
                for (unsigned i = 0; i < N; i++)
                        assert_se(p[i] > 0.0f ? fabs(p[i] - all[i] / kept) < 1e-5 * p[i] + 1e-9 : all[i] <= lightest);
                sampler_free(whole);
                sampler_free(cut);
        }
}

/* Against a sort. */
TEST(top_k_cuts_where_a_sort_would) {
        enum { N = 3000 };
        static float logits[N], sorted[N], p[N];

        for (unsigned round = 0; round < 40; round++) {
                uint32_t k = 1 + round * 37;
                struct sampler *s = sampler(PARAMS(.top_k = k), N);
                unsigned n = 0;

                make_logits(logits, N, round);
                for (unsigned i = 0; i < N; i++)
                        sorted[i] = isfinite(logits[i]) ? logits[i] : -FLT_MAX;
                qsort(sorted, N, sizeof(*sorted), by_falling_value);
                sampler_distribution(s, logits, NULL, 0, p);
                for (unsigned i = 0; i < N; i++)
                        n += (!isfinite(logits[i]) || logits[i] < sorted[k - 1]) && p[i] > 0.0f;
                assert_se(n == 0);
                for (unsigned i = 0; i < N; i++)
                        n += isfinite(logits[i]) && logits[i] >= sorted[k - 1] && p[i] == 0.0f &&
                             logits[i] > sorted[0] - 80.0f;
                assert_se(n == 0);
                sampler_free(s);
        }
}
