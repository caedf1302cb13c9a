/* SPDX-License-Identifier: MIT */
#pragma once

/* What the service sees of the engine: a model on a backend, sequences with their KV pages, and steps: one forward
 * pass over rows of many sequences. Nothing here knows clients, budgets in time, or the clock.
 *
 * All calls come from one thread, but for those that say otherwise, and that model_info(), model_tokenizer() and
 * model_chat_template() may be used from any thread while the model lives. Returns 0, a negative errno (our trouble),
 * or a positive ENGINE_E_*. */

#include <stdbool.h>
#include <stdint.h>

#include "backend.h"
#include "base/reason.h"

struct chat_template;
struct model;
struct model_file;
struct sequence;
struct step;
struct tokenizer;

enum {
        _ENGINE_E_SUCCESS,
        ENGINE_E_MODEL,   /* the file is refused; the reason says where */
        ENGINE_E_PAGES,   /* no KV page is free now */
        ENGINE_E_CONTEXT, /* the sequence would pass the model's context */
        ENGINE_E_TOKEN,   /* an id outside the vocabulary */
        ENGINE_E_ROWS,    /* more rows than model_options.rows_max */
};

struct model_options {
        enum quant_type kv_type; /* QUANT_F16, QUANT_BF16 or QUANT_F32 */
        uint64_t kv_bytes;       /* arena of KV pages, bytes; rounded down to whole pages; at least one full context
                                  * fits or the context shrinks to what fits */
        uint32_t rows_max;       /* most rows of one step */
        uint32_t context_max;    /* 0: the model's own */
        bool context_extend;     /* context_max may pass what the model was made for: its rotary scaling goes on as it
                                  * is */
};

struct model_info {
        const char *architecture, *name, *file; /* owned by the model */
        uint64_t parameters, file_bytes, weight_bytes;
        uint64_t kv_bytes_per_token; /* over all layers */
        uint32_t context, vocab, layers, moe_layers, experts, experts_used;
        uint32_t kv_pages;           /* in the arena */
        bool has_capacity;           /* its experts serve only so many of neighbouring tokens (struct
                                      * op_route_capacity) */
};

enum model_calibration {
        MODEL_CALIBRATION_NONE,
        MODEL_CALIBRATION_REFUSED,   /* the model runs without it */
        MODEL_CALIBRATION_PLAN,      /* how many experts each layer gets */
        MODEL_CALIBRATION_PREDICTOR, /* and each token */
};

/* The part of a model that needs no backend: maps the file, checks it, makes its tokenizer. Any thread. ENGINE_E_MODEL,
 * negative errno. */
int model_file_open(struct model_file **ret, const char *path, struct reason *reason);
/* Any thread. Unref takes NULL. */
struct model_file *model_file_ref(struct model_file *file);
void model_file_unref(struct model_file *file);
void model_file_unrefp(struct model_file **file);
/* Whether both are the same file on disk with the same calibration, unchanged in between, and both are intact: then one
 * may stand for the other. Any thread. */
bool model_file_same(const struct model_file *a, const struct model_file *b);
/* Whether something that was touched could not be read (with mapped_survive(), else the process has ended), of the file
 * or of what shares its memory with it. Any thread. */
bool model_file_lost(const struct model_file *file);
/* Whether that is not so, and nobody has written to them since they were opened. A few system calls. Any thread. */
bool model_file_intact(const struct model_file *file);
/* Whether it is not intact, or `path` is another file now than the one that was opened, or none, or has another
 * calibration. Any thread. */
bool model_file_changed(const struct model_file *file, const char *path);
/* What lies beside the file (calibration.h); `ret_refused` says why it is not used, or is empty. Any thread. */
enum model_calibration model_file_calibration(const struct model_file *file, const char **ret_refused);
/* Brings what is on disk into memory, so that a first forward pass does not wait for it; ends early when *stop becomes
 * true. Any thread. Negative errno: it cannot be read any more. */
int model_file_fetch(struct model_file *file, const _Atomic bool *stop);
/* Does the next part of it and moves *at, which begins at 0, over it. 1 while there is more, 0, negative errno. */
int model_file_fetch_part(struct model_file *file, uint64_t *at);
/* How far it has come; begins as zeros. */
struct model_file_enlarging {
        uint64_t at;
        uint32_t in_vain;  /* parts of 2 MiB, the last ones, that stay in small pages */
        uint32_t enlarged; /* and all that do not any more */
};
/* Lets the next 2 MiB lie in a huge page of the page cache if they lie in small ones, by reading them anew where it has
 * to be. The file must be in use by a model; steps may run meanwhile. Any thread. 1 while there is more; 0: that was
 * all, or it seems to be in vain; negative errno. */
int model_file_enlarge_part(struct model_file *file, struct model_file_enlarging *enlarging);
/* Whether anybody else has a reference. Any thread. */
bool model_file_wanted(const struct model_file *file);
/* Finds tensors whose content is that of a tensor in one of `others`, and lets the whole pages of both be the same
 * memory, where they lie alike in their pages; weights on a device are not touched. Only intact files that were opened
 * before this one count, and a file looks once. Steps may run meanwhile. Any thread, but one call at a time. Ends early
 * when *stop becomes true. Negative errno: some are not shared. */
int model_file_share(struct model_file *file, struct model_file *const *others, size_t n, const _Atomic bool *stop);
/* Bytes of weights that both have in the same memory. Any thread. */
uint64_t model_file_shared(const struct model_file *a, const struct model_file *b);
/* Gives back the pages of a file that no model uses awake, after something else has looked at them. */
void model_file_rest(struct model_file *file);

/* Puts the weights of a file on `backend` (in place where it can; once for all models of the file) and reserves the KV
 * arena. The backend must outlive the model. Takes a reference of the file. */
int model_new(struct model **ret, struct backend *backend, struct model_file *file, const struct model_options *options,
              struct reason *reason);
/* model_file_open() and model_new() in one. */
int model_open(struct model **ret, struct backend *backend, const char *path, const struct model_options *options,
               struct reason *reason);
/* No sequence and no step of the model may be left. Takes NULL. */
void model_free(struct model *model);
void model_freep(struct model **model);

/* Gives back the KV arena and the memory of the weights (unless another model of the file is awake); what model_info()
 * and the tokenizer tell stays. No sequence and no step may be left, and none may be made before model_wake(), which
 * undoes it: negative errno when there is no memory; the model sleeps on then. */
void model_sleep(struct model *model);
int model_wake(struct model *model);
bool model_awake(const struct model *model);
/* The model's own reference. */
struct model_file *model_file(const struct model *model);

const struct model_info *model_info(const struct model *model);
/* NULL when the file has no vocabulary. */
const struct tokenizer *model_tokenizer(const struct model *model);
/* NULL when the model has no template of a known family. */
const struct chat_template *model_chat_template(const struct model *model);
uint32_t model_kv_pages_free(const struct model *model);
/* How many rows chose each routed expert of the moe_layer-th layer that has any, in all steps that ended well so far:
 * [experts], owned by the model, kept while it sleeps. Shows what was asked as well as the text does. */
const uint64_t *model_expert_uses(const struct model *model, uint32_t moe_layer);

/* A text in the making: how many tokens are in KV, and the pages that hold them. */
int sequence_new(struct sequence **ret, struct model *model);
/* Gives its pages back. Not while a step that holds it is running. Takes NULL. */
void sequence_free(struct sequence *sequence);
void sequence_freep(struct sequence **sequence);
/* Tokens that are in KV: the position of the next row. */
uint32_t sequence_length(const struct sequence *sequence);
uint32_t sequence_pages(const struct sequence *sequence);
/* Makes room for `tokens` more; on failure nothing is taken. ENGINE_E_PAGES, ENGINE_E_CONTEXT. */
int sequence_reserve(struct sequence *sequence, uint32_t tokens);
/* Counts `tokens` as being in KV that were never computed; what is there is undefined. For trials (step_set_trial()).
 * ENGINE_E_PAGES, ENGINE_E_CONTEXT. */
int sequence_skip(struct sequence *sequence, uint32_t tokens);
/* Forgets every token from `length` on and gives back pages that are empty then. A model that compresses (DeepSeek V4),
 * and a page that others share (prefix.h), can only be cut to whole pages of KV_PAGE_TOKENS: some tokens before
 * `length` may go as well, see sequence_length(). Not while a step that holds the sequence is running. */
void sequence_truncate(struct sequence *sequence, uint32_t length);

/* What a row adds to what its sequence may spend where the router sees most use of it (op_route), thousandths of an
 * expert per MoE layer; and how many it gets at least, while there is so much. */
struct step_budget {
        uint32_t cap_milli, min_milli;
};

#define STEP_BUDGET_NONE UINT32_MAX /* for cap_milli: the row has an allowance instead */

/* The share of one sequence in a step: `count` next tokens of it, in order. Room must be reserved. */
struct step_part {
        struct sequence *sequence;
        const int32_t *tokens;   /* [count], stays untouched until the step ends */
        /* [count]: routed experts that each row may use, summed over the MoE layers. Spread over the layers so that
         * layer l gets floor((l+1)a/L) - floor(la/L), never more than experts_used each. */
        const uint32_t *allowances;
        /* [count], or NULL: no row has one. What the sequence's rows have used in a layer so far is never more than
         * what the plan of the model's calibration gives that layer of the sum of their caps. */
        const struct step_budget *budgets;
        /* Not 0: rows that have budgets ride (op_route). They take ride_experts at least, and else only experts that
         * other rows with the same group number have anyway: so what they compute depends on who else is in the step.
         * Groups are 1 to the number of parts, or 0 for none. Where experts have a capacity ride_experts is 0. */
        uint32_t ride_experts, group;
        uint32_t count;
        /* The first so many of these rows are of the sequence's prompt, 0 to count. Those may be computed by a faster
         * arithmetic (op.h): a row that is computed again gets the same bits if it is told to be what it was. */
        uint32_t prompt;
        uint32_t logits;         /* logits of the last so many of these rows are wanted: 0 to count */

        /* results, valid from the end of the step to the start of the next one */
        const float *logits_out; /* [logits][vocab], NULL if not wanted; owned by the step */
        uint64_t used;           /* routed experts evaluated, summed over rows and layers */
        const uint32_t *used_rows; /* [count], by each of them; owned by the step */
};

/* Reused for one step after the other. */
int step_new(struct step **ret, struct model *model);
/* Another for the same model, of at most `rows_max` rows: its steps may be under way at the same time as those of
 * `other`, over other sequences, with calls of step_advance() for either in any order. They share the memory that only
 * one layer needs. */
int step_new_beside(struct step **ret, struct step *other, uint32_t rows_max);
void step_free(struct step *step);
void step_freep(struct step **step);

/* Begins a forward pass over all rows of all parts; `parts` stays in place and untouched until the step ends. All
 * sequences differ. Nothing has changed if it fails (ENGINE_E_*; -ESTALE as of step_advance()). */
int step_begin(struct step *step, struct step_part *parts, uint32_t n_parts);
/* Does a bounded piece of it (one layer), so that a caller can look after its other work in between. Returns 1 while
 * there is more, 0 when the results are there and the sequences have grown, negative errno when the device failed
 * (the sequences are as before; those of a model that compresses may be cut to whole pages). -ESTALE: something of
 * the model's file is lost. */
int step_advance(struct step *step);
/* Steps from now on are trials, or are none: nobody asked for their rows, which count in no figure of the model. */
void step_set_trial(struct step *step, bool trial);
/* Ends a step that has begun as if the device had failed; nothing if none has. */
void step_give_up(struct step *step);
/* Distinct routed experts whose weights the last step that ended well read, summed over its layers: what its rows
 * shared counts once. */
uint64_t step_experts_read(const struct step *step);

/* One layer of a running step, as an observer sees it; the arrays are on the host and valid during the call only. Rows
 * are those of all parts, in the parts' order. Expert choices are as secret as the text that caused them. */
struct step_view {
        uint32_t layer, rows;
        uint32_t hidden;
        const float *input, *output; /* [rows][hidden] */
        /* with routed experts, else NULL and 0 */
        uint32_t k;
        const int32_t *expert_ids;    /* [rows][k], by falling score, -1 past the count */
        const float *expert_weights;  /* [rows][k] factor on each expert's output */
        const int32_t *expert_counts; /* [rows] */
        /* where the layer has an indexer, else NULL and 0: the keys that it chose */
        uint32_t chosen_k;
        const int32_t *chosen; /* [rows][chosen_k], rising, -1 past the last */
};

/* Looks at what each layer does: which experts it chooses, and what they are worth to its output. */
struct step_observer {
        void (*layer)(const struct step_view *view, void *context);
        void *context;
};

/* From the next step_begin() on every layer is shown to `observer`, which must live until another or NULL replaces it.
 * Costs a round trip to the device and a copy of all rows per layer. -ENOMEM leaves the observer as it was. */
int step_observe(struct step *step, const struct step_observer *observer);
