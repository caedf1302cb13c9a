/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdbool.h>

/* Whether $TERM is a terminal that is known here and can be drawn on. */
bool terminal_can_draw(void);
