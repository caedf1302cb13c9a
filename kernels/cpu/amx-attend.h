/* SPDX-License-Identifier: MIT */
#pragma once

/* Attention on the matrix unit, over bfloat16 keys and values.
 *
 * Queries and weights are rounded to bfloat16; scores, sums and the output are float32. On random inputs no output is
 * off by more than 1.6 % of their root mean square. (Queries in two parts would help little: the keys' rounding is as
 * large.)
 *
 * Pairs (a row and a head) go 16 at a time, one to a lane: scores come out as [key][pair], so that maxima and sums
 * run along whole vectors, and are turned only when they have become weights. Keys come in blocks at fixed positions,
 * and a block's key that a pair does not see weighs exactly nothing; so a pair's bits do not depend on who is in its
 * job: what is kept is finite (op_kv_store). */

#include <stdbool.h>

#include "amx.h"
#include "variant.h"

enum {
        LANES = 16,
        CHUNK = 32, /* keys or dims of one product */
        BLOCK_CHUNKS = ATTENTION_BLOCK / CHUNK,
        TILE_VALUES = 512, /* bfloat16 */
        TILE_FLOATS = 256,
        FEW_GROUPS = 2,
};

/* What the lanes of a group see: keys [first, last]; the least and greatest of each. */
struct lanes {
        int32_t first[LANES], last[LANES];
        int32_t first_min, first_max, last_min, last_max;
        bool begun; /* many groups: what they have in `out` is more than chance */
};

/* A job in its scratch; all but the scalars in tiles of 1 KiB. */
struct work {
        uint32_t pairs, groups; /* of LANES pairs */
        uint32_t k_chunks, v_chunks;
        float softcap;
        uint16_t *keys;    /* [key][k_chunks], a key's CHUNK dims to a tile's row; few groups: two columns of either */
        uint16_t *values;  /* [key / CHUNK][2 v_chunks], two keys' side by side; few groups: none */
        uint16_t *queries; /* [groups][k_chunks], two dims to a row */
        float *out;        /* [groups][2 v_chunks] */
        float *max, *sum;  /* [groups][LANES] */
        struct lanes *lanes; /* [groups] */
        float *scores;     /* [2 blocks][2 groups][ATTENTION_BLOCK][LANES] */
        uint16_t *weights; /* [2 blocks][2 groups][BLOCK_CHUNKS] */
        uint32_t stage;    /* keys that keys and values have room for */
        uint32_t k_dim, v_dim;
        /* Values are not the first part of their keys: where an even one is, it and the next alternate. In `out` their
         * dims are in order then; else as place_value_pair() leaves them. */
        bool apart;
        const uint16_t *none; /* a key, or a pair of values, of zeros */
};

/* The keys of a job. */
struct source {
        uint32_t first, end;
        uint32_t known; /* at least `end`: find() knows the keys before it */
        bool direct; /* CHUNK keys from a multiple of it on, and their values, lie as the matrix unit takes them */
        /* Where the keys [key, end) and, unless NULL, their values are. */
        void (*find)(const struct source *s, uint32_t key, uint32_t end, const uint16_t **keys,
                     const uint16_t **values);
};

char *amx_attend_take(char **at, size_t bytes);
void amx_attend_init(struct work *w, const struct kv_layer *kv, uint32_t pairs, void *scratch);
/* What the lanes see is set already. */
void amx_attend_bound(struct lanes *l);
/* The queries of a group's lanes, multiplied by `scale`. */
void amx_attend_queries(const struct work *w, uint32_t group, const float *const queries[LANES], uint32_t dim,
                        float scale);
void amx_attend_keys(const struct work *w, const struct source *s);
void amx_attend_store(const struct work *w, const struct attention_part *part, uint32_t dim);
/* Around all that uses the matrix unit. */
uint32_t amx_attend_begin(void);
void amx_attend_end(uint32_t mode);
