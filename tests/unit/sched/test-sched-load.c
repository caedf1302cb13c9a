/* SPDX-License-Identifier: MIT */

/* An hour of random load in seconds: principals with different weights send prompts, generate, fall silent and come
 * back; what must hold of every iteration is checked in every iteration. The load is a function of the seed. */

#include <string.h>

#include "scheduler.h"
#include "test.h"

enum {
        USERS = 12, STREAMS = 24, ROWS_MAX = 48, PROMPT_MAX = 20, LAYERS = 7,
        ITERATIONS = 360000, /* an hour at 10 ms */
};

struct request {
        struct sched_stream stream;
        uint32_t prompt, answer; /* rows left */
        uint32_t waited;         /* iterations since its last row */
        uint32_t cap_milli, done; /* rows */
};

struct user {
        struct principal principal;
        struct request requests[STREAMS];
        uint32_t activity; /* of 1000: chance of a new request per iteration and idle stream */
        uint64_t served, activations;
};

struct world {
        struct scheduler scheduler;
        struct sched_model model; /* each row costs the same */
        struct user users[USERS];
        uint64_t random;
        uint64_t rows, waited_max;
};

static uint32_t world_random(struct world *world, uint32_t below) {
        /* xorshift64 (Marsaglia 2003) */
        world->random ^= world->random << 13;
        world->random ^= world->random >> 7;
        world->random ^= world->random << 17;
        return (uint32_t) ((world->random >> 32) % below);
}

static struct world *world_new(uint64_t seed) {
        struct world *world = calloc(1, sizeof(*world));

        assert_se(world);
        world->random = seed;
        scheduler_init(&world->scheduler);
        sched_model_init(&world->model, &(struct cost_shape) { .layers = LAYERS, .moe_layers = LAYERS }, 0);
        for (int i = 0; i < _COST_TERM_N; i++)
                world->model.cost.coefficients[i] = i == COST_ROW_PROMPT || i == COST_ROW_GENERATED ? 1000.0 : 0.0;
        world->model.cost.short_rows = world->model.ride_rows = 100000;
        for (int i = 0; i < USERS; i++) {
                struct policy policy = { .weight = 50u << (i % 4), .experts_max_milli = 700u * (unsigned) i };

                principal_init(&world->users[i].principal, &policy);
        }
        return world;
}

static void request_update(struct world *world, struct request *request) {
        sched_stream_set_pending(&world->scheduler, &request->stream,
                                 request->prompt ? request->prompt : request->answer ? 1 : 0, request->prompt == 0);
}

static void request_start(struct world *world, struct user *user, struct request *request) {
        enum cap_rule rule;

        sched_stream_init(&request->stream, &user->principal, &world->model);
        request->cap_milli = sched_cap_milli(&user->principal, &user->principal.policy, 0, 4, &rule);
        request->done = 0;
        request->prompt = 1 + world_random(world, world_random(world, 20) == 0 ? 4000 : 100);
        request->answer = 1 + world_random(world, 300);
        request->waited = 0;
        request_update(world, request);
}

static void world_arrive(struct world *world, int iteration) {
        for (int i = 0; i < USERS; i++) {
                struct user *user = &world->users[i];

                if (iteration % 5000 == 0)
                        user->activity = world_random(world, 3) ? world_random(world, 8) : 0;
                for (int j = 0; j < STREAMS && user->activity; j++)
                        if (user->requests[j].prompt + user->requests[j].answer == 0 &&
                            world_random(world, 1000) < user->activity)
                                request_start(world, user, &user->requests[j]);
        }
}

/* Rows that could run now, and whether anyone decodes. */
static uint32_t world_demand(const struct world *world, uint32_t *prompts) {
        uint32_t decodes = 0;

        *prompts = 0;
        for (int i = 0; i < USERS; i++)
                for (int j = 0; j < STREAMS; j++) {
                        const struct request *request = &world->users[i].requests[j];

                        if (request->prompt)
                                *prompts += request->prompt;
                        else if (request->answer)
                                decodes++;
                }
        return decodes;
}

/* P1 as the client would count it, with every row using all it may. */
static void request_spend(struct user *user, struct request *request, uint32_t rows) {
        struct sched_stream *stream = &request->stream;
        uint64_t used = 0;

        for (uint32_t i = 0; i < rows; i++)
                used += sched_allowance(request->cap_milli, LAYERS, request->done + i);
        request->done += rows;
        sched_settle(stream, rows, !stream->decoding, used);
        user->activations += used;
        user->served += rows;
        assert_se(user->principal.activations == user->activations);
        assert_se(user->activations * 1000 <= user->served * request->cap_milli * LAYERS);
}

static void world_run(struct world *world, const struct sched_pick *picks, uint32_t n) {
        for (int i = 0; i < USERS; i++)
                for (int j = 0; j < STREAMS; j++)
                        if (world->users[i].requests[j].stream.pending)
                                world->users[i].requests[j].waited++;
        for (uint32_t i = 0; i < n; i++) {
                struct request *request = container_of(picks[i].stream, struct request, stream);

                world->waited_max = MAX(world->waited_max, (uint64_t) request->waited);
                request->waited = 0;
                request_spend(container_of(picks[i].stream->principal, struct user, principal), request, picks[i].rows);
                if (request->prompt)
                        request->prompt -= picks[i].rows;
                else
                        request->answer--;
                request_update(world, request);
        }
}

static void world_check(struct world *world, const struct sched_pick *picks, uint32_t n) {
        uint32_t rows = 0, prompt_rows = 0, prompts, decodes = world_demand(world, &prompts);

        for (uint32_t i = 0; i < n; i++) {
                assert_se(picks[i].rows > 0 && picks[i].rows <= picks[i].stream->pending);
                assert_se(!picks[i].stream->decoding || picks[i].rows == 1);
                rows += picks[i].rows;
                prompt_rows += picks[i].stream->decoding ? 0 : picks[i].rows;
        }
        /* Work-conserving: rows are left only where nobody could have used them. */
        assert_se(prompt_rows <= (decodes ? PROMPT_MAX : ROWS_MAX));
        assert_se(rows == MIN(decodes + MIN(prompts, (uint32_t) (decodes ? PROMPT_MAX : ROWS_MAX)),
                              (uint32_t) ROWS_MAX));
        world->rows += rows;
}

TEST(an_hour_of_random_load_keeps_every_promise) {
        struct sched_limits limits = { .rows_max = ROWS_MAX, .prompt_max = PROMPT_MAX };
        struct world *world = world_new(20240101);
        struct sched_pick picks[ROWS_MAX];

        for (int i = 0; i < ITERATIONS; i++) {
                uint32_t n;

                world_arrive(world, i);
                n = scheduler_pick(&world->scheduler, &limits, picks, ROWS_MAX);
                world_check(world, picks, n);
                world_run(world, picks, n);
        }
        printf("%llu rows; longest wait of a runnable stream: %llu iterations\n", (unsigned long long) world->rows,
               (unsigned long long) world->waited_max);
        assert_se(world->rows > 1000000);
        /* 12 × 24 streams over 48 rows, the lightest with 1/30 of the share of all and 24 streams of its own. */
        assert_se(world->waited_max < 2000);
        free(world);
}

/* The bound of arXiv 2401.00588 (theorem 4.4): between two principals that are backlogged all the while, service by
 * weight differs by no more than twice the largest unit given in one go, in any interval. */
TEST(backlogged_principals_stay_within_the_vtc_bound_in_every_interval) {
        struct sched_limits limits = { .rows_max = ROWS_MAX, .prompt_max = ROWS_MAX };
        struct world *world = world_new(7);
        struct sched_pick picks[ROWS_MAX];
        struct user *a = &world->users[0], *b = &world->users[1];
        int64_t low = INT64_MAX, high = INT64_MIN;

        for (int i = 0; i < 200000; i++) {
                int64_t apart;
                uint32_t n;

                world_arrive(world, i);
                for (int j = 0; j < STREAMS; j++) { /* these two never run out, and change between prompt and decode */
                        struct request *r[] = { &a->requests[j], &b->requests[j] };

                        for (int k = 0; k < 2; k++)
                                if (r[k]->prompt + r[k]->answer == 0)
                                        request_start(world, k ? b : a, r[k]);
                }
                n = scheduler_pick(&world->scheduler, &limits, picks, ROWS_MAX);
                world_run(world, picks, n);
                /* Weights 50 and 100. */
                apart = 2 * (int64_t) a->served - (int64_t) b->served;
                low = MIN(low, apart);
                high = MAX(high, apart);
        }
        printf("2·a − b lay within %lld … %lld\n", (long long) low, (long long) high);
        assert_se(high - low <= 2 * 2 * SCHED_CHUNK);
        free(world);
}
