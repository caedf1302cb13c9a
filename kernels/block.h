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

struct block_q4_1 {
        uint16_t d, m; /* value = d × q + m */
        uint8_t q[16];
} __attribute__((packed));

struct block_q5_0 {
        uint16_t d;
        uint32_t qh; /* bit i: the fifth bit of value i; minus 16 */
        uint8_t q[16];
} __attribute__((packed));

struct block_q5_1 {
        uint16_t d, m;
        uint32_t qh;
        uint8_t q[16];
} __attribute__((packed));

struct block_iq4_nl {
        uint16_t d;
        uint8_t q[16]; /* codes of levels that lie unevenly */
} __attribute__((packed));

/* OCP Microscaling Formats (MX) 1.0: 4-bit floats E2M1 with a power of two, E8M0. */
struct block_mxfp4 {
        uint8_t e;
        uint8_t q[16];
} __attribute__((packed));

/* Four sub-blocks of 16 with a scale E4M3 each; in each of them low nibbles first. */
struct block_nvfp4 {
        uint8_t d[4];
        uint8_t q[32];
} __attribute__((packed));

/* Sixteen sub-blocks of 16: value = d × (low nibble of scale) × q - dmin × (high nibble). */
struct block_q2_k {
        uint8_t scales[16];
        uint8_t q[64]; /* 32 bytes hold 128 values: two bits of each are the first 32, and so on */
        uint16_t d, dmin;
} __attribute__((packed));

/* Sixteen sub-blocks of 16: value = d × (scale - 32) × q; a third bit that is clear takes 4 from q. */
struct block_q3_k {
        uint8_t qh[32]; /* bit k of byte l: value 32 k + l */
        uint8_t q[64];  /* as in Q2_K */
        uint8_t scales[12];
        uint16_t d;
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

struct block_q5_k {
        uint16_t d, dmin;
        uint8_t scales[12]; /* as in Q4_K */
        uint8_t qh[32];     /* bit k of byte l: the fifth bit of value 32 k + l */
        uint8_t q[128];
} __attribute__((packed));

/* Eight sub-blocks of 32: value = d × (scale - 32) × level of IQ4_NL. */
struct block_iq4_xs {
        uint16_t d, scales_high; /* two bits a sub-block */
        uint8_t scales_low[4];
        uint8_t q[128];
} __attribute__((packed));

struct block_iq2_xxs {
        uint16_t d;
        uint32_t q[16]; /* a sub-block of 32 is four codes; then four times 7 bits of signs, 4 bits of scale */
} __attribute__((packed));

struct block_iq2_xs {
        uint16_t d;
        uint16_t q[32]; /* code of 9 bits, 7 bits of signs */
        uint8_t scales[8];
} __attribute__((packed));

struct block_iq2_s {
        uint16_t d;
        uint8_t q[32], signs[32];
        uint8_t qh[8]; /* two more bits a code */
        uint8_t scales[8];
} __attribute__((packed));

struct block_iq3_xxs {
        uint16_t d;
        uint8_t q[64];
        uint32_t signs[8]; /* four times 7 bits of signs, 4 bits of scale */
} __attribute__((packed));

struct block_iq3_s {
        uint16_t d;
        uint8_t q[64];
        uint8_t qh[8]; /* a ninth bit a code */
        uint8_t signs[32];
        uint8_t scales[4];
} __attribute__((packed));

struct block_iq1_s {
        uint16_t d;
        uint8_t q[32];
        uint16_t qh[8]; /* four times three more bits of a code, 3 bits of scale, the sign of the shift */
} __attribute__((packed));

struct block_iq1_m {
        uint8_t q[32];
        uint8_t qh[16];     /* a nibble a code: three more bits, the sign of the shift */
        uint16_t scales[4]; /* four times 3 bits of scale; the top nibbles are d */
} __attribute__((packed));

/* Three levels, five to a byte as digits of base 3. */
struct block_tq1_0 {
        uint8_t q[48]; /* 32 bytes hold 160 values, 16 hold 80 */
        uint8_t qh[4]; /* four values each */
        uint16_t d;
} __attribute__((packed));

struct block_tq2_0 {
        uint8_t q[64]; /* as in Q2_K */
        uint16_t d;
} __attribute__((packed));

_Static_assert(sizeof(struct block_q4_0) == 18, "Q4_0");
_Static_assert(sizeof(struct block_q8_0) == 34, "Q8_0");
_Static_assert(sizeof(struct block_q4_k) == 144, "Q4_K");
_Static_assert(sizeof(struct block_q6_k) == 210, "Q6_K");
_Static_assert(sizeof(struct block_q4_1) == 20, "Q4_1");
_Static_assert(sizeof(struct block_q5_0) == 22, "Q5_0");
_Static_assert(sizeof(struct block_q5_1) == 24, "Q5_1");
_Static_assert(sizeof(struct block_iq4_nl) == 18, "IQ4_NL");
_Static_assert(sizeof(struct block_mxfp4) == 17, "MXFP4");
_Static_assert(sizeof(struct block_nvfp4) == 36, "NVFP4");
_Static_assert(sizeof(struct block_q2_k) == 84, "Q2_K");
_Static_assert(sizeof(struct block_q3_k) == 110, "Q3_K");
_Static_assert(sizeof(struct block_q5_k) == 176, "Q5_K");
_Static_assert(sizeof(struct block_iq4_xs) == 136, "IQ4_XS");
_Static_assert(sizeof(struct block_iq2_xxs) == 66, "IQ2_XXS");
_Static_assert(sizeof(struct block_iq2_xs) == 74, "IQ2_XS");
_Static_assert(sizeof(struct block_iq2_s) == 82, "IQ2_S");
_Static_assert(sizeof(struct block_iq3_xxs) == 98, "IQ3_XXS");
_Static_assert(sizeof(struct block_iq3_s) == 110, "IQ3_S");
_Static_assert(sizeof(struct block_iq1_s) == 50, "IQ1_S");
_Static_assert(sizeof(struct block_iq1_m) == 56, "IQ1_M");
_Static_assert(sizeof(struct block_tq1_0) == 54, "TQ1_0");
_Static_assert(sizeof(struct block_tq2_0) == 66, "TQ2_0");

/* Scale and min of sub-block j of Q4_K and Q5_K. The first four lie in the low 6 bits of bytes 0-3 and 4-7; the others
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
