/* SPDX-License-Identifier: MIT */
/* AVX-512 with the matrix unit. */

#include "amx.h"
#include "machine.h"
#include "tile.h"

const struct cpu_variant cpu_variant_amx = {
        .name = "amx",
        .needs = CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI | CPU_AMX,
        ROWS_MEMBERS(avx512),
        .attention = attention_avx512,
        .dot_whole = dot_whole_avx2,
        .dot = {DOT_MEMBERS_AVX512},
};
