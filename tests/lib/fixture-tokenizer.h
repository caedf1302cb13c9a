/* SPDX-License-Identifier: MIT */
#pragma once

/* Runs a folder of tokenizer fixtures: vocab.gguf with pairs.bin, pairs-nfc.bin and pairs-tied.bin, those
 * that are there. Each text must give the ids that are written down, with special tokens recognised and
 * without, and the ids must give back the text. Of tied segmentations only the score and the text must agree.
 */

#include <stddef.h>

#include "base/reason.h"

struct fixture_tokenizer {
        size_t cases, mismatches;
        struct reason first; /* what differed first */
};

/* 0; -ENOENT when the folder has no vocab.gguf; another negative errno or a positive error of the model
 * library, with `reason`, when something could not be read or the vocabulary is refused. */
int fixture_tokenizer_run(struct fixture_tokenizer *ret, const char *folder, struct reason *reason);
