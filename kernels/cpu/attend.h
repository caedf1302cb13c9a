/* SPDX-License-Identifier: MIT */
#pragma once

/* Attention over long contexts, cut for threads. A row's keys are cut at multiples of ATTENTION_SPLIT; what each
 * cut comes to is computed on its own, and they are joined in order, the sink first. Where the cuts are depends
 * on the row alone, so its bits do too, whichever threads compute them, at once or one after the other. */

#include "cpu.h"

/* Rows of one sequence and some heads of theirs that share keys, and the splits that any of them sees. */
struct attend_chain {
        uint32_t first, rows, head, heads;
        uint32_t begin, end;
};

struct attend {
        const void *op;
        const struct cpu_variant *variant;
        struct deal *deal;           /* for attend_run() */
        uint32_t rows, heads, v_dim; /* of the call */
        uint32_t pairs;              /* most rows × heads of a chain */
        const float *sinks;
        float *out;

        /* The chains, longest last where they differ. */
        uint64_t chains;
        struct attend_chain (*chain)(const struct attend *a, uint64_t i);
        /* What one split comes to for a chain. */
        void (*part)(const struct attend *a, const struct attend_chain *c, uint32_t split,
                     const struct attention_part *part, void *scratch);

        /* attend_plan()'s */
        size_t job_bytes;  /* scratch that part() gets */
        uint32_t slots;    /* splits of one chain that can be computed at once */
        size_t max_at, sum_at, jobs_at, parts_at, waves_at;
        char *scratch;
};

/* Adds to `total` the scratch that a run takes; `scratch` will be where the total began. */
void attend_plan(struct attend *a, const struct kv_layer *kv, unsigned threads, size_t *total);
void attend_run(struct attend *a, struct pool *pool);
