/* SPDX-License-Identifier: MIT */
#pragma once

/* Brings the weights of a model into memory by a thread of low priority, while the first requests run already, and then
 * into huge pages where they were cached in small ones. */

#include "offer.h"

/* Negative errno: then they are read when they are needed. */
int warming_begin(struct offer *offer);
