/* SPDX-License-Identifier: MIT */
#include "utf8.h"

#include <stdbool.h>
#include <string.h>

/* What may follow a lead byte (Unicode 15, table 3-7): the number of continuation bytes and the range of the
 * first. */
struct lead {
        uint8_t follow, low, high;
};

static bool lead_of(uint8_t c, struct lead *ret) {
        struct lead l = { .low = 0x80, .high = 0xbf };

        if (c >= 0xc2 && c <= 0xdf)
                l.follow = 1;
        else if (c >= 0xe0 && c <= 0xef)
                l.follow = 2;
        else if (c >= 0xf0 && c <= 0xf4)
                l.follow = 3;
        else
                return false;
        if (c == 0xe0)
                l.low = 0xa0;
        if (c == 0xf0)
                l.low = 0x90;
        if (c == 0xed)
                l.high = 0x9f;
        if (c == 0xf4)
                l.high = 0x8f;
        *ret = l;
        return true;
}

/* How many of the `n` bytes from `s` on agree with a character that starts there; *ret_need is its whole
 * length. */
static unsigned agree(const uint8_t *s, size_t n, unsigned *ret_need) {
        struct lead l;
        unsigned i;

        *ret_need = 1;
        if (n == 0)
                return 0;
        if (s[0] < 0x80)
                return 1;
        if (!lead_of(s[0], &l))
                return 0;
        *ret_need = 1u + l.follow;
        for (i = 1; i < *ret_need && i < n; i++) {
                if (s[i] < l.low || s[i] > l.high)
                        return 0;
                l.low = 0x80;
                l.high = 0xbf;
        }
        return i;
}

unsigned utf8_decode(const char *s, size_t n, uint32_t *ret) {
        const uint8_t *u = (const uint8_t *) s;
        unsigned need;

        if (agree(u, n, &need) != need)
                return 0;
        switch (need) {
        case 1:
                *ret = u[0];
                break;
        case 2:
                *ret = (u[0] & 0x1fu) << 6 | (u[1] & 0x3fu);
                break;
        case 3:
                *ret = (u[0] & 0xfu) << 12 | (u[1] & 0x3fu) << 6 | (u[2] & 0x3fu);
                break;
        default:
                *ret = (u[0] & 7u) << 18 | (u[1] & 0x3fu) << 12 | (u[2] & 0x3fu) << 6 | (u[3] & 0x3fu);
        }
        return need;
}

unsigned utf8_encode(uint32_t code, char out[4]) {
        if (code < 0x80) {
                out[0] = (char) code;
                return 1;
        }
        if (code < 0x800) {
                out[0] = (char) (0xc0 | code >> 6);
                out[1] = (char) (0x80 | (code & 0x3f));
                return 2;
        }
        if (code < 0x10000) {
                out[0] = (char) (0xe0 | code >> 12);
                out[1] = (char) (0x80 | (code >> 6 & 0x3f));
                out[2] = (char) (0x80 | (code & 0x3f));
                return 3;
        }
        out[0] = (char) (0xf0 | code >> 18);
        out[1] = (char) (0x80 | (code >> 12 & 0x3f));
        out[2] = (char) (0x80 | (code >> 6 & 0x3f));
        out[3] = (char) (0x80 | (code & 0x3f));
        return 4;
}

size_t utf8_valid(const char *s, size_t n) {
        size_t i = 0;

        while (i < n) {
                uint64_t word;
                unsigned need;

                if (n - i >= sizeof(word)) {
                        memcpy(&word, s + i, sizeof(word));
                        if ((word & UINT64_C(0x8080808080808080)) == 0) {
                                i += sizeof(word);
                                continue;
                        }
                }
                if (agree((const uint8_t *) s + i, n - i, &need) != need)
                        break;
                i += need;
        }
        return i;
}

size_t utf8_invalid(const char *s, size_t n) {
        uint32_t code;
        size_t i = 0;

        while (i < n && utf8_decode(s + i, n - i, &code) == 0)
                i++;
        return i;
}

unsigned utf8_pending(const char *s, size_t n) {
        for (unsigned back = 1; back <= 3 && back <= n; back++) {
                const uint8_t *u = (const uint8_t *) s + n - back;
                unsigned need;

                if ((*u & 0xc0) == 0x80)
                        continue;
                return agree(u, back, &need) == back && need > back ? back : 0;
        }
        return 0;
}
