/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <string.h>

#include "float16.h"
#include "quant.h"
#include "test.h"

/* What the `gguf` Python package (quants.quantize) makes of the same values. */
static const float values[32] = {
        0.0f,
        1.0f,
        -1.0f,
        0.5f,
        -0.5f,
        127.0f,
        -127.0f,
        2.5f,
        -2.5f,
        3.5f,
        -3.5f,
        63.5f,
        -63.5f,
        0.25f,
        100.49999f,
        -100.5f,
        1e-3f,
        -1e-3f,
        12.3456f,
        -77.7777f,
        0.0f,
        0.1f,
        0.2f,
        (float) (0.1 * 3),
        0.4f,
        0.5f,
        (float) (0.1 * 6),
        (float) (0.1 * 7),
        0.8f,
        0.9f,
        1.0f,
        1.1f,
};

static const uint8_t expected_q8_0[34] = {
        0x00, 0x3c, 0x00, 0x01, 0xff, 0x01, 0xff, 0x7f, 0x81, 0x03, 0xfd, 0x04, 0xfc, 0x40, 0xc0, 0x00, 0x64,
        0x9b, 0x00, 0x00, 0x0c, 0xb2, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01,
};

/* 32,000 values from -8 to 8 that anybody can make again. */
static void fill(float *ret, uint32_t seed) {
        for (size_t i = 0; i < 32000; i++) {
                seed = seed * 1664525 + 1013904223;
                ret[i] = ((float) (seed >> 8 & 0xffff) - 32768.0f) * 0x1p-12f;
        }
}

/* FNV-1a */
static uint64_t hash(const uint8_t *data, size_t n) {
        uint64_t h = UINT64_C(0xcbf29ce484222325);

        for (size_t i = 0; i < n; i++)
                h = (h ^ data[i]) * UINT64_C(0x100000001b3);
        return h;
}

TEST(q8_0_is_the_reference_s_block) {
        uint8_t made[35];

        quant_info(QUANT_Q8_0)->quantize(made + 1, values, 32);
        assert_se(memcmp(made + 1, expected_q8_0, sizeof(expected_q8_0)) == 0);
}

TEST(formats_are_the_reference_s_to_the_bit_on_many_values) {
        static const struct {
                uint32_t type;
                uint64_t hashes[2];
        } expected[] = {
                {QUANT_Q8_0, {UINT64_C(0x563364640fb8f9aa), UINT64_C(0x803af876d40f906b)}},
                {QUANT_F16, {UINT64_C(0x1c124fbcf1a2ab5d), UINT64_C(0x01fd9649fe8ce543)}},
                {QUANT_BF16, {UINT64_C(0x54c90dfc67c8fd52), UINT64_C(0xfeece2d93a7e712b)}},
        };
        static float many[32000];
        static uint8_t made[64000];

        for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++)
                for (uint32_t k = 0; k < 2; k++) {
                        const struct quant_info *info = quant_info(expected[i].type);

                        fill(many, k + 1);
                        info->quantize(made, many, 32000);
                        assert_se(hash(made, quant_row_bytes(info, 32000)) == expected[i].hashes[k]);
                }
}

TEST(zeros_and_the_smallest_values_make_zeros) {
        float zeros[32] = {0.0f}, smallest[32] = {0x1p-149f, -0x1p-149f, 0x1p-128f};
        uint8_t made[34], none[34] = {0};

        quant_info(QUANT_Q8_0)->quantize(made, zeros, 32);
        assert_se(memcmp(made, none, sizeof(made)) == 0);
        quant_info(QUANT_Q8_0)->quantize(made, smallest, 32);
        assert_se(memcmp(made, none, sizeof(made)) == 0);
}

TEST(the_largest_value_of_a_format_survives) {
        for (uint32_t type = 0; type < _QUANT_MAX; type++) {
                const struct quant_info *info = quant_info(type);
                float large[32] = {0.0f}, back[32];
                uint8_t made[128];

                if (!info || !info->quantize)
                        continue;
                large[0] = info->max;
                info->quantize(made, large, 32);
                info->dequantize(back, made, 32);
                assert_se(isfinite(back[0]) && back[0] > info->max * 0.99f && back[1] == 0.0f);
        }
}

TEST(formats_that_need_a_search_are_not_made) {
        assert_se(!quant_info(QUANT_Q4_K)->quantize && !quant_info(QUANT_Q4_0)->quantize &&
                  !quant_info(QUANT_I32)->quantize);
}
