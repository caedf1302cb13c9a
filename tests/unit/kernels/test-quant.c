/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <string.h>

#include "base/cleanup.h"
#include "fixture.h"
#include "float16.h"
#include "quant.h"
#include "test.h"

TEST(dequantisation_is_exact_to_the_bit_for_every_type_with_a_fixture) {
        char folder[PATH_MAX];
        unsigned found = 0;

        fixture_blocks(folder);
        for (uint32_t type = 0; type < _QUANT_MAX; type++) {
                const struct quant_info *info = quant_info(type);
                _cleanup_(freep) void *blocks = NULL, *expected = NULL, *values = NULL;
                size_t bytes, expected_bytes, n;

                if (!info || !info->dequantize)
                        continue;
                blocks = fixture_read(folder, info->name, ".bin", &bytes);
                expected = fixture_read(folder, info->name, ".f32", &expected_bytes);
                if (!blocks || !expected)
                        continue;
                n = bytes / info->block_bytes * info->block_values;
                assert_se(n * sizeof(float) == expected_bytes);
                values = malloc(expected_bytes);
                assert_se(values);
                info->dequantize(values, blocks, n);
                if (memcmp(values, expected, expected_bytes) != 0) {
                        fprintf(stderr, "%s differs\n", info->name);
                        assert_se(false);
                }
                found++;
        }
        assert_se(found > 0);
}

TEST(dequantisation_takes_blocks_at_any_address) {
        for (uint32_t type = 0; type < _QUANT_MAX; type++) {
                const struct quant_info *info = quant_info(type);
                float at_zero[512], at_one[512];
                unsigned char raw[2 * 512 * sizeof(float)] = {0}, moved[sizeof(raw) + 1];

                if (!info || !info->dequantize)
                        continue;
                for (size_t i = 0; i < sizeof(raw); i++)
                        raw[i] = i * 37 % 113;
                memcpy(moved + 1, raw, sizeof(raw));
                info->dequantize(at_zero, raw, 512);
                info->dequantize(at_one, moved + 1, 512);
                assert_se(memcmp(at_zero, at_one, sizeof(at_zero)) == 0);
        }
}

TEST(unknown_types_have_no_row) {
        assert_se(!quant_info(4)); /* a number that the file format gave up */
        assert_se(!quant_info(_QUANT_MAX));
        assert_se(!quant_info(UINT32_MAX));
        assert_se(strcmp(quant_info(QUANT_Q4_K)->name, "Q4_K") == 0);
        assert_se(!quant_info(QUANT_I32)->weights);
        assert_se(quant_row_bytes(quant_info(QUANT_Q6_K), 512) == 420);
}

TEST(every_half_survives_the_way_through_single_precision) {
        for (uint32_t h = 0; h < 65536; h++) {
                float f = f16_to_f32((uint16_t) h);

                if (isnan(f))
                        assert_se(isnan(f16_to_f32(f16_from_f32(f))));
                else
                        assert_se(f16_from_f32(f) == h);
        }
}

TEST(halves_round_to_nearest_even) {
        for (uint32_t h = 0; h < 0x7bff; h++) {
                float low = f16_to_f32((uint16_t) h), high = f16_to_f32((uint16_t) (h + 1)),
                      middle = (low + high) / 2;

                assert_se(f16_from_f32(middle) == h + (h & 1));
                assert_se(f16_from_f32(nextafterf(middle, low)) == h);
                assert_se(f16_from_f32(nextafterf(middle, high)) == h + 1);
                assert_se(f16_from_f32(-middle) == (0x8000 | (h + (h & 1))));
        }
        assert_se(f16_from_f32(65519.996f) == 0x7bff);
        assert_se(f16_from_f32(65520.0f) == 0x7c00);
        assert_se(f16_from_f32(INFINITY) == 0x7c00);
        assert_se(f16_from_f32(-INFINITY) == 0xfc00);
        assert_se(f16_from_f32(1e-30f) == 0);
}
