#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What one user may hold is limited, the refusal is a sentence with the numbers, and it is free again afterwards."""

import os
import signal
import socket
import time

from moedtest import MOECTL, Daemon, finish, other_user, wait_until

CONFIG = """
[Limits]
ConnectionsMax=3
StreamsMax=2
QueueMax=4
RingEntriesMax=512
ArenaMax=4M
PromptBytesMax=1K
"""


def hold(d, n):
    """Connections that say nothing."""
    held = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(n)]
    for s in held:
        s.connect(d.socket)
    return held


def one_that_is_closed_makes_room_at_once(d):
    """Also when its end and the next connection come to the daemon together."""
    held = hold(d, 3)
    d.process.send_signal(signal.SIGSTOP)
    held.pop().close()
    client = d.spawn([MOECTL, "models", "--json"])
    time.sleep(0.2)
    d.process.send_signal(signal.SIGCONT)
    assert finish(client)["models"]
    for s in held:
        s.close()


def connections(d):
    held = hold(d, 3)
    p = d.moectl("stats", check=False)
    assert p.returncode != 0 and "may have 3 connections, has 3" in p.stderr, p
    for s in held:
        s.close()
    wait_until(lambda: d.moectl("stats", check=False).returncode == 0, "there is room again")


def requests(d):
    p = d.helper("load", "-r", 7, "-n", 900)
    out, err = p.communicate(timeout=20)
    assert p.returncode != 0 and "may have 6 running and waiting requests, has 6" in err, err
    # Six are allowed, of which two run at once.
    finish(d.helper("load", "-r", 6, "-n", 50))
    before = d.stats()
    client = d.helper("load", "-r", 6, "-n", 900)
    seen = [0]

    def watch():
        stats = d.stats()
        seen[0] = max(seen[0], stats["streams_running"])
        return stats["streams"] == 0 and stats["requests_done"] > before["requests_done"]

    wait_until(watch, "they are done")
    finish(client)
    assert 0 < seen[0] <= 2, seen


def prompts_are_limited(d):
    p = d.moectl("run", "--tokens", ",".join(["7"] * 257), check=False)
    assert p.returncode != 0 and "1028 bytes, at most 1024" in p.stderr, p.stderr
    d.run([7] * 250, "--max-tokens", 1)


def users_do_not_share_limits(d):
    uid = other_user()
    if uid is None:
        print("not tested, needs another user: limits are each user's own")
        return
    held = hold(d, 3)
    d.json("models", user=uid)
    p = d.moectl("stats", check=False)
    assert p.returncode != 0 and "user %d may have 3 connections" % os.geteuid() in p.stderr, p
    for s in held:
        s.close()


def main():
    with Daemon(config=CONFIG) as d:
        one_that_is_closed_makes_room_at_once(d)
        connections(d)
        requests(d)
        prompts_are_limited(d)
        users_do_not_share_limits(d)


main()
