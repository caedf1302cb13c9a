/* SPDX-License-Identifier: MIT */
#pragma once

/* What a calibration found, for people and for programs. */

#include <stdio.h>

#include "calibrate.h"

void calibrate_print(const struct calibration *c, const struct calibrate_report *report, const char *file, bool json,
                     FILE *out);
