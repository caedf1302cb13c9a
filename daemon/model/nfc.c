/* SPDX-License-Identifier: MIT */
#include "nfc.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <utf8proc.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "utf8.h"

/* A code point has at most four in its canonical decomposition. */
enum { DECOMPOSED_MAX = 4, INSERTION_MAX = 16 };

/* No character below U+0300, whose lead byte is 0xcc, composes with or is reordered among others. */
bool nfc_needed(const char *text, size_t n) {
        for (size_t i = 0; i < n; i++)
                if ((uint8_t) text[i] >= 0xcc)
                        return true;
        return false;
}

static uint8_t combining_class(int32_t code) {
        return (uint8_t) utf8proc_get_property(code)->combining_class;
}

static void sort_few(int32_t *marks, size_t n) {
        for (size_t i = 1; i < n; i++) {
                const int32_t mark = marks[i];
                size_t j = i;

                for (; j > 0 && combining_class(marks[j - 1]) > combining_class(mark); j--)
                        marks[j] = marks[j - 1];
                marks[j] = mark;
        }
}

/* By counting: a sort by exchange would be quadratic, and the marks are the client's. */
static int sort_many(int32_t *marks, size_t n) {
        _cleanup_(freep) int32_t *sorted = malloc(n * sizeof(*sorted));
        size_t start[257] = { 0 };

        if (!sorted)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++)
                start[combining_class(marks[i]) + 1]++;
        for (size_t c = 1; c < ELEMENTS(start); c++)
                start[c] += start[c - 1];
        for (size_t i = 0; i < n; i++)
                sorted[start[combining_class(marks[i])]++] = marks[i];
        memcpy(marks, sorted, n * sizeof(*sorted));
        return 0;
}

/* Canonical ordering: each run of characters of non-zero class, stably by class. */
static int reorder(int32_t *codes, size_t n) {
        for (size_t i = 0, end; i < n; i = end) {
                end = i + 1;
                if (combining_class(codes[i]) == 0)
                        continue;
                while (end < n && combining_class(codes[end]) != 0)
                        end++;
                if (end - i <= INSERTION_MAX)
                        sort_few(codes + i, end - i);
                else if (sort_many(codes + i, end - i) < 0)
                        return -ENOMEM;
        }
        return 0;
}

static size_t decompose(const char *text, size_t n, int32_t *codes) {
        size_t count = 0;

        for (size_t i = 0; i < n;) {
                uint32_t code = 0;
                int boundary = 0;
                utf8proc_ssize_t r;

                i += utf8_decode(text + i, n - i, &code);
                r = utf8proc_decompose_char((int32_t) code, codes + count, DECOMPOSED_MAX,
                                            UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &boundary);
                if (r < 1 || r > DECOMPOSED_MAX) {
                        codes[count] = (int32_t) code;
                        r = 1;
                }
                count += (size_t) r;
        }
        return count;
}

int nfc(const char *text, size_t n, char **ret, size_t *ret_n) {
        _cleanup_(freep) int32_t *codes = malloc((n + 1) * DECOMPOSED_MAX * sizeof(*codes));
        _cleanup_(freep) char *out = NULL;
        utf8proc_ssize_t composed;
        size_t count, size = 0;
        int r;

        if (!codes)
                return -ENOMEM;
        count = decompose(text, n, codes);
        r = reorder(codes, count);
        if (r)
                return r;
        composed =
                utf8proc_normalize_utf32(codes, (utf8proc_ssize_t) count, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        if (composed < 0)
                return -ENOMEM;
        out = malloc((size_t) composed * 4 + 1);
        if (!out)
                return -ENOMEM;
        for (utf8proc_ssize_t i = 0; i < composed; i++)
                size += utf8_encode((uint32_t) codes[i], out + size);
        *ret = steal_ptr(out);
        *ret_n = size;
        return 0;
}
