/* SPDX-License-Identifier: MIT */
#include <stdarg.h>

#include "base/reason.h"

void reason_set(struct reason *reason, const char *format, ...) {
        va_list args;

        if (!reason)
                return;
        va_start(args, format);
        vsnprintf(reason->text, sizeof(reason->text), format, args);
        va_end(args);
        for (char *c = reason->text; *c; c++)
                if ((unsigned char) *c < ' ' || *c == 0x7f)
                        *c = '?';
}
