/* SPDX-License-Identifier: MIT */
#pragma once

/* The blocks of GGUF's formats as they lie in the file: little-endian, no alignment. Layouts: GGUF
 * specification and the tables of the `gguf` Python package. `d` are half-precision scales, as bits. */

#include <stdint.h>

struct block_q4_0 {
        uint16_t d;
        uint8_t q[16]; /* low nibbles: values 0 to 15, high nibbles: 16 to 31; minus 8 */
} __attribute__((packed));

struct block_q8_0 {
        uint16_t d;
        int8_t q[32];
} __attribute__((packed));

/* Eight sub-blocks of 32: value = d × scale × q - dmin × min, with 6-bit scales and mins packed in 12 bytes.
 */
struct block_q4_k {
        uint16_t d, dmin;
        uint8_t scales[12];
        uint8_t q[128]; /* 32 bytes hold 64 values: the low nibbles are the first 32 */
} __attribute__((packed));

/* Sixteen sub-blocks of 16: value = d × scale × (q - 32). */
struct block_q6_k {
        uint8_t ql[128]; /* 64 bytes hold the low nibbles of 128 values: l, l + 32 low; l + 64, l + 96 high */
        uint8_t qh[64];  /* 32 bytes hold the high two bits of the same 128 values */
        int8_t scales[16];
        uint16_t d;
} __attribute__((packed));

_Static_assert(sizeof(struct block_q4_0) == 18, "Q4_0");
_Static_assert(sizeof(struct block_q8_0) == 34, "Q8_0");
_Static_assert(sizeof(struct block_q4_k) == 144, "Q4_K");
_Static_assert(sizeof(struct block_q6_k) == 210, "Q6_K");

/* Scale and min of sub-block j of Q4_K. The first four lie in the low 6 bits of bytes 0-3 and 4-7; the others
 * have their low nibbles in bytes 8-11 and their high two bits on top of the first four. */
static inline void q4_k_scale_min(const uint8_t s[12], unsigned j, uint8_t *scale, uint8_t *min) {
        if (j < 4) {
                *scale = s[j] & 63;
                *min = s[j + 4] & 63;
        } else {
                *scale = (s[j + 4] & 15) | (s[j - 4] >> 6 << 4);
                *min = s[j + 4] >> 4 | (s[j] >> 6 << 4);
        }
}

/* The 6-bit values of half `half` (128 values) of a Q6_K block, 0 to 63. */
static inline void q6_k_unpack(uint8_t q[128], const struct block_q6_k *b, unsigned half) {
        const uint8_t *ql = b->ql + half * 64, *qh = b->qh + half * 32;

        for (unsigned l = 0; l < 32; l++) {
                q[l] = (ql[l] & 15) | (qh[l] & 3) << 4;
                q[l + 32] = (ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4;
                q[l + 64] = ql[l] >> 4 | (qh[l] >> 4 & 3) << 4;
                q[l + 96] = ql[l + 32] >> 4 | qh[l] >> 6 << 4;
        }
}
