/* SPDX-License-Identifier: MIT */

/* The protocol of notify.h as a model: every interleaving of a publisher and a sleeper on a machine with
 * store buffers (x86-TSO: a store waits in its core's buffer, and later loads of that core may overtake it; a
 * fence empties the buffer). A state in which the sleeper sleeps, there is something for it, and nothing can
 * happen any more is a lost wake-up. With both fences there is none; without either, or without the counter
 * in the waiting word, there is. */

#include <stdint.h>
#include <string.h>

#include "test.h"

enum { MESSAGES = 3, BUFFER = 4, STATES = 1 << 20 };
enum { TAIL, WAITING, N_WORDS };

struct rules {
        bool publisher_fence, sleeper_fence;
        bool counter; /* each arm stores another word */
        bool futex;   /* FUTEX_WAIT looks at the tail once more; else a byte in a pipe */
        bool forgets; /* a FUTEX_WAKE that found nobody is not remembered as this sleep's wake-up */
        bool drains;  /* being awake again empties the pipe, as the client does; the bell keeps its event */
};

struct core {
        uint8_t pc, n;
        struct {
                uint8_t word, value;
        } buffer[BUFFER];
};

struct state {
        uint8_t memory[N_WORDS];
        struct core publisher, sleeper;
        uint8_t sent, seen_waiting, woken; /* publisher */
        uint8_t head, arm;                 /* sleeper */
        uint8_t asleep, token;             /* kernel */
};

enum { P_STORE, P_FENCE, P_LOOK, P_WAKE, P_END };
enum { S_LOOK, S_ARM, S_FENCE, S_LOOK_AGAIN, S_SLEEP, S_ASLEEP, S_DISARM, S_END };

static void store(struct core *core, uint8_t word, uint8_t value) {
        assert_se(core->n < BUFFER);
        core->buffer[core->n].word = word;
        core->buffer[core->n].value = value;
        core->n++;
}

/* A core sees its own stores before anyone else does. */
static uint8_t load(const struct state *s, const struct core *core, uint8_t word) {
        for (unsigned i = core->n; i-- > 0;)
                if (core->buffer[i].word == word)
                        return core->buffer[i].value;
        return s->memory[word];
}

static bool flush(struct state *s, struct core *core) {
        if (core->n == 0)
                return false;
        s->memory[core->buffer[0].word] = core->buffer[0].value;
        memmove(&core->buffer[0], &core->buffer[1], sizeof(core->buffer) - sizeof(core->buffer[0]));
        core->n--;
        memset(&core->buffer[core->n], 0, sizeof(core->buffer[0]));
        return true;
}

/* One step of each returns false when it cannot be made now. */
static bool step_publisher(struct state *s, const struct rules *rules) {
        struct core *core = &s->publisher;

        switch (core->pc) {
        case P_STORE:
                if (core->n == BUFFER)
                        return false;
                store(core, TAIL, ++s->sent);
                core->pc = P_FENCE;
                return true;
        case P_FENCE:
                if (rules->publisher_fence && core->n > 0)
                        return false;
                core->pc = P_LOOK;
                return true;
        case P_LOOK:
                s->seen_waiting = load(s, core, WAITING);
                core->pc = P_WAKE;
                return true;
        case P_WAKE:
                if (s->seen_waiting != 0 && s->seen_waiting != s->woken) {
                        if (!rules->futex || s->asleep || !rules->forgets)
                                s->woken = s->seen_waiting;
                        s->asleep = 0;
                        s->token = !rules->futex;
                }
                core->pc = s->sent == MESSAGES ? P_END : P_STORE;
                return true;
        default:
                return false;
        }
}

static bool step_sleep(struct state *s, const struct rules *rules) {
        if (rules->futex) {
                /* The kernel compares and queues in one. */
                s->asleep = s->memory[TAIL] == s->head;
                s->sleeper.pc = s->asleep ? S_ASLEEP : S_DISARM;
                return true;
        }
        if (!s->token)
                return false;
        s->token = 0;
        s->sleeper.pc = S_DISARM;
        return true;
}

static bool step_sleeper(struct state *s, const struct rules *rules) {
        struct core *core = &s->sleeper;
        uint8_t tail;

        switch (core->pc) {
        case S_LOOK:
                tail = load(s, core, TAIL);
                core->pc = s->head == MESSAGES ? S_END : tail != s->head ? S_LOOK : S_ARM;
                s->head = tail;
                return true;
        case S_ARM:
                if (core->n == BUFFER)
                        return false;
                s->arm = rules->counter ? s->arm + 1 : 1;
                store(core, WAITING, s->arm);
                core->pc = S_FENCE;
                return true;
        case S_FENCE:
                if (rules->sleeper_fence && core->n > 0)
                        return false;
                core->pc = S_LOOK_AGAIN;
                return true;
        case S_LOOK_AGAIN:
                core->pc = load(s, core, TAIL) != s->head ? S_DISARM : S_SLEEP;
                return true;
        case S_SLEEP:
                return step_sleep(s, rules);
        case S_ASLEEP:
                if (s->asleep)
                        return false;
                core->pc = S_DISARM;
                return true;
        case S_DISARM:
                if (core->n == BUFFER)
                        return false;
                store(core, WAITING, 0);
                if (rules->drains)
                        s->token = 0;
                core->pc = S_LOOK;
                return true;
        default:
                return false;
        }
}

/* All states reached, in an open hash table; the queue holds their positions. */
struct search {
        struct state states[STATES];
        bool used[STATES];
        uint32_t queue[STATES];
        uint32_t n, next;
};

static void search_add(struct search *search, const struct state *state) {
        const uint8_t *bytes = (const uint8_t *) state;
        uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
        uint32_t i;

        for (size_t b = 0; b < sizeof(*state); b++)
                hash = (hash ^ bytes[b]) * UINT64_C(0x100000001b3);
        for (i = hash % STATES; search->used[i]; i = (i + 1) % STATES)
                if (memcmp(&search->states[i], state, sizeof(*state)) == 0)
                        return;
        assert_se(search->n < STATES / 2);
        search->used[i] = true;
        search->states[i] = *state;
        search->queue[search->n++] = i;
}

struct outcome {
        unsigned states, ended, lost;
};

static struct outcome explore(const struct rules *rules) {
        struct search *search = calloc(1, sizeof(*search));
        struct outcome outcome = {};
        struct state s;

        assert_se(search);
        memset(&s, 0, sizeof(s));
        search_add(search, &s);
        while (search->next < search->n) {
                const struct state *from = &search->states[search->queue[search->next++]];
                bool moved = false;

                for (unsigned what = 0; what < 4; what++) {
                        bool r;

                        s = *from;
                        r = what == 0   ? step_publisher(&s, rules)
                            : what == 1 ? step_sleeper(&s, rules)
                            : what == 2 ? flush(&s, &s.publisher)
                                        : flush(&s, &s.sleeper);
                        if (r)
                                search_add(search, &s);
                        moved = moved || r;
                }
                if (!moved && from->sleeper.pc == S_END)
                        outcome.ended++;
                else if (!moved)
                        outcome.lost++;
        }
        outcome.states = search->n;
        free(search);
        return outcome;
}

static void judge(struct rules rules, bool sound) {
        struct outcome o = explore(&rules);

        printf("     fences %d %d, counter %d, %s: %u states, %u ends, %u lost\n", rules.publisher_fence,
               rules.sleeper_fence, rules.counter,
               rules.futex ? "futex" : rules.drains ? "pipe" : "bell", o.states, o.ended, o.lost);
        assert_se(o.ended > 0);
        assert_se(sound ? o.lost == 0 : o.lost > 0);
}

static void judge_all_sleeps(bool publisher_fence, bool sleeper_fence, bool counter, bool sound) {
        judge((struct rules) { publisher_fence, sleeper_fence, counter, .futex = true, .forgets = true },
              sound);
        judge((struct rules) { publisher_fence, sleeper_fence, counter, .drains = true }, sound);
        judge((struct rules) { publisher_fence, sleeper_fence, counter }, sound);
}

TEST(no_interleaving_loses_a_wake_up) {
        judge_all_sleeps(true, true, true, true);
}

TEST(without_the_fence_of_the_publisher_a_wake_up_is_lost) {
        judge_all_sleeps(false, true, true, false);
}

TEST(without_the_fence_of_the_sleeper_a_wake_up_is_lost) {
        judge_all_sleeps(true, false, true, false);
}

TEST(without_the_counter_a_wake_up_is_lost) {
        judge_all_sleeps(true, true, false, false);
}

/* The sleeper has armed; the wake-up of a message that it has taken already comes too early; it sleeps. */
TEST(a_futex_wake_up_that_found_nobody_must_not_count) {
        judge((struct rules) { true, true, true, .futex = true, .forgets = false }, false);
}
