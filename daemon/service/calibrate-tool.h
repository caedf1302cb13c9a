/* SPDX-License-Identifier: MIT */
#pragma once

/* `moed --calibrate MODEL --text FILE`: what `moectl calibrate` runs. */

#include <stdbool.h>
#include <stdint.h>

enum {
        CALIBRATE_TOKENS = 8192, /* unless told */
        CALIBRATE_TOKENS_MAX = 1024 * 1024,
};

struct calibrate_call {
        const char *model;
        const char *text;   /* "-": standard input */
        const char *out;    /* NULL: beside the model, where it is found */
        uint32_t tokens;    /* of the text, at most */
        uint32_t threads;   /* 0: all */
        bool predictor;
        bool special;       /* control tokens may be spelled in the text */
        bool force, json;
};

/* Returns the exit status. */
int calibrate_main(const struct calibrate_call *call);
