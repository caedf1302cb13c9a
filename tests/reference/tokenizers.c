/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "fixture-tokenizer.h"
#include "reference.h"

void run_tokenizer(struct reference *r, const char *path, const char *name) {
        struct reason reason = REASON_INIT;
        struct fixture_tokenizer f = { 0 };
        int error = fixture_tokenizer_run(&f, path, &reason);

        /* A kind of vocabulary or a family of words that the tables do not have. */
        if (error > 0 && strstr(reason.text, "is unknown; known are"))
                say_skip(r, name, "%s", reason.text);
        else if (error)
                say(r, false, name, "%s", error > 0 ? reason.text : strerror(-error));
        else if (f.mismatches > 0)
                say(r, false, name, "%zu of %zu texts differ; first: %s", f.mismatches, f.cases,
                    f.first.text);
        else
                say(r, f.cases > 0, name, "%zu texts", f.cases);
}
