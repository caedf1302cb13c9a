/* SPDX-License-Identifier: MIT */
#pragma once

struct server;

/* One iteration: gives pages to those that wait, lets the scheduler choose the rows, runs each model's forward pass over
 * its share of them and hands out the results. 1: something was computed; 0: nothing could; negative errno. */
int server_iterate(struct server *server);
