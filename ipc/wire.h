/* SPDX-License-Identifier: MIT */
#pragma once

/* The shared-memory ABI between moed and its clients (moed-protocol(7)). Everything here is little-endian, of fixed
 * size, and never changes within a version; reserved fields are zero and checked.
 *
 * A connection has two shared mappings, made and sealed by the daemon:
 *   client mapping   written by the client, read by the daemon:  wire_client_page | submission slots | arena
 *   daemon mapping   written by the daemon, read by the client:  wire_daemon_page | completion slots
 * The client gets the daemon mapping through a read-only descriptor. Sizes and offsets are told once, in the reply to
 * `hello`, and each side keeps its own copy of them: nothing that says how large something is lies in shared memory.
 *
 * Indices run freely and wrap at 2^32; a slot is index & (entries - 1). Each index has one writer and its own line. */

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
        WIRE_VERSION = 1,
        WIRE_LINE = 64,         /* bytes that one writer owns alone */
        WIRE_PAGE = 4096,       /* the head of each mapping */
        WIRE_SLOT = 64,
        WIRE_ENTRIES_MIN = 8,   /* limits of both rings, powers of two */
        WIRE_ENTRIES_MAX = 4096,
        WIRE_TEXT_MAX = 28,     /* bytes of text in one completion; a longer piece takes several */
        WIRE_ARENA_ALIGN = 64,
};

/* How the client wants to be woken, in wire_client_page.waiting: the low bits of the arm word. */
enum wire_wait {
        WIRE_WAIT_NONE = 0,    /* it looks by itself */
        WIRE_WAIT_FUTEX = 1,   /* it sleeps in FUTEX_WAIT on wire_daemon_page.completion_tail */
        WIRE_WAIT_FD = 2,      /* it polls the wake descriptor that `hello` returned */
        _WIRE_WAIT_MASK = 3,
};

/* Written by the client. */
struct wire_client_page {
        /* submissions published; release */
        _Alignas(WIRE_LINE) _Atomic uint32_t submission_tail;
        /* completions consumed; release */
        _Alignas(WIRE_LINE) _Atomic uint32_t completion_head;
        /* wire_wait | a counter that grows by 4 each time the client arms, so that one sleep gets one wake-up */
        _Alignas(WIRE_LINE) _Atomic uint32_t waiting;
};
static_assert(sizeof(struct wire_client_page) == 3 * WIRE_LINE, "ABI");
static_assert(offsetof(struct wire_client_page, completion_head) == 64, "ABI");
static_assert(offsetof(struct wire_client_page, waiting) == 128, "ABI");

/* Written by the daemon. */
struct wire_daemon_page {
        /* submissions consumed; release */
        _Alignas(WIRE_LINE) _Atomic uint32_t submission_head;
        /* completions published; release; the futex word */
        _Alignas(WIRE_LINE) _Atomic uint32_t completion_tail;
        /* odd: the daemon sleeps or is about to; ring its bell (the eventfd) after publishing a submission, once for
         * each value. Grows by one with each change. */
        _Alignas(WIRE_LINE) _Atomic uint32_t need_wakeup;
        /* 1: the daemon has closed the connection; nothing further will come. The reason is in the control socket. */
        _Alignas(WIRE_LINE) _Atomic uint32_t closed;
        /* 1: events of this connection wait for room in the completion ring. A client that has taken all there is, has
         * stored completion_head and (after a full fence) sees 1 here, rings the bell if need_wakeup says so. */
        _Alignas(WIRE_LINE) _Atomic uint32_t room_wanted;
};
static_assert(sizeof(struct wire_daemon_page) == 5 * WIRE_LINE, "ABI");
static_assert(offsetof(struct wire_daemon_page, room_wanted) == 256, "ABI");
static_assert(offsetof(struct wire_daemon_page, completion_tail) == 64, "ABI");
static_assert(offsetof(struct wire_daemon_page, need_wakeup) == 128, "ABI");

enum wire_op {
        WIRE_OP_GENERATE = 1, /* the arena range holds a wire_generate and what follows it */
        WIRE_OP_CANCEL = 2,   /* `request` names the generation; no arena range */
        WIRE_OP_ECHO = 3,     /* completed at once with WIRE_EVENT_ECHO: liveness and latency */
};

/* Client to daemon. */
struct wire_submission {
        uint32_t op;       /* wire_op */
        uint32_t flags;    /* zero */
        uint64_t request;  /* chosen by the client; unique among its running generations */
        uint64_t offset;   /* in the arena, a multiple of WIRE_ARENA_ALIGN */
        uint64_t length;   /* bytes */
        uint64_t reserved[4];
};
static_assert(sizeof(struct wire_submission) == WIRE_SLOT, "ABI");
static_assert(offsetof(struct wire_submission, offset) == 16, "ABI");

enum wire_prompt {
        WIRE_PROMPT_TEXT = 1,     /* UTF-8 (any bytes); special tokens are not recognised in it */
        WIRE_PROMPT_TOKENS = 2,   /* i32 ids */
        WIRE_PROMPT_MESSAGES = 3, /* chat: a sequence of wire_message, through the model's template */
};

enum {
        WIRE_GENERATE_SPECIAL = 1 << 0,    /* TEXT: recognise special tokens in the prompt */
        WIRE_GENERATE_LOGPROBS = 1 << 1,   /* compute the log-probability of each token */
        WIRE_GENERATE_IGNORE_EOG = 1 << 2, /* go on past end-of-text, to max_tokens */
        WIRE_GENERATE_NO_BOS = 1 << 3,     /* TEXT: do not put the model's begin-of-text token before the prompt */
        WIRE_GENERATE_SCORE = 1 << 4,      /* generate nothing; tell how likely each token of the prompt is, but the
                                            * first */
        WIRE_GENERATE_RIDE = 1 << 5,       /* ride_experts counts: share experts with other requests of the same user */
        _WIRE_GENERATE_FLAGS = (1 << 6) - 1,
};

/* Head of a GENERATE in the arena; behind it, without gaps: stops (stop_count times a wire_stop and its bytes,
 * stop_bytes in all), then the prompt (prompt_bytes). */
struct wire_generate {
        uint32_t size;          /* sizeof(struct wire_generate) */
        uint32_t model;         /* handle that `open` returned */
        uint32_t flags;         /* WIRE_GENERATE_* */
        uint32_t prompt_kind;   /* wire_prompt */
        uint32_t prompt_bytes;
        uint32_t stop_count;
        uint32_t stop_bytes;
        uint32_t max_tokens;    /* 0: to the end of the context */
        uint32_t experts_milli; /* cap for this request, mean experts per token × 1000; 0: the principal's own */
        float temperature;      /* 0: greedy */
        uint32_t top_k;         /* 0: all */
        float top_p;            /* 1: all */
        float min_p;            /* 0: all */
        float repetition_penalty; /* 1: none */
        float presence_penalty;   /* 0: none */
        float frequency_penalty;  /* 0: none */
        uint32_t penalty_window;  /* tokens looked back; 0: all */
        uint32_t ride_experts;    /* RIDE: experts that a token takes whoever else has them, from 1 up; else 0 */
        uint64_t seed;
        uint64_t reserved[6];
};
static_assert(sizeof(struct wire_generate) == 128, "ABI");
static_assert(offsetof(struct wire_generate, temperature) == 36, "ABI");
static_assert(offsetof(struct wire_generate, seed) == 72, "ABI");

struct wire_stop {
        uint32_t length; /* bytes that follow, 1 to 256 */
};
static_assert(sizeof(struct wire_stop) == 4, "ABI");

enum wire_role {
        WIRE_ROLE_SYSTEM = 1,
        WIRE_ROLE_USER = 2,
        WIRE_ROLE_ASSISTANT = 3,
};

struct wire_message {
        uint32_t role;   /* wire_role */
        uint32_t length; /* bytes that follow */
};
static_assert(sizeof(struct wire_message) == 8, "ABI");

enum wire_event {
        WIRE_EVENT_ACCEPTED = 1, /* the arena range is free again; `value` is the number of prompt tokens, `token` and
                                  * `detail` (low 32 bits, as u32, and the 16 above them) the daemon's own number of the
                                  * request */
        WIRE_EVENT_PROGRESS = 2, /* `value` prompt tokens are there; `token` of all tokens were not computed but found
                                  * in the prefix cache */
        WIRE_EVENT_TOKEN = 3,    /* one token; text_length may be 0 while bytes of a character are outstanding */
        WIRE_EVENT_TEXT = 4,     /* more text of the token before */
        WIRE_EVENT_DONE = 5,     /* last event of a request; `detail` is a wire_done, `value` the tokens generated or
                                  * scored, `token` as in PROGRESS; its text is what was still held back (for a stop
                                  * string, an incomplete character) */
        WIRE_EVENT_REASON = 6,   /* text of the sentence that the ERROR which follows ends */
        WIRE_EVENT_ERROR = 7,    /* last event of a request; `detail` is an errno, text the end of the sentence why */
        WIRE_EVENT_ECHO = 8,
        WIRE_EVENT_SCORE = 9,    /* as TOKEN, for each token of the prompt from the second on: its log-probability
                                  * after all before it */
};

/* What `detail` of a TOKEN or a SCORE may have. */
enum {
        WIRE_TOKEN_RODE = 1 << 0, /* other requests of the same user had a say in which experts it had, or those
                                   * before */
};

enum wire_done {
        WIRE_DONE_EOG = 1,       /* the model ended the text */
        WIRE_DONE_LENGTH = 2,    /* max_tokens, or the context is full */
        WIRE_DONE_STOP = 3,      /* a stop string; the text ends before it */
        WIRE_DONE_CANCELLED = 4,
};

/* Daemon to client. */
struct wire_completion {
        uint64_t request;
        uint64_t activations; /* routed experts evaluated for this request so far, prompt included */
        uint8_t event;        /* wire_event */
        uint8_t text_length;  /* 0 to WIRE_TEXT_MAX */
        uint16_t detail;      /* ACCEPTED, DONE, ERROR; TOKEN, SCORE: WIRE_TOKEN_* */
        int32_t token;        /* TOKEN, SCORE: its id; ACCEPTED, PROGRESS, DONE: see above */
        uint32_t value;       /* TOKEN, SCORE: routed experts evaluated, summed over layers, by the row whose logits it
                               * was chosen or scored by */
        float logprob;        /* SCORE, TOKEN if asked for: natural logarithm; else 0 */
        uint32_t cap_milli;   /* TOKEN, SCORE, DONE: mean experts per token and layer × 1000 that it was allowed */
        char text[WIRE_TEXT_MAX];
};
static_assert(sizeof(struct wire_completion) == WIRE_SLOT, "ABI");
static_assert(offsetof(struct wire_completion, event) == 16, "ABI");
static_assert(offsetof(struct wire_completion, text) == 36, "ABI");
