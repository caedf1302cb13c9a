/* SPDX-License-Identifier: MIT */
#include "convert-tool.h"

#include <stdio.h>
#include <sysexits.h>

#include "convert.h"
#include "tool.h"

int convert_main(const char *type, const char *in, const char *out, bool force) {
        _cleanup_(gguf_freep) struct gguf *g = NULL;
        struct reason reason = REASON_INIT;
        uint32_t number;
        int r;

        if (convert_type(type, &number, &reason)) {
                fprintf(stderr, "moed: %s\n", reason.text);
                return EX_USAGE;
        }
        r = gguf_open(&g, in, &reason);
        if (r)
                return tool_failed(in, r, &reason);
        tool_catch_signals();
        r = convert_file(g, number, out, force, &tool_stop, &reason);
        return r ? tool_failed(out, r, &reason) : EX_OK;
}
