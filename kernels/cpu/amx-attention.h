/* SPDX-License-Identifier: MIT */
#pragma once

#include "variant.h"

void attention_amx(const struct attention_job *job);
