/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "cli.h"
#include "json.h"

enum { BENCH_CLIENTS_MAX = 256, BENCH_TOKENS_MAX = 65536 };

struct bench {
        const char *model;
        uint32_t clients, tokens, prompt_tokens;
        double experts;
        uint64_t run; /* when it began, nsec */
};

/* What a client process leaves in memory that it shares with us. */
struct bench_client {
        int error;
        char reason[240];
        uint64_t start, first, last; /* nsec */
        uint32_t n_tokens, n_gaps;
        uint64_t activations;
        float gaps[]; /* msec between tokens, bench.tokens of them */
};

struct bench_result {
        uint64_t tokens, activations;
        double seconds, tokens_per_second, rows;
        double ttft50, ttft95, gap50, gap95;
};

static size_t client_size(const struct bench *bench) {
        return (sizeof(struct bench_client) + bench->tokens * sizeof(float) + 63) & ~(size_t) 63;
}

static struct bench_client *client_at(const struct bench *bench, void *shared, uint32_t i) {
        return (struct bench_client *) ((char *) shared + i * client_size(bench));
}

static int client_event(const struct moed_event *event, void *userdata) {
        struct bench_client *c = userdata;
        uint64_t now = now_nsec();

        if (event->type != MOED_EVENT_TOKEN)
                return 0;
        if (c->n_tokens == 0)
                c->first = now;
        else
                c->gaps[c->n_gaps++] = (float) (now - c->last) / (float) NSEC_PER_MSEC;
        c->last = now;
        c->n_tokens++;
        c->activations += event->activations;
        return 0;
}

/* A prompt of the wished length out of ordinary tokens, another for each client and each run: no cache has it. */
static int32_t *client_prompt(const struct bench *bench, const struct moed_model *model, uint32_t client) {
        int32_t *tokens = calloc(bench->prompt_tokens, sizeof(*tokens));
        uint32_t low = model->vocab / 4, range = MAX(model->vocab / 2, UINT32_C(1));
        uint32_t state = client * 2654435761u + (uint32_t) bench->run;

        for (uint32_t i = 0; tokens && i < bench->prompt_tokens; i++) {
                state = state * 1664525u + 1013904223u;
                tokens[i] = (int32_t) (low + (state >> 8) % range);
        }
        return tokens;
}

static int client_generate(const struct bench *bench, struct moed *m, uint32_t client, int go,
                           struct bench_client *c) {
        struct moed_request q = MOED_REQUEST_INIT;
        _cleanup_(freep) int32_t *prompt = NULL;
        struct moed_model model;
        char byte;

        if (cli_model(m, bench->model, &model))
                return -ENOENT;
        prompt = client_prompt(bench, &model, client);
        if (!prompt)
                return -ENOMEM;
        q.model = model.handle;
        q.tokens = prompt;
        q.n_tokens = bench->prompt_tokens;
        q.max_tokens = bench->tokens;
        q.experts = bench->experts;
        q.flags = MOED_IGNORE_EOG;
        /* All start together, when the other end of the pipe is closed. */
        while (read(go, &byte, 1) < 0 && errno == EINTR)
                ;
        c->start = now_nsec();
        return moed_run(m, &q, client_event, c);
}

static void client_main(const struct bench *bench, const struct cli *cli, uint32_t client, int ready, int go,
                        struct bench_client *c) {
        struct moed_options options = MOED_OPTIONS_INIT;
        struct moed *m;
        int r;

        options.socket = cli->socket;
        options.name = "moectl bench";
        options.arena = (uint32_t) (bench->prompt_tokens * sizeof(int32_t) + 65536);
        r = moed_connect(&m, &options);
        /* Ready, or failed; the parent sees which. */
        if (write(ready, "", 1) == 1 && r == 0)
                r = client_generate(bench, m, client, go, c);
        if (r < 0)
                snprintf(c->reason, sizeof(c->reason), "%s", moed_error(m));
        c->error = r;
        moed_close(m);
        _exit(EX_OK);
}

/* Starts the clients, lets them go at once, waits for them. -errno when not all could be started. */
static int bench_clients(const struct bench *bench, const struct cli *cli, void *shared) {
        int ready[2], go[2], r = 0;
        uint32_t started;
        char byte;

        if (pipe(ready) < 0 || pipe(go) < 0)
                return -errno;
        for (started = 0; started < bench->clients; started++) {
                pid_t pid;

                client_at(bench, shared, started)->error = -ECHILD; /* until it says otherwise */
                pid = fork();
                if (pid < 0) {
                        r = -errno;
                        break;
                }
                if (pid == 0) {
                        close(ready[0]);
                        close(go[1]);
                        client_main(bench, cli, started, ready[1], go[0], client_at(bench, shared, started));
                }
        }
        close(ready[1]);
        close(go[0]);
        for (uint32_t i = 0; i < started; i++)
                if (read(ready[0], &byte, 1) != 1)
                        break;
        close(go[1]);
        while (wait(NULL) > 0 || errno == EINTR)
                ;
        close(ready[0]);
        return r;
}

static int compare_floats(const void *a, const void *b) {
        float x = *(const float *) a, y = *(const float *) b;

        return (x > y) - (x < y);
}

/* The smallest value that at least `share` of all are not above; sorts the values. */
static double percentile(float *values, size_t n, double share) {
        size_t rank;

        if (n == 0)
                return 0;
        qsort(values, n, sizeof(*values), compare_floats);
        rank = (size_t) ceil(share * (double) n);
        return (double) values[MAX(rank, (size_t) 1) - 1];
}

static int bench_collect(const struct bench *bench, void *shared, struct bench_result *ret) {
        _cleanup_(freep) float *gaps = calloc((size_t) bench->clients * bench->tokens + 1, sizeof(*gaps));
        _cleanup_(freep) float *firsts = calloc(bench->clients, sizeof(*firsts));
        uint64_t start = UINT64_MAX, end = 0;
        size_t n_gaps = 0;

        if (!gaps || !firsts)
                return -ENOMEM;
        for (uint32_t i = 0; i < bench->clients; i++) {
                const struct bench_client *c = client_at(bench, shared, i);

                if (c->error < 0) {
                        cli_complain("client %u: %s", i + 1, c->reason[0] ? c->reason : strerror(-c->error));
                        return c->error;
                }
                memcpy(gaps + n_gaps, c->gaps, c->n_gaps * sizeof(*gaps));
                n_gaps += c->n_gaps;
                firsts[i] = (float) (c->first - c->start) / (float) NSEC_PER_MSEC;
                start = MIN(start, c->start);
                end = MAX(end, c->last);
                ret->tokens += c->n_tokens;
                ret->activations += c->activations;
        }
        ret->seconds = end > start ? (double) (end - start) / (double) NSEC_PER_SEC : 0;
        ret->tokens_per_second = ret->seconds > 0 ? (double) ret->tokens / ret->seconds : 0;
        ret->ttft50 = percentile(firsts, bench->clients, 0.50);
        ret->ttft95 = percentile(firsts, bench->clients, 0.95);
        ret->gap50 = percentile(gaps, n_gaps, 0.50);
        ret->gap95 = percentile(gaps, n_gaps, 0.95);
        return 0;
}

static int read_counters(struct moed *m, uint64_t *rows, uint64_t *iterations) {
        _cleanup_(json_freep) struct json *stats = NULL;
        int code;

        code = cli_query(m, "stats", NULL, &stats);
        if (code)
                return code;
        *rows = json_get_uint(stats, "rows", 0);
        *iterations = json_get_uint(stats, "iterations", 0);
        return 0;
}

static void bench_json(const struct bench *bench, const struct moed_model *model,
                       const struct bench_result *result) {
        const struct {
                const char *key;
                double value;
        } rows[] = {
                { "tokens_per_second", result->tokens_per_second },
                { "seconds", result->seconds },
                { "ttft_ms_p50", result->ttft50 },
                { "ttft_ms_p95", result->ttft95 },
                { "inter_token_ms_p50", result->gap50 },
                { "inter_token_ms_p95", result->gap95 },
                { "rows_per_batch", result->rows },
                { "experts_per_token",
                  model->moe_layers > 0 && result->tokens > 0
                          ? (double) result->activations / (double) result->tokens / model->moe_layers
                          : 0 },
        };
        _cleanup_(json_writer_deinit) struct json_writer w = JSON_WRITER_INIT;

        json_open(&w, '{');
        json_key(&w, "model");
        json_text(&w, model->name);
        json_key(&w, "clients");
        json_uint(&w, bench->clients);
        json_key(&w, "prompt_tokens");
        json_uint(&w, bench->prompt_tokens);
        json_key(&w, "tokens");
        json_uint(&w, result->tokens);
        for (size_t i = 0; i < ELEMENTS(rows); i++) {
                json_key(&w, rows[i].key);
                json_float(&w, (float) rows[i].value);
        }
        json_close(&w, '}');
        puts(w.error < 0 ? "{}" : w.data);
}

static void bench_table(const struct bench *bench, const struct moed_model *model,
                        const struct bench_result *result) {
        printf("%s: %u clients, %u prompt tokens and %u tokens each\n", model->name, bench->clients,
               bench->prompt_tokens, bench->tokens);
        printf("  tokens/s, all together  %10.1f\n", result->tokens_per_second);
        printf("  time to first token     %10.1f ms (p50)  %10.1f ms (p95)\n", result->ttft50,
               result->ttft95);
        printf("  between tokens          %10.2f ms (p50)  %10.2f ms (p95)\n", result->gap50, result->gap95);
        printf("  mean rows per batch     %10.2f\n", result->rows);
        if (model->moe_layers > 0 && result->tokens > 0)
                printf("  mean experts per token  %10.2f\n",
                       (double) result->activations / (double) result->tokens / model->moe_layers);
}

static int bench_measure(const struct bench *bench, const struct cli *cli, struct moed *m, void *shared) {
        uint64_t rows = 0, iterations = 0, rows_after = 0, iterations_after = 0;
        struct bench_result result = {};
        struct moed_model model;
        int r;

        r = cli_model(m, bench->model, &model);
        if (r == 0)
                r = read_counters(m, &rows, &iterations);
        if (r)
                return r;
        r = bench_clients(bench, cli, shared);
        if (r < 0) {
                cli_complain("cannot start %u clients: %s", bench->clients, strerror(-r));
                return cli_exit_code(r);
        }
        r = bench_collect(bench, shared, &result);
        if (r < 0)
                return cli_exit_code(r);
        r = read_counters(m, &rows_after, &iterations_after);
        if (r)
                return r;
        result.rows = iterations_after > iterations
                              ? (double) (rows_after - rows) / (double) (iterations_after - iterations)
                              : 0;
        if (cli->json)
                bench_json(bench, &model, &result);
        else
                bench_table(bench, &model, &result);
        return cli_flush();
}

int verb_bench(struct cli *cli, const struct verb *verb, int argc, char **argv) {
        struct bench bench = { .clients = 4, .tokens = 64, .prompt_tokens = 32, .run = now_nsec() };
        _cleanup_(moed_closep) struct moed *m = NULL;
        const struct arg args[] = {
                { "model", 'm', ARG_TEXT, &bench.model, "NAME", "which model (default: the daemon's)" },
                { "clients", 'c', ARG_U32, &bench.clients, "N", "client processes (default: 4)", 1,
                  BENCH_CLIENTS_MAX },
                { "max-tokens", 'n', ARG_U32, &bench.tokens, "N", "tokens each generates (default: 64)", 1,
                  BENCH_TOKENS_MAX },
                { "prompt-tokens", 'p', ARG_U32, &bench.prompt_tokens, "N",
                  "tokens of each prompt (default: 32)", 1, BENCH_TOKENS_MAX },
                { "experts", 'e', ARG_DOUBLE, &bench.experts, "N", "mean experts per token at most", 0, 1e6 },
                {},
        };
        void *shared;
        size_t size;
        int code;

        code = cli_parse_options(cli, verb, args, argc, argv);
        if (code != CLI_DONE)
                return code;
        code = cli_connect(cli, &m);
        if (code)
                return code;
        size = client_size(&bench) * bench.clients;
        shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (shared == MAP_FAILED) {
                cli_complain("mmap: %s", strerror(errno));
                return EX_OSERR;
        }
        code = bench_measure(&bench, cli, m, shared);
        munmap(shared, size);
        return code;
}
