/* SPDX-License-Identifier: MIT */
#pragma once

/* What is printed about a finished generation. */

#include <stdbool.h>

#include "generate.h"

/* One object in one line on stdout. An exit code. */
int report_json(const struct moed_model *model, const struct generation *g);
/* What scoring a text gave: a few lines, or with `json` one object in one line. An exit code. */
int report_score(const struct moed_model *model, const struct generation *g, bool json);
/* One line on stderr, with `logprobs` a second one. */
void report_stats(const struct moed_model *model, const struct generation *g, bool logprobs);
/* Ends the text's line where a person or a shell prompt follows. An exit code. */
int report_text_end(const struct generation *g);
