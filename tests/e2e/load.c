/* SPDX-License-Identifier: MIT */

/* A client that keeps a number of generations running for a while and says how fast their tokens came, as JSON:
 *
 *     load [-r REQUESTS] [-p PROMPT-TOKENS] [-n MAX-TOKENS] [-d SECONDS] [-e EXPERTS] [-s]
 *
 * -s: never sleeps. One token's gap is the time since the token before it of the same request. */

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/util.h"
#include "moed.h"

enum { REQUESTS_MAX = 64, PROMPT_MAX = 512, GAPS_MAX = 4 * 1024 * 1024 };

struct load {
        struct moed *m;
        struct moed_request request;
        int32_t prompt[PROMPT_MAX];
        bool spin;
        uint32_t running;
        uint64_t until;
        struct {
                uint64_t id, last, submitted;
        } slots[REQUESTS_MAX];
        uint32_t *gaps, *firsts; /* usec */
        size_t n_gaps, n_firsts;
        uint64_t tokens, done, activations, progress;
};

static void die(struct load *load, const char *what) {
        fprintf(stderr, "load: %s: %s\n", what, moed_error(load->m));
        exit(1);
}

/* Another prompt for each request and each run: no cache has it. */
static void submit(struct load *load, unsigned slot) {
        load->request.seed++;
        load->prompt[0] = 1 + (int32_t) (load->request.seed % 300);
        load->prompt[1] = 1 + (int32_t) (load->request.seed / 300 % 300);
        load->prompt[2] = 1 + (int32_t) (getpid() % 300);
        load->slots[slot].last = 0;
        load->slots[slot].submitted = now_nsec();
        if (moed_submit(load->m, &load->request, &load->slots[slot].id) < 0)
                die(load, "submit");
        load->running++;
}

static unsigned find(struct load *load, uint64_t id) {
        for (unsigned i = 0; i < REQUESTS_MAX; i++)
                if (load->slots[i].id == id)
                        return i;
        die(load, "an event of an unknown request");
        return 0;
}

static void take_token(struct load *load, unsigned slot) {
        uint64_t now = now_nsec(), last = load->slots[slot].last;

        load->tokens++;
        if (last != 0 && load->n_gaps < GAPS_MAX)
                load->gaps[load->n_gaps++] = (uint32_t) ((now - last) / NSEC_PER_USEC);
        if (last == 0 && load->n_firsts < GAPS_MAX)
                load->firsts[load->n_firsts++] =
                        (uint32_t) ((now - load->slots[slot].submitted) / NSEC_PER_USEC);
        load->slots[slot].last = now;
}

static void take(struct load *load, const struct moed_event *event) {
        unsigned slot = find(load, event->request);

        switch (event->type) {
        case MOED_EVENT_TOKEN:
                take_token(load, slot);
                break;
        case MOED_EVENT_DONE:
                load->activations += event->activations_total;
                load->done++;
                load->running--;
                if (now_nsec() < load->until)
                        submit(load, slot);
                break;
        case MOED_EVENT_ERROR:
                fprintf(stderr, "load: %.*s\n", (int) event->text_length, event->text);
                exit(1);
        case MOED_EVENT_PROGRESS:
        case MOED_EVENT_SCORE:
                load->progress++;
                break;
        case MOED_EVENT_ACCEPTED:
                break;
        }
}

static int compare(const void *a, const void *b) {
        const uint32_t *x = a, *y = b;

        return *x < *y ? -1 : *x > *y;
}

static uint32_t quantile(uint32_t *values, size_t n, double q) {
        if (n == 0)
                return 0;
        qsort(values, n, sizeof(*values), compare);
        return values[(size_t) (q * (double) (n - 1))];
}

static void run(struct load *load, unsigned requests, double seconds) {
        struct moed_event event;
        uint64_t begin = now_nsec();
        int r;

        load->until = begin + (uint64_t) (seconds * 1e9);
        for (unsigned i = 0; i < requests; i++)
                submit(load, i);
        while (load->running > 0) {
                r = load->spin ? moed_next(load->m, &event) : moed_wait(load->m, &event, -1);
                if (r < 0)
                        die(load, "wait");
                if (r > 0)
                        take(load, &event);
                /* The time is over: what still runs is ended, not waited for. */
                if (seconds > 0 && now_nsec() >= load->until)
                        for (unsigned i = 0; i < requests; i++)
                                (void) moed_cancel(load->m, load->slots[i].id);
        }
        printf("{\"tokens\": %llu, \"requests\": %llu, \"seconds\": %.3f, \"activations\": %llu, \"progress\": %llu, "
               "\"gap_p50\": %u, \"gap_p99\": %u, \"first_p50\": %u, \"first_max\": %u}\n",
               (unsigned long long) load->tokens, (unsigned long long) load->done, (double) (now_nsec() - begin) / 1e9,
               (unsigned long long) load->activations, (unsigned long long) load->progress,
               quantile(load->gaps, load->n_gaps, 0.5),
               quantile(load->gaps, load->n_gaps, 0.99), quantile(load->firsts, load->n_firsts, 0.5),
               quantile(load->firsts, load->n_firsts, 1.0));
}

int main(int argc, char **argv) {
        static struct load load = { .request = MOED_REQUEST_INIT };
        unsigned requests = 1, prompt = 8;
        double seconds = 0;
        int option;

        load.request.max_tokens = 100;
        load.request.flags = MOED_IGNORE_EOG;
        while ((option = getopt(argc, argv, "r:p:n:d:e:s")) >= 0) {
                switch (option) {
                case 'r':
                        requests = (unsigned) MIN(atoi(optarg), (int) REQUESTS_MAX);
                        break;
                case 'p':
                        prompt = (unsigned) MIN(atoi(optarg), (int) PROMPT_MAX);
                        break;
                case 'n':
                        load.request.max_tokens = (uint32_t) atoi(optarg);
                        break;
                case 'd':
                        seconds = atof(optarg);
                        break;
                case 'e':
                        load.request.experts = atof(optarg);
                        break;
                case 's':
                        load.spin = true;
                        break;
                default:
                        return 2;
                }
        }
        for (unsigned i = 0; i < prompt; i++)
                load.prompt[i] = (int32_t) (1 + 7 * i % 300);
        load.request.tokens = load.prompt;
        load.request.n_tokens = prompt;
        load.request.temperature = 1.0f;
        load.gaps = calloc(GAPS_MAX, sizeof(*load.gaps));
        load.firsts = calloc(GAPS_MAX, sizeof(*load.firsts));
        if (!load.gaps || !load.firsts)
                return 1;
        if (moed_connect(&load.m, NULL) < 0)
                die(&load, "connect");
        run(&load, requests, seconds);
        moed_close(load.m);
        free(load.gaps);
        free(load.firsts);
        return 0;
}
