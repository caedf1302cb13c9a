/* SPDX-License-Identifier: MIT */
#pragma once

/* One generation as `run` and `chat` do it: text to standard output as it comes, a progress bar while a long
 * prompt is read, Ctrl-C that cancels, and everything that was told kept for --json and --stats. */

#include <stddef.h>
#include <stdint.h>

#include "args.h"
#include "moed.h"

/* Options that say how to choose tokens, the same for all verbs that generate. */
struct sampling {
        const char *model;
        uint32_t max_tokens, top_k, penalty_window, piggyback;
        double experts;
        float temperature, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty;
        uint64_t seed;
        struct texts stops;
};
#define SAMPLING_INIT { .top_p = 1.0f, .repeat_penalty = 1.0f }
/* Their rows in an option table. */
#define SAMPLING_ARGS(_s)                                                                                    \
        { "model", 'm', ARG_TEXT, &(_s)->model, "NAME", "which model (default: the daemon's)" },             \
        { "experts", 'e', ARG_DOUBLE, &(_s)->experts, "N",                                                   \
          "mean experts per token at most; fractions allowed", 0, 1e6 },                                     \
        { "piggyback", 0, ARG_U32, &(_s)->piggyback, "K",                                                    \
          "a token takes its K best experts, and else only such as your other requests use" },               \
        { "max-tokens", 'n', ARG_U32, &(_s)->max_tokens, "N", "end after so many tokens" },                  \
        { "temp", 't', ARG_FLOAT, &(_s)->temperature, "T",                                                   \
          "temperature; 0 takes the likeliest token (default)", 0, 100 },                                    \
        { "top-k", 0, ARG_U32, &(_s)->top_k, "N", "choose among the N likeliest tokens" },                   \
        { "top-p", 0, ARG_FLOAT, &(_s)->top_p, "P", "choose among the likeliest that sum to P", 0, 1 },      \
        { "min-p", 0, ARG_FLOAT, &(_s)->min_p, "P",                                                          \
          "drop tokens less likely than P times the likeliest", 0, 1 },                                      \
        { "repeat-penalty", 0, ARG_FLOAT, &(_s)->repeat_penalty, "R",                                        \
          "divide what has appeared by R", 0.01, 100 },                                                      \
        { "presence-penalty", 0, ARG_FLOAT, &(_s)->presence_penalty, "X",                                    \
          "subtract X from what has appeared", -100, 100 },                                                  \
        { "frequency-penalty", 0, ARG_FLOAT, &(_s)->frequency_penalty, "X",                                  \
          "subtract X for each appearance", -100, 100 },                                                     \
        { "penalty-window", 0, ARG_U32, &(_s)->penalty_window, "N",                                          \
          "penalties look back N tokens (default: all)" },                                                   \
        { "seed", 's', ARG_U64, &(_s)->seed, "N", "seed of the random choices (default: 0)" },               \
        { "stop", 0, ARG_TEXTS, &(_s)->stops, "TEXT", "end before TEXT appears; may be given again" }
void sampling_deinit(struct sampling *sampling);
/* Everything but model, flags and prompt. */
void sampling_apply(const struct sampling *sampling, struct moed_request *q);

struct generation_token {
        int32_t id;
        uint32_t activations;
        float logprob;
};

struct generation {
        char *text; /* not terminated */
        size_t text_length, text_size;
        struct generation_token *tokens;
        size_t n_tokens, tokens_size;
        size_t n_rode;        /* tokens of which other requests' experts were a part */
        uint64_t activations; /* with the prompt's */
        double cap;           /* experts per token and layer allowed, as of the last token */
        uint32_t prompt_tokens, cached_tokens; /* cached: not computed, but found in the daemon's prefix cache */
        uint64_t number;      /* what the daemon calls the request */
        uint64_t start, first, last; /* nsec; of the request, the first token, the last token */
        enum moed_done done;  /* 0: it did not end well */
        bool unwritable;      /* because standard output failed */
};
#define GENERATION_INIT { .text = NULL }
void generation_deinit(struct generation *g);
/* Decoding speed: tokens after the first over the time that they took; 0 when there were fewer than two. */
double generation_tokens_per_second(const struct generation *g);
double generation_ttft_msec(const struct generation *g);
const char *generation_finish(const struct generation *g);

/* Runs the request to its end. With `print` text goes to standard output as it comes. Call between
 * interrupt_catch() and interrupt_release(): the first signal cancels and the rest still arrives, a second
 * one stops waiting. Returns 0 (also when cancelled: g->done says), or a negative errno with moed_error(),
 * -EIO also when standard output fails. */
int generate(struct moed *m, const struct moed_request *q, bool print, struct generation *g);
