#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A client that floods the daemon with 16 requests does not hold up another's tokens by more than the larger batch
costs."""

from moedtest import Daemon, finish, other_user, wait_until


def main():
    uid = other_user()
    with Daemon() as d:
        alone = finish(d.helper("load", "-n", 500, "-d", 1))
        flood = d.helper("load", "-r", 16, "-p", 300, "-n", 200, "-d", 4, user=uid)
        wait_until(lambda: d.stats()["streams"] >= 16, "the flood is there")
        a = d.stats()
        beside = finish(d.helper("load", "-n", 500, "-d", 2))
        b = d.stats()
        finish(flood)

        iteration = (b["busy_nsec"] - a["busy_nsec"]) / (b["iterations"] - a["iterations"]) / 1000
        per_iteration = beside["tokens"] / (b["iterations"] - a["iterations"])
        print("gap alone %d us, beside the flood %d us (p99 %d us); an iteration takes %.0f us; first token %d us" %
              (alone["gap_p50"], beside["gap_p50"], beside["gap_p99"], iteration, beside["first_p50"]))
        # One token in nearly each iteration: the flood does not take turns from it.
        assert per_iteration > 0.7, per_iteration
        assert beside["gap_p50"] < 2.5 * iteration, (beside["gap_p50"], iteration)


main()
