/* SPDX-License-Identifier: MIT */
#pragma once

/* Who computes next, which rows, and how many experts each row may use. Pure: no system call, no clock, no knowledge of
 * sockets or tensors, so a test plays an hour of load in seconds. One thread.
 *
 * There are two kinds of passes. A short one has rows of everybody: those that generate, and prompts whose rows are
 * worth no more than COST_SHORT_NSEC; it runs whole. A long one has rows of one principal's prompts, many, so that each
 * expert that is read serves many rows; it runs a layer at a time, and between any two layers short passes and layers
 * of other long passes may go first. So whoever comes waits for one layer of somebody's prompt, not for the prompt.
 *
 * What a short pass reads is shared by as many as gain by it. Where a prompt is in it, all experts are read for few
 * rows: rows of long prompts come along, as long as they make it SCHED_FILL_PERCENT longer at most. Where none is,
 * those who generate beside a long pass of their own are left out until their next tokens are due (SCHED_GAP_NSEC, or
 * while others ask as well SCHED_GAP_SHARED_NSEC): in twos and threes they would read experts for nobody else, time and
 * again.
 *
 * Fairness is by virtual token counters (arXiv 2401.00588): each principal has a counter of the service it got, divided
 * by its weight; what runs next is work of the one with the lowest counter. Service is counted in nanoseconds by the
 * cost model: a short pass is shared among its rows by what each adds to it, a long one is its principal's. All others
 * that have work for a short pass get rows while there is room, and somebody always computes (work-conserving). A
 * principal that comes back from idleness, or had all it asked for, is lifted to the lowest counter of those that wait,
 * less a credit, so that what was not asked for is not saved up beyond that. With the credit, who asks now and then
 * goes first, as long as it stays below its share.
 *
 * Classes: POLICY_CLASS_BATCH counts SCHED_BATCH_PRICE times and has no credit; POLICY_CLASS_IDLE runs when nobody else
 * could. */

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "bucket.h"
#include "cost.h"
#include "latency.h"

/* The unit of an expert cap: thousandths of an expert per token and MoE layer. */
#define EXPERTS_MILLI(n) ((n) * 1000)

enum { POLICY_WEIGHT_DEFAULT = 100 };

enum policy_class { POLICY_CLASS_INTERACTIVE, POLICY_CLASS_BATCH, POLICY_CLASS_IDLE };
enum policy_on_empty { POLICY_ON_EMPTY_DEGRADE, POLICY_ON_EMPTY_WAIT };

struct policy {
        uint32_t experts_max_milli;  /* mean routed experts per token and layer; 0: no limit but the model's */
        uint32_t experts_min_milli;  /* floor while the allowance shrinks */
        uint32_t weight;             /* 1 to 10000 */
        uint64_t activation_rate;    /* activations per second; 0: no bucket */
        uint64_t activation_burst;   /* activations that the bucket holds; 0: one second's */
        enum policy_on_empty on_empty;
        uint64_t latency_target_nsec;/* between tokens; 0: none */
        enum policy_class class;
        uint64_t kv_max;             /* bytes of KV pages; 0: no limit */
        uint32_t queue_max;          /* waiting requests; 0: no limit but the user's */
        uint64_t session_max;        /* bytes of sessions on disk; 0: no limit */
        bool adaptive;               /* spend the allowance where the router says it counts */
};

#define POLICY_DEFAULT { .experts_min_milli = EXPERTS_MILLI(1), .weight = POLICY_WEIGHT_DEFAULT, .adaptive = true }

/* What made a cap what it is. */
enum cap_rule { CAP_MODEL, CAP_REQUEST, CAP_EXPERTS_MAX, CAP_BUCKET, CAP_LATENCY };

struct scheduler {
        struct list principals; /* with at least one runnable stream or pass */
        uint64_t clock;         /* the lowest counter of those that waited lately, for lifting */
        uint64_t credit_nsec;   /* of who comes back */
        uint64_t now;           /* the caller keeps it up to date */
        uint64_t shared_until;  /* more than one ask, or did so lately */
        uint64_t wake_at;       /* when a bucket will let somebody on that it holds back now; UINT64_MAX: never */
        uint32_t n_decodes;     /* runnable streams that decode */
};

/* An accounting identity: a unit, a uid, a gid or the default. Embedded in the service's own object. Not to be freed
 * while it has runnable streams or passes. */
struct principal {
        struct policy policy;      /* may be changed at any time */
        struct bucket bucket;
        struct latency latency;
        uint64_t counter;          /* service received, in nsec × PRINCIPAL_SCALE / weight; wraps, compared by
                                    * difference */
        uint64_t served_nsec;      /* service received, ever */
        uint64_t activations;      /* routed experts evaluated, ever */
        uint64_t rows_prompt, rows_generated;
        uint64_t decoded_at;       /* when its latest short pass with rows of decoding streams was formed, */
        uint64_t decoded_nsec;     /* and what that was to take */
        struct list decodes, prompts; /* runnable streams, the next one to be served first */
        struct list passes;        /* long ones in flight, oldest first */
        uint32_t n_decodes, n_prompts, n_passes;
        uint32_t decodes_left, prompts_left; /* of them without their rows in the short pass being formed */
        uint32_t passed_over;      /* decode rows given since a prompt that waits last got some */
        uint32_t turn;             /* counts the layers of its passes, see pass_choose() */
        bool turn_long;            /* of its prompts, those that ride had their turn */
        bool begins;               /* its prompts are for a long pass that can begin */
        bool early;                /* its decodes are left out of the short pass being formed, unless all experts are
                                    * read */
        uint64_t formed_nsec;      /* what the short pass being formed has of it */
        struct list link;          /* in scheduler.principals */
};

/* Counter units of a nanosecond at weight 1. */
#define PRINCIPAL_SCALE (UINT64_C(1) << 14)

enum {
        /* Rows of a prompt that are given in one go, if it has so many and the pass has room: fewer would read the
         * weights for too little work, more would make neighbours' prompts wait. */
        SCHED_CHUNK = 16,
        SCHED_BATCH_PRICE = 8,
        SCHED_FILL_PERCENT = 30, /* so much longer rows of long prompts may make a short pass with rows of other
                                  * prompts */
        SCHED_PASSES_PER_PRINCIPAL = 2,
        SCHED_GAP_PASSES = 10, /* of tokens: so many times as long as one takes is the most that is kept between two */
};

/* The service that one who comes back has ahead of the others. */
#define SCHED_CREDIT_NSEC UINT64_C(500000000)
/* The time between tokens that is kept beside long passes for who has no LatencyTarget=; and beside its own, while
 * others ask, or did so lately: tokens in fewer passes make up for what it costs that others do not wait behind its
 * prompts. Neither is more than SCHED_GAP_PASSES: where passes are short, little is saved by fewer of them. */
#define SCHED_GAP_NSEC UINT64_C(500000000)
#define SCHED_GAP_SHARED_NSEC UINT64_C(1200000000)
#define SCHED_LATELY_NSEC UINT64_C(3000000000)
/* How long a layer of a long pass is to take at most: while others have work, and while none have. */
#define SCHED_LAYER_NSEC UINT64_C(100000000)
#define SCHED_LAYER_ALONE_NSEC UINT64_C(200000000)

/* What the scheduler knows of a model. */
struct sched_model {
        struct cost cost;
        uint32_t long_rows_max;   /* of a long pass */
        uint32_t short_rows_max;  /* of a prompt in short passes, whatever it costs; 0: any */
        struct list idle_passes;  /* that could begin */
        uint32_t n_decodes;       /* runnable streams of it that decode */
        uint32_t ride_rows;       /* of prompts that a short pass takes along beside `decoding` */
        uint32_t prompt_left;     /* of them, in the pass being formed */
        struct cost_load decoding; /* rows of the latest short pass that were no prompts */
        struct cost_load load;    /* of the short pass being formed, */
        struct cost_load beside;  /* and of the latest: what prices are told by */
        bool formed;              /* `load` has something */
};

/* One running generation, embedded in the service's own object. Its rows are used in order: `pending` prompt rows, then
 * one row per generated token. */
struct sched_stream {
        struct principal *principal;
        struct sched_model *model;
        uint32_t pending;          /* rows that could run now: prompt left, or 1 for a decode step; 0: not runnable */
        uint32_t position;         /* of the first of them; */
        uint32_t cap_milli;        /* and their cap: told by the owner, before sched_stream_set_pending() */
        bool decoding;
        bool rides;                /* it is for the short pass being formed */
        uint64_t reserved;         /* activations taken from the bucket for rows that are under way */
        uint32_t granted, slot;    /* rows, and place among the picks, in the pass being formed */
        struct list link;          /* in one of the principal's lists while runnable */
};

struct sched_limits {
        uint32_t rows_max;   /* rows of a short pass */
        uint32_t prompt_max; /* of them, at most so many of prompts while anyone decodes */
};

/* One stream's share of a pass. */
struct sched_pick {
        struct sched_stream *stream;
        uint32_t rows;
};

/* A long pass, embedded in the service's own object. */
struct sched_pass {
        struct sched_model *model;
        struct principal *principal;  /* NULL: it is idle */
        uint64_t layer_nsec;          /* what each layer will take */
        uint32_t layers_left;
        struct cost_load load;
        struct list link;             /* in model->idle_passes or principal->passes */
};

enum sched_turn {
        SCHED_TURN_NONE,  /* nothing can run before scheduler.wake_at, or something changes */
        SCHED_TURN_SHORT, /* scheduler_pick() */
        SCHED_TURN_BEGIN, /* scheduler_pick_long(), then as SCHED_TURN_LAYER */
        SCHED_TURN_LAYER, /* sched_pass_layer(), and a layer is computed */
};

void scheduler_init(struct scheduler *scheduler);
void principal_init(struct principal *principal, const struct policy *policy);
void sched_model_init(struct sched_model *model, const struct cost_shape *shape, uint32_t long_rows_max);
/* Adds it to the model's idle passes; without any, prompts of all lengths go through short passes. */
void sched_pass_init(struct sched_pass *pass, struct sched_model *model);
/* Takes an idle one out of use. */
void sched_pass_deinit(struct sched_pass *pass);
void sched_stream_init(struct sched_stream *stream, struct principal *principal, struct sched_model *model);

/* Makes the stream known with `pending` rows of work, or changes how much work it has (0 takes it out; so before it is
 * freed). Not for a stream that is in a long pass. */
void sched_stream_set_pending(struct scheduler *scheduler, struct sched_stream *stream, uint32_t pending,
                              bool decoding);

/* What is to be done next, and with which long pass. */
enum sched_turn scheduler_turn(struct scheduler *scheduler, struct sched_pass **ret_pass);

/* Forms a short pass. Every row, or chunk of a prompt, goes to the principal with the lowest counter (the one that
 * has waited longest, if equal); within it to its decoding streams in turn, then to its prompts in turn, but to a
 * prompt after every 32 decode rows if one waits. Rows of long prompts fill it up, see above. Writes at most `max`
 * picks, a stream each, and returns how many. Decode picks have one row. Streams picked stay as they are until
 * sched_stream_set_pending(); their principals are charged at once. rows_max and prompt_max are at least 1. */
uint32_t scheduler_pick(struct scheduler *scheduler, const struct sched_limits *limits, struct sched_pick *picks,
                        uint32_t max);

/* Forms the long pass that is to begin: at most `max` picks. Their streams count as having nothing to run until
 * sched_stream_set_pending(), which may follow sched_pass_end(). */
uint32_t scheduler_pick_long(struct scheduler *scheduler, struct sched_pass *pass, struct sched_pick *picks,
                             uint32_t max);
/* Charges the next layer. */
void sched_pass_layer(struct scheduler *scheduler, struct sched_pass *pass);
/* It is over, or given up: the pass is idle again. */
void sched_pass_end(struct scheduler *scheduler, struct sched_pass *pass);

/* The cap that holds now: the lowest of the model's experts_used, the request's (0: none) and what `policy` allows.
 * That is the client's own: of two clients of one principal, groups may tell other rules. *ret_rule is the first of
 * them that is so low. */
uint32_t sched_cap_milli(const struct principal *principal, const struct policy *policy, uint32_t request_milli,
                         uint32_t experts_used, enum cap_rule *ret_rule);

/* Allowance of the row number `row` (from 0) since the cap was set: floor((row+1)·c·L) - floor(row·c·L), with c the cap
 * in experts and L the MoE layers, so that the sum over the first n rows never passes c·L·n (promise P1), and fractions
 * even out. */
uint32_t sched_allowance(uint32_t cap_milli, uint32_t moe_layers, uint64_t row);

/* Books what an iteration used: `rows` of the stream's rows, `used` activations. */
void sched_settle(struct sched_stream *stream, uint32_t rows, bool prompt, uint64_t used);
/* Instead of that, when its rows were given up after so many of the layers: these are taken to have used what was
 * reserved for them. */
void sched_give_up(struct sched_stream *stream, uint32_t layers_done, uint32_t layers);
/* It is another's from now on, with the rows that are under way; it has nothing to run until it is told again. */
void sched_stream_move(struct scheduler *scheduler, struct sched_stream *stream, struct principal *principal);
