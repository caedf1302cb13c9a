/* SPDX-License-Identifier: MIT */
#include "input.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

static int input_read(char **ret, size_t *length) {
        _cleanup_(freep) char *text = NULL;
        size_t size = 0, n = 0;

        do {
                if (size - n < 2) {
                        char *grown = realloc(text, size * 2 + 65536);

                        if (!grown)
                                return -ENOMEM;
                        text = grown;
                        size = size * 2 + 65536;
                }
                n += fread(text + n, 1, size - n - 1, stdin);
        } while (!feof(stdin) && !ferror(stdin));
        if (ferror(stdin))
                return -EIO;
        text[n] = 0;
        *ret = steal_ptr(text);
        *length = n;
        return 0;
}

int input_text(char **operands, int n, char **ret, size_t *length) {
        size_t size = 1;
        char *text;

        if (n == 1 && strcmp(operands[0], "-") == 0)
                return input_read(ret, length);
        for (int i = 0; i < n; i++)
                size += strlen(operands[i]) + 1;
        text = malloc(size);
        if (!text)
                return -ENOMEM;
        text[0] = 0;
        *length = 0;
        for (int i = 0; i < n; i++)
                *length += (size_t) sprintf(text + *length, "%s%s", i > 0 ? " " : "", operands[i]);
        *ret = text;
        return 0;
}
