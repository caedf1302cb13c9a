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
        QUANT_F32, QUANT_F16, QUANT_BF16, QUANT_Q8_0, QUANT_Q4_0, QUANT_Q4_K, QUANT_Q6_K, _QUANT_MAX,
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

static void set_scales(struct sample *s, enum quant_type type, char *block) {
        uint16_t d = sample_scale(s), dmin = sample_scale(s);

        if (type == QUANT_Q6_K) {
                memcpy(block + sizeof(struct block_q6_k) - 2, &d, 2);
                return;
        }
        memcpy(block, &d, 2);
        if (type == QUANT_Q4_K)
                memcpy(block + 2, &dmin, 2);
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
