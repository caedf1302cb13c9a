/* SPDX-License-Identifier: MIT */
#pragma once

/* A fuzzer: one function that takes any bytes and must come back, and seeds to start from. Linked with
 * libFuzzer
 * (-Dfuzz=true, clang) or with driver.c, which mutates the seeds by itself. */

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Seed `number`, the caller's to free(), or NULL past the last one. */
uint8_t *fuzz_seed(unsigned number, size_t *ret_size);
