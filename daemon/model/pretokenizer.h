/* SPDX-License-Identifier: MIT */
#pragma once

/* Cuts text into the words within which a byte-level BPE vocabulary merges, by the regular expressions that
 * each model family publishes. Known families are rows of a table; a name that is in none is refused, since a
 * guess would yield wrong tokens silently. A pretokenizer never changes once made; any number of threads may
 * use it. */

#include <stdbool.h>
#include <stddef.h>

#include "base/reason.h"
#include "gguf.h"

enum {
        _PRETOKENIZER_E_SUCCESS,
        PRETOKENIZER_E_UNKNOWN, /* no family of that name */
};

struct pretokenizer;

/* Called with each word in turn; another return value than 0 ends the splitting and is returned by it. */
typedef int (*pretokenizer_word)(void *userdata, const char *word, size_t n);

/* `name` is the file's tokenizer.ggml.pre. 0, PRETOKENIZER_E_UNKNOWN with a reason that lists the known
 * names, or -ENOMEM. */
int pretokenizer_new(struct pretokenizer **ret, struct gguf_string name, struct reason *reason);
void pretokenizer_free(struct pretokenizer *p);

/* Words end to end make up the text, which must be valid UTF-8. Linear in `n`. -ENOMEM, -EOVERFLOW when the
 * regular expression machine gives up. */
int pretokenizer_split(const struct pretokenizer *p, const char *text, size_t n, pretokenizer_word word,
                       void *userdata);

/* The family brings text to NFC first. */
bool pretokenizer_nfc(const struct pretokenizer *p);
/* A word that is a token stays whole, whatever the merges say. */
bool pretokenizer_ignores_merges(const struct pretokenizer *p);
/* Texts begin with the begin-of-text token, unless the file says otherwise. */
bool pretokenizer_adds_bos(const struct pretokenizer *p);
