/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <string.h>

#include "base/util.h"
#include "block.h"
#include "float16.h"
#include "machine.h"
#include "sample.h"
#include "test.h"
#include "variant.h"

const enum quant_type sample_types[] = {
        QUANT_F32,    QUANT_F16,   QUANT_BF16,    QUANT_Q4_0,  QUANT_Q4_1,  QUANT_Q5_0,  QUANT_Q5_1,
        QUANT_Q8_0,   QUANT_Q2_K,  QUANT_Q3_K,    QUANT_Q4_K,  QUANT_Q5_K,  QUANT_Q6_K,  QUANT_IQ2_XXS,
        QUANT_IQ2_XS, QUANT_IQ2_S, QUANT_IQ3_XXS, QUANT_IQ3_S, QUANT_IQ1_S, QUANT_IQ1_M, QUANT_IQ4_NL,
        QUANT_IQ4_XS, QUANT_TQ1_0, QUANT_TQ2_0,   QUANT_MXFP4, QUANT_NVFP4, _QUANT_MAX,
};

/* splitmix64 */
uint32_t sample_u32(struct sample *s) {
        uint64_t z = s->state += UINT64_C(0x9e3779b97f4a7c15);

        z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
        return (uint32_t) (z >> 32);
}

float sample_float(struct sample *s) {
        return (float) (int32_t) sample_u32(s) * 0x1p-31f;
}

float *sample_floats(struct sample *s, size_t n) {
        float *values = malloc(MAX(n, 1U) * sizeof(*values));

        assert_se(values);
        for (size_t i = 0; i < n; i++)
                values[i] = sample_float(s);
        return values;
}

static uint16_t sample_scale(struct sample *s) {
        return f16_from_f32(sample_float(s) * 0.01f);
}

/* Where a block has a scale, and maybe a second one; the rest of it may be any bits. */
static void set_scales(struct sample *s, enum quant_type type, char *block) {
        static const struct {
                uint16_t at[2]; /* plus 1; 0: none */
        } scales[_QUANT_MAX] = {
                [QUANT_Q4_0] = {{1}},    [QUANT_Q4_1] = {{1, 3}}, [QUANT_Q5_0] = {{1}},
                [QUANT_Q5_1] = {{1, 3}}, [QUANT_Q8_0] = {{1}},    [QUANT_Q2_K] = {{81, 83}},
                [QUANT_Q3_K] = {{109}},  [QUANT_Q4_K] = {{1, 3}}, [QUANT_Q5_K] = {{1, 3}},
                [QUANT_Q6_K] = {{209}},  [QUANT_IQ2_XXS] = {{1}}, [QUANT_IQ2_XS] = {{1}},
                [QUANT_IQ2_S] = {{1}},   [QUANT_IQ3_XXS] = {{1}}, [QUANT_IQ3_S] = {{1}},
                [QUANT_IQ1_S] = {{1}},   [QUANT_IQ4_NL] = {{1}},  [QUANT_IQ4_XS] = {{1}},
                [QUANT_TQ1_0] = {{53}},  [QUANT_TQ2_0] = {{65}},
        };

        for (unsigned i = 0; i < 2; i++)
                if (scales[type].at[i]) {
                        uint16_t d = sample_scale(s);

                        memcpy(block + scales[type].at[i] - 1, &d, sizeof(d));
                }
        if (type == QUANT_MXFP4)
                *block = (char) (110 + sample_u32(s) % 16);
        /* The top nibbles of four numbers are one half. */
        if (type == QUANT_IQ1_M)
                for (unsigned i = 0; i < 4; i++)
                        block[48 + 2 * i + 1] =
                                (char) ((block[48 + 2 * i + 1] & 15) | (i == 3 ? 0x20 : 0x10));
}

void *sample_weights(struct sample *s, enum quant_type type, size_t n) {
        const struct quant_info *info = quant_info(type);
        size_t bytes = quant_row_bytes(info, n);
        char *data = malloc(bytes);

        assert_se(data);
        for (size_t i = 0; i < bytes; i += sizeof(uint32_t)) {
                uint32_t random = sample_u32(s);

                memcpy(data + i, &random, MIN(sizeof(random), bytes - i));
        }
        for (size_t i = 0; i < n && type == QUANT_F32; i++)
                ((float *) data)[i] = sample_float(s);
        for (size_t i = 0; i < n && type == QUANT_F16; i++)
                ((uint16_t *) data)[i] = f16_from_f32(sample_float(s));
        for (size_t i = 0; i < n && type == QUANT_BF16; i++)
                ((uint16_t *) data)[i] = (uint16_t) (float_bits(sample_float(s)) >> 16);
        for (size_t i = 0; i < n && info->block_values > 1; i += info->block_values)
                set_scales(s, type, data + quant_row_bytes(info, i));
        return data;
}

struct backend *sample_backend(const char *isa, unsigned threads) {
        struct backend *b;

        unsetenv("MOED_ISA");
        if (strcmp(cpu_variant_choose(isa, machine_cpu_bits())->name, isa) != 0)
                return NULL;
        assert_se(backend_cpu_new(&b, &(struct backend_cpu_options){.threads = threads, .isa = isa}) == 0);
        return b;
}

struct backend *sample_backend_ref(void) {
        struct backend *b;

        assert_se(backend_ref_new(&b) == 0);
        return b;
}

double sample_difference(const float *got, const float *expected, size_t n) {
        double square = 0.0, worst = 0.0;

        for (size_t i = 0; i < n; i++) {
                if (isfinite(got[i]) != isfinite(expected[i]))
                        return INFINITY;
                if (!isfinite(got[i]))
                        continue;
                square += (double) expected[i] * expected[i];
                worst = fmax(worst, fabs((double) got[i] - expected[i]));
        }
        return worst == 0.0 ? 0.0 : worst / sqrt(square / (double) n);
}
