/* SPDX-License-Identifier: MIT */
#include "outcome.h"

#include <inttypes.h>
#include <math.h>
#include <unistd.h>

#include "cli.h"
#include "json.h"

/* A speed is told of so many tokens or more. */
enum { SPEED_TOKENS_MIN = 8 };

/* Per token: experts evaluated, over all layers, by number of layers that have experts. */
static double token_experts(const struct moed_model *model, const struct generation_token *token) {
        return model->moe_layers > 0 ? token->activations / (double) model->moe_layers : 0;
}

static void json_numbers(struct json_writer *w, const struct moed_model *model, const struct generation *g) {
        json_key(w, "tokens");
        json_open(w, '[');
        for (size_t i = 0; i < g->n_tokens; i++)
                json_int(w, g->tokens[i].id);
        json_close(w, ']');
        json_key(w, "experts");
        json_open(w, '[');
        for (size_t i = 0; i < g->n_tokens; i++)
                json_float(w, (float) token_experts(model, &g->tokens[i]));
        json_close(w, ']');
        json_key(w, "logprobs");
        json_open(w, '[');
        for (size_t i = 0; i < g->n_tokens; i++)
                json_float(w, g->tokens[i].logprob);
        json_close(w, ']');
}

int report_json(const struct moed_model *model, const struct generation *g) {
        _cleanup_(json_writer_deinit) struct json_writer w = JSON_WRITER_INIT;

        json_open(&w, '{');
        json_key(&w, "text");
        json_string(&w, g->text ? g->text : "", g->text_length);
        json_numbers(&w, model, g);
        json_key(&w, "activations");
        json_uint(&w, g->activations);
        json_key(&w, "cap");
        json_float(&w, (float) g->cap);
        json_key(&w, "piggyback_tokens");
        json_uint(&w, g->n_rode);
        json_key(&w, "prompt_tokens");
        json_uint(&w, g->prompt_tokens);
        json_key(&w, "cached_tokens");
        json_uint(&w, g->cached_tokens);
        json_key(&w, "ttft_ms");
        json_float(&w, (float) generation_ttft_msec(g));
        json_key(&w, "tokens_per_second");
        json_float(&w, (float) generation_tokens_per_second(g));
        json_key(&w, "number");
        json_uint(&w, g->number);
        json_key(&w, "model");
        json_text(&w, model->name);
        json_key(&w, "finish");
        json_text(&w, generation_finish(g));
        json_close(&w, '}');
        if (w.error < 0) {
                cli_complain("out of memory");
                return EX_OSERR;
        }
        puts(w.data);
        return cli_flush();
}

struct score {
        double bits, experts;
};

static struct score score_sum(const struct moed_model *model, const struct generation *g) {
        struct score s = {};

        for (size_t i = 0; i < g->n_tokens; i++) {
                s.bits -= (double) g->tokens[i].logprob / M_LN2;
                s.experts += token_experts(model, &g->tokens[i]);
        }
        return s;
}

static double per(double sum, size_t n) {
        return n > 0 ? sum / (double) n : 0;
}

static int score_json(const struct moed_model *model, const struct generation *g, const struct score *s) {
        _cleanup_(json_writer_deinit) struct json_writer w = JSON_WRITER_INIT;

        json_open(&w, '{');
        json_key(&w, "bits_per_byte");
        json_double(&w, per(s->bits, g->text_length));
        json_key(&w, "perplexity");
        json_double(&w, exp2(per(s->bits, g->n_tokens)));
        json_key(&w, "bits");
        json_double(&w, s->bits);
        json_key(&w, "bytes");
        json_uint(&w, g->text_length);
        json_key(&w, "mean_experts");
        json_double(&w, per(s->experts, g->n_tokens));
        json_key(&w, "activations");
        json_uint(&w, g->activations);
        json_key(&w, "cap");
        json_float(&w, (float) g->cap);
        json_numbers(&w, model, g);
        json_key(&w, "number");
        json_uint(&w, g->number);
        json_key(&w, "model");
        json_text(&w, model->name);
        json_key(&w, "finish");
        json_text(&w, g->done == MOED_DONE_LENGTH ? "complete" : generation_finish(g));
        json_close(&w, '}');
        if (w.error < 0) {
                cli_complain("out of memory");
                return EX_OSERR;
        }
        puts(w.data);
        return cli_flush();
}

int report_score(const struct moed_model *model, const struct generation *g, bool json) {
        struct score s = score_sum(model, g);

        if (json)
                return score_json(model, g, &s);
        if (g->text_length > 0)
                printf("bits per byte  %.4f\n", per(s.bits, g->text_length));
        printf("perplexity     %.4g per token\n", exp2(per(s.bits, g->n_tokens)));
        printf("tokens         %zu\n", g->n_tokens);
        printf("bytes          %zu\n", g->text_length);
        printf("experts        %.2f per token (cap %.2f)\n", per(s.experts, g->n_tokens), g->cap);
        return cli_flush();
}

/* " at 24.1 tokens/s", or nothing: between a few tokens lies the time of a pass or two, and of when they were read. */
static const char *speed_text(const struct generation *g, char ret[static 32]) {
        ret[0] = '\0';
        if (g->n_tokens >= SPEED_TOKENS_MIN && generation_tokens_per_second(g) > 0)
                snprintf(ret, 32, " at %.1f tokens/s", generation_tokens_per_second(g));
        return ret;
}

void report_stats(const struct moed_model *model, const struct generation *g, bool logprobs) {
        double experts = 0, logprob = 0;
        char speed[32];

        for (size_t i = 0; i < g->n_tokens; i++) {
                experts += token_experts(model, &g->tokens[i]);
                logprob += (double) g->tokens[i].logprob;
        }
        cli_note("request %" PRIu64 ": %u prompt tokens, %u of them cached, first token after %.0f ms; %zu tokens%s; "
                 "%.2f experts per token (cap %.2f)",
                 g->number, g->prompt_tokens, g->cached_tokens, generation_ttft_msec(g), g->n_tokens,
                 speed_text(g, speed), g->n_tokens > 0 ? experts / (double) g->n_tokens : 0, g->cap);
        if (logprobs && g->n_tokens > 0)
                cli_note("mean log-probability %.4f per token", logprob / (double) g->n_tokens);
}

int report_text_end(const struct generation *g) {
        if (isatty(STDOUT_FILENO) && g->text_length > 0 && g->text[g->text_length - 1] != '\n')
                putchar('\n');
        return cli_flush();
}
