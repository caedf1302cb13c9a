/* SPDX-License-Identifier: MIT */
#include "machine.h"
#include "tile.h"

const struct cpu_variant cpu_variant_avx512 = {
        .name = "avx512",
        .needs = CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI,
        ROWS_MEMBERS(avx512),
        .attention = attention_avx512,
        .dot_whole = dot_whole_avx2,
        .dot = {DOT_MEMBERS_AVX512},
};
