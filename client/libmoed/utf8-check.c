/* SPDX-License-Identifier: MIT */
#include "utf8-check.h"

#include <stdint.h>

#include "base/util.h"

/* Bytes in the sequence that `lead` begins, and the range of its second byte (RFC 3629, section 4); 0: no
 * lead byte. */
static size_t utf8_lead(uint8_t lead, uint8_t *low, uint8_t *high) {
        *low = 0x80;
        *high = 0xbf;
        if (lead < 0x80)
                return 1;
        if (lead < 0xc2 || lead > 0xf4)
                return 0;
        if (lead == 0xe0)
                *low = 0xa0;
        if (lead == 0xed)
                *high = 0x9f;
        if (lead == 0xf0)
                *low = 0x90;
        if (lead == 0xf4)
                *high = 0x8f;
        return lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

bool utf8_next(const char *s, size_t n, size_t *length) {
        const uint8_t *u = (const uint8_t *) s;
        uint8_t low, high;
        size_t want = utf8_lead(u[0], &low, &high), i;

        for (i = 1; i < want && i < n; i++) {
                if (u[i] < low || u[i] > high)
                        break;
                low = 0x80;
                high = 0xbf;
        }
        *length = i;
        return want > 0 && i == want;
}

size_t utf8_open_tail(const char *s, size_t n) {
        for (size_t back = 1; back <= MIN(n, (size_t) 3); back++) {
                uint8_t low, high;
                size_t length;

                if (((uint8_t) s[n - back] & 0xc0) == 0x80)
                        continue;
                if (utf8_next(s + n - back, back, &length) || length < back)
                        return 0;
                return utf8_lead((uint8_t) s[n - back], &low, &high) > back ? back : 0;
        }
        return 0;
}
