/* SPDX-License-Identifier: MIT */
#pragma once

/* Finds out what forward passes cost on this machine, by passes over nothing while nobody asks for anything. They are
 * given up as soon as somebody does, between two layers, and count in no one's figures. */

struct server;

/* Runs the next of them. 1: there may be more to do; 0: nothing now; negative errno. */
int measure_run(struct server *server);
