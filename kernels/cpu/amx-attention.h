/* SPDX-License-Identifier: MIT */
#pragma once

#include "variant.h"

void attention_amx(const struct attention_job *job);
void sparse_attention_amx(const struct sparse_job *job);
bool can_index_amx(const struct op_index *op);
void index_amx(const struct index_job *job);
