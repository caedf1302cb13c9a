/* SPDX-License-Identifier: MIT */
#include "gguf-split.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int gguf_split_read(struct gguf_split *ret, const struct gguf *g, struct reason *reason) {
        struct gguf_split s;

        if (gguf_get_u32_or(g, "split.count", 1, &s.count, reason) ||
            gguf_get_u32_or(g, "split.no", 0, &s.number, reason) ||
            gguf_get_u32_or(g, "split.tensors.count", UINT32_MAX, &s.tensors, reason))
                return GGUF_E_INVALID;
        if (s.count == 0) /* some writers say so of a whole file */
                s.count = 1;
        if (s.count > GGUF_SPLIT_MAX || s.number >= s.count)
                return reason_return(reason, GGUF_E_INVALID,
                                     "%.60s: 'split.no' is %u and 'split.count' %u; expected a part of at most %d",
                                     gguf_name(g), s.number, s.count, (int) GGUF_SPLIT_MAX);
        *ret = s;
        return 0;
}

int gguf_split_path(char **ret, const char *path, uint32_t number, uint32_t count, struct reason *reason) {
        size_t length = strlen(path), end;
        char first[40], part[40], *text;

        end = (size_t) snprintf(first, sizeof(first), "-00001-of-%05u.gguf", count);
        if (length <= end || strcmp(path + length - end, first) != 0)
                return reason_return(reason, GGUF_E_INVALID,
                                     "%.100s: the first of %u files; its name must end in %s, so that the others are "
                                     "found beside it",
                                     path, count, first);
        snprintf(part, sizeof(part), "-%05u-of-%05u.gguf", number + 1, count);
        text = strdup(path);
        if (!text)
                return -ENOMEM;
        memcpy(text + length - end, part, end);
        *ret = text;
        return 0;
}
