/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdint.h>

struct offer;
struct server;
struct step_part;
struct stream;

/* What is to be computed next: gives pages to those that wait, lets the scheduler choose, and runs a short pass of each
 * model or a layer of a long one. 1: something was computed; 0: nothing could; negative errno. */
int server_iterate(struct server *server);
/* Hands out the results of a forward pass, or tells its streams that it failed. */
void iterate_finish(struct offer *offer, struct stream **streams, struct step_part *parts, uint32_t n, int error);
