/* SPDX-License-Identifier: MIT */
#pragma once

/* When a stream that waits for its model will begin, as `moectl ps` tells it: played through (queue.h) with what passes
 * are forecast to cost and what is left of everybody's prompts and answers. How much of what they may generate a
 * tenant's requests do is learned. Not foreseen: who comes and goes meanwhile, allowances that run out, clients that
 * don't read. */

struct offer;
struct server;
struct stream;

/* Writes the position and the estimate of all streams that wait. Without memory for it, nothing is known. */
void estimate_waiting(const struct server *server);
/* Learns from an answer that is over. */
void estimate_learn(const struct stream *stream);
