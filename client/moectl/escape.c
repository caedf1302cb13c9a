/* SPDX-License-Identifier: MIT */
#include "escape.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "utf8-check.h"

/* Ranges of characters that leave no mark of their own. */
static const struct range {
        uint32_t first, last;
} unseen[] = {
        { 0x80, 0x9f },       /* C1 controls: U+009B begins an escape sequence */
        { 0xad, 0xad },       /* soft hyphen */
        { 0x34f, 0x34f },     /* joiner */
        { 0x61c, 0x61c },     /* direction */
        { 0x115f, 0x1160 },   /* fillers */
        { 0x17b4, 0x17b5 },   /* vowels without a form */
        { 0x180b, 0x180f },   /* separators and variants */
        { 0x200b, 0x200f },   /* spaces without width, joiners, directions */
        { 0x2028, 0x202e },   /* line ends, directions */
        { 0x2060, 0x206f },   /* joiners, operators, directions */
        { 0x3164, 0x3164 },   /* filler */
        { 0xd800, 0xf8ff },   /* what UTF-8 has not, private */
        { 0xfe00, 0xfe0f },   /* variants */
        { 0xfeff, 0xfeff },   /* byte order mark */
        { 0xffa0, 0xffa0 },   /* filler */
        { 0xfff0, 0xfffb },   /* annotations */
        { 0xe0000, 0x10ffff }, /* tags, variants, private */
};

static bool is_unseen(uint32_t c) {
        for (size_t i = 0; i < ELEMENTS(unseen); i++)
                if (c >= unseen[i].first && c <= unseen[i].last)
                        return true;
        return false;
}

/* Of a whole character of `length` bytes. */
static uint32_t decode(const char *s, size_t length) {
        uint32_t c = (uint8_t) s[0] & (length == 1 ? 0x7f : 0x7fu >> length);

        for (size_t i = 1; i < length; i++)
                c = c << 6 | ((uint8_t) s[i] & 0x3f);
        return c;
}

static bool is_printable(const char *s, size_t length) {
        uint32_t c = decode(s, length);

        return c >= 0x20 && c != 0x7f && !is_unseen(c);
}

char *escape(const char *text) {
        size_t n = strlen(text), length;
        char *ret = malloc(n * 4 + 1), *to = ret; /* a byte becomes four, of a character's bytes none more than that */

        if (!ret)
                return NULL;
        for (const char *s = text; *s; s += length) {
                bool whole = utf8_next(s, n - (size_t) (s - text), &length);

                if (whole && is_printable(s, length))
                        to = (char *) memcpy(to, s, length) + length;
                else if (whole && length > 1)
                        to += sprintf(to, length < 4 ? "\\u%04x" : "\\U%08x", decode(s, length));
                else
                        for (size_t i = 0; i < length; i++)
                                to += sprintf(to, "\\x%02x", (uint8_t) s[i]);
        }
        *to = '\0';
        return ret;
}
