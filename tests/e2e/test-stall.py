#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A client that stops reading stalls its own stream and no other, and loses nothing when it reads again."""

import time

from moedtest import Daemon, finish, prompts, wait_until


def main():
    with Daemon() as d:
        whole = d.run([5, 6, 7], "--max-tokens", 400, "--ignore-eog")["tokens"]
        client = d.helper("stall", 400, stdin=-1)
        wait_until(lambda: d.stats()["stalls"] > 0, "its ring is full")
        stalled = d.stats()
        assert stalled["streams_running"] == 1

        # It costs nothing while it waits: no iteration, no wake-up of the daemon but for these questions.
        time.sleep(0.3)
        later = d.stats()
        assert later["iterations"] == stalled["iterations"]
        assert later["sleeps"] - stalled["sleeps"] < 20, (stalled["sleeps"], later["sleeps"])

        got = d.run(prompts()[0], "--max-tokens", 500, "--ignore-eog")
        assert len(got["tokens"]) == 500

        client.stdin.close()
        client.stdin = None
        out = finish(client)
        ids = [int(t) for t in out.strip().strip(",").split(",")]
        assert ids == whole, "tokens were lost, doubled or changed"
        wait_until(lambda: d.stats()["streams"] == 0, "the stream has ended")


main()
