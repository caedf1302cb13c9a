/* SPDX-License-Identifier: MIT */
#ifndef MOED_H
#define MOED_H

/* libmoed: generate text through the moed daemon.
 *
 *         struct moed *m;
 *         struct moed_request q = MOED_REQUEST_INIT;
 *         q.prompt = "Once upon a time";
 *         if (moed_connect(&m, NULL) == 0) {
 *                 moed_run(m, &q, on_event, NULL);
 *                 moed_close(m);
 *         }
 *
 * Functions return 0 (or a count) on success and a negative errno on failure; moed_error() then has a
 * sentence that says what, why and what to do. A connection belongs to one thread at a time; different
 * connections are independent. The library starts no thread, installs no signal handler, and needs no
 * io_uring. */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MOED_API __attribute__((visibility("default")))

struct moed; /* a connection */

struct moed_options {
        uint32_t size;           /* sizeof(struct moed_options) */
        const char *socket; /* NULL: $MOED_SOCKET, else $XDG_RUNTIME_DIR/moed/moed.sock if it is there, else
                             * /run/moed/moed.sock */
        const char *name;        /* what `moectl ps` shows; NULL: the program's name */
        uint32_t entries;        /* ring size, power of two; 0: the default (256) */
        uint32_t arena;          /* bytes for prompts in transit; 0: the default (1 MiB) */
        uint32_t spin_usec;      /* how long to look before sleeping; 0: the default (20) */
        uint32_t reserved[3];
};
#define MOED_OPTIONS_INIT { .size = sizeof(struct moed_options) }

/* Connects and says hello. `options` may be NULL. -ENOENT, -ECONNREFUSED: no daemon; -EPROTONOSUPPORT: it
 * speaks another version; -EDQUOT: a limit of this user. On failure *ret is still set when there was memory
 * for it, so that moed_error() can tell; close it all the same. */
MOED_API int moed_connect(struct moed **ret, const struct moed_options *options);
/* Cancels what runs and disconnects. Takes NULL. */
MOED_API void moed_close(struct moed *m);
/* The sentence about the latest failure on this connection; never NULL. Valid until the next call. Takes
 * NULL, which moed_connect() leaves when there was no memory. */
MOED_API const char *moed_error(const struct moed *m);
/* The library's version string. */
MOED_API const char *moed_version(void);

struct moed_model {
        uint32_t handle; /* for moed_request.model */
        const char *name, *architecture, *file, *chat_template; /* chat_template: a family, or "" */
        uint64_t parameters, bytes;
        uint32_t context, vocab, layers, moe_layers, experts, experts_used;
        uint64_t reserved[6];
};

/* The models that the daemon serves, the default first. The array and its strings belong to the connection
 * and stay valid until the next moed_models() or moed_close(). Returns how many. */
MOED_API int moed_models(struct moed *m, const struct moed_model **ret);
/* The handle of a model by name (NULL: the default). -ENOENT. */
MOED_API int moed_model_find(struct moed *m, const char *name, uint32_t *ret);

enum moed_role { MOED_SYSTEM = 1, MOED_USER = 2, MOED_ASSISTANT = 3 };

struct moed_message {
        enum moed_role role;
        const char *text;
        size_t length; /* 0: strlen(text) */
};

enum {
        MOED_SPECIAL = 1 << 0,    /* recognise special tokens in `prompt` */
        MOED_LOGPROBS = 1 << 1,   /* fill moed_event.logprob */
        MOED_IGNORE_EOG = 1 << 2, /* go on past end-of-text */
        MOED_NO_BOS = 1 << 3,     /* no begin-of-text token before `prompt` */
        MOED_SCORE = 1 << 4,      /* generate nothing; tell how likely each token of the prompt is, but the first */
        MOED_RIDE = 1 << 5,       /* share experts with the user's other requests: `ride_experts` */
};

struct moed_request {
        uint32_t size;  /* sizeof(struct moed_request) */
        uint32_t model; /* handle; 0: the default model */
        uint32_t flags; /* MOED_* */
        /* Exactly one of the three kinds of prompt. They are copied before the call returns. */
        const char *prompt;
        size_t prompt_length; /* 0: strlen(prompt) */
        const int32_t *tokens;
        size_t n_tokens;
        const struct moed_message *messages;
        size_t n_messages;
        const char *const *stops; /* stop strings; the text ends before the first that appears */
        size_t n_stops;
        uint32_t max_tokens;   /* 0: to the end of the context */
        double experts;        /* mean experts per token at most; 0: what the user's budget allows */
        float temperature;     /* 0: greedy */
        uint32_t top_k;        /* 0: all */
        float top_p;           /* 1: all */
        float min_p;           /* 0: all */
        float repetition_penalty; /* 1: none */
        float presence_penalty, frequency_penalty; /* 0: none */
        uint32_t penalty_window;  /* 0: all tokens */
        uint64_t seed;
        uint32_t ride_experts;    /* MOED_RIDE: experts that a token takes whoever else has them, from 1 up; else 0 */
        uint32_t reserved0;
        uint64_t reserved[3];
};
#define MOED_REQUEST_INIT { .size = sizeof(struct moed_request), .top_p = 1.0f, .repetition_penalty = 1.0f }

enum moed_event_type {
        MOED_EVENT_ACCEPTED = 1, /* value: prompt tokens */
        MOED_EVENT_PROGRESS,     /* value: prompt tokens that are there so far */
        MOED_EVENT_TOKEN,        /* a token with the text that became complete with it */
        MOED_EVENT_DONE,         /* last event; `done`: why, text: what was held back, value: its tokens */
        MOED_EVENT_ERROR,        /* last event; `error` is a negative errno, `text` the sentence */
        MOED_EVENT_SCORE,        /* the next token of the prompt with its text, and how likely it was */
};

enum moed_done { MOED_DONE_EOG = 1, MOED_DONE_LENGTH, MOED_DONE_STOP, MOED_DONE_CANCELLED };

enum {
        MOED_EVENT_RODE = 1 << 0, /* MOED_RIDE: other requests had a say in which experts this token and those before
                                   * had */
};

struct moed_event {
        enum moed_event_type type;
        uint32_t flags; /* TOKEN, SCORE: MOED_EVENT_* */
        uint64_t request;
        const char *text; /* not terminated; whole UTF-8 characters if the model makes such, only DONE may end
                           * within one; valid until the next call on the connection */
        size_t text_length;
        int32_t token;
        float logprob;
        uint32_t value;             /* see above; TOKEN: 0 */
        uint32_t activations;       /* TOKEN, SCORE: routed experts evaluated for this token, over all layers */
        uint64_t activations_total; /* of the request so far, prompt included */
        double cap;                 /* mean experts per token and layer it was allowed */
        enum moed_done done;
        int error;
        uint64_t number; /* of the request, in `moectl ps` and `moectl explain`; 0 before ACCEPTED */
        uint32_t cached; /* PROGRESS, DONE: tokens that were not computed but found in the prefix cache */
        uint32_t reserved0;
};

/* Starts a generation; `*request` gets its number. -EINVAL, -E2BIG (prompt larger than the arena), -EAGAIN
 * (the ring is full of requests that the daemon has not read yet, or the arena of their prompts: read events,
 * try again). Never blocks. */
MOED_API int moed_submit(struct moed *m, const struct moed_request *q, uint64_t *request);
/* Takes the next event if there is one: 1 and *event, or 0. -ECONNRESET: the daemon is gone or has thrown us
 * out. */
MOED_API int moed_next(struct moed *m, struct moed_event *event);
/* As moed_next(), and sleeps until there is one: at most `timeout_msec` (-1: for ever), then 0. -EINTR: a
 * signal came. */
MOED_API int moed_wait(struct moed *m, struct moed_event *event, int timeout_msec);
/* Ends a generation early; its DONE event comes all the same. Returns 0 also when it has just ended by
 * itself. -EAGAIN as moed_submit(). */
MOED_API int moed_cancel(struct moed *m, uint64_t request);

/* For a poll loop of one's own: poll the descriptor for POLLIN. Before sleeping call moed_prepare(): it
 * returns 1 when there may be events already (do not sleep, take them), 0 when the descriptor will become
 * readable, for events and for the end of the daemon. After waking take all events with moed_next(). The
 * descriptor belongs to the connection. */
MOED_API int moed_fd(struct moed *m);
MOED_API int moed_prepare(struct moed *m);

/* Called for each event; a value other than 0 cancels the generation. */
typedef int (*moed_callback)(const struct moed_event *event, void *userdata);
/* Submits, waits for every event, calls back. Returns 0 when DONE, the negative errno of ERROR, -ECANCELED
 * when the callback ended it, -EINTR when a signal did (the generation is cancelled then). No other request
 * may be running. */
MOED_API int moed_run(struct moed *m, const struct moed_request *q, moed_callback callback, void *userdata);

/* Token ids of a text; *ret is malloc()ed, the caller frees it. flags: MOED_SPECIAL, MOED_NO_BOS. Returns how
 * many. */
MOED_API int moed_tokenize(struct moed *m, uint32_t model, const char *text, size_t length, uint32_t flags,
                           int32_t **ret);
/* The bytes of tokens; *ret is malloc()ed (and terminated), the caller frees it. Returns the length. */
MOED_API int moed_detokenize(struct moed *m, uint32_t model, const int32_t *tokens, size_t n, char **ret);

/* Asks the daemon something by a control verb (moed-protocol(7)) and returns its reply as JSON text,
 * malloc()ed, which the caller frees: verb "stats", "ps", "models", "budget", "reload". `arguments` is a JSON
 * object or NULL. */
MOED_API int moed_query(struct moed *m, const char *verb, const char *arguments, char **ret);

#ifdef __cplusplus
}
#endif
#endif
