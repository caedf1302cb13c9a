#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""P6: no system call per token while client and daemon are both busy, on either side. Counted by strace."""

import os
import shutil
import subprocess
import time

from moedtest import Daemon, finish, skip, wait_until


def trace(pid, path):
    p = subprocess.Popen(["strace", "-f", "-c", "-o", path, "-p", str(pid)], stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True)
    line = p.stdout.readline()
    if "attached" not in line:
        p.kill()
        p.wait()
        skip("strace cannot attach: " + line.strip())
    return p


def calls(process, path):
    """Ends the trace; how many calls there were of each kind."""
    process.send_signal(2)
    process.communicate(timeout=10)
    counts = {}
    with open(path) as f:
        for line in f:
            words = line.split()
            if len(words) >= 5 and words[0][0].isdigit() and words[-1] != "total":
                counts[words[-1]] = int(words[3])
    return counts


def main():
    if not shutil.which("strace"):
        skip("there is no strace")
    # One thread: with more, those that compute may sleep between two layers when the machine has other work.
    with Daemon("--threads", 1) as d:
        client = d.helper("load", "-r", 4, "-n", 900, "-d", 8, "-s")
        wait_until(lambda: d.stats()["streams_running"] == 4, "they run")
        pid = d.pid()
        path = os.path.join(d.folder.name, "trace")
        before = d.stats()
        daemon = trace(pid, path + "-daemon")
        other = trace(client.pid, path + "-client")
        time.sleep(2.5)
        daemon_calls, client_calls = calls(daemon, path + "-daemon"), calls(other, path + "-client")
        after = d.stats()
        finish(client)
        tokens = after["tokens_generated"] - before["tokens_generated"]
        print("%d tokens; calls of the daemon: %s; of the client: %s" % (tokens, daemon_calls, client_calls))
        assert tokens > 1000, tokens
        # The few that there are come with time, not with tokens: a new request's prompt, a look whether the other lives.
        assert sum(daemon_calls.values()) < 10 + tokens / 200, daemon_calls
        assert sum(client_calls.values()) < 10 + tokens / 100, client_calls


main()
