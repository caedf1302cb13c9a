#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prompts that go through long passes, interrupted at every layer: the same tokens as ever, nobody waits for them, and what
happens to their streams meanwhile (cancel, a client that dies, pages that run out, a reload, the end) is safe."""

import os
import signal
import time

from moedtest import Daemon, MODEL, finish, greedy, other_user, prompts, slowed, wait_until

# Five rows and more of a prompt are long, whatever they cost.
LONG = "[Daemon]\nPromptRowsMax=4\nRowsMax=8\nLongRowsMax=%d\n"


def answers(d):
    return [d.run(p, "--max-tokens", 24, "--ignore-eog")["tokens"] for p in prompts()]


def tokens_are_the_same(d):
    assert answers(d) == greedy()
    s = d.stats()
    assert s["rows_max"] > 8, s["rows_max"]  # there were long passes


def many_at_once_get_the_same(d, uid):
    clients = [d.start_run(p, "--max-tokens", 24, "--ignore-eog", user=user)
               for p in prompts() for user in (None, uid) for _ in range(3)]
    got = [finish(c)["tokens"] for c in clients]
    assert got == [g for g in greedy() for _ in range(6)], got


def cancelled_ones_end_and_leave_nothing(d):
    """The clients go in the middle of it, or ask to end it."""
    free = d.stats()["kv_pages_free"]
    for how in (signal.SIGKILL, signal.SIGINT):
        before = d.stats()
        clients = [d.start_run(prompts()[3] * 3, "--max-tokens", 4) for _ in range(12)]
        wait_until(lambda: d.stats()["iterations"] > before["iterations"] or
                   d.stats()["requests"] >= before["requests"] + 12, "they run")
        for c in clients:
            c.send_signal(how)
        for c in clients:
            c.communicate(timeout=30)
        wait_until(lambda: d.stats()["streams"] == 0, "they are gone")
        wait_until(lambda: d.stats()["peers"] == 1, "their connections are freed")
        assert d.stats()["kv_pages_free"] == free
    assert answers(d) == greedy()


def the_dead_are_freed_while_others_go_on(d):
    """With long passes under way all the time."""
    flood = d.helper("load", "-r", 16, "-p", 500, "-n", 2, "-d", 120)
    wait_until(lambda: d.stats()["streams"] >= 16, "the flood is there")
    for _ in range(3):
        with slowed(d.process):
            client = d.start_run(prompts()[3] * 3, "--max-tokens", 400, "--ignore-eog")
            wait_until(lambda: d.stats()["peers"] >= 3, "it is there")
            client.kill()
            client.communicate()
        wait_until(lambda: d.stats()["peers"] == 2, "it is freed")
    assert flood.poll() is None
    flood.kill()
    flood.communicate()
    wait_until(lambda: d.stats()["peers"] == 1, "the flood is gone")


def a_reload_and_another_model_meanwhile(d):
    asked = d.stats()["requests"]
    clients = [d.start_run(p, "--max-tokens", 24, "--ignore-eog") for p in prompts() * 3]
    wait_until(lambda: d.stats()["requests"] == asked + len(clients), "all have asked")
    d.moectl("budget", "set", "default", "Weight=200")
    d.moectl("reload")
    d.moectl("load", "tiny=" + MODEL)
    d.moectl("budget", "reset", "default")
    assert [finish(c)["tokens"] for c in clients] == greedy() * 3
    wait_until(lambda: len(d.json("models")["models"]) == 1, "the replaced one is gone")


def pages_that_run_out():
    """Streams in long passes keep their pages; the others give way, and come to the same end."""
    args = ("--max-tokens", 200, "--ignore-eog")
    with Daemon(config=LONG % 64) as d:
        whole = [d.run(p, *args)["tokens"] for p in prompts()]
    with Daemon(config=LONG % 64 + "KvMemory=1M\nContextMax=600\n") as d:
        clients = [d.start_run(p, *args) for p in prompts() * 6]
        assert [finish(c)["tokens"] for c in clients] == whole * 6
        s = d.stats()
        assert s["streams"] == 0 and s["evictions"] > 0 and s["rows_max"] > 8, s


def the_end_in_the_middle(how):
    d = Daemon(config=LONG % 64).start()
    with slowed(d.process):
        clients = [d.start_run(prompts()[3] * 3, "--max-tokens", 4000, "--ignore-eog") for _ in range(8)]
        wait_until(lambda: d.stats()["streams_running"] >= 8, "they run")
        for _ in range(how):
            d.process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
    d.process.wait(60)
    for c in clients:
        c.communicate(timeout=30)
    assert d.process.returncode == 0, d.log()
    d.folder.cleanup()


def main():
    uid = other_user()
    for rows in (16, 64, 2048):
        with Daemon(config=LONG % rows) as d:
            tokens_are_the_same(d)
    with Daemon(config=LONG % 64) as d:
        many_at_once_get_the_same(d, uid)
        cancelled_ones_end_and_leave_nothing(d)
        the_dead_are_freed_while_others_go_on(d)
        a_reload_and_another_model_meanwhile(d)
    pages_that_run_out()
    the_end_in_the_middle(2)


main()
